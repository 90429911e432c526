"""Climate normals of cells: what tells how like the climate of a calibrated place theirs is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.cube import CubeReader, step_of
from fluxgrid.data.steps import Step, calendar, days_per_step
from fluxgrid.errors import CubeError
from fluxgrid.registry import unknown_name

_PER_UNIT = 2**20
"""Parts of a unit that values are counted in: sums of whole numbers are exact in any order."""
_SLAB = 2**22  # values of a chunk converted at once
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError)


def normal_steps(time: pd.DatetimeIndex, step: Step, years: int = 3) -> slice:
    """Return the steps that normals are means over.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Starts of the steps, without gaps.
    step : {"daily", "monthly"}
    years : int, > 0
        Most years wanted.

    Returns
    -------
    steps : slice
        The first whole calendar years, `years` of them at most, without the last year of the record: it may be a part
        of one today and whole tomorrow. That year alone where no other is whole, all steps where none is.

    Examples
    --------
    >>> normal_steps(calendar("2000-11-01", "2003-02-01", "monthly"), "monthly", years=1)
    slice(2, 14, None)
    """
    counts = pd.Series(time.year).value_counts()
    whole = [
        year for year in sorted(counts.index) if counts[year] == len(calendar(f"{year}-01", f"{year}-12-31", step))
    ]
    if not whole:
        return slice(0, len(time))
    past = [year for year in whole if year < time[-1].year] or whole
    wanted = np.flatnonzero(np.isin(time.year, past[:years]))
    return slice(int(wanted[0]), int(wanted[-1]) + 1)


def climate_normals(
    cube: xr.Dataset,
    names: Sequence[str],
    rows: slice = slice(None),
    cols: slice = slice(None),
    years: int = 3,
    reader: CubeReader | None = None,
) -> np.ndarray:
    """Return the climate normals of the cells of a window.

    Parameters
    ----------
    cube : Dataset
        As `open_cube` returned it.
    names : sequence of str, (K,)
        Variables of the cube that vary in time.
    rows, cols : slice, optional
        Window of the cube; all of it when left out.
    years : int, > 0
        Whole calendar years from the start of the cube that are averaged, at most; see `normal_steps`.
    reader : CubeReader, optional
        Of the same cube: chunks on this machine are then read without a graph of tasks, several times as fast.

    Returns
    -------
    normals : ndarray, (cells, K), float64, units of the variables
        Cells run along rows from the upper left. Means over the days that have a value, NaN where none has.

    Raises
    ------
    UnknownName
        If a variable is not in the cube.
    CubeError
        If a variable does not vary in time or a chunk cannot be read.

    Notes
    -----
    Only the start of the cube counts, so newer days change no normal (once the first `years` whole years are there),
    and a map of a year that goes on is made with the same weights each day.
    Values are rounded to 2^-20 of their unit, far below what is measured, and summed as whole numbers: the normals of a
    cell are the same bits whatever the chunks and the window. Chunks are read one after the other by the thread that
    asks, so a tile that is itself a task of dask may call this; a few chunks are held at a time.
    """
    time = pd.DatetimeIndex(cube.indexes["time"])
    steps = normal_steps(time, step_of(cube), years)
    days = days_per_step(time[steps], step_of(cube)).astype(np.int64)
    columns = []
    for name in names:
        array = _forcing(cube, name)
        if reader is not None and reader.is_near(name):
            columns.append(_mean_near(reader, name, array, (steps, rows, cols), days))
        else:
            columns.append(_mean(array.isel(time=steps, y=rows, x=cols), days))
    return np.stack([column.ravel() for column in columns], axis=1)


def _forcing(cube: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable (time, y, x) of the cube."""
    if name not in cube:
        error = unknown_name("variable of the cube", name, map(str, cube.data_vars))
        raise error
    if "time" not in cube[name].dims:
        message = f"{name} of the cube does not vary in time: it has no normal. Name a forcing."
        raise CubeError(message)
    return cube[name].transpose("time", "y", "x")


def _mean(array: xr.DataArray, days: np.ndarray) -> np.ndarray:
    """Return the mean over the days with a value, (y, x), NaN where there is none."""
    values = da.asarray(array.data)
    weights = da.from_array(days[:, None, None], chunks=(values.chunks[0], 1, 1))
    # two layers for each chunk along time: sum and days
    chunks = ((2,) * len(values.chunks[0]), *values.chunks[1:])
    sums = da.map_blocks(_chunk_sums, values, weights, chunks=chunks, dtype=np.int64)
    try:
        total, known = da.compute(sums[0::2].sum(axis=0), sums[1::2].sum(axis=0), scheduler="synchronous")
    except _UNREADABLE as error:
        message = (
            f"{array.name!r} of the cube cannot be read there ({type(error).__name__}: {error}). `fluxgrid cube check` "
            "says which chunk is damaged; copy or write it again."
        )
        raise CubeError(message) from error
    return _mean_of(total, known)


def _mean_near(
    reader: CubeReader, name: str, array: xr.DataArray, window: tuple[slice, slice, slice], days: np.ndarray
) -> np.ndarray:
    """Return what `_mean` does, read chunk by chunk."""
    ranges = [range(size)[part] for part, size in zip(window, array.shape, strict=True)]
    first, top, left = (part.start for part in ranges)
    sums = np.zeros((2, len(ranges[1]), len(ranges[2])), np.int64)
    chunks = da.asarray(array.data).chunks
    spans = [list(_meetings(sizes, part)) for sizes, part in zip(chunks, ranges, strict=True)]
    for steps, rows, cols in product(*spans):
        weights = days[steps.start - first : steps.stop - first, None, None]
        here = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        sums[:, here[0], here[1]] += _chunk_sums(reader.read(name, steps, rows, cols), weights)
    return _mean_of(*sums)


def _meetings(sizes: Sequence[int], wanted: range) -> Iterator[slice]:
    """Yield the parts of a dimension in which its chunks meet what is wanted of it."""
    for stop, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        part = slice(max(stop - size, wanted.start), min(stop, wanted.stop))
        if part.start < part.stop:
            yield part


def _mean_of(total: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return means of sums in parts of a unit, (y, x), NaN where there is nothing."""
    return np.where(known > 0, total / np.maximum(known, 1) / _PER_UNIT, np.nan)


def _chunk_sums(values: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the sum of the values of a chunk in parts of a unit, and the days that have one, (2, y, x)."""
    sums = np.zeros((2, *values.shape[1:]), np.int64)
    length = max(_SLAB // max(sums[0].size, 1), 1)
    for start in range(0, len(values), length):
        part, weight = values[start : start + length], days[start : start + length]
        known = np.isfinite(part)
        whole = np.rint(np.where(known, part, 0).astype(np.float64) * _PER_UNIT).astype(np.int64)
        sums[0] += (whole * weight).sum(axis=0)
        sums[1] += (known * weight).sum(axis=0)
    return sums
