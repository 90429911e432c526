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

from fluxgrid.data.sites import Sites, sites_from_table
from fluxgrid.data.steps import Step
from fluxgrid.errors import TableError, itemise
from fluxgrid.sources.base import SOURCES, Screen, code_classes, site_facts
from fluxgrid.variables import VARIABLES

_RENAMED = {"lat": "latitude", "lon": "longitude", "whc": "water_holding_capacity"}
_WANTED = ("site", "date", "latitude", "longitude")
_CONSTRUCTED_RECO = "NEON_NCAR"


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
        table = _read(path)
        unknown = _unknown_columns(table)
        facts = _facts(table, path)
        table, notes = self._without_constructed_reco(table)
        table, screened = self.screen.apply(table)
        sites = sites_from_table(table, facts, self.step or _find_step(table["date"]), path.name, self.citation)
        return replace(sites, notes=(*unknown, *notes, *screened, *sites.notes))

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
    """Return the table with our names and dates as dates."""
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow and pandas raise children of ValueError for broken files
        message = f"Cannot read the tower table {path}: {error}. Give a parquet or CSV file with columns site, date..."
        raise TableError(message) from error
    table = table.rename(columns=_RENAMED)
    if lacking := [name for name in _WANTED if name not in table]:
        message = itemise(f"The tower table {path} cannot be used", [f"no column {name}" for name in lacking])
        raise TableError(message)
    if not pd.api.types.is_datetime64_any_dtype(table["date"]):
        table["date"] = pd.to_datetime(table["date"], errors="coerce")
    return table


def _find_step(dates: pd.Series) -> Step:
    """Return monthly if every date is the first of a month."""
    return "monthly" if (dates.dt.day == 1).all() else "daily"


def _facts(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return one row per site: coordinates, statics, classes as positions."""
    columns = [name for name in table if name in VARIABLES and VARIABLES[name].role in ("static", "class")]
    return code_classes(site_facts(table, columns, path))
