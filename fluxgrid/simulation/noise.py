"""Random fields that know no region: a value depends on place, time and seed only, bit for bit.

A field is a sum of plane waves. ``cos(a + b) = cos a cos b - sin a sin b`` splits each wave into a factor of place and
a factor of time, so that trigonometry is done on vectors only. The sum runs in a fixed order over elementwise float64
products; a matrix product would be faster, but its rounding depends on how many cells are asked for.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from fluxgrid.simulation.parameters import Waves

_KM_PER_DEGREE = 111.2
_ORIGIN = (-95.0, 40.0)
_EPOCH = pd.Timestamp("2000-01-01")
_GOLDEN_ANGLE = np.pi * (3.0 - np.sqrt(5.0))
# The spectrum is cut at these multiples of the outer wave number.
_WIDEST, _FINEST = 0.3, 9.0
_SLOWEST = 0.3  # rad per characteristic time
_STEPS_AT_ONCE = 64  # a block of 64 steps x 1024 cells stays in the processor's cache


def random_field(
    waves: Waves, latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray | None = None
) -> np.ndarray:
    """Return a random field of mean 0 and variance 1 with the spectrum of Whittle's correlation.

    Parameters
    ----------
    waves : Waves
        Seed, number of waves, length and time scale, drift.
    latitude, longitude : ndarray, (n,), degrees
        Places.
    days : ndarray, (time,), days since 2000-01-01, optional
        Whole days; None for a map.

    Returns
    -------
    field : ndarray, (time, n) or (n,), float64

    Notes
    -----
    Wave numbers are spread evenly in logarithm and direction (golden angle) and weighted by the Matern spectrum of
    smoothness 1: fewer waves without visible stripes than independent draws would need.

    Examples
    --------
    >>> random_field(Waves(1, 16, 100.0, 2.0), np.array([40.0]), np.array([-90.0]), np.arange(3.0)).shape
    (3, 1)
    """
    amplitude, east, north, omega, phase = _wave_table(waves)
    x = (longitude - _ORIGIN[0]) * (_KM_PER_DEGREE * np.cos(np.deg2rad(_ORIGIN[1])))
    y = (latitude - _ORIGIN[1]) * _KM_PER_DEGREE
    place = [east[i] * x + north[i] * y + phase[i] for i in range(waves.count)]
    if days is None:
        return _sum_in_order([a * np.cos(p) for a, p in zip(amplitude, place, strict=True)])
    cosines = [a * np.cos(p) for a, p in zip(amplitude, place, strict=True)]
    sines = [a * np.sin(p) for a, p in zip(amplitude, place, strict=True)]
    field = np.zeros((len(days), len(x)))
    for first in range(0, len(days), _STEPS_AT_ONCE):
        _add_waves(field[first : first + _STEPS_AT_ONCE], cosines, sines, omega, days[first : first + _STEPS_AT_ONCE])
    return field


def days_since_epoch(time: pd.DatetimeIndex) -> np.ndarray:
    """Return time as days since 2000-01-01.

    Parameters
    ----------
    time : DatetimeIndex, (time,)
        Days.

    Returns
    -------
    days : ndarray, (time,), float64

    Examples
    --------
    >>> days_since_epoch(pd.DatetimeIndex(["2000-01-03"]))
    array([2.])
    """
    return np.asarray((time.normalize() - _EPOCH) / pd.Timedelta(days=1), dtype=np.float64)


def uniforms(seed: int, count: int) -> np.ndarray:
    """Return numbers in (0, 1) that no later NumPy changes: bit streams are frozen, distributions are not.

    Parameters
    ----------
    seed : int
        Key of the stream.
    count : int
        How many.

    Returns
    -------
    numbers : ndarray, (count,), float64
    """
    return ((np.random.Philox(key=seed).random_raw(count) >> np.uint64(11)) + 0.5) * 2.0**-53


def _add_waves(
    block: np.ndarray, cosines: list[np.ndarray], sines: list[np.ndarray], omega: np.ndarray, days: np.ndarray
) -> None:
    """Add every wave to a block (time, n), in place."""
    product = np.empty_like(block)
    for cosine, sine, rate in zip(cosines, sines, omega, strict=True):
        angle = rate * days[:, None]
        block += np.multiply(np.cos(angle), cosine, out=product)
        block -= np.multiply(np.sin(angle), sine, out=product)


def _sum_in_order(terms: list[np.ndarray]) -> np.ndarray:
    """Add arrays first to last."""
    total = np.zeros_like(terms[0])
    for term in terms:
        total += term
    return total


@lru_cache(maxsize=64)
def _wave_table(waves: Waves) -> tuple[np.ndarray, ...]:
    """Return amplitude, wave numbers east and north (rad/km), rate (rad/d) and phase of each wave."""
    n = waves.count
    jitter, turn, phase, first, second = uniforms(waves.seed, 5 * n).reshape(5, n)
    scaled = _WIDEST * (_FINEST / _WIDEST) ** ((np.arange(n) + jitter) / n)  # wave number times length
    # Matern, smoothness 1, in the plane: density (1 + k2)^-2, times k2 for the even spacing in the logarithm.
    power = scaled**2 / (1.0 + scaled**2) ** 2
    amplitude = np.sqrt(2.0 * power / power.sum())
    angle = _GOLDEN_ANGLE * np.arange(n) + 0.5 * turn
    east = scaled / waves.length_km * np.cos(angle)
    north = scaled / waves.length_km * np.sin(angle)
    # Small features live shorter: rate grows with the wave number to the power 2/3 (Kolmogorov).
    own = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second) * scaled ** (2.0 / 3.0) / waves.days
    # Seen once a day a rate of a whole turn stands still, and a standing wave draws stripes into annual sums.
    omega = np.remainder(own - east * waves.east_km_d - north * waves.north_km_d + np.pi, 2.0 * np.pi) - np.pi
    slowest = _SLOWEST * (1.0 + jitter) / waves.days
    omega = np.where(np.abs(omega) < slowest, np.copysign(slowest, omega), omega)
    return amplitude, east, north, omega, 2.0 * np.pi * phase
