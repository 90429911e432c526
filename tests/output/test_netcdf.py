"""The NetCDF file, seen by the programs people use and by a checker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.warp
import xarray as xr
from compliance_checker.runner import CheckSuite, ComplianceChecker

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import DamagedMap, OutputError
from fluxgrid.netcdf import netcdf_file, open_netcdf
from fluxgrid.output import netcdf
from fluxgrid.output.cf import place_meanings
from fluxgrid.output.flags import Quality, flag_masks
from fluxgrid.output.layers import Layers, layers_of
from fluxgrid.output.netcdf import FILL, FilePlan, export_netcdf, plan_files
from fluxgrid.output.stream import blocks, open_map

DTYPES = Layers().dtypes
ANNUAL = {"corn_yield", "soybean_yield", "harvest_removal", "balance_after_harvest"}


@pytest.mark.parametrize("name", ["daily", "monthly", "rich", "rich_albers", "unsure"])
def test_compliance_checker_finds_nothing(request, name, tmp_path):
    example = request.getfixturevalue(name)
    CheckSuite.load_all_available_checkers()
    report = tmp_path / "report.txt"
    ComplianceChecker.run_checker(
        str(example.netcdf), ["cf:1.11"], 0, "strict", output_filename=str(report), output_format="text"
    )
    assert "All tests passed!" in report.read_text()


def test_checker_finds_no_serious_gap_in_acdd(example, tmp_path):
    CheckSuite.load_all_available_checkers()
    report = tmp_path / "report.txt"
    ComplianceChecker.run_checker(
        str(example.netcdf), ["acdd:1.3"], 0, "strict", output_filename=str(report), output_format="text"
    )
    text = report.read_text()
    high = text.split("Highly Recommended")[1].split("Recommended")[0]
    # CF has no standard name that means NEE or RECO with our sign; the rest must be there.
    complaints = [line for line in high.splitlines() if "*" in line]
    assert all("standard_name" in line for line in complaints), complaints


def test_xarray_sees_georeference_bounds_and_values(example):
    with open_netcdf(example.netcdf, decode_coords="all") as dataset:
        assert dataset.rio.crs.to_epsg() == example.grid.crs.epsg
        np.testing.assert_allclose(dataset.rio.transform(), example.grid.affine, rtol=0, atol=1e-9)
        assert dataset["nee"].dims == ("time", *example.grid.dims)
        for name, dtype in DTYPES.items():
            np.testing.assert_array_equal(dataset[name], example.arrays[name])
            assert dataset[name].encoding["dtype"] == dtype
        assert set(dataset.coords) >= {"time_bnds", "crs", "cell_area"}
        np.testing.assert_array_equal(dataset["time"], example.times)
        ends = step_ends(example.times, example.info.step)
        np.testing.assert_array_equal(dataset["time_bnds"], np.stack([example.times, ends], axis=1))
        lat_dim = example.grid.dims[0]
        assert dataset[lat_dim][0] > dataset[lat_dim][-1]
        np.testing.assert_allclose(dataset["land_area_fraction"], example.land)
        np.testing.assert_allclose(dataset["cell_area"], example.grid.cell_area())


def test_gdal_reads_the_right_value_at_a_known_point_and_time(example):
    row, col, step = 2, 5, 6
    lon, lat = example.grid.lonlat()
    with rasterio.open(f"NETCDF:{example.netcdf}:nee") as raster:
        assert raster.crs.to_epsg() == example.grid.crs.epsg
        assert raster.count == len(example.times)
        assert raster.nodata == FILL
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", raster.crs, [lon[row, col]], [lat[row, col]])
        (values,) = raster.sample([(x, y)])
    assert values[step] == example.arrays["nee"][step, row, col]


def test_missing_cells_are_fill_values_with_a_reason(example):
    with netcdf_file(example.netcdf) as file:
        file.set_auto_mask(False)
        nee, flag = file["nee"][:], file["quality_flag"][:]
        assert file["quality_flag"].flag_masks.tolist() == flag_masks()
        assert len(file["quality_flag"].flag_meanings.split()) == len(flag_masks())
        assert "_FillValue" not in file["quality_flag"].ncattrs()
    empty = nee == FILL
    assert empty.any()
    assert ((flag[empty] & (Quality.OUTSIDE_REGION | Quality.INPUT_MISSING)) > 0).all()
    assert ((flag[~empty] & (Quality.OUTSIDE_REGION | Quality.INPUT_MISSING)) == 0).all()


def test_metadata_say_what_the_map_is(example):
    with netcdf_file(example.netcdf) as file:
        assert file.Conventions == "CF-1.11, ACDD-1.3"
        assert file.title == "Synthetic: Carbon fluxes of Iowa"
        assert file.synthetic == "true"
        assert file.git_commit == "0123abc"
        assert "No number here is an estimate" in file.comment
        assert file.dimensions["time"].isunlimited()
        assert file["time"].units_metadata == "leap_seconds: none"
        assert "standard_name" not in file["nee"].ncattrs()
        assert "standard_name" not in file["reco"].ncattrs()
        assert file["gpp"].standard_name == "gross_primary_productivity_of_biomass_expressed_as_carbon"
        assert file["applicability"].threshold == np.float32(0.4)
        assert "10.1111/2041-210X.13650" in file["applicability"].references
        assert file.geospatial_lat_min < 41.5 < file.geospatial_lat_max
        assert file.geospatial_lon_min < -93 < file.geospatial_lon_max
        for name in ("time", "crs", *example.grid.dims):
            assert "_FillValue" not in file[name].ncattrs()


def test_whole_map_does_not_depend_on_block_size(daily, tmp_path, monkeypatch):
    monkeypatch.setattr(netcdf, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(netcdf, "_MAX_SIDE", 3)
    export_netcdf(daily.store, daily.grid, daily.info, tmp_path / "small.nc", daily.land)
    with open_netcdf(tmp_path / "small.nc") as small, open_netcdf(daily.netcdf) as large:
        assert small["nee"].encoding["chunksizes"][1:] == (3, 3)
        xr.testing.assert_identical(small, large)


def test_part_of_the_steps(daily, tmp_path):
    plan = FilePlan("2019-07", slice(6, 11))
    export_netcdf(daily.store, daily.grid, daily.info, tmp_path / "july.nc", daily.land, plan.steps)
    with open_netcdf(tmp_path / "july.nc") as july:
        np.testing.assert_array_equal(july["gpp"], daily.arrays["gpp"][6:])
        assert july.attrs["time_coverage_start"] == "2019-07-01T00:00:00"
        assert july.attrs["time_coverage_end"] == "2019-07-06T00:00:00"


def test_copy_that_differs_from_the_store_never_appears(daily, tmp_path, monkeypatch):
    def shift(file, dataset, name):
        file[name][:] = np.roll(netcdf._read(dataset, name, (slice(None),) * 3), 1, axis=2)

    monkeypatch.setattr(netcdf, "_copy_variable", shift)
    with pytest.raises(OutputError) as caught:
        export_netcdf(daily.store, daily.grid, daily.info, tmp_path / "bad.nc", daily.land)
    assert "does not read back as written" in str(caught.value)
    assert all(f"{name}: values differ" in str(caught.value) for name in DTYPES)
    assert list(tmp_path.iterdir()) == []


def test_damaged_store_is_named_and_leaves_no_file(daily, tmp_path):
    store = tmp_path / "map.zarr"
    shutil.copytree(daily.store, store)
    chunk = next((store / "gpp" / "c").rglob("*/0/1"))
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(DamagedMap, match=r"Cannot read gpp .*--resume"):
        export_netcdf(store, daily.grid, daily.info, tmp_path / "out.nc", daily.land)
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


def test_pieces_that_do_not_belong_together_are_all_listed(daily, monthly, tmp_path):
    with pytest.raises(OutputError) as caught:
        export_netcdf(daily.store, monthly.grid, daily.info, tmp_path / "out.nc", daily.land[:2], slice(20, 30))
    for part in ("none of the steps", "the store has", "land_fraction has"):
        assert part in str(caught.value)


def test_annual_variables_are_sums_over_a_year(rich_example):
    with open_netcdf(rich_example.netcdf, decode_coords="all") as dataset:
        for name in ("corn_yield", "harvest_removal", "balance_after_harvest"):
            assert dataset[name].dims == rich_example.grid.dims
            np.testing.assert_array_equal(dataset[name], rich_example.arrays[name])
            assert dataset[name].attrs["units"] == "g m-2"
            assert dataset[name].attrs["cell_methods"].startswith("year: sum")
            assert dataset[name].coords["year"] == np.datetime64("2020-01-01")
        assert dataset["corn_yield"].attrs["cell_methods"].endswith("crops")
        for name in ("ra", "rh"):
            np.testing.assert_array_equal(dataset[name], rich_example.arrays[name])
            assert dataset[name].attrs["standard_name"].endswith("_respiration")
        for part in (
            "not a change of storage",
            "harvest_removal carries it",
            "balance_after_harvest is NEE of the year",
        ):
            assert part in dataset["nee"].attrs["comment"]


def test_calibration_names_its_places_and_is_empty_where_the_global_model_stands_alone(rich_example):
    place = rich_example.arrays["calibration_id"]
    with netcdf_file(rich_example.netcdf) as file:
        file.set_auto_mask(False)
        variable = file["calibration_id"]
        assert variable.flag_values.tolist() == [0, 1, 2]
        assert variable.flag_meanings == "Iowa Saint_Louis__MO US-Ne1"
        assert variable._FillValue == -1
        np.testing.assert_array_equal(variable[:], place)
    with open_netcdf(rich_example.netcdf) as dataset:
        assert layers_of(dataset).calibrated_places == ("Iowa", "Saint_Louis__MO", "US-Ne1")
        np.testing.assert_array_equal(np.isnan(dataset["calibration_id"]), place < 0)
        for name in ("calibration_weight", "calibration_global_weight"):
            np.testing.assert_array_equal(dataset[name], rich_example.arrays[name])


def test_half_widths_belong_to_their_fluxes_and_say_what_they_are_not(unsure, daily):
    with open_netcdf(unsure.netcdf) as dataset:
        assert layers_of(dataset).errors == ("nee", "gpp", "reco")
        for name in ("nee", "gpp", "reco"):
            error = dataset[f"{name}_se"]
            assert f"{name}_se" in dataset[name].attrs["ancillary_variables"].split()
            assert error.dims == dataset[name].dims
            assert error.attrs["units"] == "g m-2 d-1"
            assert error.attrs["coverage_target"] == np.float32(0.6827)
            assert "must not be averaged down" in error.attrs["comment"]
            assert "one day" in error.attrs["long_name"]
            np.testing.assert_array_equal(error, unsure.arrays[f"{name}_se"])
        name = "gross_primary_productivity_of_biomass_expressed_as_carbon standard_error"
        assert dataset["gpp_se"].attrs["standard_name"] == name
        assert "standard_name" not in {**dataset["nee_se"].attrs, **dataset["reco_se"].attrs}
    with open_netcdf(daily.netcdf) as dataset:
        assert layers_of(dataset).errors == ()
        assert "_se" not in dataset["nee"].attrs["ancillary_variables"]


@pytest.mark.parametrize("name", ["rich", "unsure"])
def test_a_file_made_from_a_netcdf_map_is_the_same(request, name, tmp_path):
    example = request.getfixturevalue(name)
    again = export_netcdf(example.netcdf, example.grid, example.info, tmp_path / "again.nc", example.land)
    with open_netcdf(example.netcdf) as first, open_netcdf(again) as second:
        xr.testing.assert_identical(first, second)


def test_annual_variables_stand_in_the_file_with_the_end_of_the_year(rich, tmp_path):
    def variables(source, grid, info, land, steps):
        path = export_netcdf(source, grid, info, tmp_path / f"{steps.start}.nc", land, steps)
        with open_netcdf(path) as dataset:
            return set(dataset.variables)

    arguments = rich.store, rich.grid, rich.info, rich.land
    first, last = (variables(*arguments, steps) for steps in (slice(0, 6), slice(6, 12)))
    assert last - first == {"year", *ANNUAL}
    assert "calibration_id" in first
    part = open_map(rich.store).isel(time=slice(0, 11))  # no year is complete
    assert not variables(part, *arguments[1:], slice(5, 11)) & {"year", "corn_yield"}


def test_gpp_that_drives_the_model_says_so(monthly, tmp_path):
    info = replace(monthly.info, gpp_is_driver=True)
    path = export_netcdf(monthly.store, monthly.grid, info, tmp_path / "out.nc", monthly.land)
    with open_netcdf(path) as file, open_netcdf(monthly.netcdf) as other:
        assert "errors are those of the driver, not the model's skill" in file["gpp"].comment
        assert "driver" not in other["gpp"].comment


def test_names_of_places_are_what_cf_allows():
    names = place_meanings(["A b", "A_b", "1st", "_x", "Îowa", "US-Ne1"]).split()
    assert names == ["A_b", "A_b_1", "place_1st", "place__x", "place__owa", "US-Ne1"]


def test_read_only_folder_is_a_clear_error(daily, tmp_path):
    target = tmp_path / "file" / "out.nc"
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="Cannot write"):
        export_netcdf(daily.store, daily.grid, daily.info, target, daily.land)


def test_full_disk_is_a_clear_error(daily, tmp_path):
    script = f"""
import resource, sys
import numpy as np
from pathlib import Path
from fluxgrid.errors import DamagedMap, OutputError
from fluxgrid.geo.grid import Grid
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import export_netcdf
grid = Grid.from_centres({daily.grid.x.tolist()}, {daily.grid.y.tolist()}, "EPSG:4326")
info = MapInfo("t", "s", "iowa", "Iowa", "daily", True, "m", "m", "UTC", 0.4)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    export_netcdf({str(daily.store)!r}, grid, info, {str(tmp_path / "out.nc")!r}, np.ones(grid.shape))
except OutputError as error:
    sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Cannot write" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_files_are_by_year_and_large_ones_by_month():
    times = pd.date_range("2018-07-01", "2020-02-29")
    yearly = plan_files(times, (100, 200))
    assert [plan.period for plan in yearly] == ["2018", "2019", "2020"]
    by_month = plan_files(times, (3000, 4000))
    assert [plan.period for plan in by_month][:2] == ["2018-07", "2018-08"]
    assert len(by_month) == 20
    for plans in (yearly, by_month):
        steps = np.concatenate([np.arange(len(times))[plan.steps] for plan in plans])
        np.testing.assert_array_equal(steps, np.arange(len(times)))
        assert all(times[plan.steps].strftime("%Y-%m")[0].startswith(plan.period) for plan in plans)


@pytest.mark.parametrize("shape", [(11, 5, 7), (1, 64, 3), (365, 100, 50)])
@pytest.mark.parametrize("budget", [0, 100_000, 10**9])
def test_blocks_cover_once_in_whole_chunks_within_the_budget(shape, budget):
    seen = np.zeros(shape[1:], int)
    for block in blocks(shape, align=4, budget=budget):
        assert all(side.start % 4 == 0 for side in block)
        assert 4 * shape[0] * seen[block].size <= max(budget, 4 * shape[0] * 4 * 4)  # a chunk is the least
        seen[block] += 1
    assert (seen == 1).all()


def test_whole_rows_are_one_block_where_they_fit():
    assert all(cols == slice(0, 50) for _, cols in blocks((365, 100, 50), align=4, budget=10**6))
    assert list(blocks((365, 100, 50), budget=10**9)) == [(slice(0, 100), slice(0, 50))]


@pytest.mark.slow
def test_cdo_lists_the_axes(example, client):
    done = subprocess.run(
        [client("cdo", "cdo"), "-s", "sinfo", example.netcdf], capture_output=True, text=True, check=True
    )
    assert f"{example.times[0]:%Y-%m-%d}" in done.stdout
    assert ("lonlat" if example.grid.geographic else "curvilinear") in done.stdout or "projection" in done.stdout


def test_zstd_holds_the_same_values(daily, tmp_path):
    path = export_netcdf(daily.store, daily.grid, daily.info, tmp_path / "zstd.nc", daily.land, compression="zstd")
    with open_netcdf(path) as packed, open_netcdf(daily.netcdf) as plain:
        assert packed["nee"].encoding["zstd"]
        assert plain["nee"].encoding["zlib"]
        xr.testing.assert_equal(packed, plain)
