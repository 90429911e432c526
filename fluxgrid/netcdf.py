"""NetCDF files, one thread of a process at a time.

HDF5 and the NetCDF library end a process that uses them from two threads at once. netCDF4 holds no lock and lets other
threads run while it works; xarray holds one for values, but none for the metadata it reads when it opens a file, and
files that nobody closed are closed by the garbage collector in whichever thread it happens to run. So everything that
fluxgrid does with NetCDF goes through this module and holds one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import netCDF4
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

NetCDF = netCDF4.Dataset  # noqa: TID251
"""An open NetCDF file."""


class _Lock:
    """The lock of this process, xarray's own within it; a thread that has it may take it again."""

    def __init__(self) -> None:
        self.own = threading.RLock()
        self._depth = 0

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; say whether that was possible, without waiting for it if not `blocking`."""
        if not self.own.acquire(blocking):
            return False
        if not self._depth and not NETCDF4_PYTHON_LOCK.acquire(blocking):
            self.own.release()
            return False
        self._depth += 1
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._depth -= 1
        if not self._depth:
            NETCDF4_PYTHON_LOCK.release()
        self.own.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "_LOCK"  # sent to another process, it is the lock of that process


_LOCK = _Lock()


@contextmanager
def netcdf_file(path: Path | str, mode: Literal["r", "w", "a"] = "r") -> Iterator[NetCDF]:
    """Open a NetCDF file by netCDF4, while no other thread uses one.

    Parameters
    ----------
    path : path
    mode : {"r", "w", "a"}

    Yields
    ------
    file : netCDF4.Dataset
        Closed at the end.
    """
    with _LOCK, NetCDF(path, mode) as file:
        yield file


@contextmanager
def others_first() -> Iterator[None]:
    """Let other threads use NetCDF in the middle of `netcdf_file`, as dask's do that read what is to be written."""
    _LOCK.release()
    try:
        yield
    finally:
        _LOCK.acquire()


def open_netcdf(path: Path | str, **options: Any) -> xr.Dataset:
    """Open a NetCDF file by xarray, while no other thread uses one.

    Parameters
    ----------
    path : path
    **options
        For `xarray.open_dataset`.

    Returns
    -------
    dataset : Dataset
        Reads its values, and is closed, when no other thread uses a file.
    """
    with _LOCK:
        return xr.open_dataset(path, engine="netcdf4", lock=_LOCK, **options)  # noqa: TID251


def join_netcdf(paths: list[Path], options: dict[str, Any], **joining: Any) -> xr.Dataset:
    """Open NetCDF files by xarray and join them by their coordinates.

    Parameters
    ----------
    paths : list of path
    options : dict
        For `open_netcdf`; `chunks` must be among them.
    **joining
        For `xarray.combine_by_coords`.

    Returns
    -------
    dataset : Dataset
        Closes all files when it is closed.
    """
    parts: list[xr.Dataset] = []

    def close() -> None:
        for part in parts:
            part.close()

    try:
        for path in paths:
            parts.append(open_netcdf(path, **options))
        joined: Any = xr.combine_by_coords(parts, **joining)  # a dataset, of datasets
    except BaseException:
        close()
        raise
    joined.set_close(close)
    return joined


def save_netcdf(dataset: xr.Dataset, path: Path | str, **options: Any) -> None:
    """Write a dataset to a NetCDF file by xarray, while no other thread of fluxgrid uses one.

    Parameters
    ----------
    dataset : Dataset
        Small: all of it is read first.
    path : path
    **options
        For `Dataset.to_netcdf`.
    """
    dataset = dataset.compute()
    with _LOCK.own:  # xarray takes its own lock, and that one cannot be taken twice
        dataset.to_netcdf(path, engine="netcdf4", **options)
