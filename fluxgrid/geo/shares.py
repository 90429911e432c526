"""The exact share of each cell of a grid that lies inside each of many polygons."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from scipy.sparse import csr_matrix

_SEGMENT = 0.05
"""Degrees. A side this long leaves the parallel it follows by under a metre once projected."""


def cell_shares(
    geometries: gpd.GeoSeries,
    bounds: tuple[float, float, float, float],
    shape: tuple[int, int],
    crs: pyproj.CRS | None,
) -> csr_matrix:
    """Return the share of each cell inside each polygon.

    Parameters
    ----------
    geometries : GeoSeries, EPSG:4326
        Polygons.
    bounds : (west, east, south, north), units of the CRS
        Of the grid.
    shape : (ny, nx)
        Of the grid.
    crs : pyproj.CRS or None
        Of a projected grid; None if the grid is in longitude and latitude.

    Returns
    -------
    shares : csr_matrix, (n_geometries, ny * nx), 0-1
    """
    polygons = np.asarray(geometries.values)
    if crs is not None:
        polygons = _project(polygons, bounds, crs)
    west, east, south, north = bounds
    near = np.flatnonzero(shapely.intersects(polygons, shapely.box(west, south, east, north)))
    cells, shares = _extract(polygons[near], bounds, shape)
    rows = np.repeat(near, [len(c) for c in cells])
    index = rows, np.concatenate([np.empty(0, "int64"), *cells])
    # A cell cut by several parts of one polygon comes once per part: csr_matrix adds them up.
    matrix = csr_matrix((np.concatenate([np.empty(0), *shares]), index), shape=(len(polygons), shape[0] * shape[1]))
    matrix.eliminate_zeros()
    return matrix


def _extract(polygons: np.ndarray, bounds: tuple[float, ...], shape: tuple[int, int]) -> tuple[list, list]:
    """Return the cells that each polygon touches and its share of each."""
    if len(polygons) == 0:
        return [], []
    west, east, south, north = bounds
    raster = NumPyRasterSource(np.zeros(shape, "int8"), xmin=west, ymin=south, xmax=east, ymax=north)
    # exactextract wants a CRS and compares nothing when the raster has none: the caller has matched them.
    frame = gpd.GeoDataFrame(geometry=polygons, crs="EPSG:4326")
    table = exact_extract(raster, frame, ["cell_id", "coverage"], output="pandas")
    return list(table["cell_id"]), list(table["coverage"])


def _project(polygons: np.ndarray, bounds: tuple[float, ...], crs: pyproj.CRS) -> np.ndarray:
    """Return longitude-latitude polygons in a projected CRS, with sides that follow parallels.

    What is far from a projection's centre may not be projectable, so polygons are first cut to the grid's surroundings.
    """
    west, east, south, north = bounds
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    around = back.transform_bounds(west, south, east, north, densify_pts=101)
    box = shapely.box(around[0] - 1, around[1] - 1, around[2] + 1, around[3] + 1)
    cut = np.where(shapely.within(polygons, box), polygons, shapely.intersection(polygons, box))
    there = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    return shapely.transform(
        shapely.segmentize(cut, _SEGMENT), lambda points: np.column_stack(there.transform(points[:, 0], points[:, 1]))
    )
