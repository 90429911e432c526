"""The reference world in zarr, written tile by tile: a Cube of covariates, and beside it, if wanted, the truth."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array
import numpy as np
import pandas as pd
import pyproj
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from fluxgrid.data.chunk_files import chunk_files
from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.errors import ConfigError, OutputExists, itemise
from fluxgrid.files import atomic_folder
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.provenance import digest_arrays
from fluxgrid.simulation.covariates import FORCINGS, STATICS, TRUTH, check_period, variables_of_year, years_of
from fluxgrid.simulation.land import places_at
from fluxgrid.simulation.parameters import EXTENT, WORLD_SOURCE, WORLD_VERSION, world_digest
from fluxgrid.variables import VARIABLES

CHUNK = TILE_CHUNK
"""Steps and cells of a chunk."""

# A year of a tile with all its variables, and the one before, take about 200 MB a thread, whatever the period.
_THREADS = min(os.cpu_count() or 1, 8)  # more than cores would push each other's years out of the caches

_COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")  # reads two to three times as fast as zstd

Progress = Callable[[int, int], None]
"""Called with the number of blocks written and the number of all."""


def build_world(
    grid: Grid,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp,
    path: Path | str,
    names: Iterable[str] | None = None,
    progress: Progress | None = None,
    cells: np.ndarray | None = None,
) -> Path:
    """Write the daily covariates of the reference world for a grid.

    Parameters
    ----------
    grid : Grid
        In the central US. A cell without any US land holds NaN, whatever the region it was asked for with.
    start, end : str or Timestamp
        First and last day, both included.
    path : path
        Where the zarr store shall be; it appears whole or not at all.
    names : iterable of str, optional
        Which of `FORCINGS` and `STATICS`; all by default. Satellite variables need the process model, which takes
        longer the further the period is from the world's first year.
    progress : callable, optional
        Called after each tile.
    cells : ndarray of bool, (y, x), optional
        Which cells are wanted, such as those of a region; the others hold NaN. All by default.

    Returns
    -------
    path : Path
        The finished store, a Cube with dims (time, y, x).

    Raises
    ------
    ConfigError
        If the period is empty, a name is unknown or the grid leaves the world.
    OutputExists
        If there is something at ``path``.
    OutputError
        If the store cannot be written.
    """
    template = world_template(grid, start, end, names, cells)  # never of the truth
    return _write_store(grid, template, Path(path), progress, cells)


def build_truth(
    grid: Grid,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp,
    path: Path | str,
    progress: Progress | None = None,
    cells: np.ndarray | None = None,
) -> Path:
    """Write the true daily fluxes of the reference world for a grid: what no model may see.

    Parameters
    ----------
    grid, start, end, path, progress, cells
        As for `build_world`.

    Returns
    -------
    path : Path
        A store with ``gpp``, ``reco``, ``nee``, ``ra`` and ``rh``, (time, y, x), g C m-2 d-1.

    Raises
    ------
    ConfigError, OutputExists, OutputError
        As for `build_world`.
    """
    check_world(grid, start, end, TRUTH, cells)
    template = _template(grid, start, end, TRUTH, cells)
    template.attrs["title"] = "True daily carbon fluxes of the synthetic fluxgrid world (not observations)"
    return _write_store(grid, template, Path(path), progress, cells)


def _write_store(
    grid: Grid, template: xr.Dataset, path: Path, progress: Progress | None, cells: np.ndarray | None
) -> Path:
    """Write all variables of a template, tile by tile."""
    if path.exists():
        message = f"{path} exists already. Choose another path, or remove it if it is no longer needed."
        raise OutputExists(message)
    land = _wanted(grid, cells)
    with atomic_folder(path) as folder:
        arrays = _create_store(folder, template)
        tiles, time = make_tiles(grid, CHUNK[1]), pd.DatetimeIndex(template.indexes["time"])
        with ThreadPoolExecutor(_THREADS) as pool:
            written = pool.map(lambda tile: _write_tile(arrays, time, land, tile), tiles)
            for done, _ in enumerate(written, start=1):
                if progress is not None:
                    progress(done, len(tiles))
    return path


def check_world(
    grid: Grid,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp,
    names: Iterable[str] | None = None,
    cells: np.ndarray | None = None,
) -> None:
    """Check that the reference world reaches over a grid and a period.

    Parameters
    ----------
    grid : Grid
    start, end : str or Timestamp
        First and last day, both included.
    names : iterable of str, optional
        Variables asked for; all covariates by default.
    cells : ndarray of bool, (y, x), optional
        Which cells are wanted; all by default.

    Raises
    ------
    ConfigError
        If the period is empty, a variable is unknown or does not reach back so far, the grid holds no US land or
        leaves the world; all reasons at once.
    """
    wanted = tuple(names) if names is not None else (*FORCINGS, *STATICS)
    land = _wanted(grid, cells)
    problems = list(_unknown(wanted))
    problems += check_period(pd.Timestamp(start), wanted)
    if pd.Timestamp(start) > pd.Timestamp(end):
        problems.append(f"the period {start} to {end} is empty: the end must not come before the start")
    if not land.any():
        problems.append(f"no cell of the grid with bounds {tuple(np.round(grid.bounds, 3))} holds US land")
    elif not _inside(grid, land):
        west, east, south, north = EXTENT.bounds
        problems.append(
            f"the grid leaves the world, which ends at longitudes {west}..{east}, latitudes {south}..{north}"
        )
    if problems:
        raise ConfigError(
            itemise("The synthetic world cannot be built; give your own cube or another region", problems)
        )


def _unknown(names: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with names; covariates and truth do not go into one store, where a model could see both."""
    known = (*FORCINGS, *STATICS)
    if names and set(names) <= set(TRUTH):
        return
    if not names:
        yield f"no variable is asked for; there are {', '.join(known)}"
    for name in sorted(set(names) - set(known)):
        yield f"the world has no variable {name!r}; it has {', '.join(known)}"


def _wanted(grid: Grid, cells: np.ndarray | None) -> np.ndarray:
    """Return the cells that hold US land and are wanted, (y, x)."""
    land = land_fraction(grid) > 0
    return land if cells is None else land & cells


def _inside(grid: Grid, land: np.ndarray) -> bool:
    """Return whether all land cells lie in the part of the US the world was made for."""
    longitude, latitude = (values[land] for values in grid.lonlat())
    west, east, south, north = EXTENT.bounds
    return bool(((longitude > west) & (longitude < east) & (latitude > south) & (latitude < north)).all())


def _create_store(folder: Path, template: xr.Dataset) -> dict[str, zarr.Array]:
    """Write the metadata of the store and return its arrays, still empty."""
    with warnings.catch_warnings():
        # Readers look for consolidated metadata and warn without it; zarr warns that they are not yet in its standard.
        warnings.simplefilter("ignore")
        template.to_zarr(folder, mode="w", compute=False, zarr_format=3, encoding=_encoding(template))
    return {str(name): zarr.open_array(folder / str(name), mode="r+") for name in template.data_vars}


def _write_tile(arrays: dict[str, zarr.Array], time: pd.DatetimeIndex, land: np.ndarray, tile: Tile) -> None:
    """Simulate the land cells of a tile, year by year, and write them."""
    inside = land[tile.rows, tile.cols]
    if not inside.any():
        return  # the store's fill value is NaN already
    longitude, latitude = tile.grid.lonlat()
    places = places_at(latitude[inside], longitude[inside])
    for name in arrays.keys() & set(STATICS):
        _write_chunks(arrays[name], 0, tile, places.statics[name][:, None], inside)
    varying = [name for name in arrays if name not in STATICS]
    waiting: dict[str, np.ndarray] = {}
    first = 0
    years = years_of(places, time[0].year, time[-1].year, varying) if varying else ()
    for year in years:
        days = slice(*year.time.slice_locs(time[0], time[-1]))
        for name, values in variables_of_year(places, year, varying).items():
            fresh = values[:, days]
            waiting[name] = np.concatenate([waiting[name], fresh], axis=1) if name in waiting else fresh
        first = _write_whole_chunks(arrays, waiting, first, len(time), tile, inside)


def _write_whole_chunks(
    arrays: dict[str, zarr.Array],
    waiting: dict[str, np.ndarray],
    first: int,
    steps: int,
    tile: Tile,
    inside: np.ndarray,
) -> int:
    """Write what fills whole chunks of time, keep the rest waiting, and return the first step not yet written."""
    reached = first + next(iter(waiting.values())).shape[1]
    end = reached if reached == steps else reached - reached % CHUNK[0]
    for name, values in waiting.items():
        if end > first:
            _write_chunks(arrays[name], first, tile, values[:, : end - first], inside)
        waiting[name] = values[:, end - first :]
    return max(end, first)


def _write_chunks(array: zarr.Array, first: int, tile: Tile, values: np.ndarray, inside: np.ndarray) -> None:
    """Write values (n, time) from a step on into the chunk files of a tile, in this thread."""
    files = chunk_files(array)
    assert files is not None  # it is encoded as `world_template` says
    block = np.full((values.shape[1], *inside.shape), np.nan, dtype=np.float32)
    block[:, inside] = values.T
    steps = [slice(first, first + len(block))][: array.ndim - 2]
    files.write((*steps, tile.rows, tile.cols), block[(...,) if steps else 0])


def world_template(
    grid: Grid,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp,
    names: Iterable[str] | None = None,
    cells: np.ndarray | None = None,
) -> xr.Dataset:
    """Return the cube `build_world` would write, with its metadata and without its values.

    Parameters
    ----------
    grid : Grid
    start, end : str or Timestamp
        First and last day, both included.
    names : iterable of str, optional
        Which of `FORCINGS` and `STATICS`; all by default.
    cells : ndarray of bool, (y, x), optional
        Which cells are wanted; all by default. The attribute ``cells`` tells two choices apart.

    Returns
    -------
    template : Dataset
        Lazy; its values mean nothing.

    Raises
    ------
    ConfigError
        See `check_world`.
    """
    wanted = tuple(names) if names is not None else (*FORCINGS, *STATICS)
    if set(wanted) & set(TRUTH):
        message = (
            f"{', '.join(wanted)}: the world has no variable a model may see among the true fluxes; see build_truth."
        )
        raise ConfigError(message)
    check_world(grid, start, end, wanted, cells)
    return _template(grid, start, end, wanted, cells)


def _template(
    grid: Grid,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp,
    names: Iterable[str],
    cells: np.ndarray | None,
) -> xr.Dataset:
    """Return a store without values."""
    time = pd.date_range(pd.Timestamp(start).normalize(), pd.Timestamp(end).normalize(), freq="D", name="time")
    shapes = {name: ("y", "x") if name in STATICS else ("time", "y", "x") for name in names}
    sizes = {"time": len(time), "y": grid.shape[0], "x": grid.shape[1]}
    parts = {"time": 5 * CHUNK[0], "y": -1, "x": -1}  # whole chunks of the store, however large the grid
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
    return xr.Dataset(variables, {**coordinates, "spatial_ref": ((), np.int32(0), crs.to_cf())}, _about(cells))


def _about(cells: np.ndarray | None) -> dict[str, str]:
    """Return the attributes of the store."""
    return {
        "Conventions": "CF-1.11",
        "title": "Daily covariates of the synthetic fluxgrid world (not observations)",
        "source": f"{WORLD_SOURCE} {WORLD_VERSION}, parameters {world_digest()}",
        "step": "daily",
        "day_definition": "local standard time",
        "cells": "all" if cells is None else digest_arrays({"cells": cells}),
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


def _encoding(template: xr.Dataset) -> dict[str, dict[str, object]]:
    """Return chunks, fill values and the time unit."""
    encoding: dict[str, dict[str, object]] = {
        str(name): {"chunks": CHUNK[-values.ndim :], "_FillValue": np.nan, "compressors": [_COMPRESSOR]}
        for name, values in template.data_vars.items()
    }
    encoding["time"] = {"units": "days since 2000-01-01", "calendar": "standard", "dtype": "int32"}
    return encoding
