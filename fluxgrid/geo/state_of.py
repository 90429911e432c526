"""The US state that a point lies in."""

from __future__ import annotations

import numpy as np
import shapely

from fluxgrid.geo import boundaries


def state_of(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the postal code of the state of each point.

    Parameters
    ----------
    latitude, longitude : array_like, any shape, degrees
        Such as the cell centres of a `Grid`: ``lon, lat = grid.lonlat()``.

    Returns
    -------
    state : ndarray of str, same shape
        Empty outside the 50 states and the District of Columbia, as on the sea and the Great Lakes, and where a
        coordinate is NaN. A point on a border belongs to the state that comes first in `boundaries.states`.

    Examples
    --------
    >>> state_of([41.6, 44.0, 50.0], [-93.6, -87.0, -97.0]).tolist()
    ['IA', '', '']
    """
    y, x = np.broadcast_arrays(np.asarray(latitude, np.float64), np.asarray(longitude, np.float64))
    found = np.full(x.shape, "", dtype="<U2")
    frame = boundaries.states()
    for postal, shape in zip(frame["postal"], frame.geometry, strict=True):
        west, south, east, north = shape.bounds
        near = (found == "") & (x >= west) & (x <= east) & (y >= south) & (y <= north)
        shapely.prepare(shape)
        inside = np.zeros(x.shape, bool)
        inside[near] = shapely.intersects_xy(shape, x[near], y[near])
        found[inside] = postal
    return found
