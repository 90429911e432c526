from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import site_folds
from fluxgrid.errors import ConfigError, TableError, UnknownName
from fluxgrid.evaluation.baselines import BASELINES, fit_climatology, fit_ridge
from fluxgrid.evaluation.tables import site_scores, summarise
from fluxgrid.sources.tower_table import TowerTable

DAYS = pd.date_range("2001-01-01", "2002-12-31")
CRO, DBF, ENF = 0.0, 3.0, 6.0


def make_site(name, igbp, gpp, latitude=40.0, time=DAYS, **more) -> Site:
    columns = {"gpp": gpp, "reco": 1.0, "nee": 0.5, **more}
    series = pd.DataFrame(columns, index=time).astype(np.float32)
    return Site(name, latitude, -90.0, name, {"igbp": igbp, "elevation": np.nan}, series)


def gather(*sites, step="daily") -> Sites:
    return Sites(step, sites, "made", "none")


def summer(time, height):
    return height * (1 - np.cos(2 * np.pi * (time.day_of_year - 1) / 365.25)) / 2


def test_climatology_is_the_cycle_of_the_class_and_sites_count_alike():
    short = DAYS[:365]
    train = gather(
        make_site("A", CRO, summer(DAYS, 10.0)),
        make_site("B", CRO, summer(short, 20.0), time=short),
        make_site("C", DBF, summer(DAYS, 2.0)),
    )
    fitted = fit_climatology(train)
    assert fitted.predict(make_site("X", CRO, 0.0))["gpp"].max() == pytest.approx(15, rel=0.02)
    assert fitted.predict(make_site("X", DBF, 0.0))["gpp"].max() == pytest.approx(2, rel=0.02)
    for unseen in (ENF, np.nan):
        predicted = fitted.predict(make_site("X", unseen, 0.0))
        assert predicted["gpp"].max() == pytest.approx((10 + 20 + 2) / 3, rel=0.02)
    assert list(predicted) == ["gpp", "reco", "nee"]
    assert predicted["nee"].unique() == pytest.approx([0.5])  # its own cycle, not reco - gpp


def test_climatology_meets_summer_with_summer():
    fitted = fit_climatology(gather(make_site("A", CRO, summer(DAYS, 10.0))))
    south = fitted.predict(make_site("S", CRO, 0.0, latitude=-35.0))["gpp"]
    assert south["2001-01"].mean() > 9
    assert south["2001-07"].mean() < 1


def test_climatology_window_is_circular_and_fills_gaps():
    gpp = np.where(DAYS.day_of_year == 1, 15.0, 0.0)
    gpp[DAYS.day_of_year == 200] = np.nan
    cycle = fit_climatology(gather(make_site("A", CRO, gpp))).predict(make_site("X", CRO, 0.0))["gpp"]
    assert cycle["2001-12-31"] == cycle["2001-01-08"] == pytest.approx(1)
    assert cycle["2001-12-20"] == 0
    assert np.isfinite(cycle).all()


def test_monthly_climatology():
    time = pd.date_range("2001-01-01", periods=24, freq="MS")
    train = gather(make_site("A", CRO, np.tile(np.arange(12.0), 2), time=time), step="monthly")
    predicted = fit_climatology(train).predict(make_site("X", CRO, 0.0, time=time[3:7]))
    assert predicted["gpp"].tolist() == [3, 4, 5, 6]


def test_nothing_observed_gives_nan():
    fitted = fit_climatology(gather(make_site("A", CRO, np.nan)))
    assert fitted.predict(make_site("X", CRO, 0.0))["gpp"].isna().all()


def weather(seed, time=DAYS):
    rng = np.random.default_rng(seed)
    return {"temperature_2m": 10 + rng.normal(0, 5, len(time)), "shortwave": 200 + rng.normal(0, 40, len(time))}


def linear_site(name, seed, igbp=CRO):
    drivers = weather(seed)
    gpp = 8 + 0.3 * drivers["temperature_2m"] + 0.02 * drivers["shortwave"] + (2 if igbp == DBF else 0)
    return make_site(name, igbp, gpp, **drivers)


INPUTS = ("temperature_2m", "shortwave", "toa_radiation", "elevation", "igbp")


def test_ridge_finds_a_linear_truth_and_closes_the_balance():
    train = gather(*(linear_site(f"S{k}", k, (CRO, DBF)[k % 2]) for k in range(6)))
    held_out = linear_site("X", 99, DBF)
    predicted = fit_ridge(train, INPUTS).predict(held_out)
    assert predicted["gpp"].to_numpy() == pytest.approx(held_out.series["gpp"].to_numpy(), abs=0.1)
    assert (predicted["nee"] == predicted["reco"] - predicted["gpp"]).all()


def test_ridge_does_not_look_at_the_fluxes_it_predicts():
    train = gather(*(linear_site(f"S{k}", k) for k in range(3)))
    site = linear_site("X", 99)
    blind = make_site("X", CRO, np.nan, **weather(99))
    fitted = fit_ridge(train, INPUTS)
    pd.testing.assert_frame_equal(fitted.predict(site), fitted.predict(blind))


def test_ridge_says_nothing_where_a_forcing_is_missing_and_never_below_zero():
    fitted = fit_ridge(gather(*(linear_site(f"S{k}", k) for k in range(3))), INPUTS)
    drivers = weather(5)
    drivers["temperature_2m"][:7] = np.nan
    drivers["temperature_2m"][7] = -100
    predicted = fitted.predict(make_site("X", CRO, 0.0, **drivers))
    assert predicted["gpp"].isna().sum() == 7
    assert predicted["gpp"].iloc[7] == 0
    nothing = make_site("X", CRO, 0.0)
    assert fitted.predict(nothing).isna().all(axis=None)


def test_ridge_of_gpp_alone():
    train = gather(*(make_site(f"S{k}", CRO, 1.0, reco=np.nan, **weather(k)) for k in range(2)))
    predicted = fit_ridge(train, ["shortwave"]).predict(train["S0"])
    assert predicted["gpp"].notna().all()
    assert predicted[["reco", "nee"]].isna().all(axis=None)


def test_ridge_refuses_what_it_cannot_use():
    train = gather(linear_site("S0", 0))
    with pytest.raises(ConfigError, match="not gpp"):
        fit_ridge(train, ["shortwave", "gpp"])
    with pytest.raises(ConfigError, match="not none"):
        fit_ridge(train, [])
    with pytest.raises(UnknownName, match="Did you mean 'shortwave'"):
        fit_ridge(train, ["shortwav"])
    with pytest.raises(TableError, match="No step of the 1 training sites has gpp and all of shortwave, lai"):
        fit_ridge(train, ["shortwave", "lai"])


@pytest.mark.data
def test_baselines_beat_the_mean_at_held_out_continental_sites(data_dir):
    sites = TowerTable().read_sites(data_dir / "towers_monthly.parquet")
    fold = site_folds(sites)[0]
    train, test = sites.select(fold.train), sites.select(fold.test)
    inputs = ("temperature_2m", "precipitation", "toa_radiation", "day_length", "climate_group")
    for name, fit in BASELINES.items():
        fitted = fit(train, inputs)
        scores = site_scores(name, test, {site.id: fitted.predict(site) for site in test}, minimum=12)
        summary = summarise(scores, "climate").set_index(["climate", "flux"])
        assert 0.3 < summary.loc[("continental", "gpp"), "r2_q50"] < 0.9
        assert summary.loc[("continental", "gpp"), "sites"] >= 12
