"""A map in a process of its own, whose peak memory is then that of the map alone.

    python -m fluxgrid.bench.child '{"job": {...}, "workers": 1, "threads": 2}'

The process reports the high-water mark of its own memory: what the system tells a parent of a child (`wait4`) also
counts what the parent held when it started the child.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxgrid.bench.maps import MapJob, plan_map, run_map
from fluxgrid.bench.workers import compare_workers
from fluxgrid.errors import ConfigError
from fluxgrid.upscaling.execute import Executor


@dataclass(frozen=True)
class Measured:
    """What a process of its own took for a map."""

    peak_rss_mb: float
    """Largest resident memory, 10^6 B; of the process that leads, where there are several."""
    seconds: float
    pixel_days: int


def run_child(job: MapJob, workers: int, threads: int) -> Measured:
    """Make a map in a process of its own.

    Parameters
    ----------
    job : MapJob
    workers, threads : int
        Of the executor.

    Returns
    -------
    measured : Measured

    Raises
    ------
    ConfigError
        If the process failed, with its last words.
    """
    return Measured(**run_apart({"job": asdict(job), "workers": workers, "threads": threads}))


def run_apart(order: dict[str, Any]) -> Any:
    """Return what a process of its own answers to an order, as `main` takes it.

    Raises
    ------
    ConfigError
        If the process failed, with its last words.
    """
    command = [sys.executable, "-m", __name__, json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"A map in a process of its own failed: {done.stderr.strip()[-400:]} Run it by itself to see why."
        raise ConfigError(message)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, 10^6 B."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):  # not Linux
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def main(order: str) -> None:
    """Make the map that is asked for, or compare workers over it, and print what it took, JSON."""
    row = json.loads(order)
    job = MapJob(**{**row["job"], "cells": tuple(row["job"]["cells"])})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "map"
        if "worker_runs" in row:
            answer: Any = compare_workers(job, work, row["worker_runs"])
        else:
            done = run_map(plan_map(job), work, Executor(row["workers"], row["threads"]))
            answer = asdict(Measured(peak_memory(), done.seconds, done.pixel_days))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
