"""What every source of towers offers, the registry of sources, and the screening they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd

from fluxgrid.data.site_checks import as_numbers
from fluxgrid.data.sites import Sites, class_index, climate_group_of
from fluxgrid.errors import ConfigError, TableError, itemise
from fluxgrid.registry import Registry
from fluxgrid.variables import MAP_FLUXES


class SiteSource(Protocol):
    """A reader of one published product of tower data; its options are the fields of a frozen dataclass."""

    title: ClassVar[str]
    """What the product is."""
    citation: ClassVar[str]
    """How to cite it."""
    licence: ClassVar[str]
    """Under which terms it may be used."""

    def read_sites(self, path: Path | str) -> Sites:
        """Return the towers found at a path.

        Parameters
        ----------
        path : path
            File or folder, as published.

        Returns
        -------
        sites : Sites

        Raises
        ------
        TableError
            If anything there cannot be used; the message lists every problem.
        """
        ...


SOURCES: Registry[type[SiteSource]] = Registry("source", group="fluxgrid.sources")
"""Every source by its name; other packages add theirs by the entry-point group ``fluxgrid.sources``."""


@dataclass(frozen=True)
class Screen:
    """Which observed fluxes are good enough; the others are set missing. Forcings are left as they are."""

    minimum_qc: float = 0.0
    """Least ``nee_qc``, the share of measured or well gap-filled half-hours, for a step's fluxes to count."""
    keep_without_qc: bool = True
    """Keep fluxes that come without ``nee_qc``, as about half of the daily table does."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_qc <= 1:
            message = f"minimum_qc is a share of half-hours and cannot be {self.minimum_qc:g}; give 0 to 1."
            raise ConfigError(message)

    def apply(self, table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Set fluxes missing that are not good enough.

        Parameters
        ----------
        table : DataFrame
            Series by the names of VARIABLES.

        Returns
        -------
        table : DataFrame
            A copy where anything changed.
        notes : tuple of str
            How many steps were screened out.
        """
        none = pd.Series(np.nan, index=table.index)
        qc = as_numbers(table["nee_qc"])[0] if "nee_qc" in table else none  # text is told of later, with all else
        bad = (qc < self.minimum_qc) | (qc.isna() & (not self.keep_without_qc))
        fluxes = [name for name in MAP_FLUXES if name in table]
        count = int(table.loc[bad, fluxes].notna().any(axis=1).sum())
        if not count:
            return table, ()
        note = f"fluxes of {count} steps set missing: nee_qc below {self.minimum_qc:g}"
        note += "" if self.keep_without_qc else " or not known"
        return table.assign(**{name: table[name].mask(bad) for name in fluxes}), (note,)


def site_facts(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    """Return the facts of each site of a table that repeats them in every row.

    Parameters
    ----------
    table : DataFrame
        Columns ``site``, ``latitude``, ``longitude`` and others.
    columns : sequence of str
        The others to take: the first value that is known.
    path : Path
        Where it was read, for messages.

    Returns
    -------
    facts : DataFrame
        Index site id; ``latitude``, ``longitude`` and the columns.

    Raises
    ------
    TableError
        Naming every site with more than one place.
    """
    places = ["latitude", "longitude"]
    by_site = table.groupby("site")
    moved = by_site[places].nunique().max(axis=1)
    if (moved > 1).any():
        problems = [
            f"{site}: {count} different coordinates; one site, one place" for site, count in moved.items() if count > 1
        ]
        raise TableError(itemise(f"The tower table {path} cannot be used", problems))
    return by_site[[*places, *columns]].first()


def code_classes(facts: pd.DataFrame) -> pd.DataFrame:
    """Return site facts with classes as positions, and the climate group from the Koeppen code where it is missing.

    Parameters
    ----------
    facts : DataFrame
        Index site id; ``igbp``, ``koppen`` and ``climate_group`` as text, each optional.

    Returns
    -------
    facts : DataFrame
        With ``climate_group`` where either it or ``koppen`` was given.
    """
    coded = facts.copy()
    for name in ("igbp", "koppen", "climate_group"):
        if name in facts:
            coded[name] = _mapped(facts[name], partial(class_index, name))
    if "koppen" in facts:
        from_code = _mapped(facts["koppen"], climate_group_of)
        coded["climate_group"] = coded["climate_group"].fillna(from_code) if "climate_group" in coded else from_code
    return coded


def _mapped(values: pd.Series, function: Callable[[object], float]) -> pd.Series:
    """Return a column of numbers made one by one from a column of text."""
    return pd.Series([function(value) for value in values], index=values.index, dtype=np.float64)
