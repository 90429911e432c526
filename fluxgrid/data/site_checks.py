"""What is checked of a tower table before anything is computed from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from fluxgrid.variables import MAP_FLUXES, SERIES_ROLES, VARIABLES

WRONG_UNIT_SHARE = 0.05
"""Share of a site's values far outside the valid range that speaks of a wrong unit, not of single broken values."""

_MISSING_MARK = -9999.0


_LEAST_FOR_SIGN, _AGAINST = 12, -0.5  # steps, and a correlation that noise does not make


def check_site_table(table: pd.DataFrame, facts: pd.DataFrame, step: str) -> list[str]:
    """Return every problem of a long tower table, each with site and column.

    Parameters
    ----------
    table : DataFrame
        Columns ``site``, ``date`` and series by the names of VARIABLES.
    facts : DataFrame
        Index site id; columns ``latitude`` and ``longitude``.
    step : {"daily", "monthly"}

    Returns
    -------
    problems : list of str
        Empty if the table can be used.
    """
    if table.empty:
        return ["it has no rows"]
    problems = [*_check_dates(table, step), *_check_places(table, facts)]
    if not any(name in table for name in MAP_FLUXES):
        problems.append(f"no column of a flux; give at least one of {', '.join(MAP_FLUXES)}")
    for name in _series_names(table):
        if not pd.api.types.is_numeric_dtype(table[name]):
            problems.append(f"column {name}: text where numbers are wanted; mend the cells that are not numbers")
            continue
        problems += [*_check_missing_marks(table, name), *_check_units(table, name)]
    return problems or _check_sign(table)


def _check_sign(table: pd.DataFrame) -> list[str]:
    """Say at which sites NEE runs against RECO - GPP, which it should equal."""
    if not {"nee", "gpp", "reco"} <= set(table):
        return []
    balance = pd.DataFrame({"site": table["site"], "nee": table["nee"], "sum": table["reco"] - table["gpp"]}).dropna()
    problems = []
    for site, part in balance.groupby("site"):
        together = part["nee"].corr(part["sum"]) if len(part) >= _LEAST_FOR_SIGN else 0.0
        if together < _AGAINST:
            problems.append(
                f"{site}, column nee: it runs against reco - gpp (correlation {together:.2f}); NEE must be positive to "
                "the atmosphere, so change its sign"
            )
    return problems


def blank_outliers(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Set single values missing that lie far outside the valid range of their Variable.

    Parameters
    ----------
    table : DataFrame
        As for `check_site_table`.

    Returns
    -------
    table : DataFrame
        A copy where anything changed.
    notes : tuple of str
        Column, count and sites of what was set missing.
    """
    changed: dict[str, pd.Series] = {}
    notes = []
    for name in _series_names(table):
        far = _far_outside(table, name)
        if far.any():
            changed[name] = table[name].mask(far)
            where = _some(table["site"][far].unique())
            notes.append(f"{name}: {int(far.sum())} values far outside {_range(name)} set missing at {where}")
    return (table.assign(**changed) if changed else table), tuple(notes)


def _series_names(table: pd.DataFrame) -> list[str]:
    """Return the columns that are series of known variables."""
    return [name for name in table if name in VARIABLES and VARIABLES[name].role in SERIES_ROLES]


def _check_dates(table: pd.DataFrame, step: str) -> Iterator[str]:
    """Yield what is wrong with the time stamps, site by site."""
    if not pd.api.types.is_datetime64_any_dtype(table["date"]):
        yield "column date: no dates; write them as 2012-05-31"
        return
    for site, dates in table.groupby("site", sort=True)["date"]:
        yield from (f"{site}, column date: {problem}" for problem in _check_site_dates(dates, step))
    if lost := int(table["site"].isna().sum()):
        yield f"column site: missing in {lost} rows"


def _check_site_dates(dates: pd.Series, step: str) -> Iterator[str]:
    """Yield what is wrong with the time stamps of one site."""
    if missing := int(dates.isna().sum()):
        yield f"missing in {missing} rows"
        return
    if (dates != dates.dt.normalize()).any():
        minutes = float(np.median(np.diff(np.sort(dates.to_numpy("datetime64[m]"))).astype(float)))
        yield f"times of day, {minutes:g} minutes apart, where {step} steps are wanted; aggregate them first"
        return
    repeated = dates[dates.duplicated()]
    if len(repeated):
        yield f"{len(repeated)} duplicated steps, the first {repeated.iloc[0]:%Y-%m-%d}; keep one row each"
    if not dates.is_monotonic_increasing:
        yield "not in order of time; sort by site and date"
    if step == "monthly" and (dates.dt.day != 1).any():
        yield "days other than the first of the month in a monthly table; stamp months by their first day"


def _check_places(table: pd.DataFrame, facts: pd.DataFrame) -> Iterator[str]:
    """Yield sites whose coordinates are missing or cannot be."""
    places = facts.reindex(sorted(table["site"].dropna().unique()))
    for name, limit in (("latitude", 90), ("longitude", 180)):
        values = places[name]
        if values.isna().any():
            yield f"{_some(values.index[values.isna()])}: {name} is missing; add it to the site list"
        for site, value in values[values.abs() > limit].items():
            yield f"{site}: {name} {value:g} is outside -{limit} to {limit} degrees"


def _check_missing_marks(table: pd.DataFrame, name: str) -> Iterator[str]:
    """Yield a column where -9999 was left as a value."""
    marked = table[name] == _MISSING_MARK
    if marked.any():
        sites = _some(table["site"][marked].unique())
        yield f"{sites}, column {name}: {int(marked.sum())} values of -9999; make them missing (NaN)"


def _check_units(table: pd.DataFrame, name: str) -> Iterator[str]:
    """Yield the sites where so many values are far outside the valid range that the unit must be wrong."""
    far = _far_outside(table, name)
    if not far.any():
        return
    values = table[name].where(table[name] != _MISSING_MARK)
    shares = far.groupby(table["site"]).sum() / values.groupby(table["site"]).count()
    # One value repeated over and over (CO2 of 0 in all months) is a mark for missing, not a unit.
    distinct = values[far].groupby(table["site"][far]).nunique()
    wrong = shares[(shares > WRONG_UNIT_SHARE) & (distinct.reindex(shares.index).fillna(0) > 1)]
    if len(wrong):
        median = values[far & table["site"].isin(wrong.index)].median()
        yield (
            f"{_some(wrong.index)}, column {name}: {100 * wrong.max():.0f} % of the values are far outside "
            f"{_range(name)}, such as {median:.4g}; convert them to {VARIABLES[name].units}"
        )


def _far_outside(table: pd.DataFrame, name: str) -> pd.Series:
    """Return where a column leaves its valid range far; marks of missing values do not count."""
    if not pd.api.types.is_numeric_dtype(table[name]):
        return pd.Series(data=False, index=table.index)
    low, high = VARIABLES[name].credible_range
    values = table[name]
    return ((values < low) | (values > high)) & (values != _MISSING_MARK)


def _range(name: str) -> str:
    """Return the valid range of a variable as text."""
    low, high = VARIABLES[name].valid_range or (-np.inf, np.inf)
    return f"{low:g} to {high:g} {VARIABLES[name].units}"


def _some(names: Iterable[str], most: int = 5) -> str:
    """Return a few names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(str, names[:most]))}{rest}"
