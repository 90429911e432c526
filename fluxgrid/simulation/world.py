"""The synthetic world as a Cube of covariates in zarr, written tile by tile; the truth is not in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array
import numpy as np
import pandas as pd
import pyproj
import xarray as xr
import zarr

from fluxgrid.errors import ConfigError, OutputExists, itemise
from fluxgrid.files import atomic_folder
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.simulation.parameters import WORLD, WORLD_VERSION, world_digest
from fluxgrid.simulation.weather import FORCINGS, STATICS, simulate
from fluxgrid.variables import VARIABLES

CHUNK = (73, 32, 32)
"""Steps and cells of a chunk: a calendar year of a tile touches at most seven."""

# Five chunks of steps at once bound the memory at about 150 MB a thread, whatever the period.
_STEPS_AT_ONCE = 5 * CHUNK[0]
_THREADS = 2

Progress = Callable[[int, int], None]
"""Called with the number of blocks written and the number of all."""


def build_world(
    grid: Grid, start: str | pd.Timestamp, end: str | pd.Timestamp, path: Path | str, progress: Progress | None = None
) -> Path:
    """Write the daily covariates of the synthetic world for a grid.

    Parameters
    ----------
    grid : Grid
        Cells in the central US. A cell without any US land holds NaN, whatever the region it was asked for with.
    start, end : str or Timestamp
        First and last day, both included.
    path : path
        Where the zarr store shall be; it appears whole or not at all.
    progress : callable, optional
        Called after each block.

    Returns
    -------
    path : Path
        The finished store, a Cube with dims (time, y, x).

    Raises
    ------
    ConfigError
        If the period is empty or the grid leaves the world.
    OutputExists
        If there is something at ``path``.
    OutputError
        If the store cannot be written.
    """
    path, time = Path(path), pd.date_range(start, end, freq="D", name="time")
    if path.exists():
        message = f"{path} exists already. Choose another path, or remove it if it is no longer needed."
        raise OutputExists(message)
    check_world(grid, start, end)
    land = land_fraction(grid) > 0
    with atomic_folder(path) as folder:
        arrays = _create_store(folder, grid, time)
        blocks = list(_blocks(grid, len(time)))
        with ThreadPoolExecutor(_THREADS) as pool:
            written = pool.map(lambda block: _write_block(arrays, time, land, *block), blocks)
            for done, _ in enumerate(written, start=1):
                if progress is not None:
                    progress(done, len(blocks))
    return path


def check_world(grid: Grid, start: str | pd.Timestamp, end: str | pd.Timestamp) -> None:
    """Check that the synthetic world reaches over a grid and a period.

    Parameters
    ----------
    grid : Grid
    start, end : str or Timestamp
        First and last day, both included.

    Raises
    ------
    ConfigError
        If the period is empty, the grid holds no US land or leaves the world; all reasons at once.
    """
    land = land_fraction(grid) > 0
    problems = []
    if pd.Timestamp(start) > pd.Timestamp(end):
        problems.append(f"the period {start} to {end} is empty: the end must not come before the start")
    if not land.any():
        problems.append(f"no cell of the grid with bounds {tuple(np.round(grid.bounds, 3))} holds US land")
    elif not _inside(grid, land):
        west, east, south, north = WORLD.bounds
        problems.append(
            f"the grid leaves the world, which ends at longitudes {west}..{east}, latitudes {south}..{north}"
        )
    if problems:
        raise ConfigError(
            itemise("The synthetic world cannot be built; give your own cube or another region", problems)
        )


def _inside(grid: Grid, land: np.ndarray) -> bool:
    """Return whether all land cells lie in the part of the US the parameters were made for."""
    longitude, latitude = (values[land] for values in grid.lonlat())
    west, east, south, north = WORLD.bounds
    return bool(((longitude > west) & (longitude < east) & (latitude > south) & (latitude < north)).all())


def _blocks(grid: Grid, steps: int) -> Iterator[tuple[Tile, slice]]:
    """Yield tiles of one chunk of cells with runs of whole chunks of steps, so that no two writers share a chunk."""
    for tile in make_tiles(grid, CHUNK[1]):
        for first in range(0, steps, _STEPS_AT_ONCE):
            yield tile, slice(first, min(first + _STEPS_AT_ONCE, steps))


def _create_store(folder: Path, grid: Grid, time: pd.DatetimeIndex) -> dict[str, zarr.Array]:
    """Write the metadata of the store and return its arrays, still empty."""
    with warnings.catch_warnings():
        # Readers look for consolidated metadata and warn without it; zarr warns that they are not yet in its standard.
        warnings.simplefilter("ignore")
        world_template(grid, time[0], time[-1]).to_zarr(
            folder, mode="w", compute=False, zarr_format=3, encoding=_encoding()
        )
    return {name: zarr.open_array(folder / name, mode="r+") for name in (*FORCINGS, *STATICS)}


def _write_block(
    arrays: dict[str, zarr.Array], time: pd.DatetimeIndex, land: np.ndarray, tile: Tile, steps: slice
) -> None:
    """Simulate the land cells of a block and write them."""
    inside = land[tile.rows, tile.cols]
    if not inside.any():
        return  # the store's fill value is NaN already
    longitude, latitude = tile.grid.lonlat()
    variables = simulate(latitude[inside], longitude[inside], time[steps])
    for name in FORCINGS:
        arrays[name][steps, tile.rows, tile.cols] = _spread(variables[name], inside)
    if steps.start == 0:
        for name in STATICS:
            arrays[name][tile.rows, tile.cols] = _spread(variables[name], inside)


def _spread(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values (..., n) on the cells (..., y, x) they belong to, NaN elsewhere."""
    block = np.full((*values.shape[:-1], *inside.shape), np.nan, dtype=np.float32)
    block[..., inside] = values
    return block


def world_template(grid: Grid, start: str | pd.Timestamp, end: str | pd.Timestamp) -> xr.Dataset:
    """Return the cube `build_world` would write, with its metadata and without its values.

    Parameters
    ----------
    grid : Grid
    start, end : str or Timestamp
        First and last day, both included.

    Returns
    -------
    template : Dataset
        Lazy; its values mean nothing.
    """
    time = pd.date_range(start, end, freq="D", name="time")
    shapes = {name: ("time", "y", "x") for name in FORCINGS} | {name: ("y", "x") for name in STATICS}
    sizes = {"time": len(time), "y": grid.shape[0], "x": grid.shape[1]}
    parts = {"time": _STEPS_AT_ONCE, "y": -1, "x": -1}  # whole chunks of the store, however large the grid
    variables = {
        name: (
            dims,
            dask.array.empty([sizes[dim] for dim in dims], dtype=np.float32, chunks=[parts[dim] for dim in dims]),
            _attributes(name),
        )
        for name, dims in shapes.items()
    }
    axes = {"y": ("y", grid.y, _axis(grid, "y")), "x": ("x", grid.x, _axis(grid, "x"))}
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    coordinates = {"time": ("time", time, {"standard_name": "time", "axis": "T"}), **axes}
    return xr.Dataset(variables, {**coordinates, "spatial_ref": ((), np.int32(0), crs.to_cf())}, _about())


def _about() -> dict[str, str]:
    """Return the attributes of the store."""
    return {
        "Conventions": "CF-1.11",
        "title": "Daily weather and land of the synthetic fluxgrid world (not observations)",
        "source": f"fluxgrid synthetic world {WORLD_VERSION}, parameters {world_digest()}",
        "step": "daily",
        "day_definition": "local standard time",
    }


def _attributes(name: str) -> dict[str, object]:
    """Return the CF attributes of a variable."""
    variable = VARIABLES[name]
    attributes: dict[str, object] = {
        "units": variable.units,
        "long_name": variable.long_name,
        "grid_mapping": "spatial_ref",
    }
    if variable.standard_name:
        attributes["standard_name"] = variable.standard_name
    if variable.classes:
        attributes["flag_values"] = np.arange(len(variable.classes), dtype=np.float32)
        attributes["flag_meanings"] = " ".join(variable.classes)
    return attributes


def _axis(grid: Grid, axis: str) -> dict[str, str]:
    """Return the CF attributes of a horizontal coordinate."""
    if grid.geographic:
        name, units = ("latitude", "degrees_north") if axis == "y" else ("longitude", "degrees_east")
    else:
        name, units = f"projection_{axis}_coordinate", "m"
    return {"standard_name": name, "units": units, "axis": axis.upper()}


def _encoding() -> dict[str, dict[str, object]]:
    """Return chunks, fill values and the time unit."""
    encoding: dict[str, dict[str, object]] = {name: {"chunks": CHUNK, "_FillValue": np.nan} for name in FORCINGS}
    encoding |= {name: {"chunks": CHUNK[1:], "_FillValue": np.nan} for name in STATICS}
    encoding["time"] = {"units": "days since 2000-01-01", "calendar": "standard", "dtype": "int32"}
    return encoding
