"""Maps in processes of their own, whose peak memory is then that of the map alone.

A process reports the high-water mark of its own memory: what the system tells a parent of a child (`wait4`) also counts
what the parent held when it started the child. Processes import what the program that called imports at its start.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fluxgrid.bench.maps import MapJob, plan_map, run_map
from fluxgrid.bench.workers import compare_workers
from fluxgrid.errors import ConfigError
from fluxgrid.upscaling.executor import Executor

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Measured:
    """What a process of its own took for a map."""

    peak_rss_mb: float
    """Largest resident memory, 10^6 B."""
    seconds: float
    pixel_days: int


class Child:
    """A process that does one thing, and may be started well before it is told."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork of this process, full of threads, could hang
        self._pool = ProcessPoolExecutor(1, spawn, initializer=end_with_parent)

    def start(self) -> None:
        """Return when the process has imported all it needs."""
        self._ask(peak_memory)

    def close(self) -> None:
        """End the process, which may have ended."""
        self._pool.shutdown(cancel_futures=True)

    def measure(self, job: MapJob, threads: int) -> Measured:
        """Make a map and end.

        Parameters
        ----------
        job : MapJob
        threads : int

        Returns
        -------
        measured : Measured

        Raises
        ------
        ConfigError
            If the process was lost.
        """
        return self._last(_measure, job, threads)

    def compare(self, job: MapJob, runs: int) -> list[dict[str, Any]]:
        """Do what `fluxgrid.bench.workers.compare_workers` does, and end.

        Parameters
        ----------
        job : MapJob
        runs : int

        Returns
        -------
        rows : list of dict

        Raises
        ------
        ConfigError
            If the process was lost.
        """
        return self._last(_compare, job, runs)

    def _last(self, work: Callable[_Given, _Answer], *given: _Given.args, **named: _Given.kwargs) -> _Answer:
        """Return what the process answers, and end it."""
        with self._pool:
            return self._ask(work, *given, **named)

    def _ask(self, work: Callable[_Given, _Answer], *given: _Given.args, **named: _Given.kwargs) -> _Answer:
        """Return what the process answers."""
        try:
            return self._pool.submit(work, *given, **named).result()
        except BrokenProcessPool as error:
            message = "A process that made a map by itself was lost. See whether memory ran out (`dmesg`); try again."
            raise ConfigError(message) from error


def end_with_parent() -> None:
    """Have this process, one of a pool, end when the one that started it is killed: a pool would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    """Wait for a process to end, and then end this one."""
    parent.join()
    os._exit(1)


def start_all(children: Sequence[Child]) -> None:
    """Start processes, two at a time: importing is work for one core.

    Parameters
    ----------
    children : sequence of Child
    """
    with ThreadPoolExecutor(2) as two:
        list(two.map(Child.start, children))


def measure_all(jobs: Sequence[MapJob], threads: int) -> list[Measured]:
    """Return what maps took in a process each, two side by side: their memory counts, not their time.

    Parameters
    ----------
    jobs : sequence of MapJob
    threads : int
        Of each.

    Returns
    -------
    measured : list of Measured
    """
    with ThreadPoolExecutor(2) as two:
        return list(two.map(lambda job: Child().measure(job, threads), jobs))


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, 10^6 B."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):  # not Linux
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def _measure(job: MapJob, threads: int) -> Measured:
    """Make a map in this process."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_map(plan_map(job), Path(folder) / "map", Executor(1, threads))
    return Measured(peak_memory(), done.seconds, done.pixel_days)


def _compare(job: MapJob, runs: int) -> list[dict[str, Any]]:
    """Compare workers over a map, led by this process."""
    with tempfile.TemporaryDirectory() as folder:
        return compare_workers(job, Path(folder) / "map", runs)
