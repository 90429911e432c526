"""Filling of missing steps: linear across short gaps, else the season of the past; every filled step is flagged.

The same rule serves sites, training and maps, so it must give the same numbers for a record as a whole and for its
years one after the other, and for one column alone and among others. Hence sums run step by step in float64, and
small systems are solved column by column with elementwise arithmetic instead of a library's blocked solver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from fluxgrid import compiling

_HALF_YEAR = {"daily": 183, "monthly": 6}


@dataclass(frozen=True)
class GapRule:
    """How missing steps of one variable are filled."""

    linear_steps: int
    """Longest gap, in steps, that is bridged by a straight line; 0 bridges none."""
    harmonics: int = 0
    """Annual harmonics of the fit to past years that fills longer gaps; 0 leaves them missing."""
    ends: bool = False
    """Whether gaps at the ends of a record, of at most ``linear_steps`` steps, get the nearest value."""

    def __post_init__(self) -> None:
        if self.linear_steps < 0 or self.harmonics < 0:
            message = f"A gap rule takes numbers >= 0, got linear_steps={self.linear_steps}, harmonics={self.harmonics}"
            raise ValueError(message)

    @property
    def terms(self) -> int:
        """Coefficients of the harmonic fit: the mean and two per harmonic."""
        return 1 + 2 * self.harmonics if self.harmonics else 0


@dataclass(frozen=True, eq=False)
class History:
    """Running normal equations of the harmonic fit, per column; a value: `add` returns a new one.

    Each array has two layers on its second axis: sums over all calendar years before the current one, which is what
    the current year may be filled from, and sums over everything seen. Zeros are an empty history.

    Parameters
    ----------
    normal : ndarray, (n, 2, p, p), float64
        Sums of products of the basis; element 0, 0 counts the observed steps.
    moment : ndarray, (n, 2, p), float64
        Sums of basis times value.
    span : ndarray, (n, 2, 2), float64
        Lowest and highest observed value.
    clock : ndarray, (n, 2), int64
        Current calendar year, and the steps that make half a year (0 unknown).
    """

    normal: np.ndarray
    moment: np.ndarray
    span: np.ndarray
    clock: np.ndarray

    @classmethod
    def empty(cls, n: int, rule: GapRule) -> History:
        """Return the history of n columns of which nothing has been seen.

        Examples
        --------
        >>> History.empty(3, GapRule(2, harmonics=1)).moment.shape
        (3, 2, 3)
        """
        p = rule.terms
        return cls(np.zeros((n, 2, p, p)), np.zeros((n, 2, p)), np.zeros((n, 2, 2)), np.zeros((n, 2), np.int64))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> History:
        """Return the history stored as `arrays`."""
        return cls(**{name: np.asarray(value) for name, value in arrays.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays whose first axis is the columns, for storing."""
        return {"normal": self.normal, "moment": self.moment, "span": self.span, "clock": self.clock}

    def add(self, values: np.ndarray, time: pd.DatetimeIndex) -> History:
        """Return the history that includes further observations.

        Parameters
        ----------
        values : ndarray, (T, n)
            As observed, NaN where missing; filled values must not enter.
        time : DatetimeIndex, (T,)
            Later than everything added before.

        Returns
        -------
        history : History

        Raises
        ------
        ValueError
            If the shapes do not fit or the time runs backwards.
        """
        _check(values, time, self)
        history = self
        for year, rows in _years(time):
            history = history._enter(year, time)._sum(values[rows], time[rows])
        return history

    def _enter(self, year: int, time: pd.DatetimeIndex) -> History:
        """Return the history with its first layer closed at the start of a calendar year."""
        last = int(self.clock[:, 0].max(initial=0))
        if year < last:
            message = f"The year {year} cannot be added to a history that has reached {last}; give years in order."
            raise ValueError(message)
        steps = _HALF_YEAR[_step(time)] if len(time) > 1 else int(self.clock[:, 1].max(initial=0))
        clock = np.broadcast_to(np.array([year, steps]), self.clock.shape)
        if year == last:
            return replace(self, clock=clock)
        closed = {name: np.repeat(getattr(self, name)[:, 1:], 2, axis=1) for name in ("normal", "moment", "span")}
        return History(clock=clock, **closed)

    def _sum(self, values: np.ndarray, time: pd.DatetimeIndex) -> History:
        """Return the history with observations of one calendar year added to its second layer."""
        if self.moment.shape[-1] == 0:
            return self
        normal, moment, span = self.normal.copy(), self.moment.copy(), self.span.copy()
        basis = np.ascontiguousarray(_basis(time, self.moment.shape[-1]), np.float64)
        add = _add_rows if compiling.AVAILABLE else _add_plainly
        add(np.ascontiguousarray(values, np.float64), basis, normal[:, 1], moment[:, 1], span[:, 1])
        return replace(self, normal=normal, moment=moment, span=span)

    def _predict(self, time: pd.DatetimeIndex) -> np.ndarray:
        """Return the fit of the years before, (T, n) float64; NaN where the past does not carry it."""
        needed = int(self.clock[:, 1].max(initial=0)) or _HALF_YEAR["daily"]
        p = self.moment.shape[-1]
        coefficients = _solve(self.normal[:, 0], self.moment[:, 0])  # (n, p)
        basis = _basis(time, p)  # (T, p)
        fit = np.zeros((len(time), len(coefficients)))
        for term in range(p):
            fit += basis[:, term, None] * coefficients[:, term]
        # Half a year of data leaves the other half to extrapolation: never leave the range of what was seen.
        fit = np.clip(fit, self.span[:, 0, 0], self.span[:, 0, 1])
        return np.where(self.normal[:, 0, 0, 0] >= needed, fit, np.nan)


@compiling.kernel()
def _add_rows(values: np.ndarray, basis: np.ndarray, normal: np.ndarray, moment: np.ndarray, span: np.ndarray) -> None:
    """Add observations (T, n) on a basis (T, p) to sums (n, p, p), (n, p) and the range (n, 2), in the order of time.

    Every column by itself and step by step, so that its sums do not hang on the columns beside it.
    """
    for column in range(values.shape[1]):
        for row in range(values.shape[0]):
            value = values[row, column]
            if not np.isfinite(value):
                continue
            first = normal[column, 0, 0] == 0
            if first or value < span[column, 0]:
                span[column, 0] = value
            if first or value > span[column, 1]:
                span[column, 1] = value
            for i in range(basis.shape[1]):
                moment[column, i] += value * basis[row, i]
                for j in range(basis.shape[1]):
                    normal[column, i, j] += basis[row, i] * basis[row, j]


def _add_plainly(
    values: np.ndarray, basis: np.ndarray, normal: np.ndarray, moment: np.ndarray, span: np.ndarray
) -> None:
    """Do what `_add_rows` does, all columns at once."""
    for value, terms in zip(values, basis, strict=True):
        known = np.isfinite(value)
        given = value[known]
        first = normal[known, 0, 0] == 0
        span[known, 0] = np.where(first, given, np.minimum(span[known, 0], given))
        span[known, 1] = np.where(first, given, np.maximum(span[known, 1], given))
        moment[known] += given[:, None] * terms
        normal[known] += terms[:, None] * terms


@dataclass(frozen=True, eq=False)
class Filled:
    """Values after gap filling.

    Parameters
    ----------
    values : ndarray, (T, n), floating type of the input
        NaN where the rule does not reach.
    mask : ndarray of bool, (T, n)
        True where a value was filled.
    """

    values: np.ndarray
    mask: np.ndarray


def fill_gaps(
    values: np.ndarray,
    time: pd.DatetimeIndex,
    rule: GapRule,
    history: History | None = None,
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
) -> Filled:
    """Fill missing steps by a declared rule.

    Of a record on a complete calendar, a run of at most ``rule.linear_steps`` missing steps with an observed value on
    either side is filled by the straight line between the two. Every other missing step is filled by the mean and
    ``rule.harmonics`` annual harmonics fitted by least squares to all observed values of earlier calendar years, never
    leaving the range of those values. It stays missing where there is less than half a year of them (183 days,
    6 months), or where they do not determine the fit (Januaries alone say nothing of July).

    Parameters
    ----------
    values : ndarray, (T, n)
        Observed values, NaN where missing: a record, or whole calendar years of it.
    time : DatetimeIndex, (T,)
        Starts of consecutive steps.
    rule : GapRule
        What to do.
    history : History, optional
        What was observed before ``time``; nothing if not given.
    before, after : ndarray, (up to linear_steps, n), optional
        Observed values next to the period. With them and the history, a year by itself gets the same numbers as
        within the record.

    Returns
    -------
    filled : Filled
        The input is left as it is.

    Raises
    ------
    ValueError
        If the shapes do not fit or the time runs backwards.

    Examples
    --------
    >>> days = pd.date_range("2001-01-01", periods=4)
    >>> filled = fill_gaps(np.array([[1.0], [np.nan], [3.0], [np.nan]]), days, GapRule(linear_steps=1))
    >>> filled.values[:, 0], filled.mask[:, 0]
    (array([ 1.,  2.,  3., nan]), array([False,  True, False, False]))
    """
    past = history if history is not None else History.empty(values.shape[1], rule)
    _check(values, time, past)
    missing = ~np.isfinite(values)
    result = np.where(missing, np.nan, values).astype(values.dtype)
    if missing.any():
        result[missing] = _bridge(values, before, after, rule)[missing]
        _fill_season(result, values, time, past)
    return Filled(result, missing & np.isfinite(result))


def _fill_season(result: np.ndarray, values: np.ndarray, time: pd.DatetimeIndex, history: History) -> None:
    """Fill what is still missing in `result` from the years before each year, in place."""
    if history.moment.shape[-1] == 0:
        return
    for year, rows in _years(time):
        if not np.isnan(result[rows.start :]).any():
            return
        history = history._enter(year, time)
        part = result[rows]
        columns = np.flatnonzero(np.isnan(part).any(axis=0))
        if len(columns):
            chosen = History(**{name: array[columns] for name, array in history.arrays().items()})
            part[:, columns] = np.where(np.isnan(part[:, columns]), chosen._predict(time[rows]), part[:, columns])
        if rows.stop < len(time):
            history = history._sum(values[rows], time[rows])


def _bridge(values: np.ndarray, before: np.ndarray | None, after: np.ndarray | None, rule: GapRule) -> np.ndarray:
    """Return straight lines across gaps of at most `linear_steps` steps, (T, n); NaN elsewhere."""
    empty = np.empty((0, values.shape[1]))
    before, after = (empty if part is None else part for part in (before, after))
    record = np.concatenate([before, values, after]).astype(np.float64)
    rows = np.arange(len(record))[:, None]
    seen = np.isfinite(record)
    left = np.maximum.accumulate(np.where(seen, rows, -1), axis=0)
    right = np.minimum.accumulate(np.where(seen, rows, len(record))[::-1], axis=0)[::-1]
    length = right - left - 1
    known = (left >= 0).astype(int) + (right < len(record))
    # one side is enough at the ends; a year by itself sees `linear_steps` beyond, so no end of a year looks like one
    short = ~seen & (length <= rule.linear_steps) & (known >= (1 if rule.ends else 2))
    start = np.take_along_axis(record, np.where(left >= 0, left, np.minimum(right, len(record) - 1)), axis=0)
    end = np.take_along_axis(record, np.where(right < len(record), right, np.maximum(left, 0)), axis=0)
    share = (rows - left) / np.where(short, length + 1, 1)
    line = np.where(short, start + (end - start) * share, np.nan)
    return line[len(before) : len(before) + len(values)]


def _solve(normal: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Solve p x p normal equations of n columns by L D L', elementwise over the columns; NaN where singular."""
    p = moment.shape[-1]
    lower, pivot, z = np.zeros_like(normal), np.zeros_like(moment), np.zeros_like(moment)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(p):
            for j in range(i):
                inner = sum((lower[:, i, k] * lower[:, j, k] * pivot[:, k] for k in range(j)), np.zeros(len(normal)))
                lower[:, i, j] = (normal[:, i, j] - inner) / pivot[:, j]
            pivot[:, i] = normal[:, i, i] - sum(lower[:, i, k] ** 2 * pivot[:, k] for k in range(i))
            pivot[pivot[:, i] <= 1e-9 * normal[:, i, i], i] = np.nan
            z[:, i] = moment[:, i] - sum(lower[:, i, k] * z[:, k] for k in range(i))
        x = z / pivot
        for i in reversed(range(p)):
            x[:, i] -= sum((lower[:, k, i] * x[:, k] for k in range(i + 1, p)), np.zeros(len(normal)))
    return x


def _basis(time: pd.DatetimeIndex, p: int) -> np.ndarray:
    """Return 1, cos, sin, cos 2, sin 2... of the season of each step, (T, p)."""
    day, leap = time.day_of_year.to_numpy() - 1, time.is_leap_year
    return np.where(leap[:, None], _season(366, p)[day], _season(365, p)[np.minimum(day, 364)])


@lru_cache(maxsize=32)
def _season(days: int, p: int) -> np.ndarray:
    """Return the basis on each day of a year, (days, p)."""
    angles = [[2 * math.pi * k * day / days for k in range(1, p // 2 + 1)] for day in range(days)]
    return np.array([[1.0, *(f(angle) for angle in row for f in (math.cos, math.sin))] for row in angles])


def _years(time: pd.DatetimeIndex) -> Iterator[tuple[int, slice]]:
    """Yield each calendar year and the rows it takes."""
    years = time.year.to_numpy()
    starts = np.flatnonzero(np.diff(years, prepend=years[:1] - 1))
    for start, stop in zip(starts, [*starts[1:], len(years)], strict=True):
        yield int(years[start]), slice(int(start), int(stop))


def _step(time: pd.DatetimeIndex) -> str:
    """Tell daily from monthly steps by the first two."""
    return "monthly" if time[1] - time[0] >= pd.Timedelta(days=28) else "daily"


def _check(values: np.ndarray, time: pd.DatetimeIndex, history: History) -> None:
    """Check that values, time and history belong together."""
    expected = (len(time), len(history.clock))
    if values.shape != expected:
        message = f"Values of shape {values.shape} do not fit {expected[0]} steps and {expected[1]} columns."
        raise ValueError(message)
    if not time.is_monotonic_increasing:
        message = "The steps are not in order of time; sort them first."
        raise ValueError(message)
