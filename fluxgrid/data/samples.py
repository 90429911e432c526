"""Which windows of a tower's record are samples: a plan of first days, apart from the data.

CarbonBench (Rozanov et al.) joins covariates to the rows of the target table, so that a day without a target has no
covariates either and one missing day takes up to W windows with it. Joined on the calendar instead, a window needs its
covariates on all days and its targets on the days it answers for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxgrid.errors import ConfigError, itemise


@dataclass(frozen=True)
class SampleRule:
    """How windows are laid along a record, and which of them count."""

    window: int = 30
    """Days W of a window."""
    stride: int = 15
    """Days S from one window to the next, and the last days of each that it answers for."""
    minimum_qc: float = 0.0
    """Least quality of each of these days, 0 to 1."""
    as_published: bool = False
    """Covariates exist on days with a target, and on the W - 1 days before the first, only."""

    def __post_init__(self) -> None:
        problems = []
        if self.window < 1:
            problems.append(f"window: {self.window} days; give 1 or more")
        if not 1 <= self.stride <= self.window:
            problems.append(f"stride: {self.stride} days; give 1 to the window's {self.window}")
        if not 0.0 <= self.minimum_qc <= 1.0:
            problems.append(f"minimum_qc: {self.minimum_qc}; give 0 to 1")
        if problems:
            raise ConfigError(itemise("The rule of samples cannot be used", problems))


TRAIN = SampleRule()
"""Windows that CarbonBench trains and validates on: every 15 days, of any quality."""
TEST = SampleRule(stride=1, minimum_qc=1.0)
"""Windows that it scores: one for each day of best quality."""


def plan_samples(
    targets: pd.DatetimeIndex, covariates: pd.DatetimeIndex, quality: np.ndarray, rule: SampleRule = TRAIN
) -> pd.DatetimeIndex:
    """Return the first days of a record's windows.

    Parameters
    ----------
    targets : DatetimeIndex, (N,)
        Days whose targets are all known, in order.
    covariates : DatetimeIndex
        Days whose covariates are all known; may begin before the targets.
    quality : ndarray, (N,), 0 to 1
        Of each day of `targets`; NaN never counts.
    rule : SampleRule

    Returns
    -------
    first_days : DatetimeIndex
        Windows are laid every S days from W - 1 days before the first target on, whether or not they count; those are
        returned whose covariates are known on all W days, and whose last S days have targets of the quality.

    Raises
    ------
    ValueError
        If days and qualities differ in number, or days are not in order.

    Examples
    --------
    >>> days = pd.date_range("2001-01-01", periods=6)
    >>> rule = SampleRule(window=3, stride=2)
    >>> list(plan_samples(days, days, np.ones(6), rule).day)  # that of 30 December has no covariates
    [1, 3]
    """
    if len(targets) != len(quality):
        message = f"There are {len(targets)} days with targets and {len(quality)} qualities; give one for each."
        raise ValueError(message)
    if not targets.is_monotonic_increasing or not targets.is_unique:
        message = "Days with targets must be in order, each once; sort them first."
        raise ValueError(message)
    if not len(targets):
        return targets
    calendar = pd.date_range(targets[0] - pd.Timedelta(days=rule.window - 1), targets[-1])
    row = targets.get_indexer(calendar)
    known = calendar.isin(covariates)
    if rule.as_published:
        known &= (row >= 0) | (calendar < targets[0])
    answers = (row >= 0) & (np.asarray(quality, np.float64)[row] >= rule.minimum_qc)
    first = np.arange(0, len(calendar) - rule.window + 1, rule.stride)
    last = first + rule.window
    whole = _count(known, first, last) == rule.window
    counts = whole & (_count(answers, last - rule.stride, last) == rule.stride)
    return calendar[first[counts]]


def _count(true: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return how many are true from `first` up to `last`."""
    total = np.concatenate([[0], np.cumsum(true)])
    return total[last] - total[first]


def time_tail(rows: int, share: float = 0.2) -> int:
    """Return how many rows of a record come before its tail, which CarbonBench validates on.

    Examples
    --------
    >>> time_tail(4018)
    3214
    """
    return int(rows * (1.0 - share))
