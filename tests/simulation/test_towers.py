"""Virtual towers: reproducible, clustered, each of one cover, noisy around the truth, with biases and gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely

from fluxgrid.errors import ConfigError
from fluxgrid.geo import boundaries
from fluxgrid.simulation import simulate, virtual_sites
from fluxgrid.simulation.covariates import FORCINGS, STATICS, WEATHER
from fluxgrid.simulation.towers import TOWERS, tower_truth

ASKED = {"n": 40, "start": "2005-01-01", "end": "2010-12-31", "seed": 5}
COVERS = {"CRO": "crop_fraction", "GRA": "grass_fraction", "DBF": "forest_fraction", "ENF": "evergreen_fraction"}
COVERS |= {"WET": "wetland_fraction"}


@pytest.fixture(scope="module")
def sites():
    return virtual_sites(**ASKED)


@pytest.fixture(scope="module")
def truth():
    return tower_truth(**ASKED)


def errors_of(sites, truth, flux):
    return pd.concat({site.id: site.series[flux] - truth[site.id][flux] for site in sites}, names=["site"])


def test_the_same_seed_gives_the_same_towers(sites):
    few = {"n": 5, "start": "2005-01-01", "end": "2006-12-31"}
    one, again, other = (virtual_sites(**few, seed=seed) for seed in (5, 5, 6))
    assert one.ids == again.ids
    for first, second in zip(one, again, strict=True):
        assert (first.latitude, first.longitude, first.statics) == (second.latitude, second.longitude, second.statics)
        pd.testing.assert_frame_equal(first.series, second.series)
    assert [site.latitude for site in other] != [site.latitude for site in one]


def test_towers_stand_in_clusters_and_run_whole_years(sites):
    assert sites.step == "daily"
    assert len(sites) == 40
    assert 12 <= len(set(sites.groups)) <= 18
    places = pd.DataFrame({"y": site.latitude, "x": site.longitude, "group": site.group} for site in sites)
    assert len(places.drop_duplicates(["y", "x"])) == 40
    assert (places.groupby("group")[["y", "x"]].std().fillna(0) < 1.2).all(axis=None)
    for site in sites:
        assert len(set(site.series.index.year)) in (3, 4, 5, 6)
        assert site.series.index.freqstr == "D"
        assert site.series.index[0].day_of_year == 1


def test_networks_are_of_log_normal_length():
    years = [len(truth) / 365.25 for truth in tower_truth(n=60).values()]
    assert 2.9 < min(years) < 4.1
    assert max(years) < 15.1
    assert 5.0 < np.median(years) < 8.0


def test_no_tower_stands_in_the_state_without(sites):
    states = boundaries.states().set_index("postal").geometry
    x, y = [site.longitude for site in sites], [site.latitude for site in sites]
    assert TOWERS.network.state_without == "MO"
    assert not shapely.contains_xy(states["MO"], x, y).any()
    assert shapely.contains_xy(states.union_all(), x, y).all()


def test_covers_come_in_the_shares_of_real_networks_and_fill_their_footprints(sites):
    classes = pd.Series([site.class_name("igbp") for site in sites]).value_counts(normalize=True)
    assert classes.to_dict() == pytest.approx(
        {"CRO": 0.4, "GRA": 0.2, "DBF": 0.15, "ENF": 0.13, "WET": 0.12}, abs=0.026
    )
    for site in sites:
        main = site.statics[COVERS[site.class_name("igbp")]]
        assert 0.7 <= main <= 1.0
        covers = [site.statics[name] for name in ("crop_fraction", "grass_fraction", "forest_fraction")]
        assert sum(covers) + site.statics["wetland_fraction"] <= 1.0 + 1e-6
    assert 0.8 < np.mean([site.statics[COVERS[site.class_name("igbp")]] for site in sites]) < 0.97


def test_series_and_statics_are_those_of_a_cube(sites):
    for site in sites:
        assert set(site.series) == {*FORCINGS, "gpp", "reco", "nee", "nee_qc"}
        assert set(site.statics) == set(STATICS)
        assert (site.series.dtypes == np.float32).all()
    site = sites.sites[0]
    place = np.array([site.latitude]), np.array([site.longitude]), site.series.index
    cell = simulate(*place, [*WEATHER, "sand"])
    for name in WEATHER:
        np.testing.assert_array_equal(site.series[name], cell[name][:, 0])
    assert site.statics["sand"] == cell["sand"][0]
    known = [name for name in FORCINGS if "reflectance" not in name]
    assert not pd.concat([site.series for site in sites])[known].isna().any(axis=None)


def test_crops_rotate(sites):
    flips = []
    for site in sites:
        corn = site.series["corn_fraction"].groupby(site.series.index.year).first()
        if site.class_name("igbp") == "CRO" and corn.max() - corn.min() > 0.5:
            flips.append((corn.diff().dropna().abs() > 0.5).all())
    assert 6 <= len(flips) < 16
    assert all(flips)


def test_fluxes_close_and_gaps_carry_no_quality(sites):
    series = pd.concat([site.series for site in sites])
    gap = series["nee"].isna()
    assert 0.005 < gap.mean() < 0.2
    assert (series["gpp"].isna() == gap).all()
    assert (series["reco"].isna() == gap).all()
    assert (series.loc[gap, "nee_qc"] == 0).all()
    assert series["nee_qc"].between(0, 1).all()
    np.testing.assert_array_equal(series["nee"], series["reco"] - series["gpp"])


def test_filled_gaps_are_smooth_and_marked(sites):
    changes, filled = [], []
    for site in sites:
        part = site.series[site.series["nee"].notna()]
        changes.append(part["nee"].diff().abs())
        filled.append(part["nee_qc"] < 0.15)
    changes, filled = pd.concat(changes), pd.concat(filled)
    assert 0.02 < filled.mean() < 0.2
    assert changes[filled].median() < 0.5 * changes[~filled].median()


def test_the_random_error_grows_with_the_flux_and_has_heavy_tails(sites, truth):
    error = errors_of(sites, truth, "nee").groupby("site").transform(lambda part: part - part.rolling(31, 1).median())
    months = error.index.get_level_values(1).month
    spread = error.groupby(months).std()
    assert spread[7] > 1.5 * spread[1]
    winter = error[(months <= 2) & error.notna()]
    kurtosis = ((winter - winter.mean()) ** 4).mean() / winter.var() ** 2
    assert kurtosis > 4.0
    assert 0.08 < winter.std() < 0.5


def test_towers_miss_part_of_the_flux_each_its_own(sites, truth):
    seen = pd.Series(
        {site.id: site.series["gpp"].sum() / truth[site.id]["gpp"][site.series["gpp"].notna()].sum() for site in sites}
    )
    assert 0.86 < seen.median() < 0.97
    assert 0.03 < seen.std() < 0.12


def test_calm_nights_hide_respiration_and_cost_quality(sites, truth):
    ratio = [site.series["reco"] / truth[site.id]["reco"] for site in sites]
    wind = pd.concat([site.series["wind_speed"] for site in sites])
    quality = pd.concat([site.series["nee_qc"] for site in sites])
    ratio = pd.concat(ratio)
    measured = (quality > 0.2) & ratio.notna()
    calm, windy = measured & (wind < 1.5), measured & (wind > 4.0)
    assert calm.sum() > 100
    assert ratio[calm].median() < ratio[windy].median() - 0.03
    assert quality[calm].mean() < quality[windy].mean() - 0.1


def test_the_error_of_respiration_lasts_for_days(sites, truth):
    lasting = []
    for site in sites:
        error = np.log((site.series["reco"] / truth[site.id]["reco"]).where(site.series["nee_qc"] > 0.5))
        lasting.append(error.diff(2).var() / error.diff(40).var())
    assert np.median(lasting) < 0.7


def test_truth_is_that_of_the_footprint(sites, truth):
    for site in sites:
        known = truth[site.id]
        assert known.index.equals(site.series.index)
        assert list(known) == ["gpp", "reco", "nee", "ra", "rh"]
        np.testing.assert_array_equal(known["nee"], known["reco"] - known["gpp"])
        weeks = [table["gpp"].resample("14D").mean() for table in (known, site.series)]
        assert weeks[0].corr(weeks[1]) > 0.95


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, r"n of 1 to 60.* got n=0"),
        ({"n": 61}, r"n of 1 to 60.* got n=61"),
        ({"seed": -1}, "seed=-1"),
        ({"start": "2010-01-02", "end": "2010-01-01"}, "2010-01-02 to 2010-01-01"),
        ({"start": "1990-01-01"}, "asked for from 1990-01-01: start later"),
    ],
)
def test_what_cannot_be_had_is_said(asked, message):
    with pytest.raises(ConfigError, match=message):
        virtual_sites(**asked)
    with pytest.raises(ConfigError, match=message):
        tower_truth(**asked)
