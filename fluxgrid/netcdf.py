"""NetCDF files, one thread of a process at a time.

HDF5 and the NetCDF library end a process that uses them from two threads at once. netCDF4 holds no lock and lets other
threads run while it works; xarray holds one for values, but none for the metadata it reads when it opens a file, and
files that nobody closed are closed by the garbage collector in whichever thread it happens to run. So everything that
fluxgrid does with NetCDF goes through this module and holds one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
        self._depth, self._owner = 0, 0

    @property
    def depth(self) -> int:
        """How often this thread has taken it."""
        return self._depth if self._owner == threading.get_ident() else 0

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; say whether that was possible, without waiting for it if not `blocking`."""
        if not self.own.acquire(blocking):
            return False
        if not self._depth and not NETCDF4_PYTHON_LOCK.acquire(blocking):
            self.own.release()
            return False
        self._depth, self._owner = self._depth + 1, threading.get_ident()
        return True

    def release(self) -> None:
        """Give the lock back."""
        if not self.depth:
            message = "This thread has not taken the lock of NetCDF files, and cannot give it back."
            raise RuntimeError(message)
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
        Closed at the end. Meanwhile dask, which reads in other threads, reads NetCDF only in `others_first`.
    """
    with _LOCK, NetCDF(path, mode) as file:
        yield file


@contextmanager
def others_first() -> Iterator[None]:
    """Let other threads use NetCDF in the middle of `netcdf_file`, as dask's do that read what is to be written."""
    depth = _LOCK.depth
    for _ in range(depth):
        _LOCK.release()
    try:
        yield
    finally:
        for _ in range(depth):
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
    with _LOCK:  # the engine is named: xarray would else try every reader it knows
        return xr.open_dataset(path, engine="netcdf4", lock=_LOCK, **options)  # noqa: TID251


def join_netcdf(paths: Sequence[Path], joining: Mapping[str, Any], **options: Any) -> xr.Dataset:
    """Open NetCDF files by xarray and join them by their coordinates.

    Parameters
    ----------
    paths : sequence of path
    joining : mapping
        Options of `xarray.combine_by_coords`.
    **options
        For `open_netcdf`, of each file; `chunks` must be among them.

    Returns
    -------
    dataset : Dataset
        Closes all files when it is closed.
    """
    with ExitStack() as opened:
        parts = [opened.enter_context(open_netcdf(path, **options)) for path in paths]
        joined: Any = xr.combine_by_coords(parts, **joining)  # a dataset, of datasets
        joined.set_close(opened.pop_all().close)
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

    Raises
    ------
    RuntimeError
        Within `netcdf_file`, where it would wait for itself.
    """
    if _LOCK.depth:
        message = f"{path} cannot be written by xarray while this thread has a file open by netCDF4: close that first."
        raise RuntimeError(message)
    dataset = dataset.compute()
    with _LOCK.own:  # xarray takes its own lock, and that one cannot be taken twice
        dataset.to_netcdf(path, engine="netcdf4", **options)
