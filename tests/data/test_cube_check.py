"""Checking cubes: every problem at once, damaged chunks by name, and a mapping that works."""

import numpy as np
import pytest
import yaml

from fluxgrid.data.cube import check_cube, open_cube
from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import CubeError, UnknownName
from fluxgrid.testing import small_cube, write_cube


def find(lines, start):
    """Return the one line that starts so."""
    (line,) = [line for line in lines if line.startswith(start)]
    return line


def test_a_sound_cube_has_no_problems(tmp_path):
    report = check_cube(write_cube(small_cube(missing=0.2), tmp_path / "c.zarr"), wanted=["vpd", "toa_radiation"])
    assert report.problems == ()
    assert report.ok
    note = find(report.notes, "precipitation: ")
    assert "% NaN" in note
    assert "mm d-1" in note
    assert "chunks" not in note


def test_every_problem_of_axes_and_values_at_once(tmp_path):
    ds = small_cube(periods=12).isel(time=[0, 1, 2, 4, *range(5, 12)]).drop_vars("spatial_ref").drop_encoding()
    ds.attrs = {}
    ds["temperature_2m"] = ds.temperature_2m + 273.15  # still says degC
    ds.temperature_2m.attrs["units"] = "degC"
    ds["vpd"][:] = np.nan
    ds["shortwave"][2, 3, 4] = -9999
    ds["crop_fraction"] = (ds.crop_fraction * 100).assign_attrs(units="1")
    ds["precipitation"][0, 0, 0] = np.inf
    ds["climate_group"][0, 0] = 9
    ds["co2"] = ds.vpd.assign_attrs(units="W m-2")
    ds = ds.assign_coords(x=ds.x % 360).isel(y=slice(None, None, -1))
    report = check_cube(write_cube(ds, tmp_path / "c.zarr"), wanted=["ndvi", "vpd"])
    problems = report.problems
    assert "is missing; add it to the file" in find(problems, "ndvi (")
    assert "1 step are missing in time, first 2019-01-04" in find(problems, "1 step")
    assert "no coordinate reference system" in find(problems, "no coord")
    assert "100 % of the values lie outside -70..60 degC" in find(problems, "temperature_2m: ")
    assert "in K they would fit" in find(problems, "temperature_2m: ")
    assert "are NaN" in find(problems, "vpd: ")
    assert "-9999 looks like a code for missing values" in find(problems, "shortwave: ")
    assert "in % they would fit" in find(problems, "crop_fraction: ")
    assert "infinite" in find(problems, "precipitation: ")
    assert "codes 9 of 'climate_group' are in no class" in find(problems, "climate_group: ")
    assert "Cannot convert 'W m-2' to 'ppm'" in find(problems, "co2: ")
    assert len(problems) == 10
    assert "rolled to -180..180" in find(report.notes, "longitudes")
    assert "flipped" in find(report.notes, "y ascends")


@pytest.mark.parametrize("damage", ["truncate", "garble"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_damaged_chunk_is_named(tmp_path, damage, zarr_format):
    path = write_cube(small_cube(), tmp_path / "c.zarr", zarr_format=zarr_format)
    chunk = path / ("vpd/c/0/1/1" if zarr_format == 3 else "vpd/0.1.1")
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"\x00" * len(data))
    (problem,) = check_cube(path).problems
    assert "vpd: chunk (time 0, y 1, x 1) of array 'vpd', cells [0:11, 3:5, 4:7], cannot be read" in problem
    assert "truncated or damaged" in problem


def test_a_lost_chunk_is_noted(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    (path / "vpd/c/0/1/1").unlink()
    report = check_cube(path)
    assert report.ok
    assert "1 of 4 chunks of array 'vpd' are not in the store and read as nan" in find(report.notes, "vpd: 1 of")


def test_big_cubes_are_sampled_and_say_so(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr", chunks=(1, 1))
    report = check_cube(path, sample=6)
    assert "(in 6 of 35 chunks looked at)" in find(report.notes, "vpd: ")
    assert "chunks" not in find(check_cube(path, sample=None).notes, "vpd: ")


def test_the_suggestion_opens_the_file(tmp_path):
    ours = small_cube("monthly", start="2020-01-01", periods=14)
    theirs = ours.drop_vars(["spatial_ref", "climate_group", "forest_fraction"]).drop_encoding()
    theirs = theirs.rename(y="lat", x="lon", temperature_2m="t2m", precipitation="foo", shortwave="ssrd", vpd="VPD")
    theirs.attrs = {"title": "Theirs: a test"}
    theirs["t2m"] = (theirs.t2m + 273.15).assign_attrs(units="K")
    days = ours.time.dt.days_in_month.to_numpy()[:, None, None]
    theirs["foo"] = (theirs.foo * days).assign_attrs(units="kg m-2", standard_name="lwe_precipitation_rate")
    theirs["ssrd"] = theirs.ssrd.assign_attrs(units="J m-2 month-1") * 86400 * days
    theirs.ssrd.attrs = {"units": "J m-2 month-1"}
    path = write_cube(theirs, tmp_path / "theirs.zarr")
    with pytest.raises(CubeError):
        open_cube(path)
    report = check_cube(path, wanted=["temperature_2m"])
    assert "'t2m' may be it" in find(report.problems, "temperature_2m (")
    mapping = parse_mapping(yaml.safe_load(report.suggestion))
    assert mapping.crs == "EPSG:4326"
    assert mapping.variables["precipitation"].units == "kg m-2 month-1"
    cube = open_cube(path, mapping)
    assert cube.attrs["title"] == "Theirs: a test"
    for name in ("temperature_2m", "precipitation", "shortwave", "vpd", "crop_fraction"):
        np.testing.assert_allclose(cube[name], ours[name], rtol=1e-5, atol=1e-4)
    assert check_cube(path, mapping).ok


def test_a_share_of_something_is_not_taken_for_the_share_of_a_crop(tmp_path):
    """Many things have the standard name ``area_fraction``."""
    cube = small_cube()
    share = cube["crop_fraction"].rename("region_land_area_fraction")
    share.attrs |= {"standard_name": "area_fraction", "units": "1"}
    path = write_cube(cube.assign(region_land_area_fraction=share), tmp_path / "cube.zarr")
    assert "region_land_area_fraction" not in check_cube(path).suggestion


def test_what_needs_a_person_is_a_comment(tmp_path):
    ds = small_cube().rename(climate_group="koppen_code", vpd="field_capacity")
    ds.koppen_code.attrs = {}
    ds.field_capacity.attrs["units"] = "mm"
    report = check_cube(write_cube(ds, tmp_path / "c.zarr"))
    assert "# climate_group: {from: koppen_code}   # list the codes" in report.suggestion
    assert "# field_capacity: {from: field_capacity}   # its unit 'mm' cannot be converted" in report.suggestion
    assert "field_capacity" not in parse_mapping(yaml.safe_load(report.suggestion)).variables


def test_bad_questions(tmp_path):
    path = write_cube(small_cube(), tmp_path / "c.zarr")
    with pytest.raises(UnknownName, match="Did you mean 'temperature_2m'"):
        check_cube(path, wanted=["temperature2m"])
    with pytest.raises(CubeError, match="There is nothing at"):
        check_cube(tmp_path / "nowhere.zarr")


@pytest.mark.data
def test_the_real_files(data_dir):
    file = data_dir / "conus_monthly_covariates_025.nc"
    report = check_cube(file, "conus_monthly_025", wanted=["temperature_2m", "precipitation", "climate_group"])
    assert report.problems == ()
    assert "mm month-1 is converted" in find(report.notes, "precipitation: mm")
    report = check_cube(file)
    assert "no coordinate reference system" in report.problems[0]
    suggested = parse_mapping(yaml.safe_load(report.suggestion))
    assert {"temperature_2m", "precipitation", "potential_evaporation", "elevation"} == set(suggested.variables)
    assert check_cube(file, suggested).ok
    prism = check_cube(data_dir / "prism_midwest_4km_samples.nc")
    assert "no dimension is time" in prism.problems[0]
