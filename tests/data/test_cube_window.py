"""Windows read straight from a store: the values of the cube, whatever the store looks like."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec

from fluxgrid.data.cube import open_cube, open_reader
from fluxgrid.errors import CubeError
from fluxgrid.netcdf import save_netcdf
from fluxgrid.testing import small_cube, write_cube


def foreign(ds):
    """Return a cube south up, with longitudes 0-360 across Greenwich, x first and other units."""
    ds = ds.isel(y=slice(None, None, -1)).rename(x="longitude", time="t")
    ds = ds.assign_coords(longitude=ds.longitude % 360).sortby("longitude").transpose("longitude", "y", "t")
    ds["vpd"] = (ds["vpd"] * 100.0).assign_attrs(ds["vpd"].attrs | {"units": "Pa"})
    return ds


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return a plain cube and a foreign one, 8 columns of 45 degrees whose order the cube rolls."""
    folder = tmp_path_factory.mktemp("window")
    cube = small_cube(shape=(4, 8), resolution=45.0, centre=(0.0, 0.0))
    plain = write_cube(cube, folder / "plain.zarr")
    foreign(cube).to_zarr(folder / "foreign.zarr", zarr_format=3, consolidated=False)
    save_netcdf(foreign(cube), folder / "foreign.nc")
    return {"plain": plain, "zarr": folder / "foreign.zarr", "netcdf": folder / "foreign.nc"}


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(["plain", "zarr", "netcdf"]), data=st.data())
def test_a_window_holds_the_values_of_the_cube(stores, kind, data):
    cube, reader = open_cube(stores[kind]), open_reader(stores[kind])
    lengths = [cube.sizes[axis] for axis in ("time", "y", "x")]
    starts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    window = [slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, lengths, strict=True)]
    for name in map(str, cube.data_vars):
        expected = cube[name].isel(
            {k: w for k, w in zip(("time", "y", "x"), window, strict=True) if k in cube[name].dims}
        )
        found = reader.read(name, *window)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected.values)


PACKED = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32768}
ENCODINGS = {
    "masked": {"_FillValue": -9999.0},
    "nan": {"_FillValue": np.nan},
    "missing": {"missing_value": 12.5},
    "packed": PACKED,
    "unsigned": {**PACKED, "_Unsigned": "true", "_FillValue": -1, "dtype": "int8", "scale_factor": 0.1},
    "double": {"dtype": "float64"},
    "big": {"dtype": ">f4"},
    "sharded": {"chunks": (4, 2, 2), "shards": (8, 4, 4)},
    "gzip": {"compressors": GzipCodec()},
    "lz4": {"compressors": BloscCodec(cname="lz4")},
}


@pytest.mark.parametrize(
    ("name", "zarr_format"),
    [*product(ENCODINGS, [3]), *product(["masked", "nan", "missing", "packed", "unsigned", "double", "big"], [2])],
)
def test_numbers_packed_in_any_way_are_those_of_xarray(tmp_path, name, zarr_format):
    encoding = {"chunks": (5, 2, 3)} | ENCODINGS[name]
    cube = small_cube()
    cube["vpd"][3, 1] = np.nan
    if name == "unsigned":
        cube["vpd"] = cube["vpd"].clip(4, 20)
    cube["vpd"][2, 0, 4] = np.float32(12.5)
    cube["shortwave"][2, 1, 3] = 0
    write_cube(cube.isel(y=slice(None, None, -1)), tmp_path / "c", encoding={"vpd": encoding}, zarr_format=zarr_format)
    if zarr_format == 2:  # xarray takes a fill value of format 2 for missing
        metadata = tmp_path / "c" / "shortwave" / ".zarray"
        text = metadata.read_text()
        metadata.write_text(re.sub(r'"fill_value": [^,]*', '"fill_value": 0.0', text))
    cube, reader = open_cube(tmp_path / "c"), open_reader(tmp_path / "c")
    assert ("vpd" in reader.stored) == (name != "sharded")
    window = slice(1, 10), slice(0, 4), slice(2, 7)
    for variable in ("vpd", "shortwave", "climate_group"):
        array = cube[variable]
        expected = array.isel({k: w for k, w in zip(("time", "y", "x"), window, strict=True) if k in array.dims})
        assert reader.read(variable, *window).tobytes() == expected.values.tobytes()
    assert np.isnan(reader.read("shortwave", *window)).any() == (zarr_format == 2)


def test_a_damaged_chunk_names_its_variable(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    chunk = next(file for file in sorted((path / "vpd" / "c").rglob("*")) if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    whole = slice(None)
    with pytest.raises(CubeError, match=r"'vpd'.*truncated"):
        open_reader(path).read("vpd", whole, whole, whole)
