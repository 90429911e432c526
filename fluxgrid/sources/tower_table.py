"""Tower tables: one row per site and step, columns by the names of the Variable table.

The layout of ``towers_daily.parquet`` and ``towers_monthly.parquet``: ``site``, ``date``, ``lat``, ``lon``, the series,
and the facts of the site repeated in every row (``igbp``, ``koppen`` or ``climate_group``, ``elevation``, ``whc``).
Units are those of VARIABLES already; columns with other names are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

import pandas as pd

from fluxgrid.data.site_checks import NO_FLUX, some
from fluxgrid.data.sites import Sites, sites_from_table
from fluxgrid.data.steps import Step
from fluxgrid.errors import TableError, itemise
from fluxgrid.sources.base import SOURCES, Screen, code_classes
from fluxgrid.variables import MAP_FLUXES, VARIABLES

_RENAMED = {"lat": "latitude", "lon": "longitude", "whc": "water_holding_capacity"}
_WANTED = ("site", "date", "latitude", "longitude")
_CONSTRUCTED_RECO = "NEON_NCAR"

# Year first: 31/05/2012 and 05/31/2012 cannot be told from each other by a machine. A zone stands behind a time only.
_DATE = r"(?:\d{8}|\d{4}-\d{2}|\d{4}([-/])\d{1,2}\1\d{1,2})(?:[ T].*)?"
_ZONE = r"(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?:Z|UTC|[+-]\d{2}:?\d{2})$"
_ZONE_NOTE = ("the time zone of the dates was left out: days count as they are written",)


@SOURCES.register("tower_table")
@dataclass(frozen=True)
class TowerTable:
    """Reader of tower tables in parquet or CSV.

    Parameters
    ----------
    step : {"daily", "monthly"}, optional
        Found from the dates if not given: monthly if all are the first of a month.
    screen : Screen
        Which fluxes are good enough.
    drop_constructed_reco : bool
        Set RECO missing where ``flux_source`` is ``NEON_NCAR``. RECO is GPP + NEE there by construction: it tells
        nothing about whether the three balance.
    """

    step: Step | None = None
    screen: Screen = field(default_factory=Screen)
    drop_constructed_reco: bool = False

    title: ClassVar[str] = "Tables of tower data by the names of the Variable table"
    citation: ClassVar[str] = (
        "FLUXNET2015: Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3; AmeriFlux; NEON; FluxDataKit"
    )
    licence: ClassVar[str] = "CC-BY-4.0 (FLUXNET2015, AmeriFlux), CC0 (NEON); see the note beside the table"

    def read_sites(self, path: Path | str) -> Sites:
        """Read a tower table.

        Parameters
        ----------
        path : path
            Parquet file, or CSV if the name ends so.

        Returns
        -------
        sites : Sites
            Fluxes in g C m-2 d-1, NEE positive to the atmosphere. Statics that no site has are left out; a static
            that a site lacks is NaN.

        Raises
        ------
        TableError
            If the file cannot be read, lacks a column or breaks a rule of `sites_from_table`.
        """
        path = Path(path)
        table, columns = _named(_read(path), path)
        unknown = _unknown_columns(table)
        table, dates, zones = _with_dates(table)
        facts, places, known = _facts(table)
        table, constructed = self._without_constructed_reco(table)
        table, screened = self.screen.apply(table)
        step = self.step or _find_step(table["date"])
        sites = sites_from_table(table, facts, step, path.name, self.citation, (*columns, *dates, *places))
        return replace(sites, notes=(*unknown, *zones, *known, *constructed, *screened, *sites.notes))

    def _without_constructed_reco(self, table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Return the table, with constructed RECO set missing if so wanted, and a note where there is such RECO."""
        if not {"flux_source", "reco"} <= set(table):
            return table, ()
        constructed = (table["flux_source"] == _CONSTRUCTED_RECO) & table["reco"].notna()
        if not constructed.any():
            return table, ()
        n_sites = table["site"][constructed].nunique()
        note = f"reco of {n_sites} sites is GPP + NEE by construction ({_CONSTRUCTED_RECO})"
        if not self.drop_constructed_reco:
            return table, (f"{note}: no test of the balance",)
        return table.assign(reco=table["reco"].mask(constructed)), (f"{note}: set missing",)


def _unknown_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """Return a note of the columns nobody will read, with the nearest spelling of each where there is one."""
    others = [str(name) for name in table if name not in {*VARIABLES, *_WANTED, *_RENAMED.values(), "flux_source"}]
    if not others:
        return ()
    hints = {name: get_close_matches(name.lower(), VARIABLES, n=1, cutoff=0.8) for name in others}
    words = (f"{name} ({near[0]}?)" if near else name for name, near in hints.items())
    return (f"columns not known and left out: {', '.join(words)}",)


def _read(path: Path) -> pd.DataFrame:
    """Return the table as it stands in the file."""
    wanted = "Give a parquet file, or a CSV file whose name ends in .csv, with columns site, date, lat, lon..."
    if not path.exists():
        message = f"There is no tower table {path}. {wanted}"
        raise TableError(message)
    if path.is_dir():
        message = f"The tower table {path} is a folder. {wanted}"
        raise TableError(message)
    try:
        return _read_csv(path) if path.name.lower().endswith((".csv", ".csv.gz")) else pd.read_parquet(path)
    except UnicodeDecodeError as error:
        message = f"Cannot read the tower table {path}: it is not UTF-8 text ({error.reason}). Save it as CSV in UTF-8."
        raise TableError(message) from error
    except (OSError, ValueError) as error:  # pyarrow and pandas raise children of ValueError for broken files
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        message = f"Cannot read the tower table {path}: {reason}. {wanted}"
        raise TableError(message) from error


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a CSV file with its column names as written, also where one comes twice."""
    names = [str(name).strip() for name in pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]]
    if len(names) == 1 and (mark := next((mark for mark in (";", "\t") if mark in names[0]), None)):
        word = "tabs" if mark == "\t" else "semicolons"
        message = f"its columns are separated by {word}; save it with commas between and points in numbers"
        raise ValueError(message)
    return pd.read_csv(path, low_memory=False).set_axis(names, axis=1)


def _named(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the table by our names, the site as text, and what is wrong with the columns; raise if nothing helps."""
    theirs = [str(name).strip() for name in table]
    table = table.set_axis([_RENAMED.get(name, name) for name in theirs], axis=1)
    problems = [f"no column {_also(name)}{_nearest(name, theirs)}" for name in _WANTED if name not in table]
    for name in dict.fromkeys(table.columns[table.columns.duplicated()]):
        if name in _WANTED or name in VARIABLES:
            written = [each for each in theirs if _RENAMED.get(each, each) == name]
            problems.append(f"column {name}: comes {len(written)} times ({', '.join(written)}); keep one")
    if not {"site", "date"} <= set(table):
        problems += [] if any(name in table for name in MAP_FLUXES) else [NO_FLUX]
        raise TableError(itemise(f"The tower table {path} cannot be used", problems))
    table = table.loc[:, ~table.columns.duplicated()]
    ids = table["site"].map(lambda name: str(name).strip(), na_action="ignore")
    return table.assign(site=ids.mask(ids == "")), problems


def _also(name: str) -> str:
    """Return a name, and how it may be written too."""
    short = next((short for short, ours in _RENAMED.items() if ours == name), None)
    return f"{name} (or {short})" if short else name


def _nearest(name: str, found: list[str]) -> str:
    """Return the column that may have been meant."""
    close = get_close_matches(name, [each.lower() for each in found], n=1, cutoff=0.8)
    meant = next((each for each in found if [each.lower()] == close), None)
    return f"; is it {meant!r}? Names are written small" if meant else ""


def _with_dates(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], tuple[str, ...]]:
    """Return the table with dates as dates, problems of those that cannot be read, and notes."""
    raw = table["date"]
    if pd.api.types.is_datetime64_any_dtype(raw):
        zoned, dates = isinstance(raw.dtype, pd.DatetimeTZDtype), raw.dt.tz_localize(None)
        return table.assign(date=dates), [], _ZONE_NOTE if zoned else ()
    number = pd.api.types.is_numeric_dtype(raw)
    text = raw.map(lambda value: f"{value:.0f}" if number else str(value).strip(), na_action="ignore").astype(object)
    text = text.mask(text == "")
    plain = text.str.replace(_ZONE, r"\1", regex=True)
    good = plain.str.fullmatch(_DATE).fillna(value=False).astype(bool)
    dates = pd.to_datetime(plain.where(good), format="ISO8601", errors="coerce")
    bad = dates.isna() & text.notna()
    problems = []
    if bad.any():
        sites = some(table["site"][bad].dropna().unique())
        example = f"{int(bad.sum())} cells are no dates, such as {text[bad].iloc[0]!r}; write them as 2012-05-31"
        problems.append(f"{sites}, column date: {example}")
    notes = _ZONE_NOTE if (plain != text)[text.notna()].any() else ()
    return table.assign(date=dates)[~bad], problems, notes


def _find_step(dates: pd.Series) -> Step:
    """Return monthly if every date is the first of a month."""
    return "monthly" if len(dates) and (dates.dt.day == 1).all() else "daily"


def _facts(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], tuple[str, ...]]:
    """Return one row per site (coordinates, statics, classes as positions), problems and notes."""
    columns = [name for name in table if name in VARIABLES and VARIABLES[name].role in ("static", "class")]
    places = [name for name in ("latitude", "longitude") if name in table]
    by_site = table.groupby("site")[[*places, *columns]]
    kinds, first = by_site.nunique(), by_site.first()
    problems = [
        f"{site}, columns lat and lon: {count} different coordinates; one site, one place"
        for site, count in kinds[places].max(axis=1).fillna(0).astype(int).items()
        if count > 1
    ]
    changing = ((name, kinds.index[kinds[name] > 1]) for name in columns)
    notes = [
        f"{name}: changes within {len(ids)} sites, the first counts ({some(ids)})" for name, ids in changing if len(ids)
    ]
    coded = code_classes(first)
    for name in (name for name in columns if VARIABLES[name].role == "class"):
        words = first[name][coded[name].isna() & first[name].notna()].astype(str).str.strip()
        if len(words := words[words != ""]):
            known = some(VARIABLES[name].classes, most=len(VARIABLES[name].classes))
            notes.append(f"{name}: no class {words.iloc[0]!r} ({some(words.index)}); known are {known}")
    return coded, problems, tuple(notes)
