"""Daily weather of the reference world, as a function of place and date.

Storms come first, the rest leans on them: rain where the storm index is high, cloud with it, radiation and the daily
range of temperature with cloud, humidity with the lowest temperature of the day.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pandas as pd

from fluxgrid.data.derived import daily_toa_radiation
from fluxgrid.simulation.arithmetic import exp, rounded
from fluxgrid.simulation.climate import CLIMATE, Harmonics, harmonics, temperature_factors, waves_of_year
from fluxgrid.simulation.land import Places
from fluxgrid.simulation.noise import DAYS_AT_ONCE, Patches, Waves, days_since_epoch, patchy_field, single_field
from fluxgrid.simulation.parameters import load_section, strict_dataclass

WEATHER_VARIABLES = (
    *("temperature_2m", "tmin", "tmax", "precipitation", "shortwave", "vapour_pressure", "vapour_pressure_range"),
    *("vpd", "wind_speed", "cloud"),
)
"""What `weather` gives; cloud (0 clear - 1 overcast) is for the satellite of the world only."""

_PLACES_AT_ONCE = 64
"""All fields and results of a block stay in the cache."""


@strict_dataclass
class Season:
    """A number that follows the year, the same everywhere."""

    mean: float
    cosine: float = 0.0
    sine: float = 0.0


@strict_dataclass
class Air:
    """Temperature around its normal, degC."""

    spread: Harmonics
    """Standard deviation of the anomaly, without what storms and droughts bring."""
    spells: float
    """Share of its standard deviation that lasts for a week or two; air masses on their way have the rest."""
    season: float
    """Share that lasts for a month or two."""
    storm: Season
    """Per standard deviation of the storms: mild and wet, or cool and wet."""
    drought: Season
    """Per standard deviation of the wet and dry spells."""
    range: Harmonics
    """Daily range under half cover."""
    range_cloud: float
    """Relative change from clear to overcast."""
    range_own: Season
    """Relative standard deviation of what cloud does not explain: narrow in moist air, wide in dry air."""
    range_least: float


@strict_dataclass
class Rain:
    """Rain where the storm index exceeds a threshold."""

    threshold: Harmonics
    showers: Season
    """Standard deviation of showers in the storm index, whose variance is 1."""
    drought: float
    """The same of wet and dry spells."""
    gain: float
    """Correction for the finite number of waves."""
    least_mm: float
    """A gauge does not see less."""


@strict_dataclass
class Sky:
    """Cloud and radiation."""

    cover: Harmonics
    storm: float
    own: float
    clear: float
    clear_per_km: float
    taken: Season
    """Share of the clear-sky radiation that a full cover takes: summer cloud is broken."""


@strict_dataclass
class Moisture:
    """Dew point below the lowest temperature of the day, degC."""

    depression: Harmonics
    cloud: float
    """Change from overcast to clear."""
    drought: Season
    """Change per standard deviation of wet and dry spells."""
    own: Season
    """Standard deviation of what neither cloud nor drought explain."""
    excess: float
    """The dew point of the mean vapour pressure does not exceed the lowest temperature by more."""
    range: float
    """Of the vapour pressure in a day, relative."""
    range_per_degc: float
    range_wind: float


@strict_dataclass
class Wind:
    """Speed: a square of normal noise, so that it is never negative and skewed."""

    speed: Harmonics
    storm: float
    steadiness: float


@strict_dataclass
class WeatherParameters:
    """Weather."""

    warmth: Waves
    spells: Patches
    season: Patches
    storms: Waves
    drought: Patches
    haze: Waves
    gusts: Waves
    humidity: Waves
    showers: Patches
    air: Air
    rain: Rain
    sky: Sky
    moisture: Moisture
    wind: Wind


WEATHER = load_section("weather", WeatherParameters)


class _Year(NamedTuple):
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


class _Days(NamedTuple):
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


class _Fields(NamedTuple):
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


class _Constants(NamedTuple):
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


def weather(places: Places, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return the weather of places: bit for bit the same whatever else is asked for with it.

    Parameters
    ----------
    places : Places
        Where; only coordinates and ``elevation`` are looked at.
    time : DatetimeIndex, (time,)
        Days, in any order and with any gaps.

    Returns
    -------
    variables : dict of ndarray, (n, time), float64
        `WEATHER_VARIABLES`: ``temperature_2m`` (mean of ``tmin`` and ``tmax``) degC; ``precipitation`` mm d-1;
        ``shortwave`` W m-2; ``vapour_pressure``, ``vapour_pressure_range`` and ``vpd`` hPa; ``wind_speed`` m s-1;
        ``cloud`` 0-1.

    Notes
    -----
    Vapour pressure deficit after FAO-56 (Allen et al. 1998, eq. 11 and 12): the mean of the saturation pressures at
    ``tmax`` and ``tmin`` less the vapour pressure. Always ``tmin < tmax`` and ``vpd > 0``.

    Examples
    --------
    >>> from fluxgrid.simulation.land import places_at
    >>> place = places_at(np.array([42.0]), np.array([-93.5]))
    >>> weather(place, pd.date_range("2010-07-01", periods=3))["tmax"].shape
    (1, 3)
    """
    days, year = days_since_epoch(time), _year(places)
    out = np.empty((len(WEATHER_VARIABLES), len(places.latitude), len(days)))
    parallels, row = np.unique(places.latitude, return_inverse=True)
    for start in range(0, len(days), DAYS_AT_ONCE):
        span = slice(start, start + DAYS_AT_ONCE)
        top = rounded(daily_toa_radiation(time[span].day_of_year.to_numpy(), parallels).T.copy())
        series = _series(days[span])
        for first in range(0, len(row), _PLACES_AT_ONCE):
            block = slice(first, first + _PLACES_AT_ONCE)
            fields = _fields(places.latitude[block], places.longitude[block], days[span])
            _fill(year, series, fields, top, row, _CONSTANTS, first, start, out)
    return dict(zip(WEATHER_VARIABLES, out, strict=True))


def _year(places: Places) -> _Year:
    """Return what depends on the place only."""
    w, latitude, longitude, height = WEATHER, places.latitude, places.longitude, places.statics["elevation"]
    return _Year(
        w.sky.clear + w.sky.clear_per_km * 1e-3 * height,
        temperature_factors(latitude, longitude, height),
        harmonics(w.air.spread, latitude, longitude),
        harmonics(w.air.range, latitude, longitude),
        harmonics(CLIMATE.rain, latitude, longitude),
        harmonics(w.rain.threshold, latitude, longitude),
        harmonics(w.sky.cover, latitude, longitude),
        harmonics(w.moisture.depression, latitude, longitude),
        harmonics(w.wind.speed, latitude, longitude),
    )


def _series(days: np.ndarray) -> _Days:
    """Return what depends on the day only."""
    waves, w = waves_of_year(days), WEATHER

    def course(season: Season) -> np.ndarray:
        return season.mean + season.cosine * waves[1] + season.sine * waves[2]

    showers = course(w.rain.showers)
    return _Days(
        waves=waves,
        storm=course(w.air.storm),
        drought=course(w.air.drought),
        showers=showers,
        fronts=np.sqrt(np.maximum(1.0 - w.rain.drought**2 - showers**2, 0.0)),
        taken=course(w.sky.taken),
        range_own=course(w.air.range_own),
        moist_drought=course(w.moisture.drought),
        moist_own=course(w.moisture.own),
    )


def _fields(latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray) -> _Fields:
    """Return the random fields."""
    w, where = WEATHER, (latitude, longitude, days)
    return _Fields(
        warmth=single_field(w.warmth, *where),
        spells=patchy_field(w.spells, *where),
        season=patchy_field(w.season, *where),
        storms=single_field(w.storms, *where),
        drought=patchy_field(w.drought, *where),
        haze=single_field(w.haze, *where),
        gusts=single_field(w.gusts, *where),
        humidity=single_field(w.humidity, *where),
        showers=patchy_field(w.showers, *where),
    )


def _constants() -> _Constants:
    """Return the numbers of the kernel."""
    w = WEATHER
    passing = float(np.sqrt(1.0 - w.air.spells**2 - w.air.season**2))
    return _Constants(
        *(passing, w.air.spells, w.air.season),
        *(w.rain.drought, w.rain.gain, w.rain.least_mm, w.air.range_cloud, w.air.range_least),
        *(w.sky.storm, w.sky.own, w.moisture.cloud),
        *(w.moisture.excess, w.moisture.range, w.moisture.range_per_degc, w.moisture.range_wind),
        *(w.wind.storm, float(np.sqrt(1.0 - w.wind.storm**2)), w.wind.steadiness),
    )


_CONSTANTS = _constants()


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill(year, days, fields, top, row, p, first, start, out):
    """Fill a block of the results (variable, n, time); short loops over days, of few arrays each, are vectorised."""
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


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _annual(factors, waves, out):
    """Fill a row with the annual cycle."""
    f_0, f_1, f_2, f_3, f_4 = factors[0], factors[1], factors[2], factors[3], factors[4]
    for d in range(len(out)):
        out[d] = ((f_0 + f_1 * waves[1, d]) + (f_2 * waves[2, d] + f_3 * waves[3, d])) + f_4 * waves[4, d]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _storm_index(days, storms, drought, showers, drought_weight, out):
    """Fill a row with the index of storms, of variance 1."""
    for d in range(len(out)):
        out[d] = (days.fronts[d] * storms[d] + days.showers[d] * showers[d]) + drought_weight * drought[d]


@numba.njit(nogil=True, cache=True, error_model="numpy")
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


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cloud(storm, haze, cover, p, out):
    """Fill a row with cloud cover, 0-1."""
    for d in range(len(out)):
        x = cover[d] + p.storm_cloud * storm[d] + p.own_cloud * haze[d]
        out[d] = 0.5 + 0.5 * x / np.sqrt(1.0 + x * x)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _temperature(days, fields, i, p, spread, mean):
    """Add the anomalies to a row of normal temperature."""
    warmth, spells, season = fields.warmth[i], fields.spells[i], fields.season[i]
    storms, drought = fields.storms[i], fields.drought[i]
    for d in range(len(mean)):
        mean[d] += spread[d] * ((p.passing * warmth[d] + p.spells * spells[d]) + p.season * season[d])
    for d in range(len(mean)):
        mean[d] += days.storm[d] * storms[d] + days.drought[d] * drought[d]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _daily_range(mean, cloud, own, humidity, p, swing, low, high):
    """Fill rows with the lowest and highest temperature; ``swing`` is the normal range and is used up."""
    for d in range(len(mean)):
        swing[d] *= 1.0 - p.range_cloud * (cloud[d] - 0.5) - own[d] * humidity[d]
    for d in range(len(mean)):
        half = 0.5 * max(swing[d], p.range_least)
        low[d] = mean[d] - half
        high[d] = mean[d] + half


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _vapour(days, drought, humidity, low, cloud, p, depression, vapour):
    """Fill a row with the mean vapour pressure, hPa; ``depression`` is the normal one and is used up."""
    for d in range(len(vapour)):
        depression[d] -= days.moist_drought[d] * drought[d] + days.moist_own[d] * humidity[d]
    for d in range(len(vapour)):
        vapour[d] = _saturation(low[d] - max(depression[d] + p.moist_cloud * (0.5 - cloud[d]), -p.excess))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _deficit(low, high, vapour, gusts, p, deficit, swing):
    """Fill rows with vapour pressure deficit and daily range of vapour pressure, hPa."""
    for d in range(len(vapour)):
        deficit[d] = 0.5 * (_saturation(low[d]) + _saturation(high[d])) - vapour[d]
    for d in range(len(vapour)):
        share = p.vapour_range + p.vapour_range_degc * (high[d] - low[d]) + p.vapour_range_wind * gusts[d]
        swing[d] = vapour[d] * min(max(share, 0.05), 0.9)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _wind(storms, gusts, p, wind):
    """Turn a row of normal wind speed into daily ones."""
    scale = 1.0 / (p.steadiness * p.steadiness + 1.0)
    for d in range(len(wind)):
        gust = p.steadiness + p.wind_storm * storms[d] + p.wind_own * gusts[d]
        wind[d] *= scale * max(gust * gust, 1.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _saturation(temperature):
    """Return the saturation vapour pressure over water, hPa; FAO-56 eq. 11."""
    return 6.108 * exp(17.27 * temperature / (temperature + 237.3))
