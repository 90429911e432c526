"""Daily weather of the reference world, as a function of place and date.

Storms come first, the rest leans on them: rain where the storm index is high, cloud with it, radiation and the daily
range of temperature with cloud, humidity with the lowest temperature of the day.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.data.derived import daily_toa_radiation
from fluxgrid.simulation.arithmetic import rounded
from fluxgrid.simulation.climate import CLIMATE, Harmonics, harmonics, temperature_factors, waves_of_year
from fluxgrid.simulation.land import Places
from fluxgrid.simulation.meteorology import Constants, Days, Fields, Year, fill
from fluxgrid.simulation.noise import DAYS_AT_ONCE, Waves, WavesAt, days_since_epoch
from fluxgrid.simulation.parameters import load_section, strict_dataclass
from fluxgrid.simulation.patches import Patches, PatchesAt

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
    return Outlook(places).weather(time)


class Outlook:
    """Places as their weather sees them: what the place alone decides is worked out once, for any number of days."""

    def __init__(self, places: Places) -> None:
        self._count = len(places.latitude)
        self._year = _year(places)
        self._parallels, self._row = np.unique(places.latitude, return_inverse=True)
        blocks = [slice(first, first + _PLACES_AT_ONCE) for first in range(0, self._count, _PLACES_AT_ONCE)]
        self._fields = [_fields_at(places.latitude[block], places.longitude[block]) for block in blocks]
        self._room = np.empty(0)

    def weather(self, time: pd.DatetimeIndex, keep: bool = True) -> dict[str, np.ndarray]:
        """Return the weather of days; see `weather`.

        Parameters
        ----------
        time : DatetimeIndex, (time,)
            Days, in any order and with any gaps.
        keep : bool
            Without it the arrays are good until the next call: fresh memory costs as much as what is written there.

        Returns
        -------
        variables : dict of ndarray, (n, time), float64
        """
        days = days_since_epoch(time)
        shape = len(WEATHER_VARIABLES), self._count, len(days)
        out = np.empty(shape) if keep else self._used(shape)
        for start in range(0, len(days), DAYS_AT_ONCE):
            span = slice(start, start + DAYS_AT_ONCE)
            top = rounded(daily_toa_radiation(time[span].day_of_year.to_numpy(), self._parallels).T.copy())
            series = _series(days[span])
            for block, at in enumerate(self._fields):
                fields = Fields(*(field.on(days[span]) for field in at))
                fill(self._year, series, fields, top, self._row, _CONSTANTS, block * _PLACES_AT_ONCE, start, out)
        return dict(zip(WEATHER_VARIABLES, out, strict=True))

    def _used(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return memory of the calls before."""
        if self._room.size < np.prod(shape):
            self._room = np.empty(len(WEATHER_VARIABLES) * self._count * max(shape[-1], 366))
        return self._room[: np.prod(shape)].reshape(shape)


def _year(places: Places) -> Year:
    """Return what depends on the place only."""
    w, latitude, longitude, height = WEATHER, places.latitude, places.longitude, places.statics["elevation"]
    return Year(
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


def _series(days: np.ndarray) -> Days:
    """Return what depends on the day only."""
    waves, w = waves_of_year(days), WEATHER

    def course(season: Season) -> np.ndarray:
        return season.mean + season.cosine * waves[1] + season.sine * waves[2]

    showers = course(w.rain.showers)
    return Days(
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


def _fields_at(latitude: np.ndarray, longitude: np.ndarray) -> tuple[WavesAt | PatchesAt, ...]:
    """Return the random fields at places, in the order of `Fields`."""
    fields = (getattr(WEATHER, name) for name in Fields._fields)
    where = latitude, longitude
    return tuple(WavesAt.of(f, *where) if isinstance(f, Waves) else PatchesAt.of(f, *where) for f in fields)


def _constants() -> Constants:
    """Return the numbers of the kernel."""
    w = WEATHER
    passing = float(np.sqrt(1.0 - w.air.spells**2 - w.air.season**2))
    return Constants(
        *(passing, w.air.spells, w.air.season),
        *(w.rain.drought, w.rain.gain, w.rain.least_mm, w.air.range_cloud, w.air.range_least),
        *(w.sky.storm, w.sky.own, w.moisture.cloud),
        *(w.moisture.excess, w.moisture.range, w.moisture.range_per_degc, w.moisture.range_wind),
        *(w.wind.storm, float(np.sqrt(1.0 - w.wind.storm**2)), w.wind.steadiness),
    )


_CONSTANTS = _constants()
