"""Areas on the WGS 84 ellipsoid.

References
----------
Snyder, J. P. (1987): Map projections - a working manual. US Geological Survey Professional Paper 1395, eq. 3-12
(authalic latitude), https://doi.org/10.3133/pp1395
"""

from __future__ import annotations

import numpy as np
import pyproj

_ELLIPSOID = pyproj.Geod(ellps="WGS84")


def zone_area(south: np.ndarray, north: np.ndarray, width: float) -> np.ndarray:
    """Return the area between two parallels and two meridians, in closed form.

    Parameters
    ----------
    south, north : array_like, degrees
        Latitudes, cut at the poles.
    width : float, degrees
        Of longitude.

    Returns
    -------
    area : ndarray, m2

    Notes
    -----
    a^2 / 2 * dlon * (q(north) - q(south)), with q of Snyder (1987) eq. 3-12.

    Examples
    --------
    >>> round(float(zone_area(-90, 90, 360)) / 1e12, 3)
    510.066
    """
    step = _authalic(north) - _authalic(south)
    return _ELLIPSOID.a**2 / 2 * np.radians(width) * step


def _authalic(latitude: np.ndarray) -> np.ndarray:
    """Return q of Snyder's eq. 3-12: the area north of the equator, in units of a^2 / 2 per radian."""
    sine = np.sin(np.radians(np.clip(latitude, -90, 90)))
    es, e = _ELLIPSOID.es, np.sqrt(_ELLIPSOID.es)
    return (1 - es) * (sine / (1 - es * sine**2) + np.arctanh(e * sine) / e)


def projected_area(crs: pyproj.CRS, x_edges: np.ndarray, y_edges: np.ndarray) -> np.ndarray:
    """Return the area on the ellipsoid of the cells of a projected grid.

    Parameters
    ----------
    crs : pyproj.CRS
        Projected.
    x_edges : ndarray, (nx + 1,), units of the CRS
    y_edges : ndarray, (ny + 1,), units of the CRS

    Returns
    -------
    area : ndarray, (y, x), m2
        NaN where the projection is not defined.

    Notes
    -----
    Longitude and q (Snyder 1987, eq. 3-12) span a plane of equal area, in which a cell is nearly a quadrilateral: its
    area follows from its corners. PROJ's areal scale factors are not used since they take Web Mercator's sphere for the
    Earth (0.07 % off at 42 degrees).
    """
    there = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = there.transform(*np.meshgrid(x_edges, y_edges))
    lon, lat = (np.where(np.isfinite(degrees), degrees, np.nan) for degrees in (lon, lat))
    q = _authalic(lat)
    # Twice the area of a quadrilateral is the cross product of its diagonals.
    lon_1, lon_2 = lon[1:, 1:] - lon[:-1, :-1], lon[1:, :-1] - lon[:-1, 1:]
    q_1, q_2 = q[1:, 1:] - q[:-1, :-1], q[1:, :-1] - q[:-1, 1:]
    cross = np.radians(_turn(lon_1)) * q_2 - np.radians(_turn(lon_2)) * q_1
    return _ELLIPSOID.a**2 / 4 * np.abs(cross)


def _turn(degrees: np.ndarray) -> np.ndarray:
    """Return differences of longitude the short way round."""
    return (degrees + 180) % 360 - 180
