"""Topsoil of the reference world: texture and carbon from the map, all else from texture and carbon."""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation.noise import Waves, random_field
from fluxgrid.simulation.parameters import strict_dataclass
from fluxgrid.simulation.patches import Patches, patchy_field
from fluxgrid.simulation.terrain import Bump, hills, ramp

CARBON_IN_ORGANIC_MATTER = 0.58
"""Van Bemmelen's factor."""


@strict_dataclass
class Regional:
    """A quantity as hills on a base, with a step to the west and noise of two sizes."""

    base: float
    hills: tuple[Bump, ...]
    west: float = 0.0
    spread: float = 0.0
    fine_spread: float = 0.0
    seed: int = 0
    fine_seed: int = 0


@strict_dataclass
class SoilParameters:
    """Topsoil, 0-30 cm."""

    length_km: float
    fine_spacing_km: float
    waves: int
    west_longitude: float
    west_width: float
    sand: Regional
    """Logarithm of sand over silt."""
    clay: Regional
    """Logarithm of clay over silt."""
    carbon: Regional
    """Logarithm of g kg-1."""
    carbon_sand: float
    """Change of the logarithm per unit mass of sand."""
    carbon_wetland: float
    """Change of the logarithm per unit share of wetland."""
    ph: Regional
    ph_bounds: tuple[float, float]
    compaction: Regional
    """Density over the one that texture and organic matter let expect."""


def topsoil(
    p: SoilParameters, latitude: np.ndarray, longitude: np.ndarray, wetland: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the soil statics of places.

    Parameters
    ----------
    p : SoilParameters
        Section ``land: soil``.
    latitude, longitude : ndarray, (n,), degrees
        Places.
    wetland : ndarray, (n,)
        Share of wetland.

    Returns
    -------
    statics : dict of ndarray, (n,)
        ``sand``, ``silt``, ``soc`` g kg-1; ``ph``; ``cec`` cmol kg-1; ``bulk_density`` Mg m-3; ``field_capacity``,
        ``wilting_point`` m3 m-3; ``saturated_hydraulic_conductivity`` mm h-1.
    """
    sand, clay = (np.exp(_regional(p, part, latitude, longitude)) for part in (p.sand, p.clay))
    total = 1.0 + sand + clay
    sand, clay = sand / total, clay / total
    ph = np.clip(_regional(p, p.ph, latitude, longitude), *p.ph_bounds)
    carbon = np.exp(_regional(p, p.carbon, latitude, longitude) + p.carbon_sand * sand + p.carbon_wetland * wetland)
    organic = np.clip(carbon * 1e-3 / CARBON_IN_ORGANIC_MATTER, 0.0, 0.12)
    compaction = np.clip(_regional(p, p.compaction, latitude, longitude), 0.9, 1.3)
    return {
        "sand": 1000.0 * sand,
        "silt": 1000.0 / total,
        "soc": carbon,
        "ph": ph,
        "cec": exchange_capacity(clay, organic, ph),
        **hydraulics(sand, clay, organic, compaction),
    }


def exchange_capacity(clay: np.ndarray, organic: np.ndarray, ph: np.ndarray) -> np.ndarray:
    """Return the cation exchange capacity of clay and organic matter.

    Parameters
    ----------
    clay, organic : ndarray, (n,), kg kg-1
        Clay and organic matter.
    ph : ndarray, (n,)
        Acidity.

    Returns
    -------
    capacity : ndarray, (n,), cmol kg-1

    Notes
    -----
    Helling et al. 1964, doi:10.2136/sssaj1964.03615995002800040020x, for 60 soils of Wisconsin.

    Examples
    --------
    >>> exchange_capacity(np.array([0.25]), np.array([0.04]), np.array([6.5])).round(1)
    array([25.6])
    """
    return clay * (30.0 + 4.4 * ph) + organic * (-59.0 + 51.0 * ph)


def hydraulics(
    sand: np.ndarray, clay: np.ndarray, organic: np.ndarray, compaction: np.ndarray
) -> dict[str, np.ndarray]:
    """Return density and water constants of soils.

    Parameters
    ----------
    sand, clay, organic : ndarray, (n,), kg kg-1
        Sand, clay and organic matter.
    compaction : ndarray, (n,), 0.9-1.3
        Density over the normal one.

    Returns
    -------
    constants : dict of ndarray, (n,)
        ``bulk_density`` Mg m-3; ``field_capacity`` (33 kPa), ``wilting_point`` (1500 kPa) m3 m-3;
        ``saturated_hydraulic_conductivity`` mm h-1.

    Notes
    -----
    Saxton & Rawls 2006, doi:10.2136/sssaj2005.0117, equations 1-10 and 15-16.

    Examples
    --------
    >>> loam = hydraulics(*(np.array([value]) for value in (0.4, 0.2, 0.025, 1.0)))
    >>> loam["field_capacity"].round(2), loam["wilting_point"].round(2)
    (array([0.28]), array([0.14]))
    """
    matter = 100.0 * organic
    dry = -0.024 * sand + 0.487 * clay + 0.006 * matter
    dry += 0.005 * sand * matter - 0.013 * clay * matter + 0.068 * sand * clay + 0.031
    wilting = dry + (0.14 * dry - 0.02)
    moist = -0.251 * sand + 0.195 * clay + 0.011 * matter
    moist += 0.006 * sand * matter - 0.027 * clay * matter + 0.452 * sand * clay + 0.299
    capacity = moist + (1.283 * moist**2 - 0.374 * moist - 0.015)
    loose = 0.278 * sand + 0.034 * clay + 0.022 * matter
    loose += -0.018 * sand * matter - 0.027 * clay * matter - 0.584 * sand * clay + 0.078
    loose += 0.636 * loose - 0.107
    normal = capacity + loose - 0.097 * sand + 0.043
    density = (1.0 - normal) * 2.65 * compaction
    saturated = 1.0 - density / 2.65
    capacity = capacity - 0.2 * (normal - saturated)
    slope = np.log(capacity / wilting) / np.log(1500.0 / 33.0)
    pores = np.maximum(saturated - capacity, 0.01)  # large pores that conduct
    return {
        "bulk_density": density,
        "field_capacity": capacity,
        "wilting_point": wilting,
        "saturated_hydraulic_conductivity": 1930.0 * pores ** (3.0 - slope),
    }


def _regional(p: SoilParameters, part: Regional, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return a quantity that varies over the map, (n,)."""
    total = part.base + hills(part.hills, latitude, longitude)
    total = total + part.west * ramp(p.west_longitude, p.west_width, longitude)
    wide = Waves(part.seed, p.waves, p.length_km, np.inf)
    total += part.spread * random_field(wide, latitude, longitude)
    return total + part.fine_spread * patchy_field(Patches(part.fine_seed, p.fine_spacing_km), latitude, longitude)
