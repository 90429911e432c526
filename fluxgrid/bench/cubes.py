"""Cubes of made-up values, in the layout that the project writes its own in."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from fluxgrid.data.cube.build import class_flags, coordinates
from fluxgrid.geo.grid import Grid
from fluxgrid.simulation.world import CHUNK
from fluxgrid.variables import VARIABLES

RESOLUTION = 0.01
"""Degrees: the cells of a benchmark lie within Iowa, so that all are land."""
CODEC = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
"""Compression of the project's cubes and maps; peers write with it too."""
_WEST, _SOUTH = -95.0, 41.2
_STEPS = 2**12
"""Parts of a variable's range that its values are rounded to, as measured ones are."""


def grid_of_cells(cells: tuple[int, int]) -> Grid:
    """Return a grid of so many rows and columns over Iowa."""
    height, width = cells
    bounds = (_WEST, _WEST + width * RESOLUTION, _SOUTH, _SOUTH + height * RESOLUTION)
    return Grid.from_bounds(bounds, RESOLUTION)


def box_of(grid: Grid, cells: tuple[int, int]) -> str:
    """Return the box ``W,S,E,N`` around the first rows and columns of a grid, a little inside them."""
    west, east, south, north = grid.crop(slice(0, cells[0]), slice(0, cells[1])).bounds
    inset = 0.05 * RESOLUTION
    return ",".join(f"{edge:.5f}" for edge in (west + inset, south + inset, east - inset, north - inset))


def middle(name: str) -> tuple[float, float]:
    """Return the mean of a variable's made-up values and the largest distance from it, in its unit."""
    low, high = VARIABLES[name].valid_range or (0.0, 1.0)
    return (low + high) / 2, (high - low) / 10


def season_of(name: str, day: np.ndarray) -> np.ndarray:
    """Return the season of a variable, -1 to 1, on days of the year (T,); each variable has its own peak."""
    peak = zlib.crc32(name.encode()) % 365
    return np.cos(2 * np.pi * (day - peak) / 365.25).astype(np.float32)


def write_bench_cube(
    path: Path, names: Sequence[str], cells: tuple[int, int], first: str, last: str, seed: int = 0
) -> None:
    """Write a cube of plausible values: a season and noise, within the range of each variable.

    Parameters
    ----------
    path : Path
        Must not exist.
    names : sequence of str
        Forcings, statics and classes of the table of variables.
    cells : (rows, columns)
    first, last : str
        Days, both included.
    seed : int
        Same seed, same values.
    """
    rng = np.random.default_rng(seed)
    days, grid = pd.date_range(first, last, freq="D", name="time"), grid_of_cells(cells)
    for number, name in enumerate(names):
        values = _values(name, days, grid.shape, rng)
        part = _dataset(name, values, days, grid)
        encoding: dict[str, Any] = {name: {"chunks": _chunks(values.shape), "compressors": [CODEC]}}
        if number == 0:
            encoding["time"] = {"units": "days since 2000-01-01", "dtype": "int32"}
        mode: Any = "a" if number else "w-"
        part.to_zarr(path, mode=mode, zarr_format=3, consolidated=False, encoding=encoding)


def write_rate(path: Path, cells: tuple[int, int], days: int) -> float:
    """Return the bytes of float32 that one variable is written with in a second, in the layout of a cube."""
    time_ = pd.date_range("2019-01-01", periods=days, name="time")
    values = _values("temperature_2m", time_, cells, np.random.default_rng(0))
    begun = time.perf_counter()
    zarr.create_array(path, data=values, chunks=_chunks(values.shape), compressors=[CODEC])
    return values.nbytes / (time.perf_counter() - begun)


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunks of the project's cubes, cut to a small cube."""
    return tuple(min(pair) for pair in zip(CHUNK[-len(shape) :], shape, strict=True))


def _values(name: str, days: pd.DatetimeIndex, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return the values of a variable, float32."""
    variable = VARIABLES[name]
    if variable.role == "class":
        return rng.integers(0, len(variable.classes), shape).astype(np.float32)
    centre, span = (np.float32(number) for number in middle(name))
    if variable.role == "static":
        return centre + span * (2 * rng.random(shape, np.float32) - 1)
    season = season_of(name, days.day_of_year.to_numpy())
    values = rng.random((len(days), *shape), np.float32)  # in place from here on: a cube may be large
    values -= np.float32(0.5)
    values *= np.float32(0.6)
    values += np.float32(0.7) * season[:, None, None]
    np.round(values * np.float32(_STEPS), out=values)
    values *= span / np.float32(_STEPS)
    values += centre
    return values


def _dataset(name: str, values: np.ndarray, days: pd.DatetimeIndex, grid: Grid) -> xr.Dataset:
    """Return one variable as a cube."""
    variable = VARIABLES[name]
    about = {"units": variable.units, "long_name": variable.long_name, "grid_mapping": "spatial_ref"}
    flags = class_flags(variable.classes) if variable.role == "class" else {}
    part = xr.Dataset({name: (("time", "y", "x")[-values.ndim :], values, flags)}, coordinates(days, grid))
    part.attrs = {
        "title": "Made-up covariates of a benchmark",
        "source": "fluxgrid bench",
        "step": "daily",
        "day_definition": "UTC",
        "Conventions": "CF-1.11",
    }
    part = part.rio.write_crs("EPSG:4326")
    part[name].attrs = about | flags
    part[name].encoding = {}
    return part
