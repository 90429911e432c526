"""Scores of predicted against observed fluxes, for one site and one flux."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("r2", "rmse", "nmae", "rae", "bias")
"""Names of the scores, in the order of tables."""


@dataclass(frozen=True)
class Score:
    """How well one flux of one site is predicted, over the steps where it was observed and predicted."""

    n: int
    """Number of those steps."""
    r2: float
    """1 - residual / total sum of squares; 1 is perfect, 0 the site mean, NaN for constant observations."""
    rmse: float
    """Root mean square error, unit of the flux."""
    nmae: float
    """Mean absolute error over the absolute value of the mean observation; large where that mean is near 0."""
    rae: float
    """Mean absolute error over that of the site mean as predictor; below 1 beats it, inf for constant observations."""
    bias: float
    """Mean of predicted - observed, unit of the flux."""


def score(observed: np.ndarray, predicted: np.ndarray, minimum: int = 2) -> Score:
    """Score predictions on the steps where both they and the observations are there.

    Parameters
    ----------
    observed, predicted : ndarray, (T,), any unit
        NaN where missing.
    minimum : int
        With fewer steps all scores are NaN; ``n`` is still given.

    Returns
    -------
    score : Score

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    nMAE has 1e-9 added to its denominator, as the CarbonBench evaluation has, so that it stays finite.

    Examples
    --------
    >>> example = score(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 2.0, 5.0]))
    >>> example.n, example.r2, example.rae, round(example.nmae, 3)
    (3, 0.5, 0.5, 0.167)
    """
    if observed.shape != predicted.shape:
        message = f"observed {observed.shape} and predicted {predicted.shape} must have one shape"
        raise ValueError(message)
    both = np.isfinite(observed) & np.isfinite(predicted)
    truth, guess = observed[both].astype(np.float64), predicted[both].astype(np.float64)
    if len(truth) < max(minimum, 1):
        return Score(len(truth), *[float("nan")] * len(METRICS))
    error = guess - truth
    mae = float(np.abs(error).mean())
    constant = bool(truth.min() == truth.max())
    spread = truth - truth.mean()
    return Score(
        n=len(truth),
        r2=float("nan") if constant else float(1 - (error @ error) / (spread @ spread)),
        rmse=float(np.sqrt((error**2).mean())),
        nmae=float(mae / (abs(truth.mean()) + 1e-9)),
        rae=float("inf") if constant else float(mae / np.abs(spread).mean()),
        bias=float(error.mean()),
    )
