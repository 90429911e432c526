"""Distances on the sphere."""

from __future__ import annotations

import numpy as np

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (2a + b) / 3 of GRS 80 (Moritz 2000, https://doi.org/10.1007/s001900050278)."""


def great_circle_km(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> np.ndarray:
    """Return the great-circle distances between two sets of points.

    Parameters
    ----------
    latitude, longitude : array_like, (n,), degrees
    other_latitude, other_longitude : array_like, (m,), degrees

    Returns
    -------
    distance : ndarray, (n, m), float64, km
        Each from its own two points alone, bit for bit.

    Notes
    -----
    2 R arcsin(c / 2), with c the chord between unit vectors: as exact as the haversine at small distances, and without
    a sine for every pair.

    Examples
    --------
    >>> great_circle_km([0.0], [0.0], [0.0, 90.0], [180.0, 7.0]).round(1)
    array([[20015.1, 10007.6]])
    """
    one, other = _unit_vectors(latitude, longitude), _unit_vectors(other_latitude, other_longitude)
    # axis by axis, since a matrix product may round a row differently with the number of rows
    square = np.zeros((len(one[0]), len(other[0])))
    for a, b in zip(one, other, strict=True):
        square += (a[:, None] - b) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(0.5 * np.sqrt(square), 1.0))


def _unit_vectors(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, z of points on the unit sphere, each (n,)."""
    phi, lam = (np.radians(np.asarray(degrees, np.float64)) for degrees in (latitude, longitude))
    return np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
