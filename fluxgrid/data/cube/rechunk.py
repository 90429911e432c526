"""Write covariates again in chunks of many steps and few cells, as maps read them, in bounded memory.

A cube of one chunk per day is decoded whole for each tile. Copying it once needs a transposition on disk, of which only
a part fits in memory. dask's p2p rechunk bounds memory too, but for the price of a cluster, a task for each pair of
chunks (millions for a continent at 250 m) and a second copy of the whole cube; the library rechunker does not know
zarr 3. Here one variable at a time is copied in blocks that fit a stated budget. Where a source chunk is so wide that
blocks would decode it again and again, a scratch array between the two makes every chunk decoded about once; it takes
the disk of that one variable and is gone with the end of the copy.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from fluxgrid.data.cube.build import as_mapping
from fluxgrid.data.cube.chunks import even_cuts, tile_chunk
from fluxgrid.data.cube.layout import Layout, survey
from fluxgrid.data.cube.stores import StorePath, open_raw, stored_unlike
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import CubeError, OutputError, itemise
from fluxgrid.files import atomic_folder

BUDGET_BYTES = 10**9
"""Most memory of the arrays of a copy, beside the half gigabyte of the libraries."""

_COPIES = 4  # of a block at a time: read, decoded by the library, cut for writing, and summed
_ENOUGH = 2.5  # decoding a source chunk this often costs less than a scratch copy
_MASK = 2**64 - 1

_COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")  # reads two to three times as fast as zstd

Block = tuple[slice, ...]


@dataclass(frozen=True)
class Rechunked:
    """What was written."""

    path: Path
    variables: tuple[str, ...]
    """Those that were cut anew."""
    chunks: tuple[int, int, int]
    """Steps, rows and columns of a chunk."""
    bytes_read: int
    """As stored values take, without compression."""
    bytes_on_disk: int
    checksums: dict[str, str]
    """Of each variable, as read from the source and as read back from the target; they agree."""


def rechunk(
    source: StorePath,
    target: Path | str,
    mapping: CubeMapping | Path | str | None = None,
    budget: int = BUDGET_BYTES,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    replace: bool = False,
) -> Rechunked:
    """Copy covariates to a zarr store in chunks that maps read fast.

    Names, attributes, types, packing and every bit of the values stay; only the chunks and the codec change. Of several
    files that pack a variable or count time each in its own way, as those of ERA5 may, its decoded values are copied:
    dates, or numbers in single precision. The store is read back and compared, and appears whole or not at all.

    Parameters
    ----------
    source : StorePath
        A zarr store, a NetCDF file, or several that follow each other in time.
    target : path
        The zarr store to make.
    mapping : CubeMapping, path or str, optional
        Needed where the file does not say which dimension is which.
    budget : int
        Most bytes of the arrays held at a time.
    progress : callable
        Called with the megabytes copied and those of all.
    replace : bool
        Whether a store at `target` may be replaced.

    Returns
    -------
    rechunked : Rechunked

    Raises
    ------
    CubeError
        If dimensions cannot be told, or the source cannot be read or has chunks larger than the budget, or its files
        differ in the unit of a variable or in the calendar.
    OutputError
        If the store cannot be written, or does not read back as it was read.
    """
    unlike = stored_unlike(source)
    layout = _layout(source, mapping)
    raw = open_raw(source, decode=unlike or False)
    chunks = tile_chunk(layout.step)
    sizes = dict(zip((layout.dims[axis] for axis in ("time", "y", "x")), chunks, strict=True))
    names = [str(name) for name, v in raw.variables.items() if {layout.dims["y"], layout.dims["x"]} <= set(v.dims)]
    for name in names:
        raw[name] = _single(raw[name]) if unlike.get(name) else raw[name]
    _check_chunks(raw, names, budget, source)
    total = sum(raw[name].nbytes for name in names)
    checksums = {}
    with atomic_folder(target, replace) as folder:
        _write_frame(folder, raw, names, sizes)
        done = 0
        for name in names:
            copy = _Copy(raw[name], zarr.open_array(folder / name, mode="r+"), folder / f"{name}.scratch", budget)
            for moved in copy.run():
                done += moved
                progress(done // 10**6, total // 10**6)
            checksums[name] = copy.verified(target)
        _check_frame(folder, raw, names, target, unlike or False)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Rechunked(Path(target), tuple(names), chunks, total, size, checksums)


def _layout(source: StorePath, mapping: CubeMapping | Path | str | None) -> Layout:
    """Return which dimension is which; other problems of a cube do not matter for a copy."""
    layout = survey(open_raw(source), as_mapping(mapping))
    if not {"time", "y", "x"} <= set(layout.dims):
        header = f"{source} cannot be cut anew (name its dimensions in a mapping, dims:)"
        raise CubeError(itemise(header, layout.problems))
    return layout


def _single(array: xr.DataArray) -> xr.DataArray:
    """Return decoded values in single precision, finer than what two bytes can hold, still as their files cut them."""
    single = array.astype(np.float32) if array.dtype == np.float64 else array
    single.encoding = array.encoding
    return single


def _check_chunks(raw: xr.Dataset, names: Sequence[str], budget: int, source: StorePath) -> None:
    """Refuse source chunks that do not fit, before anything is written."""
    largest = {name: prod(source_chunk(raw[name])) * raw[name].dtype.itemsize for name in names}
    problems = [
        f"{name}: a chunk takes {size / 1e9:.2f} GB decoded; say --memory {size * _COPIES / 1e9:.1f} or more"
        for name, size in largest.items()
        if size * _COPIES > budget
    ]
    if problems:
        header = f"{source} has chunks too large to be copied in {budget / 1e9:.1f} GB of memory"
        raise CubeError(itemise(header, problems))


def _write_frame(folder: Path, raw: xr.Dataset, names: Sequence[str], sizes: dict[str, int]) -> None:
    """Write all metadata and small variables, and declare the large ones."""
    template = raw.drop_encoding()
    for name in set(raw.variables).difference(names):
        template.variables[name].load()  # what dask holds is not written here
    for name in names:
        array = template[name]
        # empty dask arrays in a few large chunks: a declaration, without a task for each chunk
        empty = da.empty(array.shape, dtype=array.dtype, chunks=array.shape)
        template[name] = (array.dims, empty, array.attrs)
        chunks = tuple(min(sizes.get(str(dim), n), n) for dim, n in zip(array.dims, array.shape, strict=True))
        template[name].encoding = {"chunks": chunks, "compressors": [_COMPRESSOR]}
    with warnings.catch_warnings():
        # Readers look for consolidated metadata and warn without it; zarr warns that they are not yet in its standard.
        warnings.simplefilter("ignore")
        template.to_zarr(folder, mode="w", compute=False, zarr_format=3)


def _check_frame(
    folder: Path, raw: xr.Dataset, names: Sequence[str], target: Path | str, decode: bool | Mapping[str, bool]
) -> None:
    """Compare attributes, types, shapes and small variables with the source."""
    found = open_raw(folder, decode=decode)
    small = [name for name in raw.variables if name not in names]
    problems = [] if found.attrs == raw.attrs else ["attributes of the store differ"]
    if set(found.variables) != set(raw.variables):
        problems.append(f"variables are {sorted(map(str, found.variables))}, not {sorted(map(str, raw.variables))}")
    else:
        problems += [f"{n}: attributes, type or shape differ" for n in names if not _same_frame(found[n], raw[n])]
        unlike = [n for n in small if not found[n].variable.identical(raw[n].variable)]
        problems += [f"{n}: values or attributes differ" for n in unlike]
    if problems:
        raise OutputError(itemise(f"{target} does not read back as its source", problems))


def _same_frame(a: xr.DataArray, b: xr.DataArray) -> bool:
    """Compare all of two variables but their values."""
    return (a.dims, a.shape, a.dtype) == (b.dims, b.shape, b.dtype) and xr.core.utils.dict_equiv(a.attrs, b.attrs)


class _Copy:
    """The copy of one variable."""

    def __init__(self, source: xr.DataArray, target: zarr.Array, scratch: Path, budget: int):
        self.source, self.target, self.scratch = source, target, scratch
        self.most = budget // _COPIES // source.dtype.itemsize
        self.read_sum = 0

    def run(self) -> Iterator[int]:
        """Copy, yielding the bytes each block moved."""
        shape, chunks = self.source.shape, self.target.chunks
        cuts = _cuts(self.source)
        extent, factor = best_extent(shape, chunks, cuts, self.most)
        if factor <= _ENOUGH:
            yield from self._move(self.source, self.target, extent, count=True)
            return
        there = _grow(source_chunk(self.source), shape, self.most)
        between = tuple(min(a, b) for a, b in zip(there, _grow(chunks, shape, self.most), strict=True))
        middle = zarr.create_array(
            self.scratch, shape=shape, chunks=between, dtype=self.source.dtype, compressors=_COMPRESSOR
        )
        for moved in self._move(self.source, middle, there, count=True):
            yield moved // 2
        extent, _ = best_extent(
            shape, chunks, [even_cuts(n, c) for n, c in zip(shape, between, strict=True)], self.most
        )
        for moved in self._move(middle, self.target, extent, count=False):
            yield moved - moved // 2
        shutil.rmtree(self.scratch, ignore_errors=True)

    def verified(self, path: Path | str) -> str:
        """Return the checksum of the target read back, after comparing it with what was read."""
        found = 0
        for block in blocks_of(self.target.shape, _grow(self.target.chunks, self.target.shape, self.most)):
            found = (found + checksum(_read(self.target, block), block, self.target.shape)) & _MASK
        if found != self.read_sum:
            message = f"{path}: {self.source.name} does not read back as written; the disk may be failing. Run again."
            raise OutputError(message)
        return f"{found:016x}"

    def _move(self, source: Any, target: zarr.Array, extent: Sequence[int], count: bool) -> Iterator[int]:
        """Copy block by block."""
        for block in blocks_of(self.source.shape, extent):
            values = _read(source, block)
            target[block] = values
            if count:
                self.read_sum = (self.read_sum + checksum(values, block, self.source.shape)) & _MASK
            yield values.nbytes


def _read(source: Any, block: Block) -> np.ndarray:
    """Read a block of stored values."""
    try:
        part = source[block]
        return np.asarray(part.values if isinstance(part, xr.DataArray) else part)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        name = getattr(source, "name", "the copy")
        where = ", ".join(f"{part.start}:{part.stop}" for part in block)
        message = f"{name!r} cannot be read at {where} ({type(error).__name__}: {error}): a chunk is damaged. Mend it."
        raise CubeError(message) from error


def source_chunk(array: xr.DataArray) -> tuple[int, ...]:
    """Return the lengths of the largest chunk of an array; a row of cells where it is stored in one piece."""
    return tuple(max(cuts) for cuts in _cuts(array))


def _cuts(array: xr.DataArray) -> list[tuple[int, ...]]:
    """Return the chunk lengths along each dimension as the file stores them."""
    stored = array.encoding.get("preferred_chunks") or {}
    if stored:
        return [even_cuts(n, int(stored.get(dim, n))) for dim, n in zip(array.dims, array.shape, strict=True)]
    return [even_cuts(n, 1 if i < array.ndim - 1 else n) for i, n in enumerate(array.shape)]


def best_extent(
    shape: Sequence[int], chunks: Sequence[int], cuts: Sequence[Sequence[int]], most: int
) -> tuple[tuple[int, ...], float]:
    """Return the lengths of the blocks, whole target chunks, that decode source chunks the least.

    Parameters
    ----------
    shape, chunks : sequence of int
        Of the target.
    cuts : sequence of sequence of int
        Lengths of the source chunks along each dimension.
    most : int
        Values a block may hold.

    Returns
    -------
    extent : tuple of int
    factor : float
        How often each source chunk is decoded, in the mean.

    Examples
    --------
    >>> best_extent((73, 64, 64), (73, 32, 32), [(1,) * 73, (64,), (64,)], 73 * 64 * 64)
    ((73, 64, 64), 1.0)
    >>> best_extent((73, 64, 64), (73, 32, 32), [(1,) * 73, (64,), (64,)], 73 * 32 * 64)
    ((73, 32, 64), 2.0)
    """
    choices = [_choices(n, c, part) for n, c, part in zip(shape, chunks, cuts, strict=True)]
    fitting = [pick for pick in product(*choices) if prod(length for length, _ in pick) <= most]
    if not fitting:
        fitting = [tuple(min(choice) for choice in choices)]
    best = min(fitting, key=lambda pick: (prod(f for _, f in pick), prod(length for length, _ in pick)))
    return tuple(length for length, _ in best), float(prod(factor for _, factor in best))


def _choices(length: int, chunk: int, cuts: Sequence[int]) -> list[tuple[int, float]]:
    """Return lengths of whole chunks, doubling, and how often each source chunk is touched by blocks of that length."""
    found, size = [], min(chunk, length)
    ends = np.cumsum(cuts)
    starts = ends - np.asarray(cuts)
    while True:
        touched = (ends - 1) // size - starts // size + 1
        found.append((size, float((touched * cuts).sum() / length)))
        if size >= length:
            return found
        size = min(2 * size, length)


def _grow(chunk: Sequence[int], shape: Sequence[int], most: int) -> tuple[int, ...]:
    """Return whole chunks, as many as fit: first along the last dimensions, which lie together on disk."""
    extent = [min(c, n) for c, n in zip(chunk, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        room = most // prod(extent)
        extent[axis] = min(shape[axis], extent[axis] * max(1, room))
    return tuple(extent)


def blocks_of(shape: Sequence[int], extent: Sequence[int]) -> Iterator[Block]:
    """Yield slices that cover an array in blocks."""
    yield from product(*([slice(a, min(a + e, n)) for a in range(0, n, e)] for n, e in zip(shape, extent, strict=True)))


def checksum(values: np.ndarray, block: Block, shape: Sequence[int]) -> int:
    """Return a sum of the bits of a block, each weighted by its place in the array.

    Sums of blocks add up (modulo 2^64) to that of the array however it is cut, so that an array can be compared with a
    copy that is read in another order. A flipped bit, a lost chunk and two cells that changed places all change it.

    Parameters
    ----------
    values : ndarray
    block : tuple of slice
        Where it stands.
    shape : sequence of int
        Of the whole array.

    Returns
    -------
    sum : int
        0 to 2^64 - 1.
    """
    words = np.ascontiguousarray(values)
    words = words.view(f"u{words.dtype.itemsize}").reshape(-1, *words.shape[1:])
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    spans = [np.arange(part.start, part.stop, dtype=np.uint64) for part in block]
    plane: Any = np.uint64(1)
    for axis in range(1, len(shape)):
        span = spans[axis] * np.uint64(2 * strides[axis])
        plane = plane + span.reshape(-1, *([1] * (len(shape) - axis - 1)))
    total = 0
    for row, first in zip(words, spans[0], strict=True):
        large = row.astype(np.uint64)
        total += int((large * plane).sum()) + 2 * strides[0] * int(first) * int(large.sum())
    return total & _MASK
