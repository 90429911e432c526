"""The known fluxes: signs, closure, limits, seasons, and independence of what is asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.simulation import carbon, true_fluxes

YEARS = pd.date_range("2006-01-01", "2009-12-31")
IOWA, NORTH_WOODS, PLAINS = 0, 1, 2
LATITUDE, LONGITUDE = np.array([42.2, 47.3, 41.0, 39.9, 37.2]), np.array([-93.8, -91.5, -102.5, -88.8, -90.1])


@pytest.fixture(scope="module")
def truth():
    return true_fluxes(LATITUDE, LONGITUDE, YEARS)


def test_signs_and_closure(truth):
    assert all(flux.dtype == np.float32 and flux.shape == (len(YEARS), 5) for flux in truth.values())
    assert (truth["gpp"] >= 0).all()
    assert (truth["reco"] > 0).all()
    np.testing.assert_array_equal(truth["nee"], truth["reco"] - truth["gpp"])


def test_any_part_equals_the_whole_bit_for_bit(truth):
    days = YEARS[[700, 3, 366, 365, 1011]]
    part = true_fluxes(LATITUDE[[4, 1, 2]], LONGITUDE[[4, 1, 2]], days)
    rows = YEARS.get_indexer(days)
    for name, flux in truth.items():
        np.testing.assert_array_equal(part[name], flux[rows][:, [4, 1, 2]])


def test_annual_sums_are_plausible(truth):
    gpp, nee = (truth[name].sum(axis=0) / 4 for name in ("gpp", "nee"))
    assert ((gpp > 300) & (gpp < 1700)).all()
    assert gpp.argmin() == PLAINS
    assert ((nee > -450) & (nee < 250)).all()


def test_crops_peak_sharply_and_forest_is_green_longer(truth):
    monthly = pd.DataFrame(truth["gpp"]).groupby(YEARS.month).mean()
    assert monthly[IOWA].idxmax() == 7
    assert 12 < monthly[IOWA].max() < 20
    assert monthly.loc[6:9, IOWA].sum() / monthly[IOWA].sum() > 0.85
    assert (monthly.loc[[4, 5, 10], NORTH_WOODS].sum() / monthly[NORTH_WOODS].sum()) > (
        monthly.loc[[4, 5, 10], IOWA].sum() / monthly[IOWA].sum()
    )


def test_no_light_no_uptake(monkeypatch):
    days = pd.date_range("2007-07-01", periods=11)
    simulate = carbon.simulate

    def dark(*place_and_time):
        return {**(world := simulate(*place_and_time)), "shortwave": np.zeros_like(world["shortwave"])}

    monkeypatch.setattr(carbon, "simulate", dark)
    fluxes = true_fluxes(LATITUDE, LONGITUDE, days)
    assert (fluxes["gpp"] == 0).all()
    assert (fluxes["nee"] > 0).all()


def test_drought_lowers_uptake_of_grass(monkeypatch):
    days = pd.date_range("2007-06-01", periods=61)
    wet = true_fluxes(LATITUDE, LONGITUDE, days)["gpp"].mean(axis=0)
    simulate = carbon.simulate

    def rainless(*place_and_time):
        return {**(world := simulate(*place_and_time)), "precipitation": np.zeros_like(world["precipitation"])}

    monkeypatch.setattr(carbon, "simulate", rainless)
    dry = true_fluxes(LATITUDE, LONGITUDE, days)["gpp"].mean(axis=0)
    assert (dry < wet).all()
    assert dry[PLAINS] / wet[PLAINS] < dry[NORTH_WOODS] / wet[NORTH_WOODS]


def test_memory_by_doubling_equals_the_plain_weighted_mean():
    values = np.random.default_rng(3).random((138, 3))
    weights = np.exp(-np.arange(128) / 32.0)
    plain = [(weights[:, None] * values[last - 127 : last + 1][::-1]).sum(axis=0) for last in range(127, 138)]
    np.testing.assert_allclose(carbon._remember(values, 32.0), np.array(plain) / weights.sum(), rtol=1e-12)
