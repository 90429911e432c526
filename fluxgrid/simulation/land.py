"""Land of the reference world: cover, rotation, soil, height and climate class, as functions of place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxgrid.simulation.arithmetic import rounded
from fluxgrid.simulation.climate import climate_group, koppen, monthly_normals
from fluxgrid.simulation.noise import Waves, random_field
from fluxgrid.simulation.parameters import load_section, strict_dataclass
from fluxgrid.simulation.patches import Patches, patchy_field
from fluxgrid.simulation.soil import SoilParameters, topsoil
from fluxgrid.simulation.terrain import Bump, hills, ramp
from fluxgrid.variables import IGBP_CLASSES

COLUMNS = ("corn_soy", "soy_corn", "corn_corn", "small_grain", "grass", "deciduous", "evergreen", "wetland")
"""What grows on the parts of a place: corn_soy has corn in odd years and soybean in even ones, soy_corn the reverse."""

_COVERS = ("row_crop", "small_grain", "grass", "deciduous", "evergreen", "wetland", "other")


@strict_dataclass
class Cover:
    """The preference of a place for a cover: hills on a base, and noise."""

    base: float
    hills: tuple[Bump, ...]
    west: float = 0.0
    """Gain on the Plains, beyond `CoverParameters.plains_longitude`."""
    seed: int = 0
    fine_seed: int = 0


@strict_dataclass
class CoverParameters:
    """Shares of covers, by a softmax of preferences."""

    plains_longitude: float
    plains_width: float
    length_km: float
    noise: float
    fine_spacing_km: float
    fine_noise: float
    waves: int
    least: float
    """Shares below go to the others."""
    water: float
    """Part of the other land that is water."""
    lakes: tuple[Bump, ...]
    mixed: float
    """Least part of the rarer forest in a mixed forest."""
    row_crop: Cover
    small_grain: Cover
    grass: Cover
    deciduous: Cover
    evergreen: Cover
    wetland: Cover
    other: Cover


@strict_dataclass
class Rotation:
    """How row crops follow each other."""

    continuous: float
    """Logit of the share of row crops under corn every year."""
    continuous_hills: tuple[Bump, ...]
    continuous_noise: Waves
    continuous_spread: float
    odd_years: Waves
    odd_spread: float
    odd_fine: Patches
    odd_fine_spread: float


@strict_dataclass
class Relief:
    """Height."""

    low_m: float
    west_m: float
    west_longitude: float
    west_width: float
    hills: tuple[Bump, ...]
    noise: Waves
    spread: float
    """Relative."""
    least_m: float


@strict_dataclass
class LandParameters:
    """Cover, soil and height."""

    cover: CoverParameters
    rotation: Rotation
    soil: SoilParameters
    relief: Relief


LAND = load_section("land", LandParameters)


@dataclass(frozen=True)
class Places:
    """Points of the world with their land; the points are in no order and of no grid."""

    latitude: np.ndarray
    """Degrees north, (n,), float64."""
    longitude: np.ndarray
    """Degrees east, (n,), float64."""
    statics: dict[str, np.ndarray]
    """Soil, cover, height and classes by name, (n,), in the units of the variable table."""
    shares: np.ndarray
    """Parts of the place under each of `COLUMNS`, (n, 8); the rest is water and built-up land without fluxes."""


def places_at(latitude: np.ndarray, longitude: np.ndarray) -> Places:
    """Return places with their land.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places of the central US; outside the bounds of the world the formulas were never looked at.

    Returns
    -------
    places : Places

    Examples
    --------
    >>> place = places_at(np.array([42.0]), np.array([-93.5]))
    >>> IGBP_CLASSES[int(place.statics["igbp"][0])]
    'CRO'
    """
    latitude, longitude = (np.ascontiguousarray(part, dtype=np.float64) for part in (latitude, longitude))
    covers = _cover(latitude, longitude)
    shares = rounded(_columns(covers, latitude, longitude))
    statics = _fractions(shares, latitude, longitude)
    statics["elevation"] = _elevation(latitude, longitude)
    statics |= topsoil(LAND.soil, latitude, longitude, statics["wetland_fraction"])
    statics = {name: rounded(values) for name, values in statics.items()}
    statics["koppen"] = koppen(*monthly_normals(latitude, longitude, statics["elevation"]))
    statics["climate_group"] = climate_group(statics["koppen"])
    statics["igbp"] = _vegetation_class(statics)
    return Places(latitude, longitude, statics, shares)


def crop_shares(places: Places, years: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of places under corn and under soybean.

    Parameters
    ----------
    places : Places
        Where.
    years : array_like of int, (years,)
        Calendar years.

    Returns
    -------
    corn, soybean : ndarray, (n, years), float64

    Examples
    --------
    >>> place = Places(np.zeros(1), np.zeros(1), {}, np.array([[0.5, 0.2, 0.1, 0, 0, 0, 0, 0]]))
    >>> [part.round(1).tolist() for part in crop_shares(place, [2011, 2012])]
    [[[0.6, 0.3]], [[0.2, 0.5]]]
    """
    odd = np.asarray(years) % 2 == 1
    first, second, every = (places.shares[:, k : k + 1] for k in range(3))
    return np.where(odd, first, second) + every, np.where(odd, second, first)


def _cover(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of row crops, small grain, grass, forests, wetland and all other, (n,) each; their sum is 1."""
    p = LAND.cover
    plains = ramp(p.plains_longitude, p.plains_width, longitude)
    weights = {}
    for name in _COVERS:
        cover: Cover = getattr(p, name)
        preference = cover.base + hills(cover.hills, latitude, longitude) + cover.west * plains
        wide = Waves(cover.seed, p.waves, p.length_km, np.inf)
        fine = Patches(cover.fine_seed, p.fine_spacing_km)
        preference += p.noise * random_field(wide, latitude, longitude)
        weights[name] = np.exp(preference + p.fine_noise * patchy_field(fine, latitude, longitude))
    total = np.zeros_like(latitude)
    for weight in weights.values():
        total += weight
    return {name: weight / total for name, weight in weights.items()}


def _columns(covers: dict[str, np.ndarray], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the parts of the columns, (n, 8); those too small to matter are given to the others."""
    p = LAND.rotation
    odds = p.continuous + hills(p.continuous_hills, latitude, longitude)
    odds += p.continuous_spread * random_field(p.continuous_noise, latitude, longitude)
    continuous = covers["row_crop"] * _logistic(odds)
    phase = p.odd_spread * random_field(p.odd_years, latitude, longitude)
    phase += p.odd_fine_spread * patchy_field(p.odd_fine, latitude, longitude)
    rotated = covers["row_crop"] - continuous
    corn_first = rotated * _logistic(phase)
    parts = [corn_first, rotated - corn_first, continuous, *(covers[name] for name in COLUMNS[3:])]
    shares = np.stack(parts, axis=1)
    kept = np.where(shares < LAND.cover.least, 0.0, shares)
    return kept * (shares.sum(axis=1) / kept.sum(axis=1))[:, None]


def _fractions(shares: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return the cover statics, (n,) each."""
    share = dict(zip(COLUMNS, shares.T, strict=True))
    crop = share["corn_soy"] + share["soy_corn"] + share["corn_corn"] + share["small_grain"]
    water = LAND.cover.water + hills(LAND.cover.lakes, latitude, longitude)
    return {
        "crop_fraction": crop,
        "small_grain_fraction": share["small_grain"].copy(),
        "grass_fraction": share["grass"].copy(),
        "forest_fraction": share["deciduous"] + share["evergreen"],
        "evergreen_fraction": share["evergreen"].copy(),
        "wetland_fraction": share["wetland"].copy(),
        "water_fraction": np.clip(1.0 - shares.sum(axis=1), 0.0, 1.0) * np.clip(water, 0.0, 1.0),
    }


def _vegetation_class(statics: dict[str, np.ndarray]) -> np.ndarray:
    """Return the index of the IGBP class of the largest cover, (n,)."""
    forest, evergreen = statics["forest_fraction"], statics["evergreen_fraction"]
    covers = [statics["crop_fraction"], statics["grass_fraction"], forest, statics["wetland_fraction"]]
    largest = np.argmax(np.stack(covers), axis=0)
    needles = evergreen / np.maximum(forest, 1e-9)
    mixed = np.minimum(needles, 1.0 - needles) >= LAND.cover.mixed
    wood = np.where(mixed, "MF", np.where(needles > 0.5, "ENF", "DBF"))
    names = np.choose(largest, [np.full(len(forest), "CRO"), np.full(len(forest), "GRA"), wood, "WET"])
    return np.array([float(IGBP_CLASSES.index(name)) for name in names])


def _elevation(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return height, m: lowlands that rise to the High Plains, and hills."""
    p = LAND.relief
    smooth = p.low_m + p.west_m * ramp(p.west_longitude, p.west_width, longitude)
    smooth = smooth + hills(p.hills, latitude, longitude)
    return np.maximum(smooth * (1.0 + p.spread * random_field(p.noise, latitude, longitude)), p.least_m)


def _logistic(odds: np.ndarray) -> np.ndarray:
    """Return the share that belongs to logarithmic odds."""
    return 1.0 / (1.0 + np.exp(-odds))
