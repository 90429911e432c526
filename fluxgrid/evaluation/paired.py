"""Means with intervals, and paired differences: two ways of training compared seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fluxgrid.errors import ConfigError

LEVEL = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class Mean:
    """A mean with its t interval; the interval of a single value is NaN."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The mean of ``ours - other`` over pairs, and how much of the other's mean that is."""

    n: int
    """Pairs."""
    mean: float
    low: float
    """t interval."""
    high: float
    improvement: float
    """By how many percent ours is below the other: 100 (1 - mean of ours / mean of other)."""
    improvement_low: float
    """t interval of the difference as a share of the other's mean."""
    improvement_high: float


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Mean:
    """Return a mean with its t interval.

    Parameters
    ----------
    values : sequence of float, (n,)
        Independent, one for each seed.
    level : float, 0-1
        Of the interval.

    Returns
    -------
    mean : Mean
        ``mean +- t s / sqrt(n)``, with the sample standard deviation s (over n - 1) and the quantile t at
        ``(1 + level) / 2`` of Student's distribution with n - 1 degrees of freedom.

    Raises
    ------
    ConfigError
        If there is no value, or one is not finite.

    Examples
    --------
    >>> found = mean_interval([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.303, s = 1
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = _checked(values)
    centre = float(x.mean())
    if len(x) < 2:
        return Mean(len(x), centre, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Mean(len(x), centre, centre - half, centre + half)


def paired_difference(ours: ArrayLike, other: ArrayLike, level: float = LEVEL) -> PairedDifference:
    """Return the mean difference of two ways of training over pairs of runs that share a seed.

    Parameters
    ----------
    ours, other : sequence of float, (n,)
        Errors, pair by pair.
    level : float, 0-1
        Of the intervals.

    Returns
    -------
    difference : PairedDifference
        With ``d_i = ours_i - other_i``: mean of d and its t interval (`mean_interval`), and the same as a share of
        ``mean(other)``, which is taken as known. A bootstrap of a handful of pairs would be too narrow: its variance
        is that of n, not n - 1, and its tails are not Student's.

    Raises
    ------
    ConfigError
        If the numbers differ, there is none, or one is not finite.

    Examples
    --------
    >>> found = paired_difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    >>> found.mean, found.improvement
    (-2.0, 50.0)
    """
    x, y = _checked(ours), _checked(other)
    if len(x) != len(y):
        message = f"Pairs need as many values on both sides, got {len(x)} and {len(y)}. Compare the seeds both have."
        raise ConfigError(message)
    t = mean_interval(x - y, level)
    share = [float(-100.0 * value / y.mean()) for value in (t.mean, t.high, t.low)]
    return PairedDifference(t.n, t.mean, t.low, t.high, *share)


def _checked(values: ArrayLike) -> np.ndarray:
    """Return values as float64, (n,), n >= 1, all finite."""
    x = np.asarray(values, np.float64).ravel()
    if len(x) == 0 or not np.isfinite(x).all():
        message = (
            f"A mean needs at least one value and only finite ones, got {x.tolist()}. Leave out what has no value."
        )
        raise ConfigError(message)
    return x
