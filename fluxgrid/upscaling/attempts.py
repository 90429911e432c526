"""Tiles on the workers of a dask cluster: who has begun which, what came back, and second attempts.

dask gives the tiles of a worker that is lost to others, but waits for ever for one that hangs or crawls, and lays more
tiles before it. So tiles are asked for as threads come free, of the worker that has one; and when all are asked for, a
tile that takes far longer than the others is asked of a free worker as well. That is harmless: both write the same
bytes, what one has recorded the other keeps, and the first answer counts.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from distributed import Client, Future, get_worker, wait

from fluxgrid.upscaling.tile import Job, TileReport, TileTask, run_tile

STRAGGLER_TIMES, STRAGGLER_SECONDS = 4.0, 60.0
"""A tile is given to another worker as well after so many times what its cells usually take, and never earlier."""

_DASK_RETRIES = 3


class Attempts:
    """Attempts at the tiles of a run.

    Parameters
    ----------
    client : Client
    tasks : sequence of TileTask
        In the order they are to begin.
    job : Job
        With its `run`.
    repeat : bool
        Whether slow tiles get a second attempt.
    resources : mapping of str to float
        What a worker must have free for each tile, as its ``--resources`` say; it then runs one at a time.
    """

    def __init__(
        self, client: Client, tasks: Sequence[TileTask], job: Job, repeat: bool, resources: Mapping[str, float]
    ):
        self.client, self.job, self.repeat, self.resources = client, job, repeat, dict(resources)
        self.pending: dict[Future, TileTask] = {}
        self._queue = deque(tasks)
        self._topic = f"fluxgrid-{job.run}"
        self._at: dict[str, dict[str, float]] = {task.tile.name: {} for task in tasks}
        """Since when each tile is at which workers, the newest last."""
        self._rates: list[float] = []
        client.subscribe_topic(self._topic, self._heard)

    @property
    def waiting(self) -> int:
        """Tiles without an answer."""
        return len(self._queue) + len({task.tile.name for task in self.pending.values()})

    def feed(self) -> int:
        """Ask for as many tiles as there are threads, then for slow ones again; return how many workers there are."""
        threads = self.client.nthreads()
        lanes = dict.fromkeys(threads, 1) if self.resources else dict(threads)
        while self._queue and (free := self._free(lanes)):
            self._ask(self._queue.popleft(), free[0])
        for task in self.slow(time.monotonic()) if self.repeat and not self._queue else ():
            if free := [worker for worker in self._free(lanes) if worker not in self._at[task.tile.name]]:
                self._ask(task, free[0])
        return len(threads)

    def finished(self, seconds: float) -> list[Future]:
        """Return the pending attempts that have ended; TimeoutError if none does for so many seconds."""
        if not self.pending:
            time.sleep(seconds)
            raise TimeoutError
        return list(wait(set(self.pending), timeout=seconds, return_when="FIRST_COMPLETED").done)

    def take(self, future: Future, report: TileReport) -> TileReport | None:
        """Take what an attempt reported.

        Parameters
        ----------
        future : Future
            A pending one.
        report : TileReport

        Returns
        -------
        report : TileReport or None
            None where it failed and another attempt at the tile goes on.
        """
        task = self.pending.pop(future)
        others = [other for other, its in self.pending.items() if its is task]
        if report.error and not report.fatal and others:
            return None
        for other in others:
            del self.pending[other]
        if others:
            self.client.cancel(others)
        if report.done and not report.error:
            self._rates.append(report.seconds / _cells(task))
        return report

    def slow(self, now: float) -> list[TileTask]:
        """Return the tiles whose newest attempt began, or was asked for, too long ago, the slowest first."""
        if not self._rates:
            return []
        usual, ages = median(self._rates), {}
        for task in self.pending.values():
            name = task.tile.name
            age = now - max(self._at[name].values())
            if age > max(STRAGGLER_SECONDS, STRAGGLER_TIMES * usual * _cells(task)):
                ages[name] = (age, task)
        return [task for _, task in sorted(ages.values(), key=lambda pair: -pair[0])]

    def close(self) -> None:
        """Ask for nothing more."""
        self.client.cancel(list(self.pending))

    def _ask(self, task: TileTask, worker: str) -> None:
        """Ask a worker for a tile; dask gives it to another one if that is lost."""
        self._at[task.tile.name][worker] = time.monotonic()
        # with each tile the whole job: shared data would be at one worker, and lost or out of reach with it
        given = task, self.job, self._topic
        where: dict[str, Any] = {"workers": [worker], "allow_other_workers": True}
        if self.resources:
            where["resources"] = self.resources
        future = self.client.submit(_attempt, *given, pure=False, retries=_DASK_RETRIES, **where)
        self.pending[future] = task

    def _free(self, lanes: Mapping[str, int]) -> list[str]:
        """Return the workers that have a thread which is at no tile, the freest first."""
        names = {task.tile.name for task in self.pending.values()}
        busy = Counter(worker for name in names for worker in list(self._at[name]))
        left = {worker: threads - busy[worker] for worker, threads in lanes.items()}
        return sorted((worker for worker, threads in left.items() if threads > 0), key=lambda worker: -left[worker])

    def _heard(self, event: tuple[float, Mapping[str, str]]) -> None:
        """Note that a worker begins; the clocks of other machines do not matter."""
        places, worker = self._at.get(event[1]["tile"], {}), event[1]["worker"]
        moved = next(reversed(places)) if places and worker not in places else None  # by dask
        places[worker] = time.monotonic()
        if moved is not None:  # only now: the other thread never finds a tile that is nowhere
            places.pop(moved, None)


def _attempt(task: TileTask, job: Job, topic: str) -> TileReport:
    """Run a tile on a worker, and tell the planner that it begins."""
    worker = get_worker()
    worker.log_event(topic, {"tile": task.tile.name, "worker": worker.address})
    return run_tile(task, job)


def _cells(task: TileTask) -> int:
    """Return the cells to predict, at least 1."""
    return max(1, int(task.wanted.sum()))
