"""Mapping files: strict, safe, all problems at once."""

import pytest

from fluxgrid.data.mapping import CubeMapping, load_mapping, mapping_names, parse_mapping
from fluxgrid.errors import ConfigError


@pytest.mark.parametrize("name", mapping_names())
def test_every_shipped_mapping_is_valid(name):
    mapping = load_mapping(name)
    assert mapping.variables
    assert mapping.title
    assert mapping.source


def test_conus_mapping_groups_the_koeppen_codes():
    classes = load_mapping("conus_monthly_025").variables["climate_group"].classes
    assert [classes[code] for code in (1, 6, 9, 18, 31, 32)] == [
        *("tropical", "arid", "temperate", "continental", "polar", "unknown")
    ]
    assert sorted(classes) == list(range(1, 33))


def test_every_problem_is_listed_at_once(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        """
crs: EPSG:99999999
step: hourly
tile: too strange
dims: {lat: y}
variables:
  temprature_2m: {from: t2m}
  precipitation: {from: pr, units: gC m-2 d-1}
  shortwave: {from: ssrd, units: J m-2}
  elevation: {unit: m}
  tmin: {from: tmin, classes: {1: arid}}
  climate_group: {from: k, classes: {1: tropicl}}
"""
    )
    with pytest.raises(ConfigError) as caught:
        load_mapping(file)
    for text in (
        "bad.yaml is not a valid mapping",
        "'EPSG:99999999' is no coordinate reference system",
        "step: Input should be 'daily' or 'monthly', got 'hourly'",
        "There is no key named 'tile'. Did you mean 'title'?",
        "There is no key named 'lat'",
        "There is no variable named 'temprature_2m'. Did you mean 'temperature_2m'?",
        "write 'g m-2 d-1' and say carbon",
        "'J m-2 d-1'",
        "variables.elevation.from: Field required",
        "There is no key named 'unit'. Did you mean 'units'?",
        "tmin has no classes",
        "There is no class named 'tropicl'. Did you mean 'tropical'?",
    ):
        assert text in str(caught.value)


def test_yaml_that_would_build_objects_is_refused(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("crs: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_mapping(file)


def test_a_key_given_twice_is_refused(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("variables:\n  tmin: {from: a}\n  tmin: {from: b}\n")
    with pytest.raises(ConfigError, match="the key 'tmin' is given twice"):
        load_mapping(file)


@pytest.mark.parametrize("content", [None, [1, 2], "text", {"variables": [1]}, {"crs": 4326}])
def test_content_of_another_kind_is_refused(content):
    with pytest.raises(ConfigError, match="not a valid mapping"):
        parse_mapping(content)


def test_missing_file_says_what_there_is():
    with pytest.raises(ConfigError, match=r"no mapping file nowhere\.yaml.*conus_monthly_025.*cube check"):
        load_mapping("nowhere.yaml")


def test_empty_mapping_is_valid():
    assert parse_mapping({}) == CubeMapping()


def test_what_no_cube_brings_cannot_be_mapped():
    content = {"variables": {"era5_runoff_sum": {"from": "ro"}, "latitude": {"from": "lat"}, "tmin": {"from": "tn"}}}
    with pytest.raises(ConfigError, match="not a valid mapping") as caught:
        parse_mapping(content)
    assert "the runoff, sum of the day (ERA5-Land) is known at towers only; take it out" in str(caught.value)
    assert "variables.latitude: the latitude is that of the cells; take it out" in str(caught.value)
    assert "tmin" not in str(caught.value)
