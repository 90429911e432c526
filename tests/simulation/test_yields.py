"""County yields: of the process model's grain, by area of the crop, with survey error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.simulation.land import crop_shares, places_at
from fluxgrid.simulation.process import KIND_OF, KINDS, run_years
from fluxgrid.simulation.yields import YIELDS, county_yields

YEARS = range(2006, 2009)
COLUMNS = ["fips", "state", "year", "crop", "yield_g_m2", "yield_t_ha", "area_share", "error"]


@pytest.fixture(scope="module")
def yields():
    return county_yields(["IA"], YEARS)


@pytest.fixture(scope="module")
def exact():
    return county_yields(["IA"], YEARS, survey=False)


def test_every_county_of_the_corn_belt_reports_both_crops(yields):
    assert list(yields) == COLUMNS
    assert set(yields["state"]) == {"IA"}
    assert set(yields["year"]) == set(YEARS)
    assert yields["fips"].str.fullmatch(r"19\d{3}").all()
    assert not yields.duplicated(["fips", "year", "crop"]).any()
    assert yields.groupby(["year", "crop"]).size().min() > 80
    assert (yields["area_share"] >= YIELDS.least_share).all()


def test_yields_are_of_the_size_of_real_ones(yields):
    means = yields.groupby("crop")["yield_t_ha"].mean()
    assert 7.5 < means["corn"] < 14.0
    assert 2.0 < means["soybean"] < 4.8


def test_tonnes_follow_from_grams_of_carbon(yields):
    corn = yields[yields["crop"] == "corn"]
    np.testing.assert_allclose(corn["yield_t_ha"], corn["yield_g_m2"] / 0.45 / (1 - 0.155) / 100, rtol=1e-12)
    soybean = yields[yields["crop"] == "soybean"]
    np.testing.assert_allclose(soybean["yield_t_ha"], soybean["yield_g_m2"] / 0.52 / (1 - 0.13) / 100, rtol=1e-12)


def test_a_county_does_not_depend_on_what_else_is_asked_for(yields):
    other = county_yields(["NE", "IA"], [2007])
    expected = yields[yields["year"] == 2007].reset_index(drop=True)
    pd.testing.assert_frame_equal(other[other["state"] == "IA"].reset_index(drop=True), expected)


def test_survey_error_is_unbiased_and_as_large_as_stated(yields, exact):
    assert (exact["error"] == 0).all()
    error = np.log(yields["yield_g_m2"] / exact["yield_g_m2"]) / yields["error"]
    assert abs(error.mean()) < 0.15
    assert 0.85 < error.std() < 1.15
    assert yields["error"].between(0.02, 0.101).all()
    again = county_yields(["IA"], [2006], seed=2)
    assert not np.allclose(again["yield_g_m2"], yields.loc[yields["year"] == 2006, "yield_g_m2"])


def test_rare_crops_are_known_less_well(yields):
    soybean = yields[yields["crop"] == "soybean"].sort_values("area_share")
    assert soybean["error"].is_monotonic_decreasing


def test_a_yield_is_that_of_the_process_model(exact):
    """Sioux County, Iowa: the mean over the rectangle around it is near the mean over its few places."""
    x, y = np.meshgrid(np.linspace(-96.4, -95.9, 5), np.linspace(42.95, 43.25, 5))
    places = places_at(y.ravel(), x.ravel())
    year = next(iter(run_years(places, 2007, 2007)))
    grows = np.array([kind == KINDS.index("corn") for kind in KIND_OF[2007 % 2]])
    weight = places.shares * grows
    np.testing.assert_allclose(weight.sum(axis=1), crop_shares(places, [2007])[0][:, 0], atol=1e-6)
    expected = (weight * year.annual["yield"]).sum() / weight.sum()
    found = exact.query("fips == '19167' and year == 2007 and crop == 'corn'")["yield_g_m2"].item()
    assert found == pytest.approx(expected, rel=0.15)


def test_what_cannot_be_had_is_said():
    with pytest.raises(UnknownName, match="'XX'"):
        county_yields(["XX"], [2007])
    with pytest.raises(ConfigError, match=r"years from \d{4} on.*years \[1990\]"):
        county_yields(["IA"], [1990])
    with pytest.raises(ConfigError, match="years \\[\\]"):
        county_yields(["IA"], [])
    with pytest.raises(ConfigError, match="beyond the world"):
        county_yields(["TX"], [2007])
