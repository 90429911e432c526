"""Threads, processes and clusters that tiles run on."""

from __future__ import annotations

import os
from dataclasses import dataclass


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
