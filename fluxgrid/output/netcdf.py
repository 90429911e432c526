"""Export of a map store to one CF NetCDF file, streamed, verified and only then put in place."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import OutputError, itemise
from fluxgrid.files import atomic_path
from fluxgrid.netcdf import NetCDF, netcdf_file, others_first
from fluxgrid.output.cf import (
    YEAR,
    coordinate_attributes,
    global_attributes,
    grid_mapping_attributes,
    variable_attributes,
    year_attributes,
)
from fluxgrid.output.layers import GLOBAL_ONLY, PLAIN, Layers, layers_of, whole_year
from fluxgrid.output.store import readable
from fluxgrid.output.stream import MapSource, open_map

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.output.info import MapInfo

FILL = np.float32(-9999)
"""Fill value of float variables; finite, because some programs do not take NaN for missing."""

LARGEST_FILE_BYTES = 2 * 10**9
"""A year that takes more than this before compression is cut into months."""

Compression = Literal["zlib", "zstd"]
"""How NetCDF files are compressed."""

_CODECS: dict[str, dict[str, Any]] = {
    "zlib": {"compression": "zlib", "complevel": 1, "shuffle": True},
    "zstd": {"compression": "zstd", "complevel": 1, "shuffle": True},
}
_BLOCK_BYTES = 32 * 2**20  # read at a time; chunks of the store hold all steps and are decoded anew for each block
_MAX_SIDE = 512
_NO_CACHE = 1  # bytes: chunks are written whole, and HDF5 would keep 16 MB of them for each variable
_MIN_CHUNK_CELLS = 65536  # 256 KB: smaller chunks cost more in bookkeeping than they save in reading


@dataclass(frozen=True)
class FilePlan:
    """One file of a map."""

    period: str
    """``2019`` or ``2019-07``, as it stands in the file's name."""
    steps: slice
    """Steps of the store the file holds."""


def plan_files(times: pd.DatetimeIndex, shape: tuple[int, int], layers: Layers = PLAIN) -> tuple[FilePlan, ...]:
    """Decide which steps go into which file.

    Parameters
    ----------
    times : DatetimeIndex
        Starts of the steps, ascending.
    shape : (rows, columns)
        Of the grid.
    layers : Layers
        What the map holds.

    Returns
    -------
    plans : tuple of FilePlan
        One for each calendar year; for each month where the year would exceed `LARGEST_FILE_BYTES`.

    Examples
    --------
    >>> days = pd.date_range("2019-01-01", "2019-12-31")
    >>> plan_files(days, (100, 200))
    (FilePlan(period='2019', steps=slice(0, 365, None)),)
    >>> [plan.period for plan in plan_files(days, (6000, 9000))][:2]
    ['2019-01', '2019-02']
    """
    plans: list[FilePlan] = []
    for year, start, stop in _runs(times.year):
        if (stop - start) * shape[0] * shape[1] * layers.step_bytes <= LARGEST_FILE_BYTES:
            plans.append(FilePlan(str(year), slice(start, stop)))
        else:
            months = _runs(times[start:stop].month)
            plans += [FilePlan(f"{year}-{month:02d}", slice(start + a, start + b)) for month, a, b in months]
    return tuple(plans)


def export_netcdf(
    source: MapSource,
    grid: Grid,
    info: MapInfo,
    path: Path | str,
    land_fraction: np.ndarray,
    steps: slice = slice(None),
    region_land: np.ndarray | None = None,
    compression: Compression = "zlib",
) -> Path:
    """Write a map, or some of its steps, as one CF-1.11 NetCDF file.

    The file is written piece by piece, read back and compared with the store, and appears only if all agrees. Annual
    variables go into the file that holds the last step of a whole calendar year, and into no other.

    Parameters
    ----------
    source : path or Dataset
        Map store.
    grid : Grid
        The map's grid.
    info : MapInfo
        What the file says about itself.
    path : path
        The file to make.
    land_fraction : array (y, x)
        Share of each cell that is land, 0 to 1.
    steps : slice
        Steps of the store to write, from `plan_files`; all by default.
    region_land : array (y, x), optional
        Share of each cell that is land of the region, 0 to 1; all its land by default.
    compression : {"zlib", "zstd"}
        zstd is written ten times as fast, but needs a plug-in in the program that reads (see docs/decisions/017).

    Returns
    -------
    path : Path
        Of the finished file.

    Raises
    ------
    DamagedMap
        If the store cannot be read.
    OutputError
        If the file cannot be written, or does not read back as it should; every disagreement is listed.
    """
    dataset = _part(open_map(source), steps, info.step)
    _check_door(dataset, grid, land_fraction)
    with atomic_path(path) as temporary:
        with _netcdf_errors(path), netcdf_file(temporary, "w") as file:
            inside = land_fraction if region_land is None else region_land
            _write_frame(file, dataset, grid, info, land_fraction, inside, compression)
            for name in layers_of(dataset).dtypes:
                _copy_variable(file, dataset, name)
        problems = verify_netcdf(temporary, dataset, grid)
        if problems:
            header = f"{path} does not read back as written; the disk may be failing. Run again"
            raise OutputError(itemise(header, problems))
    return Path(path)


def export_rate(values: np.ndarray, path: Path, compression: Compression = "zlib") -> float:
    """Return the bytes per second that are compressed into a NetCDF file, measured.

    Parameters
    ----------
    values : float32 array (time, y, x)
        A piece of a map.
    path : Path
        File to write.
    compression : {"zlib", "zstd"}

    Returns
    -------
    rate : float
        Of bytes before compression.
    """
    begun = time.perf_counter()
    with netcdf_file(path, "w") as file:
        for name, size in zip(("time", "y", "x"), values.shape, strict=True):
            file.createDimension(name, size)
        variable = file.createVariable("nee", values.dtype, ("time", "y", "x"), **_CODECS[compression])
        variable[...] = values
    return values.nbytes / (time.perf_counter() - begun)


def verify_netcdf(path: Path | str, dataset: xr.Dataset, grid: Grid) -> list[str]:
    """Read a NetCDF map back and compare it with the store it was made from.

    Parameters
    ----------
    path : path
        The file.
    dataset : Dataset
        The store, with the steps the file should hold.
    grid : Grid
        The map's grid.

    Returns
    -------
    problems : list of str
        Empty if dims, time axis and all values of the first, middle and last step agree.
    """
    with netcdf_file(path) as file:
        file.set_auto_mask(False)
        problems = _frame_problems(file, dataset, grid)
        if not problems:
            unlike = [name for name in layers_of(dataset).dtypes if not _same_values(file, dataset, name)]
            problems = [f"{name}: values differ from the store" for name in unlike]
    return problems


def _runs(labels: pd.Index) -> list[tuple[int, int, int]]:
    """Return (label, start, stop) of each run of equal labels."""
    values = np.asarray(labels)
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return [(int(values[a]), int(a), int(b)) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]


def _part(dataset: xr.Dataset, steps: slice, step: str) -> xr.Dataset:
    """Return some steps of a map, with its annual variables where they belong to these."""
    times = pd.DatetimeIndex(dataset["time"].values)
    part = dataset.isel(time=steps)
    if part.sizes["time"] and part["time"].values[-1] == times[-1] and whole_year(times, step):
        return part
    return part.drop_vars(layers_of(dataset).annual)


def _check_door(dataset: xr.Dataset, grid: Grid, land_fraction: np.ndarray) -> None:
    """Refuse pieces that do not belong together."""
    shape = dataset["nee"].shape
    problems = []
    if not shape[0]:
        problems.append("the store has none of the steps wanted")
    if shape[1:] != grid.shape:
        problems.append(f"the store has {shape[1:]} cells, the grid {grid.shape} (rows, columns)")
    if land_fraction.shape != grid.shape:
        problems.append(f"land_fraction has {land_fraction.shape} cells, the grid {grid.shape} (rows, columns)")
    if problems:
        raise OutputError(itemise("The map cannot be exported", problems))


@contextmanager
def _netcdf_errors(path: Path | str) -> Iterator[None]:
    """Explain the library's RuntimeError, or PermissionError, which is all it says when the disk is full."""
    try:
        yield
    except RuntimeError as error:
        message = f"Cannot write {path}: {error}. Most often the disk is full: free some space and run again."
        raise OutputError(message) from error
    except PermissionError as error:
        if shutil.disk_usage(Path(path).parent).free:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _write_frame(
    file: NetCDF,
    dataset: xr.Dataset,
    grid: Grid,
    info: MapInfo,
    land_fraction: np.ndarray,
    region_land: np.ndarray,
    compression: Compression,
) -> None:
    """Write everything but the map itself."""
    times = pd.DatetimeIndex(dataset["time"].values)
    ends = step_ends(times, info.step)
    file.setncatts(global_attributes(info, grid, times, ends))
    for name, size in zip(("time", *grid.dims, "nv"), (None, *grid.shape, 2), strict=True):
        file.createDimension(name, size)
    attributes = coordinate_attributes(info, grid)
    _write_time(file, times, ends, attributes["time"])
    _write_axes(file, grid, attributes)
    _put(file, "crs", (), np.int32(0), grid_mapping_attributes(grid))
    layers = layers_of(dataset)
    cells = variable_attributes(info, grid, layers)
    _put(file, "cell_area", grid.dims, grid.cell_area(), cells["cell_area"])
    for name, share in (("land_area_fraction", land_fraction), ("region_land_area_fraction", region_land)):
        _put(file, name, grid.dims, np.asarray(share, "float32"), cells[name])
    if layers.annual:
        _put(file, YEAR, (), _days(pd.DatetimeIndex([f"{times[-1].year}-01-01"]))[0], year_attributes(info))
    for name in layers.dtypes:
        _create_map_variable(file, name, layers, grid, cells[name], compression)


def _write_time(file: NetCDF, times: pd.DatetimeIndex, ends: pd.DatetimeIndex, attributes: dict) -> None:
    """Write time and its bounds."""
    days = np.stack([_days(times), _days(ends)], axis=1)
    chunk = min(len(times), 512)  # the default chunk of an unlimited dimension is one value
    _put(file, "time", ("time",), days[:, 0], attributes, chunks=(chunk,))
    _put(file, "time_bnds", ("time", "nv"), days, {}, chunks=(chunk, 2))


def _write_axes(file: NetCDF, grid: Grid, attributes: dict) -> None:
    """Write the centres and bounds of rows and columns and, on a projection, latitude and longitude of the cells."""
    for name, centres, edges in zip(grid.dims, (grid.y, grid.x), (grid.y_edges, grid.x_edges), strict=True):
        _put(file, name, (name,), np.asarray(centres, "float64"), attributes[name])
        _put(file, f"{name}_bnds", (name, "nv"), np.stack([edges[:-1], edges[1:]], axis=1), {})
    if not grid.geographic:
        lon, lat = grid.lonlat()
        _put(file, "lat", grid.dims, lat, attributes["lat"])
        _put(file, "lon", grid.dims, lon, attributes["lon"])


def _put(file: NetCDF, name: str, dims: tuple, values: Any, attributes: dict, chunks: Any = None) -> None:
    """Write one small variable, without a fill value: it has a value everywhere."""
    values = np.asarray(values)
    large = values.ndim == 2
    variable = file.createVariable(
        name, values.dtype, dims, zlib=large, complevel=1, shuffle=large, fill_value=False, chunksizes=chunks
    )
    variable.setncatts(attributes)
    variable[...] = values


def _create_map_variable(
    file: NetCDF, name: str, layers: Layers, grid: Grid, attributes: dict, compression: Compression
) -> None:
    """Declare one variable of the map."""
    height, width = (min(n, _MAX_SIDE) for n in grid.shape)
    steps = len(file.dimensions["time"])
    few = int(np.clip(_MIN_CHUNK_CELLS // (height * width), 1, min(steps, 31)))
    before = layers.dims(name)[:-2]  # time, or nothing
    variable = file.createVariable(
        name,
        layers.dtypes[name],
        (*before, *grid.dims),
        **_CODECS[compression],
        chunksizes=(*([few] if before else []), height, width),
        chunk_cache=_NO_CACHE,
        fill_value=_fill(name, layers.dtypes[name]),
    )
    variable.setncatts(attributes)


def _fill(name: str, dtype: np.dtype) -> Any:
    """Return the fill value of a variable; False for none."""
    if name == "calibration_id":
        return np.int16(GLOBAL_ONLY)
    return FILL if dtype.kind == "f" else False


def _copy_variable(file: NetCDF, dataset: xr.Dataset, name: str) -> None:
    """Copy one variable, block by block; a block is whole chunks of the file, so each is compressed once."""
    variable = file[name]
    variable.set_auto_maskandscale(False)
    for block in _blocks(variable.shape, variable.chunking()):
        variable[block] = _read(dataset, name, block)


def _blocks(shape: tuple[int, ...], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Cut a variable into blocks of whole chunks, with as many steps, if it has any, as fit the memory budget."""
    *steps, height, width = chunks
    longest = [max(1, _BLOCK_BYTES // (4 * few * height * width)) * few for few in steps]
    sizes = (*longest, height, width)
    yield from product(*([slice(a, min(a + s, n)) for a in range(0, n, s)] for n, s in zip(shape, sizes, strict=True)))


def _read(dataset: xr.Dataset, name: str, block: tuple) -> np.ndarray:
    """Read a block of the store as the file shall hold it."""
    dtype = layers_of(dataset).dtypes[name]
    with readable(f"{name} at (time, row, column) {block}"), others_first():
        values = dataset[name][block].values
    empty = np.isnan(values)  # of a NetCDF map also where an integer had its fill value
    if empty.any():
        values = np.where(empty, _fill(name, dtype), values)
    return np.asarray(values, dtype)


def _frame_problems(file: NetCDF, dataset: xr.Dataset, grid: Grid) -> list[str]:
    """Compare dims and axes with what they should be."""
    sizes = {name: len(file.dimensions[name]) for name in ("time", *grid.dims)}
    right = dict(zip(("time", *grid.dims), dataset["nee"].shape, strict=True))
    problems = [] if sizes == right else [f"dimensions are {sizes}, not {right}"]
    axes = {"time": _days(pd.DatetimeIndex(dataset["time"].values)), grid.dims[0]: grid.y, grid.dims[1]: grid.x}
    unlike = [name for name, values in axes.items() if not np.array_equal(file[name][:], values)]
    return problems + [f"{name} differs from the store's" for name in unlike]


def _same_values(file: NetCDF, dataset: xr.Dataset, name: str) -> bool:
    """Compare the first, middle and last step bit for bit, where a shifted or cut copy shows."""
    *steps, _, _ = file[name].shape
    picks = [sorted({0, count // 2, count - 1}) for count in steps]
    for cells in _blocks(file[name].shape[-2:], file[name].chunking()[-2:]):
        if not np.array_equal(file[name][(*picks, *cells)], _read(dataset, name, (*picks, *cells))):
            return False
    return True


def _days(times: pd.DatetimeIndex) -> np.ndarray:
    """Days since 1970-01-01."""
    return ((times - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy("float64")
