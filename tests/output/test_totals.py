"""Totals: exact where the answer is known, parts sum to the whole, gaps are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.errors import OutputError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output import stream, totals
from fluxgrid.output.netcdf import export_netcdf
from fluxgrid.output.totals import COLUMNS, land_units, region_totals, write_totals


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"fips": str, "period": str}).fillna({"fips": ""})


PART_OF_2019 = "2019-06-25/2019-07-05"


@pytest.fixture
def table(example, tmp_path) -> pd.DataFrame:
    step = example.info.step
    return read(write_totals([example.store], example.region, example.grid, example.land, tmp_path / "t.csv", step))


def constant_map(grid: Grid, times: pd.DatetimeIndex, value: float) -> xr.Dataset:
    data = np.full((len(times), *grid.shape), value, "float32")
    fluxes = {name: (("time", "y", "x"), data) for name in ("nee", "gpp", "reco")}
    return xr.Dataset(fluxes, coords={"time": times})


def test_columns_levels_and_periods(example, table):
    assert tuple(table.columns) == COLUMNS
    assert table.groupby("level")["name"].nunique().to_dict() == {"region": 1, "state": 1, "county": 99}
    whole = set(example.times.strftime("%Y-%m"))
    # what the map holds in part is named by its days: the daily example has six days of June and five of July
    daily = {"2019-06-25/2019-06-30", "2019-07-01/2019-07-05", PART_OF_2019}
    expected = daily if example.info.step == "daily" else whole | {"2020"}
    assert set(table["period"]) == expected
    assert len(table) == (1 + 1 + 99) * len(expected) * 3
    assert set(table.loc[table["level"] == "county", "fips"].str[:2]) == {"19"}


def test_half_widths_are_no_totals(unsure, daily, tmp_path):
    one, other = (
        read(write_totals([each.store], each.region, each.grid, each.land, tmp_path / name, "daily"))
        for name, each in (("one.csv", unsure), ("other.csv", daily))
    )
    pd.testing.assert_frame_equal(one, other)


def test_whole_years_and_months_are_named_as_such(tmp_path):
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 1.0)
    land = np.ones(grid.shape)
    dataset = constant_map(grid, pd.date_range("2018-01-01", "2019-02-10"), 1.0)
    table = read(write_totals([dataset], region, grid, land, tmp_path / "t.csv", "daily"))
    part = {"2019-01", "2019-02-01/2019-02-10", "2019-01-01/2019-02-10"}
    assert set(table["period"]) == {"2018", *(f"2018-{month:02d}" for month in range(1, 13)), *part}
    short = constant_map(grid, pd.date_range("2019-02-01", "2019-02-10"), 1.0)
    table = read(write_totals([short], region, grid, land, tmp_path / "s.csv", "daily"))
    assert set(table["period"]) == {"2019-02-01/2019-02-10"}
    assert not table.duplicated(["level", "fips", "name", "period", "flux"]).any()


def test_the_years_of_the_region_are_told_from_its_months(tmp_path):
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 1.0)
    for first, last, periods in (
        ("2018-01-01", "2019-02-10", ["2018", "2019-01-01/2019-02-10"]),
        ("2019-02-01", "2019-02-28", ["2019-02-01/2019-02-28"]),
        ("2019-02-03", "2019-02-10", ["2019-02-03/2019-02-10"]),
    ):
        dataset = constant_map(grid, pd.date_range(first, last), 2.0)
        path = write_totals([dataset], region, grid, np.ones(grid.shape), tmp_path / "t.csv", "daily")
        found, rows = region_totals(path), read(path)
        assert list(found) == periods
        for period, fluxes in found.items():
            own = rows[(rows["level"] == "region") & (rows["period"] == period)].set_index("flux")["total_TgC"]
            assert fluxes == own.to_dict()
    nothing = constant_map(grid, pd.date_range("2019-01-01", "2019-01-03"), np.nan)
    path = write_totals([nothing], region, grid, np.ones(grid.shape), tmp_path / "n.csv", "daily")
    assert region_totals(path) == {}


def test_parts_sum_to_the_whole_with_cells_missing(table):
    assert (table["share_covered"] < 1).any()
    for column in ("total_TgC", "land_area_km2"):
        sums = table.pivot_table(index=["period", "flux"], columns="level", values=column, aggfunc="sum")
        np.testing.assert_allclose(sums["state"], sums["region"], rtol=1e-6)
        np.testing.assert_allclose(sums["county"], sums["region"], rtol=1e-6)


def test_months_sum_to_the_year_and_nee_closes(table):
    whole = table["period"].isin({"2020", PART_OF_2019})
    monthly = table[~whole].groupby(["level", "fips", "flux"])["total_TgC"].sum()
    yearly = table[whole].set_index(["level", "fips", "flux"])["total_TgC"]
    np.testing.assert_allclose(monthly.sort_index(), yearly.sort_index(), rtol=1e-6)
    wide = table.pivot_table(index=["level", "fips", "period"], columns="flux", values="total_TgC")
    np.testing.assert_allclose(wide["nee"], wide["reco"] - wide["gpp"], atol=1e-6 * wide["gpp"].max())


@pytest.mark.parametrize(("step", "days"), [("daily", 31), ("monthly", 31)])
def test_constant_flux_times_published_area(tmp_path, step, days):
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 0.25)
    frequency = "D" if step == "daily" else "MS"
    times = pd.date_range("2019-07-01", "2019-07-31", freq=frequency)
    land = np.ones(grid.shape)
    path = write_totals([constant_map(grid, times, 2.0)], region, grid, land, tmp_path / "t.csv", step)
    row = read(path).query("level == 'region' and period == '2019-07' and flux == 'gpp'").iloc[0]
    iowa_km2 = 145_746  # US Census Bureau, state area measurements: land 144,669 + water 1,077
    assert row["land_area_km2"] == pytest.approx(iowa_km2, rel=0.005)
    assert row["sum_g_m2"] == pytest.approx(2.0 * days, rel=1e-6)
    assert row["total_TgC"] == pytest.approx(2.0 * days * row["land_area_km2"] * 1e6 / 1e12, rel=1e-6)
    assert row["share_covered"] == pytest.approx(1)


def test_a_simple_slow_sum_agrees(daily, tmp_path):
    table = read(write_totals([daily.store], daily.region, daily.grid, daily.land, tmp_path / "t.csv", "daily"))
    units = land_units(daily.region, daily.grid, daily.land)
    polk = units.table.index[units.table["name"] == "Polk"][0]
    land = units.land[polk].toarray().reshape(daily.grid.shape)
    total = covered = 0.0
    for step in range(6):  # June
        for row, col in np.argwhere(land > 0):
            value = daily.arrays["nee"][step, row, col]
            if np.isfinite(value):
                total += float(value) * land[row, col]
                covered += land[row, col]
    line = table.query("name == 'Polk' and period == '2019-06-25/2019-06-30' and flux == 'nee'").iloc[0]
    assert line["total_TgC"] == pytest.approx(total / 1e12, rel=1e-6)
    assert line["sum_g_m2"] == pytest.approx(total / covered * 6, rel=1e-6)
    assert line["share_covered"] == pytest.approx(covered / (6 * land.sum()), rel=1e-6)


def test_blocks_of_cells_change_nothing(daily, tmp_path, monkeypatch):
    arguments = daily.region, daily.grid, daily.land
    whole = read(write_totals([daily.store], *arguments, tmp_path / "a.csv", "daily"))
    small = lambda shape: stream.blocks(shape, align=2, budget=0)  # noqa: E731
    monkeypatch.setattr(totals, "blocks", small)
    parts = read(write_totals([daily.store], *arguments, tmp_path / "b.csv", "daily"))
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-8)  # another order of sums may turn the last digit


def test_netcdf_files_in_parts_give_the_same_totals(daily, tmp_path):
    arguments = daily.region, daily.grid, daily.land
    whole = read(write_totals([daily.store], *arguments, tmp_path / "a.csv", "daily"))
    with open_netcdf(daily.netcdf) as dataset:
        parts = [dataset.isel(time=slice(0, 3)), dataset.isel(time=slice(3, None))]
        pieces = read(write_totals(parts, *arguments, tmp_path / "b.csv", "daily"))
    pd.testing.assert_frame_equal(pieces, whole, rtol=1e-6)


def test_a_place_without_values_has_no_total_rather_than_zero(tmp_path):
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 0.5)
    dataset = constant_map(grid, pd.date_range("2019-07-01", periods=3), np.nan)
    table = read(write_totals([dataset], region, grid, np.ones(grid.shape), tmp_path / "t.csv", "daily"))
    assert table["total_TgC"].isna().all()
    assert table["sum_g_m2"].isna().all()
    assert (table["share_covered"] == 0).all()


def test_a_year_in_course_is_summed_to_date_and_its_gaps_are_filled(tmp_path):
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 1.0)
    times = pd.date_range("2018-01-01", "2019-12-31")
    dataset = constant_map(grid, times, 2.0)
    end = int((times < "2019-07-15").sum())
    gpp, nee = (np.array(dataset[name].values) for name in ("gpp", "nee"))
    for values in (gpp, nee):
        values[end:] = np.nan
        values[400:410] = np.nan  # a gap of the whole region, in February 2019
        values[end - 3 : end, :2] = np.nan  # cells that end before the others
    dataset = dataset.assign(gpp=(("time", "y", "x"), gpp), nee=(("time", "y", "x"), nee))
    halves = [dataset.isel(time=slice(0, 600)), dataset.isel(time=slice(600, None))]  # the second has no value
    for sources in ([dataset], halves):
        table = read(write_totals(sources, region, grid, np.ones(grid.shape), tmp_path / "t.csv", "daily"))
        rows = table.query("level == 'region' and flux == 'gpp'").set_index("period")
        days = {"2018": 365, "2019": 195, "2019-02": 28, "2019-06": 30, "2019-07": 14}
        for period, count in days.items():
            assert rows.loc[period, "sum_g_m2"] == pytest.approx(2.0 * count, rel=1e-6)
        assert rows.loc[["2019-08", "2019-12"], ["sum_g_m2", "total_TgC"]].isna().all(axis=None)
        assert (rows.loc[["2019-08", "2019-12"], "share_covered"] == 0).all()
        assert rows.loc["2018", "share_covered"] == 1
        assert 182 / 365 < rows.loc["2019", "share_covered"] < 185 / 365


def test_lake_is_no_land_and_land_outside_states_has_its_own_row():
    box = find_region("-94,48.5,-92,49.5")  # W,S,E,N: Minnesota's north and a piece of Ontario
    grid = Grid.from_bounds((-94, -92, 48.5, 49.5), 0.25)
    everywhere = land_units(box, grid, np.ones(grid.shape), ("state",))
    assert everywhere.table["name"].tolist() == [box.title, "Minnesota", "outside every state"]
    np.testing.assert_allclose(everywhere.area[0], grid.cell_area().sum(), rtol=1e-6)
    np.testing.assert_allclose(everywhere.area[0], everywhere.area[1:].sum())
    half = land_units(box, grid, np.full(grid.shape, 0.5), ("state",))
    np.testing.assert_allclose(half.area[0], 0.5 * grid.cell_area().sum(), rtol=1e-6)


def test_annual_variables_and_parts_of_respiration_have_their_rows(rich, tmp_path):
    table = read(write_totals([rich.store], rich.region, rich.grid, rich.land, tmp_path / "t.csv", "monthly"))
    harvest = table[table["flux"] == "harvest_removal"]
    assert set(harvest["period"]) == {"2020"}
    assert harvest.groupby("level").size().to_dict() == {"region": 1, "state": 1, "county": 99}
    assert not table["flux"].str.endswith("_yield").any()  # of the crop's area, which the table does not know
    units = land_units(rich.region, rich.grid, rich.land, ("state",))
    land, removal = units.land[0].toarray().reshape(rich.grid.shape), rich.arrays["harvest_removal"]
    grams, area = np.nansum(removal * land), land[np.isfinite(removal)].sum()
    row = harvest[harvest["level"] == "region"].iloc[0]
    assert row["total_TgC"] == pytest.approx(grams / 1e12, rel=1e-6)
    assert row["sum_g_m2"] == pytest.approx(grams / area, rel=1e-6)
    assert row["share_covered"] == pytest.approx(area / land.sum(), rel=1e-6)
    year = table.query("level == 'region' and period == '2020'").set_index("flux")["total_TgC"]
    assert list(year.index) == ["nee", "gpp", "reco", "ra", "rh", "harvest_removal", "balance_after_harvest"]
    assert year["ra"] + year["rh"] == pytest.approx(year["reco"], rel=1e-6)
    assert year["balance_after_harvest"] == pytest.approx(year["nee"] + year["harvest_removal"], rel=1e-5)


def test_counties_have_months_of_the_main_fluxes_alone(rich, tmp_path):
    table = read(write_totals([rich.store], rich.region, rich.grid, rich.land, tmp_path / "t.csv", "monthly"))
    months = table[table["period"].str.len() == 7].groupby("level")["flux"].unique()
    assert set(months["county"]) == {"nee", "gpp", "reco"}
    assert set(months["state"]) == set(months["region"]) == {"nee", "gpp", "reco", "ra", "rh"}
    years = table[table["period"].str.len() == 4].groupby("level")["flux"].nunique()
    assert years.to_dict() == {"region": 7, "state": 7, "county": 7}


def test_annual_variables_are_read_from_the_file_that_holds_them(rich, tmp_path):
    arguments = rich.region, rich.grid, rich.land
    whole = read(write_totals([rich.store], *arguments, tmp_path / "a.csv", "monthly"))
    halves = [
        export_netcdf(rich.store, rich.grid, rich.info, tmp_path / f"{k}.nc", rich.land, slice(6 * k, 6 * k + 6))
        for k in (0, 1)
    ]
    pd.testing.assert_frame_equal(read(write_totals(halves, *arguments, tmp_path / "b.csv", "monthly")), whole)


def test_map_on_another_grid_is_refused(daily, monthly, tmp_path):
    with pytest.raises(OutputError, match="cells where the grid has"):
        write_totals([monthly.store], daily.region, daily.grid, daily.land, tmp_path / "t.csv", "monthly")
    assert list(tmp_path.iterdir()) == []
