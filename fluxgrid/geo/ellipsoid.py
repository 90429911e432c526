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


def projected_area(crs: pyproj.CRS, x: np.ndarray, y: np.ndarray, resolution: tuple[float, float]) -> np.ndarray:
    """Return the area on the ellipsoid of the cells of a projected grid.

    Parameters
    ----------
    crs : pyproj.CRS
        Projected.
    x, y : ndarray, (y, x), units of the CRS
        Cell centres.
    resolution : (float, float), units of the CRS
        Width and height of a cell.

    Returns
    -------
    area : ndarray, (y, x), m2
        Map area over the areal scale at the centre; NaN where the projection is not defined.
    """
    axis_x, axis_y = crs.axis_info[:2]
    flat = resolution[0] * axis_x.unit_conversion_factor * resolution[1] * axis_y.unit_conversion_factor
    lon, lat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
    scale = np.asarray(pyproj.Proj(crs).get_factors(lon, lat).areal_scale)
    return flat / np.where(np.isfinite(scale), scale, np.nan)
