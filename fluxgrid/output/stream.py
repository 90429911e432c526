"""Walk through a map in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from fluxgrid.output.store import open_store, readable

BUDGET_BYTES = 64 * 2**20
"""Most bytes of one variable held at a time; working copies make the peak several times that."""

MapSource = str | Path | xr.Dataset
"""A map store, a NetCDF file made from one, or either of them opened."""


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
        return open_store(source)
    with readable(f"the map {source}"):
        return xr.open_dataset(source, chunks={})


def row_blocks(shape: tuple[int, ...], align: int = 32, budget: int = BUDGET_BYTES) -> Iterator[slice]:
    """Cut the rows of a map so that all steps of a block fit in memory.

    Parameters
    ----------
    shape : (steps, rows, columns)
        Of the map.
    align : int
        Blocks are a multiple of this many rows: the chunk of the store, so that each chunk is read once.
    budget : int
        Bytes one float32 variable of a block may take; a block is never smaller than ``align`` rows.

    Yields
    ------
    rows : slice

    Examples
    --------
    >>> list(row_blocks((10, 70, 100), budget=0))
    [slice(0, 32, None), slice(32, 64, None), slice(64, 70, None)]
    """
    steps, ny, nx = shape
    rows = max(1, budget // (4 * steps * nx * align)) * align
    for start in range(0, ny, rows):
        yield slice(start, min(start + rows, ny))


def read_rows(dataset: xr.Dataset, name: str, rows: slice) -> np.ndarray:
    """Read all steps of some rows of one variable.

    Parameters
    ----------
    dataset : Dataset
        From `open_map`.
    name : str
        Variable, dims (time, y, x).
    rows : slice
        Which rows.

    Returns
    -------
    values : array (time, rows, x)

    Raises
    ------
    DamagedMap
        If a chunk cannot be read.
    """
    with readable(f"{name}, rows {rows.start} to {rows.stop}"):
        return np.asarray(dataset[name][:, rows].values)
