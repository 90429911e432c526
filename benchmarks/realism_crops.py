"""Set corn and soybean of the reference world beside SLOPE satellite GPP of Adams County, Illinois, 2000-2016.

    FLUXGRID_TEST_DATA=... python benchmarks/realism_crops.py

The years are not the same years: climates are compared, not weather. The world is the mean of nine places in the county
as SLOPE is that of its fields (Jiang et al. 2021, doi:10.5194/essd-13-281-2021).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.simulation.land import COLUMNS, places_at
from fluxgrid.simulation.parameters import EXTENT, WORLD_VERSION, world_digest
from fluxgrid.simulation.process import run_years

CROPS = ("corn", "soybean")
FILE = "county_17001_daily.parquet"
YEARS = 17
_LATITUDE, _LONGITUDE = (-0.2, 0.0, 0.2), (-0.25, 0.0, 0.25)
_CENTRE = (39.99, -91.19)


@dataclass(frozen=True)
class Gate:
    """One comparison."""

    what: str
    world: float
    observed: float
    bound: str
    passed: bool


def gates(data: Path) -> list[Gate]:
    """Return every comparison with the county table of a data folder."""
    table = pd.read_parquet(data / FILE).set_index("date")
    world = virtual_crops()
    return [gate for crop in CROPS for gate in crop_gates(crop, world[crop], table[f"gpp_slope_{crop}"].dropna())]


def virtual_crops(years: int = YEARS) -> dict[str, pd.Series]:
    """Return daily GPP of fields of corn and of soybean, g C m-2 d-1, the mean over the county."""
    latitude, longitude = (axis.ravel() for axis in np.meshgrid(_LATITUDE, _LONGITUDE))
    places = places_at(latitude + _CENTRE[0], longitude + _CENTRE[1])
    fields = {}
    for column in ("corn_soy", "soy_corn"):
        shares = np.tile(np.eye(len(COLUMNS))[COLUMNS.index(column)], (len(latitude), 1))
        run = run_years(replace(places, shares=shares), EXTENT.first_year, EXTENT.first_year + years - 1)
        fields[column] = pd.concat(pd.Series(year.daily["gpp"].mean(axis=0), year.time) for year in run)
    odd = fields["corn_soy"].index.year % 2 == 1
    corn = fields["corn_soy"].where(odd, fields["soy_corn"])
    soybean = fields["soy_corn"].where(odd, fields["corn_soy"])
    return {"corn": corn, "soybean": soybean}


def crop_gates(crop: str, world: pd.Series, slope: pd.Series) -> Iterator[Gate]:
    """Yield the comparisons of one crop."""
    (ours, our_day), (theirs, their_day) = peaks(world), peaks(slope)
    sums = [series.groupby(series.index.year).sum() for series in (world, slope)]
    yield _relative(f"{crop}, peak 30-day GPP, g m-2 d-1", ours.mean(), theirs.mean(), 0.25)
    yield _relative(f"{crop}, annual GPP, g m-2 yr-1", sums[0].mean(), sums[1].mean(), 0.25)
    days = our_day.mean(), their_day.mean()
    yield Gate(f"{crop}, last day of the peak, day of year", *days, "12 days", bool(abs(days[0] - days[1]) <= 12))
    yield _factor(f"{crop}, peak 30-day GPP, standard deviation of years", ours.std(), theirs.std(), 2.0)
    yield _factor(f"{crop}, annual GPP, standard deviation of years", sums[0].std(), sums[1].std(), 2.0)
    spread = [series[series.index.month.isin((6, 7, 8))].std() for series in (world, slope)]
    yield _relative(f"{crop}, daily GPP of June to August, standard deviation", *spread, 0.35)


def peaks(series: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the highest 30-day mean of each year and its last day of the year."""
    running = series.rolling(30).mean().dropna()
    by_year = running.groupby(running.index.year)
    return by_year.max(), by_year.idxmax().dt.day_of_year


def _relative(what: str, world: float, observed: float, bound: float) -> Gate:
    """Return a gate on a relative difference."""
    return Gate(what, world, observed, f"{bound:.0%}", bool(abs(world / observed - 1.0) <= bound))


def _factor(what: str, world: float, observed: float, bound: float) -> Gate:
    """Return a gate on a ratio."""
    return Gate(what, world, observed, f"factor {bound:g}", bool(1.0 / bound <= world / observed <= bound))


def main() -> None:
    """Print the table."""
    print(f"World {WORLD_VERSION}, digest {world_digest()}, {YEARS} years\n")
    print("| Adams County, Illinois | world | SLOPE | bound | |\n|---|---|---|---|---|")
    for gate in gates(
        Path(
            os.environ.get("FLUXGRID_TEST_DATA") or sys.exit("Set FLUXGRID_TEST_DATA to the folder with the real data.")
        )
    ):
        verdict = "passed" if gate.passed else "**failed**"
        print(f"| {gate.what} | {gate.world:.4g} | {gate.observed:.4g} | {gate.bound} | {verdict} |")


if __name__ == "__main__":
    main()
