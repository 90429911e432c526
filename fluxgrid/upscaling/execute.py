"""Run tiles: in threads of this process, or by dask in processes of this machine or on a running cluster."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from threading import enumerate as enumerate_threads

import dask
from distributed import Client, Future, LocalCluster
from distributed.comm import CommClosedError, resolve_address

from fluxgrid.errors import ClusterUnavailable, ConfigError, IncompleteMap
from fluxgrid.upscaling.attempts import Attempts
from fluxgrid.upscaling.claim import claimed, release
from fluxgrid.upscaling.cluster import GPU
from fluxgrid.upscaling.tile import Job, TileReport, TileTask, run_tile

CONNECT_SECONDS = 15
"""How long a scheduler may take to answer."""

WATCH_SECONDS, LOST_SECONDS = 5, 60
"""How often a run looks whether it still has workers, and how long it waits for new ones."""

_LOOPBACK = "127.0.0.1:0"
_TILE_THREAD = "fluxgrid tile"
_WORKERS, _SCHEDULER = "All workers", "The scheduler"


@dataclass(frozen=True)
class Executor:
    """Where tiles run."""

    workers: int = 1
    """Processes; 1 means threads in this process."""
    threads: int = 1
    """Threads of each process."""
    scheduler: str | None = None
    """Address of a running dask scheduler; the other two then do not matter."""

    @property
    def lanes(self) -> int:
        """Tiles that run at the same time."""
        return self.workers * self.threads


def tiles_at_work() -> bool:
    """Return whether threads of this process still work on tiles whose run has ended."""
    return any(thread.name == _TILE_THREAD for thread in enumerate_threads())


def default_threads(workers: int) -> int:
    """Return the cores of this machine over the processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


@contextmanager
def connect(executor: Executor) -> Iterator[Client]:
    """Give a dask client, and end what was started for it.

    Raises
    ------
    ConfigError
        If the address is none.
    ClusterUnavailable
        If no scheduler answers there.
    """
    if executor.scheduler:
        try:
            # a client of an address that is none would stay what all of dask computes with in this process
            resolve_address(executor.scheduler)
            client = Client(executor.scheduler, timeout=CONNECT_SECONDS)
        except ValueError as error:
            message = (
                f"--scheduler {executor.scheduler!r} is no address of a dask scheduler ({error}). Give the one that "
                "`dask scheduler` prints, such as tcp://host:8786."
            )
            raise ConfigError(message) from error
        except (OSError, TimeoutError) as error:
            message = (
                f"No dask scheduler answers at {executor.scheduler!r} ({error}). Start one with `dask scheduler`, "
                "correct the address, or leave --scheduler out to run on this machine."
            )
            raise ClusterUnavailable(message) from error
        with client:
            yield client
        return
    # dask's nanny sets MALLOC_TRIM_THRESHOLD_, which costs a third of the speed of small matrix products
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        # what looks at a worker while it works takes its interpreter's lock
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "10s",
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.admin.low-level-log-length": 0,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=executor.workers,
            threads_per_worker=executor.threads,
            host="127.0.0.1",
            # None would not switch it off but open port 8787 on the machine's outward address
            dashboard_address=_LOOPBACK,
            worker_dashboard_address=_LOOPBACK,
            memory_limit=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


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
    repeat = executor.scheduler is not None and job.machine is not None  # mixed machines would write other bits twice
    with connect(executor) as client, claimed(Path(job.work)) as run:
        attempts = Attempts(client, tasks, replace(job, run=run), repeat, _resources(job, executor))
        try:
            yield from _answers(attempts, executor, len(tasks))
        except GeneratorExit:  # nobody listens any more
            attempts.close()
            raise


def _resources(job: Job, executor: Executor) -> dict[str, float]:
    """Return what a worker of a running cluster must have free for a tile: its GPU, of which it has one."""
    return {GPU: 1} if executor.scheduler and job.device.startswith("cuda") else {}


def _answers(attempts: Attempts, executor: Executor, tiles: int) -> Iterator[TileReport]:
    """Yield reports as they come; dask alone would wait for ever for workers that are gone."""
    seen = time.monotonic()
    while attempts.waiting:
        try:
            if attempts.feed():
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST_SECONDS:
                raise _lost(_WORKERS, executor, tiles - attempts.waiting, tiles)
            for future in attempts.finished(WATCH_SECONDS):
                # not if another attempt at its tile came just before
                task = attempts.pending.get(future)
                report = None if task is None else attempts.take(future, _result(future, task))
                if report is not None:
                    yield report
        except TimeoutError:  # nothing is finished, or what was finished died with its worker and is made again
            continue
        except (CancelledError, CommClosedError):
            raise _lost(_SCHEDULER, executor, tiles - attempts.waiting, tiles) from None


def _lost(what: str, executor: Executor, done: int, tiles: int) -> IncompleteMap:
    """Return the error for a cluster that is gone."""
    where = f" ({executor.scheduler})" if executor.scheduler else ""
    again = "Start the cluster again" if executor.scheduler else "See what ended them (memory?)"
    message = (
        f"{what}{where}: lost after {done} of {tiles} tiles, so no map was written; what is finished is kept. "
        f"{again}, then run the same command again (`fluxgrid upscale` with --resume)."
    )
    return IncompleteMap(message)


def _result(future: Future, task: TileTask) -> TileReport:
    """Return the report of a tile, also of one whose worker died for good; TimeoutError if it does not come."""
    error = future.exception(timeout=WATCH_SECONDS)
    if error is None:
        return future.result(timeout=WATCH_SECONDS)
    return TileReport(task.tile.name, error=f"the worker was lost or failed: {type(error).__name__}: {error}")
