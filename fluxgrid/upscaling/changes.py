"""Which units of a plan differ from what is published, and why; and the staging of those alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fluxgrid.output.archive import StagedUnit, UnitName
from fluxgrid.provenance import digest, digest_arrays
from fluxgrid.upscaling.execute import run_tiles
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.memory import release_memory
from fluxgrid.upscaling.plan import Plan
from fluxgrid.upscaling.records import read_record
from fluxgrid.upscaling.run import check_whole, prepare_stores, tile_tasks
from fluxgrid.upscaling.tile import Job, TileReport, TileTask, finished, input_digests, key_parts, unit_key

REASONS = ("model or settings", "inputs", "state carried in", "provisional days")
"""Why a key changed, in the order of `Record.parts`."""
FIRST, DAMAGED, LOST = "new", "damaged in the archive", "not finished before"


@dataclass(frozen=True)
class TileChange:
    """The first unit of a tile that has to be computed; what follows it hangs on the state it hands on."""

    task: TileTask
    segment: int
    """Place among the segments of the plan."""
    reason: str


@dataclass(frozen=True, eq=False)
class Survey:
    """What of a plan is published as it would be computed now, and what not."""

    job: Job
    tasks: tuple[TileTask, ...]
    """All busy tiles, with what is published of them."""
    changes: tuple[TileChange, ...]
    idle: Mapping[int, Mapping[str, StagedUnit]]
    """By year, tiles without a cell to predict that are not published as they would be now."""

    @property
    def changed(self) -> bool:
        """Whether anything is to be published."""
        return bool(self.changes or self.idle)

    def reasons(self) -> dict[str, int]:
        """Return how many tiles begin to change for which reason."""
        return dict(Counter(change.reason for change in self.changes))


def survey(
    plan: Plan,
    work: Path,
    device: str,
    published: Mapping[UnitName, tuple[str, str]],
    damaged: frozenset[UnitName],
    threads: int,
) -> Survey:
    """Find the tiles whose units differ from what is published; inputs are hashed and nothing is computed.

    Parameters
    ----------
    plan : Plan
    work : Path
        Folder of stores, states and records; kept from one time to the next.
    device : str
        ``cpu`` or ``cuda``.
    published : mapping of (tile, year) to (key, digest)
        Units that stand in the archive whole.
    damaged : frozenset of (tile, year)
        Units that stand there and are not what was published.
    threads : int

    Returns
    -------
    survey : Survey
    """
    job = Job.of(plan, work, device)
    years = {plan.label(segment): plan.time[segment.steps.start].year for segment in plan.map_segments}
    tasks = [replace(task, published=_published(task.tile.name, years, published)) for task in tile_tasks(plan)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda task: _first_change(task, job, years, damaged), tasks))
    changes = tuple(change for change in found if change is not None)
    return Survey(job, tuple(tasks), changes, _idle_changes(plan, years.values(), published))


def _published(
    tile: str, years: Mapping[str, int], published: Mapping[UnitName, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Return what is published of a tile, by label of the segment."""
    return {label: published[tile, year] for label, year in years.items() if (tile, year) in published}


def _idle_changes(
    plan: Plan, years: Iterable[int], published: Mapping[UnitName, tuple[str, str]]
) -> dict[int, dict[str, StagedUnit]]:
    """Return, by year, the tiles without a cell to predict that differ from what is published."""
    flags, layers = plan.fixed_flags, asdict(plan.layers)
    keys = {t.name: digest(layers, digest_arrays({"flags": flags[t.rows, t.cols]})) for t in plan.idle_tiles}
    found = {
        year: {n: StagedUnit(key) for n, key in keys.items() if published.get((n, year), ("", ""))[0] != key}
        for year in years
    }
    return {year: units for year, units in found.items() if units}


def _first_change(
    task: TileTask, job: Job, years: Mapping[str, int], damaged: frozenset[UnitName]
) -> TileChange | None:
    """Return the first unit of a tile that has to be computed."""
    inputs, carried = input_digests(task, job), ""
    for index, found in enumerate(inputs):
        parts = key_parts(job, index, found, carried)
        record = finished(task, job, index, unit_key(task.tile, job, index, parts))
        if record is None:
            return TileChange(task, index, _reason(task, job, index, parts, years, damaged))
        carried = record.state
    return None


def _reason(
    task: TileTask,
    job: Job,
    index: int,
    parts: tuple[str, ...],
    years: Mapping[str, int],
    damaged: frozenset[UnitName],
) -> str:
    """Say why a unit has to be computed."""
    record = read_record(job.path("records", task.tile, index, ".json"))
    if (task.tile.name, years.get(job.labels[index], 0)) in damaged:
        return DAMAGED
    if record is None or len(record.parts) != len(parts):
        return FIRST
    changed = [name for name, old, new in zip(REASONS, record.parts, parts, strict=True) if old != new]
    return " and ".join(changed) or LOST


def stage(
    plan: Plan,
    work: Path,
    found: Survey,
    executor: Executor,
    on_done: Callable[[TileReport], None] = lambda _: None,
) -> tuple[TileReport, ...]:
    """Compute what changed, in stores below the work folder, and nothing else.

    A year is left alone from where the state carried in agrees again. What an interrupted call has finished is kept.

    Parameters
    ----------
    plan : Plan
    work : Path
    found : Survey
        Of the same plan and folder.
    executor : Executor
    on_done : callable
        Called with the report of each tile.

    Returns
    -------
    reports : tuple of TileReport
        Of the tiles that changed.

    Raises
    ------
    OutputError
        If results cannot be written.
    IncompleteMap
        If tiles failed, naming each.
    """
    first = min((change.segment for change in found.changes), default=len(plan.segments))
    later = [segment for segment in plan.segments[first:] if segment.scored]
    idle = [s for s in plan.map_segments if s not in later and plan.time[s.steps.start].year in found.idle]
    prepare_stores(plan, work, [*idle, *later])
    if not found.changes:
        return ()
    tasks = [change.task for change in found.changes]
    release_memory()
    # years that stay have no store; a worker looks for the first that stands, to see whether it sees the folder
    job = replace(found.job, stores=tuple(s if s and Path(s).exists() else "" for s in found.job.stores))
    reports = run_tiles(tasks, job, executor, on_done)
    release_memory()
    check_whole(tasks, reports)
    return tuple(reports)


def staged_units(
    plan: Plan, found: Survey, published: Mapping[UnitName, tuple[str, str]]
) -> dict[int, dict[str, StagedUnit]]:
    """Return, by year, the tiles that are staged and not published as they are now.

    Parameters
    ----------
    plan : Plan
    found : Survey
        Everything it found to change is staged.
    published : mapping of (tile, year) to (key, digest)
        Units that stand in the archive whole.

    Returns
    -------
    staged : dict of int to dict of str to StagedUnit
        Years without any are left out.
    """
    staged = {}
    for segment in plan.map_segments:
        index, year = plan.segments.index(segment), plan.time[segment.steps.start].year
        units = dict(found.idle.get(year, {}))
        for task in found.tasks:
            record = read_record(found.job.path("records", task.tile, index, ".json"))
            if record is not None and published.get((task.tile.name, year)) != (record.key, record.output):
                units[task.tile.name] = StagedUnit(record.key, record.output)
        if units:
            staged[year] = units
    return staged
