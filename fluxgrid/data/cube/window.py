"""Read windows of a cube straight from its store: the values of `open_cube`, without a graph of tasks for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from fluxgrid.data.chunk_files import UNREADABLE, ChunkFiles, chunk_files
from fluxgrid.data.cube.axes import column_order, row_order
from fluxgrid.data.cube.build import as_mapping, convert_field
from fluxgrid.data.cube.layout import Field, Layout, survey
from fluxgrid.data.cube.stores import StorePath, decode_window, is_packed, open_raw, zarr_folder
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import CubeError, itemise

_AXES = ("time", "y", "x")


@dataclass(frozen=True, eq=False)
class StoredVariable:
    """A variable of a zarr store on this machine whose chunk files are decoded without zarr."""

    files: ChunkFiles
    about: xr.Variable
    """As stored: dimensions, and attributes that say how its numbers are packed."""
    packed: bool
    """Whether they are."""


@dataclass(frozen=True, eq=False)
class CubeReader:
    """A cube whose windows are read one variable at a time; safe to share between threads."""

    raw: xr.Dataset
    """As its maker has it."""
    layout: Layout
    """Where variables, rows and columns are in it."""
    order: dict[str, np.ndarray]
    """Position in the file of each row and column of the cube."""
    stored: Mapping[str, StoredVariable]
    """By the name in the file, those variables of it that can be read so; zarr or NetCDF reads the others."""

    def read(self, name: str, steps: slice, rows: slice, cols: slice) -> np.ndarray:
        """Return a window of a variable, in our unit.

        Parameters
        ----------
        name : str
            Variable of the cube.
        steps, rows, cols : slice
            In the order of the cube.

        Returns
        -------
        values : ndarray, (T, h, w) or (h, w), float32

        Raises
        ------
        CubeError
            If a chunk cannot be read, naming the variable.
        """
        field = self._fields[name]
        here: dict[str, slice | np.ndarray] = {"time": steps, "y": self.order["y"][rows], "x": self.order["x"][cols]}
        stored = self.stored.get(field.source)
        dims = stored.about.dims if stored else self.raw[field.source].dims
        picks = {axis: _pick(here[axis]) for axis in _AXES if self.layout.dims[axis] in dims}
        try:
            values = self._from_files(field, stored, picks) if stored else None
            values = self._from_store(field, picks) if values is None else values
        except UNREADABLE as error:
            message = (
                f"{name!r} of the cube cannot be read there ({type(error).__name__}: {error}): a chunk is truncated "
                "or damaged. `fluxgrid cube check` says which; copy or write it again"
            )
            raise CubeError(message) from error
        days = self._days[steps] if self._days is not None and "time" in picks else None
        return np.ascontiguousarray(convert_field(values, field, days))

    def is_near(self, name: str) -> bool:
        """Return whether a variable is decoded from chunk files of this machine, without zarr or dask."""
        return self._fields[name].source in self.stored

    @cached_property
    def _fields(self) -> dict[str, Field]:
        """What each variable of the cube is in the file."""
        return {field.variable.name: field for field in self.layout.fields}

    @cached_property
    def _days(self) -> np.ndarray | None:
        """Days in the month of each step."""
        return None if self.layout.time is None else self.layout.time.days_in_month.to_numpy()

    def _from_files(self, field: Field, stored: StoredVariable, picks: Mapping[str, _Pick]) -> np.ndarray | None:
        """Read a window, (T, h, w) or (h, w), from chunk files; None where positions do not follow each other."""
        dims, names = stored.about.dims, self.layout.dims
        sizes = dict(zip(dims, stored.files.shape, strict=True))
        spans: dict[Any, slice] = dict.fromkeys(dims, slice(0, 1))  # the first of dimensions the cube lacks
        for axis, (pick, _) in picks.items():
            if not isinstance(pick, slice):
                return None
            begin, end, step = pick.indices(sizes[names[axis]])
            if step != 1:
                return None
            spans[names[axis]] = slice(begin, max(begin, end))
        ours = [names[axis] for axis in picks]
        values = np.empty([spans[dim].stop - spans[dim].start for dim in ours], stored.files.dtype)
        # filled in the order of the file, through a view of the order of the cube
        view = values[_turn(picks)].transpose([ours.index(dim) for dim in dims if dim in ours])
        view = view[tuple(slice(None) if dim in ours else np.newaxis for dim in dims)]
        stored.files.read([spans[dim] for dim in dims], view)
        return decode_window(field.source, stored.about, ours, values) if stored.packed else values

    def _from_store(self, field: Field, picks: Mapping[str, _Pick]) -> np.ndarray:
        """Read a window, (T, h, w) or (h, w), with xarray."""
        array = self.raw[field.source].variable  # without coordinates, which would be read along
        names = self.layout.dims
        taken: dict[Any, Any] = {dim: 0 for dim in array.dims if dim not in names.values()}
        taken |= {names[axis]: pick for axis, (pick, _) in picks.items()}
        part = array.isel(taken).transpose(*(names[axis] for axis in picks))
        # several files come through dask, and the caller may be one of its tasks: no scheduler inside another
        return np.asarray(part.compute(scheduler="synchronous").values)[_turn(picks)]


def open_reader(path: StorePath, mapping: CubeMapping | Path | str | None = None) -> CubeReader:
    """Open a cube for reading windows.

    Parameters
    ----------
    path, mapping
        As for `open_cube`.

    Returns
    -------
    reader : CubeReader

    Raises
    ------
    CubeError, ConfigError
        As `open_cube` does.
    """
    raw = open_raw(path, dask=False)
    layout = survey(raw, as_mapping(mapping))
    if layout.problems or layout.grid is None:
        header = f"{path} cannot be used as a cube (`fluxgrid cube check` suggests a mapping)"
        raise CubeError(itemise(header, layout.problems))
    y, x = (raw.indexes[layout.dims[axis]].to_numpy() for axis in "yx")
    order = {"y": row_order(y), "x": column_order(x, layout.grid.geographic)}
    return CubeReader(raw, layout, order, _stored_variables(path, {field.source for field in layout.fields}))


def _stored_variables(path: StorePath, names: set[str]) -> dict[str, StoredVariable]:
    """Return those variables of a zarr store on this machine that can be read without zarr."""
    folder = zarr_folder(path)
    if folder is None:
        return {}
    plain, group = open_raw(path, decode=False), zarr.open_group(folder, mode="r")
    found = {}
    for name in sorted(names):
        array = group[name]
        files = chunk_files(array) if isinstance(array, zarr.Array) else None
        if files is not None:
            about = plain[name].variable
            found[name] = StoredVariable(files, about, is_packed(about))
    return found


_Pick = tuple[slice | np.ndarray, bool]
"""Positions in the file, and whether they are in the wrong order."""


def _turn(picks: Mapping[str, _Pick]) -> tuple[slice, ...]:
    """Return the index that turns round the axes whose positions are in the wrong order."""
    return tuple(slice(None, None, -1 if turned else 1) for _, turned in picks.values())


def _pick(wanted: slice | np.ndarray) -> _Pick:
    """Return positions as a slice where they follow each other, and whether they then come in the wrong order."""
    if isinstance(wanted, slice) or not len(wanted):
        return wanted, False
    for step in (1, -1):
        if _follows(wanted, step):
            low, high = sorted((int(wanted[0]), int(wanted[-1])))
            return slice(low, high + 1), step < 0
    return wanted, False


def _follows(positions: Sequence[int] | np.ndarray, step: int) -> bool:
    """Return whether each position is so far from the one before."""
    return bool((np.diff(positions) == step).all())
