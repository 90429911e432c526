"""Run a plan: stores first, then tiles, then the check that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.records import Segment
from fluxgrid.errors import IncompleteMap, OutputError, itemise
from fluxgrid.geo.tiles import Tile
from fluxgrid.output.store import create_store, open_for_tiles, write_tile
from fluxgrid.prediction.blend import Blend
from fluxgrid.provenance import digest
from fluxgrid.upscaling.execute import run_tiles
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.folder import remove
from fluxgrid.upscaling.memory import release_memory
from fluxgrid.upscaling.plan import CHUNK, Plan
from fluxgrid.upscaling.tile import Job, TileReport, TileTask, empty_arrays, input_digests


@dataclass(frozen=True)
class RunResult:
    """What all tiles reported."""

    reports: tuple[TileReport, ...]
    expected: int
    """Cell-steps to predict."""
    missing: int
    """Of these, without a value."""

    @property
    def inputs(self) -> str:
        """Hash of all inputs, for the manifest."""
        return digest([list(report.inputs) for report in self.reports])

    @property
    def computed(self) -> int:
        """Units computed now."""
        return sum(report.done for report in self.reports)

    @property
    def kept(self) -> int:
        """Units done before."""
        return sum(report.kept for report in self.reports)

    @property
    def machines(self) -> list[str]:
        """Where units were computed, now or before."""
        return sorted({machine for report in self.reports for machine in report.machines})

    @property
    def missing_share(self) -> float:
        """Share of cell-steps without a value."""
        return self.missing / self.expected if self.expected else 0.0


def tile_tasks(plan: Plan) -> list[TileTask]:
    """Return the tiles of a plan with their masks."""
    wanted, flags = plan.wanted, plan.fixed_flags
    return [
        TileTask(t, wanted[t.rows, t.cols].copy(), flags[t.rows, t.cols].copy(), _tile_blend(plan, t))
        for t in plan.busy_tiles
    ]


def _tile_blend(plan: Plan, tile: Tile) -> Blend | None:
    """Return the weights of calibrated places in the cells of a tile."""
    if plan.blend is None:
        return None
    rows = np.arange(plan.land_fraction.size).reshape(plan.grid.shape)[tile.rows, tile.cols].ravel()
    return plan.blend.select(rows)


def prepare_stores(plan: Plan, work: Path, segments: Iterable[Segment] | None = None) -> None:
    """Make the empty map store of each year; tiles nobody predicts get their reason in `quality_flag`.

    Parameters
    ----------
    plan : Plan
    work : Path
        Folder of the stores.
    segments : iterable of Segment, optional
        Years that are wanted; all by default.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    flags = plan.fixed_flags
    for segment in plan.map_segments if segments is None else segments:
        path = plan.store(work, segment)
        if path.exists():
            continue
        draft = path.with_name(f"draft-{path.name}")  # idle tiles have no records: the store appears with all of them
        remove(draft)
        create_store(draft, plan.grid, pd.DatetimeIndex(plan.time[segment.steps]), plan.layers, CHUNK)
        steps = segment.steps.stop - segment.steps.start
        for tile in plan.idle_tiles:
            write_tile(draft, tile, empty_arrays(steps, flags[tile.rows, tile.cols], plan.layers))
        draft.replace(path)
        open_for_tiles(path)


def digest_inputs(plan: Plan, job: Job, threads: int) -> str:
    """Return the hash of all inputs of a plan as they stand now, as `RunResult.inputs` does after a run."""
    with ThreadPoolExecutor(threads) as pool:
        return digest([list(found) for found in pool.map(lambda task: input_digests(task, job), tile_tasks(plan))])


def run_plan(
    plan: Plan,
    work: Path,
    executor: Executor,
    device: str,
    on_done: Callable[[TileReport], None] = lambda _: None,
) -> RunResult:
    """Bring every unit of a plan to its finished state.

    Units that are done with the same key are kept, so that a first run, a resumed one and one over new inputs are the
    same call.

    Parameters
    ----------
    plan : Plan
    work : Path
        Folder for stores, states and records.
    executor : Executor
    device : str
        ``cpu`` or ``cuda``.
    on_done : callable
        Called with each tile's report.

    Returns
    -------
    result : RunResult

    Raises
    ------
    OutputError
        If results cannot be written; the run can be resumed.
    IncompleteMap
        If tiles failed, naming each; the run can be resumed.
    """
    prepare_stores(plan, work)
    tasks = tile_tasks(plan)
    release_memory()  # of what built the cube
    reports = run_tiles(tasks, Job.of(plan, work, device), executor, on_done)
    release_memory()  # the files of the map are written next
    check_whole(tasks, reports)
    return RunResult(tuple(reports), sum(r.expected for r in reports), sum(r.missing for r in reports))


def check_whole(tasks: list[TileTask], reports: list[TileReport]) -> None:
    """Raise unless every tile is done."""
    for report in reports:
        if report.fatal:
            message = f"{report.error} Then run the same command again (`fluxgrid upscale` with --resume)."
            raise OutputError(message)
    failed = [f"tile {report.tile}: {report.error}" for report in reports if report.error]
    silent = {task.tile.name for task in tasks} - {report.tile for report in reports}
    failed += [f"tile {name}: no answer" for name in sorted(silent)]
    if failed:
        header = f"{len(failed)} of {len(tasks)} tiles failed, so no map was written; the others are kept"
        advice = "Mend the cause and run the same command again (`fluxgrid upscale` with --resume)."
        message = f"{itemise(header, _shorten(failed))}\n{advice}"
        raise IncompleteMap(message)


def _shorten(lines: list[str], most: int = 10) -> list[str]:
    """Return at most so many lines, saying how many more there are."""
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
