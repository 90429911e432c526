"""How a cube is cut into chunks, and what that costs a map that reads it tile by tile and year by year."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from fluxgrid.data.cube.build import step_of
from fluxgrid.data.steps import Step

TILE_CHUNK = (73, 32, 32)
"""Daily steps and cells of a chunk as maps read them: a calendar year of a tile touches at most seven of 0.3 MB.

Chunks of 365 steps read no faster (within a tenth, measured), but a year then mostly takes two of them, and writing
them again takes five times the memory.
"""

_MONTHS = 24  # of a monthly cube: a year takes one or two

MUCH_READING = 4.0
"""Bytes decoded over those that chunks of `tile_chunk` would take, from which on a cube is worth writing again."""


@dataclass(frozen=True)
class Reading:
    """What a map of a cube decodes for each byte it needs."""

    factor: float
    """As the cube is cut."""
    least: float
    """As `tile_chunk` would cut it."""

    @property
    def wasteful(self) -> bool:
        """Whether other chunks are worth the copy."""
        return self.factor >= MUCH_READING * self.least


def tile_chunk(step: Step | None) -> tuple[int, int, int]:
    """Return steps, rows and columns of the chunks that serve maps of a step.

    Examples
    --------
    >>> tile_chunk("daily"), tile_chunk("monthly")
    ((73, 32, 32), (24, 32, 32))
    """
    return (_MONTHS, *TILE_CHUNK[1:]) if step == "monthly" else TILE_CHUNK


def reading_of(
    cube: xr.Dataset, names: Iterable[str], steps: Sequence[slice], rows: Sequence[slice], cols: Sequence[slice]
) -> Reading:
    """Return how many bytes are decoded for each byte that is needed, from the layout alone.

    A chunk is decoded whole each time a window touches it.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`.
    names : iterable of str
        Variables that are read.
    steps, rows, cols : sequence of slice
        Every combination of them is read on its own: years x rows and columns of the tiles.

    Returns
    -------
    reading : Reading
        With factors of 1 where windows are whole chunks, and where nothing is read.
    """
    windows = {"time": steps, "y": rows, "x": cols}
    best = dict(zip(windows, tile_chunk(step_of(cube)), strict=True))
    needed = decoded = least = 0.0
    for name in names:
        array = cube[name]
        axes = [str(axis) for axis in array.dims]
        values = array.data
        sizes = values.chunks if isinstance(values, da.Array) else tuple((n,) for n in array.shape)
        weight = array.dtype.itemsize * (1 if "time" in axes else len(steps))  # statics are read again for each year
        covers = [_cover(chunks, windows[axis]) for chunks, axis in zip(sizes, axes, strict=True)]
        even = [_cover(even_cuts(cube.sizes[axis], best[axis]), windows[axis]) for axis in axes]
        needed += weight * prod(need for need, _ in covers)
        decoded += weight * prod(cover for _, cover in covers)
        least += weight * prod(cover for _, cover in even)
    return Reading(decoded / needed, least / needed) if needed else Reading(1.0, 1.0)


def even_cuts(length: int, size: int) -> tuple[int, ...]:
    """Cut a length into parts of one size, the last perhaps shorter.

    Examples
    --------
    >>> even_cuts(7, 3)
    (3, 3, 1)
    """
    whole, rest = divmod(length, size)
    return (size,) * whole + ((rest,) if rest else ())


def rechunk_advice(cube: xr.Dataset, reading: Reading) -> tuple[str, ...]:
    """Return what to do about a cube that is read much more often than it is needed; nothing where it is not.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`.
    reading : Reading
        From `reading_of`.

    Returns
    -------
    advice : tuple of str
        One, or none.
    """
    if not reading.wasteful:
        return ()
    source = str(cube.encoding.get("source", "CUBE"))
    stem = "cube" if any(letter in source for letter in "*?[") else Path(source).stem or "cube"
    words = ["fluxgrid", "cube", "rechunk", source, f"{stem}_tiles.zarr"]
    if mapping := cube.encoding.get("mapping"):
        words += ["--mapping", str(mapping)]
    return (
        f"The chunks of the cube are cut for maps of single steps: tiles decode {reading.factor:.0f} times the bytes "
        f"they need, and reading may take longer than predicting. Cut it anew: `{shlex.join(words)}`.",
    )


def _cover(chunks: tuple[int, ...], windows: Sequence[slice]) -> tuple[float, float]:
    """Return the length of all windows along an axis, and of all chunks they touch."""
    ends = np.cumsum(chunks)
    starts = ends - chunks
    needed = decoded = 0.0
    for window in windows:
        stop = min(window.stop, int(ends[-1]))
        needed += max(stop - window.start, 0)
        decoded += float(np.sum(np.asarray(chunks)[(starts < stop) & (ends > window.start)]))
    return needed, decoded
