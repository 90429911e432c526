from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fluxgrid.data.inputs import Places
from fluxgrid.prediction import BlockState
from fluxgrid.prediction.sites import predict_site
from fluxgrid.testing import small_sites


@pytest.fixture
def site():
    return small_sites(n=1, periods=40, missing=0.04, seed=8).sites[0]  # ends in April of the fourth year


def year(site, spec, start: int, stop: int) -> Places:
    """Return some months of a site, cut by hand."""
    halo = 2
    before, after = min(halo, start), min(halo, len(site.series) - stop)
    rows = site.series.iloc[start - before : stop + after]
    forcings = {name: rows[name].to_numpy()[:, None] for name in spec.inputs.forcings}
    statics = {name: np.array([site.statics[name]], np.float32) for name in ("crop_fraction", "climate_group")}
    time = site.series.index[start:stop]
    return Places(time, "monthly", np.array([site.latitude]), forcings, statics, before, after)


def test_a_site_is_predicted_year_by_year_after_its_first_year_as_spin_up(predictor, site):
    spec = predictor.checkpoint.spec
    _, state = predictor.predict(year(site, spec, 0, 12))
    state = BlockState(state.hidden, {})  # the year is seen again: its past must not hold it already
    expected = []
    for start, stop in ((0, 12), (12, 24), (24, 36), (36, 40)):
        fluxes, state = predictor.predict(year(site, spec, start, stop), state)
        expected.append(np.concatenate([fluxes.nee, fluxes.gpp, fluxes.reco], axis=1))
    found = predict_site(predictor, site)
    assert list(found.columns) == ["nee", "gpp", "reco"]
    assert found.index.equals(site.series.index)
    np.testing.assert_array_equal(found.to_numpy(), np.concatenate(expected))
    assert 0 < found.isna().any(axis=1).mean() < 0.3


def test_a_variable_the_site_lacks_gives_no_fluxes(predictor, site):
    bare = replace(site, series=site.series.drop(columns="shortwave"))
    assert predict_site(predictor, bare).isna().all(axis=None)


def test_the_recycled_year_is_not_counted_twice_in_the_past(predictor, site):
    """Four months of shortwave are too few to fill the next year's gap from; seen twice they would be eight."""
    series = small_sites(n=1, periods=36).sites[0].series
    column = series.columns.get_loc("shortwave")
    series.iloc[[1, 2, 4, 5, 7, 8, 10, 11], column] = np.nan
    series.iloc[15:18, column] = np.nan
    found = predict_site(predictor, replace(site, series=series))
    assert found["nee"].iloc[12:].isna().to_numpy().nonzero()[0].tolist() == [3, 4, 5]


def test_observed_fluxes_do_not_enter(predictor, site):
    blank = replace(site, series=site.series.assign(gpp=np.float32(np.nan), nee=np.float32(99)))
    np.testing.assert_array_equal(predict_site(predictor, blank).to_numpy(), predict_site(predictor, site).to_numpy())


def test_a_record_shorter_than_a_year(predictor, site):
    short = replace(site, series=site.series.iloc[:5])
    assert len(predict_site(predictor, short)) == 5
