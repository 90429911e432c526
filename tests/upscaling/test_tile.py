"""Blocks of a tile, its flags, and where a unit looks for its input."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.netcdf import save_netcdf
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import CALIBRATION, PLAIN, Layers
from fluxgrid.prediction import Fluxes
from fluxgrid.prediction.blend import Blend
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling.executor import default_threads
from fluxgrid.upscaling.plan import CubeSource
from fluxgrid.upscaling.tile import BLOCK_SIDE, block_slices, calibration_arrays, empty_arrays, quality_bits, reader_of


@given(ny=st.integers(1, 70), nx=st.integers(1, 70), seed=st.integers(0, 99), share=st.sampled_from([0.01, 0.3, 1.0]))
def test_blocks_are_the_same_cells_for_any_tile(ny, nx, seed, share):
    """Else a cell would stand in another row of another matrix, and its last bits could follow the tile size."""
    wanted = np.random.default_rng(seed).random((ny, nx)) < share
    grid = Grid.from_bounds((-95, -95 + nx / 10, 40, 40 + ny / 10), 0.1)
    found = {size: blocks_on_map(grid, wanted, size) for size in (32, 64, 96)}
    assert found[32] == found[64] == found[96]
    covered = np.zeros_like(wanted)
    for rows, cols in found[32]:
        assert not covered[slice(*rows), slice(*cols)].any()
        covered[slice(*rows), slice(*cols)] = True
        assert rows[0] % BLOCK_SIDE == cols[0] % BLOCK_SIDE == 0
    assert covered[wanted].all()


def blocks_on_map(grid, wanted, size):
    """Return the blocks of all tiles in rows and columns of the map."""
    blocks = set()
    for tile in make_tiles(grid, size):
        for rows, cols in block_slices(wanted[tile.rows, tile.cols]):
            row, col = tile.rows.start, tile.cols.start
            blocks.add(((rows.start + row, rows.stop + row), (cols.start + col, cols.stop + col)))
    return blocks


def test_no_block_without_a_cell_to_predict():
    wanted = np.zeros((20, 33), bool)
    wanted[17, 32] = True
    assert block_slices(wanted) == ((slice(16, 20), slice(32, 33)),)


def test_bits_follow_the_inputs():
    true, false = np.array([[True], [False]]), np.array([[False], [False]])

    def bits(missing=false, filled=false, outside=false, provisional=false, recycled=False):
        nee = np.where(missing, np.float32(np.nan), np.float32(1))
        fluxes = Fluxes({"nee": nee}, {}, nee, missing, filled, outside, provisional)
        return quality_bits(fluxes, recycled).ravel().tolist()

    assert bits(missing=true) == [Quality.INPUT_MISSING, 0]
    assert bits(filled=true, outside=true) == [Quality.FILLED | Quality.OUTSIDE_APPLICABILITY, 0]
    assert bits(missing=true, recycled=True) == [Quality.INPUT_MISSING, Quality.FILLED]
    assert bits(provisional=true) == [Quality.PROVISIONAL, 0]


def test_no_value_although_every_input_is_there_means_no_model():
    nee, false = np.array([[np.nan], [1]], np.float32), np.zeros((2, 1), bool)
    fluxes = Fluxes({"nee": nee}, {}, nee, false, false, false, false)
    assert quality_bits(fluxes, recycled=False).ravel().tolist() == [Quality.NO_MODEL, 0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_bits_against_one_cell_at_a_time(seed, share, recycled):
    rng = np.random.default_rng(seed)
    missing, filled, outside, provisional, unknown = rng.random((5, 4, 3)) < rng.choice([0.0, share], (5, 1, 1))
    nee = np.where(missing | unknown, np.nan, 1.0).astype(np.float32)
    bits = quality_bits(Fluxes({"nee": nee}, {}, nee, missing, filled, outside, provisional), recycled)
    assert bits.dtype == np.int8
    for cell in np.ndindex(4, 3):
        expected = Quality.INPUT_MISSING * missing[cell] + Quality.NO_MODEL * (unknown[cell] and not missing[cell])
        expected += Quality.FILLED * (filled[cell] or (recycled and not missing[cell]))
        expected += Quality.PROVISIONAL * provisional[cell] + Quality.OUTSIDE_APPLICABILITY * outside[cell]
        assert bits[cell] == expected


def test_a_tile_nobody_predicts_holds_reasons_alone():
    flags = np.array([[1, 2, 3]], np.int8)
    arrays = empty_arrays(4, flags, PLAIN)
    assert arrays["quality_flag"].shape == (4, 1, 3)
    assert (arrays["quality_flag"] == flags).all()
    assert all(np.isnan(arrays[name]).all() for name in ("nee", "gpp", "reco", "applicability"))


def test_empty_layers_say_that_nothing_is_known():
    layers = Layers(("nee", "gpp", "reco", "ra"), ("harvest_removal",), ("Iowa",))
    arrays = empty_arrays(4, np.zeros((2, 3), np.int8), layers)
    assert {name: values.dtype for name, values in arrays.items()} == layers.dtypes
    assert {name: values.shape for name, values in arrays.items() if values.ndim == 2} == dict.fromkeys(
        layers.constant, (2, 3)
    )
    assert (arrays["calibration_id"] == -1).all()


def test_calibration_is_of_the_cells_to_predict():
    places = np.array([[2, 0], [1, -1], [-1, -1], [0, 1], [0, 1], [0, 1]])
    weights = np.array([[0.3, 0.5], [0.25, 0], [0, 0], [0.5, 0.5], [0.5, 0.5], [1, 0]], np.float32)
    arrays = calibration_arrays(Blend(places, weights), np.array([[1, 1, 1], [1, 0, 1]], bool))
    assert {name: values.dtype for name, values in arrays.items()} == CALIBRATION
    np.testing.assert_array_equal(arrays["calibration_id"], [[0, 1, -1], [0, -1, 0]])
    np.testing.assert_array_equal(arrays["calibration_weight"], np.float32([[0.5, 0.25, 0], [0.5, np.nan, 1]]))
    right = np.float32([[0.2, 0.75, 1], [0, np.nan, 0]])
    np.testing.assert_allclose(arrays["calibration_global_weight"], right, atol=1e-7)  # 1 - sum in float32


def test_sources_mean_the_same_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("{}")
    assert CubeSource.of("cube.zarr").path == str(tmp_path / "cube.zarr") == CubeSource.of("~/cube.zarr").path
    assert CubeSource.of("s3://bucket/cube.zarr", "conus_monthly_025") == CubeSource(
        "s3://bucket/cube.zarr", "conus_monthly_025"
    )
    assert CubeSource.of("c.zarr", "mine.yaml").mapping == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize("workers", [1, 2, 1000])
def test_there_is_always_a_thread(workers):
    assert default_threads(workers) >= 1


@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
def test_a_cube_that_grew_is_opened_again_and_one_that_did_not_is_not(tmp_path, kind):
    path = tmp_path / ("cube.zarr" if kind == "zarr" else "cube.nc")

    def write(days: int) -> None:
        shutil.rmtree(path, ignore_errors=True)
        cube = small_cube(shape=(3, 4), periods=days)
        write_cube(cube, path) if kind == "zarr" else save_netcdf(cube, tmp_path / "new.nc")
        if kind == "netcdf":
            (tmp_path / "new.nc").replace(path)

    write(10)
    source = CubeSource.of(str(path))
    first = reader_of(source)
    assert reader_of(source) is first
    write(12)
    window = slice(0, 12), slice(0, 3), slice(0, 4)
    assert reader_of(source).read("vpd", *window).shape == (12, 3, 4)
