"""Time steps: daily and monthly, their lengths and calendars."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd

Step = Literal["daily", "monthly"]
STEPS: tuple[Step, ...] = get_args(Step)

_FREQUENCY = {"daily": "D", "monthly": "MS"}
STEPS_PER_YEAR = {"daily": 365, "monthly": 12}
"""Steps of an ordinary year."""
STEP_NAMES = {"daily": "day", "monthly": "month"}
"""What one step is called."""


def calendar(start: str | pd.Timestamp, end: str | pd.Timestamp, step: Step) -> pd.DatetimeIndex:
    """Return the starts of all steps from `start` to `end`, both included.

    Examples
    --------
    >>> len(calendar("2000-01-01", "2000-12-31", "daily"))
    366
    """
    return pd.date_range(start, end, freq=_FREQUENCY[step])


def days_per_step(time: pd.DatetimeIndex, step: Step) -> np.ndarray:
    """Return the true length of each step.

    Returns
    -------
    days : ndarray, (T,), float64, d

    Examples
    --------
    >>> days_per_step(calendar("2000-02-01", "2000-03-01", "monthly"), "monthly")
    array([29., 31.])
    """
    if step == "daily":
        return np.ones(len(time))
    return time.days_in_month.to_numpy().astype(np.float64)


def step_ends(time: pd.DatetimeIndex, step: str) -> pd.DatetimeIndex:
    """Return the end of each step, which is the start of the next.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Starts of the steps.
    step : {"daily", "monthly"}

    Returns
    -------
    ends : DatetimeIndex, (T,)

    Examples
    --------
    >>> step_ends(pd.DatetimeIndex(["2020-02-01"]), "monthly")[0]
    Timestamp('2020-03-01 00:00:00')
    """
    return time + (pd.Timedelta(days=1) if step == "daily" else pd.DateOffset(months=1))
