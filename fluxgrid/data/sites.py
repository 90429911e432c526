"""Flux towers: one `Site` per tower, `Sites` for a set of them, and the groups that folds keep together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from fluxgrid.data.site_checks import blank_outliers, check_site_table, some
from fluxgrid.data.site_units import blank_small_units
from fluxgrid.data.steps import Step, calendar
from fluxgrid.errors import TableError, itemise
from fluxgrid.geo.sphere import great_circle_km
from fluxgrid.registry import unknown_name
from fluxgrid.variables import MAP_FLUXES, SERIES_ROLES, VARIABLES, get_variable

GROUP_DISTANCE_KM = 10.0
"""Sites nearer than this belong to one group: they share weather, and at 0.1 degrees often the cell."""

CAMPAIGN_DISTANCE_KM = 150.0
"""Reach of a group whose ids differ only in a final digit: the plots of one campaign, such as CA-NS1 to CA-NS7."""


# The five words of the FLUXNET monthly table, and words of other tables, for our names of the climate groups.
_CLASS_ALIASES = {"climate_group": {"arctic": "polar", "boreal": "continental", "dry": "arid", "cold": "continental"}}


@dataclass(frozen=True, eq=False)
class Site:
    """One flux tower: where it stands, what grows there, and its series on a complete calendar."""

    id: str
    """AmeriFlux or FLUXNET id, such as US-Ha1."""
    latitude: float
    """Degrees north."""
    longitude: float
    """Degrees east, -180 to 180."""
    group: str
    """Sites of one place share it; no fold parts them."""
    statics: Mapping[str, float]
    """Values by the names of VARIABLES; classes as positions, NaN where unknown."""
    series: pd.DataFrame
    """(time, variable) float32 in the units of VARIABLES, NaN where missing; every step of the calendar has a row."""

    def class_name(self, variable: str) -> str | None:
        """Return the site's class of a class variable as text.

        Parameters
        ----------
        variable : str
            ``igbp``, ``climate_group`` or ``koppen``.

        Returns
        -------
        name : str or None
            None where the class is unknown.
        """
        index = self.statics.get(variable, np.nan)
        return None if np.isnan(index) else get_variable(variable).classes[int(index)]


@dataclass(frozen=True, eq=False)
class Sites:
    """A set of flux towers of one time step, with the source they come from."""

    step: Step
    """Time step of every series."""
    sites: tuple[Site, ...]
    """In the order of their ids."""
    source: str
    """What was read."""
    citation: str
    """How to cite it."""
    notes: tuple[str, ...] = ()
    """What was dropped or set missing on the way in, with counts."""

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, site_id: str) -> Site:
        for site in self.sites:
            if site.id == site_id:
                return site
        error = unknown_name("site", site_id, self.ids)
        raise error

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the sites, in order."""
        return tuple(site.id for site in self.sites)

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each site, in the order of `ids`."""
        return tuple(site.group for site in self.sites)

    def select(self, ids: Iterable[str]) -> Sites:
        """Return the named sites, in the order of this set.

        Parameters
        ----------
        ids : iterable of str
            Ids to keep.

        Returns
        -------
        sites : Sites

        Raises
        ------
        UnknownName
            If an id is not in the set.
        """
        wanted = set(ids)
        if unknown := sorted(wanted - set(self.ids)):
            error = unknown_name("site", unknown[0], self.ids)
            raise error
        return replace(self, sites=tuple(site for site in self.sites if site.id in wanted))

    def with_targets(self, names: Sequence[str], minimum: int = 1) -> Sites:
        """Return the sites where every named flux was observed often enough.

        Parameters
        ----------
        names : sequence of str
            Fluxes such as ``gpp``.
        minimum : int
            Least number of steps with a value, for each flux by itself.

        Returns
        -------
        sites : Sites
            With a note of how many were left out.

        Raises
        ------
        UnknownName
            If a name is not in VARIABLES.
        """
        for name in names:
            get_variable(name)
        few = [site.id for site in self.sites if _observed(site, names) < minimum]
        return self.without(few, f"fewer than {minimum} steps of {', '.join(names)}")

    def without(self, ids: Sequence[str], reason: str) -> Sites:
        """Return the other sites, with a note of how many were left out and why.

        Parameters
        ----------
        ids : sequence of str
            Ids to leave out; none, and nothing changes.
        reason : str

        Returns
        -------
        sites : Sites
        """
        if not ids:
            return self
        kept = tuple(site for site in self.sites if site.id not in set(ids))
        return replace(self, sites=kept, notes=(*self.notes, f"{len(ids)} sites left out: {reason} ({some(ids)})"))


def _observed(site: Site, names: Sequence[str]) -> int:
    """Return the number of observed steps of the flux that has fewest."""
    counts = (int(site.series[name].notna().sum()) if name in site.series else 0 for name in names)
    return min(counts, default=0)


def site_groups(
    ids: Sequence[str],
    latitude: Sequence[float],
    longitude: Sequence[float],
    distance_km: float = GROUP_DISTANCE_KM,
    campaign_km: float = CAMPAIGN_DISTANCE_KM,
) -> tuple[str, ...]:
    """Return the group of each site: sites that tell of the same place get one name.

    Two sites are linked if they are nearer than ``distance_km``, or if their ids differ only in a final digit and
    they are nearer than ``campaign_km``; linked sites, and those linked to them, are one group (single linkage on
    great-circle distance). The second rule joins the plots of one campaign that no small distance would: CA-NS6 and
    CA-NS7 lie 27 and 100 km from the nearest other plot of their fire chronosequence.

    Parameters
    ----------
    ids : sequence of str
    latitude : sequence of float
        Degrees north.
    longitude : sequence of float
        Degrees east.
    distance_km, campaign_km : float
        Distances in km.

    Returns
    -------
    groups : tuple of str
        The first id, in alphabetical order, of each site's group; does not depend on the order of the sites.

    Examples
    --------
    >>> site_groups(["US-B", "US-A", "US-C"], [40.0, 40.01, 41.0], [-90.0, -90.0, -90.0])
    ('US-A', 'US-A', 'US-C')
    """
    if not len(ids):
        return ()
    points = np.asarray(latitude, float), np.asarray(longitude, float)
    distance = great_circle_km(*points, *points)
    stems = np.array([name[:-1] if name[-1].isdigit() else f"{name}!" for name in ids])
    linked = (distance <= distance_km) | ((distance <= campaign_km) & (stems[:, None] == stems[None, :]))
    _, labels = connected_components(linked, directed=False)
    first = {label: min(np.asarray(ids, object)[labels == label]) for label in set(labels)}
    return tuple(first[label] for label in labels)


def class_index(variable: str, name: object) -> float:
    """Return the position of a class in its Variable, NaN where there is no such class.

    Parameters
    ----------
    variable : str
        ``igbp``, ``climate_group`` or ``koppen``.
    name : object
        Class as text, in any case; words of other tables are understood ("Arctic" is polar). Anything else is NaN.

    Returns
    -------
    index : float

    Examples
    --------
    >>> class_index("climate_group", "Arctic"), class_index("igbp", "CRO"), class_index("igbp", None)
    (4.0, 0.0, nan)
    """
    text = name.strip().lower() if isinstance(name, str) else ""
    text = _CLASS_ALIASES.get(variable, {}).get(text, text)
    known = [each.lower() for each in get_variable(variable).classes]
    return float(known.index(text)) if text in known else float("nan")


def climate_group_of(koppen: object) -> float:
    """Return the climate group, as a position, that a Koeppen code belongs to by its first letter.

    Parameters
    ----------
    koppen : object
        Code such as ``Dfa``; anything else is NaN.

    Returns
    -------
    index : float

    Examples
    --------
    >>> climate_group_of("Dfa"), climate_group_of(None)
    (3.0, nan)
    """
    position = "ABCDE".find(koppen.strip()[:1].upper()) if isinstance(koppen, str) and koppen.strip() else -1
    return float(position) if position >= 0 else float("nan")


def sites_from_table(
    table: pd.DataFrame, facts: pd.DataFrame, step: Step, source: str, citation: str, found: Sequence[str] = ()
) -> Sites:
    """Check a long table of towers at the door and make Sites of it.

    Values far outside the valid range of their Variable are set missing where they are few, and a site's column where
    it must be in another unit; both are noted. Sites without any of NEE, GPP and RECO are dropped, and counted in the
    notes, as are sites of no known class. Negative fluxes stay as they are.

    Parameters
    ----------
    table : DataFrame
        Columns ``site``, ``date`` and series by the names and in the units of VARIABLES; other columns are ignored.
    facts : DataFrame
        Index site id; columns ``latitude``, ``longitude`` and statics by the names of VARIABLES, classes as positions.
    step : {"daily", "monthly"}
    source, citation : str
        What is read and how to cite it.
    found : sequence of str
        Problems that the reader has found already; they are told with all others.

    Returns
    -------
    sites : Sites
        In the order of their ids, each on a complete calendar.

    Raises
    ------
    TableError
        If anything is wrong; the message lists every problem with site and column.
    """
    problems = check_site_table(table, facts, step, found)
    if problems:
        raise TableError(itemise(f"The towers of {source} cannot be used", problems))
    table, outliers = blank_outliers(table)
    table, small = blank_small_units(table, step)
    has_flux = table[[name for name in MAP_FLUXES if name in table]].notna().any(axis=1)
    kept = sorted(set(table["site"][has_flux]))
    dropped = sorted(set(table["site"]) - set(kept))
    notes = [*outliers, *small]
    if dropped:
        notes.append(f"{len(dropped)} sites dropped: no NEE, GPP or RECO at all ({', '.join(dropped)})")
    notes += _unknown_classes(facts.loc[kept])
    return Sites(step, _make_sites(table, facts.loc[kept], step), source, citation, tuple(notes))


def _unknown_classes(facts: pd.DataFrame) -> Iterator[str]:
    """Yield how many sites have no known class."""
    for name in (name for name in facts if name in VARIABLES and VARIABLES[name].role == "class"):
        if len(unknown := facts.index[facts[name].isna()]):
            yield f"{name}: {len(unknown)} sites of no known class ({some(unknown)})"


def _make_sites(table: pd.DataFrame, facts: pd.DataFrame, step: Step) -> tuple[Site, ...]:
    """Return one Site per row of facts."""
    columns = [name for name in VARIABLES if name in table and VARIABLES[name].role in SERIES_ROLES]
    statics = [name for name in VARIABLES if name in facts and VARIABLES[name].role in ("static", "class")]
    numbers = facts[["latitude", "longitude", *statics]].astype(float).to_dict("index")
    groups = site_groups(list(facts.index), facts["latitude"].tolist(), facts["longitude"].tolist())
    rows = {str(name): part for name, part in table.set_index("date")[["site", *columns]].groupby("site")}
    return tuple(
        Site(
            id=str(name),
            latitude=round(values["latitude"], 5),  # a metre; tables of float32 carry noise behind it
            longitude=round(values["longitude"], 5),
            group=group,
            statics={static: values[static] for static in statics},
            series=_on_calendar(rows[str(name)][columns], step),
        )
        for (name, values), group in zip(numbers.items(), groups, strict=True)
    )


def _on_calendar(series: pd.DataFrame, step: Step) -> pd.DataFrame:
    """Return the series with a row for every step from its first to its last."""
    complete = calendar(series.index[0], series.index[-1], step).rename("time")
    return series.reindex(complete).astype(np.float32)
