"""Reading polygon files that others made."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, GeometryError

from fluxgrid.errors import RegionNotFound

_UNREADABLE = (DataSourceError, DataLayerError, GeometryError, OSError, ValueError)


def read_polygons(path: Path) -> shapely.Polygon | shapely.MultiPolygon:
    """Return the union of all polygons of a file in longitude and latitude.

    Parameters
    ----------
    path : Path
        Any format GDAL reads, or GeoParquet; in any CRS. Invalid polygons are mended, points and lines left out.

    Returns
    -------
    polygon : shapely geometry, EPSG:4326

    Raises
    ------
    RegionNotFound
        If the file cannot be read, has no CRS or no polygon, or reaches off the globe.
    """
    frame = _read(path)
    if frame.crs is None:
        message = (
            f"The polygons of {path} have no coordinate reference system. Write one into the file (a .prj beside a "
            "shapefile; ogr2ogr -a_srs EPSG:4326)."
        )
        raise RegionNotFound(message)
    shapes = [areal(shapely.make_valid(shape)) for shape in frame.geometry if shape is not None]
    union = areal(_degrees(gpd.GeoSeries(shapes, crs=frame.crs)).union_all())
    if union.is_empty:
        message = (
            f"{path} has no polygon with an area; its shapes are {sorted(set(frame.geom_type.dropna())) or 'none'}."
        )
        raise RegionNotFound(message)
    west, south, east, north = union.bounds
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        reach = f"{west:.6g} to {east:.6g} degrees east, {south:.6g} to {north:.6g} degrees north"
        message = (
            f"The polygons of {path} reach from {reach}: off the globe (-180..180, -90..90). Check that its CRS, "
            f"{frame.crs.name}, is the right one."
        )
        raise RegionNotFound(message)
    return union


def areal(shape: shapely.Geometry) -> shapely.Polygon | shapely.MultiPolygon:
    """Return the polygons of a geometry, without points, lines and empty parts.

    Parameters
    ----------
    shape : shapely geometry

    Examples
    --------
    >>> areal(shapely.GeometryCollection([shapely.Point(0, 0), shapely.box(0, 0, 1, 2)])).area
    2.0
    """
    parts = shapely.get_parts(shapely.get_parts(shape))
    polygons = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _read(path: Path) -> gpd.GeoDataFrame:
    """Return the table of a polygon file."""
    try:
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        frame = gpd.read_parquet(path) if parquet else gpd.read_file(path)
    except _UNREADABLE as error:
        message = (
            f"{path} cannot be read as polygons: {error}. Give a GeoPackage, GeoJSON, shapefile or GeoParquet file."
        )
        raise RegionNotFound(message) from error
    if not isinstance(frame, gpd.GeoDataFrame):
        message = f"{path} is a table without polygons. Give a GeoPackage, GeoJSON, shapefile or GeoParquet file."
        raise RegionNotFound(message)
    return frame


def _degrees(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    """Return shapes in longitude and latitude; long sides of projected ones are cut so that they keep their course."""
    if shapes.crs.is_projected and not shapes.is_empty.all():
        west, south, east, north = shapes.total_bounds
        shapes = shapes.segmentize(np.hypot(east - west, north - south) / 1000)
    return shapes.to_crs("EPSG:4326").make_valid()
