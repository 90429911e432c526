"""The weather: the same bits whatever is asked for with it, physically possible, and plausible to a climatologist."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.data.derived import derive
from fluxgrid.simulation.climate import monthly_normals
from fluxgrid.simulation.land import Places, places_at
from fluxgrid.simulation.noise import DAYS_AT_ONCE
from fluxgrid.simulation.weather import WEATHER_VARIABLES, weather
from fluxgrid.variables import VARIABLES

TEN_YEARS = pd.date_range("2004-01-01", "2013-12-31")
MONTH = TEN_YEARS.month


def saturation(temperature):
    """Saturation vapour pressure, hPa, FAO-56."""
    return 6.108 * np.exp(17.27 * temperature / (temperature + 237.3))


def part_of(places: Places, cells) -> Places:
    """Some of the places."""
    statics = {name: values[cells] for name, values in places.statics.items()}
    return Places(places.latitude[cells], places.longitude[cells], statics, places.shares[cells])


@pytest.fixture(scope="module")
def patch():
    """A patch of 9 x 11 cells over 541 days, y descending: more than one block of places and of days."""
    longitude, latitude = np.meshgrid(np.linspace(-94.35, -93.35, 11), np.linspace(43.05, 42.25, 9))
    places = places_at(latitude.ravel(), longitude.ravel())
    time = pd.date_range("2011-09-13", periods=DAYS_AT_ONCE + 29)
    return places, time, weather(places, time)


@pytest.fixture(scope="module")
def transect():
    """Ten years at 7 places along 41 N, then 5 along 93 W from south to north."""
    longitude = np.concatenate([np.linspace(-101.0, -83.0, 7), np.full(5, -93.0)])
    latitude = np.concatenate([np.full(7, 41.0), np.linspace(36.5, 47.5, 5)])
    places = places_at(latitude, longitude)
    return places, weather(places, TEN_YEARS)


@pytest.fixture(scope="module")
def anywhere():
    """One year at 300 places spread over the whole world."""
    rng = np.random.default_rng(5)
    places = places_at(rng.uniform(31, 51, 300), rng.uniform(-107, -75, 300))
    time = pd.date_range("2012-01-01", "2012-12-31")
    return places, time, weather(places, time)


def anomaly(values):
    """Departure from the mean of the calendar month, (n, time)."""
    frame = pd.DataFrame(values.T)
    return (frame - frame.groupby(MONTH).transform("mean")).to_numpy().T


@settings(max_examples=25)
@given(st.data())
def test_any_part_equals_the_whole_bit_for_bit(patch, data):
    places, time, whole = patch
    first = data.draw(st.integers(0, len(time) - 1))
    days = slice(first, data.draw(st.integers(first + 1, len(time))))
    cells = data.draw(st.lists(st.integers(0, 98), min_size=1, max_size=19, unique=True))
    part = weather(part_of(places, cells), time[days])
    for name in WEATHER_VARIABLES:
        np.testing.assert_array_equal(part[name], whole[name][cells, days])


def test_days_may_come_in_any_order(patch):
    places, time, whole = patch
    order = np.array([400, 3, 77, 2])
    part = weather(part_of(places, [7]), time[order])
    np.testing.assert_array_equal(part["precipitation"], whole["precipitation"][[7]][:, order])


def test_shapes_types_and_ranges_are_those_of_the_variable_table(anywhere):
    places, time, world = anywhere
    assert tuple(world) == WEATHER_VARIABLES
    for name, values in world.items():
        assert values.shape == (len(places.latitude), len(time))
        assert values.dtype == np.float64
        low, high = (0, 1) if name == "cloud" else VARIABLES[name].valid_range
        assert low <= values.min(), name
        assert values.max() <= high, name


def test_the_air_is_physically_possible_everywhere_and_always(anywhere):
    places, time, world = anywhere
    low, high, vapour = world["tmin"], world["tmax"], world["vapour_pressure"]
    assert (low < high).all()
    np.testing.assert_allclose(world["temperature_2m"], 0.5 * (low + high), atol=1e-12)
    assert (vapour > 0).all()
    assert (vapour <= saturation(low + 1.0) * (1 + 1e-9)).all()
    deficit = 0.5 * (saturation(low) + saturation(high)) - vapour
    np.testing.assert_allclose(world["vpd"], deficit, atol=1e-9)
    assert (world["vpd"] > 0).all()
    assert (world["vapour_pressure_range"] > 0).all()
    assert (world["vapour_pressure_range"] < 2 * vapour).all()
    top = derive("toa_radiation", time, places.latitude, "daily").T
    assert (world["shortwave"] > 0.1 * top).all()
    assert (world["shortwave"] < 0.85 * top).all()
    assert (world["wind_speed"] > 0).all()


def test_summer_is_warm_and_the_north_is_cold(transect):
    _, world = transect
    temperature = pd.DataFrame(world["temperature_2m"].T).groupby(MONTH).mean()
    assert (temperature.loc[7] > temperature.loc[1] + 20).all()
    assert (np.diff(temperature.mean()[7:]) < -1).all()


def test_means_of_ten_years_are_the_normals(transect):
    places, world = transect
    temperature, rain = monthly_normals(places.latitude, places.longitude, places.statics["elevation"])
    mean = pd.DataFrame(world["temperature_2m"].T).groupby(MONTH).mean().to_numpy().T
    assert np.abs(mean - temperature).mean() < 0.8
    total = world["precipitation"].sum(axis=1) / 10
    assert total == pytest.approx(rain.sum(axis=1), rel=0.2)
    assert total.mean() == pytest.approx(rain.sum(axis=1).mean(), rel=0.06)


def test_rain_increases_eastward_and_comes_on_a_quarter_of_the_days(transect):
    _, world = transect
    annual = world["precipitation"][:7].mean(axis=1) * 365.25
    wet = (world["precipitation"] >= 1).mean(axis=1)
    assert np.corrcoef(np.arange(7), annual)[0, 1] > 0.85
    assert 350 < annual[0] < 700
    assert 750 < annual[6] < 1300
    assert ((wet > 0.12) & (wet < 0.35)).all()


def test_weather_is_correlated_in_time(transect):
    _, world = transect
    temperature = pd.DataFrame(anomaly(world["temperature_2m"]).T)
    assert temperature.apply(lambda column: column.autocorr(1)).between(0.6, 0.85).all()
    wet = pd.DataFrame(world["precipitation"].T >= 1).astype(float)
    assert wet.apply(lambda column: column.autocorr(1)).between(0.05, 0.4).all()


def test_correlation_in_space_decays():
    near_far = weather(places_at(np.full(3, 41.0), np.array([-93.0, -92.5, -84.0])), TEN_YEARS)
    for name, least in (("temperature_2m", 0.95), ("precipitation", 0.6)):
        near, far = np.corrcoef(anomaly(near_far[name]))[0, 1:]
        assert near > least
        assert far < 0.5


def test_summer_rain_is_patchier_than_winter_rain():
    pairs = weather(places_at(np.full(2, 41.0), np.array([-93.0, -92.0])), pd.date_range("2001-01-01", "2020-12-31"))
    month = pd.date_range("2001-01-01", "2020-12-31").month
    rain = np.sqrt(pairs["precipitation"])
    summer, winter = (np.corrcoef(rain[:, np.isin(month, months)])[0, 1] for months in ((6, 7, 8), (12, 1, 2)))
    assert summer < winter - 0.05


def test_rain_brings_clouds_moist_air_and_a_small_daily_range(transect):
    _, world = transect
    swing = world["tmax"] - world["tmin"]
    for i in range(12):
        july = MONTH == 7
        wet = july & (world["precipitation"][i] >= 1)
        dry = july & (world["precipitation"][i] < 0.1)
        assert world["cloud"][i][wet].mean() > world["cloud"][i][dry].mean() + 0.2
        assert world["shortwave"][i][wet].mean() < 0.8 * world["shortwave"][i][dry].mean()
        assert world["vpd"][i][wet].mean() < 0.8 * world["vpd"][i][dry].mean()
        assert swing[i][wet].mean() < swing[i][dry].mean() - 1.5


def test_daily_range_is_wide_in_the_dry_west_and_small_in_winter(transect):
    _, world = transect
    swing = world["tmax"] - world["tmin"]
    assert swing[0].mean() > swing[6].mean() + 1
    assert 9 < swing[:7, np.isin(MONTH, (5, 6, 7, 8, 9))].mean() < 13
    assert 7 < swing[:7, np.isin(MONTH, (12, 1, 2))].mean() < 10


def test_wind_is_strong_on_the_plains_and_in_spring(transect):
    _, world = transect
    wind = world["wind_speed"]
    assert wind[0].mean() > wind[6].mean() + 0.8
    assert wind[:, MONTH == 4].mean() > 1.15 * wind[:, MONTH == 8].mean()
