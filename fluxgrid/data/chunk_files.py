"""Windows of zarr arrays on this machine, decoded from their chunk files by the thread that asks.

zarr hands each chunk to an event loop and a pool of threads that all callers share. Where the files are near, that
costs more than reading and decoding them, and tiles read side by side wait for each other.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Sequence
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
        spans = [
            [_meet(part, place, size) for place in range(part.start // size, -(-part.stop // size))]
            for part, size in zip(window, self.chunks, strict=True)
        ]
        for meeting in product(*spans):
            place, inside, there = zip(*meeting, strict=True) if meeting else ((), (), ())
            chunk = self._chunk(place)
            values[there] = self.fill if chunk is None else chunk[inside]
        return values

    def _chunk(self, place: tuple[int, ...]) -> np.ndarray | None:
        """Return a decoded chunk; None where there is no file."""
        path = f"{self.folder}/{self.key(place)}"
        data: Any = chunk_bytes(path)
        if data is None:
            return None
        try:
            for decode in self.decoders:
                data = decode(data)
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
    stored, decoders = encoding
    fill = stored.type(0) if array.fill_value is None else array.fill_value
    folder = Path(array.store.root) / array.path
    return ChunkFiles(folder, array.shape, array.chunks, stored, fill, array.metadata.encode_chunk_key, decoders)


def _meet(part: slice, place: int, size: int) -> tuple[int, slice, slice]:
    """Return where chunk and window meet along a dimension: the place of the chunk, in the chunk, in the window."""
    start, stop = max(part.start, place * size), min(part.stop, (place + 1) * size)
    return place, slice(start - place * size, stop - place * size), slice(start - part.start, stop - part.start)


def _encoding_v3(array: zarr.Array) -> tuple[np.dtype, tuple[Decoder, ...]] | None:
    """Return type and decoders of an array of format 3; None if others are needed."""
    about: dict[str, Any] = array.metadata.to_dict()
    first, *rest = about["codecs"]
    if about["chunk_grid"]["name"] != "regular" or first["name"] != "bytes":
        return None
    if any(codec["name"] not in _DECODERS for codec in rest):
        return None
    endian = first.get("configuration", {}).get("endian", "little")
    return array.dtype.newbyteorder(endian), tuple(_DECODERS[codec["name"]] for codec in reversed(rest))


def _encoding_v2(array: zarr.Array) -> tuple[np.dtype, tuple[Decoder, ...]] | None:
    """Return type and decoders of an array of format 2; None with filters or the first index running fastest."""
    if array.filters or array.order != "C":
        return None
    codecs: tuple[Any, ...] = array.compressors
    return array.dtype, tuple(_blosc if isinstance(codec, numcodecs.Blosc) else codec.decode for codec in codecs)


def _blosc(data: Any) -> Any:
    """Return the content of a blosc container, whose length is checked first: the decoder would read past its end."""
    whole = int.from_bytes(bytes(data[12:_BLOSC_HEADER]), "little") if len(data) >= _BLOSC_HEADER else _BLOSC_HEADER
    if len(data) < whole:
        message = f"it has {len(data)} bytes of {whole}"
        raise ValueError(message)
    return _BLOSC.decode(data)


_BLOSC = numcodecs.Blosc()  # what was compressed how stands in each container
_DECODERS: dict[str, Decoder] = {
    "blosc": _blosc,
    "zstd": numcodecs.Zstd().decode,
    "gzip": numcodecs.GZip().decode,
    "crc32c": numcodecs.get_codec({"id": "crc32c", "location": "end"}).decode,
}
