"""CarbonBench's files, read by a plain loop beside the reader; and every way a folder can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import TableError
from fluxgrid.sources import SOURCES, Screen
from fluxgrid.sources.carbonbench import MINIMAL, CarbonBench, era5_names
from fluxgrid.testing import carbonbench_files
from fluxgrid.variables import VARIABLES
from fluxgrid.variables_towers import ERA5_ROWS, MOD09GA_ROWS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return carbonbench_files(tmp_path_factory.mktemp("carbonbench"))


@pytest.fixture
def mine(tmp_path):
    return carbonbench_files(tmp_path, days=60)


def by_hand(folder, site):
    """Return what one site should hold, day by day."""
    targets = pd.read_parquet(folder / "target_fluxes_v2.parquet")
    weather, bands = (pd.read_parquet(folder / f"{name}.parquet") for name in ("ERA5", "MOD09GA"))
    own = targets[targets["site"] == site].set_index("TIMESTAMP")
    first, last = pd.to_datetime(own.index.astype(str)[[0, -1]])
    rows = {}
    for day in pd.date_range(first - pd.Timedelta(days=29), last):
        row = dict.fromkeys(["gpp", "reco", "nee", "nee_qc"], np.nan)
        if int(f"{day:%Y%m%d}") in own.index:
            found = own.loc[int(f"{day:%Y%m%d}")]
            values = [found[f"{name}_NT_VUT_USTAR50"] for name in ("GPP", "RECO")]
            values += [found["NEE_VUT_USTAR50"], found["NEE_VUT_USTAR50_QC"]]
            row = {name: np.nan if v == -9999 else v for name, v in zip(row, values, strict=True)}
        for table, names in ((weather, MINIMAL), (bands, [r.published for r in MOD09GA_ROWS])):
            same = table[(table["site"].str.endswith(site)) & (table["date"] == f"{day:%Y-%m-%d}")]
            ours = {r.published: r.name for r in (*ERA5_ROWS, *MOD09GA_ROWS)}
            row |= {ours[name]: same[name].iloc[0] if len(same) else np.nan for name in names}
        rows[day] = row
    return pd.DataFrame.from_dict(rows, orient="index")


@pytest.mark.parametrize("site", ["T-000", "T-002"])
def test_the_reader_gives_what_a_plain_loop_gives(folder, site):
    found = CarbonBench().read_sites(folder)[site].series
    expected = by_hand(folder, site)
    assert list(found.index) == list(expected.index)
    assert set(found) == set(expected)
    np.testing.assert_allclose(found[expected.columns], expected, rtol=1e-6)
    assert found["gpp"].min() < 0
    # a day without a target keeps its covariates, and a day MODIS did not see is missing there alone
    gone = found["gpp"].isna()
    assert gone.sum() > 29
    assert found.loc[gone, "era5_temperature_2m"].notna().all()
    assert found["mod09ga_b01"].isna().any()


def test_facts_of_the_sites(folder):
    sites = CarbonBench().read_sites(folder)
    assert (sites.ids, sites.step, sites.source) == (("T-000", "T-001", "T-002"), "daily", folder.name)
    site = sites["T-002"]
    assert [site.class_name(name) for name in ("igbp", "koppen", "climate_group")] == ["GRA", "Cfa", "temperate"]
    assert (site.latitude, site.longitude) == (14.0, -96.0)


def test_sets_of_features(folder):
    for features, count in {"minimal": 6, "standard": 36, "full": 150}.items():
        names = era5_names(folder, features)
        assert len(set(names)) == len(names) == count
        series = CarbonBench(features=features).read_sites(folder)["T-000"].series
        assert [n for n in series if n.startswith("era5_")] == [
            name for name in VARIABLES if name.removeprefix("era5_") in names and name.startswith("era5_")
        ]
        assert sum(n.startswith("mod09ga_") for n in series) == 12


def test_variables_have_the_published_units():
    assert len(ERA5_ROWS) == 150
    assert len(MOD09GA_ROWS) == 12
    units = {name: VARIABLES[name].units for name in VARIABLES if VARIABLES[name].role == "tower"}
    assert len(units) == 162
    assert units["era5_temperature_2m"] == units["era5_lake_ice_temperature_max"] == "K"
    assert units["era5_total_precipitation_sum"] == units["era5_runoff_min"] == "m"
    assert units["era5_surface_net_solar_radiation_sum"] == "J m-2"
    assert {name for name in MINIMAL} <= {row.published for row in ERA5_ROWS}
    assert not any(VARIABLES[name].in_cubes for name in units)


def test_options(folder):
    sites = CarbonBench(before=3, screen=Screen(minimum_qc=1.0)).read_sites(folder)
    series = sites["T-001"].series
    assert series.index[0] == pd.Timestamp("2001-02-26")
    assert (series.loc[series["gpp"].notna(), "nee_qc"] == 1).all()
    assert "nee_qc below 1" in sites.notes[0]
    assert SOURCES["carbonbench"] is CarbonBench


@pytest.mark.parametrize("kind", ["text", "date", "int"])
def test_dates_in_every_form_they_are_published_in(mine, kind):
    path = mine / "target_fluxes_v2.parquet"
    table = pd.read_parquet(path)
    days = pd.to_datetime(table["TIMESTAMP"].astype(str))
    form = {"text": table["TIMESTAMP"].astype(str), "date": days.dt.date, "int": table["TIMESTAMP"]}[kind]
    table.assign(TIMESTAMP=form).to_parquet(path)
    weather = pd.read_parquet(mine / "ERA5.parquet")
    if kind == "date":
        weather.assign(date=pd.to_datetime(weather["date"]).dt.date).to_parquet(mine / "ERA5.parquet")
    series = CarbonBench().read_sites(mine)["T-000"].series
    assert series["gpp"].first_valid_index() == pd.Timestamp("2001-03-01")
    assert series["era5_temperature_2m"].notna().all()


def test_targets_before_modis_do_not_count_and_a_day_counts_once(mine):
    path = mine / "target_fluxes_v2.parquet"
    table = pd.read_parquet(path)
    again = table.assign(GPP_NT_VUT_USTAR50=50.0, site="AMF_" + table["site"])
    early = table.head(1).assign(TIMESTAMP=20000223)
    pd.concat([early, table, again], ignore_index=True).to_parquet(path)
    series = CarbonBench().read_sites(mine)["T-000"].series
    assert series["gpp"].max() < 50
    assert series.index[0] == pd.Timestamp("2001-01-31")


def test_unknown_classes_are_unknown(mine):
    (mine / "koppen_sites.json").write_text(json.dumps({"T-000": "D", "FLX_T-001": "C"}))
    (mine / "koppen_sites_short.json").write_text(json.dumps({"T-000": "Dfa", "T-001": None}))
    sites = CarbonBench().read_sites(mine)
    assert [site.class_name("climate_group") for site in sites] == ["continental", "temperate", None]
    assert [site.class_name("koppen") for site in sites] == ["Dfa", None, None]


def test_every_missing_file_and_column_is_told_at_once(mine):
    for name, columns in {"ERA5": ["total_evaporation_sum", "temperature_2m"], "MOD09GA": ["clouds"]}.items():
        pd.read_parquet(mine / f"{name}.parquet").drop(columns=columns).to_parquet(mine / f"{name}.parquet")
    with pytest.raises(TableError) as caught:
        CarbonBench().read_sites(mine)
    text = str(caught.value)
    assert all(f"ERA5.parquet: no column {name}" in text for name in ("total_evaporation_sum", "temperature_2m"))
    assert "MOD09GA.parquet: no column clouds" in text
    (mine / "MOD09GA.parquet").write_bytes(b"no parquet")
    with pytest.raises(TableError, match=r"MOD09GA\.parquet: cannot be read"):
        CarbonBench().read_sites(mine)
    for name in ("koppen_sites.json", "ERA5.parquet"):
        (mine / name).unlink()
    with pytest.raises(TableError, match="does not hold the files of CarbonBench") as caught:
        CarbonBench().read_sites(mine)
    assert all(f"no file {name}" in str(caught.value) for name in ("koppen_sites.json", "ERA5.parquet"))


def test_empty_tables_and_broken_json(mine):
    table = pd.read_parquet(mine / "MOD09GA.parquet")
    table.head(0).to_parquet(mine / "MOD09GA.parquet")
    with pytest.raises(TableError, match=r"MOD09GA\.parquet: no rows"):
        CarbonBench().read_sites(mine)
    table.to_parquet(mine / "MOD09GA.parquet")
    (mine / "koppen_sites.json").write_text("{")
    with pytest.raises(TableError, match=r"Cannot read .*koppen_sites\.json"):
        CarbonBench().read_sites(mine)
    (mine / "koppen_sites.json").write_text("[1]")
    with pytest.raises(TableError, match="must hold names and values, not list"):
        CarbonBench().read_sites(mine)


def test_the_standard_set_needs_its_list(mine):
    (mine / "feature_sets.json").write_text(json.dumps({"standard": ["temperature_2m", "temprature"]}))
    with pytest.raises(TableError, match=r"does not say which variables .* standard set \(temprature\)"):
        CarbonBench(features="standard").read_sites(mine)
    (mine / "feature_sets.json").unlink()
    with pytest.raises(TableError, match=r"Cannot read .*feature_sets\.json"):
        CarbonBench(features="standard").read_sites(mine)
    assert len(CarbonBench(features="full").read_sites(mine)) == 3


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("lat", np.nan, "T-000: latitude is missing"),
        ("NEE_VUT_USTAR50", "sign", "T-000, column nee: it runs against reco - gpp"),
        ("GPP_NT_VUT_USTAR50", "scale", "T-000, column gpp: .* far outside"),
        ("TIMESTAMP", 20019999, "T-000, column date: missing in"),
        ("lat", "moved", "T-000: 2 different coordinates"),
    ],
)
def test_the_checks_of_all_towers_apply(mine, column, value, message):
    path = mine / "target_fluxes_v2.parquet"
    table = pd.read_parquet(path)
    own = table["site"] == "T-000"
    changed = {"sign": -table[column], "scale": table[column] * 1000 + 5000, "moved": table[column] + (table.index < 9)}
    new = changed.get(value, value)
    if column == "TIMESTAMP":
        own &= table.index < 3
    table[column] = table[column].mask(own, new)
    table.to_parquet(path)
    with pytest.raises(TableError, match=message):
        CarbonBench().read_sites(mine)
