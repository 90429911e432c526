"""How memory and speed go with the region, the years and the workers."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fluxgrid.bench.child import run_apart, run_child
from fluxgrid.bench.maps import MapJob
from fluxgrid.bench.settings import Cells


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


def worker_rows(job: MapJob, runs: int) -> list[dict[str, Any]]:
    """Return the speed of one worker and of two, as `fluxgrid.bench.workers.compare_workers` does, apart from all else.

    Parameters
    ----------
    job : MapJob
        Of a whole number of tiles for two workers, four at least.
    runs : int
        Times that they are compared.

    Returns
    -------
    rows : list of dict
        ``workers``, ``seconds`` with the start of processes, ``tiles_per_s`` in steady running; medians and all runs.
    """
    return run_apart({"job": asdict(job), "worker_runs": runs})
