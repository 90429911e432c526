"""How memory and speed go with the region, the years and the workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fluxgrid.bench.child import run_child
from fluxgrid.bench.maps import Finished, MapJob, plan_map, run_map
from fluxgrid.bench.settings import Cells
from fluxgrid.upscaling.execute import Executor


def region_rows(job: MapJob, largest: Cells, threads: int) -> list[dict[str, Any]]:
    """Return time and memory of a region, four and sixteen times as large, each in a process of its own.

    Parameters
    ----------
    job : MapJob
        On a cube that holds the largest; its own cells do not count.
    largest : (rows, columns)
        Multiples of 128 and 128.
    threads : int

    Returns
    -------
    rows : list of dict
        ``region``, ``cells``, ``years``, ``pixel_days``, ``seconds``, ``pixel_days_per_s``, ``peak_rss_mb``.
    """
    rows = []
    for factor in (1, 4, 16):
        part = int(np.sqrt(16 / factor))
        cells = (largest[0] // part, largest[1] // part)
        rows.append(_row(replace(job, cells=cells), f"x{factor}", 1, threads))
    return rows


def year_rows(job: MapJob, years: tuple[int, ...], threads: int) -> list[dict[str, Any]]:
    """Return time and memory of more and more years of one region, each in a process of its own.

    Parameters
    ----------
    job : MapJob
        Over one year, on a cube that holds the longest period from its first day on.
    years : tuple of int
    threads : int

    Returns
    -------
    rows : list of dict
        As of `region_rows`.
    """
    first = int(job.first[:4])
    return [_row(replace(job, last=f"{first + count - 1}-12-31"), "x1", count, threads) for count in years]


def _row(job: MapJob, region: str, years: int, threads: int) -> dict[str, Any]:
    """Return what one map took."""
    found = run_child(job, workers=1, threads=threads)
    return {
        "region": region,
        "cells": job.cells[0] * job.cells[1],
        "years": years,
        "pixel_days": found.pixel_days,
        "seconds": found.seconds,
        "pixel_days_per_s": found.pixel_days / found.seconds,
        "peak_rss_mb": found.peak_rss_mb,
    }


def growth(rows: list[dict[str, Any]]) -> float:
    """Return by which share of the least the peak memory of the rows grows.

    Examples
    --------
    >>> growth([{"peak_rss_mb": 800.0}, {"peak_rss_mb": 840.0}])
    0.05
    """
    peaks = [row["peak_rss_mb"] for row in rows]
    return round(max(peaks) / min(peaks) - 1, 4)


def steady_rate(finished: Finished, workers: int) -> float:
    """Return the tiles a second after each worker has done its first, which pays for its start.

    Examples
    --------
    >>> steady_rate(Finished(9.0, 0, 0, 0, (5.0, 5.0, 6.0, 6.0, 7.0, 7.0)), workers=2)
    2.0
    """
    arrivals = finished.arrivals
    return (len(arrivals) - workers) / (arrivals[-1] - arrivals[workers - 1])


def worker_rows(job: MapJob, work: Path, runs: int) -> list[dict[str, Any]]:
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
