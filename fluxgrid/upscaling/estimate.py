"""What a map will take: cells, bytes, memory, disk and time, from its size and the rates of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely

from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.data.records import Segment
from fluxgrid.data.steps import Step
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.output.layers import Layers
from fluxgrid.output.netcdf import LARGEST_FILE_BYTES
from fluxgrid.prediction import BLOCK
from fluxgrid.upscaling.cover import land_share, region_share
from fluxgrid.upscaling.plan import Plan

EXACT_CELLS = 4_000_000
"""Grids up to this size are counted cell by cell."""

_COARSE_CELLS = 1_000_000  # of larger grids at most so many blocks are looked at
_COMPRESSED = 0.8  # of float32 with lz4, measured on daily weather with three decimals
_STATES_BOX = shapely.box(-180, 17, -66, 72)  # where the land of the United States is known
_PASSES = 3  # of one thread over the finished store: totals, picture, border step
GPU = {
    "measured": "measured on the GPU of this machine, which computes one block at a time",
    "unused": "not measured: the map is to be made on the CPU",
    "absent": "not measured: there is none here",
}
"""What is known of GPUs."""

DAYS = {"daily": 1.0, "monthly": 30.4375}
"""Days of a step."""


@dataclass(frozen=True, eq=False)
class Size:
    """How large a map is, without any cell of it."""

    step: Step
    layers: Layers
    cells: int
    """To predict."""
    error: float
    """Largest share by which `cells` may be off; 0 where they were counted one by one."""
    tiles: int
    """That hold a cell to predict."""
    padded: int
    """Cells of those tiles: blocks are predicted whole."""
    tile: int
    """Cells of the largest tile."""
    area: int
    """Cells of the whole grid."""
    segments: tuple[Segment, ...]
    """Spin-up and years."""
    reading: float = 1.0
    """Bytes decoded for each byte of input needed."""
    notes: tuple[str, ...] = ()
    """What a user should know of the count."""

    @property
    def steps(self) -> int:
        """Steps delivered."""
        return sum(_length(s) for s in self.segments if s.scored)

    @property
    def spin_up(self) -> int:
        """Steps predicted before."""
        return sum(_length(s) for s in self.segments if not s.scored)

    @property
    def longest(self) -> int:
        """Steps of the longest segment."""
        return max(_length(s) for s in self.segments)

    @property
    def years(self) -> int:
        """Years delivered."""
        return sum(s.scored for s in self.segments)

    @property
    def files(self) -> int:
        """NetCDF files: of years, or of their months where a year is too large; at least one."""
        large = self.longest * self.area * self.layers.step_bytes > LARGEST_FILE_BYTES
        return max(1, self.years * (12 if large else 1))


def _length(segment: Segment) -> int:
    """Return the number of steps."""
    return segment.steps.stop - segment.steps.start


def size_of(plan: Plan, reading: float = 1.0) -> Size:
    """Return the size of a plan, counted cell by cell.

    Parameters
    ----------
    plan : Plan
    reading : float
        Bytes its cube decodes for each byte needed.

    Returns
    -------
    size : Size
    """
    areas = [t.shape[0] * t.shape[1] for t in plan.busy_tiles]
    return Size(
        plan.step,
        plan.layers,
        int(plan.wanted.sum()),
        0.0,
        len(areas),
        sum(areas),
        max(areas, default=0),
        plan.grid.shape[0] * plan.grid.shape[1],
        plan.segments,
        reading,
    )


def size_of_region(
    region: Region,
    resolution: float,
    metres: bool,
    tile: int,
    step: Step,
    segments: tuple[Segment, ...],
    layers: Layers,
) -> Size:
    """Return the size of a map of a region, however large, without holding its cells.

    Grids up to `EXACT_CELLS` are counted. Of larger ones the share of each block of tile x tile cells that is inside
    counts, and the border of the region adds half of the cells it passes through; that half is the stated error.

    Parameters
    ----------
    region : Region
    resolution : float
        Side of a cell, degrees, or metres on an equal-area projection.
    metres : bool
        Which of the two.
    tile : int
        Side of a tile, cells.
    step : Step
    segments : tuple of Segment
    layers : Layers

    Returns
    -------
    size : Size
    """
    beyond = not region.states and not shapely.within(region.polygon, _STATES_BOX)
    note = (
        f"{region.title} reaches beyond the United States, where no coast is known here: every cell counts, the sea "
        "too. A map that holds US land would flag all else as water."
    )
    crs = _equal_area(region) if metres else "EPSG:4326"
    grid = Grid.from_bounds(region.bounds, resolution, crs, "EPSG:4326" if metres else None)
    area = grid.shape[0] * grid.shape[1]
    counted = _count(region, grid, tile, beyond) if area <= EXACT_CELLS else _rough(region, grid, tile, beyond)
    cells, error, tiles, padded = counted
    side = min(tile, grid.shape[0]) * min(tile, grid.shape[1])
    notes = (note,) if beyond else ()
    return Size(step, layers, cells, error, tiles, padded, side, area, segments, notes=notes)


def _equal_area(region: Region) -> str:
    """Return a projection on which a cell is as large everywhere: of the United States, or of the globe."""
    inside = region.bounds[0] > -130 and region.bounds[1] < -60 and region.bounds[2] > 20
    return "EPSG:5070" if inside else "EPSG:6933"


def _shares(region: Region, grid: Grid, beyond: bool) -> np.ndarray:
    """Return how much of each cell is to be predicted, (y, x), 0-1."""
    share = region_share(region, grid)
    # the outlines of states are their land
    return share if beyond or region.states else np.minimum(share, land_share(grid))


def _count(region: Region, grid: Grid, tile: int, beyond: bool) -> tuple[int, float, int, int]:
    """Count cells, tiles and cells of these tiles one by one."""
    wanted = _shares(region, grid, beyond) > 0
    busy = [t for t in make_tiles(grid, tile) if wanted[t.rows, t.cols].any()]
    return int(wanted.sum()), 0.0, len(busy), sum(t.shape[0] * t.shape[1] for t in busy)


def _rough(region: Region, grid: Grid, tile: int, beyond: bool) -> tuple[int, float, int, int]:
    """Estimate cells, their error, tiles and cells of these tiles from blocks of whole tiles."""
    times = 1
    while grid.shape[0] * grid.shape[1] / (times * tile) ** 2 > _COARSE_CELLS:
        times += 1
    side = times * tile
    west, _, _, north = grid.bounds
    rows, cols = (-(-n // side) for n in grid.shape)
    size = grid.resolution[0] * side
    # a block may reach beyond a pole: cut to what is there, and weigh what is left
    bounds = (west, west + cols * size, north - rows * size, north)
    shares = _block_shares(region, bounds, (rows, cols), grid, beyond)
    inside = float(shares.sum()) * side**2
    border = _border_cells(region, grid)
    cells = round(inside + border / 2)
    tiles = int((shares > 0).sum()) * times**2
    padded = min(tiles * tile**2, grid.shape[0] * grid.shape[1])
    return cells, border / 2 / cells, tiles, padded


def _block_shares(
    region: Region, bounds: tuple[float, ...], shape: tuple[int, int], grid: Grid, beyond: bool
) -> np.ndarray:
    """Return the share of each block that is to be predicted, (rows, cols)."""
    from fluxgrid.geo import boundaries
    from fluxgrid.geo.shares import cell_shares

    crs = None if grid.geographic else grid.crs.proj
    box = (bounds[0], bounds[1], bounds[2], bounds[3])
    outline = gpd.GeoSeries([region.polygon], crs="EPSG:4326")
    share = np.asarray(cell_shares(outline, box, shape, crs).toarray()).reshape(shape)
    if beyond or region.states:
        return share
    land = np.asarray(cell_shares(boundaries.states().geometry, box, shape, crs).sum(axis=0)).reshape(shape)
    return np.minimum(share, land) if land.any() else share


def _border_cells(region: Region, grid: Grid) -> float:
    """Estimate how many cells the border of a region passes through, from its length in cells."""
    outline = region.polygon
    if grid.geographic:
        size = np.array(grid.resolution)
    else:
        there = pyproj.Transformer.from_crs("EPSG:4326", grid.crs.proj, always_xy=True)
        outline = shapely.transform(outline, lambda p: np.column_stack(there.transform(p[:, 0], p[:, 1])))
        size = np.array(grid.resolution)
    unit = shapely.transform(outline, lambda p: p / size)
    if shapely.equals(unit, shapely.box(*unit.bounds)) and np.allclose(np.round(unit.bounds), unit.bounds, atol=1e-6):
        return 0.0  # a box on the lines of the grid cuts no cell
    # a line of random direction passes 4 / pi cells for each side length; coasts finer than a cell do not count
    return float(4 / np.pi * shapely.length(shapely.boundary(shapely.simplify(unit, 1.0))))


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second, one thread, measured just before."""

    predict: float
    """Pixel-steps."""
    read: float
    """Bytes of input, decoded."""
    write: float
    """Bytes of the map store, written and read back."""
    export: float
    """Bytes of NetCDF before compression."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    tiles: int
    cells: int
    cells_error: float
    """Share by which `cells`, and all that follows from them, may be off."""
    years: int
    pixel_days: int
    """Delivered pixel-steps in days."""
    spin_up_pixel_days: int
    bytes_read: int
    """Of inputs, decoded (float32)."""
    bytes_read_compressed: int
    """About what leaves the disk for them: an estimate, at 0.8 of the decoded bytes."""
    bytes_written: int
    """Of map store, states and NetCDF, before compression."""
    memory_bytes: int
    disk_bytes: int
    predict_seconds: float
    read_seconds: float
    write_seconds: float
    seconds: float
    """All of it, on the lanes of the run; files are written by fewer, and the passes over the map by one."""
    lanes: int
    """Tiles at the same time."""
    seconds_by_lanes: dict[int, float]
    """The same on other numbers of lanes, each as fast as one thread here, with a planner like this machine."""
    gpu: str
    """What is known of GPUs."""
    rates: Rates


def estimate(
    size: Size,
    rates: Rates,
    lanes: int,
    inputs: tuple[int, int],
    state: int,
    width: int,
    gpu: Literal["measured", "unused", "absent"] = "absent",
    processes: int = 1,
    cores: int = 1,
) -> Estimate:
    """Return tiles, pixel-days, bytes, memory, disk and time of a map.

    Parameters
    ----------
    size : Size
    rates : Rates
        Measured on this machine.
    lanes : int
        Threads of all workers together.
    inputs : (int, int)
        Input variables with steps, and without.
    state : int
        Columns of the model's state.
    width : int
        Columns of its widest layer.
    gpu : {"measured", "unused", "absent"}
        Whether `rates` were measured on one: its blocks are computed one after the other, whatever the lanes.
    processes : int
        That share the lanes.
    cores : int
        Of this machine, which writes the NetCDF files.

    Returns
    -------
    estimate : Estimate
    """
    per_cell = size.layers.step_bytes
    once = sum(dtype.itemsize for dtype in size.layers.constant.values())
    steps, units = size.steps + size.spin_up, len(size.segments)
    needed = size.padded * 4 * (inputs[0] * steps + inputs[1] * units)
    read = int(needed * size.reading)
    stored = size.padded * (size.steps * per_cell + size.years * once)
    states = size.padded * state * 4 * units
    # libraries and what a run adds to them; per lane a tile read (twice for a moment) and one written, and one block
    # inside a recurrent network (measured of KGML-ag and GRU-128: 7 layers wide)
    block = BLOCK * size.longest * 4 * 7 * width
    unit = size.tile * size.longest * 4 * sum(inputs)
    held = 800_000_000 * processes + lanes * (2 * unit + size.tile * size.longest * 3 * per_cell + block)
    days = DAYS[size.step]

    def spend(lanes: int) -> tuple[float, float, float]:
        """Return the seconds of predicting, reading and writing."""
        export = stored / rates.export + stored / rates.read
        return (
            size.padded * steps / rates.predict / (1 if gpu == "measured" else lanes),
            read / rates.read / lanes,
            (stored + states) / rates.write / lanes
            + export / min(lanes, cores, size.files)
            + _PASSES * stored / rates.read,
        )

    predicting, reading, writing = spend(lanes)
    return Estimate(
        tiles=size.tiles,
        cells=size.cells,
        cells_error=size.error,
        years=size.years,
        pixel_days=int(size.cells * size.steps * days),
        spin_up_pixel_days=int(size.cells * size.spin_up * days),
        bytes_read=read,
        bytes_read_compressed=int(read * _COMPRESSED),
        bytes_written=2 * stored + states,
        memory_bytes=held,
        disk_bytes=2 * size.cells * (size.steps * per_cell + size.years * once)
        + size.cells * state * 4 * units
        + size.area * 16,
        predict_seconds=predicting,
        read_seconds=reading,
        write_seconds=writing,
        seconds=predicting + reading + writing,
        lanes=lanes,
        seconds_by_lanes={count: sum(spend(count)) for count in sorted({1, lanes, 16, 128})},
        gpu=GPU[gpu],
        rates=rates,
    )


def typical_calendar(time: pd.DatetimeIndex, segments: tuple[Segment, ...]) -> pd.DatetimeIndex:
    """Return the steps of the longest segment, over which rates are measured."""
    return time[max(segments, key=_length).steps]


SIDE = TILE_CHUNK[1]
"""Cells along a side of the tile that reading and writing are measured with."""
