"""Set the weather of the reference world beside that of the real Midwest.

    FLUXGRID_TEST_DATA=... python benchmarks/realism_weather.py

One county every day (NLDAS-2, Xia et al. 2012, doi:10.1029/2011JD016048), and the 12 states every month (NOAA
nClimDiv, Vose et al. 2014, doi:10.1175/JAMC-D-13-0248.1). Both are compared as climates: no day and no year of the
world is one of history. The world is sampled where and as the data are: a county is the mean of nine places.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.netcdf import open_netcdf
from fluxgrid.simulation.land import places_at
from fluxgrid.simulation.parameters import WORLD_VERSION, world_digest
from fluxgrid.simulation.weather import weather

COUNTY, GRID = "county_17001_daily.parquet", "conus_monthly_covariates_025.nc"
_COUNTY_CENTRE, _COUNTY_OFFSETS = (39.99, -91.19), (-0.2, 0.0, 0.2)
_MIDWEST = (17, 18, 19, 20, 26, 27, 29, 31, 38, 39, 46, 55)
_EVERY = 9  # cells of the grid: about 385 of 3467
_SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
_WET_MM = 1.0


@dataclass(frozen=True)
class Gate:
    """One comparison."""

    what: str
    world: float
    observed: float
    bound: str
    passed: bool


def gates(data: Path) -> list[Gate]:
    """Return every comparison with the tables of a data folder."""
    return [*county_gates(virtual_county(), real_county(data)), *grid_gates(*both_grids(data))]


def real_county(data: Path) -> pd.DataFrame:
    """Return the daily weather of Adams County, Illinois, 2000-2016."""
    table = pd.read_parquet(data / COUNTY).set_index("date")
    table["shortwave"] = table["shortwave_mj"] / 0.0864
    return table[["temperature_2m", "precipitation", "shortwave", "relative_humidity", "wind_speed"]]


def virtual_county(start: str = "2000-01-01", end: str = "2016-12-31") -> pd.DataFrame:
    """Return the same of the world, the mean of nine places."""
    latitude, longitude = (part.ravel() for part in np.meshgrid(_COUNTY_OFFSETS, _COUNTY_OFFSETS))
    time = pd.date_range(start, end)
    days = weather(places_at(latitude + _COUNTY_CENTRE[0], longitude + _COUNTY_CENTRE[1]), time)
    table = pd.DataFrame({name: values.mean(axis=0) for name, values in days.items()}, index=time)
    saturation = 6.108 * np.exp(17.27 * table["temperature_2m"] / (table["temperature_2m"] + 237.3))
    table["relative_humidity"] = 100.0 * table["vapour_pressure"] / saturation
    return table


def county_gates(world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the comparisons of two daily tables of one place."""
    where = "Adams County: "
    both = (world, real)
    month = [table.groupby(table.index.month).mean() for table in both]
    for number in range(1, 13):
        pair = (table.loc[number, "temperature_2m"] for table in month)
        yield _within(f"{where}mean temperature of month {number}, degC", *pair, 2.0)
    for number in range(1, 13):
        pair = (table.loc[number, "shortwave"] for table in month)
        yield _relative(f"{where}radiation of month {number}, W m-2", *pair, 0.15)
    for name, unit, bound in (("shortwave", "W m-2", 0.10), ("wind_speed", "m s-1", 0.15)):
        yield _relative(f"{where}mean {name}, {unit}", *(table[name].mean() for table in both), bound)
    humidity = (table["relative_humidity"].mean() for table in both)
    yield _relative(f"{where}mean relative humidity, %", *humidity, 0.15)
    yield from _rain_gates(where, *(table["precipitation"] for table in both))
    yield from _variance_gates(where, world, real)


def _rain_gates(where: str, world: pd.Series, real: pd.Series) -> Iterator[Gate]:
    """Yield the comparisons of daily rain."""
    both = (world, real)
    annual = [rain.groupby(rain.index.year).sum() for rain in both]
    yield _relative(f"{where}annual rain, mm", *(total.mean() for total in annual), 0.20)
    yield _factor(f"{where}annual rain, standard deviation of years, mm", *(total.std() for total in annual), 1.7)
    wet = [rain >= _WET_MM for rain in both]
    yield _within(f"{where}share of days of 1 mm and more", *(days.mean() for days in wet), 0.10)
    after = (days[days.shift(1, fill_value=False)].mean() for days in wet)
    yield _within(f"{where}chance of a wet day after a wet day", *after, 0.10)
    tail = (rain[days].quantile(0.95) for rain, days in zip(both, wet, strict=True))
    yield _relative(f"{where}95th percentile of rain on wet days, mm", *tail, 0.25)


def _variance_gates(where: str, world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the comparisons of spread and memory."""
    both = (world, real)
    warm = [anomaly(table["temperature_2m"]) for table in both]
    yield _within(f"{where}lag-1 autocorrelation of temperature anomalies", *(part.autocorr(1) for part in warm), 0.15)
    for season, months in _SEASONS.items():
        spread = (part[part.index.month.isin(months)].std() for part in warm)
        yield _relative(f"{where}daily temperature anomaly, standard deviation, {season}, degC", *spread, 0.25)
    light = [anomaly(table["shortwave"]) for table in both]
    for season, months in _SEASONS.items():
        spread = (part[part.index.month.isin(months)].std() for part in light)
        yield _relative(f"{where}daily radiation anomaly, standard deviation, {season}, W m-2", *spread, 0.25)
    summers = [table["temperature_2m"][table.index.month.isin(_SEASONS["summer"])] for table in both]
    spread = (days.groupby(days.index.year).mean().std() for days in summers)
    yield _factor(f"{where}summer temperature, standard deviation of years, degC", *spread, 1.7)


def anomaly(series: pd.Series) -> pd.Series:
    """Return departures from the day-of-year climatology, smoothed over 31 days."""
    daily = series.groupby(series.index.day_of_year).mean()
    smooth = pd.concat([daily] * 3).rolling(31, center=True).mean().iloc[len(daily) : 2 * len(daily)]
    return series - smooth.reindex(series.index.day_of_year).to_numpy()


def both_grids(data: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """Return monthly ``temperature`` degC and ``rain`` mm of the world and of the grid, (cell, month of record)."""
    with open_netcdf(data / GRID) as cube:
        inside = np.isin(cube["state_fips"].values, _MIDWEST) & np.isfinite(cube["tair"].values[0])
        row, column = (part[::_EVERY] for part in np.nonzero(inside))
        months = pd.DatetimeIndex(cube["time"].values)
        real = {new: cube[old].values[:, row, column].T for new, old in (("temperature", "tair"), ("rain", "precip"))}
        places = places_at(cube["lat"].values[row], cube["lon"].values[column])
    time = pd.date_range(months[0], months[-1] + pd.offsets.MonthEnd(1))
    days = weather(places, time)
    first = np.searchsorted(time, months)
    length = np.diff(np.append(first, len(time)))
    world = {
        "temperature": np.add.reduceat(days["temperature_2m"], first, axis=1) / length,
        "rain": np.add.reduceat(days["precipitation"], first, axis=1),
    }
    tables = ({name: (("cell", "time"), values) for name, values in part.items()} for part in (world, real))
    first_table, second_table = (xr.Dataset(table, coords={"time": months}) for table in tables)
    return first_table, second_table


def grid_gates(world: xr.Dataset, real: xr.Dataset) -> Iterator[Gate]:
    """Yield the comparisons of two monthly tables of the same cells."""
    where = "Midwest: "
    normals = [table.groupby("time.month").mean() for table in (world, real)]
    for number in range(1, 13):
        ours, theirs = (table["temperature"].sel(month=number).values for table in normals)
        error = float(np.sqrt(((ours - theirs) ** 2).mean()))
        yield _within(f"{where}mean temperature of month {number}, degC", ours.mean(), theirs.mean(), 1.0)
        yield Gate(f"{where}cellwise RMSE of month {number}, degC", error, 0.0, "<= 2", error <= 2.0)
    for number in range(1, 13):
        pair = (float(table["rain"].sel(month=number).mean()) for table in normals)
        yield _relative(f"{where}rain of month {number}, mm", *pair, 0.20)
    pattern = [table["rain"].sum("month").values for table in normals]
    alike = float(np.corrcoef(*pattern)[0, 1])
    yield Gate(f"{where}annual rain, correlation over cells", alike, 1.0, ">= 0.85", alike >= 0.85)
    for season, months in _SEASONS.items():
        spread = [
            table["temperature"].groupby("time.month").std(ddof=1).sel(month=list(months)) for table in (world, real)
        ]
        pair = (float(part.mean()) for part in spread)
        yield _factor(f"{where}monthly temperature, standard deviation of years, {season}, degC", *pair, 1.5)
    years = [table["rain"].groupby("time.year").sum().std("year", ddof=1) for table in (world, real)]
    yield _factor(f"{where}annual rain, standard deviation of years, mm", *(float(part.mean()) for part in years), 1.5)


def _within(what: str, world: float, observed: float, bound: float) -> Gate:
    """Return a gate on a difference."""
    return Gate(what, float(world), float(observed), f"within {bound:g}", bool(abs(world - observed) <= bound))


def _relative(what: str, world: float, observed: float, bound: float) -> Gate:
    """Return a gate on a relative difference."""
    passed = bool(abs(world / observed - 1.0) <= bound)
    return Gate(what, float(world), float(observed), f"within {bound:.0%}", passed)


def _factor(what: str, world: float, observed: float, bound: float) -> Gate:
    """Return a gate on a ratio."""
    passed = bool(1.0 / bound <= world / observed <= bound)
    return Gate(what, float(world), float(observed), f"within a factor {bound:g}", passed)


def main() -> None:
    """Print the table."""
    rows = gates(
        Path(
            os.environ.get("FLUXGRID_TEST_DATA") or sys.exit("Set FLUXGRID_TEST_DATA to the folder with the real data.")
        )
    )
    print(f"World {WORLD_VERSION}, {world_digest()}: {sum(row.passed for row in rows)} of {len(rows)} passed\n")
    print("| what | world | observed | bound | passed |\n|---|---|---|---|---|")
    for row in rows:
        mark = "yes" if row.passed else "**no**"
        print(f"| {row.what} | {row.world:.3g} | {row.observed:.3g} | {row.bound} | {mark} |")


if __name__ == "__main__":
    main()
