"""Weighted moments of errors that can be pooled in any order: what scores of maps too large for memory are made of.

Nothing is ever the small difference of two large sums: means and sums of squares about the mean are pooled by the
pairwise rule of Chan, Golub & LeVeque (1983), doi:10.1080/00031305.1983.10483115.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

_CONSTANT = 1e-12
"""Truth that varies by less than this part of its mean is constant: what is left is rounding."""
_LEAST_MEAN = 1e-9  # as `evaluation.metrics` adds to the denominator of nMAE


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of predictions and truth in each of some groups; all arrays are (group,)."""

    n: np.ndarray
    """Pairs of prediction and truth."""
    weight: np.ndarray
    """Sum of their weights."""
    truth: np.ndarray
    """Weighted mean of truth; 0 where there is no pair, as are all that follow."""
    error: np.ndarray
    """Weighted mean of predicted - truth."""
    square: np.ndarray
    """Weighted sum of squared errors."""
    absolute: np.ndarray
    """Weighted sum of absolute errors."""
    spread: np.ndarray
    """Weighted sum of squared deviations of truth from its mean."""

    @classmethod
    def none(cls, groups: int) -> Moments:
        """Return the moments of nothing.

        Parameters
        ----------
        groups : int
        """
        return cls(*(np.zeros(groups) for _ in fields(cls)))

    def scores(self) -> dict[str, np.ndarray]:
        """Return the scores of each group.

        Returns
        -------
        scores : dict of ndarray, (group,)
            ``n``; ``truth``, the mean; ``r2``, 1 - SSE / SST, NaN where truth is constant; ``rmse``; ``bias``, mean of
            predicted - truth; ``nmae``, mean absolute error over the absolute value of the mean of truth. NaN in
            groups without a pair.
        """
        some = self.n > 0
        weight = np.where(some, self.weight, np.nan)
        varies = self.spread > self.weight * (_CONSTANT * self.truth) ** 2
        return {
            "n": self.n.astype(np.int64),
            "truth": np.where(some, self.truth, np.nan),
            "r2": 1 - np.divide(self.square, self.spread, out=np.full(len(self.n), np.nan), where=varies),
            "rmse": np.sqrt(self.square / weight),
            "bias": np.where(some, self.error, np.nan),
            "nmae": self.absolute / weight / (np.abs(self.truth) + _LEAST_MEAN),
        }


def column_moments(predicted: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> Moments:
    """Return the moments of each column over the rows where prediction and truth are there.

    Parameters
    ----------
    predicted, truth : ndarray, (time, n), any unit
        NaN where missing.
    weight : ndarray, (n,), > 0
        Of each value of the column.

    Returns
    -------
    moments : Moments
        One group for each column.
    """
    both = np.isfinite(predicted) & np.isfinite(truth)
    n = both.sum(axis=0).astype(np.float64)
    error = np.where(both, np.subtract(predicted, truth, dtype=np.float64), 0.0)
    mean = _divide(np.where(both, truth, 0.0).sum(axis=0, dtype=np.float64), n)
    deviation = np.where(both, truth - mean, 0.0)
    return Moments(
        n=n,
        weight=n * weight,
        truth=mean,
        error=_divide(error.sum(axis=0), n),
        square=weight * (error**2).sum(axis=0),
        absolute=weight * np.abs(error).sum(axis=0),
        spread=weight * (deviation**2).sum(axis=0),
    )


def pool(parts: Sequence[Moments], labels: Sequence[np.ndarray], groups: int) -> Moments:
    """Pool moments into groups, in whatever order they come.

    Parameters
    ----------
    parts : sequence of Moments
    labels : sequence of ndarray of int
        For each part, the group of each of its own groups, 0 to ``groups - 1``.
    groups : int

    Returns
    -------
    pooled : Moments

    Examples
    --------
    >>> ones = np.ones((3, 2))
    >>> pooled = pool([column_moments(ones, 0 * ones, np.array([1.0, 3.0]))], [np.array([0, 0])], 1)
    >>> pooled.n.item(), pooled.error.item(), pooled.square.item()
    (6.0, 1.0, 12.0)
    """
    label = np.concatenate(labels)
    n, weight, truth, error, square, absolute, spread = (
        np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Moments)
    )

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values, minlength=groups)

    mass = total(weight)
    mean = _divide(total(weight * truth), mass)
    return Moments(
        n=total(n),
        weight=mass,
        truth=mean,
        error=_divide(total(weight * error), mass),
        square=total(square),
        absolute=total(absolute),
        spread=total(spread + weight * (truth - mean[label]) ** 2),
    )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)
