"""The map store: written by tiles in any order, checked at the door, damage noticed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import DamagedMap, FluxgridError, OutputError, OutputExists, TileMismatch
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.output.flags import Quality, flag_masks
from fluxgrid.output.layers import Layers, layers_of
from fluxgrid.output.store import create_store, open_store, tile_digest, write_tile

DTYPES = Layers().dtypes
GRID = Grid.from_bounds((-91.5, -90.8, 41.0, 41.5), 0.1)  # 5 x 7
TIMES = pd.date_range("2019-06-25", periods=11)


def some_arrays(tile: Tile, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (len(TIMES), *tile.shape)
    values = {name: random.standard_normal(shape).astype("float32") for name in DTYPES}
    return values | {"quality_flag": random.choice(flag_masks(), shape).astype("int8")}


@pytest.fixture
def store(tmp_path):
    create_store(tmp_path / "map.zarr", GRID, TIMES, chunk=2)
    return tmp_path / "map.zarr"


def test_template_is_missing_and_outside_everywhere(store):
    dataset = open_store(store)
    assert dataset["nee"].dims == ("time", "y", "x")
    assert dataset["nee"].shape == (11, 5, 7)
    assert all(np.isnan(dataset[name]).all() for name in ("nee", "gpp", "reco", "applicability"))
    assert (dataset["quality_flag"] == Quality.OUTSIDE_REGION).all()
    assert {name: dataset[name].dtype for name in DTYPES} == DTYPES
    pd.testing.assert_index_equal(
        pd.DatetimeIndex(dataset["time"]), TIMES, check_names=False, exact=False, check_freq=False
    )
    np.testing.assert_array_equal(dataset["y"], GRID.y)
    assert dataset["y"][0] > dataset["y"][-1]


def test_existing_store_is_left_alone(store):
    before = sorted(store.rglob("*"))
    with pytest.raises(OutputExists, match=r"map.zarr exists. Resume the run"):
        create_store(store, GRID, TIMES)
    assert sorted(store.rglob("*")) == before


def test_failed_template_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fluxgrid.output.store._create_variable", full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        create_store(tmp_path / "map.zarr", GRID, TIMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [2, 4, 8])
def test_any_tile_size_and_order_gives_the_same_store(tmp_path, size):
    whole = make_tiles(GRID, 8)[0]
    right = some_arrays(whole)
    for run, tiles in enumerate(itertools.islice(itertools.permutations(make_tiles(GRID, size)), 0, 20, 7)):
        path = tmp_path / f"{run}.zarr"
        create_store(path, GRID, TIMES, chunk=2)
        for tile in tiles:
            write_tile(path, tile, {name: values[:, tile.rows, tile.cols] for name, values in right.items()})
        for name, values in right.items():
            np.testing.assert_array_equal(open_store(path)[name], values)


@given(rows=st.tuples(st.integers(0, 5), st.integers(0, 6)), cols=st.tuples(st.integers(0, 7), st.integers(0, 8)))
def test_only_whole_chunks_inside_are_taken(tmp_path_factory, rows, cols):
    path = tmp_path_factory.mktemp("s") / "map.zarr"
    create_store(path, GRID, TIMES[:1], chunk=2)
    whole = rows[0] % 2 == 0 and (rows[1] % 2 == 0 or rows[1] == 5) and 0 <= rows[0] < rows[1] <= 5
    whole &= cols[0] % 2 == 0 and (cols[1] % 2 == 0 or cols[1] == 7) and 0 <= cols[0] < cols[1] <= 7
    span = slice(*rows), slice(*cols)
    fits = rows[0] < rows[1] <= 5 and cols[0] < cols[1] <= 7
    grid = GRID.crop(*span) if fits else GRID
    tile = Tile(0, 0, *span, grid)
    shape = (1, max(rows[1] - rows[0], 0), max(cols[1] - cols[0], 0))
    arrays = {name: np.zeros(shape, dtype) for name, dtype in DTYPES.items()}
    if whole:
        write_tile(path, tile, arrays)
    else:
        with pytest.raises(TileMismatch, match=r"not (inside|a whole number of chunks)"):
            write_tile(path, tile, arrays)


def test_every_mismatch_is_listed(store):
    tile = make_tiles(GRID, 4)[1]
    arrays = some_arrays(tile)
    del arrays["reco"]
    arrays["gpp"] = arrays["gpp"][:10]
    arrays["nee"] = arrays["nee"].astype("float64")
    arrays["yield"] = arrays["gpp"]
    with pytest.raises(TileMismatch) as caught:
        write_tile(store, tile, arrays)
    message = str(caught.value)
    assert message.startswith("Tile r0000c0004 does not fit")
    for part in (
        "reco is missing",
        "gpp has shape (10, 4, 3), not (11, 4, 3)",
        "nee has type float64",
        "yield is not a variable of this map store",
    ):
        assert part in message


def test_tile_of_another_map_is_refused(store):
    place = make_tiles(GRID, 4)[0]
    other = Grid.from_bounds((-101.5, -100.8, 41.0, 41.5), 0.1).crop(place.rows, place.cols)
    with pytest.raises(TileMismatch, match=r"its x runs -101.45 to -101.15, the map's there -91.45 to -91.15"):
        write_tile(store, Tile(0, 0, place.rows, place.cols, other), some_arrays(place))


def test_digest_notices_every_kind_of_damage(store):
    tile, other = make_tiles(GRID, 4)[:2]
    write_tile(store, tile, some_arrays(tile))
    digest = tile_digest(store, tile)
    write_tile(store, other, some_arrays(other, seed=1))
    assert tile_digest(store, tile) == digest
    chunk = store / "nee" / "c" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedMap, match=r"Cannot read nee in tile r0000c0000 of .*--resume"):
        tile_digest(store, tile)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    chunk.write_bytes(flipped)
    with pytest.raises(FluxgridError, match="Cannot read nee"):
        tile_digest(store, tile)
    chunk.unlink()
    assert tile_digest(store, tile) != digest
    chunk.write_bytes(content)
    assert tile_digest(store, tile) == digest


def test_a_store_that_changed_is_opened_anew(store):
    tile = make_tiles(GRID, 2)[0]
    write_tile(store, tile, some_arrays(tile))
    digest = tile_digest(store, tile)
    metadata = store / "nee" / "zarr.json"
    text = metadata.read_text()
    metadata.write_text(text[:40])
    with pytest.raises(DamagedMap, match=r"Cannot read nee of .*--resume"):
        tile_digest(store, tile)
    metadata.write_text(text)
    assert tile_digest(store, tile) == digest
    shutil.rmtree(store)
    with pytest.raises(DamagedMap, match="Cannot read the map store"):
        tile_digest(store, tile)
    assert not store.exists()
    create_store(store, GRID, TIMES[:4], chunk=2)
    with pytest.raises(TileMismatch, match=r"nee has shape \(11, 2, 2\), not \(4, 2, 2\)"):
        write_tile(store, tile, some_arrays(tile))


def test_digest_depends_on_every_variable(store):
    tile = make_tiles(GRID, 8)[0]
    digests = {tile_digest(store, tile)}
    for name in DTYPES:
        arrays = {other: np.zeros((11, 5, 7), dtype) for other, dtype in DTYPES.items()}
        arrays[name][3, 2, 1] = 1
        write_tile(store, tile, arrays)
        digests.add(tile_digest(store, tile))
    assert len(digests) == 1 + len(DTYPES)


def test_a_store_holds_what_its_layers_say(tmp_path):
    layers = Layers(("nee", "gpp", "reco", "ra", "rh"), ("corn_yield",), ("Iowa", "Ohio"))
    path = tmp_path / "map.zarr"
    create_store(path, GRID, TIMES, layers, chunk=2)
    dataset = open_store(path)
    assert layers_of(dataset) == layers
    assert {name: dataset[name].dtype for name in layers.dtypes} == layers.dtypes
    assert (dataset["calibration_id"] == -1).all()
    assert np.isnan(dataset["corn_yield"]).all()
    tile = make_tiles(GRID, 4)[1]
    random = np.random.default_rng(0)
    shapes = {name: (*((len(TIMES),) if layers.dims(name)[0] == "time" else ()), *tile.shape) for name in layers.dtypes}
    arrays = {name: random.integers(0, 2, shapes[name]).astype(dtype) for name, dtype in layers.dtypes.items()}
    digests = set()
    for name in (None, *layers.dtypes):
        changed = {**arrays, name: arrays[name] + arrays[name].dtype.type(1)} if name else arrays
        write_tile(path, tile, changed)
        digests.add(tile_digest(path, tile))
        for other, values in changed.items():
            np.testing.assert_array_equal(open_store(path)[other][..., tile.rows, tile.cols], values)
    assert len(digests) == 1 + len(layers.dtypes)
    del arrays["ra"]
    arrays["corn_yield"] = arrays["nee"]
    with pytest.raises(TileMismatch) as caught:
        write_tile(path, tile, arrays)
    assert "ra is missing" in str(caught.value)
    assert "corn_yield has shape (11, 4, 3), not (4, 3) (y, x)" in str(caught.value)


def write_one(job) -> None:
    path, tile, seed = job
    write_tile(path, tile, some_arrays(tile, seed))


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_workers_write_at_the_same_time(store, pool):
    tiles = make_tiles(GRID, 2)
    jobs = [(store, tile, seed) for seed, tile in enumerate(tiles)]
    context = {} if pool == "threads" else {"mp_context": get_context("spawn")}
    executor = ThreadPoolExecutor if pool == "threads" else ProcessPoolExecutor
    if pool == "processes":
        jobs = jobs[:4]
    with executor(2, **context) as workers:
        list(workers.map(write_one, jobs))
    dataset = open_store(store)
    for _, tile, seed in jobs:
        np.testing.assert_array_equal(dataset["nee"][:, tile.rows, tile.cols], some_arrays(tile, seed)["nee"])


def test_no_store_is_one_clear_message(tmp_path):
    with pytest.raises(DamagedMap, match="Cannot read the map store"):
        open_store(tmp_path / "none.zarr")


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="a limit on file size, our stand-in for a full disk, exists on POSIX only"
)
def test_full_disk_is_a_clear_error(store):
    # A limit on file size is the nearest to a full disk a test can make without one.
    code = f"""
        import resource
        from tests_store import GRID, make_tiles, some_arrays, write_tile
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        tile = make_tiles(GRID, 2)[0]
        try:
            write_tile({str(store)!r}, tile, some_arrays(tile))
        except Exception as error:
            print(type(error).__name__, error)
    """
    loader = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("tests_store", {__file__!r})
        module = sys.modules["tests_store"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    """
    script = textwrap.dedent(loader) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OutputError Cannot write")
    assert "larger than this process may write" in done.stdout
