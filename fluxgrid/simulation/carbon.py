"""Known carbon fluxes of the synthetic world: light use, phenology by heat, respiration."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.simulation.parameters import WORLD, Cover
from fluxgrid.simulation.weather import simulate

_MJ_PER_W_DAY = 0.0864
_LATENT_HEAT = 2.45  # MJ kg-1
_MEMORY_DAYS = 128  # a power of two, see _remember


def true_fluxes(latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return the fluxes that are true in this world.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places.
    time : DatetimeIndex, (time,)
        Days, in any order and with any gaps.

    Returns
    -------
    fluxes : dict of ndarray, (time, n), float32, g C m-2 d-1
        ``gpp`` and ``reco``, both >= 0, and ``nee``, which is ``reco - gpp`` exactly.

    Notes
    -----
    GPP = efficiency x fPAR x PAR x stress of cold, dry air and dry soil (Monteith 1972, doi:10.2307/2401901), the
    mean over crop, forest and grass by their shares; fPAR follows growing degree days. RECO = RA, a share of GPP, and
    RH, which follows soil temperature (Q10), moisture and the residue left by the harvest. Every memory starts at a
    fixed day or looks back a fixed number of days, so that the fluxes of a day do not depend on the days asked for.
    """
    years = [_fluxes_of_year(latitude, longitude, year) for year in sorted(set(time.year))]
    calendar = pd.DatetimeIndex(np.concatenate([days for days, _ in years]))
    rows = calendar.get_indexer(time.normalize())
    gpp, reco = (np.concatenate([fluxes[name] for _, fluxes in years])[rows] for name in ("gpp", "reco"))
    return {"gpp": gpp, "reco": reco, "nee": reco - gpp}


def _fluxes_of_year(
    latitude: np.ndarray, longitude: np.ndarray, year: int
) -> tuple[pd.DatetimeIndex, dict[str, np.ndarray]]:
    """Return the days of a calendar year and their ``gpp`` and ``reco``, (day, n), float32."""
    days = pd.date_range(f"{year}-01-01", f"{year}-12-31")
    lead = _MEMORY_DAYS - 1
    world = simulate(latitude, longitude, pd.date_range(days[0] - pd.Timedelta(days=lead), days[-1]))
    wetness, warmth = _soil_water(world), _soil_warmth(world)
    world = {name: values[lead:] if values.ndim == 2 else values for name, values in world.items()}
    greenness = _greenness(world["temperature_2m"].astype(np.float64), np.asarray(latitude, dtype=np.float64), days)
    gpp, reco = np.zeros_like(wetness), np.zeros_like(wetness)
    for name, green in greenness.items():
        share, cover = world[f"{name}_fraction"].astype(np.float64), getattr(WORLD.carbon, name)
        uptake = _uptake(cover, green, wetness, world)
        residue = _residue(days) if name == "crop" else 0.0
        gpp += share * uptake
        reco += share * (cover.autotrophic * uptake + cover.soil_10 * (1.0 + residue) * warmth * _moisture(wetness))
    return days, {"gpp": gpp.astype(np.float32), "reco": reco.astype(np.float32)}


def _uptake(cover: Cover, green: np.ndarray, wetness: np.ndarray, world: dict[str, np.ndarray]) -> np.ndarray:
    """Return GPP of one cover, g C m-2 d-1, (day, n)."""
    temperature = world["temperature_2m"].astype(np.float64)
    cold = np.clip((temperature - cover.coldest_degc) / (cover.warm_degc - cover.coldest_degc), 0.0, 1.0)
    dry_air = 1.0 / (1.0 + np.maximum(world["vpd"].astype(np.float64) - 8.0, 0.0) / cover.vpd_half_hpa)
    dry_soil = 1.0 - cover.drought * (1.0 - wetness)
    par = WORLD.carbon.par_share * _MJ_PER_W_DAY * world["shortwave"].astype(np.float64)
    return cover.efficiency * green * par * cold * dry_air * dry_soil


def _greenness(temperature: np.ndarray, latitude: np.ndarray, days: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return fPAR of each cover over a whole calendar year, (day, n)."""
    p = WORLD.carbon
    day, north = days.day_of_year.to_numpy(dtype=np.float64)[:, None], latitude - 41.0
    sown = day >= p.planting_day + p.planting_per_degree * north
    heat = np.add.accumulate(np.where(sown, np.maximum(temperature - p.crop_base_degc, 0.0), 0.0), axis=0)
    heat = heat / np.clip(1.0 + p.hybrid_per_degree * north, 0.5, 1.3)
    crop = _rise(heat, p.canopy_degc_d, p.canopy_width) * _rise(-heat, -p.ripe_degc_d, p.ripe_width)
    spring = np.add.accumulate(np.maximum(temperature - p.leaf_base_degc, 0.0), axis=0)
    fall = p.leaf_fall_day + p.leaf_fall_per_degree * north
    leaves = _rise(spring, p.leaf_out_degc_d, p.leaf_out_width) * _rise(-day, -fall, p.leaf_fall_width)
    seasons = {"crop": (p.crop, crop), "forest": (p.forest, leaves), "grass": (p.grass, leaves)}
    return {name: c.green_least + (c.green_most - c.green_least) * s for name, (c, s) in seasons.items()}


def _soil_water(world: dict[str, np.ndarray]) -> np.ndarray:
    """Return wetness of the soil, 0 to 1, (day, n): rain over demand in memory; heavier soil holds more of it."""
    p = WORLD.carbon
    temperature, shortwave = (world[name].astype(np.float64) for name in ("temperature_2m", "shortwave"))
    # Hargreaves 1975: evaporation from radiation (as mm of water) and temperature.
    demand = 0.0135 * np.maximum(temperature + 17.8, 0.0) * shortwave * (_MJ_PER_W_DAY / _LATENT_HEAT)
    supply = _remember(world["precipitation"].astype(np.float64), p.water_memory_days)
    ratio = supply / (_remember(demand, p.water_memory_days) + 0.05)
    ratio = ratio * (0.5 + 0.5 * world["field_capacity"].astype(np.float64) / WORLD.land.field_capacity)
    squared = (ratio / p.water_need) * (ratio / p.water_need)
    return squared / (0.25 + squared)


def _soil_warmth(world: dict[str, np.ndarray]) -> np.ndarray:
    """Return the Q10 factor of the soil's temperature, 1 at 10 degC, (day, n); snow keeps it near freezing."""
    soil = np.maximum(_remember(world["temperature_2m"].astype(np.float64), WORLD.carbon.soil_memory_days), -3.0)
    return np.exp(np.log(WORLD.carbon.q10) / 10.0 * (soil - 10.0))


def _moisture(wetness: np.ndarray) -> np.ndarray:
    """Return the factor of soil water on RH, (day, n)."""
    return WORLD.carbon.dry_respiration + (1.0 - WORLD.carbon.dry_respiration) * wetness


def _residue(days: pd.DatetimeIndex) -> np.ndarray:
    """Return how much harvest residue raises RH of cropland, relative, (day, 1)."""
    p = WORLD.carbon
    since = (days.day_of_year.to_numpy(dtype=np.float64)[:, None] - p.harvest_day) % 365.0
    return p.residue * np.minimum(since / 20.0, 1.0) * np.exp(-since / p.residue_days)


def _rise(value: np.ndarray, middle: float | np.ndarray, width: float) -> np.ndarray:
    """Return a logistic step from 0 to 1."""
    return 1.0 / (1.0 + np.exp(-(value - middle) / width))


def _remember(values: np.ndarray, days: float) -> np.ndarray:
    """Return the exponentially weighted mean over the last `_MEMORY_DAYS` days, (time - lead, n).

    Doubling: the sum over 2m days is the sum over m days plus the weighted one m days earlier. Seven additions instead
    of 127, and no recursion through the whole record, whose start would show in the rounding.
    """
    total, step = values, 1
    while step < _MEMORY_DAYS:
        total = total[step:] + np.exp(-step / days) * total[:-step]
        step *= 2
    weight = (1.0 - np.exp(-_MEMORY_DAYS / days)) / (1.0 - np.exp(-1.0 / days))
    return total / weight
