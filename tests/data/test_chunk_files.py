"""Chunk files read without zarr: bit for bit what zarr reads, or left to it."""

import multiprocessing as mp
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from fluxgrid.data.chunk_files import UNREADABLE, chunk_files

SHAPE, CHUNKS = (23, 10, 14), (5, 4, 6)

V3 = {
    "lz4": {"compressors": BloscCodec(cname="lz4")},
    "bitshuffle": {"compressors": BloscCodec(cname="zstd", shuffle="bitshuffle"), "dtype": "int16"},
    "blosclz": {"compressors": BloscCodec(cname="blosclz", shuffle="noshuffle"), "dtype": "float64"},
    "checksum": {"compressors": [BloscCodec(cname="lz4"), Crc32cCodec()]},
    "zstd": {"compressors": ZstdCodec(checksum=True), "fill_value": 7.5},
    "gzip": {"compressors": GzipCodec(), "dtype": "uint8", "fill_value": 255},
    "none": {"compressors": None, "dtype": "bool", "fill_value": False},
    "big": {"compressors": ZstdCodec(), "serializer": BytesCodec(endian="big"), "dtype": "int32", "fill_value": -9},
    "half": {"compressors": [ZstdCodec(), GzipCodec()], "dtype": "float16"},
}
V2 = {
    "blosc": {"compressors": numcodecs.Blosc("zlib")},
    "v2_zstd": {"compressors": numcodecs.Zstd(), "fill_value": None},
    "zlib": {"compressors": numcodecs.Zlib(), "dtype": ">i2", "fill_value": -999},
    "v2_gzip": {"compressors": numcodecs.GZip(), "dtype": ">f4"},
    "v2_lz4": {"compressors": numcodecs.LZ4(), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "bz2": {"compressors": numcodecs.BZ2()},
    "lzma": {"compressors": numcodecs.LZMA()},
    "v2_none": {"compressors": None, "dtype": "int8", "fill_value": None},
}
LEFT = {
    "shards": {"shards": (10, 8, 12), "compressors": ZstdCodec()},
    "transposed": {"filters": [TransposeCodec(order=(2, 0, 1))]},
    "fortran": {"zarr_format": 2, "order": "F"},
    "filtered": {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="f4")]},
    "text": {"dtype": "U4", "fill_value": ""},
}


def make(path, dtype="float32", fill_value=0.0, **options):
    """Return an array whose first 15 steps are written, NaN and -0 among them, so that some chunks are missing."""
    array = zarr.create_array(str(path), shape=SHAPE, chunks=CHUNKS, dtype=dtype, fill_value=fill_value, **options)
    values = (np.random.default_rng(0).standard_normal(SHAPE) * 100).astype(array.dtype)
    if array.dtype.kind == "f":
        values[3, 2], values[4, 5] = np.nan, -0.0
    array[:15] = values[:15]
    return zarr.open_array(str(path), mode="r")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    made = {name: make(folder / name, **options) for name, options in V3.items()}
    return made | {name: make(folder / name, zarr_format=2, **options) for name, options in V2.items()}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*V3, *V2]), data=st.data())
def test_every_window_has_the_bits_that_zarr_reads(arrays, name, data):
    array = arrays[name]
    starts = [data.draw(st.integers(0, size - 1)) for size in SHAPE]
    window = tuple(slice(a, data.draw(st.integers(a, size))) for a, size in zip(starts, SHAPE, strict=True))
    expected, found = array[window], chunk_files(array).read(window)
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.tobytes() == expected.astype(found.dtype).tobytes()


def test_values_go_where_they_are_wanted(arrays):
    window = slice(2, 20), slice(1, 9), slice(3, 14)
    out = np.zeros((11, 18, 8), "float32")
    chunk_files(arrays["lz4"]).read(window, out[:, :, ::-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(out, arrays["lz4"][window][:, ::-1].transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("name", LEFT)
def test_what_is_stored_otherwise_is_left_to_zarr(tmp_path, name):
    options = {"dtype": "float32", "fill_value": 0.0} | LEFT[name]
    array = zarr.create_array(str(tmp_path / name), shape=SHAPE, chunks=CHUNKS, **options)
    assert chunk_files(array) is None
    assert chunk_files(zarr.create_array(zarr.storage.MemoryStore(), shape=SHAPE, dtype="f4")) is None


# what follows the end of compressed bytes is ignored, as zarr does
@pytest.mark.parametrize(
    ("name", "damage"),
    [*product([*V3, *V2], ["cut", "empty"]), ("none", "longer"), ("v2_none", "longer"), ("checksum", "longer")],
)
def test_a_chunk_of_another_length_is_an_error_that_names_it(tmp_path, name, damage):
    array = make(tmp_path / name, **({"zarr_format": 2} if name in V2 else {}), **(V3 | V2)[name])
    chunk = tmp_path / name / array.metadata.encode_chunk_key((1, 0, 1))
    content = chunk.read_bytes()
    chunk.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "longer": content + b"0"}[damage])
    window = slice(0, 10), slice(0, 4), slice(0, 14)
    with pytest.raises(ValueError, match=rf"{chunk.name} cannot be decoded"):
        chunk_files(array).read(window)


def test_a_flipped_bit_is_seen_by_the_checksum(tmp_path):
    array = make(tmp_path / "a", **V3["checksum"])
    chunk = tmp_path / "a" / "c" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    for place in (0, 7, 20, len(content) // 2, len(content) - 1):
        content[place] ^= 4
        chunk.write_bytes(content)
        with pytest.raises(UNREADABLE, match="checksum"):
            chunk_files(array).read((slice(0, 1),) * 3)
        content[place] ^= 4


def total(array):
    """Return the sum of an array."""
    return float(np.nansum(chunk_files(array).read(tuple(map(slice, [0] * 3, SHAPE))), dtype="float64"))


@pytest.mark.parametrize("method", ["threads", "fork", "spawn"])
def test_workers_read_at_the_same_time(arrays, method):
    if method == "fork" and sys.platform != "linux":
        pytest.skip("elsewhere processes that use threads cannot be forked safely")
    expected = total(arrays["lz4"])
    if method == "threads":
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(total, [arrays["lz4"]] * 40)) == {expected}
    else:
        # after reading here: a pool of threads that reading had left behind would be missing in the fork
        with mp.get_context(method).Pool(1) as pool:
            assert pool.map_async(total, [arrays["lz4"]]).get(timeout=60) == [expected]


@pytest.mark.parametrize("dtype", ["float32", "int8", "int16", "float64"])
@pytest.mark.parametrize("compressors", [None, [BloscCodec(cname="lz4", clevel=5)], [BloscCodec(), Crc32cCodec()]])
def test_what_is_written_has_the_bytes_that_zarr_writes(tmp_path, dtype, compressors):
    fill = np.array(-7).astype(dtype).item()
    values = np.random.default_rng(1).integers(-50, 50, SHAPE).astype(dtype)
    values[5:10, 4:8, :6] = fill  # a chunk that has no file
    made = {}
    for name in ("zarr", "ours"):
        array = zarr.create_array(
            str(tmp_path / name), shape=SHAPE, chunks=CHUNKS, dtype=dtype, fill_value=fill, compressors=compressors
        )
        window = slice(0, 23), slice(4, 10), slice(0, 14)
        if name == "zarr":
            array[window] = values[window]
        else:
            files = chunk_files(array)
            files.write(window, np.full((23, 6, 14), 3, dtype))  # over which the next are written
            files.write(window, values[window])
        chunks = [path for path in (tmp_path / name / "c").rglob("*") if path.is_file()]
        made[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in chunks}
    assert made["ours"] == made["zarr"]
    assert len(made["ours"]) == 5 * 2 * 3 - 1
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "ours"), mode="r")[:, 4:], values[:, 4:])


@pytest.mark.parametrize(
    ("window", "shape", "dtype"),
    [
        ((slice(0, 5), slice(0, 4), slice(1, 7)), (5, 4, 6), "float32"),
        ((slice(0, 5), slice(0, 4), slice(0, 7)), (5, 4, 7), "float32"),
        ((slice(0, 5), slice(0, 4), slice(0, 6)), (5, 4, 5), "float32"),
        ((slice(0, 5), slice(0, 4), slice(0, 6)), (5, 4, 6), "float64"),
    ],
)
def test_parts_of_chunks_and_other_numbers_are_not_written(tmp_path, window, shape, dtype):
    files = chunk_files(make(tmp_path / "array", compressors=BloscCodec()))
    before = {path: path.read_bytes() for path in (tmp_path / "array").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="are not whole chunks"):
        files.write(window, np.ones(shape, dtype))
    assert before == {path: path.read_bytes() for path in (tmp_path / "array").rglob("*") if path.is_file()}


def test_encodings_that_are_only_read_are_not_written(tmp_path):
    files = chunk_files(make(tmp_path / "array", compressors=GzipCodec()))
    with pytest.raises(ValueError, match="are not whole chunks"):
        files.write((slice(0, 5), slice(0, 4), slice(0, 6)), np.ones((5, 4, 6), "float32"))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    array = make(tmp_path / "array", compressors=BloscCodec())
    files, window = chunk_files(array), (slice(0, 5), slice(0, 4), slice(0, 6))
    before = files.read(window)

    def full(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        files.write(window, np.ones((5, 4, 6), "float32"))
    np.testing.assert_array_equal(files.read(window), before)
    assert not list((tmp_path / "array").rglob("*.partial"))
