"""What a map must beat as well: the record of the nearest tower of the same vegetation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Site, Sites
from fluxgrid.evaluation.baselines import season_cycle, season_slots
from fluxgrid.variables import MAP_FLUXES

_KM_PER_DEGREE = 111.2
_KIN: dict[str | None, tuple[str | None, ...]] = {"MF": ("MF", "DBF", "ENF")}
"""Classes whose towers stand for another class."""


@dataclass(frozen=True, eq=False)
class NearestTower:
    """Fluxes of the nearest tower of a site's vegetation class."""

    towers: Sites
    cycles: Mapping[str, Mapping[str, np.ndarray]]
    """Mean seasonal cycle of each tower, (slot,) by flux."""

    def nearest(self, site: Site) -> Site:
        """Return the nearest tower of the site's class, or of any class where training has none of it.

        Parameters
        ----------
        site : Site

        Returns
        -------
        tower : Site
        """
        name = site.class_name("igbp")
        names = _KIN.get(name, (name,))
        alike = [tower for tower in self.towers if tower.class_name("igbp") in names] or list(self.towers)
        return min(alike, key=lambda tower: _distance_km(site, tower))

    def predict(self, site: Site) -> pd.DataFrame:
        """Return what the nearest tower saw on the same day, or its mean of the season where it saw nothing.

        Parameters
        ----------
        site : Site

        Returns
        -------
        fluxes : DataFrame, (time, flux), g m-2 d-1
            Columns gpp, reco, nee; NaN where the tower never saw the season.
        """
        tower = self.nearest(site)
        slots = season_slots(site, self.towers.step)
        seen = tower.series.reindex(site.series.index)
        columns = {
            flux: np.where(seen[flux].notna(), seen[flux], self.cycles[tower.id][flux][slots]).astype(np.float32)
            for flux in ("gpp", "reco", "nee")
        }
        return pd.DataFrame(columns, index=site.series.index)


def fit_nearest(train: Sites, inputs: Sequence[str] = ()) -> NearestTower:
    """Keep the towers that saw all fluxes, with the mean seasonal cycle of each.

    Parameters
    ----------
    train : Sites
        Training sites only.
    inputs : sequence of str
        Not used; here so that all baselines are fitted alike.

    Returns
    -------
    nearest : NearestTower
    """
    del inputs
    complete = [
        site for site in train if all(flux in site.series and site.series[flux].notna().any() for flux in MAP_FLUXES)
    ]
    cycles = {site.id: {flux: season_cycle([site], flux, train.step) for flux in MAP_FLUXES} for site in complete}
    return NearestTower(train.select(tuple(cycles)), cycles)


def _distance_km(one: Site, other: Site) -> float:
    """Return the distance of two sites on a plane, good enough to find the nearest within a continent."""
    middle = np.deg2rad(0.5 * (one.latitude + other.latitude))
    east = (one.longitude - other.longitude) * np.cos(middle)
    return float(_KM_PER_DEGREE * np.hypot(one.latitude - other.latitude, east))
