"""The same command over something that changed: the map is neither called up to date nor replaced unasked."""

from __future__ import annotations

import shutil

import geopandas as gpd
import pytest
import shapely
import zarr

from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.errors import OutputExists
from fluxgrid.workflows.upscale import upscale

PERIOD = {"start": "2020-12-01", "end": "2020-12-03"}


def draw(path, west: float) -> None:
    """Write a polygon whose west side lies within the cells of longitudes -88.1 to -88.0."""
    gpd.GeoDataFrame(geometry=[shapely.box(west, 41.01, -87.71, 41.39)], crs=4326).to_file(path, driver="GeoJSON")


def test_a_polygon_redrawn_within_the_same_cells_is_another_map(world, snapshot, tmp_path):
    """Its fluxes are the same, its totals are not."""
    out, region = tmp_path / "map", tmp_path / "field.geojson"
    draw(region, -88.09)
    world.run(out, region=str(region), **PERIOD)
    before = snapshot(out)
    draw(region, -88.02)
    with pytest.raises(OutputExists, match="holds other results"):
        world.run(out, region=str(region), **PERIOD)
    assert snapshot(out) == before


def test_resume_does_not_replace_a_finished_map(world, snapshot, tmp_path):
    out, cube = tmp_path / "map", shutil.copytree(world.cube, tmp_path / "cube.zarr")
    draw(tmp_path / "field.geojson", -88.09)
    options = {"region": str(tmp_path / "field.geojson"), "cube": str(cube), **PERIOD}
    world.run(out, **options)
    before = snapshot(out)
    temperature = zarr.open_array(cube / "temperature_2m", mode="r+")
    temperature[:] = temperature[:] + 1
    with pytest.raises(OutputExists, match=r"its inputs have changed since\. Say --overwrite"):
        world.run(out, "resume", **options)
    assert snapshot(out) == before
    assert world.run(out, "overwrite", **options).status == "done"


def test_a_region_of_one_cell_has_a_map(tmp_path):
    options = {"region": "-93.58,41.52,-93.52,41.58", "start": "2019-06-01", "end": "2019-06-02", "threads": 1}
    outcome = upscale(load_config(UpscaleConfig, None, {**options, "out": str(tmp_path / "map")}))
    assert outcome.manifest["coverage"] == {"cell_steps": 2, "missing": 0, "share": 1.0}
