"""Land of the synthetic world: cover, soil, height and climate group, as smooth functions of place."""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation.noise import random_field
from fluxgrid.simulation.parameters import WORLD, Bump
from fluxgrid.variables import CLIMATE_GROUPS


def land(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return the statics of places, before rounding to float32.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), float64, degrees
        Places.

    Returns
    -------
    statics : dict of ndarray, (n,), float64
        ``crop_fraction``, ``forest_fraction``, ``grass_fraction`` (sum below 1), ``field_capacity`` m3 m-3,
        ``elevation`` m.
    """
    return {
        **_cover(latitude, longitude),
        "field_capacity": _field_capacity(latitude, longitude),
        "elevation": _elevation(latitude, longitude),
    }


def climate_group(mean: np.ndarray, amplitude: np.ndarray, rain: np.ndarray) -> np.ndarray:
    """Return the main Koeppen-Geiger group: arid, temperate or continental.

    Parameters
    ----------
    mean, amplitude : ndarray, (n,), degC
        Annual mean temperature and half its July-January range.
    rain : ndarray, (n,), mm
        Annual precipitation.

    Returns
    -------
    group : ndarray, (n,), float64
        Index into `fluxgrid.variables.CLIMATE_GROUPS`.

    Notes
    -----
    Kottek et al. 2006, doi:10.1127/0941-2948/2006/0130: arid below twice the dryness threshold in cm, temperate where
    the coldest month is above -3 degC.

    Examples
    --------
    >>> climate_group(np.array([5.0, 14.0]), np.array([16.0, 12.0]), np.array([700.0, 1000.0]))
    array([3., 2.])
    """
    arid, temperate, continental = (float(CLIMATE_GROUPS.index(name)) for name in ("arid", "temperate", "continental"))
    group = np.where(mean - amplitude > -3.0, temperate, continental)
    return np.where(rain < 20.0 * mean + WORLD.land.arid_mm, arid, group)


def _cover(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return shares of crop, forest and grass: preferences through a softmax with a fourth, unnamed cover."""
    p = WORLD.land
    west = 1.0 / (1.0 + np.exp((longitude - p.grass_longitude) / 1.6))
    preferences = [
        _hills(p.crop, latitude, longitude),
        _hills(p.forest, latitude, longitude),
        p.grass_base + p.grass_west * west,
        np.full_like(latitude, p.other_base),
    ]
    weights = [
        np.exp(preference + p.cover_noise * random_field(waves, latitude, longitude))
        for preference, waves in zip(preferences, p.cover_waves, strict=True)
    ]
    total = weights[0] + weights[1] + weights[2] + weights[3]
    names = ("crop_fraction", "forest_fraction", "grass_fraction")
    return {name: weight / total for name, weight in zip(names, weights[:3], strict=True)}


def _hills(bumps: tuple[Bump, ...], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the sum of Gaussian hills, (n,)."""
    total = np.zeros_like(latitude)
    for bump in bumps:
        east, north = (longitude - bump.longitude) / bump.width, (latitude - bump.latitude) / bump.height
        total += bump.weight * np.exp(-0.5 * (east * east + north * north))
    return total


def _field_capacity(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return water content at field capacity, m3 m-3: silt loam with sandy places."""
    p = WORLD.land
    noise = p.field_capacity_noise * random_field(p.soil_waves, latitude, longitude)
    return np.clip(p.field_capacity + noise + _hills((p.sandhills,), latitude, longitude), 0.08, 0.45)


def _elevation(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return height, m: lowlands that rise to the High Plains."""
    p = WORLD.land
    west = 1.0 / (1.0 + np.exp((longitude - p.height_longitude) / 2.3))
    smooth = p.height_m + p.height_west_m * west
    return np.maximum(smooth * (1.0 + p.height_noise * random_field(p.height_waves, latitude, longitude)), 60.0)
