"""One map, end to end: planned as `fluxgrid upscale` plans it, read from zarr, predicted, written to zarr."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.bench.cubes import box_of
from fluxgrid.bench.machine import bytes_read
from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.data.windows import WindowMode
from fluxgrid.geo.region import find_region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.models import load_checkpoint
from fluxgrid.models.calibrated import Calibration
from fluxgrid.output.layers import Layers
from fluxgrid.prediction.blend import Blend, state_blend
from fluxgrid.prediction.predictor import find_calibration
from fluxgrid.upscaling.cover import land_share, region_share
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.handshake import shake_hands
from fluxgrid.upscaling.heads import map_blend
from fluxgrid.upscaling.plan import CubeSource, Plan
from fluxgrid.upscaling.run import RunResult, run_plan
from fluxgrid.upscaling.tile import Job, TileReport, reader_of

TILE = 32
"""Side of a tile, the default of `fluxgrid upscale`."""


@dataclass(frozen=True)
class MapJob:
    """A map to be made, in words that another process understands."""

    cube: str
    checkpoint: str
    cells: tuple[int, int]
    """Rows and columns from the upper left of the cube."""
    first: str
    """First day."""
    last: str
    window_mode: WindowMode | None = None
    calibration: str = "none"


@dataclass(frozen=True)
class Finished:
    """One run of a map."""

    seconds: float
    """From the empty stores to the last record."""
    pixel_days: int
    """Delivered."""
    spin_up_pixel_days: int
    missing: int
    """Delivered pixel-days without a value."""
    arrivals: tuple[float, ...] = field(default=())
    """When each tile was done, s after the start, in order."""
    bytes_read: float = np.nan
    """From files, by this process: inputs, and results that are checked; NaN where the system does not say."""


def plan_map(job: MapJob) -> Plan:
    """Return the plan of a map.

    Parameters
    ----------
    job : MapJob

    Returns
    -------
    plan : Plan
        With the weights of calibrated places where a calibration is named: of ``state`` each cell takes one place, in
        turn, for a small map lies in one state; ``neighbourhood`` blends as on any map.
    """
    cube = open_cube(job.cube)
    checkpoint = load_checkpoint(job.checkpoint, job.window_mode)
    region = find_region(box_of(grid_of(cube), job.cells))
    agreed = shake_hands(cube, checkpoint.spec, region, pd.Timestamp(job.first), pd.Timestamp(job.last))
    grid, spec = agreed.grid, checkpoint.spec
    plan = Plan(
        region=region.name,
        cube=CubeSource.of(job.cube),
        checkpoint=checkpoint.path,
        model_digest=checkpoint.digest,
        step=spec.step,
        window_mode=job.window_mode,
        time=agreed.time,
        segments=agreed.segments,
        grid=grid,
        origin=agreed.origin,
        land_fraction=land_share(grid),
        region_share=region_share(region, grid),
        tiles=make_tiles(grid, TILE),
        layers=Layers(spec.map_fluxes, spec.map_annual),
    )
    if job.calibration == "none":
        return plan
    calibration = find_calibration(checkpoint, job.calibration)
    layers = replace(plan.layers, calibrated_places=calibration.places.names)
    return replace(plan, layers=layers, calibration=job.calibration, blend=_blend(calibration, plan, job))


def _blend(calibration: Calibration, plan: Plan, job: MapJob) -> Blend:
    """Return the weights of calibrated places in every cell."""
    if calibration.name == "state":
        return state_blend(np.arange(plan.wanted.size) % len(calibration.places))
    return map_blend(calibration, plan.grid, plan.origin, open_cube(job.cube))


def run_map(plan: Plan, work: Path, executor: Executor, device: str = "cpu") -> Finished:
    """Make a map once, from nothing, and remove it again.

    Parameters
    ----------
    plan : Plan
    work : Path
        Folder for stores and records; removed before and after.
    executor : Executor
    device : str

    Returns
    -------
    finished : Finished
        Timed with model and cube opened, as they are from a run's second tile on.
    """
    shutil.rmtree(work, ignore_errors=True)
    _ = Job.of(plan, work, device).predictor, reader_of(plan.cube)
    arrivals: list[float] = []
    before, begun = bytes_read(), time.perf_counter()

    def on_done(_: TileReport) -> None:
        arrivals.append(time.perf_counter() - begun)

    result = run_plan(plan, work, executor, device, on_done)
    seconds = time.perf_counter() - begun
    read = bytes_read() - before
    shutil.rmtree(work, ignore_errors=True)
    return replace(finished_of(plan, result, seconds, arrivals), bytes_read=read)


def finished_of(plan: Plan, result: RunResult, seconds: float, arrivals: list[float]) -> Finished:
    """Return what a run came to."""
    spin_up = sum(s.steps.stop - s.steps.start for s in plan.segments if not s.scored)
    return Finished(seconds, result.expected, int(plan.wanted.sum()) * spin_up, result.missing, tuple(arrivals))


def timed(plan: Plan, work: Path, executor: Executor, done: list[Finished] | None = None) -> Callable[[], float]:
    """Return a function that makes the map and returns the seconds it took; it adds each run to `done`."""

    def run() -> float:
        finished = run_map(plan, work, executor)
        if done is not None:
            done.append(finished)
        return finished.seconds

    return run
