"""What this machine can do at most: matrix products, copies, reads and writes, measured in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fluxgrid.data.cube import open_reader
from fluxgrid.data.inputs import InputSpec
from fluxgrid.provenance import versions
from fluxgrid.upscaling.tile import read_tile

SQUARES = (2048, 4096)
"""Sides of products, of which the better one counts."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_seconds(work: Callable[[], Any], repeats: int, warm: bool = False) -> float:
    """Return the least time of several runs, s, after one that does not count unless the machine is warm."""
    if not warm:
        work()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def gemm_rate(threads: int, squares: Sequence[int] = SQUARES, repeats: int = 3) -> float:
    """Return the best rate of square products in single precision.

    Parameters
    ----------
    threads : int
    squares : sequence of int
        Sides.
    repeats : int
        Products of each side.

    Returns
    -------
    rate : float, FLOP/s
    """
    best = 0.0
    with torch_threads(threads), torch.inference_mode():
        for side in squares:
            # evenly drawn: what the numbers are makes no difference, and normal ones take as long as a product
            a, b, out = torch.rand(side, side), torch.rand(side, side), torch.empty(side, side)
            product = partial(torch.mm, a, b, out=out)
            best = max(best, 2.0 * side**3 / best_seconds(product, repeats, warm=best > 0))
    return best


def copy_rate(megabytes: int = 256) -> float:
    """Return the bytes read and written in a second by a copy, all threads."""
    a = torch.ones(megabytes * 250_000)
    b = torch.empty_like(a)
    return 8.0 * a.numel() / best_seconds(lambda: b.copy_(a), 3)


def read_rate(cube: Path, names: Sequence[str], cells: tuple[int, int], steps: slice, threads: int) -> float:
    """Return the bytes of float32 that the tiles of a map are read with in a second.

    Parameters
    ----------
    cube : Path
    names : sequence of str
        Forcings.
    cells : (rows, columns)
        From the upper left, cut into tiles of 32 x 32.
    steps : slice
        Days.
    threads : int
        Tiles read side by side.

    Returns
    -------
    rate : float, B/s
        Files stand in the system's cache, as they do when they were written a moment ago.
    """
    opened, spec = open_reader(str(cube)), InputSpec(tuple(names))
    tiles = [(slice(r, r + 32), slice(c, c + 32)) for r in range(0, cells[0], 32) for c in range(0, cells[1], 32)]

    def read(tile: tuple[slice, slice]) -> int:
        return sum(values.nbytes for values in read_tile(opened, spec, steps, *tile).values())

    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        count = sum(pool.map(read, tiles))
        return count / (time.perf_counter() - begun)


def bytes_read() -> float:
    """Return the bytes that this process has read from files so far; NaN where the system does not say (not Linux)."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("rchar:"))
    except (OSError, StopIteration):
        return float(np.nan)


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, instruction set and memory."""
    found = versions()
    return {
        "processor": found["processor"],
        "machine": found["machine"],
        "cores": cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": _memory() / 1e9,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _memory() -> float:
    """Return the memory of the machine, B; NaN where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return float(np.nan)
