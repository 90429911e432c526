"""The boundaries that ship with the package: areas against published ones, no gaps, no overlaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely

from fluxgrid.geo import boundaries

SQUARE_MILE = 2_589_988.110336  # m2, international
GEOD = pyproj.Geod(ellps="WGS84")

# Land and inland water, square miles. Land, and the water of states that have no other: US Census Bureau, State Area
# Measurements and Internal Point Coordinates (2010),
# https://www.census.gov/geographies/reference-files/2010/geo/state-area.html (of AL, CA, CT its inland column too).
# Inland water of the other states on the Great Lakes or the sea: Northeast-Midwest Institute, U.S. Land and Water Area
# by State in Square Miles, 2000 (after Census 2000), http://www.nemw.org/waterland.htm.
PUBLISHED = {
    "IL": 55519 + 756, "IN": 35826 + 316, "IA": 55857 + 416, "KS": 81759 + 520, "MI": 56539 + 1611, "MN": 79627 + 4783,
    "MO": 68742 + 965, "NE": 76824 + 524, "ND": 69001 + 1698, "OH": 40861 + 378, "SD": 75811 + 1305, "WI": 54158 + 1830,
    "AL": 50645 + 1058, "AZ": 113594 + 396, "AR": 52035 + 1143, "CA": 155779 + 2833, "CO": 103642 + 452,
    "CT": 4842 + 171, "FL": 53625 + 4672, "GA": 57513 + 1016, "ID": 82643 + 926, "MT": 145546 + 1494,
    "NV": 109781 + 791, "NM": 121298 + 292, "OK": 68595 + 1304, "TX": 261232 + 5056, "UT": 82170 + 2727,
    "WY": 97093 + 720,
}  # fmt: skip


@pytest.fixture(scope="module")
def states():
    return boundaries.states().set_index("postal")


@pytest.fixture(scope="module")
def counties():
    return boundaries.counties()


@pytest.mark.parametrize("postal", PUBLISHED)
def test_state_area_is_published_land_plus_inland_water(states, postal):
    area = GEOD.geometry_area_perimeter(shapely.orient_polygons(states.geometry[postal]))[0] / SQUARE_MILE
    assert area == pytest.approx(PUBLISHED[postal], rel=0.02)


def test_there_are_50_states_and_the_district(states):
    assert len(states) == 51
    assert {"DC", "AK", "HI"} < set(states.index)
    assert states.crs.to_epsg() == 4326


def test_states_share_borders_without_gap_or_overlap(states):
    shapes = np.array(states.geometry.values)
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(shapely.union_all(shapes).area, rel=1e-9)


def test_counties_share_borders_without_gap_or_overlap(counties):
    shapes = np.array(counties.geometry.values)
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(shapely.union_all(shapes).area, rel=1e-9)


def test_counties_sum_to_their_state(states, counties):
    area = dict(zip(states.index, shapely.area(np.array(states.geometry.values)), strict=True))
    shapes = np.array(counties.geometry.values)
    for postal, total in area.items():
        mine = shapes[(counties["postal"] == postal).to_numpy()]
        assert shapely.area(mine).sum() == pytest.approx(total, rel=1e-9), postal
        assert shapely.union_all(mine).symmetric_difference(states.geometry[postal]).area < 1e-9, postal


def test_fips_codes_are_of_the_state(states, counties):
    assert (counties["fips"].str[:2] == counties["state_fips"]).all()
    assert counties["fips"].is_unique
    assert dict(zip(counties["state_fips"], counties["postal"], strict=True)) == dict(
        zip(states["fips"], states.index, strict=True)
    )
    adams = counties.set_index("fips").loc["17001"]
    assert (adams["name"], adams["postal"]) == ("Adams", "IL")


@pytest.mark.parametrize(
    ("lon", "lat", "inside"),
    [
        (-93.62, 42.03, "IA"),  # Ames
        (-84.56, 42.73, "MI"),  # Lansing
        (-88.40, 47.10, "MI"),  # Keweenaw
        (-95.10, 48.10, "MN"),  # Red Lake: inland water is inside
        (-87.00, 43.00, None),  # Lake Michigan
        (-89.00, 47.70, None),  # Lake Superior
        (-81.50, 42.10, None),  # Lake Erie
    ],
)
def test_points(states, lon, lat, inside):
    hit = states.index[states.contains(shapely.Point(lon, lat))].tolist()
    assert hit == ([inside] if inside else [])


def test_callers_cannot_change_the_cached_table():
    frame = boundaries.states()
    del frame["name"]
    assert "name" in boundaries.states()


def test_the_data_are_small_and_say_where_they_come_from():
    folder = Path(boundaries.__file__).parent / "boundaries"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.2e6
    text = (folder / "SOURCE.md").read_text()
    assert "Census" in text
    assert "public domain" in text
    assert "SHA-256" in text
