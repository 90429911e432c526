"""Virtual towers: reproducible, clustered, noisy around the truth, with gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import ConfigError
from fluxgrid.simulation import simulate, true_fluxes, virtual_sites


@pytest.fixture(scope="module")
def sites():
    return virtual_sites(n=17, start="2008-01-01", end="2012-12-31", seed=5)


def test_the_same_seed_gives_the_same_towers(sites):
    again = virtual_sites(n=17, start="2008-01-01", end="2012-12-31", seed=5)
    assert again.ids == sites.ids
    for one, other in zip(sites, again, strict=True):
        assert (one.latitude, one.longitude, one.statics) == (other.latitude, other.longitude, other.statics)
        pd.testing.assert_frame_equal(one.series, other.series)
    other_seed = virtual_sites(n=17, start="2008-01-01", end="2012-12-31", seed=6)
    assert [s.latitude for s in other_seed] != [s.latitude for s in sites]


def test_towers_stand_in_clusters_and_run_whole_years(sites):
    assert sites.step == "daily"
    assert len(sites) == 17
    assert 4 <= len(set(sites.groups)) <= 9
    places = pd.DataFrame({"y": s.latitude, "x": s.longitude, "group": s.group} for s in sites)
    assert len(places.drop_duplicates(["y", "x"])) == 17
    assert (places.groupby("group")[["y", "x"]].std().fillna(0) < 1.2).all(axis=None)
    for site in sites:
        assert 3 <= len(site.series) / 365.25 <= 8.01
        assert site.series.index.freqstr == "D"
        assert site.class_name("igbp") in ("CRO", "DBF", "MF", "GRA")


def test_covariates_are_those_of_the_cell_and_fluxes_are_near_the_truth(sites):
    site = sites.sites[0]
    place = np.array([site.latitude]), np.array([site.longitude]), site.series.index
    np.testing.assert_array_equal(site.series["temperature_2m"], simulate(*place)["temperature_2m"][:, 0])
    error = site.series["nee"] - true_fluxes(*place)["nee"][:, 0]
    assert abs(error.mean()) < 0.1
    assert 0.2 < error.std() < 1.2
    warm = error.groupby(site.series.index.month).std()
    assert warm[7] > warm[1]


def test_gaps_and_closure(sites):
    series = pd.concat([site.series for site in sites])
    gap = series["nee"].isna()
    assert 0.03 < gap.mean() < 0.25
    assert (series.loc[gap, "nee_qc"] == 0).all()
    assert not series[["temperature_2m", "precipitation", "shortwave", "vpd"]].isna().any(axis=None)
    np.testing.assert_allclose(series["nee"], series["reco"] - series["gpp"], atol=1e-5)
    assert (series.dtypes == np.float32).all()


def test_nothing_asked_for_is_said():
    with pytest.raises(ConfigError, match=r"n >= 1 and a start before the end, got n=0"):
        virtual_sites(n=0)
    with pytest.raises(ConfigError, match="2010-01-02 to 2010-01-01"):
        virtual_sites(start="2010-01-02", end="2010-01-01")
