"""A map against a truth known wall to wall: moments gathered tile by tile, of which `map_tables` makes scores.

Three lengths of time are scored: the steps of the map, months and whole years; and, where the map holds two years or
more, also anomalies: truth and map less the truth's own mean cycle in the cell. R2 of anomalies is therefore the skill
over a climatology that knows the truth of each cell. Cells count by their land in the region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from fluxgrid.data.steps import Step, days_per_step
from fluxgrid.evaluation.moments import Moments, column_moments, pool
from fluxgrid.variables import MAP_FLUXES

SEASONS = ("DJF", "MAM", "JJA", "SON")
"""Seasons by the calendar month of the step."""
QUANTITIES = ("flux", "anomaly")
"""What is scored: the flux itself, and its departure from the truth's mean cycle."""
LEAST_SHARE = 0.5
"""Of the days of a month, year or period that a cell must have for a mean of it."""

_HALF_WINDOW = 7  # days to each side in the mean daily cycle, as the baseline climatology has


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a tile; all arrays are (n,)."""

    index: np.ndarray
    """Place in the map, along rows from the upper left."""
    weight: np.ndarray
    """Land in the region, m2, > 0."""
    state: np.ndarray
    """Number of the state."""
    cover: np.ndarray
    """Number of the main cover."""


@dataclass(frozen=True, eq=False)
class Scale:
    """A length of time that is scored: day, month or year."""

    name: str
    season: np.ndarray
    """Number of the season of each row, (rows,); all 0 where rows are years."""
    slot: np.ndarray
    """Place of each row in the mean cycle, (rows,)."""
    length: int
    """Slots of the cycle."""
    half: int = 0
    """Rows to each side that are averaged into the mean cycle."""

    @property
    def repeated(self) -> np.ndarray:
        """Whether each row shares its slot with others, (rows,)."""
        return np.bincount(self.slot)[self.slot] >= 2


class _Rows(NamedTuple):
    """Map and truth at the rows of a scale, (rows, n)."""

    guess: np.ndarray
    right: np.ndarray
    """NaN wherever either is missing, like `guess`."""
    whole: np.ndarray
    """The truth, also where the map is missing."""


class MapScore:
    """What is known of one map, gathered tile by tile in any order.

    Parameters
    ----------
    time : DatetimeIndex, (time,)
        Starts of the steps of the map, none missing.
    step : {"daily", "monthly"}
    cells : int
        Of the map.
    states, covers : sequence of str
        Names by number.
    fluxes : sequence of str
        What the map holds of NEE, GPP and RECO.
    """

    def __init__(
        self,
        time: pd.DatetimeIndex,
        step: Step,
        cells: int,
        states: Sequence[str],
        covers: Sequence[str],
        fluxes: Sequence[str] = MAP_FLUXES,
    ):
        self.time, self.step, self.fluxes = time, step, tuple(fluxes)
        self.states, self.covers = tuple(states), tuple(covers)
        self.days = days_per_step(time, step)
        self.months, self._month_starts = np.unique(time.strftime("%Y-%m"), return_index=True)
        self.years, self._year_starts = np.unique(time.year, return_index=True)
        self.year_days = np.add.reduceat(self.days, self._year_starts)
        self.scales = tuple(self._make_scales())
        bins = int(np.prod(self.shape))
        self.moments = {
            (flux, scale.name, quantity): Moments.none(bins)
            for flux, scale, quantity in product(self.fluxes, self.scales, QUANTITIES)
        }
        """By flux, scale and quantity: of every season, state and cover, flat in this order."""
        self.mass = {flux: np.zeros((2, len(self.years), cells)) for flux in self.fluxes}
        """Of map and truth: sum of flux x days where both are there, g m-2, (2, year, cells)."""
        self.covered = {flux: np.zeros((len(self.years), cells)) for flux in self.fluxes}
        """Days where both are there, (year, cells)."""
        self.curves = {flux: np.zeros((3, len(self.months), len(self.covers))) for flux in self.fluxes}
        """Sums of weight x monthly mean of map, of truth, and of weight, (3, month, cover)."""
        self.added = np.zeros(cells, bool)
        """Cells that were counted in."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of seasons, states and covers."""
        return len(SEASONS), len(self.states), len(self.covers)

    @property
    def whole_years(self) -> np.ndarray:
        """Whether the map holds every day of each of its calendar years, (year,)."""
        return self.year_days == np.array([pd.Timestamp(year, 12, 31).day_of_year for year in self.years])

    def _make_scales(self) -> Iterator[Scale]:
        """Yield the lengths of time this map can be scored at."""
        if self.step == "daily":
            slot = np.minimum(self.time.day_of_year.to_numpy() - 1, 364)  # a leap year's last day shares a slot
            yield Scale("day", _season(self.time), slot, 365, _HALF_WINDOW)
        starts = self.time[self._month_starts]
        yield Scale("month", _season(starts), starts.month.to_numpy() - 1, 12)
        if self.whole_years.any():
            count = len(self.years)
            slot = np.where(self.whole_years, 0, 1 + np.arange(count))  # a part of a year is like no other
            yield Scale("year", np.zeros(count, int), slot, count + 1)

    def add(self, cells: Cells, predicted: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> None:
        """Count the cells of a tile in.

        Parameters
        ----------
        cells : Cells
        predicted, truth : mapping of str to ndarray, (time, n), g m-2 d-1
            By flux; NaN where missing.

        Raises
        ------
        ValueError
            If a cell was counted before.
        """
        if self.added[cells.index].any():
            message = "The tile holds cells that were counted before; the tiles of a map must not overlap."
            raise ValueError(message)
        self.added[cells.index] = True
        for flux in self.fluxes:
            guess, right = (np.asarray(each[flux], np.float64) for each in (predicted, truth))
            self._add_years(flux, cells, guess, right)
            for scale in self.scales:
                rows = self._rows(scale, guess, right)
                self._add_scale(flux, scale, cells, rows)
                if scale.name == "month":
                    self._add_curves(flux, cells, rows)

    def _add_years(self, flux: str, cells: Cells, guess: np.ndarray, right: np.ndarray) -> None:
        """Add up what both have in each year."""
        both, days = np.isfinite(guess) & np.isfinite(right), self.days[:, None]
        self.covered[flux][:, cells.index] = np.add.reduceat(both * days, self._year_starts, axis=0)
        for k, values in enumerate((guess, right)):
            grams = np.where(both, values * days, 0.0)
            self.mass[flux][k][:, cells.index] = np.add.reduceat(grams, self._year_starts, axis=0)

    def _add_curves(self, flux: str, cells: Cells, rows: _Rows) -> None:
        """Add up the months of each cover."""
        known = np.isfinite(rows.guess)
        for k, values in enumerate((rows.guess, rows.right, np.ones_like(rows.guess))):
            weighted = np.where(known, values, 0.0) * cells.weight
            for cover in np.unique(cells.cover):
                self.curves[flux][k, :, cover] += weighted[:, cells.cover == cover].sum(axis=1)

    def _rows(self, scale: Scale, guess: np.ndarray, right: np.ndarray) -> _Rows:
        """Return map and truth as rows of a scale: steps as they are, means of months, sums of whole years."""
        here, both = np.isfinite(right), np.isfinite(guess) & np.isfinite(right)
        pairs = ((guess, both), (right, both), (right, here))
        if scale is self.scales[0]:
            return _Rows(*(np.where(mask, values, np.nan) for values, mask in pairs))
        if scale.name == "month":
            return _Rows(*(self._means(values, mask, self._month_starts) for values, mask in pairs))
        length = np.where(self.whole_years, self.year_days, np.nan)[:, None]
        return _Rows(*(self._means(values, mask, self._year_starts) * length for values, mask in pairs))

    def _means(self, values: np.ndarray, mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the means over runs of steps, NaN where too few days are there."""
        days = self.days[:, None]
        present = np.add.reduceat(mask * days, starts, axis=0)
        enough = present >= LEAST_SHARE * np.add.reduceat(self.days, starts)[:, None]
        total = np.add.reduceat(np.where(mask, values * days, 0.0), starts, axis=0)
        return np.divide(total, present, out=np.full(total.shape, np.nan), where=enough)

    def _add_scale(self, flux: str, scale: Scale, cells: Cells, rows: _Rows) -> None:
        """Pool a tile's moments of flux and anomaly into those of the map."""
        self._add_moments((flux, scale.name, "flux"), scale.season, cells, rows.guess, rows.right)
        again = scale.repeated
        if again.any():
            cycle = mean_cycle(rows.whole, scale.slot, scale.length, scale.half)
            ours, truth = (rows.guess - cycle)[again], (rows.right - cycle)[again]
            self._add_moments((flux, scale.name, "anomaly"), scale.season[again], cells, ours, truth)

    def _add_moments(
        self, key: tuple[str, str, str], season: np.ndarray, cells: Cells, guess: np.ndarray, right: np.ndarray
    ) -> None:
        """Pool a tile's moments by season, state and cover."""
        parts, labels = [self.moments[key]], [np.arange(len(self.moments[key].n))]
        for number in np.unique(season):
            rows = season == number
            parts.append(column_moments(guess[rows], right[rows], cells.weight))
            labels.append(np.ravel_multi_index((number, cells.state, cells.cover), self.shape))
        self.moments[key] = pool(parts, labels, len(labels[0]))


def mean_cycle(values: np.ndarray, slot: np.ndarray, length: int, half: int = 0) -> np.ndarray:
    """Return the mean of each slot of the year over the years, on every row.

    Parameters
    ----------
    values : ndarray, (time, n)
        NaN where missing.
    slot : ndarray of int, (time,)
        Day of the year or month of each row, from 0.
    length : int
        Slots of a year.
    half : int
        Slots to each side that are averaged in, around the turn of the year.

    Returns
    -------
    cycle : ndarray, (time, n)
        NaN where nothing is known.

    Examples
    --------
    >>> mean_cycle(np.array([[1.0], [5.0], [3.0]]), np.array([0, 1, 0]), 2).ravel().tolist()
    [2.0, 5.0, 2.0]
    """
    order = np.argsort(slot, kind="stable")
    slots, starts = np.unique(slot[order], return_index=True)
    known = np.isfinite(values)
    sums, counts = np.zeros((2, length, values.shape[1]))
    sums[slots] = np.add.reduceat(np.where(known, values, 0.0)[order], starts, axis=0)
    counts[slots] = np.add.reduceat(known[order].astype(np.float64), starts, axis=0)
    if half:
        sums, counts = (np.sum([np.roll(each, k, 0) for k in range(-half, half + 1)], 0) for each in (sums, counts))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)[slot]


def _season(time: pd.DatetimeIndex) -> np.ndarray:
    """Return the number of the season of each step."""
    return time.month.to_numpy() % 12 // 3
