"""What is checked of a tower table before anything is computed from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from fluxgrid.data.steps import Step
from fluxgrid.variables import MAP_FLUXES, SERIES_ROLES, VARIABLES

WRONG_UNIT_SHARE = 0.05
"""Share of a site's values far outside the valid range that speaks of a wrong unit, not of single broken values."""

MISSING_MARK = -9999.0
"""What the networks write where there is no value."""

NO_FLUX = f"no column of a flux; give at least one of {', '.join(MAP_FLUXES)}"
"""Said of a table that observed nothing."""

_LEAST_FOR_SIGN, _AGAINST = 12, -0.5  # steps, and a correlation that noise does not make
_FIRST_YEAR, _LAST_YEAR = 1900, 2100  # a year with a slip of the pen would make a calendar of centuries
_DAY_MINUTES = 1440


def check_site_table(table: pd.DataFrame, facts: pd.DataFrame, step: Step, found: Sequence[str] = ()) -> list[str]:
    """Return every problem of a long tower table, each with site and column.

    Parameters
    ----------
    table : DataFrame
        Columns ``site``, ``date`` and series by the names of VARIABLES.
    facts : DataFrame
        Index site id; columns ``latitude`` and ``longitude``, and statics by the names of VARIABLES.
    step : {"daily", "monthly"}
    found : sequence of str
        Problems that the reader has found already; they come first.

    Returns
    -------
    problems : list of str
        Empty if the table can be used.
    """
    if table.empty:
        return list(found) or ["it has no rows"]
    numbers, text = _as_numbers(table)
    problems = [*found, *_check_dates(table, step), *_check_places(table, facts), *_check_statics(table, facts), *text]
    if not any(name in table for name in MAP_FLUXES):
        problems.append(NO_FLUX)
    for name in series_names(numbers):
        problems += [*_check_missing_marks(numbers, name), *_check_units(numbers, name)]
    return problems or list(_check_sign(numbers))


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
    for name in series_names(table):
        far = _far_outside(table, name)
        if far.any():
            changed[name] = table[name].mask(far)
            where = some(table["site"][far].unique())
            notes.append(f"{name}: {int(far.sum())} values far outside {_range(name)} set missing at {where}")
    return (table.assign(**changed) if changed else table), tuple(notes)


def series_names(table: pd.DataFrame) -> list[str]:
    """Return the columns that are series of known variables."""
    return [name for name in table if name in VARIABLES and VARIABLES[name].role in SERIES_ROLES]


def some(names: Iterable[object], most: int = 5) -> str:
    """Return a few names, and how many more there are.

    Examples
    --------
    >>> some("abc", most=2)
    'a, b and 1 more'
    """
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(str, names[:most]))}{rest}"


def as_numbers(values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return a column as numbers, and the cells of it that are none.

    Parameters
    ----------
    values : Series

    Returns
    -------
    numbers : Series of float
        NaN where there is no number.
    others : Series
        What stands in the other cells, empty ones left out.
    """
    if pd.api.types.is_bool_dtype(values):
        return pd.Series(np.nan, index=values.index), values
    if pd.api.types.is_numeric_dtype(values):
        return values, values.iloc[:0]
    numbers = pd.Series(pd.to_numeric(values, errors="coerce"), index=values.index).astype(np.float64)
    return numbers, values[numbers.isna() & values.notna()]


def _as_numbers(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with its series as numbers, and where text stands in them."""
    changed, problems = {}, []
    for name in series_names(table):
        changed[name], others = as_numbers(table[name])
        if len(others):
            sites = some(table["site"][others.index].dropna().unique())
            problems.append(
                f"{sites}, column {name}: {len(others)} cells that are no numbers, such as {str(others.iloc[0])!r}; "
                "mend them or leave them empty"
            )
    return table.assign(**changed), problems


def _check_sign(table: pd.DataFrame) -> Iterator[str]:
    """Say at which sites NEE runs against RECO - GPP, which it should equal."""
    if not {"nee", "gpp", "reco"} <= set(table):
        return
    fluxes = table[["nee", "gpp", "reco"]].replace([np.inf, -np.inf], np.nan)
    balance = pd.DataFrame({"site": table["site"], "nee": fluxes["nee"], "sum": fluxes["reco"] - fluxes["gpp"]})
    against = {}
    for site, part in balance.dropna().groupby("site"):
        together = part["nee"].corr(part["sum"]) if len(part) >= _LEAST_FOR_SIGN else 0.0
        if together < _AGAINST:
            against[str(site)] = together
    if against:
        low, high = min(against.values()), max(against.values())
        between = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
        yield (
            f"{some(against)}, column nee: it runs against reco - gpp (correlation {between}); NEE must be positive to "
            "the atmosphere, so change its sign, or that of gpp where uptake is written negative"
        )


def _check_dates(table: pd.DataFrame, step: Step) -> Iterator[str]:
    """Yield what is wrong with the time stamps, each problem once for all sites that have it."""
    if not pd.api.types.is_datetime64_any_dtype(table["date"]):
        yield "column date: no dates; write them as 2012-05-31"
        return
    rows = table[["site", "date"]]
    if lost := int(rows["site"].isna().sum()):
        yield f"column site: missing in {lost} rows"
        rows = rows[rows["site"].notna()]
    undated = rows["date"].isna()
    if undated.any():
        yield f"{_sites(rows, undated)}, column date: missing in {int(undated.sum())} rows"
        rows = rows[~undated]
    years = rows["date"].dt.year
    if (far := (years < _FIRST_YEAR) | (years > _LAST_YEAR)).any():
        yield (
            f"{_sites(rows, far)}, column date: not in {_FIRST_YEAR} to {_LAST_YEAR} in {int(far.sum())} rows, such as "
            f"{rows['date'][far].iloc[0]:%Y-%m-%d}"
        )
    yield from _check_steps(rows, step)


def _check_steps(rows: pd.DataFrame, step: Step) -> Iterator[str]:
    """Yield where dates are not one a step and in order."""
    dates = rows["date"]
    timed = rows["site"].isin(rows["site"][dates != dates.dt.normalize()].unique())
    if timed.any():
        yield f"{_sites(rows, timed)}, column date: {_times_of_day(rows[timed], step)}"
        rows, dates = rows[~timed], dates[~timed]
    if (repeated := rows.duplicated()).any():
        most = int(rows.groupby(["site", "date"]).size().max())
        yield (
            f"{_sites(rows, repeated)}, column date: {int(repeated.sum())} duplicated steps, the first "
            f"{dates[repeated].iloc[0]:%Y-%m-%d}, up to {most} rows a step; keep one row each"
            + (", the mean of the day if these are hours" if most > 2 else "")
        )
    back = rows.groupby("site")["date"].diff() < pd.Timedelta(0)
    if back.any():
        yield f"{_sites(rows, back)}, column date: not in order of time; sort by site and date"
    if step == "monthly" and (later := dates.dt.day != 1).any():
        yield (
            f"{_sites(rows, later)}, column date: days other than the first of the month in a monthly table; stamp "
            "months by their first day"
        )


def _times_of_day(rows: pd.DataFrame, step: Step) -> str:
    """Say what is wrong with stamps that are not at midnight."""
    one = rows["date"][rows["site"] == rows["site"].iloc[0]].to_numpy("datetime64[m]")
    apart = float(np.median(np.diff(np.sort(one)).astype(float))) if len(one) > 1 else _DAY_MINUTES
    if apart >= _DAY_MINUTES:
        at = rows["date"][rows["date"] != rows["date"].dt.normalize()].iloc[0]
        return f"times of day, such as {at:%H:%M}, where days are wanted; write the date alone"
    return f"times of day, {apart:g} minutes apart, where {step} steps are wanted; aggregate them first"


def _check_places(table: pd.DataFrame, facts: pd.DataFrame) -> Iterator[str]:
    """Yield sites whose coordinates are missing or cannot be."""
    places = facts.reindex(sorted(table["site"].dropna().unique()))
    for name, limit in (("latitude", 90), ("longitude", 180)):
        if name not in places:
            continue  # the reader has said so
        values, others = as_numbers(places[name])
        if len(others):
            yield f"{some(others.index)}, column {name}: {str(others.iloc[0])!r} is no number of degrees"
        lost = values.isna() & ~values.index.isin(others.index)
        if lost.any():
            yield f"{some(values.index[lost])}: {name} is missing; give it in the table or the site list"
        if len(far := values[values.abs() > limit]):
            yield f"{some(far.index)}: {name} {far.iloc[0]:g} is outside -{limit} to {limit} degrees"


def _check_statics(table: pd.DataFrame, facts: pd.DataFrame) -> Iterator[str]:
    """Yield numbers of the places that are none, or cannot be."""
    places = facts.reindex(sorted(table["site"].dropna().unique()))
    for name in (name for name in facts if name in VARIABLES and VARIABLES[name].role == "static"):
        values, others = as_numbers(places[name])
        if len(others):
            yield f"{some(others.index)}, column {name}: {str(others.iloc[0])!r} is no number; leave it empty"
        low, high = VARIABLES[name].credible_range
        if len(far := values[(values < low) | (values > high)]):
            yield (
                f"{some(far.index)}, column {name}: {far.iloc[0]:g} is far outside {_range(name)}; convert it, "
                "or leave it empty"
            )


def _check_missing_marks(table: pd.DataFrame, name: str) -> Iterator[str]:
    """Yield a column where -9999 was left as a value."""
    marked = table[name] == MISSING_MARK
    if marked.any():
        yield f"{_sites(table, marked)}, column {name}: {int(marked.sum())} values of -9999; make them missing (NaN)"


def _check_units(table: pd.DataFrame, name: str) -> Iterator[str]:
    """Yield the sites where so many values are far outside the valid range that the unit must be wrong."""
    far = _far_outside(table, name)
    if not far.any():
        return
    values = table[name].where(table[name] != MISSING_MARK)
    shares = far.groupby(table["site"]).sum() / values.groupby(table["site"]).count()
    # One value repeated over and over (CO2 of 0 in all months) is a mark for missing, not a unit.
    distinct = values[far].groupby(table["site"][far]).nunique()
    wrong = shares[(shares > WRONG_UNIT_SHARE) & (distinct.reindex(shares.index).fillna(0) > 1)]
    if len(wrong):
        median = values[far & table["site"].isin(wrong.index)].median()
        yield (
            f"{some(wrong.index)}, column {name}: {100 * wrong.max():.0f} % of the values are far outside "
            f"{_range(name)}, such as {median:.4g}; convert them to {VARIABLES[name].units}"
        )


def _far_outside(table: pd.DataFrame, name: str) -> pd.Series:
    """Return where a column leaves its valid range far; marks of missing values do not count."""
    low, high = VARIABLES[name].credible_range
    values = table[name]
    return ((values < low) | (values > high)) & (values != MISSING_MARK)


def _range(name: str) -> str:
    """Return the valid range of a variable as text."""
    low, high = VARIABLES[name].valid_range or (-np.inf, np.inf)
    return f"{low:g} to {high:g} {VARIABLES[name].units}"


def _sites(rows: pd.DataFrame, where: pd.Series) -> str:
    """Return the sites of some rows."""
    return some(rows["site"][where].unique())
