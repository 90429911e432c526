"""Covariates computed from place and date: radiation above the atmosphere, day length, calendar, coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from fluxgrid.data.steps import Step
from fluxgrid.registry import unknown_name
from fluxgrid.variables import PLACE

SOLAR_CONSTANT = 1361.0
"""W m-2, total solar irradiance at 1 au (Kopp & Lean 2011, doi:10.1029/2010GL045777)."""


def derive(
    name: str, time: pd.DatetimeIndex, latitude: np.ndarray, step: Step, longitude: np.ndarray | None = None
) -> np.ndarray:
    """Compute a derived variable.

    Parameters
    ----------
    name : {"toa_radiation", "day_length", "calendar_year", "day_of_year", "latitude", "longitude"}
        A variable of role "derived".
    time : DatetimeIndex, (T,)
        Starts of the steps.
    latitude : ndarray, (n,), degrees north
    step : Step
        A monthly value is the mean over the true days of the month.
    longitude : ndarray, (n,), degrees east, optional
        Needed for itself alone.

    Returns
    -------
    values : ndarray, (T, n), float32
        W m-2 (mean over day and night), h, the calendar's year and day of the year (1 on 1 January), or degrees.

    Raises
    ------
    UnknownName
        If nothing of that name can be derived.
    ValueError
        If a latitude is not within -90..90 (NaN gives NaN), or the longitude is wanted and not given.

    Examples
    --------
    >>> equinox = pd.DatetimeIndex(["2001-03-21"])
    >>> derive("day_length", equinox, np.array([0.0, 42.0]), "daily").round(1)
    array([[12., 12.]], dtype=float32)
    """
    known = (*_DAILY, *_CALENDAR, *PLACE)
    if name not in known:
        error = unknown_name("derived variable", name, known)
        raise error
    latitude = np.asarray(latitude, dtype=np.float64)
    if np.any(np.abs(latitude) > 90):
        message = f"Latitudes must lie within -90..90 degrees, got {latitude.min()}..{latitude.max()}."
        raise ValueError(message)
    if name in PLACE:
        return _everywhere(name, len(time), latitude, longitude)
    if name in _CALENDAR:
        # of the step's start, also of a month
        return np.repeat(_CALENDAR[name](time).to_numpy(np.float32)[:, None], len(latitude), axis=1)
    if step == "daily":
        values = _DAILY[name](time.day_of_year.to_numpy(), latitude)
    else:
        values = _monthly(_DAILY[name], time, latitude)
    return values.astype(np.float32)


def _everywhere(name: str, steps: int, latitude: np.ndarray, longitude: np.ndarray | None) -> np.ndarray:
    """Return a coordinate, the same at every step, (T, n)."""
    values = {"latitude": latitude, "longitude": longitude}[name]
    if values is None:
        message = "The longitude is an input here, but these places come without it; give theirs."
        raise ValueError(message)
    return np.repeat(np.asarray(values, np.float32)[None], steps, axis=0)


def daily_toa_radiation(day_of_year: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Compute the radiation on a horizontal plane at the top of the atmosphere, mean over 24 h.

    Parameters
    ----------
    day_of_year : ndarray, (T,)
        1 on 1 January.
    latitude : ndarray, (n,), degrees north

    Returns
    -------
    radiation : ndarray, (T, n), float64, W m-2, >= 0

    Notes
    -----
    S0 / pi * E0 * (h sin(phi) sin(delta) + cos(phi) cos(delta) sin(h)), h the hour angle of sunset, delta the
    declination and E0 the squared ratio of mean to true distance of the sun.

    References
    ----------
    Allen et al. (1998), FAO Irrigation and Drainage Paper 56, eq. 21; Spencer (1971), Search 2(5), 172.

    Examples
    --------
    >>> daily_toa_radiation(np.array([172]), np.array([-90.0, 90.0])).round()
    array([[  0., 524.]])
    """
    declination, distance = _sun(day_of_year)
    sunset = _sunset_angle(declination, latitude)
    phi, delta = np.radians(latitude), declination[:, None]
    height = sunset * np.sin(phi) * np.sin(delta) + np.cos(phi) * np.cos(delta) * np.sin(sunset)
    # Rounding at the poles and in the polar night must not make light negative.
    return np.maximum(SOLAR_CONSTANT / np.pi * distance[:, None] * height, 0.0)


def daily_day_length(day_of_year: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Compute the time from sunrise to sunset of the sun's centre, without refraction.

    Parameters
    ----------
    day_of_year : ndarray, (T,)
        1 on 1 January.
    latitude : ndarray, (n,), degrees north

    Returns
    -------
    length : ndarray, (T, n), float64, h
        24 in the polar day, 0 in the polar night.

    References
    ----------
    Allen et al. (1998), FAO Irrigation and Drainage Paper 56, eq. 34.

    Examples
    --------
    >>> daily_day_length(np.array([172]), np.array([-80.0, 0.0, 80.0]))
    array([[ 0., 12., 24.]])
    """
    declination, _ = _sun(day_of_year)
    return 24 / np.pi * _sunset_angle(declination, latitude)


_DAILY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "toa_radiation": daily_toa_radiation,
    "day_length": daily_day_length,
}
_CALENDAR: dict[str, Callable[[pd.DatetimeIndex], pd.Index]] = {
    "calendar_year": lambda time: time.year,
    "day_of_year": lambda time: time.day_of_year,
}


def _sun(day_of_year: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return declination (rad) and squared distance factor of the sun on each day (Spencer 1971)."""
    angle = 2 * np.pi * (np.asarray(day_of_year, dtype=np.float64) - 1) / 365
    declination = (
        0.006918
        - 0.399912 * np.cos(angle)
        + 0.070257 * np.sin(angle)
        - 0.006758 * np.cos(2 * angle)
        + 0.000907 * np.sin(2 * angle)
        - 0.002697 * np.cos(3 * angle)
        + 0.00148 * np.sin(3 * angle)
    )
    distance = (
        1.00011
        + 0.034221 * np.cos(angle)
        + 0.00128 * np.sin(angle)
        + 0.000719 * np.cos(2 * angle)
        + 0.000077 * np.sin(2 * angle)
    )
    return declination, distance


def _sunset_angle(declination: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the hour angle of sunset (T, n), rad: 0 in the polar night, pi in the polar day."""
    phi, delta = np.radians(latitude), declination[:, None]
    return np.arccos(np.clip(-np.tan(phi) * np.tan(delta), -1.0, 1.0))


def _monthly(
    daily: Callable[[np.ndarray, np.ndarray], np.ndarray], time: pd.DatetimeIndex, latitude: np.ndarray
) -> np.ndarray:
    """Return means over the days of each month, (T, n)."""
    first = (time - pd.to_timedelta(time.day - 1, unit="D")).day_of_year.to_numpy()
    kinds, which = np.unique(np.stack([first, time.days_in_month.to_numpy()]), axis=1, return_inverse=True)
    # cumsum adds day by day whatever the number of places; a plain mean sums in another order for a single place.
    means = [np.cumsum(daily(np.arange(start, start + days), latitude), axis=0)[-1] / days for start, days in kinds.T]
    return np.stack(means)[which.reshape(-1)] if means else np.empty((0, len(latitude)))
