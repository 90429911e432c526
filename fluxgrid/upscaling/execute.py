"""Run tiles: in threads of this process, or by dask in processes of this machine or on a running cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from threading import enumerate as enumerate_threads

from fluxgrid.upscaling.claim import release
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.tile import Job, TileReport, TileTask, run_tile

_TILE_THREAD = "fluxgrid tile"


def tiles_at_work() -> bool:
    """Return whether threads of this process still work on tiles whose run has ended."""
    return any(thread.name == _TILE_THREAD for thread in enumerate_threads())


def run_tiles(
    tasks: Sequence[TileTask], job: Job, executor: Executor, on_done: Callable[[TileReport], None]
) -> list[TileReport]:
    """Run every tile and return what each reported.

    Parameters
    ----------
    tasks : sequence of TileTask
    job : Job
    executor : Executor
    on_done : callable
        Called with each report as it comes, in any order.

    Returns
    -------
    reports : list of TileReport
        In the order of the tasks; cut short after a fatal report.

    Raises
    ------
    IncompleteMap
        If the scheduler or all of its workers are lost; finished units are kept.
    """
    reports: dict[str, TileReport] = {}
    # big tiles first, so that the last ones to finish are short
    order = sorted(tasks, key=lambda task: -int(task.wanted.sum()))
    apart = executor.workers > 1 or executor.scheduler
    if not apart:
        release(Path(job.work))  # from a run on a cluster that was killed: its workers may still be at it
    with closing(_on_dask(order, job, executor) if apart else _in_threads(order, job, executor.threads)) as found:
        for report in found:
            reports[report.tile] = report
            on_done(report)
            if report.fatal:
                break
    return [reports[task.tile.name] for task in tasks if task.tile.name in reports]


def _in_threads(tasks: Sequence[TileTask], job: Job, threads: int) -> Generator[TileReport]:
    """Yield reports of tiles that threads of this process run; who stops listening stops them after their tiles."""
    waiting, stopped = deque(tasks), Event()
    done: SimpleQueue[TileReport] = SimpleQueue()

    def work() -> None:
        while waiting and not stopped.is_set():
            try:
                task = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                done.put(run_tile(task, job))
            except Exception as error:  # noqa: BLE001  # of a thread nobody would hear of it
                done.put(TileReport(task.tile.name, error=f"{type(error).__name__}: {error}"))

    for _ in range(min(threads, len(tasks))):
        # daemons: an interrupted run does not wait for its tiles
        Thread(target=work, name=_TILE_THREAD, daemon=True).start()
    try:
        for _ in tasks:
            yield done.get()
    finally:
        stopped.set()


def _on_dask(tasks: Sequence[TileTask], job: Job, executor: Executor) -> Generator[TileReport]:
    """Yield reports of tiles that workers run."""
    from fluxgrid.upscaling.workers import tiles_of_workers  # dask takes half a second to import: threads need none

    yield from tiles_of_workers(tasks, job, executor)
