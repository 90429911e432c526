"""Set the virtual towers of the reference world beside real ones: seasons, years, noise.

    FLUXGRID_TEST_DATA=... python benchmarks/realism_towers.py

Real towers are those between 33 and 50 degrees north, 105 and 75 degrees west. Where a class has fewer than three of
them, temperate towers from elsewhere join (33 to 55 degrees north, annual mean 3 to 17 degC, at least a tenth of the
year's rain in June to August); the table says how many of each there are. "Needleleaf" pools ENF and MF.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Sites
from fluxgrid.simulation import virtual_sites

CLASSES = {
    "cropland": ("CRO",),
    "grassland": ("GRA",),
    "deciduous": ("DBF",),
    "needleleaf": ("ENF", "MF"),
    "wetland": ("WET",),
}
FLUXES = ("gpp", "reco", "nee")
SEASONS = {"summer": (6, 7, 8), "winter": (12, 1, 2)}
GROWING = (5, 6, 7, 8, 9)
_FACTS = ["site", "date", "igbp", "lat", "lon"]
_GOOD = 0.5  # least share of measured half-hours of a month, or of a day
_YEARS = 4  # least number of years of an interannual spread
_FEW = 3  # real towers of a class below which others join
_OUTLIER = 25.0  # g m-2 d-1; daily values of NEON beyond are faults


@dataclass(frozen=True)
class Gate:
    """One comparison."""

    what: str
    world: float
    observed: float
    """Median of the real towers."""
    bound: str
    passed: bool
    real: str
    """Number of real towers, in the region + from elsewhere."""


def gates(data: Path) -> list[Gate]:
    """Return every comparison of the standard network with the towers of a data folder."""
    sites = virtual_sites()
    monthly, daily = virtual_monthly(sites), virtual_daily(sites)
    return [
        *season_gates(monthly, real_monthly(data)),
        *year_gates(monthly, real_monthly(data)),
        *noise_gates(daily, real_daily(data)),
        *negative_gates(daily, real_daily(data)),
    ]


def virtual_daily(sites: Sites) -> pd.DataFrame:
    """Return the virtual towers as one long table of days."""
    parts = [
        site.series[[*FLUXES, "nee_qc"]].assign(site=site.id, igbp=site.class_name("igbp"), near=True) for site in sites
    ]
    return pd.concat(parts).rename_axis("date").reset_index()


def virtual_monthly(sites: Sites) -> pd.DataFrame:
    """Return the monthly means of the virtual towers; half of the days must have a value."""
    daily = virtual_daily(sites)
    return _to_months(daily, least_days=15)


def real_monthly(data: Path) -> pd.DataFrame:
    """Return the months of the real towers: the monthly table, and NEON from the daily one."""
    table = pd.read_parquet(data / "towers_monthly.parquet")
    table = table[table["nee_qc"] >= _GOOD]
    table = table.assign(near=_near(table), useful=_near(table) | table["site"].isin(_temperate(table)))
    neon = pd.read_parquet(data / "towers_daily.parquet", columns=[*_FACTS, "flux_source", *FLUXES])
    neon = neon[(neon["flux_source"] == "NEON_NCAR") & _near(neon)]
    neon = neon[neon[list(FLUXES)].abs().max(axis=1) < _OUTLIER].assign(nee_qc=1.0, near=True)
    columns = ["site", "date", "igbp", "near", *FLUXES]
    return pd.concat([table[table["useful"]][columns], _to_months(neon, least_days=20)[columns]])


def real_daily(data: Path) -> pd.DataFrame:
    """Return the days of the real towers that report quality: the region's, and temperate ones elsewhere."""
    names = [*_FACTS, "temperature_2m", "precipitation", *FLUXES, "nee_qc"]
    table = pd.read_parquet(data / "towers_daily.parquet", columns=names)
    table = table[table["nee"].notna() & table["nee_qc"].notna()]
    return table.assign(near=_near(table))[_near(table) | table["site"].isin(_temperate(table))]


def season_gates(world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the seasonal amplitude of each flux by class: inside the real towers' range, and near their median."""
    ours, theirs = amplitudes(world), amplitudes(real)
    for name, flux, mine, yours, count in _by_class(ours, theirs):
        low, middle, high = np.quantile(yours, [0.1, 0.5, 0.9])
        value = float(np.median(mine))
        passed = low <= value <= high and 0.6 <= value / middle <= 1.6
        bound = f"{low:.2f}..{high:.2f} and 0.6..1.6 x median"
        yield Gate(f"{name} {flux} seasonal amplitude, g m-2 d-1", value, float(middle), bound, bool(passed), count)


def year_gates(world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the interannual standard deviation of the growing season's mean flux by class: within a factor of 2."""
    ours, theirs = year_spreads(world), year_spreads(real)
    for name, flux, mine, yours, count in _by_class(ours, theirs):
        yield _factor_gate(f"{name} {flux} spread of years, May-September, g m-2 d-1", mine, yours, 2.0, count)


def noise_gates(world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the day-to-day variation of NEE by class and season: within a factor of 1.5."""
    for season, months in SEASONS.items():
        ours, theirs = jumps(world, months), jumps(real, months)
        for name, flux, mine, yours, count in _by_class(ours, theirs):
            yield _factor_gate(f"{name} {flux} day to day, {season}, g m-2 d-1", mine, yours, 1.5, count)


def negative_gates(world: pd.DataFrame, real: pd.DataFrame) -> Iterator[Gate]:
    """Yield the share of days with negative GPP by class: within a factor of 2."""
    ours, theirs = negatives(world), negatives(real)
    for name, _, mine, yours, count in _by_class(ours, theirs):
        yield _factor_gate(f"{name} share of days with negative GPP", mine, yours, 2.0, count)


def amplitudes(months: pd.DataFrame) -> pd.DataFrame:
    """Return highest less lowest month of each site's mean year, NaN without all twelve."""
    climatology = months.groupby(["site", months["date"].dt.month.rename("month")])[list(FLUXES)].mean()
    parts = climatology.groupby("site")
    spread = (parts.max() - parts.min())[parts.count().min(axis=1) == 12]
    return _with_class(spread, months)


def year_spreads(months: pd.DataFrame) -> pd.DataFrame:
    """Return the standard deviation between growing seasons of each site with enough whole ones."""
    growing = months[months["date"].dt.month.isin(GROWING)].dropna(subset=list(FLUXES))
    parts = growing.groupby(["site", growing["date"].dt.year.rename("year")])[list(FLUXES)]
    whole = parts.mean()[parts.count().min(axis=1) == len(GROWING)]
    spread = whole.groupby("site").std()[whole.groupby("site").size() >= _YEARS]
    return _with_class(spread, months)


def jumps(days: pd.DataFrame, months: tuple[int, ...]) -> pd.DataFrame:
    """Return the standard deviation of NEE less that of the day before, over pairs of well measured days."""
    rows = []
    for site, part in days.groupby("site"):
        series = part.set_index("date").asfreq("D")
        good = (series["nee_qc"] > _GOOD) & (series["nee_qc"].shift(1) > _GOOD) & series.index.month.isin(months)
        rows.append({"site": site, "nee": series["nee"].diff()[good].std() if good.sum() >= 100 else np.nan})
    return _with_class(pd.DataFrame(rows).set_index("site"), days)


def negatives(days: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each site's days with negative GPP, each month counting alike."""
    known = days[days["gpp"].notna()]
    share = (known["gpp"] < 0).groupby([known["site"], known["date"].dt.month.rename("month")]).mean()
    return _with_class(share.groupby("site").mean().rename("gpp").to_frame(), days)


def _factor_gate(what: str, mine: np.ndarray, yours: np.ndarray, factor: float, count: str) -> Gate:
    """Return whether medians agree within a factor."""
    value, middle = float(np.median(mine)), float(np.median(yours))
    bound = f"{middle / factor:.2f}..{middle * factor:.2f}"
    return Gate(what, value, middle, bound, middle / factor <= value <= middle * factor, count)


def _by_class(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, str]]:
    """Yield class, flux, virtual and real values, and how many real towers are near + far."""
    for name, codes in CLASSES.items():
        mine, yours = ours[ours["igbp"].isin(codes)], theirs[theirs["igbp"].isin(codes)]
        for flux in [flux for flux in FLUXES if flux in ours]:
            own, near = mine[flux].dropna(), yours[flux][yours["near"]].dropna()
            far = yours[flux][~yours["near"]].dropna() if len(near) < _FEW else yours[flux][:0]
            if len(own) and len(near) + len(far):
                yield name, flux, own.to_numpy(), pd.concat([near, far]).to_numpy(), f"{len(near)}+{len(far)}"


def _with_class(values: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return values by site with its class and whether it is near."""
    facts = table.groupby("site")[["igbp", "near"]].first()
    return values.join(facts)


def _to_months(days: pd.DataFrame, least_days: int) -> pd.DataFrame:
    """Return monthly means where enough days have a value and half of all half-hours were measured."""
    month = days["date"].dt.to_period("M").dt.to_timestamp()
    parts = days.groupby(["site", month])
    means = parts[[*FLUXES, "nee_qc"]].mean().join(parts[["igbp", "near"]].first())
    enough = (parts["nee"].count() >= least_days) & (means["nee_qc"] >= _GOOD)
    return means[enough].reset_index()


def _near(table: pd.DataFrame) -> pd.Series:
    """Return which rows are of the region."""
    return table["lat"].between(33, 50) & table["lon"].between(-105, -75)


def _temperate(table: pd.DataFrame) -> list[str]:
    """Return the sites elsewhere that have a climate of the region's kind: neither hot nor polar nor dry in summer."""
    months = table.assign(month=table["date"].dt.month)
    normals = months.pivot_table(["temperature_2m", "precipitation"], "site", "month")
    warmth, rain = normals["temperature_2m"].mean(axis=1), normals["precipitation"]
    wet = rain[list(SEASONS["summer"])].sum(axis=1) >= 0.1 * rain.sum(axis=1)
    latitude = table.groupby("site")["lat"].first()
    return list(warmth.index[warmth.between(3, 17) & wet & latitude.between(33, 55)])


def main() -> None:
    """Print the table in Markdown."""
    data = Path(
        os.environ.get("FLUXGRID_TEST_DATA") or sys.exit("Set FLUXGRID_TEST_DATA to the folder with the real data.")
    )
    rows = gates(data)
    print("| what | world | observed | bound | real towers | passed |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        verdict = "yes" if row.passed else "**no**"
        print(f"| {row.what} | {row.world:.2f} | {row.observed:.2f} | {row.bound} | {row.real} | {verdict} |")
    print(f"\n{sum(row.passed for row in rows)} of {len(rows)} passed.")


if __name__ == "__main__":
    main()
