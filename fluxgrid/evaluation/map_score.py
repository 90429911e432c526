"""A map against a truth known wall to wall: moments gathered tile by tile, of which `map_tables` makes scores.

Three lengths of time are scored: the steps of the map, months and whole years; and, where the map holds two years or
more, also anomalies: truth and map less the truth's own mean cycle in the cell. R2 of anomalies is therefore the skill
over a climatology that knows the truth of each cell. Cells count by their land in the region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

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
        self._first_months = np.unique([month[:4] for month in self.months], return_index=True)[1]
        self.scales = tuple(self._make_scales())
        self._cyclic = any(scale.repeated.any() for scale in self.scales)
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
            steps = self._stack(*(np.asarray(each[flux], np.float64) for each in (predicted, truth)))
            rows = {"day": steps, **self._add_sums(flux, cells, steps)}
            for scale in self.scales:
                self._add_scale(flux, scale, cells, rows[scale.name])
            self._add_curves(flux, cells, rows["month"])

    def _stack(self, guess: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return map and truth where both are there and, where cycles are wanted, all the truth, (2 or 3, time, n)."""
        both = np.isfinite(guess) & np.isfinite(right)
        pair = [np.where(both, values, np.nan) for values in (guess, right)]
        return np.stack([*pair, right] if self._cyclic else pair)

    def _add_sums(self, flux: str, cells: Cells, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Keep the sums of the years, and return the means of months and the sums of whole years, (2 or 3, rows, n)."""
        days, known = self.days[:, None], np.isfinite(steps)
        mass = np.add.reduceat(np.where(known, steps, 0.0) * days, self._month_starts, axis=1)
        covered = np.add.reduceat(known * days, self._month_starts, axis=1)
        year_mass, year_covered = (np.add.reduceat(each, self._first_months, axis=1) for each in (mass, covered))
        self.mass[flux][..., cells.index] = year_mass[:2]
        self.covered[flux][:, cells.index] = year_covered[0]
        length = np.where(self.whole_years, self.year_days, np.nan)[:, None]
        return {
            "month": _means(mass, covered, np.add.reduceat(self.days, self._month_starts)),
            "year": _means(year_mass, year_covered, self.year_days) * length,
        }

    def _add_curves(self, flux: str, cells: Cells, months: np.ndarray) -> None:
        """Add up the months of each cover."""
        known = np.isfinite(months[0])
        for k, values in enumerate((months[0], months[1], np.ones_like(months[0]))):
            weighted = np.where(known, values, 0.0) * cells.weight
            for cover in np.unique(cells.cover):
                self.curves[flux][k, :, cover] += weighted[:, cells.cover == cover].sum(axis=1)

    def _add_scale(self, flux: str, scale: Scale, cells: Cells, rows: np.ndarray) -> None:
        """Pool a tile's moments of flux and anomaly into those of the map."""
        self._add_moments((flux, scale.name, "flux"), scale.season, cells, *rows[:2])
        again = scale.repeated
        if again.any():
            cycle = mean_cycle(rows[2], scale.slot, scale.length, scale.half)[again]
            self._add_moments((flux, scale.name, "anomaly"), scale.season[again], cells, *(rows[:2, again] - cycle))

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


def _means(mass: np.ndarray, covered: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return means of periods of some days, (..., rows, n), NaN where too few of them are covered."""
    enough = covered >= LEAST_SHARE * days[:, None]
    return np.divide(mass, covered, out=np.full(mass.shape, np.nan), where=enough)


def _season(time: pd.DatetimeIndex) -> np.ndarray:
    """Return the number of the season of each step."""
    return time.month.to_numpy() % 12 // 3
