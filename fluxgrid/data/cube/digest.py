"""Digests of exactly the input a tile and year need, so that unchanged work can be skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from fluxgrid.data.cube.axes import column_order, longitudes, row_order
from fluxgrid.data.cube.build import step_of
from fluxgrid.data.cube.stores import StorePath, zarr_folder
from fluxgrid.data.steps import calendar
from fluxgrid.errors import CubeError
from fluxgrid.registry import unknown_name

_ABSENT = b"absent"
_KEYS_OF_SIZE = ("shape",)


def input_digest(
    path: StorePath, cube: xr.Dataset, variables: Iterable[str], steps: slice, rows: slice, cols: slice
) -> str:
    """Return a digest of the input a piece of work needs.

    For a zarr store on this machine the encoded chunk files that meet the window are hashed, with the metadata that
    tell how to decode them; nothing is decoded. Otherwise the values are read and hashed. What lies outside the window
    does not matter, nor does the length of the store: appended steps leave the digests of earlier years alone.

    Parameters
    ----------
    path : StorePath
        What the cube was opened from.
    cube : Dataset
        As `open_cube` returned it, or a window of that.
    variables : iterable of str
        Names in the cube; their order does not matter.
    steps, rows, cols : slice
        Window of the cube, in its own order of rows and columns.

    Returns
    -------
    digest : str
        64 hexadecimal digits.

    Raises
    ------
    UnknownName
        If a variable is not in the cube.
    CubeError
        If the store cannot be read.
    """
    names = sorted(set(variables))
    for name in names:
        if name not in cube:
            error = unknown_name("variable of the cube", name, map(str, cube.data_vars))
            raise error
    window = {"time": steps, "y": rows, "x": cols}
    digest = blake2b(digest_size=32)
    folder = zarr_folder(path)
    try:
        parts = _values(cube, names, window) if folder is None else _chunks(folder, cube, names, window)
        for part in parts:
            # The length first, so that bytes cannot move from one part to the next unseen.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        message = f"The input of {path} cannot be read: {error}. Run `fluxgrid cube check` on it."
        raise CubeError(message) from error
    return digest.hexdigest()


def _window_of_coordinates(cube: xr.Dataset, window: dict[str, slice]) -> Iterator[bytes]:
    """Yield where and when the window is, and what the variables are made of."""
    for axis, part in window.items():
        yield np.ascontiguousarray(cube[axis].values[part]).tobytes()
    yield str(cube.attrs.get("crs")).encode()


def _about(cube: xr.Dataset, name: str) -> bytes:
    """Return what the mapping made of a variable: its unit, source and classes."""
    return json.dumps([name, {key: str(value) for key, value in sorted(cube[name].attrs.items())}]).encode()


def _values(cube: xr.Dataset, names: list[str], window: dict[str, slice]) -> Iterator[bytes]:
    """Yield the values of the window, variable by variable."""
    yield from _window_of_coordinates(cube, window)
    for name in names:
        part = cube[name].isel({axis: window[str(axis)] for axis in cube[name].dims})
        yield _about(cube, name)
        yield np.ascontiguousarray(part.to_numpy()).tobytes()


def _chunks(folder: Path, cube: xr.Dataset, names: list[str], window: dict[str, slice]) -> Iterator[bytes]:
    """Yield the encoded chunks that meet the window, variable by variable."""
    yield from _window_of_coordinates(cube, window)
    group = zarr.open_group(folder, mode="r")
    for name in names:
        array = group[cube[name].attrs["source_variable"]]
        if not isinstance(array, zarr.Array):
            continue
        yield _about(cube, name)
        yield _metadata(array)
        for key in _chunk_keys(array, _needed(group, array, cube, window)):
            file = folder / array.path / key
            yield key.encode()
            yield file.read_bytes() if file.is_file() else _ABSENT


def _metadata(array: zarr.Array) -> bytes:
    """Return how an array is encoded, without its length: a store that grows does not change its past."""
    about = {key: value for key, value in array.metadata.to_dict().items() if key not in _KEYS_OF_SIZE}
    return json.dumps(about, sort_keys=True, default=str).encode()


def _needed(group: zarr.Group, array: zarr.Array, cube: xr.Dataset, window: dict[str, slice]) -> list[np.ndarray]:
    """Return the indices needed along each dimension of an array, as stored; the first where the cube lacks one."""
    axes = {str(cube[axis].attrs.get("source_dimension", axis)): axis for axis in window}
    return [
        _stored_index(group[dim], axes[dim], cube, window[axes[dim]]) if dim in axes else np.arange(1)
        for dim in dimension_names(array)
    ]


def dimension_names(array: Any) -> tuple[str, ...]:
    """Return the names of the dimensions of a zarr array, of either format.

    Parameters
    ----------
    array : zarr.Array

    Returns
    -------
    names : tuple of str
    """
    names = getattr(array.metadata, "dimension_names", None) or array.attrs["_ARRAY_DIMENSIONS"]
    return tuple(str(name) for name in names)


def _stored_index(coordinate: Any, axis: str, cube: xr.Dataset, part: slice) -> np.ndarray:
    """Return which stored indices a part of an axis of the cube is; the cube may be cropped."""
    wanted = cube[axis].values[part]
    if axis == "time":
        time = cube.indexes["time"][part]
        start = pd.Timestamp(cube["time"].attrs.get("source_start", cube["time"].values[0]))
        return len(calendar(start, time[0], step_of(cube))) - 1 + np.arange(len(time)) if len(time) else np.arange(0)
    stored = np.asarray(coordinate[:], dtype="float64")
    geographic = cube["x"].attrs["units"] != "m"
    order = row_order(stored) if axis == "y" else column_order(stored, geographic)
    full = stored[order] if axis == "y" else longitudes(stored, geographic)[order]
    return order[np.abs(full[:, None] - wanted).argmin(axis=0)]


def _chunk_keys(array: zarr.Array, needed: list[np.ndarray]) -> Iterator[str]:
    """Yield the keys of the chunk files (shards where there are any) that hold the needed indices."""
    sizes = array.shards or array.chunks
    blocks = [np.unique(index // size).tolist() for index, size in zip(needed, sizes, strict=True)]
    for place in product(*blocks):
        yield array.metadata.encode_chunk_key(place)
