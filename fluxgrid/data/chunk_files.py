"""Windows of zarr arrays on this machine, their chunk files decoded and encoded by the thread that asks.

zarr hands each chunk to an event loop and a pool of threads that all callers share. Where the files are near, that
costs more than reading and decoding them, and tiles read and written side by side wait for each other.
"""

from __future__ import annotations

import lzma
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.storage import LocalStore

UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, zlib.error, lzma.LZMAError)
"""What zarr, its codecs and the system raise for chunks that cannot be read."""

Decoder = Callable[[Any], Any]
"""From the bytes of a file, or what another made of them, to fewer encodings."""
Encoder = Callable[[Any], Any]
"""The way back."""
Cut = tuple[slice, ...]
"""Part of an array, a slice for each dimension."""

_NUMBERS = "fiub"
_BLOSC_HEADER = 16


@dataclass(frozen=True, eq=False)
class ChunkFiles:
    """The chunk files of one array; safe to share between threads."""

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    stored: np.dtype
    """Type of the numbers in a decoded chunk."""
    fill: Any
    """Value of chunks without a file."""
    key: Callable[[tuple[int, ...]], str]
    """From the place of a chunk to its file in the folder."""
    decoders: tuple[Decoder, ...]
    """Applied to the bytes of a file in turn."""
    encoders: tuple[Encoder, ...] | None = None
    """Applied to the numbers of a chunk in turn; None where only reading is known."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the values, in the byte order of the machine."""
        return self.stored.newbyteorder("=")

    def read(self, window: Sequence[slice], out: np.ndarray | None = None) -> np.ndarray:
        """Return a window of the array.

        Parameters
        ----------
        window : sequence of slice
            For each dimension, with start and stop inside the array and no step.
        out : ndarray, optional
            Where the values go, of the shape of the window; any strides.

        Returns
        -------
        values : ndarray
            ``out`` where it is given.

        Raises
        ------
        OSError, ValueError
            If a file cannot be read or decoded, naming it.
        """
        values = np.empty([part.stop - part.start for part in window], self.dtype) if out is None else out
        for place, inside, there in self._meetings(window):
            part = values[there]
            chunk = self._chunk(place, part if self._fits(part) else None)
            if chunk is not part:
                values[there] = self.fill if chunk is None else chunk[inside]
        return values

    def _meetings(self, window: Sequence[slice]) -> Iterator[tuple[tuple[int, ...], Cut, Cut]]:
        """Yield the chunks that meet a window: the place of each, and where they meet in it and in the window."""
        spans = [
            [_meet(part, place, size) for place in range(part.start // size, -(-part.stop // size))]
            for part, size in zip(window, self.chunks, strict=True)
        ]
        for meeting in product(*spans):
            place, inside, there = zip(*meeting, strict=True) if meeting else ((), (), ())
            yield place, inside, there

    def _fits(self, part: np.ndarray) -> bool:
        """Return whether a chunk may be decoded straight into a part of the values."""
        whole = isinstance(part, np.ndarray) and part.shape == self.chunks and part.flags.c_contiguous
        return whole and part.dtype == self.stored and self.decoders[-1:] == (_blosc,)

    def write(self, window: Sequence[slice], values: np.ndarray) -> None:
        """Write a window that is a whole number of chunks, or goes up to the edge of the array.

        Each file is the old one or the new one at any moment. Chunks that hold nothing but the fill value have none, as
        zarr leaves them.

        Parameters
        ----------
        window : sequence of slice
            For each dimension, with start and stop inside the array and no step.
        values : ndarray
            Of the type and shape of the window.

        Raises
        ------
        OSError
            If a file cannot be written.
        ValueError
            If values or window do not fit the chunks, or these are encoded as only zarr can.
        """
        shape = tuple(part.stop - part.start for part in window)
        edges = zip(window, self.shape, self.chunks, strict=True)
        whole = all(w.start % size == 0 and (w.stop % size == 0 or w.stop == n) for w, n, size in edges)
        if self.encoders is None or not whole or values.shape != shape or values.dtype != self.dtype:
            message = f"values of {values.dtype} {values.shape} are not whole chunks of {self.folder} at {window}"
            raise ValueError(message)
        for place, inside, there in self._meetings(window):
            part = values[there]
            if part.shape != self.chunks:  # at the edge
                chunk = np.full(self.chunks, self.fill, self.stored)
                chunk[inside] = part
            else:
                chunk = np.ascontiguousarray(part, self.stored)
            self._put(self.folder / self.key(place), chunk)

    def _put(self, path: Path, chunk: np.ndarray) -> None:
        """Write one chunk, or remove its file if it is empty."""
        if self._is_empty(chunk):
            path.unlink(missing_ok=True)
            return
        data: Any = chunk
        for encode in self.encoders or ():
            data = encode(data)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            _write(draft, data)
            draft.replace(path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise

    def _is_empty(self, chunk: np.ndarray) -> bool:
        """Return whether every number has the bits of the fill value."""
        fill = np.full((), self.fill, self.stored).tobytes()
        flat = chunk.reshape(-1)
        return flat[:1].tobytes() == fill and flat[-1:].tobytes() == fill and flat.tobytes() == fill * flat.size

    def _chunk(self, place: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray | None:
        """Return a decoded chunk, `out` where that is given and fits; None where there is no file."""
        path = f"{self.folder}/{self.key(place)}"
        data: Any = chunk_bytes(path)
        if data is None:
            return None
        try:
            for decode in self.decoders if out is None else self.decoders[:-1]:
                data = decode(data)
            if out is not None:
                return _blosc_into(data, out)
            return np.frombuffer(data, self.stored).reshape(self.chunks)
        except UNREADABLE as error:
            message = f"{path} cannot be decoded ({type(error).__name__}: {error})"
            raise ValueError(message) from error


def chunk_bytes(path: str) -> bytes | None:
    """Return the content of a chunk file, encoded as it is.

    Parameters
    ----------
    path : str
        Text, for a `Path` costs as much as the reading.

    Returns
    -------
    data : bytes or None
        None where there is no file: zarr takes such chunks for never written.

    Raises
    ------
    OSError
        If there is one that cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _write(path: Path, data: Any) -> None:
    """Write a file, and the folders above it where they are missing."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def chunk_files(array: zarr.Array) -> ChunkFiles | None:
    """Return the chunk files of an array.

    Parameters
    ----------
    array : zarr.Array
        Of either format.

    Returns
    -------
    files : ChunkFiles or None
        None where zarr itself must read: stores elsewhere, shards, filters, other chunk grids, codecs or types.
    """
    if not isinstance(array.store, LocalStore) or array.dtype.kind not in _NUMBERS:
        return None
    encoding = (_encoding_v3 if array.metadata.zarr_format == 3 else _encoding_v2)(array)
    if encoding is None:
        return None
    stored, decoders, encoders = encoding
    fill = stored.type(0) if array.fill_value is None else array.fill_value
    folder, key = Path(array.store.root) / array.path, array.metadata.encode_chunk_key
    return ChunkFiles(folder, array.shape, array.chunks, stored, fill, key, decoders, encoders)


def _meet(part: slice, place: int, size: int) -> tuple[int, slice, slice]:
    """Return where chunk and window meet along a dimension: the place of the chunk, in the chunk, in the window."""
    start, stop = max(part.start, place * size), min(part.stop, (place + 1) * size)
    return place, slice(start - place * size, stop - place * size), slice(start - part.start, stop - part.start)


_Encoding = tuple[np.dtype, tuple[Decoder, ...], tuple[Encoder, ...] | None]


def _encoding_v3(array: zarr.Array) -> _Encoding | None:
    """Return type, decoders and encoders of an array of format 3; None if others are needed."""
    about: dict[str, Any] = array.metadata.to_dict()
    first, *rest = about["codecs"]
    if about["chunk_grid"]["name"] != "regular" or first["name"] != "bytes":
        return None
    if any(codec["name"] not in _DECODERS for codec in rest):
        return None
    endian = first.get("configuration", {}).get("endian", "little")
    known = [codec["name"] for codec in rest] in _WRITTEN
    encoders = tuple(_ENCODERS[codec["name"]](codec.get("configuration", {})) for codec in rest) if known else None
    return array.dtype.newbyteorder(endian), tuple(_DECODERS[codec["name"]] for codec in reversed(rest)), encoders


def _encoding_v2(array: zarr.Array) -> _Encoding | None:
    """Return type and decoders of an array of format 2; None with filters or the first index running fastest."""
    if array.filters or array.order != "C":
        return None
    codecs: tuple[Any, ...] = array.compressors
    decoders = tuple(_blosc if isinstance(codec, numcodecs.Blosc) else codec.decode for codec in codecs)
    return array.dtype, decoders, None


def _blosc(data: Any) -> Any:
    """Return the content of a blosc container."""
    _check_blosc(data)
    return _BLOSC.decode(data)


def _blosc_into(data: Any, out: np.ndarray) -> np.ndarray:
    """Fill an array with the content of a blosc container and return it."""
    held = _check_blosc(data)
    if held != out.nbytes:
        message = f"it holds {held} bytes and not {out.nbytes}"
        raise ValueError(message)
    _BLOSC.decode(data, out)
    return out


def _check_blosc(data: Any) -> int:
    """Check the length of a container, past whose end the decoder would read, and return that of its content."""
    header = bytes(data[:_BLOSC_HEADER])
    whole = int.from_bytes(header[12:], "little") if len(header) == _BLOSC_HEADER else _BLOSC_HEADER
    if len(data) < whole:
        message = f"it has {len(data)} bytes of {whole}"
        raise ValueError(message)
    return int.from_bytes(header[4:8], "little")


_BLOSC = numcodecs.Blosc()  # what was compressed how stands in each container
_DECODERS: dict[str, Decoder] = {
    "blosc": _blosc,
    "zstd": numcodecs.Zstd().decode,
    "gzip": numcodecs.GZip().decode,
    "crc32c": numcodecs.get_codec({"id": "crc32c", "location": "end"}).decode,
}


def _blosc_encoder(about: dict[str, Any]) -> Encoder:
    """Return what writes containers of blosc as the metadata of an array say."""
    shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
    codec = numcodecs.Blosc(about["cname"], about["clevel"], shuffles[about["shuffle"]], about["blocksize"])
    return codec.encode  # takes the size of a number from the array it is given


_ENCODERS: dict[str, Callable[[dict[str, Any]], Encoder]] = {
    "blosc": _blosc_encoder,
    "crc32c": lambda _: numcodecs.get_codec({"id": "crc32c", "location": "end"}).encode,
}
"""By name, from the configuration of a codec."""
_WRITTEN: tuple[list[str], ...] = [], ["blosc"], ["blosc", "crc32c"]
"""Chains that are written: blosc must see the numbers themselves."""
