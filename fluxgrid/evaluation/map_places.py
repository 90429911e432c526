"""Where the cells of a map lie: land inside the region, state, main cover; what scores are weighted and grouped by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import Region
from fluxgrid.output.totals import Units, land_units

COVERS = (
    "corn and soybean",
    "small grain",
    "grass",
    "deciduous forest",
    "evergreen forest",
    "wetland",
    "water and built-up",
)
"""Main covers of cells. Corn and soybean are one: they take turns in most fields."""

# of the columns of `fluxgrid.simulation.land`: three rotations of corn and soybean, then the perennial covers
_COVER_OF_COLUMN = (0, 0, 0, 1, 2, 3, 4, 5)
_LEAST_SHARE = 1e-6  # of a cell: less land than this is rounding of the outlines


@dataclass(frozen=True, eq=False)
class MapPlaces:
    """The land of a region and of its states in the cells of a map."""

    grid: Grid
    units: Units
    """Region (first row) and states with their land in each cell."""

    @cached_property
    def weight(self) -> np.ndarray:
        """Land of the region in each cell, (cells,), m2; cells run along rows from the upper left."""
        land = self.units.land[0].toarray().ravel()
        return np.where(land > _LEAST_SHARE * self.grid.cell_area().ravel(), land, 0.0)

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Names of the states, in the order of `state`."""
        return tuple(self.units.table["name"][1:])

    @cached_property
    def state(self) -> np.ndarray:
        """State with most land in each cell, (cells,), -1 where the region has none."""
        most = np.asarray(self.units.land[1:].tocsc().argmax(axis=0)).ravel()
        return np.where(self.weight > 0, most, -1)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Return values (..., cells) as (..., y, x)."""
        return values.reshape(*values.shape[:-1], *self.grid.shape)


def map_places(region: Region, grid: Grid, region_land: np.ndarray | None = None) -> MapPlaces:
    """Return where the cells of a map lie.

    Parameters
    ----------
    region : Region
    grid : Grid
        Of the map.
    region_land : ndarray, (y, x), 0-1, optional
        Share of each cell that is land of the region, where the map says so itself; it wins over the polygons.

    Returns
    -------
    places : MapPlaces
    """
    land = land_fraction(grid)
    units = land_units(region, grid, land if land.any() else np.ones(grid.shape, np.float32), levels=("state",))
    if region_land is not None:
        units = _scaled(units, np.nan_to_num(region_land, nan=0.0).ravel() * grid.cell_area().ravel())
    return MapPlaces(grid, units)


def _scaled(units: Units, land: np.ndarray) -> Units:
    """Return the places with their land scaled so that the region has this much in each cell, (cells,), m2."""
    here = units.land[0].toarray().ravel()
    factor = np.divide(land, here, out=np.zeros_like(here), where=here > 0)
    return Units(units.table, (units.land @ sparse.diags(factor)).tocsc())


def main_cover(shares: np.ndarray) -> np.ndarray:
    """Return which of `COVERS` takes most of each place.

    Parameters
    ----------
    shares : ndarray, (n, 8), 0-1
        Of the soil columns of the reference world; what is left is water and built-up land.

    Returns
    -------
    cover : ndarray of int, (n,)
        The last class only where there is no vegetation at all.

    Examples
    --------
    >>> COVERS[main_cover(np.array([[0.2, 0.2, 0.1, 0, 0, 0.4, 0, 0]]))[0]]
    'corn and soybean'
    """
    grouped = np.zeros((len(shares), len(COVERS)))
    for column, cover in enumerate(_COVER_OF_COLUMN):
        grouped[:, cover] += shares[:, column]
    return np.where(grouped.any(axis=1), grouped.argmax(axis=1), len(COVERS) - 1)
