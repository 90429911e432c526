"""Daily weather of the synthetic world, as a function of place and date."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.data.derived import derive
from fluxgrid.simulation.land import climate_group, land
from fluxgrid.simulation.noise import days_since_epoch, random_field
from fluxgrid.simulation.parameters import WORLD

FORCINGS = ("temperature_2m", "precipitation", "shortwave", "vpd")
STATICS = (
    "crop_fraction",
    "forest_fraction",
    "grass_fraction",
    "field_capacity",
    "elevation",
    "climate_group",
)
DAYS_PER_YEAR = 365.2425


def simulate(latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return weather and land of places: bit for bit the same whatever else is asked for with them.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places of the central US; elsewhere the numbers mean nothing.
    time : DatetimeIndex, (time,)
        Days, in any order and with any gaps.

    Returns
    -------
    variables : dict of ndarray, float32
        The forcings `FORCINGS`, (time, n), and the statics `STATICS`, (n,), in the units of the variable table.

    Examples
    --------
    >>> days = pd.date_range("2010-07-01", periods=3)
    >>> simulate(np.array([42.0]), np.array([-93.5]), days)["temperature_2m"].shape
    (3, 1)
    """
    latitude, longitude = (np.ascontiguousarray(part, dtype=np.float64) for part in (latitude, longitude))
    statics = land(latitude, longitude)
    mean, amplitude = _normals(latitude, statics["elevation"])
    statics["climate_group"] = climate_group(mean, amplitude, _normal_rain(latitude, longitude))
    variables = {**_weather(latitude, longitude, time, mean, amplitude), **statics}
    return {name: variables[name].astype(np.float32) for name in (*FORCINGS, *STATICS)}


def season(time: pd.DatetimeIndex) -> np.ndarray:
    """Return the annual cycle, 1 on the warmest day and -1 half a year away.

    Parameters
    ----------
    time : DatetimeIndex, (time,)
        Days.

    Returns
    -------
    cycle : ndarray, (time, 1), float64

    Examples
    --------
    >>> season(pd.DatetimeIndex(["2011-07-20"])).round(2)
    array([[1.]])
    """
    day = days_since_epoch(time) - (WORLD.climate.warmest_day - 1.0)
    return np.cos(day * (2.0 * np.pi / DAYS_PER_YEAR))[:, None]


def _weather(
    latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex, mean: np.ndarray, amplitude: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the forcings (time, n), float64: storms first, the rest leans on them."""
    p, place = WORLD.climate, (latitude, longitude, days_since_epoch(time))
    cycle = season(time)
    summer = 0.5 + 0.5 * cycle
    storm = np.sqrt(1.0 - p.drought_weight**2) * random_field(p.storms, *place)
    storm += p.drought_weight * random_field(p.drought, *place)
    threshold = p.threshold + p.threshold_west * _degrees_west(longitude) + p.threshold_winter * (1.0 - summer)
    spread = p.anomaly_winter_degc + (p.anomaly_summer_degc - p.anomaly_winter_degc) * summer
    anomaly = spread * random_field(p.warmth, *place) + p.season_degc * random_field(p.season, *place)
    anomaly -= p.storm_cooling * storm * cycle
    temperature = mean + amplitude * cycle + anomaly
    return {
        "temperature_2m": temperature,
        "precipitation": _rain(storm - threshold, cycle, latitude, longitude),
        "shortwave": _shortwave(storm, random_field(p.haze, *place), cycle, latitude, time),
        "vpd": _vpd(temperature, anomaly, storm, longitude),
    }


def _normals(latitude: np.ndarray, elevation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return annual mean temperature and half its range, degC, (n,)."""
    p = WORLD.climate
    north = latitude - 37.5
    mean = p.mean_degc + p.mean_per_degree * north + p.lapse_degc_km * 1e-3 * (elevation - 250.0)
    return mean, p.amplitude_degc + p.amplitude_per_degree * north


def _degrees_west(longitude: np.ndarray) -> np.ndarray:
    """Return the way into the dry west, degrees, (n,): a smooth ramp."""
    p = WORLD.climate
    return p.dry_width * np.log1p(np.exp((p.dry_longitude - longitude) / p.dry_width))


def _rain_strength(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the daily amount at an excess of one standard deviation, mm, (n,)."""
    p = WORLD.climate
    return p.rain_mm * np.exp(p.rain_west * _degrees_west(longitude) + p.rain_north * (latitude - 40.0))


def _normal_rain(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return annual precipitation, mm, (n,), from the strength and the share of wet days."""
    p = WORLD.climate
    # Mean of (z - c)^1.5 over z > c for a standard normal z, fitted for thresholds c of 0.3 to 0.8.
    threshold = p.threshold + 0.5 * p.threshold_winter + p.threshold_west * _degrees_west(longitude)
    mean_excess = 0.463 * np.exp(-1.765 * threshold)
    return DAYS_PER_YEAR * mean_excess * _rain_strength(latitude, longitude)


def _rain(excess: np.ndarray, cycle: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return rain, mm d-1, (time, n); the power 1.5 gives the long tail of daily amounts."""
    wet = np.maximum(excess, 0.0)
    amount = wet * np.sqrt(wet) * _rain_strength(latitude, longitude) * (1.0 + WORLD.climate.rain_season * cycle)
    return np.where(amount < 0.1, 0.0, amount)  # a gauge does not see less


def _shortwave(
    storm: np.ndarray, haze: np.ndarray, cycle: np.ndarray, latitude: np.ndarray, time: pd.DatetimeIndex
) -> np.ndarray:
    """Return shortwave at the ground, W m-2, (time, n): clear sky less cloud that comes with storms."""
    p = WORLD.climate
    overcast = 1.0 / (1.0 + np.exp(-1.7 * (storm + 0.6 * haze - 0.05 - 0.55 * cycle)))
    # One row of cells shares its latitude: the geometry of the sun is worked out once for each.
    parallels, row = np.unique(latitude, return_inverse=True)
    top = derive("toa_radiation", time, parallels, "daily")[:, row]
    return top * (p.clear_sky * (1.0 - p.cloud_share * overcast))


def _vpd(temperature: np.ndarray, anomaly: np.ndarray, storm: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return vapour pressure deficit, hPa, (time, n); saturation pressure after FAO-56, eq. 11."""
    p = WORLD.climate
    saturation = 6.108 * np.exp(17.27 * temperature / (temperature + 237.3))
    humidity = p.humidity + p.humidity_west * _degrees_west(longitude)
    humidity = humidity + p.humidity_storm * storm + p.humidity_heat * anomaly
    return saturation * (1.0 - np.clip(humidity, 0.15, 0.98))
