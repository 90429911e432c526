"""How fast this machine predicts, reads and writes, measured on one block and one tile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from zarr.codecs import BloscCodec

from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.data.inputs import Places
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.output.layers import Layers
from fluxgrid.output.netcdf import export_rate
from fluxgrid.output.store import create_store, tile_digest, write_tile
from fluxgrid.prediction import BLOCK, Predictor
from fluxgrid.prediction.blend import Blend
from fluxgrid.upscaling.estimate import SIDE, Rates
from fluxgrid.upscaling.tile import empty_arrays
from fluxgrid.variables import VARIABLES

_TRIAL = 32
"""Steps that tell how many can be measured."""
_MOST_SECONDS = 1.0
"""About what a measurement of a block may take."""


def measure_rates(predictor: Predictor, calendar: pd.DatetimeIndex, layers: Layers, blend: Blend | None) -> Rates:
    """Return what one thread of this machine predicts, reads and writes in a second, measured now.

    Reading and writing use a folder for temporary files and leave nothing there; what is read was just written, so the
    rate is that of decoding, and of the disk only where it is slower than that.

    Parameters
    ----------
    predictor : Predictor
    calendar : DatetimeIndex, (T,)
        Steps of a typical segment.
    layers : Layers
        What the map holds.
    blend : Blend, optional
        Weights of calibrated places in the cells of one block.

    Returns
    -------
    rates : Rates
    """
    read, write, export = _measure_files(calendar, layers)
    return Rates(measure_rate(predictor, calendar, blend), read, write, export)


def _measure_files(calendar: pd.DatetimeIndex, layers: Layers) -> tuple[float, float, float]:
    """Return bytes per second read from tile chunks, written to a map store and checked, and exported."""
    grid = Grid.from_bounds((-94, -94 + SIDE / 100, 41, 41 + SIDE / 100), 0.01)
    tile = make_tiles(grid, SIDE)[0]
    arrays = empty_arrays(len(calendar), np.zeros(grid.shape, np.int8), layers)
    weather = np.sin(np.arange(len(calendar)) / 58)[:, None, None] + np.random.default_rng(0).normal(
        0, 0.1, (len(calendar), *grid.shape)
    )
    values = np.round(weather * 1000).astype(np.float32) / np.float32(1000)
    for array in arrays.values():
        if array.dtype.kind == "f":
            array[...] = values[-1] if array.ndim == 2 else values
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "map.zarr"
        create_store(store, grid, calendar, layers)
        begun = time.perf_counter()
        write_tile(store, tile, arrays)
        tile_digest(store, tile)
        written = time.perf_counter() - begun
        cube = zarr.create_array(
            Path(folder) / "cube.zarr",
            shape=values.shape,
            chunks=tuple(min(*pair) for pair in zip(TILE_CHUNK, values.shape, strict=True)),
            dtype="f4",
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        )
        cube[...] = values
        read = min(_timed(lambda: cube[...]) for _ in range(3))
        exported = export_rate(values, Path(folder) / "map.nc")
    return values.nbytes / read, sum(a.nbytes for a in arrays.values()) / written, exported


def _timed(call: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure_rate(predictor: Predictor, calendar: pd.DatetimeIndex, blend: Blend | None = None) -> float:
    """Return the pixel-steps per second of one thread, from one block over a segment, or what of it a second allows.

    Parameters
    ----------
    predictor : Predictor
    calendar : DatetimeIndex, (T,)
        Steps of the segment.
    blend : Blend, optional
        Weights of calibrated places in the cells of one block: heads of places take time.

    Returns
    -------
    rate : float
        Pixel-steps of a full block per second, prediction only: reading and writing come on top.
    """
    torch.set_num_threads(1)
    spec = predictor.checkpoint.spec
    rng = np.random.default_rng(0)
    forcings = {
        name: rng.uniform(*_middle(name), (len(calendar), BLOCK)).astype(np.float32) for name in spec.inputs.forcings
    }
    statics = {name: rng.uniform(*_middle(name), BLOCK).astype(np.float32) for name in spec.inputs.static}
    statics |= {name: np.zeros(BLOCK, np.float32) for name in spec.inputs.classes}
    where = np.full(BLOCK, 42.0), np.full(BLOCK, -93.0)

    def seconds(steps: int) -> float:
        days = {name: values[:steps] for name, values in forcings.items()}
        places = Places(calendar[:steps], spec.step, where[0], days, statics, longitude=where[1])
        return _timed(lambda: predictor.predict(places, blend=blend))

    seconds(_TRIAL)  # pays for compiling
    trial = min(_TRIAL, len(calendar))
    steps = min(max(trial, int(trial * _MOST_SECONDS / seconds(trial))), len(calendar))
    return BLOCK * steps / min(seconds(steps) for _ in range(2))  # the first call pays for allocations


def _middle(name: str) -> tuple[float, float]:
    """Return plausible values of a variable."""
    low, high = VARIABLES[name].valid_range or (0.0, 1.0)
    return (low + (high - low) * 0.4, low + (high - low) * 0.6)
