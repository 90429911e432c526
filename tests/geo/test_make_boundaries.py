"""The script that made the boundaries, on a topology of two counties small enough to check by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_boundaries.py"

# Two counties of Iowa side by side; arc 0 is their border, told as steps from its first point. A third has collapsed.
TOPOLOGY = {
    "transform": {"scale": [0.5, 0.25], "translate": [-94.0, 42.0]},
    "arcs": [
        [[2, 0], [0, 4]],
        [[2, 4], [-2, 0], [0, -4], [2, 0]],
        [[2, 0], [4, 0], [0, 4], [-4, 0]],
        [[3, 1], [1, 1]],
    ],
    "objects": {
        "counties": {
            "geometries": [
                {"type": "Polygon", "arcs": [[0, 1]], "id": "19003", "properties": {"name": "West"}},
                {"type": "MultiPolygon", "arcs": [[[2, ~0]]], "id": "19001", "properties": {"name": "East"}},
                {"type": "Polygon", "arcs": [[3, ~3]], "id": "19005", "properties": {"name": "Line"}},
                {"type": "Polygon", "arcs": [[0, 1]], "id": "72001", "properties": {"name": "Not a state"}},
            ]
        },
        "states": {"geometries": [{"id": "19", "properties": {"name": "Iowa"}}]},
    },
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_boundaries", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_counties_make_a_state(script, tmp_path):
    atlas = tmp_path / "counties-10m.json"
    atlas.write_text(json.dumps(TOPOLOGY))
    script.make(atlas, tmp_path / "out")
    counties = gpd.read_parquet(tmp_path / "out" / "counties.parquet")
    states = gpd.read_parquet(tmp_path / "out" / "states.parquet")
    assert counties[["fips", "postal", "name", "state_fips"]].to_numpy().tolist() == [
        ["19001", "IA", "East", "19"],
        ["19003", "IA", "West", "19"],
    ]
    assert counties.geometry[1].equals(shapely.box(-94, 42, -93, 43))
    assert counties.geometry[0].equals(shapely.box(-93, 42, -91, 43))
    assert states.geometry[0].equals(shapely.box(-94, 42, -91, 43))
    assert "Line (19005)" in (tmp_path / "out" / "SOURCE.md").read_text()


def test_crossing_neighbours_are_cut_apart(script):
    shapes = np.array([shapely.box(0, 0, 3, 2), shapely.box(2, 0, 5, 2)])
    one, two = script.share_out(shapes)
    assert one.equals(shapes[0])
    assert two.equals(shapely.box(3, 0, 5, 2))
    assert shapely.coverage_is_valid(np.array([one, two]))
