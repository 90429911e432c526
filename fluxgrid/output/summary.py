"""The few numbers a picture of a map is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import OutputError
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import PER_CROP, layers_of
from fluxgrid.output.stream import Block, MapSource, blocks, covered_steps, open_map, read_block
from fluxgrid.variables import MAP_FLUXES

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid

_LARGEST_SIDE = 1500  # more cells than a picture has pixels
_LEAST_SHARE = 0.5  # of the steps a cell must have to be shown


@dataclass(frozen=True)
class MapSummary:
    """A map over its period, and its region over time; the period ends with the last step that has a value."""

    rate: np.ndarray
    """Mean NEE, g m-2 d-1, (y, x), thinned by `thinning`; NaN where over half of the steps are missing."""
    doubtful: np.ndarray
    """True where most steps are outside the area of applicability, (y, x), thinned."""
    thinning: int
    """Every how-manieth row and column is held."""
    curves: pd.DataFrame
    """Mean over the region's land with values, g m-2 d-1: index time, columns nee, gpp, reco."""
    days: pd.Series
    """Length of each step, days."""
    land_area: float
    """Land area of the region, m2."""
    annual: pd.Series = field(default_factory=lambda: pd.Series(dtype="float64"))
    """Mean of the years of each annual variable per area of land over the region, g m-2."""
    calibrated: float = 0.0
    """Share of calibrated places in the values of the region, 0 to 1; the rest is the global model's."""
    ended_early: bool = False
    """True if the map has steps after its last value, which are left out here."""

    @property
    def years(self) -> tuple[int, int]:
        """First and last calendar year."""
        times = pd.DatetimeIndex(self.curves.index)
        return int(times[0].year), int(times[-1].year)

    @property
    def whole_years(self) -> bool:
        """True if the map holds every day of every calendar year it touches."""
        return bool(
            round(self.days.sum()) == sum(pd.Timestamp(year, 12, 31).day_of_year for year in self._calendar_years)
        )

    @property
    def summed(self) -> bool:
        """True if sums can be told: of whole years, or of one year to date."""
        return self.whole_years or (self.ended_early and len(self._calendar_years) == 1)

    @property
    def days_in_year(self) -> float:
        """Mean length of the years, where they are whole; days to date of a year that ended early."""
        return float(self.days.sum()) / len(self._calendar_years)

    @property
    def _calendar_years(self) -> list[int]:
        """Every year that has a step."""
        return sorted(set(pd.DatetimeIndex(self.curves.index).year))

    def annual_mean(self) -> pd.Series:
        """Return each flux of the region, g m-2 yr-1 (mean of the years): gaps count as the other steps.

        Of one year that ended early it is the sum to date, g m-2.
        """
        known = self.curves.notna().mul(self.days, axis=0).sum()
        return self.curves.mul(self.days, axis=0).sum() / known * self.days_in_year

    def seasonal(self) -> pd.DataFrame:
        """Return mean, least and largest of the years: columns (flux, mean|min|max), index the starts in year 2001."""
        times = pd.DatetimeIndex(self.curves.index)
        usual = self.curves[~((times.month == 2) & (times.day == 29))]
        index = pd.DatetimeIndex(usual.index)
        key = pd.to_datetime({"year": 2001, "month": index.month, "day": index.day})
        return usual.groupby(key.to_numpy()).agg(["mean", "min", "max"])


def summarise(sources: Sequence[MapSource], grid: Grid, land: np.ndarray, step: str) -> MapSummary:
    """Read maps once and keep what a picture needs.

    Parameters
    ----------
    sources : sequence of path or Dataset
        Map stores or NetCDF maps, in order of time.
    grid : Grid
        The map's grid.
    land : array (y, x)
        Land area of the region in each cell, m2.
    step : {"daily", "monthly"}
        Length of a time step.

    Returns
    -------
    summary : MapSummary

    Raises
    ------
    DamagedMap
        If a map cannot be read.
    OutputError
        If the grids differ.
    """
    thinning = max(1, -(-max(grid.shape) // _LARGEST_SIDE))
    maps = [open_map(source) for source in sources]
    pieces = [_Piece.read(each, grid, land, thinning, step) for each in maps]
    steps = sum(covered_steps(maps))
    mass, present, doubtful = (np.sum([getattr(p, name) for p in pieces], axis=0) for name in _SUMS)
    whole = pd.concat([piece.days for piece in pieces])
    days = whole.iloc[:steps]
    shown = present >= _LEAST_SHARE * days.sum()
    rate = np.divide(mass, present, out=np.full(present.shape, np.nan), where=shown)
    often = shown & (doubtful > 0.5 * steps)
    curves = pd.concat([piece.curves for piece in pieces]).iloc[:steps]
    annual = pd.DataFrame([piece.annual for piece in pieces]).dropna(how="all").mean()
    early, calibrated = steps < len(whole), pieces[0].calibrated
    return MapSummary(rate, often, thinning, curves, days, float(land.sum()), annual, calibrated, early)


def period_means(sources: Sequence[MapSource], step: str) -> dict[str, np.ndarray]:
    """Return the mean of each flux over the whole period, cell by cell.

    Parameters
    ----------
    sources : sequence of path or Dataset
        Map stores or NetCDF maps of one grid, in order of time.
    step : {"daily", "monthly"}
        Length of a time step.

    Returns
    -------
    means : dict of str to array (y, x), float64, g m-2 d-1
        For each flux of the map; NaN where over half of the time is missing, up to the last value.

    Raises
    ------
    DamagedMap
        If a map cannot be read.
    """
    datasets = [open_map(source) for source in sources]
    counts = covered_steps(datasets)
    return {flux: _period_mean(datasets, counts, flux, step) for flux in layers_of(datasets[0]).fluxes}


def _period_mean(datasets: Sequence[xr.Dataset], counts: Sequence[int], flux: str, step: str) -> np.ndarray:
    """Return the mean of one flux over all steps of all maps, (y, x)."""
    mass, present = np.zeros((2, *datasets[0][flux].shape[1:]))
    length = 0.0
    for dataset, count in zip(datasets, counts, strict=True):
        days = _days(pd.DatetimeIndex(dataset["time"].values), step)
        length += days[:count].sum()
        for block in blocks(dataset[flux].shape):
            values = read_block(dataset, flux, block)
            mass[block] += np.einsum("t,tyx->yx", days, np.nan_to_num(values))
            present[block] += np.einsum("t,tyx->yx", days, np.isfinite(values))
    shown = present >= _LEAST_SHARE * length
    return np.divide(mass, present, out=np.full(mass.shape, np.nan), where=shown)


def _days(times: pd.DatetimeIndex, step: str) -> np.ndarray:
    """Return the length of each step, days."""
    return ((step_ends(times, step) - times) / pd.Timedelta(days=1)).to_numpy("float64")


_SUMS = ("mass", "present", "doubtful")


@dataclass(frozen=True)
class _Piece:
    """Sums over one store, before division."""

    mass: np.ndarray
    present: np.ndarray
    doubtful: np.ndarray
    curves: pd.DataFrame
    days: pd.Series
    annual: pd.Series
    calibrated: float

    @classmethod
    def read(cls, dataset: xr.Dataset, grid: Grid, land: np.ndarray, thinning: int, step: str) -> _Piece:
        """Walk through one map once."""
        shape = dataset["nee"].shape
        if shape[1:] != grid.shape:
            message = f"A map has {shape[1:]} cells where the grid has {grid.shape} (rows, columns)."
            raise OutputError(message)
        times = pd.DatetimeIndex(dataset["time"].values)
        days = _days(times, step)
        thin = np.zeros((len(_SUMS), *(-(-cells // thinning) for cells in shape[1:])))
        for block in blocks(shape):
            rows, cols = (slice(-(-side.start // thinning), -(-side.stop // thinning)) for side in block)
            thin[:, rows, cols] = _thin_block(dataset, block, thinning, days)
        curves = {flux: _region_mean(dataset, flux, land) for flux in MAP_FLUXES}
        mass, present, doubtful = thin
        layers = layers_of(dataset)
        annual = {name: _land_mean(dataset, name, land) for name in layers.annual if name not in PER_CROP}
        calibrated = 1 - _land_mean(dataset, "calibration_global_weight", land) if layers.calibrated_places else 0.0
        columns, index = pd.DataFrame(curves, index=times), pd.Series(days, index=times)
        return cls(mass, present, doubtful, columns, index, pd.Series(annual, dtype="float64"), calibrated)


def _land_mean(dataset: xr.Dataset, name: str, land: np.ndarray) -> float:
    """Return the mean of a variable without time over land with values; NaN if there is none."""
    total = area = 0.0
    for block in blocks((1, *land.shape)):
        values = read_block(dataset, name, block)
        known = np.isfinite(values)
        total += float(land[block][known] @ values[known])
        area += float(land[block][known].sum())
    return total / area if area else float("nan")


def _thin_block(dataset: xr.Dataset, block: Block, thinning: int, days: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return sum of NEE x days, days with a value and doubtful steps of the rows and columns that are kept."""
    rows, cols = (slice(-side.start % thinning, None, thinning) for side in block)
    nee = read_block(dataset, "nee", block)[:, rows, cols]
    flag = read_block(dataset, "quality_flag", block)[:, rows, cols]
    mass = np.einsum("t,tyx->yx", days, np.nan_to_num(nee))
    present = np.einsum("t,tyx->yx", days, np.isfinite(nee))
    return mass, present, ((flag & Quality.OUTSIDE_APPLICABILITY.value) > 0).sum(axis=0)


def _region_mean(dataset: xr.Dataset, flux: str, land: np.ndarray) -> np.ndarray:
    """Return the mean over land with values at each step, (time,)."""
    steps = dataset[flux].shape[0]
    total, area = np.zeros(steps), np.zeros(steps)
    for block in blocks(dataset[flux].shape):
        values = read_block(dataset, flux, block)
        total += np.einsum("yx,tyx->t", land[block], np.nan_to_num(values))
        area += np.einsum("yx,tyx->t", land[block], np.isfinite(values))
    return np.divide(total, area, out=np.full(steps, np.nan), where=area > 0)
