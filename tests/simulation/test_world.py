"""The cube of the synthetic world: valid, whole, independent of the region it was asked for with."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from fluxgrid.data.cube import check_cube, open_cube
from fluxgrid.errors import ConfigError, OutputExists
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.simulation import (
    FORCINGS,
    STATICS,
    TRUTH,
    WORLD_VERSION,
    build_truth,
    build_world,
    simulate,
    true_fluxes,
    world_digest,
    world_template,
)
from fluxgrid.variables import VARIABLES

CHICAGO = Grid.from_bounds((-88.3, -84.6, 41.4, 41.9), 0.1)  # 5 x 37 cells, two tiles, land and lake
END = "2011-06-30"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build_world(CHICAGO, "2010-06-25", END, tmp_path_factory.mktemp("world") / "world.zarr")


def test_the_cube_is_valid(store):
    report = check_cube(store)
    assert not report.problems
    cube = open_cube(store)
    assert set(FORCINGS + STATICS) <= set(cube.data_vars)
    assert cube.sizes == {"time": 371, "y": 5, "x": 37}
    raw = xr.open_zarr(store)
    for name in FORCINGS + STATICS:  # names, units and classes need no conversion
        np.testing.assert_array_equal(cube[name].values, raw[name].values)


def test_the_store_speaks_for_itself(store):
    cube = xr.open_zarr(store)
    assert "synthetic" in cube.attrs["title"]
    assert cube.attrs["step"] == "daily"
    assert cube.attrs["day_definition"] == "local standard time"
    assert WORLD_VERSION in cube.attrs["source"]
    assert world_digest() in cube.attrs["source"]
    for name, values in cube.data_vars.items():
        assert values.attrs["units"] == VARIABLES[name].units
        assert values.dtype == np.float32
    assert not {"gpp", "reco", "nee"} & set(cube.variables)


def test_cells_hold_the_simulation_and_cells_without_land_nothing(store):
    cube = xr.open_zarr(store).load()
    land = land_fraction(CHICAGO) > 0
    assert 0 < land.sum() < land.size
    longitude, latitude = CHICAGO.lonlat()
    world = simulate(latitude[land], longitude[land], cube.indexes["time"])
    for name in FORCINGS + STATICS:
        np.testing.assert_array_equal(cube[name].values[..., land], world[name])
        assert np.isnan(cube[name].values[..., ~land]).all()


def test_a_selection_of_variables_holds_the_same_values(store, tmp_path):
    names = ["shortwave", "lai", "soc"]
    some = xr.open_zarr(build_world(CHICAGO, "2010-12-20", END, tmp_path / "some.zarr", names))
    assert set(some.data_vars) == set(names)
    xr.testing.assert_equal(some, xr.open_zarr(store)[names].sel(time=slice("2010-12-20", END)))


def test_the_truth_closes_and_stands_beside_the_cube(tmp_path):
    path = build_truth(CHICAGO, "2010-12-01", "2011-01-31", tmp_path / "truth.zarr")
    truth = xr.open_zarr(path).load()
    assert set(truth.data_vars) == set(TRUTH)
    np.testing.assert_array_equal(truth.nee, truth.reco - truth.gpp)
    np.testing.assert_array_equal(truth.reco, truth.ra + truth.rh)
    land = land_fraction(CHICAGO) > 0
    longitude, latitude = CHICAGO.lonlat()
    fluxes = true_fluxes(latitude[land], longitude[land], truth.indexes["time"])
    np.testing.assert_array_equal(truth.nee.values[:, land], fluxes["nee"])
    assert world_digest() in truth.attrs["source"]


def test_chunk_files_are_those_that_zarr_writes(store, tmp_path):
    names = ("tmax", "lai", "sand")
    for name in names:
        shutil.copytree(store / name, tmp_path / name, ignore=shutil.ignore_patterns("c"))
        zarr.open_array(tmp_path / name, mode="r+")[...] = zarr.open_array(store / name, mode="r")[...]
        files = [
            {path.relative_to(root): path.read_bytes() for path in (root / name).rglob("*") if path.is_file()}
            for root in (store, tmp_path)
        ]
        assert len(files[0]) > 2
        assert files[0] == files[1]


def test_another_region_and_period_agree_bit_for_bit(store, tmp_path):
    shifted = Grid.from_bounds((-87.9, -87.0, 41.5, 42.0), 0.1)
    other = xr.open_zarr(build_world(shifted, "2011-06-20", "2011-07-03", tmp_path / "other.zarr"))
    whole = xr.open_zarr(store)
    overlap, same = xr.align(whole, other, join="inner")
    assert overlap.sizes == {"time": 11, "y": 4, "x": 9}
    xr.testing.assert_equal(overlap, same)


def test_progress_counts_tiles_to_the_end(tmp_path):
    seen = []
    build_world(CHICAGO, "2010-01-01", "2010-01-11", tmp_path / "w.zarr", ["tmax"], lambda *counts: seen.append(counts))
    assert seen == [(1, 2), (2, 2)]  # two tiles


def test_what_cannot_be_built_is_said_and_leaves_nothing(store, tmp_path):
    with pytest.raises(OutputExists, match="exists already"):
        build_world(CHICAGO, "2010-01-01", "2010-01-02", store)
    with pytest.raises(ConfigError, match=r"period 2010-01-02 to 2010-01-01 is empty"):
        build_world(CHICAGO, "2010-01-02", "2010-01-01", tmp_path / "w.zarr")
    nevada, lake = (
        Grid.from_bounds((-120.0, -119.5, 38.0, 38.3), 0.1),
        Grid.from_bounds((-87.2, -86.9, 43.0, 43.2), 0.1),
    )
    with pytest.raises(ConfigError, match=r"leaves the world, which ends at longitudes -107.0..-75.0"):
        build_world(nevada, "2010-01-01", "2010-01-02", tmp_path / "w.zarr")
    with pytest.raises(ConfigError, match="exist from 2004-01-01 on, asked for from 1999-05-01"):
        build_world(CHICAGO, "1999-05-01", "1999-05-02", tmp_path / "w.zarr", ["lai", "tmax"])
    with pytest.raises(ConfigError, match="no variable 'gdd'; it has temperature_2m, tmin"):
        build_world(CHICAGO, "2010-01-01", "2010-01-02", tmp_path / "w.zarr", ["gdd"])
    for names in (["tmax", "gpp"], ["nee"], []):  # a model must never find the truth beside its inputs
        with pytest.raises(ConfigError, match=r"has no variable|no variable is asked for"):
            build_world(CHICAGO, "2010-01-01", "2010-01-02", tmp_path / "w.zarr", names)
    with pytest.raises(ConfigError, match="holds US land"):
        build_world(lake, "2010-01-01", "2010-01-02", tmp_path / "w.zarr")
    assert not list(tmp_path.iterdir())


def test_template_of_a_large_grid_has_whole_chunks(tmp_path):
    """Lazy pieces that cut through chunks of the store are refused by xarray; they come with size."""
    grid = Grid.from_bounds((-104.0, -80.0, 36.0, 49.0), 0.02)
    template = world_template(grid, "2018-01-01", "2019-12-31")
    assert template["shortwave"].chunks[0] == (365, 365)
    assert template["shortwave"].chunks[1:] == ((650,), (1200,))
