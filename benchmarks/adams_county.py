"""Run a trained KGML-ag on the real drivers of Adams County, Illinois, and set its sums beside published ones.

    FLUXGRID_TEST_DATA=... python benchmarks/adams_county.py [--checkpoint default] [--nass yields.csv]

Corn and soybean grow in turns from 2000 to 2016 with the satellite's GPP of each (SLOPE), in both rotations, so that
each crop has a sum in every year; 2000 and 2001 run once more before, to build the state. What the county's table lacks
is completed by named assumptions; the last table changes them one at a time. Towers and county are other places in
other years: climates are compared, not weather.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.kgml import KGML_CROPS, KGML_OUTPUTS, feature_index
from fluxgrid.sources.kgml_assumptions import ALTERNATIVES, Assumptions, one_at_a_time
from fluxgrid.sources.kgml_drivers import CountyDrivers, complete_drivers, read_kgml_drivers
from fluxgrid.sources.nass import GRAIN, read_nass_yields

FILE, FIPS = "county_17001_daily.parquet", "17001"
SPIN_UP_YEARS = 2
SUMS = ("GPP", "Ra", "Rh", "Reco", "NEE", "GRU_NEE", "yield")
"""Sums of a year, g C m-2: respiration positive, NEE = Reco - GPP positive to the atmosphere; GRU_NEE is the network's
own, a diagnostic."""

Runner = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]
"""Inputs (n, T, 19) in physical units and the calendar year of each step (T,), to ``ra``, ``rh``, ``nee`` (n, T) with
native signs and ``yield`` (n, years), an entry for each run of equal years. State is carried from year to year."""


def native_runner(checkpoint: str) -> Runner:
    """Return the network of a checkpoint; the one place that knows how it is run."""
    from fluxgrid.workflows.kgml import native_runner

    return native_runner(checkpoint)


@dataclass(frozen=True)
class Published:
    """A range from the literature."""

    crop: str
    total: str
    low: float
    high: float
    source: str


_SUYKER = "Suyker and Verma 2012, Mead, Nebraska, 8 years, doi:10.1016/j.agrformet.2012.05.021"
_VERMA = "Verma et al. 2005, Mead, Nebraska, 3 years, doi:10.1016/j.agrformet.2005.05.003"
_HOLLINGER = (
    "Hollinger et al. 2005, Bondville, Illinois, 6 years, doi:10.1016/j.agrformet.2005.01.005, as corrected in 2006, "
    "Agricultural and Forest Meteorology 136, 88-89"
)
_SEASON = 872, 1029  # Reco of rainfed and of irrigated corn in its season
_STATE = "NASS, state of Illinois, lowest and highest year of 2000-2016"


def _grain(crop: str, *bushels: float) -> list[float]:
    """Return yields in bushels per acre as g C m-2."""
    return [float(value) for value in GRAIN[crop].carbon_g_m2(pd.Series(bushels, dtype=float))]


PUBLISHED = (
    Published("corn", "GPP", 1536 - 74, 1536 + 74, f"rainfed, {_SUYKER}"),
    Published("corn", "GPP", 1796 - 92, 1796 + 92, f"irrigated, {_SUYKER}"),
    Published(
        "corn", "Reco", _SEASON[0] / 0.9, _SEASON[1] / 0.8, f"worked out: season over 80-90 % of the year, {_SUYKER}"
    ),
    Published("corn", "NEE", -510, -397, f"rainfed, {_VERMA}"),
    Published("corn", "NEE", -517, -381, f"irrigated, {_VERMA}"),
    Published("corn", "NEE", -576, -576, f"mean, {_HOLLINGER}"),
    Published("corn", "yield", *_grain("corn", 105, 200), f"{_STATE}: 105 (2012) to 200 (2014) bu/acre"),
    Published("soybean", "GPP", 0.56 * 1536, 0.56 * 1796, f"56 % of corn, {_SUYKER}"),
    Published(
        "soybean",
        "Reco",
        0.78 * sum(_SEASON) / 2 / 0.83,
        0.78 * sum(_SEASON) / 2 / 0.76,
        f"worked out: 78 % of corn's season over 76-83 % of the year, {_SUYKER}",
    ),
    Published("soybean", "NEE", 18, 48, _VERMA),
    Published("soybean", "NEE", -33, -33, f"mean, {_HOLLINGER}"),
    Published("soybean", "yield", *_grain("soybean", 37, 59), f"{_STATE}: 37 (2003) to 59 (2016) bu/acre"),
)
"""Means less and plus a standard deviation of years, lowest and highest years, or what the source says."""


def annual_sums(drivers: CountyDrivers, run: Runner, choices: list[Assumptions]) -> list[dict[str, pd.DataFrame]]:
    """Return the sums of every year under each of some assumptions: tables of years by `SUMS`, by crop."""
    years = drivers.time.year.to_numpy()
    # both rotations, as in every cell of a map: corn in even years, then corn in odd years
    corn_grows = [years % 2 == parity for parity in (0, 1)]
    grown = [complete_drivers(drivers, choice) for choice in choices]
    features = np.stack(
        [np.where(corn[:, None], crops["corn"], crops["soybean"]) for crops in grown for corn in corn_grows]
    )
    first = np.flatnonzero(years < years[0] + SPIN_UP_YEARS)
    order = np.concatenate([first, np.arange(len(years))])
    outputs = run(features[:, order], years[order])
    daily = {name: np.asarray(outputs[name], np.float64)[:, len(first) :] for name in ("ra", "rh", "nee")}
    daily["gpp"] = features[:, :, feature_index("GPP")].astype(np.float64)
    yields = np.asarray(outputs["yield"], np.float64)[:, SPIN_UP_YEARS:]
    tables = [
        _sums({name: values[i] for name, values in daily.items()}, yields[i], years) for i in range(len(features))
    ]
    return [_by_crop(*tables[i : i + 2]) for i in range(0, len(tables), 2)]


def _by_crop(even: pd.DataFrame, odd: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the sums of each crop from the rotation that grows it; corn in even and in odd years."""
    is_even = np.asarray(even.index) % 2 == 0
    corn, soybean = (pd.concat([one[is_even], other[~is_even]]) for one, other in ((even, odd), (odd, even)))
    return {"corn": corn.sort_index(), "soybean": soybean.sort_index()}


def _sums(daily: Mapping[str, np.ndarray], yields: np.ndarray, years: np.ndarray) -> pd.DataFrame:
    """Return the sums of one run, years by `SUMS`."""
    total = pd.DataFrame(daily, index=years).groupby(level=0).sum()
    table = pd.DataFrame({"GPP": total["gpp"], "Ra": -total["ra"], "Rh": -total["rh"]})
    table["Reco"] = table["Ra"] + table["Rh"]
    table["NEE"] = table["Reco"] - table["GPP"]
    return table.assign(GRU_NEE=total["nee"], **{"yield": yields})


def budget_rows(sums: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Yield the sums of each crop beside the published ones, as Markdown."""
    yield "| crop | g C m-2 yr-1 | mean | sd of years | published | source |\n|---|---|---|---|---|---|"
    for crop, table in sums.items():
        for total in SUMS:
            mean, spread = table[total].mean(), table[total].std()
            found = [each for each in PUBLISHED if (each.crop, each.total) == (crop, total)]
            for place, each in enumerate(found or [None]):
                numbers = f"{crop} | {total} | {mean:.0f} | {spread:.0f}" if place == 0 else " | | | "
                yield f"| {numbers} | {_range(each)} | {each.source if each else ''} |"


def _range(each: Published | None) -> str:
    """Return the words of a range."""
    if each is None:
        return ""
    return f"{each.low:.0f}" if each.low == each.high else f"{each.low:.0f} to {each.high:.0f}"


def mean_rows(sums: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Yield the mean of both crops beside the mean of the published synthetic set, as Markdown."""
    yield "| mean of both crops, g C m-2 yr-1 | here | published synthetic set, 3 states, 2001-2018 |\n|---|---|---|"
    published = {output.name: output.mean * 365 for output in KGML_OUTPUTS}
    theirs = {"Ra": -published["ra"], "Rh": -published["rh"], "NEE": published["nee"]}
    for total, value in theirs.items():
        yield f"| {total} | {np.mean([table[total].mean() for table in sums.values()]):.0f} | {value:.0f} |"


def yield_rows(sums: Mapping[str, pd.DataFrame], nass: Path) -> Iterator[str]:
    """Yield the county's own yields beside those of the network, as Markdown."""
    table = read_nass_yields(nass).table.query("fips == @FIPS")
    yield "| crop | years | yield of NASS, g C m-2 | here | correlation of years |\n|---|---|---|---|---|"
    for crop, mine in sums.items():
        theirs = table[table["crop"] == crop].set_index("year")["yield_g_m2"]
        both = pd.concat([theirs.rename("nass"), mine["yield"].rename("here")], axis=1).dropna()
        r = both["nass"].corr(both["here"])
        yield f"| {crop} | {len(both)} | {both['nass'].mean():.0f} | {both['here'].mean():.0f} | {r:.2f} |"


def assumption_rows(default: Mapping[str, pd.DataFrame], others: list[Mapping[str, pd.DataFrame]]) -> Iterator[str]:
    """Yield how each assumption, changed alone, moves the means of the years, as Markdown."""
    totals = ("Ra", "Rh", "NEE", "yield")
    heads = " | ".join(f"{crop} {total}" for crop in KGML_CROPS for total in totals)
    yield f"| assumption | instead of | {heads} | why |\n|---|---|{'---|' * len(totals) * len(KGML_CROPS)}---|"
    for (field, name, _), sums in zip(one_at_a_time(), others, strict=True):
        moves = [(sums[crop][total] - default[crop][total]).mean() for crop in KGML_CROPS for total in totals]
        numbers = " | ".join(f"{move:+.0f}" for move in moves)
        before = getattr(Assumptions(), field)
        yield f"| {field}: {name} | {before} | {numbers} | {ALTERNATIVES[field][name].source} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--nass", type=Path, help="Quick Stats CSV with the county's yields")
    options = parser.parse_args()
    drivers = read_kgml_drivers(
        Path(
            os.environ.get("FLUXGRID_TEST_DATA") or sys.exit("Set FLUXGRID_TEST_DATA to the folder with the real data.")
        )
        / FILE
    )
    choices = [Assumptions(), *(assumptions for _, _, assumptions in one_at_a_time())]
    default, *others = annual_sums(drivers, native_runner(options.checkpoint), choices)
    first, last = drivers.time.year.min(), drivers.time.year.max()
    print(f"Adams County, Illinois, {first}-{last}, checkpoint {options.checkpoint}\n")
    print("GPP is the satellite's: an input, no result of the network.\n")
    print(*budget_rows(default), sep="\n", end="\n\n")
    print(*mean_rows(default), sep="\n", end="\n\n")
    if options.nass:
        print(*yield_rows(default, options.nass), sep="\n", end="\n\n")
    print("Change of the mean when one assumption is changed, g C m-2 yr-1\n")
    print(*assumption_rows(default, others), sep="\n")


if __name__ == "__main__":
    main()
