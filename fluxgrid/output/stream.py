"""Walk through a map in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.netcdf import open_netcdf
from fluxgrid.output.store import open_store, readable

BUDGET_BYTES = 8 * 2**20
"""Most bytes of one variable held at a time; working copies make the peak several times that."""

MapSource = str | Path | xr.Dataset
"""A map store, a NetCDF file made from one, or either of them opened."""

Block = tuple[slice, slice]
"""Rows and columns of a map."""


def open_map(source: MapSource) -> xr.Dataset:
    """Open a map store or a NetCDF map lazily; an open dataset is returned as it is.

    Parameters
    ----------
    source : path or Dataset

    Returns
    -------
    dataset : Dataset
        Dims (time, y, x), or (time, lat, lon) for a NetCDF map on longitude and latitude.

    Raises
    ------
    DamagedMap
        If there is no readable map.
    """
    if isinstance(source, xr.Dataset):
        return source
    if Path(source).suffix != ".nc":
        return open_store(source, dask=False)
    with readable(f"the map {source}"):
        return open_netcdf(source, chunks={})


def blocks(shape: tuple[int, ...], align: int = 32, budget: int = BUDGET_BYTES) -> Iterator[Block]:
    """Cut the cells of a map so that all steps of a block fit in memory, however wide the map is.

    Parameters
    ----------
    shape : (steps, rows, columns)
        Of the map.
    align : int
        Sides are multiples of this many cells: the chunk of the store, so that each chunk is read once.
    budget : int
        Bytes one float32 variable of a block may take; a block is never smaller than one chunk.

    Yields
    ------
    block : (rows, columns)
        Whole rows where they fit; row by row of blocks, west to east.

    Examples
    --------
    >>> for rows, cols in blocks((10, 40, 70), budget=80_000):
    ...     print(rows.start, rows.stop, cols.start, cols.stop)
    0 32 0 32
    0 32 32 64
    0 32 64 70
    32 40 0 32
    32 40 32 64
    32 40 64 70
    """
    steps, ny, nx = shape
    cells = budget // (4 * steps)
    width = min(nx, max(1, cells // align**2) * align)
    height = max(1, cells // (width * align)) * align
    yield from product(_cuts(ny, height), _cuts(nx, width))


def _cuts(length: int, size: int) -> list[slice]:
    """Cut a side into parts of one size; the last may be smaller."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def covered_steps(maps: Sequence[xr.Dataset]) -> list[int]:
    """Return how many steps of each map come before the end of the values, so that days to come are told from gaps.

    The end is that of the last step, of all maps, at which any cell has an NEE: whatever is missing before it is a gap,
    and the steps after it are still to come. Where no step has a value there is no end, and all steps count. Nor has a
    map ended that lacks nothing but the last day of a leap year, which models of 365 days leave out.

    Parameters
    ----------
    maps : sequence of Dataset
        From `open_map`, in order of time.

    Returns
    -------
    counts : list of int
        Leading steps of each map; of a complete map all, of a map that lies after the end none.
    """
    counts = [each["nee"].shape[0] for each in maps]
    for k in reversed(range(len(maps))):
        if last := _last_value(maps[k]):
            return [*counts[:k], last, *[0] * len(counts[k + 1 :])]
    return counts


def _last_value(dataset: xr.Dataset) -> int:
    """Return the number of steps up to the last that has a value; 0 where none has one."""
    shape, last = dataset["nee"].shape, 0
    for block in blocks(shape):
        known = np.isfinite(read_block(dataset, "nee", block)).any(axis=(1, 2))
        last = max(last, *(np.flatnonzero(known)[-1:] + 1).tolist(), 0)
        if last == shape[0]:
            break  # a complete map is known by its first block with land
    # models of 365 days have no value on the last day of a leap year: that is a gap, not a day to come
    left_out = last == shape[0] - 1 and pd.Timestamp(dataset["time"].values[-1]).day_of_year == 366
    return shape[0] if last and left_out else last


def read_block(dataset: xr.Dataset, name: str, block: Block) -> np.ndarray:
    """Read some cells of one variable, at all steps if it has any.

    Parameters
    ----------
    dataset : Dataset
        From `open_map`.
    name : str
        Variable, dims (time, y, x) or (y, x).
    block : (rows, columns)
        Which cells, as `blocks` gives them.

    Returns
    -------
    values : array (time, rows, columns) or (rows, columns)

    Raises
    ------
    DamagedMap
        If a chunk cannot be read.
    """
    rows, cols = block
    with readable(f"{name}, rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop}"):
        return np.asarray(dataset[name][..., rows, cols].values)
