"""A cube in other chunks is the same cube, bit for bit, however little memory there was."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.cube import Reading, open_cube, reading_of, rechunk_advice
from fluxgrid.data.cube import rechunk as module
from fluxgrid.data.cube.rechunk import best_extent, blocks_of, checksum, rechunk
from fluxgrid.data.mapping import load_mapping
from fluxgrid.errors import CubeError, OutputError
from fluxgrid.netcdf import save_netcdf
from fluxgrid.testing import small_cube

SHAPE, STEPS = (40, 70), 90
LITTLE = 1_200_000
"""Bytes: four copies of a block of 73 x 32 x 32 float32, and no more."""


def write(path, chunks, packed=False, **options):
    """Write a cube in given chunks."""
    cube = small_cube(shape=SHAPE, periods=STEPS, missing=0.02)[["vpd", "crop_fraction"]].drop_encoding()
    for name, array in cube.data_vars.items():
        cube[name].encoding = {"chunks": chunks[-array.ndim :]}
        if packed and name == "vpd":
            cube[name].encoding |= {"dtype": "int16", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32768}
    cube.attrs["remark"] = "kept"
    cube.to_zarr(path, **{"zarr_format": 3, "consolidated": False, **options})
    return path


@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}])
@pytest.mark.parametrize("budget", [10**9, LITTLE])
def test_map_chunks_become_tile_chunks(tmp_path, budget, options):
    source = write(tmp_path / "map.zarr", (1, *SHAPE), packed=True, **options)
    made = rechunk(source, tmp_path / "tiles.zarr", budget=budget)
    before, after = open_cube(source), open_cube(made.path)
    xr.testing.assert_identical(before.compute(), after.compute())
    assert after.vpd.data.chunks[0] == (73, 17)
    assert zarr.open_array(made.path / "vpd").dtype == np.int16  # packed as it was
    assert zarr.open_group(made.path).attrs["remark"] == "kept"
    assert not list(tmp_path.glob(".*"))
    assert not list(made.path.glob("*.scratch"))


@pytest.mark.parametrize("budget", [10**9, LITTLE])
def test_a_contiguous_netcdf_becomes_a_cube(tmp_path, budget):
    cube = small_cube(shape=SHAPE, periods=STEPS)[["vpd", "climate_group"]]
    save_netcdf(cube, tmp_path / "cube.nc")
    made = rechunk(tmp_path / "cube.nc", tmp_path / "tiles.zarr", budget=budget)
    xr.testing.assert_identical(open_cube(tmp_path / "cube.nc").compute(), open_cube(made.path).compute())


def test_a_scratch_array_is_used_where_blocks_are_small_and_decodes_each_chunk_once(tmp_path, monkeypatch):
    source = write(tmp_path / "map.zarr", (1, *SHAPE))
    read = []
    original = module._read
    monkeypatch.setattr(module, "_read", lambda array, block: read.append((array, block)) or original(array, block))
    rechunk(source, tmp_path / "tiles.zarr", budget=LITTLE)
    days = [
        block[0] for array, block in read if getattr(array, "name", "") == "vpd" and isinstance(array, xr.DataArray)
    ]
    assert sum(part.stop - part.start for part in days) == STEPS


def test_what_stands_is_replaced_only_when_told_and_only_at_the_end(tmp_path, monkeypatch):
    source = write(tmp_path / "map.zarr", (1, *SHAPE))
    target = tmp_path / "tiles.zarr"
    rechunk(source, target)
    with pytest.raises(OutputError):
        rechunk(source, target)
    count = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(module, "checksum", lambda *_: next(count) ** 2)
        with pytest.raises(OutputError, match="does not read back as written"):
            rechunk(source, target, replace=True)
    xr.testing.assert_identical(open_cube(source).compute(), open_cube(target).compute())
    rechunk(source, target, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.zarr", "tiles.zarr"]


def test_a_damaged_chunk_names_its_variable_and_leaves_nothing(tmp_path):
    source = write(tmp_path / "map.zarr", (1, *SHAPE))
    (source / "vpd" / "c" / "3" / "0" / "0").write_bytes(b"torn")
    with pytest.raises(CubeError, match=r"'vpd' cannot be read at 0:.* a chunk is damaged"):
        rechunk(source, tmp_path / "tiles.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


def test_a_chunk_larger_than_the_budget_is_told_before_the_work(tmp_path):
    source = write(tmp_path / "map.zarr", (STEPS, *SHAPE))
    with pytest.raises(CubeError, match="--memory"):
        rechunk(source, tmp_path / "tiles.zarr", budget=LITTLE)


def test_no_dimensions_no_copy(tmp_path):
    xr.Dataset({"vpd": (("a", "b", "c"), np.zeros((2, 3, 4)))}).to_zarr(tmp_path / "odd.zarr", consolidated=False)
    with pytest.raises(CubeError, match="name its dimensions"):
        rechunk(tmp_path / "odd.zarr", tmp_path / "tiles.zarr")


def two_files(folder, first, second, change=lambda part: part):
    """Write a cube as two files with encodings of their own."""
    cube = small_cube(shape=(6, 7), periods=STEPS, missing=0.02)[["vpd", "climate_group"]].drop_encoding()
    save_netcdf(cube.isel(time=slice(0, 50)), folder / "a.nc", encoding=first)
    save_netcdf(change(cube.isel(time=slice(50, None)).copy()), folder / "b.nc", encoding=second)
    return [folder / "a.nc", folder / "b.nc"]


def packing(scale, offset):
    return {"vpd": {"dtype": "int16", "scale_factor": scale, "add_offset": offset, "_FillValue": -32768}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (packing(0.01, 3.0), packing(0.02, 1.0)),
        ({"time": {"units": "days since 2000-01-01"}}, {"time": {"units": "hours since 1900-01-01"}}),
    ],
    ids=["packing", "time"],
)
def test_files_that_are_stored_in_different_ways_are_copied_as_values(tmp_path, first, second):
    files = two_files(tmp_path, first, second)
    made = rechunk(files, tmp_path / "tiles.zarr")
    before, after = open_cube(files).compute(), open_cube(made.path).compute()
    xr.testing.assert_identical(before, after)
    assert zarr.open_array(made.path / "vpd").dtype == np.float32


def test_ends_of_steps_follow_their_times(tmp_path):
    def bounded(part):
        ends = part.time.to_numpy()[:, None] + np.array([0, 1]).astype("timedelta64[D]")
        part.time.attrs["bounds"] = "ends"
        return part.assign(ends=(("time", "side"), ends))

    cube = small_cube(shape=(6, 7), periods=STEPS)[["vpd"]].drop_encoding()
    for name, steps in (("a", slice(0, 50)), ("b", slice(50, None))):
        part = bounded(cube.isel(time=steps).copy())
        units = {"units": f"days since {part.time[0].dt.strftime('%Y-%m-%d').item()}"}
        save_netcdf(part, tmp_path / f"{name}.nc", encoding={"time": units})
    made = rechunk(sorted(tmp_path.glob("*.nc")), tmp_path / "tiles.zarr")
    found = xr.open_zarr(made.path)
    np.testing.assert_array_equal(found.ends, bounded(cube).ends)


def test_files_that_are_stored_alike_stay_packed(tmp_path):
    files = two_files(tmp_path, packing(0.01, 3.0), packing(0.01, 3.0))
    made = rechunk(files, tmp_path / "tiles.zarr")
    assert zarr.open_array(made.path / "vpd").dtype == np.int16
    xr.testing.assert_identical(open_cube(files).compute(), open_cube(made.path).compute())


def test_files_of_different_units_or_calendars_are_refused_by_name(tmp_path):
    def change(part):
        part.vpd.attrs["units"] = "kPa"
        return part.assign_coords(time=part.time.convert_calendar("noleap").time)

    files = two_files(tmp_path, {}, {}, change)
    with pytest.raises(CubeError, match="convert those that differ") as error:
        rechunk(files, tmp_path / "tiles.zarr")
    for word in (f"{files[1]}: units of 'vpd' is kPa, in {files[0]} hPa", "calendar of 'time' is noleap"):
        assert word in str(error.value)


def test_the_advice_is_a_command_that_works(tmp_path):
    folder = tmp_path / "my data"
    folder.mkdir()
    cube = small_cube(shape=SHAPE, periods=STEPS)[["vpd"]].drop_encoding()
    for part, steps in (("a", slice(0, 50)), ("b", slice(50, None))):
        save_netcdf(cube.isel(time=steps), folder / f"{part}.nc")
    mapping = tmp_path / "map.yaml"
    mapping.write_text("{}")
    pattern = str(folder / "*.nc")
    (advice,) = rechunk_advice(open_cube(pattern, mapping), Reading(30, 1))
    words = shlex.split(advice.split("`")[1])
    assert words == ["fluxgrid", "cube", "rechunk", pattern, "cube_tiles.zarr", "--mapping", str(mapping)]
    (advice,) = rechunk_advice(open_cube(sorted(folder.glob("*.nc")), load_mapping(mapping)), Reading(30, 1))
    assert shlex.split(advice.split("`")[1])[3:] == ["FOLDER/*.nc", "cube_tiles.zarr", "--mapping", "MAPPING.yaml"]


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    extent=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from(["f4", "f8", "i2", "u1"]),
    seed=st.integers(0, 99),
)
def test_checksums_add_up_however_an_array_is_cut(shape, extent, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, shape).astype(dtype)
    whole = checksum(values, tuple(slice(0, n) for n in shape), shape)
    parts = sum(checksum(values[block], block, shape) for block in blocks_of(shape, extent))
    assert parts % 2**64 == whole
    flat, words = 0, values.view(f"u{values.itemsize}").ravel()
    for place, word in enumerate(words):  # the plain definition
        flat += int(word) * (2 * place + 1)
    assert flat % 2**64 == whole
    changed = values.copy().ravel()
    changed[rng.integers(values.size)] += 1
    assert checksum(changed.reshape(shape), tuple(slice(0, n) for n in shape), shape) != whole


def test_extents_are_whole_target_chunks_and_decode_least():
    extent, factor = best_extent((365, 256, 256), (73, 32, 32), [(1,) * 365, (128,) * 2, (128,) * 2], 73 * 128 * 128)
    assert (extent, factor) == ((73, 128, 128), 1.0)
    extent, factor = best_extent((365, 256, 256), (73, 32, 32), [(365,), (64,) * 4, (64,) * 4], 73 * 128 * 128)
    assert extent[0] == 292 or factor <= 2  # blocks as long as the source's chunks, not as wide


def test_the_factor_counts_each_touched_chunk_in_full(tmp_path):
    cube = open_cube(write(tmp_path / "map.zarr", (1, *SHAPE)))
    rows, cols = [slice(0, 32), slice(32, 40)], [slice(0, 32), slice(32, 64), slice(64, 70)]
    maps = reading_of(cube, ["vpd"], [slice(0, STEPS)], rows, cols)
    assert maps.factor == pytest.approx(6)  # each of six tiles decodes the whole
    assert maps.least == pytest.approx(1)
    small = reading_of(cube, ["vpd"], [slice(0, STEPS)], [slice(0, 4)], [slice(0, 7)])
    assert small.factor == pytest.approx(100)
    assert small.least == pytest.approx(32 * 32 / 28)
    (advice,) = rechunk_advice(cube, maps)
    assert f"fluxgrid cube rechunk {tmp_path / 'map.zarr'} map_tiles.zarr" in advice
    tiles = open_cube(rechunk(tmp_path / "map.zarr", tmp_path / "tiles.zarr").path)
    assert reading_of(tiles, ["vpd"], [slice(0, STEPS)], rows, cols) == Reading(1, 1)
    part = reading_of(tiles, ["vpd"], [slice(0, 10)], rows, cols)
    assert part.factor == part.least == pytest.approx(7.3)
    assert rechunk_advice(tiles, part) == ()
