"""How memory and speed go with the region, the years and the workers."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

from fluxgrid.bench.child import Child, start_all
from fluxgrid.bench.maps import MapJob
from fluxgrid.bench.settings import Cells


@dataclass(frozen=True)
class Step:
    """A map on one of the axes."""

    axis: str
    """``region`` or ``years``."""
    region: str
    """How large it is: ``x1``, ``x4``..."""
    years: int
    job: MapJob


def region_steps(job: MapJob, largest: Cells) -> list[Step]:
    """Return a region, four and sixteen times as large.

    Parameters
    ----------
    job : MapJob
        On a cube that holds the largest; its own cells do not count.
    largest : (rows, columns)
        Multiples of 128 and 128.

    Returns
    -------
    steps : list of Step
    """
    cells = {part: (largest[0] // part, largest[1] // part) for part in (4, 2, 1)}
    return [Step("region", f"x{16 // part**2}", 1, replace(job, cells=box)) for part, box in cells.items()]


def year_steps(job: MapJob, years: tuple[int, ...]) -> list[Step]:
    """Return more and more years of one region.

    Parameters
    ----------
    job : MapJob
        Over one year, on a cube that holds the longest period from its first day on.
    years : tuple of int

    Returns
    -------
    steps : list of Step
    """
    first = int(job.first[:4])
    return [Step("years", "x1", count, replace(job, last=f"{first + count - 1}-12-31")) for count in years]


def scaling_rows(
    steps: list[Step], shared: MapJob, runs: int, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return time and memory of each step, one after the other in a process each, and the speed of one and two workers.

    Parameters
    ----------
    steps : list of Step
    shared : MapJob
        What workers share: a whole number of tiles for two of them, four at least.
    runs : int
        Times that workers are compared.
    threads : int
        Of a step.

    Returns
    -------
    rows : list of dict
        ``axis``, ``region``, ``cells``, ``years``, ``pixel_days``, ``seconds``, ``pixel_days_per_s``, ``peak_rss_mb``.
    workers : list of dict
        ``workers``, ``tiles``, ``seconds`` with the start of processes, ``tiles_per_s`` in steady running, ``runs``.
    """
    with ExitStack() as held:
        *children, leader = [held.enter_context(closing(Child())) for _ in (*steps, shared)]
        start_all([*children, leader])  # before anything is timed; they wait, each for its turn
        rows = [_row(step, child, threads) for step, child in zip(steps, children, strict=True)]
        return rows, leader.compare(shared, runs)


def _row(step: Step, child: Child, threads: int) -> dict[str, Any]:
    """Return what one map took."""
    found = child.measure(step.job, threads)
    return {
        "axis": step.axis,
        "region": step.region,
        "cells": step.job.cells[0] * step.job.cells[1],
        "years": step.years,
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
