"""Digests of exactly the input a tile and year need, so that unchanged work can be skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from blake3 import blake3

from fluxgrid.data.chunk_files import ChunkFiles, chunk_bytes, chunk_files
from fluxgrid.data.cube.axes import column_order, longitudes, row_order
from fluxgrid.data.cube.build import step_of
from fluxgrid.data.cube.stores import StorePath, zarr_folder
from fluxgrid.data.steps import calendar
from fluxgrid.errors import CubeError
from fluxgrid.registry import unknown_name

_ABSENT = b"absent"
_MOST_DECODED = 2**22
"""Bytes of the largest chunk that is decoded to see which of its steps changed: 4 MB."""
_KEYS_OF_SIZE = ("shape",)


def input_digest(
    path: StorePath, cube: xr.Dataset, variables: Iterable[str], steps: slice, rows: slice, cols: slice
) -> str:
    """Return a digest of the input a piece of work needs.

    For a zarr store on this machine the encoded chunk files that meet the window are hashed, with the metadata that
    tell how to decode them; of small chunks that reach beyond its first or last step, the values of its own steps.
    Otherwise the values are read and hashed. Steps outside the window do not matter then, nor does the length of the
    store: appended steps leave the digests of earlier years alone.

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
        BLAKE3, 64 hexadecimal digits.

    Raises
    ------
    UnknownName
        If a variable is not in the cube.
    CubeError
        If the store cannot be read.
    """
    return InputDigests(path, cube, variables)(steps, rows, cols)


class InputDigests:
    """Digests of windows of one cube, as `input_digest` gives them; what all windows share is read once.

    Parameters
    ----------
    path, cube, variables
        As for `input_digest`.

    Raises
    ------
    UnknownName
        If a variable is not in the cube.
    CubeError
        If the store cannot be read.
    """

    def __init__(self, path: StorePath, cube: xr.Dataset, variables: Iterable[str]):
        self.path, self.cube, self.names = path, cube, sorted(set(variables))
        for name in self.names:
            if name not in cube:
                error = unknown_name("variable of the cube", name, map(str, cube.data_vars))
                raise error
        self._folder = zarr_folder(path)
        with self._readable():
            self._stored = [] if self._folder is None else _stored_arrays(self._folder, cube, self.names)

    def __call__(self, steps: slice, rows: slice, cols: slice) -> str:
        """Return the digest of a window, 64 hexadecimal digits; CubeError if it cannot be read."""
        window, found = {"time": steps, "y": rows, "x": cols}, blake3()
        with self._readable():
            for part in self._parts(window):
                # The length first, so that bytes cannot move from one part to the next unseen.
                found.update(len(part).to_bytes(8, "little"))
                found.update(part)
        return found.hexdigest()

    def _parts(self, window: dict[str, slice]) -> Iterator[bytes]:
        """Yield all that a window hangs on."""
        yield from _window_of_coordinates(self.cube, window)
        if self._folder is None:
            yield from _values(self.cube, self.names, window)
        needed = {axis: _Needed(axis, self.cube, part) for axis, part in window.items()}
        for stored in self._stored:
            yield stored.about
            for place in stored.places(needed):
                key = stored.array.metadata.encode_chunk_key(place)
                yield key.encode()
                yield stored.content(key, place, needed)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what reading may raise into an error a user can act on."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            message = f"The input of {self.path} cannot be read: {error}. Run `fluxgrid cube check` on it."
            raise CubeError(message) from error


@dataclass(frozen=True, eq=False)
class _Stored:
    """An array of a store, with what its windows share."""

    array: zarr.Array
    folder: Path
    about: bytes
    """What the mapping made of it and how it is encoded."""
    axes: tuple[str | None, ...]
    """Axis of the cube that each dimension is; None for one the cube lacks."""
    coordinates: dict[str, np.ndarray]
    """As stored, of its rows and columns."""
    files: ChunkFiles | None
    """What reads its chunks; None where they are large, or zarr itself must read."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of what one file holds: a chunk, or a shard where there are any."""
        return self.array.shards or self.array.chunks

    def places(self, needed: Mapping[str, _Needed]) -> Iterator[tuple[int, ...]]:
        """Yield the places of the chunk files that hold what is needed."""
        blocks = [
            [0] if axis is None else needed[axis].blocks(size, self.coordinates.get(axis))  # the first of what it lacks
            for axis, size in zip(self.axes, self.sizes, strict=True)
        ]
        yield from product(*blocks)

    def content(self, key: str, place: tuple[int, ...], needed: Mapping[str, _Needed]) -> bytes:
        """Return a chunk file as it is, or the values of the steps that are needed where others share the chunk."""
        if self.files is not None and "time" in self.axes:
            along = self.axes.index("time")
            steps = needed["time"].inside(self.sizes[along], place[along])
            if steps.stop - steps.start < self.sizes[along]:
                return self.files.read(
                    [*self._cells(place[:along], 0), steps, *self._cells(place, along + 1)]
                ).tobytes()
        data = chunk_bytes(f"{self.folder}/{key}")
        return _ABSENT if data is None else data

    def _cells(self, place: tuple[int, ...], first: int) -> list[slice]:
        """Return the whole chunk along dimensions from the first on."""
        spans = zip(place[first:], self.sizes[first:], self.array.shape[first:], strict=False)
        return [slice(block * size, min((block + 1) * size, length)) for block, size, length in spans]


class _Needed:
    """The part of an axis of the cube that a window needs, the same for all variables."""

    def __init__(self, axis: str, cube: xr.Dataset, part: slice):
        self._part = axis, cube, part
        self._index: np.ndarray | None = None
        self._blocks: dict[int, list[int]] = {}

    def inside(self, size: int, block: int) -> slice:
        """Return the run of stored indices in one of `blocks`."""
        assert self._index is not None  # `blocks` was asked before
        within = self._index[self._index // size == block]
        return slice(int(within[0]), int(within[-1]) + 1)

    def blocks(self, size: int, coordinate: np.ndarray | None) -> list[int]:
        """Return which chunks of a size hold it; the coordinate is as stored."""
        if self._index is None:
            axis, cube, part = self._part
            self._index = _stored_index(coordinate, axis, cube, part)
        if size not in self._blocks:
            self._blocks[size] = np.unique(self._index // size).tolist()
        return self._blocks[size]


def _stored_arrays(folder: Path, cube: xr.Dataset, names: list[str]) -> list[_Stored]:
    """Open the arrays that variables of a cube come from."""
    group = zarr.open_group(folder, mode="r")
    axes = {str(cube[axis].attrs.get("source_dimension", axis)): axis for axis in ("time", "y", "x")}
    stored: Any = group
    coordinates = {axis: np.asarray(stored[dim][:], "float64") for dim, axis in axes.items() if axis != "time"}
    found = []
    for name in names:
        array = group[cube[name].attrs["source_variable"]]
        if isinstance(array, zarr.Array):
            along = tuple(axes.get(dim) for dim in dimension_names(array))
            about = _about(cube, name) + _metadata(array)
            small = prod(array.shards or array.chunks) * array.dtype.itemsize <= _MOST_DECODED
            files = chunk_files(array) if small else None
            found.append(_Stored(array, folder / array.path, about, along, coordinates, files))
    return found


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
    for name in names:
        part = cube[name].isel({axis: window[str(axis)] for axis in cube[name].dims})
        yield _about(cube, name)
        yield np.ascontiguousarray(part.to_numpy()).tobytes()


def _metadata(array: zarr.Array) -> bytes:
    """Return how an array is encoded, without its length: a store that grows does not change its past."""
    about = {key: value for key, value in array.metadata.to_dict().items() if key not in _KEYS_OF_SIZE}
    return json.dumps(about, sort_keys=True, default=str).encode()


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
    stored = np.asarray(coordinate)
    geographic = cube["x"].attrs["units"] != "m"
    order = row_order(stored) if axis == "y" else column_order(stored, geographic)
    full = stored[order] if axis == "y" else longitudes(stored, geographic)[order]
    return order[np.abs(full[:, None] - wanted).argmin(axis=0)]
