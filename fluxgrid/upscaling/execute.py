"""Run tiles on dask: threads of this process, processes of this machine, or a running cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dask
from distributed import Client, LocalCluster, as_completed

from fluxgrid.errors import ConfigError
from fluxgrid.upscaling.tile import Job, TileReport, TileTask, run_tile

CONNECT_SECONDS = 15
"""How long a scheduler may take to answer."""

_LOOPBACK = "127.0.0.1:0"


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
        If no scheduler answers at the address.
    """
    if executor.scheduler:
        try:
            client = Client(executor.scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            message = (
                f"No dask scheduler answers at {executor.scheduler!r} ({error}). Start one with `dask scheduler`, "
                "or leave --scheduler out to run on this machine."
            )
            raise ConfigError(message) from error
        with client:
            yield client
        return
    # dask's nanny sets MALLOC_TRIM_THRESHOLD_, which costs a third of the speed of small matrix products
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
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
            processes=executor.workers > 1,
            host="127.0.0.1" if executor.workers > 1 else None,
            # None would not switch it off but open port 8787 on the machine's outward address
            dashboard_address=_LOOPBACK,
            worker_dashboard_address=_LOOPBACK,
            memory_limit=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def check_executor(executor: Executor) -> None:
    """Find out whether a scheduler that was named answers, before anything is begun.

    Raises
    ------
    ConfigError
        If it does not.
    """
    if executor.scheduler:
        with connect(executor):
            pass


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
    """
    reports: dict[str, TileReport] = {}
    with connect(executor) as client:
        shared = client.scatter(job, broadcast=True) if executor.workers > 1 or executor.scheduler else job
        # big tiles first, so that the last ones to finish are short
        order = sorted(tasks, key=lambda task: -int(task.wanted.sum()))
        futures = {client.submit(run_tile, task, shared, pure=False, retries=3): task for task in order}
        for future in as_completed(futures):
            report = _result(future, futures[future])
            reports[report.tile] = report
            on_done(report)
            if report.fatal:
                client.cancel(list(futures))
                break
    return [reports[task.tile.name] for task in tasks if task.tile.name in reports]


def _result(future, task: TileTask) -> TileReport:
    """Return the report of a tile, also of one whose worker died for good."""
    error = future.exception()
    if error is None:
        return future.result()
    return TileReport(task.tile.name, error=f"the worker was lost or failed: {type(error).__name__}: {error}")
