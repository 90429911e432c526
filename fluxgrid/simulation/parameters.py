"""Every number of the synthetic world, with where it comes from; changing one changes the world's digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

WORLD_VERSION = "0.1"
"""Raise it when a formula changes; numbers are told apart by the digest."""


@dataclass(frozen=True)
class Waves:
    """A random field in space and time, as a sum of plane waves."""

    seed: int
    count: int
    length_km: float
    """Outer length of the spectrum; features are about three times as wide."""
    days: float
    """Time in which features of the outer length change shape; infinite for maps."""
    east_km_d: float = 0.0
    """Eastward drift."""
    north_km_d: float = 0.0


@dataclass(frozen=True)
class Climate:
    """Weather. Normals drawn by eye through the 1991-2020 NOAA climate normals of the central US unless said."""

    warmth: Waves = Waves(11, 64, 450.0, 4.5, 350.0, -50.0)  # air masses: lag-1 autocorrelation of anomalies near 0.7
    season: Waves = Waves(12, 32, 900.0, 40.0)  # warm and cold months
    storms: Waves = Waves(13, 120, 190.0, 1.4, 400.0, 60.0)  # mid-latitude systems move east at 15-30 km/h
    drought: Waves = Waves(14, 32, 500.0, 18.0)  # wet and dry spells of weeks
    haze: Waves = Waves(15, 32, 250.0, 1.0, 400.0)  # cloud without rain
    mean_degc: float = 14.3  # annual mean at 37.5 N, 250 m
    mean_per_degree: float = -0.93  # degC per degree north
    amplitude_degc: float = 13.1  # half the July-January range at 37.5 N
    amplitude_per_degree: float = 0.42
    warmest_day: float = 201.0
    lapse_degc_km: float = -5.0
    anomaly_summer_degc: float = 3.0  # standard deviation of the day-to-day anomaly
    anomaly_winter_degc: float = 5.4
    season_degc: float = 1.4
    storm_cooling: float = 0.8  # degC per standard deviation of the storm field: cool in summer, mild in winter
    dry_longitude: float = -95.0  # the air dries west of here ("per degree west" below), hardly at all east of it
    dry_width: float = 3.0  # degrees over which drying sets in
    threshold: float = 0.40  # rain where the storm field exceeds this; about 0.3 of the days have 1 mm
    threshold_west: float = 0.030  # per degree west
    threshold_winter: float = 0.10
    drought_weight: float = 0.36
    rain_mm: float = 13.5  # amount at an excess of 1 standard deviation
    rain_west: float = -0.060  # relative change per degree west
    rain_north: float = -0.022  # relative change per degree north of 40 N
    rain_season: float = 0.42  # summer systems are more intense
    clear_sky: float = 0.74  # FAO-56 (Allen et al. 1998), eq. 37, at low elevation
    cloud_share: float = 0.62  # of the radiation taken by a full overcast
    humidity: float = 0.73  # mean relative humidity in the moist east
    humidity_west: float = -0.018  # per degree west
    humidity_storm: float = 0.075  # per standard deviation of the storm field
    humidity_heat: float = -0.010  # per degC of the day's anomaly


@dataclass(frozen=True)
class Bump:
    """A Gaussian hill of a land-cover preference."""

    longitude: float
    latitude: float
    width: float
    height: float
    weight: float


@dataclass(frozen=True)
class Land:
    """Cover, soil and height, drawn after the USDA Cropland Data Layer and NLCD as seen from far away."""

    crop: tuple[Bump, ...] = (
        Bump(-92.0, 41.6, 8.0, 2.5, 3.3),  # Corn Belt
        Bump(-97.8, 46.8, 2.4, 2.8, 3.2),  # Red River valley, eastern Dakotas
        Bump(-98.5, 38.0, 2.6, 2.0, 1.6),  # Kansas
        Bump(-90.6, 35.0, 0.9, 2.0, 2.6),  # Mississippi alluvial plain
    )
    forest: tuple[Bump, ...] = (
        Bump(-89.0, 47.0, 4.6, 1.9, 4.2),  # northern Minnesota, Wisconsin, Michigan
        Bump(-91.8, 36.9, 2.2, 1.4, 3.4),  # Ozarks
        Bump(-81.0, 37.6, 4.4, 2.3, 3.6),  # Appalachian foothills
        Bump(-84.5, 44.6, 1.6, 1.2, 2.2),  # northern lower Michigan
    )
    cover_waves: tuple[Waves, ...] = (
        Waves(21, 64, 60.0, float("inf")),
        Waves(22, 64, 60.0, float("inf")),
        Waves(23, 64, 60.0, float("inf")),
        Waves(24, 64, 40.0, float("inf")),
    )
    """Crop, forest, grass, and what is none of them (towns, water)."""
    cover_noise: float = 0.55
    grass_base: float = 0.7
    grass_west: float = 2.6
    grass_longitude: float = -99.0
    other_base: float = -0.6
    soil_waves: Waves = Waves(25, 64, 80.0, float("inf"))
    field_capacity: float = 0.31  # silt loam, Saxton & Rawls 2006, doi:10.2136/sssaj2005.0117
    field_capacity_noise: float = 0.035
    sandhills: Bump = Bump(-101.0, 42.2, 2.0, 0.8, -0.14)
    height_waves: Waves = Waves(26, 64, 90.0, float("inf"))
    height_m: float = 230.0
    height_west_m: float = 1600.0
    height_longitude: float = -102.5
    height_noise: float = 0.14  # relative
    arid_mm: float = 280.0  # Koeppen: P < 20 T + 280 where rain falls in summer


@dataclass(frozen=True)
class Cover:
    """Carbon parameters of one kind of cover."""

    efficiency: float  # g C per MJ of absorbed PAR, unstressed
    green_least: float  # fPAR out of season
    green_most: float  # fPAR in full leaf
    vpd_half_hpa: float  # VPD above 8 hPa that halves the efficiency
    drought: float  # 0: does not feel dry soil, 1: follows it fully
    coldest_degc: float
    """No uptake below."""
    warm_degc: float
    """No cold stress above."""
    autotrophic: float  # RA / GPP
    soil_10: float  # RH at 10 degC in moist soil, g C m-2 d-1


@dataclass(frozen=True)
class Carbon:
    """Fluxes. Efficiencies between MOD17 (Running & Zhao 2015) and the crop values of Yuan et al. 2015."""

    crop: Cover = Cover(2.50, 0.02, 0.93, 22.0, 0.60, 6.0, 21.0, 0.44, 1.05)
    forest: Cover = Cover(1.30, 0.16, 0.90, 16.0, 0.35, -1.0, 15.0, 0.50, 1.25)
    grass: Cover = Cover(1.30, 0.12, 0.72, 20.0, 0.95, 1.0, 16.0, 0.47, 1.00)
    par_share: float = 0.45  # of shortwave
    crop_base_degc: float = 10.0  # growing degree days of maize
    planting_day: float = 121.0  # at 41 N; USDA crop progress, half planted in Iowa around 1 May
    planting_per_degree: float = 2.2  # days per degree north
    canopy_degc_d: float = 450.0  # half canopy
    canopy_width: float = 75.0
    ripe_degc_d: float = 1480.0  # half senescent
    ripe_width: float = 85.0
    hybrid_per_degree: float = -0.055  # earlier hybrids are grown further north
    leaf_base_degc: float = 5.0
    leaf_out_degc_d: float = 230.0
    leaf_out_width: float = 45.0
    leaf_fall_day: float = 288.0  # at 41 N
    leaf_fall_per_degree: float = -2.2
    leaf_fall_width: float = 7.0
    q10: float = 2.0
    soil_memory_days: float = 12.0  # soil temperature lags air temperature
    water_memory_days: float = 32.0
    water_need: float = 0.65  # rain over potential evaporation at which stress sets in
    dry_respiration: float = 0.35  # RH in dry soil, relative to moist
    residue: float = 0.75  # added to RH of cropland just after harvest, relative
    residue_days: float = 110.0
    harvest_day: float = 275.0


@dataclass(frozen=True)
class Towers:
    """How virtual towers see the world."""

    bounds: tuple[float, float, float, float] = (-104.5, -79.5, 34.5, 49.5)  # west, east, south, north
    per_cluster: float = 2.5
    cluster_km: float = 25.0
    shortest_years: int = 3
    longest_years: int = 8
    error_base: float = 0.25  # g C m-2 d-1, daily; Richardson et al. 2006, doi:10.1016/j.agrformet.2006.01.007
    error_slope: float = 0.08  # per g C m-2 d-1 of GPP
    partition_error: float = 0.10  # of RECO, Desai et al. 2008, doi:10.1016/j.agrformet.2007.11.012
    gap_start: float = 0.012  # chance per day that a gap starts
    gap_days: float = 9.0  # mean length


@dataclass(frozen=True)
class World:
    """The whole parameter set."""

    bounds: tuple[float, float, float, float] = (-107.0, -75.0, 31.0, 51.0)
    """West, east, south, north: outside, the formulas were never looked at."""
    climate: Climate = field(default_factory=Climate)
    land: Land = field(default_factory=Land)
    carbon: Carbon = field(default_factory=Carbon)
    towers: Towers = field(default_factory=Towers)


WORLD = World()


def world_digest() -> str:
    """Return the hash of all parameters and of the version, to be stored with everything made from this world.

    Returns
    -------
    digest : str
        16 hexadecimal digits.

    Examples
    --------
    >>> len(world_digest())
    16
    """
    text = json.dumps({"version": WORLD_VERSION, **asdict(WORLD)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
