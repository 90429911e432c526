"""Regions by name, postal code, box and file, and what is said when there is none."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from fluxgrid.errors import ConfigError, RegionNotFound
from fluxgrid.files import configs_folder
from fluxgrid.geo import boundaries
from fluxgrid.geo.region import Region, find_region, read_catalogue, region_catalogue

MIDWEST = ("IA", "IL", "IN", "KS", "MI", "MN", "MO", "ND", "NE", "OH", "SD", "WI")


def test_catalogue_regions_are_made_of_their_states():
    assert find_region("midwest").states == MIDWEST
    assert find_region("Cornbelt").states == ("IA", "IL", "IN")
    conus = find_region("CONUS").states
    assert len(conus) == 49
    assert not {"AK", "HI"} & set(conus)


@pytest.mark.parametrize("name", ["midwest", "cornbelt", "conus"])
def test_catalogue_polygon_is_the_union_of_its_states(name):
    region = find_region(name)
    frame = region.states_frame()
    assert tuple(sorted(frame["postal"])) == region.states
    assert region.polygon.is_valid
    assert region.polygon.area == pytest.approx(shapely.area(frame.geometry.values).sum(), rel=1e-9)
    assert "Census" in region.source
    west, east, south, north = region.bounds
    assert -125 < west < east < -66
    assert 24 < south < north < 50


@pytest.mark.parametrize("text", ["nd", "ND", "North Dakota", "north_dakota", " north-dakota "])
def test_states_by_name_and_postal_code(text):
    region = find_region(text)
    assert (region.name, region.title, region.states) == ("north-dakota", "North Dakota", ("ND",))


def test_every_state_is_found():
    for postal, name in zip(*(boundaries.states()[c] for c in ("postal", "name")), strict=True):
        assert find_region(postal) == find_region(name)


def test_catalogue_lists_regions_then_states():
    titles = region_catalogue()
    assert titles["midwest"] == "US Midwest"
    assert titles["iowa"] == "Iowa (IA)"
    assert len(titles) == 3 + 51


def test_regions_are_values():
    region = find_region("iowa")
    twin = Region(region.name, region.title, shapely.from_wkb(region.polygon.wkb), region.states, region.source)
    assert region == twin
    assert len({region, twin}) == 1


def test_counties_of_a_state():
    frame = find_region("iowa").counties_frame()
    assert list(frame.columns) == ["fips", "postal", "name", "geometry"]
    assert len(frame) == 99
    assert set(frame["postal"]) == {"IA"}


def test_box_is_given_as_people_write_it():
    region = find_region("-91.6, 39.5, -90.8, 40.9")
    assert region.bounds == (-91.6, -90.8, 39.5, 40.9)
    assert region.name == "box_-91.6_39.5_-90.8_40.9"
    assert set(region.states_frame()["postal"]) == {"IA", "IL", "MO"}


def test_frames_of_a_box_are_clipped_to_it():
    region = find_region("-91.6,39.5,-90.8,40.9")
    states, counties = region.states_frame(), region.counties_frame()
    assert region.polygon.buffer(1e-9).contains(shapely.union_all(states.geometry.values))
    assert shapely.area(counties.geometry.values).sum() == pytest.approx(
        shapely.area(states.geometry.values).sum(), rel=1e-9
    )
    assert (shapely.area(counties.geometry.values) > 0).all()


def test_box_along_a_border_has_only_parts_with_an_area():
    iowa = find_region("iowa").polygon.bounds
    box = find_region(f"{iowa[0]},{iowa[1]},{iowa[2]},{iowa[3]}")
    assert set(box.states_frame().geom_type) <= {"Polygon", "MultiPolygon"}


def test_box_abroad_has_no_states():
    region = find_region("7,45,11,48")
    assert region.states_frame().empty
    assert region.counties_frame().empty


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("-80,40,-90,30", ["W -80 must be less than E -90", "S 40 must be less than N 30"]),
        ("10,x,200,95", ["'x' is not a number", "E 200 is not within", "N 95 is not within"]),
        ("1,2,3", ["3 numbers instead of 4"]),
        ("1,2,3,inf", ["'inf' is not a number"]),
    ],
)
def test_wrong_boxes_are_told_all_at_once(text, problems):
    with pytest.raises(RegionNotFound, match=r"W,S,E,N in degrees") as caught:
        find_region(text)
    assert all(problem in str(caught.value) for problem in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("midwst", r"no region named 'midwst'\. Did you mean 'midwest'\?.*fluxgrid regions"),
        ("Wisconson", r"'Wisconson'\. Did you mean 'wisconsin'"),
        ("", r"no region named ''"),
        ("fields.gpkg", r"no polygon file 'fields.gpkg'"),
        ("some/where", r"no polygon file 'some/where'"),
        ("x" * 5000, r"no region named "),
    ],
)
def test_unknown_regions(text, message):
    with pytest.raises(RegionNotFound, match=message):
        find_region(text)


SQUARES = [shapely.box(-93.0, 42.0, -92.0, 42.5), shapely.box(-92.2, 42.2, -91.3, 42.9)]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".parquet"])
@pytest.mark.parametrize("epsg", [4326, 5070])
def test_polygon_files(tmp_path, suffix, epsg):
    path = tmp_path / f"My Fields{suffix}"
    frame = gpd.GeoDataFrame({"id": [1, 2]}, geometry=SQUARES, crs=4326)
    frame = frame.set_geometry(frame.segmentize(0.01)).to_crs(4326 if suffix == ".geojson" else epsg)
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    region = find_region(str(path))
    assert region.name == "my-fields"
    assert region.states == ()
    assert path.name in region.source
    np.testing.assert_allclose(region.bounds, (-93.0, -91.3, 42.0, 42.9), atol=1e-4)
    assert region.polygon.area == pytest.approx(shapely.union_all(SQUARES).area, rel=1e-4)
    assert set(region.states_frame()["postal"]) == {"IA"}


def test_bow_ties_are_mended_and_points_left_out(tmp_path):
    bow_tie = shapely.Polygon([(-93, 42), (-92, 43), (-92, 42), (-93, 43)])
    path = tmp_path / "field.geojson"
    gpd.GeoDataFrame(geometry=[bow_tie, shapely.Point(-100, 40)], crs=4326).to_file(path)
    region = find_region(str(path))
    assert region.polygon.is_valid
    assert region.polygon.area == pytest.approx(0.5)
    assert region.bounds == (-93, -92, 42, 43)


def test_a_file_wins_over_a_state_if_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpd.GeoDataFrame(geometry=SQUARES, crs=4326).to_file("iowa", driver="GeoJSON")
    assert find_region("./iowa").states == ()
    assert find_region("iowa").states == ("IA",)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_file_without_crs(tmp_path):
    path = tmp_path / "field.gpkg"
    gpd.GeoDataFrame(geometry=SQUARES).to_file(path)
    with pytest.raises(RegionNotFound, match=r"no coordinate reference system.*ogr2ogr"):
        find_region(str(path))


def test_file_in_the_wrong_crs(tmp_path):
    path = tmp_path / "field.gpkg"
    gpd.GeoDataFrame(geometry=SQUARES, crs=4326).to_crs(5070).set_crs(4326, allow_override=True).to_file(path)
    with pytest.raises(RegionNotFound, match=r"off the globe.*WGS 84"):
        find_region(str(path))


def test_file_without_polygons(tmp_path):
    path = tmp_path / "towers.geojson"
    gpd.GeoDataFrame(geometry=[shapely.Point(-93, 42)], crs=4326).to_file(path)
    with pytest.raises(RegionNotFound, match=r"no polygon with an area.*Point"):
        find_region(str(path))


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".txt", ".csv"])
def test_file_that_is_not_a_polygon_file(tmp_path, suffix):
    path = tmp_path / f"junk{suffix}"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RegionNotFound, match=r"junk.*(cannot be read as polygons|without polygons)"):
        find_region(str(path))


def test_catalogue_problems_are_told_all_at_once(tmp_path):
    (tmp_path / "one.yaml").write_text("title: One\nstates: [IA, XX]\nsource: me\n")
    (tmp_path / "two.yaml").write_text("title: Two\nstate: [IA]\n")
    (tmp_path / "three.yaml").write_text("title: [\n")
    with pytest.raises(ConfigError) as caught:
        read_catalogue(tmp_path)
    for part in (
        "one.yaml: states: 'XX'",
        "two.yaml: states",
        "two.yaml: source",
        "two.yaml: state:",
        "three.yaml: cannot",
    ):
        assert part in str(caught.value)


def test_configs_are_found():
    assert (configs_folder() / "regions" / "midwest.yaml").is_file()
