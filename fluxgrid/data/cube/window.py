"""Read windows of a cube straight from its store: the values of `open_cube`, without a graph of tasks for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxgrid.data.cube.axes import column_order, row_order
from fluxgrid.data.cube.build import as_mapping, convert_field
from fluxgrid.data.cube.layout import Layout, survey
from fluxgrid.data.cube.stores import StorePath, open_raw
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import CubeError, itemise


@dataclass(frozen=True, eq=False)
class CubeReader:
    """A cube whose windows are read one variable at a time; safe to share between threads."""

    raw: xr.Dataset
    """As its maker has it."""
    layout: Layout
    """Where variables, rows and columns are in it."""
    order: dict[str, np.ndarray]
    """Position in the file of each row and column of the cube."""

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
        field = next(field for field in self.layout.fields if field.variable.name == name)
        array = self.raw[field.source].variable  # without coordinates, which would be read along
        axes = [axis for axis in ("time", "y", "x") if self.layout.dims[axis] in array.dims]
        window: dict[str, slice | np.ndarray] = {
            "time": steps,
            "y": self.order["y"][rows],
            "x": self.order["x"][cols],
        }
        picks = {axis: _pick(window[axis]) for axis in axes}
        taken: dict[Any, Any] = {dim: 0 for dim in array.dims if dim not in self.layout.dims.values()}
        taken |= {self.layout.dims[axis]: pick for axis, (pick, _) in picks.items()}
        part = array.isel(taken).transpose(*(self.layout.dims[axis] for axis in axes))
        try:
            # several files come through dask, and the caller may be one of its tasks: no scheduler inside another
            values = np.asarray(part.compute(scheduler="synchronous").values)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            message = (
                f"{name!r} of the cube cannot be read there ({type(error).__name__}: {error}): a chunk is truncated "
                "or damaged. `fluxgrid cube check` says which; copy or write it again"
            )
            raise CubeError(message) from error
        turned = values[tuple(slice(None, None, -1 if picks[axis][1] else 1) for axis in axes)]
        time = self.layout.time
        days = time[steps].days_in_month.to_numpy() if time is not None and "time" in axes else None
        return np.ascontiguousarray(convert_field(turned, field, days))


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
    return CubeReader(raw, layout, {"y": row_order(y), "x": column_order(x, layout.grid.geographic)})


def _pick(wanted: slice | np.ndarray) -> tuple[slice | np.ndarray, bool]:
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
