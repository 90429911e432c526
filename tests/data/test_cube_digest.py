"""Digests of input: every needed byte counts, and no other."""

import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.data.cube import input_digest, open_cube
from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import UnknownName
from fluxgrid.netcdf import save_netcdf
from fluxgrid.testing import small_cube, write_cube

WINDOW = {"steps": slice(0, 11), "rows": slice(0, 3), "cols": slice(4, 7)}


def digest(path, variables=("vpd", "climate_group"), mapping=None, **window):
    """Return the digest of a window of a store, opened anew."""
    return input_digest(path, open_cube(path, mapping), variables, **(WINDOW | window))


def touch(file):
    """Change the last byte of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def foreign(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube south up, with other names, longitudes 0-360 across Greenwich and x first."""
    ds = ds.isel(y=slice(None, None, -1)).rename(x="longitude", time="t")
    return ds.assign_coords(longitude=ds.longitude % 360).sortby("longitude").transpose("longitude", "y", "t")


def changed_chunks(path, cube, window):
    """Return the chunk files of vpd whose change changes the digest."""
    before = input_digest(path, cube, ["vpd"], **window)
    chunks = sorted(file for file in (path / "vpd").rglob("*") if file.is_file() and file.name[0] not in "z.")
    changed = set()
    for chunk in chunks:
        data = chunk.read_bytes()
        touch(chunk)
        if input_digest(path, cube, ["vpd"], **window) != before:
            changed.add(str(chunk.relative_to(path / "vpd")))
        chunk.write_bytes(data)
    return changed


def test_same_input_same_digest_whatever_the_order(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    assert digest(path) == digest(path, ("climate_group", "vpd"))
    assert len(digest(path)) == 64
    shutil.copytree(path, tmp_path / "copy.zarr")
    assert digest(path) == digest(tmp_path / "copy.zarr")
    assert (
        len({digest(path), digest(path, ["vpd"]), digest(path, steps=slice(1, 11)), digest(path, rows=slice(0, 2))})
        == 4
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_only_needed_chunks_matter(tmp_path, zarr_format):
    path = write_cube(small_cube(), tmp_path / "c.zarr", zarr_format=zarr_format)
    key = "{}/{}/{}" if zarr_format == 3 else "{}.{}.{}"
    prefix = "c/" if zarr_format == 3 else ""
    cube = open_cube(path)
    assert changed_chunks(path, cube, WINDOW) == {prefix + key.format(0, 0, 1)}
    assert len(changed_chunks(path, cube, WINDOW | {"rows": slice(0, 5), "cols": slice(3, 5)})) == 4


@settings(max_examples=20)
@given(row=st.integers(0, 4), col=st.integers(0, 7))
def test_flipped_and_rolled_stores_know_their_chunks(tmp_path_factory, row, col):
    # 8 columns of 45 degrees: the store's longitudes begin at 22.5, the cube's at -157.5
    path = tmp_path_factory.mktemp("digest") / "c.zarr"
    theirs = foreign(small_cube(shape=(4, 8), resolution=45.0, centre=(0.0, 0.0)))
    theirs.to_zarr(path, zarr_format=3, consolidated=False, encoding={"vpd": {"chunks": (3, 2, 11)}})
    row = min(row, 3)
    window = {"steps": slice(0, 11), "rows": slice(row, row + 1), "cols": slice(col % 8, col % 8 + 1)}
    stored_col, stored_row = (col % 8 + 4) % 8, 3 - row
    cube = open_cube(path)
    assert changed_chunks(path, cube, window) == {f"c/{stored_col // 3}/{stored_row // 2}/0"}
    np.testing.assert_array_equal(cube.vpd[:, row, col % 8], theirs.vpd.isel(longitude=stored_col, y=stored_row))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_of_a_chunk_that_reaches_beyond_the_window_only_its_steps_matter(tmp_path, zarr_format):
    """A year that ends inside a chunk is not computed again because days of the next one come into that chunk."""
    ds = small_cube(periods=22)
    ds["vpd"][16:] = np.nan
    found = {}
    for name, days in (("before", []), ("the next year", [16, 21]), ("the last day", [15]), ("the first day", [3])):
        part = ds.copy(deep=True)
        part["vpd"][days, 1, 2] = 7.0
        path = tmp_path / f"{name}.zarr"
        part = part.drop_encoding()
        part["vpd"].encoding = {"chunks": (9, 3, 4), "grid_mapping": "spatial_ref"}  # of 0 to 8, 9 to 17 and 18 to 21
        part.to_zarr(path, zarr_format=zarr_format, consolidated=False)
        cube = open_cube(path)
        window = {"rows": slice(0, 3), "cols": slice(0, 4)}
        found[name] = [
            input_digest(path, cube, ["vpd"], steps=slice(*span), **window) for span in ((3, 16), (0, 16), (4, 15))
        ]
    assert found["the next year"] == found["before"]
    assert [one != other for one, other in zip(found["the last day"], found["before"], strict=True)] == [
        True,
        True,
        False,
    ]
    assert [one != other for one, other in zip(found["the first day"], found["before"], strict=True)] == [
        True,
        True,
        False,
    ]
    assert len(set(found["before"])) == 3


def test_a_cropped_cube_needs_the_same_chunks(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    cube = open_cube(path)
    part = cube.isel(time=slice(3, 9), y=slice(2, 5), x=slice(1, 7))
    here = {"steps": slice(0, 2), "rows": slice(0, 2), "cols": slice(3, 5)}
    there = {"steps": slice(3, 5), "rows": slice(2, 4), "cols": slice(4, 6)}
    assert input_digest(path, part, ["vpd"], **here) == input_digest(path, cube, ["vpd"], **there)


def test_appended_years_leave_the_past_alone(tmp_path):
    ds = small_cube(periods=22)
    path = write_cube(ds.isel(time=slice(0, 11)), tmp_path / "c.zarr")
    before = digest(path)
    late = ds[["vpd", "shortwave", "temperature_2m", "precipitation"]].isel(time=slice(11, 22)).drop_vars("spatial_ref")
    late.drop_encoding().to_zarr(path, append_dim="time", consolidated=False)
    assert open_cube(path).sizes["time"] == 22
    assert digest(path) == before
    assert digest(path, steps=slice(11, 22)) != before


def test_metadata_and_mapping_matter(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    before = digest(path)
    mapping = {"variables": {"vpd": {"from": "vpd", "units": "kPa"}, "climate_group": {"from": "climate_group"}}}
    assert digest(path, mapping=parse_mapping(mapping)) != before
    (path / "vpd/c/0/0/1").unlink()
    missing = digest(path)
    assert missing != before
    about = path / "vpd/zarr.json"
    about.write_text(about.read_text().replace('"fill_value": "NaN"', '"fill_value": 0.0'))
    assert digest(path) not in (before, missing)


def test_netcdf_is_digested_by_value(tmp_path):
    ds = small_cube()
    save_netcdf(ds, tmp_path / "a.nc")
    ds.vpd[5, 4, 0] += 1  # outside the window
    save_netcdf(ds, tmp_path / "b.nc")
    ds.vpd[5, 0, 5] += 1
    save_netcdf(ds, tmp_path / "c.nc")
    a, b, c = (digest(tmp_path / f"{name}.nc") for name in "abc")
    assert a == b != c


def test_unknown_variable(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    with pytest.raises(UnknownName, match="Did you mean 'vpd'"):
        digest(path, ["vpdd"])
