"""Tiles on dask: processes that are started for a run, or a cluster that runs already."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dask
from distributed import Client, Future, LocalCluster
from distributed.comm import CommClosedError, resolve_address

from fluxgrid.errors import ClusterUnavailable, ConfigError, IncompleteMap
from fluxgrid.upscaling.attempts import Attempts
from fluxgrid.upscaling.claim import claimed
from fluxgrid.upscaling.cluster import GPU
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.tile import Job, TileReport, TileTask

CONNECT_SECONDS = 15
"""How long a scheduler may take to answer."""

WATCH_SECONDS, LOST_SECONDS = 5, 60
"""How often a run looks whether it still has workers, and how long it waits for new ones."""

_LOOPBACK = "127.0.0.1:0"
_WORKERS, _SCHEDULER = "All workers", "The scheduler"


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


def tiles_of_workers(tasks: Sequence[TileTask], job: Job, executor: Executor) -> Generator[TileReport]:
    """Yield reports of tiles that workers run; see `fluxgrid.upscaling.execute.run_tiles`."""
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
