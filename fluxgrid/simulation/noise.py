"""Random fields that know no region: a value depends on place, time and seed only, bit for bit.

A field is a sum of plane waves. ``cos(a + b) = cos a cos b - sin a sin b`` splits each wave into a factor of place and
a factor of time, so that trigonometry is done on vectors only. The sum runs in a fixed order over elementwise products;
a matrix product would round differently for another number of cells. Single precision is enough for noise and twice
as fast. Noise without memory is hashed from place and day.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import ConfigDict

from fluxgrid.simulation.arithmetic import cosine, rounded
from fluxgrid.simulation.compiled import kernel, part

_KM_PER_DEGREE = 111.2
_KM_PER_DEGREE_EAST = 85.184  # at 40 N
_ORIGIN = (-95.0, 40.0)
_EPOCH = pd.Timestamp("2000-01-01")
_GOLDEN_ANGLE = np.pi * (3.0 - np.sqrt(5.0))
# The spectrum is cut at these multiples of the outer wave number.
_WIDEST, _FINEST = 0.3, 9.0
_SLOWEST = 0.3  # rad per characteristic time
DAYS_AT_ONCE = 512
"""Tables of time are made for as many days: those of 128 waves stay in the second-level cache (0.5 MB)."""


@dataclass(frozen=True)
class Waves:
    """A random field in space and time, as a sum of plane waves."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seed: int
    count: int
    length_km: float
    """Outer length of the spectrum; features are about three times as wide."""
    days: float
    """Time in which features of the outer length change shape; infinite for maps."""
    east_km_d: float = 0.0
    """Eastward drift."""
    north_km_d: float = 0.0


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
    field : ndarray, (n, time) or (n,), float64

    Notes
    -----
    Wave numbers are spread evenly in logarithm and direction (golden angle) and weighted by the Matern spectrum of
    smoothness 1 (Whittle 1954, doi:10.1093/biomet/41.3-4.434): fewer waves without visible stripes than independent
    draws would need.

    Examples
    --------
    >>> random_field(Waves(1, 16, 100.0, 2.0), np.array([40.0]), np.array([-90.0]), np.arange(3.0)).shape
    (1, 3)
    """
    place = np.zeros(1) if days is None else days
    field = single_field(waves, latitude, longitude, place).astype(np.float64)
    return field[:, 0] if days is None else field


def single_field(waves: Waves, latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return a random field in single precision, as `random_field` works it out.

    Parameters
    ----------
    waves : Waves
        See `random_field`.
    latitude, longitude : ndarray, (n,), degrees
        Places.
    days : ndarray, (time,), days since 2000-01-01
        Whole days.

    Returns
    -------
    field : ndarray, (n, time), float32
    """
    return WavesAt.of(waves, latitude, longitude).on(days)


@dataclass(frozen=True, eq=False)
class WavesAt:
    """A random field at its places, of which the days are still open."""

    waves: Waves
    count: int
    """Number of places."""
    cosines: np.ndarray
    sines: np.ndarray
    """Factors of place, (n, waves), padded to whole blocks."""

    @classmethod
    def of(cls, waves: Waves, latitude: np.ndarray, longitude: np.ndarray) -> WavesAt:
        """Return the field at places given in degrees, (n,)."""
        x, y = plane(latitude, longitude)
        amplitude, east, north, _, phase = _wave_table(waves)
        return cls(waves, len(x), *_place_tables(x, y, amplitude, east, north, phase))

    def on(self, days: np.ndarray) -> np.ndarray:
        """Return the field on days since 2000-01-01, (n, time), float32."""
        parts = [days[first : first + DAYS_AT_ONCE] for first in range(0, len(days), DAYS_AT_ONCE)]
        tables = (_time_tables(self.waves, np.ascontiguousarray(part, dtype=np.float64).tobytes()) for part in parts)
        fields = [_sum_of_waves(self.cosines, self.sines, *table)[: self.count] for table in tables]
        return fields[0] if len(fields) == 1 else np.concatenate(fields, axis=1)


def plane(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places in the plane of the noise, km east and north of its origin.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places.

    Returns
    -------
    x, y : ndarray, (n,), km
    """
    x = (np.asarray(longitude, dtype=np.float64) - _ORIGIN[0]) * _KM_PER_DEGREE_EAST
    return x, (np.asarray(latitude, dtype=np.float64) - _ORIGIN[1]) * _KM_PER_DEGREE


def hashed_uniforms(seed: int, latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return white noise of place and day: a hash, so that no value depends on what else is asked for.

    Parameters
    ----------
    seed : int
        Key of the noise.
    latitude, longitude : ndarray, (n,), degrees
        Places; rounded to 1e-5 degrees (a metre).
    days : ndarray, (time,), days since 2000-01-01
        Whole days.

    Returns
    -------
    noise : ndarray, (n, time), float64
        Within (0, 1).

    Notes
    -----
    The mixer of splitmix64: Steele et al. 2014, doi:10.1145/2660193.2660195.

    Examples
    --------
    >>> hashed_uniforms(1, np.array([40.0]), np.array([-90.0]), np.array([0.0, 1.0])).round(3)
    array([[0.106, 0.127]])
    """
    rows = np.round(np.asarray(latitude, dtype=np.float64) * 1e5).astype(np.int64)
    columns = np.round(np.asarray(longitude, dtype=np.float64) * 1e5).astype(np.int64)
    return _white_noise(np.uint64(seed), rows, columns, np.asarray(days, dtype=np.int64))


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
    return tuple(rounded(part) for part in (amplitude, east, north, omega, 2.0 * np.pi * phase))


@lru_cache(maxsize=128)
def _time_tables(waves: Waves, days: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of each wave on each day, (waves, time), float32; an odd wave gets an empty partner."""
    omega = _wave_table(waves)[3]
    cosines, sines = np.zeros((2, len(omega) + len(omega) % 2, len(days) // 8), dtype=np.float32)
    _fill_time_tables(omega, np.frombuffer(days, dtype=np.float64), cosines, sines)
    return cosines, sines


@kernel
def _fill_time_tables(omega, days, cosines, sines):
    """Fill the tables of time, (waves, time)."""
    for w in range(len(omega)):
        for d in range(len(days)):
            cosines[w, d] = cosine(omega[w] * days[d])
            sines[w, d] = cosine(omega[w] * days[d] - 0.5 * np.pi)


@kernel
def _place_tables(x, y, amplitude, east, north, phase):
    """Return amplitude times cosine and sine at each place, (n, waves), float32, padded to whole blocks."""
    n, count = len(x), len(amplitude)
    cosines = np.zeros((n + -n % 4, count + count % 2), dtype=np.float32)
    sines = np.zeros_like(cosines)
    for i in range(n):
        for w in range(count):
            angle = east[w] * x[i] + north[w] * y[i] + phase[w]
            cosines[i, w] = amplitude[w] * cosine(angle)
            sines[i, w] = amplitude[w] * cosine(angle - 0.5 * np.pi)
    return cosines, sines


@kernel
def _sum_of_waves(cp, sp, ct, st):
    """Return the field (n, time): 4 places by 2 waves at once keep the processor busy."""
    field = np.zeros((len(cp), ct.shape[1]), dtype=np.float32)
    for i in range(0, len(cp), 4):
        out_0, out_1, out_2, out_3 = field[i], field[i + 1], field[i + 2], field[i + 3]
        for w in range(0, len(ct), 2):
            v = w + 1
            a_0, a_1, a_2, a_3 = cp[i, w], cp[i + 1, w], cp[i + 2, w], cp[i + 3, w]
            b_0, b_1, b_2, b_3 = sp[i, w], sp[i + 1, w], sp[i + 2, w], sp[i + 3, w]
            e_0, e_1, e_2, e_3 = cp[i, v], cp[i + 1, v], cp[i + 2, v], cp[i + 3, v]
            f_0, f_1, f_2, f_3 = sp[i, v], sp[i + 1, v], sp[i + 2, v], sp[i + 3, v]
            x, y, p, q = ct[w], st[w], ct[v], st[v]
            for d in range(field.shape[1]):
                out_0[d] += (a_0 * x[d] - b_0 * y[d]) + (e_0 * p[d] - f_0 * q[d])
                out_1[d] += (a_1 * x[d] - b_1 * y[d]) + (e_1 * p[d] - f_1 * q[d])
                out_2[d] += (a_2 * x[d] - b_2 * y[d]) + (e_2 * p[d] - f_2 * q[d])
                out_3[d] += (a_3 * x[d] - b_3 * y[d]) + (e_3 * p[d] - f_3 * q[d])
    return field


@part
def mix(z):
    """Return 64 well-mixed bits, for use inside kernels: the finaliser of splitmix64.

    Parameters
    ----------
    z : uint64
        Any bits.

    Returns
    -------
    bits : uint64
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _white_noise(seed, rows, columns, days):
    """Return uniform numbers in (0, 1), (n, time)."""
    out = np.empty((len(rows), len(days)))
    step = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(rows)):
        key = mix(mix(mix(seed * step + step) + np.uint64(rows[i])) * step + np.uint64(columns[i]))
        for d in range(len(days)):
            bits = mix(key + np.uint64(days[d]) * step)
            out[i, d] = (np.float64(np.int64(bits >> np.uint64(12))) + 0.5) * 2.0**-52
    return out
