"""Opening cubes: foreign files become ours, lazily, or are refused with every reason."""

import dask.array as da
import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

from fluxgrid.data.cube import check_cube, grid_of, open_cube, step_of
from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import ConfigError, CubeError
from fluxgrid.netcdf import open_netcdf, save_netcdf
from fluxgrid.testing import small_cube, write_cube


def bare(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset that states no CRS and no step."""
    return ds.drop_vars("spatial_ref").drop_encoding().assign_attrs(step="", crs="")


@pytest.mark.parametrize("step", ["daily", "monthly"])
@pytest.mark.parametrize("options", [{}, {"consolidated": True}, {"zarr_format": 2}])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_cube_comes_back_as_written(tmp_path, step, options):
    expected = small_cube(step, start="2019-11-01", missing=0.1)
    cube = open_cube(write_cube(expected, tmp_path / "cube.zarr", **options))
    assert step_of(cube) == step
    assert cube.attrs["day_definition"] == "UTC"
    assert cube.attrs["crs"] == "EPSG:4326"
    assert cube.rio.crs.to_epsg() == 4326
    for name in expected.data_vars:
        assert cube[name].dtype == np.float32
        assert cube[name].attrs["units"] == expected[name].attrs["units"]
        np.testing.assert_array_equal(cube[name], expected[name])
    for axis in ("time", "y", "x"):
        np.testing.assert_array_equal(cube[axis], expected[axis])
    assert list(cube.data_vars)[:2] == ["temperature_2m", "precipitation"]  # the order of the table, not of the disk
    grid = grid_of(cube)
    assert grid.shape == (5, 7)
    np.testing.assert_array_equal(grid.y, cube.y)


def test_values_stay_lazy_in_the_chunks_of_the_store(tmp_path):
    cube = open_cube(write_cube(small_cube(), tmp_path / "cube.zarr"))
    for array in cube.data_vars.values():
        assert isinstance(array.data, da.Array)
        assert array.data.chunks[-2:] == ((3, 2), (4, 3))
    assert cube.vpd.data.chunks[0] == (11,)


def test_foreign_axes_become_ours(tmp_path):
    ours = small_cube()
    theirs = bare(ours).rename(y="latitude", x="longitude", time="t")
    theirs = theirs.assign_coords(longitude=theirs.longitude % 360, t=theirs.t + pd.Timedelta(hours=12))
    theirs = theirs.isel(latitude=slice(None, None, -1)).transpose("longitude", "t", "latitude")
    theirs["vpd"] = theirs.vpd.expand_dims(height=[2.0])
    path = tmp_path / "theirs.nc"
    save_netcdf(theirs, path)
    cube = open_cube(path, parse_mapping({"crs": "EPSG:4326"}))
    assert cube.vpd.dims == ("time", "y", "x")
    for name in ours.data_vars:
        np.testing.assert_array_equal(cube[name], ours[name])
    np.testing.assert_array_equal(cube.time, ours.time)


def test_global_longitudes_are_rolled(tmp_path):
    ours = small_cube(shape=(4, 8), resolution=45.0, centre=(0.0, 0.0))
    theirs = ours.assign_coords(x=ours.x % 360).sortby("x")
    theirs.vpd[:] = np.arange(theirs.vpd.size).reshape(theirs.vpd.shape)
    cube = open_cube(write_cube(theirs, tmp_path / "globe.zarr"))
    assert cube.x.values.tolist() == [-157.5, -112.5, -67.5, -22.5, 22.5, 67.5, 112.5, 157.5]
    theirs = theirs.assign_coords(x=(theirs.x + 180) % 360 - 180).sortby("x")
    np.testing.assert_array_equal(cube.vpd, theirs.vpd)


def test_units_are_converted_once_at_the_border(tmp_path):
    ours = small_cube("monthly", start="2020-01-01", periods=3)
    theirs = ours.rename(temperature_2m="tas", precipitation="pr")
    theirs["tas"] = (theirs.tas + 273.15).assign_attrs(units="K")
    theirs["pr"] = (theirs.pr * np.array([31, 29, 31])[:, None, None]).astype("f4").assign_attrs(units="mm month-1")
    mapping = {"temperature_2m": {"from": "tas"}, "precipitation": {"from": "pr"}}
    cube = open_cube(write_cube(theirs, tmp_path / "c.zarr"), parse_mapping({"variables": mapping}))
    assert list(cube.data_vars) == ["temperature_2m", "precipitation"]
    assert cube.precipitation.attrs["source_units"] == "mm month-1"
    np.testing.assert_allclose(cube.temperature_2m, ours.temperature_2m, atol=1e-4)
    np.testing.assert_allclose(cube.precipitation, ours.precipitation, rtol=1e-6)


def test_codes_become_class_indices(tmp_path):
    ds = small_cube()
    codes = np.arange(35).reshape(5, 7) % 4
    ds["k"] = (("y", "x"), codes.astype("int8"))
    classes = {0: "tropical", 1: "polar", 2: "unknown"}
    mapping = {"variables": {"climate_group": {"from": "k", "classes": classes}}}
    cube = open_cube(write_cube(ds, tmp_path / "c.zarr"), parse_mapping(mapping))
    expected = np.array([0, 4, np.nan, np.nan], dtype="float32")[codes]
    np.testing.assert_array_equal(cube.climate_group, expected)


def test_time_bounds_tell_the_start_of_the_step(tmp_path):
    ds = small_cube("monthly", start="2020-01-01", periods=4)
    ends = pd.date_range("2020-02-01", periods=4, freq="MS")
    ds["time_bnds"] = (("time", "n"), np.stack([ds.time.values, ends], axis=1))
    ds = ds.assign_coords(time=ends)
    ds.time.encoding["units"] = "days since 2000-01-01"
    ds.time.attrs["bounds"] = "time_bnds"
    save_netcdf(ds, tmp_path / "c.nc")
    cube = open_cube(tmp_path / "c.nc")
    assert str(cube.time.values[0])[:10] == "2020-01-01"


def test_files_of_years_are_joined(tmp_path):
    ds = small_cube(start="2019-12-28", periods=9)
    for year, part in ds.groupby("time.year"):
        save_netcdf(part, tmp_path / f"c_{year}.nc")
    for path in (tmp_path / "c_*.nc", sorted(tmp_path.glob("c_*.nc"))):
        cube = open_cube(path)
        np.testing.assert_array_equal(cube.vpd, ds.vpd)
        assert cube.climate_group.dims == ("y", "x")


def test_projected_grids_keep_their_crs(tmp_path):
    ds = small_cube(shape=(5, 7)).drop_vars("spatial_ref")
    ds = ds.assign_coords(x=np.arange(7) * 5000.0 + 2500, y=2e6 - np.arange(5) * 5000.0)
    ds.x.attrs, ds.y.attrs = {"units": "m"}, {"units": "m"}
    cube = open_cube(write_cube(ds.rio.write_crs(5070), tmp_path / "c.zarr"))
    assert cube.rio.crs.to_epsg() == 5070
    assert not grid_of(cube).geographic
    assert cube.x.attrs["standard_name"] == "projection_x_coordinate"


def test_the_grid_mapping_wins_over_a_global_attribute(tmp_path):
    ds = small_cube(shape=(5, 7)).drop_vars("spatial_ref").drop_encoding()
    ds = ds.assign_coords(x=np.arange(7) * 5000.0 + 2500, y=2e6 - np.arange(5) * 5000.0)
    ds.x.attrs, ds.y.attrs = {"units": "m"}, {"units": "m"}
    ds = ds.rio.write_crs(5070, grid_mapping_name="albers").rename(x="easting", y="northing")
    save_netcdf(ds.assign_attrs(crs="EPSG:4326"), tmp_path / "c.nc")
    mapping = parse_mapping({"dims": {"y": "northing", "x": "easting"}})
    assert open_cube(tmp_path / "c.nc", mapping).rio.crs.to_epsg() == 5070


def test_a_rotated_pole_is_refused(tmp_path):
    pole = {"grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0}
    crs = pyproj.CRS.from_cf({"grid_mapping_name": "rotated_latitude_longitude", **pole})
    ds = bare(small_cube()).rename(x="rlon", y="rlat")
    ds.rlon.attrs, ds.rlat.attrs = {"standard_name": "grid_longitude"}, {"standard_name": "grid_latitude"}
    ds["rotated_pole"] = ((), 0, crs.to_cf())
    for name in set(ds.data_vars) - {"rotated_pole"}:
        ds[name].encoding, ds[name].attrs["grid_mapping"] = {}, "rotated_pole"
    save_netcdf(ds, tmp_path / "c.nc")
    with pytest.raises(CubeError, match="rotated pole: its coordinates are not longitudes and latitudes"):
        open_cube(tmp_path / "c.nc")


def test_every_structural_problem_is_told_at_once(tmp_path):
    ds = bare(small_cube(periods=20)).isel(time=[0, 1, 1, 2, *range(5, 20)])
    ds["vpd"] = ds.vpd.isel(time=0, drop=True)
    ds.shortwave.attrs["units"] = "mm d-1"
    del ds.precipitation.attrs["units"]
    ds.climate_group.attrs = {}
    ds = ds.assign_coords(x=[0.0, 1, 2, 3, 5, 6, 7])
    write_cube(ds, tmp_path / "bad.zarr")
    with pytest.raises(CubeError) as caught:
        open_cube(tmp_path / "bad.zarr")
    for text in (
        "bad.zarr cannot be used as a cube",
        "cube check",
        "no coordinate reference system",
        "1 step occur more than once, first 2019-01-02",
        "2 steps are missing in time, first 2019-01-04, last 2019-01-05",
        "vpd: 'vpd' has dimensions (y, x), needs (time, y, x)",
        "shortwave: Cannot convert 'mm d-1' to 'W m-2'",
        "precipitation: 'precipitation' states no unit",
        "climate_group: nothing says which codes",
        "x",
    ):
        assert text in str(caught.value)
    assert str(caught.value).count("\n") == 8


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_other_calendars_are_refused(tmp_path, calendar):
    ds = small_cube().convert_calendar(calendar, align_on="date")
    save_netcdf(ds, tmp_path / "c.nc")
    with pytest.raises(CubeError, match=f"the calendar is '{calendar}'"):
        open_cube(tmp_path / "c.nc")


def test_steps_that_are_neither_daily_nor_monthly(tmp_path):
    ds = small_cube(periods=11).isel(time=slice(None, None, 5))
    with pytest.raises(CubeError, match="5 days apart, which is neither daily nor monthly"):
        open_cube(write_cube(ds, tmp_path / "c.zarr"))
    with pytest.raises(CubeError, match="said to be monthly, but time stamps are usually 1 days apart"):
        open_cube(write_cube(small_cube(), tmp_path / "d.zarr"), parse_mapping({"step": "monthly"}))
    single = bare(small_cube(periods=1))
    with pytest.raises(CubeError, match="single time stamp"):
        open_cube(write_cube(single, tmp_path / "e.zarr"), parse_mapping({"crs": "EPSG:4326"}))


def test_curvilinear_grids_and_nameless_files_are_refused(tmp_path):
    ds = xr.Dataset(
        {"foo": (("time", "j", "i"), np.zeros((3, 5, 7)))},
        {
            "time": pd.date_range("2001-01-01", periods=3),
            "lat": (("j", "i"), np.zeros((5, 7))),
            "lon": (("j", "i"), np.zeros((5, 7))),
        },
    )
    save_netcdf(ds, tmp_path / "c.nc")
    with pytest.raises(CubeError, match=r"(?s)'lat': the grid is not regular.*no variable bears a name.*foo"):
        open_cube(tmp_path / "c.nc")


def test_what_is_no_store_says_what_to_give(tmp_path):
    (tmp_path / "notes.txt").write_text("not a cube")
    (tmp_path / "folder").mkdir()
    for path, text in (
        ("nowhere.zarr", "There is nothing at .*nowhere.zarr. Give a zarr store"),
        ("nothing_*.nc", "There is nothing at"),
        ("folder", "is a folder but not a zarr store"),
        ("notes.txt", "cannot be opened: .*copy it again"),
    ):
        with pytest.raises(CubeError, match=text):
            open_cube(tmp_path / path)
    with pytest.raises(CubeError, match="There is nothing at"):
        open_cube([])


def test_truncated_netcdf_is_told(tmp_path):
    save_netcdf(small_cube(), tmp_path / "c.nc")
    data = (tmp_path / "c.nc").read_bytes()
    (tmp_path / "c.nc").write_bytes(data[: len(data) // 2])
    with pytest.raises(CubeError, match="it is damaged"):
        open_cube(tmp_path / "c.nc")


def test_a_mapping_of_what_is_not_there(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    mapping = parse_mapping({"variables": {"tmin": {"from": "temperature_2n"}}, "dims": {"x": "easting"}})
    with pytest.raises(CubeError, match=r"(?s)no dimension 'easting'.*Did you mean 'temperature_2m'\?"):
        open_cube(path, mapping)
    with pytest.raises(ConfigError, match="no mapping file"):
        open_cube(path, "nothing")


def test_what_is_no_cube_says_so():
    with pytest.raises(CubeError, match="attribute step is None"):
        step_of(xr.Dataset())
    with pytest.raises(CubeError, match="lacks y, x or spatial_ref"):
        grid_of(xr.Dataset())


@pytest.mark.data
def test_the_real_conus_grid(data_dir):
    file = data_dir / "conus_monthly_covariates_025.nc"
    cube = open_cube(file, "conus_monthly_025")
    assert step_of(cube) == "monthly"
    assert grid_of(cube).bounds == (-125.0, -66.0, 24.0, 50.0)
    with open_netcdf(file) as raw:
        place = {"time": 1, "y": 30, "x": 120}  # February 2000: 29 days
        expected = float(raw.precip.values[1, 30, 120]) / 29
        assert float(cube.precipitation.isel(place)) == pytest.approx(expected, rel=1e-6)
        codes = raw.koeppen_code.values
    groups = cube.climate_group.values
    assert np.isnan(groups[codes == 32]).all()
    assert (groups[(codes >= 18) & (codes <= 29)] == 3).all()
    assert "field_capacity" not in cube


def test_coordinates_of_cells_and_covariates_of_towers_are_not_read(tmp_path):
    cube = small_cube()
    place = xr.zeros_like(cube["crop_fraction"]).assign_attrs(units="degrees_north", standard_name="latitude")
    weather = xr.zeros_like(cube["vpd"]).assign_attrs(units="K")
    path = write_cube(cube.assign(latitude=place, era5_temperature_2m=weather), tmp_path / "cube.zarr")
    assert set(open_cube(path)) == set(open_cube(write_cube(cube, tmp_path / "same.zarr")))
    assert "latitude:" not in check_cube(path).suggestion
