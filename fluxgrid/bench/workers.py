"""One worker process against two, in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fluxgrid.bench.maps import Finished, MapJob, plan_map, run_map
from fluxgrid.upscaling.executor import Executor


def steady_rate(finished: Finished, workers: int) -> float:
    """Return the tiles a second after each worker has done its first, which pays for its start.

    Examples
    --------
    >>> steady_rate(Finished(9.0, 0, 0, 0, (5.0, 5.0, 6.0, 6.0, 7.0, 7.0)), workers=2)
    2.0
    """
    arrivals = finished.arrivals
    return (len(arrivals) - workers) / (arrivals[-1] - arrivals[workers - 1])


def compare_workers(job: MapJob, work: Path, runs: int) -> list[dict[str, Any]]:
    """Return the speed of one worker and of two, a thread each, in turns.

    Parameters
    ----------
    job : MapJob
        Of a whole number of tiles for two workers, four at least.
    work : Path
    runs : int

    Returns
    -------
    rows : list of dict
        ``workers``, ``seconds`` with the start of processes, ``tiles_per_s`` in steady running; medians and all runs.
    """
    plan = plan_map(job)
    found: dict[int, list[Finished]] = {1: [], 2: []}
    for number in range(runs):
        for count in (1, 2) if number % 2 == 0 else (2, 1):
            found[count].append(run_map(plan, work, Executor(count, 1)))
    rows = []
    for count, done in found.items():
        rates = [steady_rate(each, count) for each in done]
        row: dict[str, Any] = {"workers": count, "tiles": len(plan.busy_tiles)}
        row["seconds"] = float(np.median([each.seconds for each in done]))
        rows.append({**row, "tiles_per_s": float(np.median(rates)), "runs": rates})
    return rows
