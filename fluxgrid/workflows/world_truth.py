"""The truth of the reference world on the cells of a grid, tile by tile, a few tiles ahead of whoever reads it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from fluxgrid.data.steps import Step, days_per_step, step_ends
from fluxgrid.evaluation.map_places import main_cover
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.simulation import WORLD_VERSION, places_at, true_fluxes, world_digest
from fluxgrid.simulation.parameters import EXTENT

_SIDE, _LONG_SIDE = 32, 16  # cells of a tile's side: about a thousand places, fewer where there are decades of days
_LONG_DAYS = 1500
_THREADS = min(os.cpu_count() or 1, 8)

Item = TypeVar("Item")
Result = TypeVar("Result")


def world_text() -> str:
    """Return the name of the reference world, for titles: its version and the digest of its parameters."""
    return f"reference world {WORLD_VERSION}, parameters {world_digest()}"


def in_world(grid: Grid) -> np.ndarray:
    """Return which cells of a grid lie in the part of the country the world was made for, bool (y, x)."""
    longitude, latitude = grid.lonlat()
    west, east, south, north = EXTENT.bounds
    return (longitude > west) & (longitude < east) & (latitude > south) & (latitude < north)


@dataclass(frozen=True, eq=False)
class TileTruth:
    """The truth of some cells of a tile."""

    cells: np.ndarray
    """Which cells of the tile, bool (h, w); those that are True are the n places, row by row."""
    cover: np.ndarray
    """Number of the main cover, (n,)."""
    fluxes: dict[str, np.ndarray]
    """gpp, reco, nee, ra and rh, g m-2 d-1, (time, n)."""


def tile_truth(tile: Tile, cells: np.ndarray, time: pd.DatetimeIndex, step: Step) -> TileTruth:
    """Return the truth of some cells of a tile.

    Parameters
    ----------
    tile : Tile
    cells : ndarray of bool, (h, w)
        Which cells; at least one.
    time : DatetimeIndex, (time,)
        Starts of the steps, without gaps.
    step : {"daily", "monthly"}
        Monthly truth is the mean of the days of each month.

    Returns
    -------
    truth : TileTruth
    """
    longitude, latitude = (degrees[cells] for degrees in tile.grid.lonlat())
    last = step_ends(time[-1:], step)[0] - pd.Timedelta(days=1)
    days = pd.date_range(time[0], last, freq="D", name="time")
    fluxes = true_fluxes(latitude, longitude, days)
    if step == "monthly":
        starts, length = days.get_indexer(time), days_per_step(time, step)[:, None]
        fluxes = {
            flux: np.add.reduceat(values, starts, axis=0, dtype=np.float64) / length for flux, values in fluxes.items()
        }
    return TileTruth(cells, main_cover(places_at(latitude, longitude).shares), fluxes)


def truth_tiles(grid: Grid, wanted: np.ndarray, time: pd.DatetimeIndex, step: Step) -> Iterator[tuple[Tile, TileTruth]]:
    """Yield the truth of the cells wanted, tile by tile, in the order of the tiles.

    Parameters
    ----------
    grid : Grid
    wanted : ndarray of bool, (y, x)
        Tiles without any of these cells are passed over.
    time : DatetimeIndex, (time,)
        Starts of the steps, without gaps.
    step : {"daily", "monthly"}

    Yields
    ------
    tile : Tile
    truth : TileTruth
    """
    busy = busy_tiles(grid, wanted, time, step)
    yield from _ahead(lambda tile: tile_truth(tile, wanted[tile.rows, tile.cols], time, step), busy)


def busy_tiles(grid: Grid, wanted: np.ndarray, time: pd.DatetimeIndex, step: Step) -> list[Tile]:
    """Return the tiles that hold wanted cells; arguments as for `truth_tiles`."""
    side = _LONG_SIDE if days_per_step(time, step).sum() > _LONG_DAYS else _SIDE
    return [tile for tile in make_tiles(grid, side) if wanted[tile.rows, tile.cols].any()]


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield items with their results in order, computed on threads and only so far ahead that memory is bounded."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > _THREADS:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # an error or Control-C: do not compute what nobody will read
