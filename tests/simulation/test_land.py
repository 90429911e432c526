"""The land: shares that add up, rotation by year, soils that obey their texture, classes that follow from the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.simulation.climate import climate_group, koppen
from fluxgrid.simulation.land import COLUMNS, crop_shares, places_at
from fluxgrid.simulation.soil import hydraulics
from fluxgrid.variables import CLIMATE_GROUPS, IGBP_CLASSES, KOPPEN_CLASSES, VARIABLES

LONGITUDE, LATITUDE = (part.ravel() for part in np.meshgrid(np.arange(-103.9, -80.6, 0.47), np.arange(49, 36.1, -0.41)))


@pytest.fixture(scope="module")
def places():
    """Places all over the Midwest, 32 x 50, y descending."""
    return places_at(LATITUDE, LONGITUDE)


def near(places, latitude, longitude, name, radius=0.9):
    """Mean of a static around a place."""
    close = np.hypot(places.latitude - latitude, places.longitude - longitude) < radius
    return places.statics[name][close].mean()


@settings(max_examples=10)
@given(cells=st.lists(st.integers(0, len(LATITUDE) - 1), min_size=1, max_size=19, unique=True))
def test_any_part_equals_the_whole_bit_for_bit(places, cells):
    part = places_at(LATITUDE[cells], LONGITUDE[cells])
    np.testing.assert_array_equal(part.shares, places.shares[cells])
    for name, values in part.statics.items():
        np.testing.assert_array_equal(values, places.statics[name][cells])


def test_statics_are_within_the_variable_table(places):
    for name, values in places.statics.items():
        assert values.shape == LATITUDE.shape
        low, high = VARIABLES[name].valid_range or (0, len(VARIABLES[name].classes) - 1)
        assert low <= values.min(), name
        assert values.max() <= high, name


def test_shares_add_up_and_none_is_tiny(places):
    assert places.shares.shape == (len(LATITUDE), len(COLUMNS))
    assert ((places.shares == 0) | (places.shares >= 0.02)).all()
    assert (places.shares.sum(axis=1) <= 1).all()
    s = places.statics
    land = s["crop_fraction"] + s["grass_fraction"] + s["forest_fraction"] + s["wetland_fraction"]
    np.testing.assert_allclose(land, places.shares.sum(axis=1), atol=1e-12)
    assert (land + s["water_fraction"] <= 1 + 1e-12).all()
    assert (s["evergreen_fraction"] <= s["forest_fraction"]).all()


def test_corn_and_soybean_change_places_every_year(places):
    corn, soybean = crop_shares(places, [2010, 2011, 2012])
    row_crop = places.shares[:, :3].sum(axis=1)
    np.testing.assert_allclose(corn + soybean, np.tile(row_crop[:, None], 3), atol=1e-12)
    np.testing.assert_array_equal(corn[:, 0], corn[:, 2])
    farmed = row_crop > 0.3
    swing = (corn[:, 1] - corn[:, 0])[farmed]
    assert swing.std() > 0.1  # a cell's share alternates
    assert abs(swing.mean()) < 0.05  # a region's does not


def test_cover_looks_like_the_central_us(places):
    iowa, north_woods, ozarks, plains, dakota = (42.2, -94), (46.5, -90), (37, -91.6), (42.3, -101.3), (48, -100)
    assert near(places, *iowa, "crop_fraction") > 0.6
    for woods in (north_woods, ozarks):
        assert near(places, *woods, "forest_fraction") > 0.5
    assert near(places, *north_woods, "evergreen_fraction") > 2 * near(places, *ozarks, "evergreen_fraction")
    assert near(places, *plains, "grass_fraction") > 0.7
    assert near(places, *dakota, "small_grain_fraction") > 0.15
    assert near(places, 47.5, -94, "wetland_fraction") > 0.15


def test_soil_follows_its_regions(places):
    loess, sandhills, agassiz, north_woods, plains = (40.8, -91), (42.3, -101.2), (47.5, -97), (46.5, -89), (39, -101.5)
    assert near(places, *loess, "silt") > 580
    assert near(places, *sandhills, "sand") > 750
    clay = 1000 - near(places, *agassiz, "sand") - near(places, *agassiz, "silt")
    assert clay > 330
    carbon = [near(places, *where, "soc") for where in ((43.0, -94.0), (38.5, -92.0), plains)]
    assert 22 < carbon[0] < 40
    assert carbon[0] > 1.5 * carbon[1] > 1.5 * carbon[2]
    assert near(places, *plains, "ph") > 7 > 6 > near(places, *north_woods, "ph")


def test_water_constants_are_those_of_saxton_and_rawls():
    # Saxton & Rawls 2006, table 3: sand, silt loam and clay with 2.5 % organic matter
    sand, clay, organic = np.array([0.88, 0.20, 0.25]), np.array([0.05, 0.15, 0.50]), np.full(3, 0.025)
    soil = hydraulics(sand, clay, organic, np.ones(3))
    assert soil["wilting_point"] == pytest.approx([0.05, 0.11, 0.30], abs=0.011)
    assert soil["field_capacity"] == pytest.approx([0.10, 0.31, 0.42], abs=0.011)
    assert soil["saturated_hydraulic_conductivity"] == pytest.approx([108.1, 16.1, 1.1], rel=0.1)
    assert soil["bulk_density"] == pytest.approx([1.43, 1.38, 1.33], abs=0.02)


def test_every_soil_holds_water(places):
    s = places.statics
    assert (s["field_capacity"] > s["wilting_point"] + 0.02).all()
    assert (1 - s["bulk_density"] / 2.65 > s["field_capacity"]).all()
    assert (s["sand"] + s["silt"] < 1000).all()
    assert ((s["saturated_hydraulic_conductivity"] > 0.1) & (s["saturated_hydraulic_conductivity"] < 250)).all()


def test_compact_soil_is_dense_and_holds_back_water():
    loam = [np.array([value]) for value in (0.4, 0.2, 0.025)]
    loose, dense = (hydraulics(*loam, np.array([factor])) for factor in (1.0, 1.1))
    assert dense["bulk_density"] == pytest.approx(1.1 * loose["bulk_density"])
    assert dense["saturated_hydraulic_conductivity"] < 0.6 * loose["saturated_hydraulic_conductivity"]


def test_vegetation_class_is_that_of_the_largest_cover(places):
    names = np.array(IGBP_CLASSES)[places.statics["igbp"].astype(int)]
    assert {"CRO", "GRA", "DBF", "MF"} <= set(names) <= {"CRO", "GRA", "DBF", "MF", "ENF", "WET"}
    s = places.statics
    others = np.maximum(s["grass_fraction"], np.maximum(s["forest_fraction"], s["wetland_fraction"]))
    assert (s["crop_fraction"][names == "CRO"] >= others[names == "CRO"]).all()
    assert (s["evergreen_fraction"][names == "DBF"] < 0.5 * s["forest_fraction"][names == "DBF"]).all()


def test_climate_classes_of_known_stations():
    # NOAA normals 1991-2020: Chicago, Minneapolis, Denver, Nashville, Phoenix
    season = -np.cos(2 * np.pi * (np.arange(12) - 0.3) / 12)
    mean, half = np.array([[10.5], [8.3], [10.2], [15.9], [24.2]]), np.array([[14.2], [17.2], [12.4], [12.1], [11.5]])
    rain = np.array([[80.0], [68.0], [31.0], [107.0], [15.0]]) * (
        1 + np.array([[0.3], [0.6], [0.6], [0], [0]]) * season
    )
    classes = koppen(mean + half * season, rain)
    assert [KOPPEN_CLASSES[int(k)] for k in classes] == ["Dfa", "Dfa", "BSk", "Cfa", "BWh"]
    groups = [CLIMATE_GROUPS[int(k)] for k in climate_group(classes)]
    assert groups == ["continental", "continental", "arid", "temperate", "arid"]


def test_climate_is_arid_in_the_west_temperate_in_the_south_and_cool_in_the_north():
    corners = places_at(np.array([39.0, 36.0, 41.5, 48.0]), np.array([-104.5, -88.0, -93.0, -92.0]))
    assert [KOPPEN_CLASSES[int(k)] for k in corners.statics["koppen"]] == ["BSk", "Cfa", "Dfa", "Dfb"]
