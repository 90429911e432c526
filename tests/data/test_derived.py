"""Radiation and day length: known values, symmetry, limits, conservation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.derived import SOLAR_CONSTANT, derive
from fluxgrid.errors import UnknownName

YEAR = pd.date_range("2001-01-01", "2001-12-31", freq="D")


def test_known_values_of_fao56():
    # FAO-56 example 8: 3 September, 20 S: 32.2 MJ m-2 d-1; example 9: 11.7 h. Its solar constant is 1367 W m-2.
    day = pd.DatetimeIndex(["2001-09-03"])
    radiation = derive("toa_radiation", day, np.array([-20.0]), "daily")[0, 0] * 0.0864
    assert radiation == pytest.approx(32.2 * SOLAR_CONSTANT / 1367, rel=0.02)  # FAO's declination is the cruder
    assert derive("day_length", day, np.array([-20.0]), "daily")[0, 0] == pytest.approx(11.7, abs=0.1)


def test_equinox_is_the_same_north_and_south():
    day = pd.DatetimeIndex(["2001-03-21", "2001-09-23"])
    latitude = np.array([10.0, 45.0, 70.0])
    north, south = (derive("toa_radiation", day, sign * latitude, "daily") for sign in (1, -1))
    np.testing.assert_allclose(north, south, rtol=0.05)
    np.testing.assert_allclose(derive("day_length", day, latitude, "daily"), 12, atol=0.2)


def test_hemispheres_mirror_half_a_year_apart():
    latitude = np.array([-60.0, -30.0, 30.0, 60.0])
    length = derive("day_length", YEAR, latitude, "daily")
    np.testing.assert_allclose(length[:, 0] + length[:, 3], 24, atol=1e-4)
    np.testing.assert_allclose(length[:, 1] + length[:, 2], 24, atol=1e-4)
    june, december = length[171], length[354]
    np.testing.assert_allclose(june, december[::-1], atol=0.05)


def test_polar_day_and_night():
    days = pd.DatetimeIndex(["2001-06-21", "2001-12-21"])
    pole = np.array([90.0, -90.0])
    np.testing.assert_array_equal(derive("day_length", days, pole, "daily"), [[24, 0], [0, 24]])
    radiation = derive("toa_radiation", days, pole, "daily")
    np.testing.assert_allclose(radiation, [[524, 0], [0, 559]], atol=2)


def test_mean_over_globe_and_year_is_a_quarter_of_the_solar_constant():
    edges = np.linspace(-90, 90, 181)
    weights = np.diff(np.sin(np.radians(edges)))
    radiation = derive("toa_radiation", YEAR, (edges[1:] + edges[:-1]) / 2, "daily").mean(axis=0)
    assert np.average(radiation, weights=weights) == pytest.approx(SOLAR_CONSTANT / 4, rel=0.01)


@pytest.mark.parametrize("name", ["toa_radiation", "day_length"])
def test_months_are_means_over_their_true_days(name):
    latitude = np.array([-35.2, 0.0, 41.5, 80.0])
    days = pd.date_range("2003-01-01", "2004-12-31", freq="D")
    expected = pd.DataFrame(derive(name, days, latitude, "daily"), index=days).resample("MS").mean()
    months = derive(name, expected.index, latitude, "monthly")
    np.testing.assert_allclose(months, expected.to_numpy(), rtol=1e-5, atol=1e-3)
    assert months[1, 2] != months[13, 2]  # February of a leap year is another month


@given(latitude=st.lists(st.floats(-90, 90), min_size=1, max_size=6), step=st.sampled_from(["daily", "monthly"]))
def test_places_do_not_depend_on_each_other(latitude, step):
    time = pd.date_range("2000-01-01", periods=14, freq="MS")
    together = derive("toa_radiation", time, np.array(latitude), step)
    alone = [derive("toa_radiation", time, np.array([one]), step)[:, 0] for one in latitude]
    np.testing.assert_array_equal(together, np.stack(alone, axis=1))
    assert together.dtype == np.float32
    assert np.all((together >= 0) & (together < 600))


def test_bad_input():
    with pytest.raises(UnknownName, match="Did you mean 'day_length'"):
        derive("daylength", YEAR, np.array([42.0]), "daily")
    with pytest.raises(ValueError, match="Latitudes must lie within"):
        derive("day_length", YEAR, np.array([420.0]), "daily")
    assert np.isnan(derive("day_length", YEAR[:1], np.array([np.nan]), "daily")[0, 0])
    assert derive("day_length", YEAR[:0], np.array([42.0]), "monthly").shape == (0, 1)


def test_the_calendar_is_that_of_the_steps():
    time = pd.DatetimeIndex(["2003-12-31", "2004-01-01", "2004-02-29", "2004-12-31", "2005-12-31"])
    latitude = np.array([-35.0, 42.0, np.nan])  # the calendar does not ask where
    year, day = (derive(name, time, latitude, "daily") for name in ("calendar_year", "day_of_year"))
    assert year.shape == day.shape == (5, 3)
    assert year.dtype == day.dtype == np.float32
    assert year[:, 1].tolist() == [2003, 2004, 2004, 2004, 2005]
    assert day[:, 2].tolist() == [365, 1, 60, 366, 365]


def test_a_month_has_the_calendar_of_its_first_day():
    months = pd.date_range("2004-01-01", periods=3, freq="MS")
    assert derive("day_of_year", months, np.array([42.0]), "monthly")[:, 0].tolist() == [1, 32, 61]


def test_a_place_has_its_coordinates_at_every_step():
    latitude, longitude = np.array([42.0, -5.5, np.nan]), np.array([-93.0, 120.25, 0.0])
    for step, time in (("daily", YEAR[:4]), ("monthly", pd.date_range("2004-01-01", periods=4, freq="MS"))):
        for name, values in (("latitude", latitude), ("longitude", longitude)):
            found = derive(name, time, latitude, step, longitude)
            np.testing.assert_array_equal(found, np.tile(values, (4, 1)))
            assert found.dtype == np.float32
    with pytest.raises(ValueError, match="come without it"):
        derive("longitude", YEAR[:4], latitude, "daily")
