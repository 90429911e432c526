"""Which cells of a map are land, which lie in the region, and what that leaves out."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import Region

_CUT_TOLERANCE = 2e-3
"""Share of a region that may lie outside a cube unsaid: shares of cells are exact to some 1e-4."""
_DRY_TOLERANCE = 0.01
"""Share of a region without land that is not worth a word: a lake, a piece of coast."""


def region_share(region: Region, grid: Grid) -> np.ndarray:
    """Return the share of each cell inside a region, (y, x), 0-1."""
    outline = gpd.GeoSeries([region.polygon], crs="EPSG:4326")
    return np.asarray(grid.coverage(outline).toarray(), np.float64).reshape(grid.shape)


def land_share(grid: Grid) -> np.ndarray:
    """Return the share of land in each cell, float32 (y, x), 0-1.

    In the United States the Census outlines tell land from sea and Great Lakes. A map without any US land has none that
    fluxgrid knows of: all its cells count as land.
    """
    land = land_fraction(grid)
    return land if land.any() else np.ones(grid.shape, np.float32)


def land_warning(region: Region, grid: Grid, share: np.ndarray, land: np.ndarray) -> tuple[str, ...]:
    """Warn where a box or polygon holds ground of which fluxgrid cannot say whether it is land.

    Parameters
    ----------
    region : Region
    grid : Grid
        Of the map.
    share : ndarray, (y, x), 0-1
        Share of each cell inside the region.
    land : ndarray, (y, x), 0-1
        Share of land, from `land_share`.

    Returns
    -------
    warnings : tuple of str
        One, or none.
    """
    if region.states:
        return ()
    if not land_fraction(grid).any():
        return (
            f"{region.title} lies outside the United States, where no coast is known here: every cell counts as land.",
        )
    area = share * grid.cell_area()
    dry = float(area[land == 0].sum() / area.sum())
    if dry < _DRY_TOLERANCE:
        return ()
    return (
        f"{dry:.1%} of {region.title} holds no land of the United States: water or ground beyond the border, which "
        "fluxgrid cannot tell apart. It is flagged as water and not predicted.",
    )


def cut_warning(region: Region, grid: Grid, share: np.ndarray) -> tuple[str, ...]:
    """Warn where the cube holds a region only in part: its map and totals then end with the cube.

    Parameters
    ----------
    region : Region
    grid : Grid
        Of the map.
    share : ndarray, (y, x), 0-1
        Share of each cell inside the region.

    Returns
    -------
    warnings : tuple of str
        One, or none.
    """
    # edges of a box are parallels, not geodesics: short pieces of both are the same
    outline = shapely.segmentize(region.polygon, 0.1)
    whole = abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(outline)[0])
    inside = float((share * grid.cell_area()).sum()) / whole
    if inside > 1 - _CUT_TOLERANCE:
        return ()
    return (
        f"The cube holds only {inside:.1%} of {region.title}: map and totals end where the cube ends, and the totals "
        "of states and counties cover just that part.",
    )
