"""The map store: where tiles of a map are written, in any order, by any number of workers.

A zarr v3 group for one calendar year (or part of it), made as a template of metadata first and then filled tile by
tile. A tile is a whole number of chunks, so two workers never write the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from blake3 import blake3
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from fluxgrid.data.chunk_files import UNREADABLE, ChunkFiles, chunk_files
from fluxgrid.errors import DamagedMap, OutputExists, TileMismatch, itemise
from fluxgrid.files import atomic_folder, output_error
from fluxgrid.output.layers import PLAIN, Layers

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.geo.tiles import Tile

EPOCH_UNITS = "days since 1970-01-01 00:00:00"
"""Unit of time in map stores and NetCDF files."""

_NAMES = "variables"  # attribute of the store: what it holds beside coordinates, in order


def create_store(
    path: Path | str, grid: Grid, times: pd.DatetimeIndex, layers: Layers = PLAIN, chunk: int = 32
) -> None:
    """Make an empty map store: metadata and coordinates, no values.

    Every cell reads as missing and outside the region until it is written.

    Parameters
    ----------
    path : path
        Folder of the store; must not exist.
    grid : Grid
        The map's grid.
    times : DatetimeIndex
        Starts of the steps.
    layers : Layers
        Variables of the map.
    chunk : int
        Side of a chunk in cells; a chunk holds all steps.

    Raises
    ------
    OutputExists
        If there is something at ``path``.
    OutputError
        If it cannot be written.
    """
    path = Path(path)
    if path.exists():
        message = f"{path} exists. Resume the run that made it (--resume) or choose another folder (--out)."
        raise OutputExists(message)
    with atomic_folder(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        group.attrs[_NAMES] = list(layers.dtypes)
        _write_coordinates(group, grid, times)
        for name in layers.dtypes:
            _create_variable(group, name, layers, (len(times), *grid.shape), (len(times), chunk, chunk))


def write_tile(path: Path | str, tile: Tile, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the values of one tile.

    Safe to call at the same time for different tiles, from threads and processes.

    Parameters
    ----------
    path : path
        A store made by `create_store`.
    tile : Tile
        Where; a whole number of chunks, or up to the edge of the map.
    arrays : mapping of str to array (time, h, w) or (h, w)
        One array for each variable of the store, of exactly its type.

    Raises
    ------
    TileMismatch
        If the tile does not fit the store; the message lists every reason.
    OutputError
        If the disk is full and the like.
    """
    store = _opened(path)
    problems = _place_problems(store, tile) + _array_problems(store, tile, arrays)
    if problems:
        raise TileMismatch(itemise(f"Tile {tile.name} does not fit {path}", problems))
    try:
        for name, files in store.files.items():
            steps = [slice(0, size) for size in files.shape[:-2]]
            files.write((*steps, tile.rows, tile.cols), arrays[name])
    except OSError as error:
        raise output_error(error, path) from error


def open_for_tiles(path: Path | str) -> None:
    """Open a store for the tiles that threads of this process will write; each would open it by itself, all at once.

    Parameters
    ----------
    path : path
        A store made by `create_store`.

    Raises
    ------
    DamagedMap
        If there is no readable store.
    """
    _opened(path)


def open_store(path: Path | str, dask: bool = True) -> xr.Dataset:
    """Open a map store without reading its values.

    Parameters
    ----------
    path : path
        A store made by `create_store`.
    dask : bool
        Whether arrays are dask's. Without it some steps are read with one chunk decoded after the other; dask holds all
        steps of all chunks that they touch.

    Returns
    -------
    dataset : Dataset
        Variables of its `Layers`, dims (time, y, x) or (y, x), in the chunks of the store.

    Raises
    ------
    DamagedMap
        If there is no readable store.
    """
    with readable(f"the map store {path}"):
        return xr.open_zarr(str(path), consolidated=False, chunks={} if dask else None, zarr_format=3)


def tile_digest(path: Path | str, tile: Tile) -> str:
    """Return a hash of a tile's values as they stand on disk.

    A chunk that was torn, flipped or lost after it was written changes the digest or raises.

    Parameters
    ----------
    path : path
        A store made by `create_store`.
    tile : Tile
        Which part.

    Returns
    -------
    digest : str
        BLAKE3, 32 hexadecimal digits.

    Raises
    ------
    DamagedMap
        If a chunk cannot be read.
    """
    found = blake3()
    for name, files in _opened(path).files.items():
        steps = [slice(0, size) for size in files.shape[:-2]]
        with readable(f"{name} in tile {tile.name} of {path}"):
            values = files.read((*steps, tile.rows, tile.cols))
        found.update(name.encode())
        found.update(values.reshape(-1).view("uint8").data)
    return found.hexdigest(length=16)


@contextmanager
def readable(what: str, advice: str = "run again with --resume to remake it") -> Iterator[None]:
    """Turn the many errors of an unreadable chunk into one that says what to do.

    Parameters
    ----------
    what : str
        What is being read, for the message.
    advice : str
        What to do.

    Raises
    ------
    DamagedMap
        If the block raises what zarr, its codecs or the system raise for unreadable data.
    """
    try:
        yield
    except UNREADABLE as error:
        message = f"Cannot read {what}: {error}. A file is damaged or missing; {advice}."
        raise DamagedMap(message) from error


@dataclass(frozen=True, eq=False)
class _Store:
    """A map store, opened once for many tiles; safe to share between threads."""

    variables: Mapping[str, zarr.Array[Any]]
    """Beside coordinates, in order."""
    files: Mapping[str, ChunkFiles]
    """What writes them, and reads them back: as they stand on disk, checked by their checksums."""
    y: np.ndarray
    """Of its rows."""
    x: np.ndarray
    """Of its columns."""


def _opened(path: Path | str) -> _Store:
    """Return a store, opened again only where its metadata are other files than they were."""
    with readable(f"the map store {path}"):
        metadata = [Path(path) / "zarr.json", *Path(path).glob("*/zarr.json")]
        stamps = [(str(file), state.st_ino, state.st_mtime_ns) for file in sorted(metadata) for state in [file.stat()]]
        return _open(str(path), tuple(stamps))


@lru_cache(maxsize=64)  # years of a run
def _open(path: str, stamps: tuple) -> _Store:  # noqa: ARG001
    """Open."""
    group = zarr.open_group(path, mode="r+", zarr_format=3)
    variables = {name: _variable(group, name) for name in cast("list[str]", group.attrs[_NAMES])}
    y, x = (np.asarray(_variable(group, axis)[:]) for axis in "yx")
    return _Store(variables, {name: _files(variable) for name, variable in variables.items()}, y, x)


def _variable(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return one array of the store."""
    with readable(f"{name} of {group.store_path}"):
        return cast("zarr.Array[Any]", group[name])


def _files(variable: zarr.Array[Any]) -> ChunkFiles:
    """Return the chunk files of a variable."""
    files = chunk_files(variable)
    if files is None:
        message = f"{variable.name} is encoded as no map of fluxgrid is"
        raise ValueError(message)
    return files


def _create_variable(group: zarr.Group, name: str, layers: Layers, shape: tuple, chunks: tuple) -> None:
    """Declare one variable of the map; a checksum follows each chunk, for lz4 itself notices few flipped bits."""
    dims = layers.dims(name)
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if name == "calibration_id":
        attributes["places"] = list(layers.calibrated_places)
    group.create_array(
        name,
        shape=shape[-len(dims) :],
        chunks=chunks[-len(dims) :],
        dtype=layers.dtypes[name],
        fill_value=layers.empty(name),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.shuffle), Crc32cCodec()],
        dimension_names=dims,
        attributes=attributes,
    )


def _write_coordinates(group: zarr.Group, grid: Grid, times: pd.DatetimeIndex) -> None:
    """Write time, y, x and the coordinate reference system."""
    days = (times - pd.Timestamp(0)) // pd.Timedelta(days=1)
    coordinates: dict[str, tuple[np.ndarray, dict]] = {
        "time": (np.asarray(days, "int64"), {"units": EPOCH_UNITS, "calendar": "standard"}),
        "y": (np.asarray(grid.y, "float64"), {"axis": "Y"}),
        "x": (np.asarray(grid.x, "float64"), {"axis": "X"}),
    }
    for name, (values, attributes) in coordinates.items():
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,), attributes=attributes)
    wkt = grid.crs.to_wkt()
    reference: dict[str, Any] = {"crs_wkt": wkt, "spatial_ref": wkt}
    group.create_array("spatial_ref", shape=(), chunks=(), dtype="int32", attributes=reference)


def _place_problems(store: _Store, tile: Tile) -> list[str]:
    """Say what is wrong with where the tile lies."""
    _, *size = store.variables["nee"].shape
    _, *chunks = store.variables["nee"].chunks
    problems = []
    for axis, span, n, chunk in zip(("rows", "columns"), (tile.rows, tile.cols), size, chunks, strict=True):
        given = f"{axis} {span.start}:{span.stop}"
        if not 0 <= span.start < span.stop <= n:
            problems.append(f"{given} are not inside the map's 0:{n}")
        elif span.start % chunk or (span.stop % chunk and span.stop != n):
            problems.append(f"{given} are not a whole number of chunks of {chunk}; another tile would share a chunk")
    return problems or _coordinate_problems(store, tile)


def _coordinate_problems(store: _Store, tile: Tile) -> list[str]:
    """Say whether the tile's grid is the part of the map it claims to be."""
    problems = []
    places = ("y", store.y[tile.rows], tile.grid.y), ("x", store.x[tile.cols], tile.grid.x)
    for axis, right, given in places:
        if len(given) != len(right) or not np.allclose(given, right, rtol=0, atol=1e-6 * abs(np.ptp(right) or 1)):
            runs = f"{given[0]:g} to {given[-1]:g}, the map's there {right[0]:g} to {right[-1]:g}"
            problems.append(f"its {axis} runs {runs}")
    return problems


def _array_problems(store: _Store, tile: Tile, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Say what is wrong with the arrays."""
    names = list(store.variables)
    cells = tile.rows.stop - tile.rows.start, tile.cols.stop - tile.cols.start
    problems = [f"{name} is missing" for name in names if name not in arrays]
    problems += [
        f"{name} is not a variable of this map store ({', '.join(names)})" for name in arrays.keys() - {*names}
    ]
    for name in arrays.keys() & {*names}:
        variable, given = store.variables[name], arrays[name]
        shape = (*variable.shape[:-2], *cells)
        if given.shape != shape:
            problems.append(
                f"{name} has shape {given.shape}, not {shape} ({', '.join(('time', 'y', 'x')[-len(shape) :])})"
            )
        if given.dtype != variable.dtype:
            problems.append(f"{name} has type {given.dtype}, not {variable.dtype}")
    return sorted(problems)
