"""Climate normals: the mean of the first whole years, the same bits for any chunks, window and length of the cube."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.cube import open_cube, open_reader
from fluxgrid.data.steps import calendar
from fluxgrid.errors import CubeError, UnknownName
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling import normals
from fluxgrid.upscaling.normals import climate_normals, normal_steps

NAMES = ("temperature_2m", "precipitation", "vpd")
# values are rounded to 2^-20 of the unit before they are averaged
HALF_A_PART = 2.0**-21


@pytest.fixture(scope="module")
def cube():
    return small_cube("daily", start="2018-11-20", periods=1200, missing=0.2)


def expected(cube, name, first, last):
    return np.nanmean(cube[name].sel(time=slice(first, last)).values.astype(np.float64), axis=0).ravel()


def test_they_are_means_of_the_first_whole_years(cube):
    found = climate_normals(cube, NAMES, years=2)
    assert found.shape == (35, 3)
    for column, name in enumerate(NAMES):
        np.testing.assert_allclose(found[:, column], expected(cube, name, "2019", "2020"), rtol=0, atol=HALF_A_PART)
    three = climate_normals(cube, NAMES[:1])
    np.testing.assert_allclose(three[:, 0], expected(cube, NAMES[0], "2019", "2021"), rtol=0, atol=HALF_A_PART)


def test_months_weigh_their_days():
    cube = small_cube("monthly", start="2019-07-01", periods=40, missing=0.3)
    time = cube.indexes["time"]
    inside = (time >= "2020") & (time < "2022")  # the cube ends in October 2022
    values = cube["precipitation"].values[inside].astype(np.float64).reshape(inside.sum(), -1)
    days = np.where(np.isfinite(values), time[inside].days_in_month.to_numpy()[:, None], 0)
    mean = (np.nan_to_num(values) * days).sum(axis=0) / days.sum(axis=0)
    np.testing.assert_allclose(climate_normals(cube, ["precipitation"])[:, 0], mean, rtol=0, atol=HALF_A_PART)


@pytest.mark.parametrize("chunks", [{"time": 1200}, {"time": 7, "y": 2, "x": 3}, {"time": 100, "y": 5, "x": 1}])
def test_chunks_do_not_change_a_bit(cube, chunks):
    np.testing.assert_array_equal(climate_normals(cube.chunk(chunks), NAMES), climate_normals(cube, NAMES))


def test_slabs_of_a_chunk_do_not_change_a_bit(cube, monkeypatch):
    whole = climate_normals(cube, NAMES)
    monkeypatch.setattr(normals, "_SLAB", 35 * 11)
    np.testing.assert_array_equal(climate_normals(cube, NAMES), whole)


def test_windows_do_not_change_a_bit(cube):
    whole = climate_normals(cube, NAMES).reshape(5, 7, 3)
    part = climate_normals(cube, NAMES, slice(1, 4), slice(2, 7)).reshape(3, 5, 3)
    np.testing.assert_array_equal(part, whole[1:4, 2:7])
    np.testing.assert_array_equal(climate_normals(cube, NAMES, slice(4, 5), slice(6, 7))[0], whole[4, 6])


def test_a_store_gives_what_memory_gives(cube, tmp_path):
    stored = open_cube(write_cube(cube, tmp_path / "cube.zarr"))
    np.testing.assert_array_equal(climate_normals(stored, NAMES), climate_normals(cube, NAMES))


@pytest.mark.parametrize("window", [(slice(None), slice(None)), (slice(1, 4), slice(2, 7))])
def test_chunk_files_give_what_dask_gives(cube, tmp_path, window):
    upside_down = cube.isel(y=slice(None, None, -1))  # as some stores have it
    path = write_cube(upside_down, tmp_path / "cube.zarr")
    reader = open_reader(path)
    assert all(reader.is_near(name) for name in NAMES)
    found = climate_normals(open_cube(path), NAMES, *window, reader=reader)
    np.testing.assert_array_equal(found, climate_normals(cube, NAMES, *window))


def test_newer_days_change_nothing(cube):
    short = cube.isel(time=slice(0, 43 + 365 + 366 + 10))  # from 20 November to 10 January after two whole years
    assert short.indexes["time"][-1] == pd.Timestamp("2021-01-11")
    wilder = cube.copy(deep=True)
    wilder["temperature_2m"].values[43 + 365 + 366 :] += 30
    for other in (short, wilder):
        np.testing.assert_array_equal(climate_normals(other, NAMES, years=2), climate_normals(cube, NAMES, years=2))


def test_a_cell_without_values_has_no_normal(cube):
    hollow = cube.copy(deep=True)
    hollow["vpd"].values[:, 2, 3] = np.nan
    hollow["temperature_2m"].values[50, 1, 1] = np.inf
    found = climate_normals(hollow, NAMES).reshape(5, 7, 3)
    assert np.isnan(found[2, 3, 2])
    assert np.isfinite(found).sum() == found.size - 1


@pytest.mark.parametrize(
    ("start", "end", "years", "steps"),
    [
        ("2018-01-01", "2023-06-30", 3, (0, 365 + 365 + 366)),
        ("2018-01-02", "2023-06-30", 3, (364, 364 + 365 + 366 + 365)),
        ("2018-01-02", "2020-12-30", 3, (364, 364 + 365)),
        ("2020-01-01", "2020-12-31", 3, (0, 366)),
        ("2018-01-01", "2020-12-31", 3, (0, 365 + 365)),  # the same whether the last year is whole
        ("2018-01-01", "2020-12-30", 3, (0, 365 + 365)),
        ("2019-03-01", "2020-12-30", 3, (0, 671)),
        ("2019-03-01", "2019-03-01", 3, (0, 1)),
    ],
)
def test_steps_of_whole_years(start, end, years, steps):
    assert normal_steps(calendar(start, end, "daily"), "daily", years) == slice(*steps)


def test_what_has_no_normal_is_refused(cube):
    with pytest.raises(UnknownName, match="wind_speed"):
        climate_normals(cube, ["wind_speed"])
    with pytest.raises(CubeError, match="crop_fraction of the cube does not vary in time"):
        climate_normals(cube, ["crop_fraction"])


def test_a_damaged_chunk_is_named(cube, tmp_path):
    path = write_cube(cube[["vpd"]], tmp_path / "cube.zarr")
    chunk = next(file for file in sorted(path.glob("vpd/c/**/*")) if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:20])
    for reader in (None, open_reader(path)):
        with pytest.raises(CubeError, match="'vpd' of the cube cannot be read"):
            climate_normals(open_cube(path), ["vpd"], reader=reader)
