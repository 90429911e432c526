"""Kernels of the weather: one day follows from random fields, the time of the year and the place.

Loops over days are short and of few arrays each, so that they are vectorised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluxgrid.simulation.arithmetic import exp
from fluxgrid.simulation.compiled import kernel, part


class Year(NamedTuple):
    """What depends on the place only: share of radiation under clear sky (n,), factors of the annual waves (n, 5)."""

    clear: np.ndarray
    temperature: np.ndarray
    spread: np.ndarray
    range: np.ndarray
    rain: np.ndarray
    threshold: np.ndarray
    cover: np.ndarray
    depression: np.ndarray
    speed: np.ndarray


class Days(NamedTuple):
    """What depends on the day only: annual waves (5, time), and weights (time,)."""

    waves: np.ndarray
    storm: np.ndarray
    drought: np.ndarray
    showers: np.ndarray
    fronts: np.ndarray
    taken: np.ndarray
    range_own: np.ndarray
    moist_drought: np.ndarray
    moist_own: np.ndarray


class Fields(NamedTuple):
    """Random fields, (n, time), float32."""

    warmth: np.ndarray
    spells: np.ndarray
    season: np.ndarray
    storms: np.ndarray
    drought: np.ndarray
    haze: np.ndarray
    gusts: np.ndarray
    humidity: np.ndarray
    showers: np.ndarray


class Constants(NamedTuple):
    """Numbers the kernel needs."""

    passing: float
    spells: float
    season: float
    drought: float
    gain: float
    least_mm: float
    range_cloud: float
    range_least: float
    storm_cloud: float
    own_cloud: float
    moist_cloud: float
    excess: float
    vapour_range: float
    vapour_range_degc: float
    vapour_range_wind: float
    wind_storm: float
    wind_own: float
    steadiness: float


@kernel
def fill(year, days, fields, top, row, p, first, start, out):
    """Fill the weather of a block of places and days.

    Parameters
    ----------
    year : Year
        Of all places.
    days : Days
        Of the days of the block.
    fields : Fields
        Of the block.
    top : ndarray, (parallel, time), W m-2
        Radiation at the top of the atmosphere.
    row : ndarray, (n,)
        The parallel of each place.
    p : Constants
        Numbers.
    first, start : int
        First place and first day of the block.
    out : ndarray, (variable, n, time)
        Results in the order of `fluxgrid.simulation.weather.WEATHER_VARIABLES`.
    """
    count = len(days.storm)
    stop = start + count
    storm, normal = np.empty(count), np.empty(count)
    for k in range(len(fields.storms)):
        i = first + k
        mean, low, high = out[0, i, start:stop], out[1, i, start:stop], out[2, i, start:stop]
        rain, light, vapour = out[3, i, start:stop], out[4, i, start:stop], out[5, i, start:stop]
        swing, deficit = out[6, i, start:stop], out[7, i, start:stop]
        wind, cloud = out[8, i, start:stop], out[9, i, start:stop]
        _storm_index(days, fields.storms[k], fields.drought[k], fields.showers[k], p.drought, storm)
        _annual(year.threshold[i], days.waves, normal)
        _annual(year.rain[i], days.waves, rain)
        _rain(storm, normal, p, rain)
        _annual(year.cover[i], days.waves, normal)
        _cloud(storm, fields.haze[k], normal, p, cloud)
        for d in range(count):
            light[d] = top[row[i], d] * year.clear[i] * (1.0 - days.taken[d] * cloud[d])
        _annual(year.temperature[i], days.waves, mean)
        _annual(year.spread[i], days.waves, normal)
        _temperature(days, fields, k, p, normal, mean)
        _annual(year.range[i], days.waves, normal)
        _daily_range(mean, cloud, days.range_own, fields.humidity[k], p, normal, low, high)
        _annual(year.depression[i], days.waves, normal)
        _vapour(days, fields.drought[k], fields.humidity[k], low, cloud, p, normal, vapour)
        _deficit(low, high, vapour, fields.gusts[k], p, deficit, swing)
        _annual(year.speed[i], days.waves, wind)
        _wind(fields.storms[k], fields.gusts[k], p, wind)


@part
def _annual(factors, waves, out):
    """Fill a row with the annual cycle."""
    f_0, f_1, f_2, f_3, f_4 = factors[0], factors[1], factors[2], factors[3], factors[4]
    for d in range(len(out)):
        out[d] = ((f_0 + f_1 * waves[1, d]) + (f_2 * waves[2, d] + f_3 * waves[3, d])) + f_4 * waves[4, d]


@part
def _storm_index(days, storms, drought, showers, drought_weight, out):
    """Fill a row with the index of storms, of variance 1."""
    for d in range(len(out)):
        out[d] = (days.fronts[d] * storms[d] + days.showers[d] * showers[d]) + drought_weight * drought[d]


@part
def _rain(storm, threshold, p, rain):
    """Turn a row of logarithms of normal rain into daily amounts: the square of the excess over the threshold.

    The square gives daily amounts the long tail they have; its mean over a standard normal index, of which the
    polynomial is the logarithm within 2 % for thresholds of -0.6 to 1.8, keeps the normals.
    """
    for d in range(len(rain)):
        c = threshold[d]
        excess = max(storm[d] - c, 0.0)
        amount = p.gain * exp(rain[d] + (0.68936168 + c * (1.58606557 + c * 0.31437973))) * excess * excess
        rain[d] = amount if amount >= p.least_mm else 0.0


@part
def _cloud(storm, haze, cover, p, out):
    """Fill a row with cloud cover, 0-1."""
    for d in range(len(out)):
        x = cover[d] + p.storm_cloud * storm[d] + p.own_cloud * haze[d]
        out[d] = 0.5 + 0.5 * x / np.sqrt(1.0 + x * x)


@part
def _temperature(days, fields, i, p, spread, mean):
    """Add the anomalies to a row of normal temperature."""
    warmth, spells, season = fields.warmth[i], fields.spells[i], fields.season[i]
    storms, drought = fields.storms[i], fields.drought[i]
    for d in range(len(mean)):
        mean[d] += spread[d] * ((p.passing * warmth[d] + p.spells * spells[d]) + p.season * season[d])
    for d in range(len(mean)):
        mean[d] += days.storm[d] * storms[d] + days.drought[d] * drought[d]


@part
def _daily_range(mean, cloud, own, humidity, p, swing, low, high):
    """Fill rows with the lowest and highest temperature; ``swing`` is the normal range and is used up."""
    for d in range(len(mean)):
        swing[d] *= 1.0 - p.range_cloud * (cloud[d] - 0.5) - own[d] * humidity[d]
    for d in range(len(mean)):
        half = 0.5 * max(swing[d], p.range_least)
        low[d] = mean[d] - half
        high[d] = mean[d] + half


@part
def _vapour(days, drought, humidity, low, cloud, p, depression, vapour):
    """Fill a row with the mean vapour pressure, hPa; ``depression`` is the normal one and is used up."""
    for d in range(len(vapour)):
        depression[d] -= days.moist_drought[d] * drought[d] + days.moist_own[d] * humidity[d]
    for d in range(len(vapour)):
        vapour[d] = _saturation(low[d] - max(depression[d] + p.moist_cloud * (0.5 - cloud[d]), -p.excess))


@part
def _deficit(low, high, vapour, gusts, p, deficit, swing):
    """Fill rows with vapour pressure deficit and daily range of vapour pressure, hPa."""
    for d in range(len(vapour)):
        deficit[d] = 0.5 * (_saturation(low[d]) + _saturation(high[d])) - vapour[d]
    for d in range(len(vapour)):
        share = p.vapour_range + p.vapour_range_degc * (high[d] - low[d]) + p.vapour_range_wind * gusts[d]
        swing[d] = vapour[d] * min(max(share, 0.05), 0.9)


@part
def _wind(storms, gusts, p, wind):
    """Turn a row of normal wind speed into daily ones."""
    scale = 1.0 / (p.steadiness * p.steadiness + 1.0)
    for d in range(len(wind)):
        gust = p.steadiness + p.wind_storm * storms[d] + p.wind_own * gusts[d]
        wind[d] *= scale * max(gust * gust, 1.0)


@part
def _saturation(temperature):
    """Return the saturation vapour pressure over water, hPa; FAO-56 eq. 11."""
    return 6.108 * exp(17.27 * temperature / (temperature + 237.3))
