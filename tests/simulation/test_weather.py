"""The synthetic weather: the same bits whatever is asked for with it, and plausible to a climatologist's eye."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.simulation import simulate, world_digest
from fluxgrid.simulation.noise import random_field, uniforms
from fluxgrid.simulation.parameters import WORLD, Waves
from fluxgrid.simulation.weather import FORCINGS, STATICS
from fluxgrid.variables import CLIMATE_GROUPS, VARIABLES

TEN_YEARS = pd.date_range("2004-01-01", "2013-12-31")


@pytest.fixture(scope="module")
def patch():
    """A patch of 5 x 7 cells over 211 days across a new year, y descending."""
    longitude, latitude = np.meshgrid(np.linspace(-94.35, -93.75, 7), np.linspace(43.05, 42.65, 5))
    time = pd.date_range("2011-09-13", periods=211)
    return latitude.ravel(), longitude.ravel(), time, simulate(latitude.ravel(), longitude.ravel(), time)


@pytest.fixture(scope="module")
def transect():
    """Ten years at 7 places along 41 N, then 5 along 93 W from south to north."""
    longitude = np.concatenate([np.linspace(-101.0, -83.0, 7), np.full(5, -93.0)])
    latitude = np.concatenate([np.full(7, 41.0), np.linspace(36.5, 47.5, 5)])
    return latitude, longitude, simulate(latitude, longitude, TEN_YEARS)


@settings(max_examples=25)
@given(st.data())
def test_any_part_equals_the_whole_bit_for_bit(patch, data):
    latitude, longitude, time, whole = patch
    first = data.draw(st.integers(0, len(time) - 1))
    days = slice(first, data.draw(st.integers(first + 1, len(time))))
    cells = data.draw(st.lists(st.integers(0, len(latitude) - 1), min_size=1, max_size=19, unique=True))
    part = simulate(latitude[cells], longitude[cells], time[days])
    for name in FORCINGS:
        np.testing.assert_array_equal(part[name], whole[name][days][:, cells])
    for name in STATICS:
        np.testing.assert_array_equal(part[name], whole[name][cells])


def test_shapes_types_and_ranges_are_those_of_the_variable_table(patch):
    _, _, time, world = patch
    for name in FORCINGS:
        assert world[name].shape == (len(time), 35)
    for name in STATICS:
        assert world[name].shape == (35,)
    for name, values in world.items():
        assert values.dtype == np.float32
        lowest, highest = VARIABLES[name].valid_range or (0, len(VARIABLES[name].classes) - 1)
        assert lowest <= values.min()
        assert values.max() <= highest


def test_summer_is_warm_and_the_north_is_cold(transect):
    _, _, world = transect
    temperature = pd.DataFrame(world["temperature_2m"]).groupby(TEN_YEARS.month).mean()
    assert (temperature.loc[7] > temperature.loc[1] + 20).all()
    assert (np.diff(temperature.mean()[7:]) < -1).all()


def test_rain_increases_eastward_and_comes_on_a_quarter_of_the_days(transect):
    _, _, world = transect
    annual = world["precipitation"][:, :7].mean(axis=0) * 365.25
    wet = (world["precipitation"] >= 1).mean(axis=0)
    assert np.corrcoef(np.arange(7), annual)[0, 1] > 0.85
    assert 350 < annual[0] < 650
    assert 800 < annual[-1] < 1300
    assert ((wet > 0.15) & (wet < 0.35)).all()


def test_weather_is_correlated_in_time(transect):
    _, _, world = transect
    temperature = pd.DataFrame(world["temperature_2m"])
    anomaly = temperature - temperature.groupby(TEN_YEARS.day_of_year).transform("mean")
    assert anomaly.apply(lambda column: column.autocorr(1)).between(0.5, 0.9).all()
    wet = pd.DataFrame(world["precipitation"] >= 1).astype(float)
    assert wet.apply(lambda column: column.autocorr(1)).between(0.05, 0.5).all()


def test_correlation_in_space_decays():
    near_far = simulate(np.full(3, 41.0), np.array([-93.0, -92.5, -84.0]), TEN_YEARS)
    for name in ("temperature_2m", "precipitation"):
        values = pd.DataFrame(near_far[name])
        anomaly = values - values.groupby(TEN_YEARS.day_of_year).transform("mean")
        near, far = anomaly.corr().loc[0, [1, 2]]
        assert near > 0.8
        assert far < 0.4


def test_rain_brings_clouds_and_moist_air(transect):
    _, _, world = transect
    july = TEN_YEARS.month == 7
    wet = world["precipitation"][july] >= 1
    for name in ("shortwave", "vpd"):
        assert world[name][july][wet].mean() < 0.8 * world[name][july][~wet].mean()


def test_land_looks_like_the_central_us():
    corn, north_woods, ozarks, plains = range(4)
    land = simulate(np.array([42.2, 47.3, 36.9, 38.9]), np.array([-93.8, -91.5, -91.6, -103.0]), TEN_YEARS[:1])
    assert land["crop_fraction"].argmax() == corn
    assert set(np.argsort(land["forest_fraction"])[-2:]) == {north_woods, ozarks}
    assert land["grass_fraction"].argmax() == plains
    assert land["elevation"].argmax() == plains
    assert (land["crop_fraction"] + land["forest_fraction"] + land["grass_fraction"] < 1).all()
    groups = [CLIMATE_GROUPS[int(index)] for index in land["climate_group"]]
    assert groups == ["continental", "continental", "temperate", "arid"]


def test_a_random_field_has_unit_variance_and_no_direction():
    longitude, latitude = np.meshgrid(np.arange(-106, -79, 0.3), np.arange(50, 34, -0.3))
    field = random_field(WORLD.climate.storms, latitude.ravel(), longitude.ravel(), np.arange(0.0, 400, 20))
    field = field.reshape(-1, *latitude.shape)
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1, abs=0.1)
    km = 0.3 * 111.2 * np.array([1.0, np.cos(np.deg2rad(40))])
    north, east = (np.diff(field, axis=axis).std() / width for axis, width in zip((1, 2), km, strict=True))
    assert north == pytest.approx(east, rel=0.15)


def test_the_bit_stream_is_frozen():
    assert uniforms(7, 2) == pytest.approx([0.8720734548204874, 0.2953653815137836], abs=1e-15)


def test_the_digest_follows_every_parameter(monkeypatch):
    before = world_digest()
    changed = Waves(11, 64, 451.0, 4.5)
    monkeypatch.setattr(
        "fluxgrid.simulation.parameters.WORLD",
        type(WORLD)(climate=type(WORLD.climate)(warmth=changed)),
    )
    assert world_digest() != before
