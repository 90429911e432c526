"""Smooth shapes on the map, of which the land of the reference world is built."""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation.parameters import strict_dataclass


@strict_dataclass
class Bump:
    """A Gaussian hill on the map."""

    longitude: float
    latitude: float
    width: float
    """Standard deviation east-west, degrees."""
    height: float
    """Standard deviation north-south, degrees."""
    weight: float


def hills(bumps: tuple[Bump, ...], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the sum of Gaussian hills.

    Parameters
    ----------
    bumps : tuple of Bump
        Hills.
    latitude, longitude : ndarray, (n,), degrees
        Places.

    Returns
    -------
    sum : ndarray, (n,)

    Examples
    --------
    >>> hills((Bump(-90.0, 40.0, 2.0, 1.0, 3.0),), np.array([40.0, 45.0]), np.array([-90.0, -90.0])).round(2)
    array([3., 0.])
    """
    total = np.zeros_like(latitude)
    for bump in bumps:
        east, north = (longitude - bump.longitude) / bump.width, (latitude - bump.latitude) / bump.height
        total += bump.weight * np.exp(-0.5 * (east * east + north * north))
    return total


def ramp(middle: float, width: float, longitude: np.ndarray) -> np.ndarray:
    """Return a smooth step from 0 in the east to 1 in the west.

    Parameters
    ----------
    middle, width : float, degrees
        Where it is 1/2, and how wide it is.
    longitude : ndarray, (n,), degrees
        Places.

    Returns
    -------
    step : ndarray, (n,)

    Examples
    --------
    >>> ramp(-98.0, 2.0, np.array([-120.0, -98.0, -80.0])).round(2)
    array([1. , 0.5, 0. ])
    """
    return 1.0 / (1.0 + np.exp((longitude - middle) / width))
