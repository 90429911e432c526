from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import ConfigError, TableError, UnknownName
from fluxgrid.sources import SOURCES, Screen
from fluxgrid.sources.tower_table import TowerTable


def rows(site="US-Aaa", days=11, **columns):
    data = {
        "site": site,
        "date": pd.date_range("2001-02-25", periods=days),
        "lat": np.float32(42.5378),
        "lon": -72.1715,
        "igbp": "DBF",
        "koppen": "Dfb",
        "whc": 120.0,
        "gpp": np.linspace(-1, 9, days),
        "reco": 2.0,
        "nee": 1.0,
        "tsoil_1": 3.0,
    }
    return pd.DataFrame({**data, **columns})


def write(folder, *tables):
    path = folder / "towers.parquet"
    pd.concat(tables, ignore_index=True).to_parquet(path)
    return path


def test_reads_series_and_facts_by_our_names(tmp_path):
    sites = TowerTable().read_sites(
        write(tmp_path, rows(), rows("US-Bbb", lat=10.0, koppen=None, igbp=None, whc=np.nan))
    )
    site = sites["US-Aaa"]
    assert sites.step == "daily"
    assert sites.source == "towers.parquet"
    assert (site.latitude, site.longitude) == (42.5378, -72.1715)
    assert (site.class_name("igbp"), site.class_name("koppen"), site.class_name("climate_group")) == (
        "DBF",
        "Dfb",
        "continental",
    )
    assert site.statics["water_holding_capacity"] == 120
    assert list(site.series) == ["nee", "gpp", "reco"]
    assert site.series["gpp"].min() == -1
    assert sites["US-Bbb"].class_name("climate_group") is None
    assert np.isnan(sites["US-Bbb"].statics["water_holding_capacity"])


def test_monthly_step_is_found_and_climate_words_are_ours(tmp_path):
    table = rows(days=3, climate_group="Arctic").drop(columns="koppen")
    path = write(tmp_path, table.assign(date=pd.date_range("2001-01-01", periods=3, freq="MS")))
    sites = TowerTable().read_sites(path)
    assert sites.step == "monthly"
    assert sites["US-Aaa"].class_name("climate_group") == "polar"


def test_csv_is_read_as_well(tmp_path):
    path = tmp_path / "towers.csv"
    rows().to_csv(path, index=False)
    assert len(TowerTable().read_sites(path)["US-Aaa"].series) == 11


def test_screen_drops_fluxes_of_low_quality_and_keeps_forcings(tmp_path):
    quality = [0.2] * 4 + [np.nan] * 2 + [0.9] * 5
    path = write(tmp_path, rows(nee_qc=quality, temperature_2m=4.0))
    sites = TowerTable(screen=Screen(minimum_qc=0.5)).read_sites(path)
    assert sites["US-Aaa"].series.notna().sum().to_dict() == {
        "temperature_2m": 11, "nee": 7, "gpp": 7, "reco": 7, "nee_qc": 9,
    }  # fmt: skip
    assert "fluxes of 4 steps set missing: nee_qc below 0.5" in sites.notes
    strict = TowerTable(screen=Screen(0.5, keep_without_qc=False)).read_sites(path)
    assert strict["US-Aaa"].series["gpp"].notna().sum() == 5
    with pytest.raises(ConfigError, match="minimum_qc is a share"):
        Screen(50)


def test_constructed_reco_is_told_and_can_be_dropped(tmp_path):
    path = write(tmp_path, rows(), rows("US-xBR", flux_source="NEON_NCAR"))
    kept, dropped = (TowerTable(drop_constructed_reco=drop).read_sites(path) for drop in (False, True))
    assert kept["US-xBR"].series["reco"].notna().all()
    assert dropped["US-xBR"].series["reco"].isna().all()
    assert dropped["US-Aaa"].series["reco"].notna().all()
    for sites, outcome in ((kept, "no test of the balance"), (dropped, "set missing")):
        assert any("reco of 1 sites is GPP + NEE by construction" in note and outcome in note for note in sites.notes)


def test_problems_of_the_file(tmp_path):
    with pytest.raises(TableError, match="There is no tower table"):
        TowerTable().read_sites(tmp_path / "none.parquet")
    with pytest.raises(TableError, match="is a folder"):
        TowerTable().read_sites(tmp_path)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(TableError, match="Cannot read the tower table"):
        TowerTable().read_sites(broken)
    with pytest.raises(TableError, match=r"no column latitude \(or lat\)\n.*no column longitude"):
        TowerTable().read_sites(write(tmp_path, rows().drop(columns=["lat", "lon"])))
    with pytest.raises(TableError, match="US-Aaa, columns lat and lon: 11 different coordinates"):
        TowerTable().read_sites(write(tmp_path, rows(lat=np.arange(11.0))))


def test_sources_are_found_by_name():
    assert SOURCES["tower_table"] is TowerTable
    assert set(SOURCES) >= {"fluxnet", "tower_table"}
    for name in SOURCES:
        assert SOURCES[name].citation
        assert SOURCES[name].licence
    with pytest.raises(UnknownName, match="Did you mean 'fluxnet'"):
        SOURCES["fluxnett"]


@pytest.mark.data
def test_real_daily_towers(data_dir):
    sites = TowerTable().read_sites(data_dir / "towers_daily.parquet")
    table = pd.read_parquet(data_dir / "towers_daily.parquet", columns=["gpp", "nee"])
    assert len(sites) == 156
    assert any("9 sites dropped" in note for note in sites.notes)
    assert any("reco of 21 sites" in note for note in sites.notes)
    # a tenth of what the monthly table says of CA-Oas and CA-Obs
    assert any("vpd: 1304 values set missing at 3 sites (CA-Oas, CA-Obs, US-SdH)" in note for note in sites.notes)
    for flux in ("gpp", "nee"):
        assert sum(site.series[flux].notna().sum() for site in sites) == table[flux].notna().sum()
    assert sum((site.series["gpp"] < 0).sum() for site in sites) == (table["gpp"] < 0).sum() > 20000
    site = sites["US-Ha1"]
    assert len(site.series) == 7671  # 2000 to 2020, of which 5480 days are in the table
    assert (site.class_name("igbp"), site.class_name("climate_group")) == ("DBF", "continental")
    assert site.statics["elevation"] == 340


@pytest.mark.data
def test_real_monthly_towers(data_dir):
    sites = TowerTable().read_sites(data_dir / "towers_monthly.parquet")
    assert (len(sites), sites.step) == (193, "monthly")
    assert all(site.class_name("climate_group") and site.class_name("igbp") for site in sites)
    assert any("co2: 24 values far outside" in note and "SJ-Blv" in note for note in sites.notes)
