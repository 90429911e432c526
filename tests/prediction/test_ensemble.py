"""What the one function behind maps and sites makes of an ensemble."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.uncertainty import FluxUncertainty, Uncertainty
from fluxgrid.prediction import BLOCK, Predictor
from fluxgrid.prediction.predictor import spread_of
from fluxgrid.variables import MAP_FLUXES, STANDARD_ERROR_COVERAGE


@pytest.fixture
def members(checkpoint):
    """Return three predictors of one network each."""
    torch.manual_seed(5)
    return [Predictor(replace(checkpoint, model=checkpoint.spec.build())) for _ in range(3)]


@pytest.fixture
def together(checkpoint, members):
    """Return the predictor of the three, with half-widths of NEE and GPP."""
    known = FluxUncertainty(0.3, {STANDARD_ERROR_COVERAGE: 2.0, 0.9: None}, 9, 99)
    fitted = Uncertainty({"nee": known, "gpp": known})
    model = Ensemble([member.checkpoint.model for member in members])
    return Predictor(replace(checkpoint, model=model, uncertainty=fitted))


def test_fluxes_are_the_mean_and_the_spread_is_that_of_closed_fluxes(together, members, make_places):
    places = make_places()
    fluxes, _ = together.predict(places)
    alone = [member.predict(places)[0] for member in members]
    assert np.array_equal(fluxes.nee, fluxes.reco - fluxes.gpp)
    for name in MAP_FLUXES:
        each = np.stack([row.daily[name] for row in alone]).astype(np.float64)
        np.testing.assert_allclose(fluxes.daily[name], each.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fluxes.spread[name], each.std(axis=0), rtol=1e-6)
        assert fluxes.spread[name].dtype == np.float32
    assert alone[0].spread == {}


def test_padding_and_the_year_before_change_nothing(together, make_places):
    places, later = make_places(9), make_places(9, "2002-01-01", "2002-12-01")
    alone, state = together.predict(places)
    padded, _ = together.predict(places.pad(BLOCK))
    assert state.hidden.shape == (9, 3 * 8)
    for name in MAP_FLUXES:
        assert np.array_equal(padded.spread[name][:, :9], alone.spread[name])
        assert np.array_equal(padded.daily[name][:, :9], alone.daily[name])
    assert np.array_equal(together.advance(places).hidden, state.hidden)
    warm, cold = together.predict(later, state)[0], together.predict(later)[0]
    assert not np.array_equal(warm.spread["nee"], cold.spread["nee"])


def test_half_widths_are_of_the_fluxes_that_have_one_and_blank_where_they_are(together, members, make_places):
    places = make_places()
    places.forcings["precipitation"][4, 2] = np.nan
    fluxes, _ = together.predict(places)
    half = together.half_widths(fluxes)
    assert set(half) == {"nee", "gpp"}
    assert together.half_widths(fluxes, 0.9) == {}
    assert members[0].half_widths(fluxes) == {}
    np.testing.assert_allclose(half["nee"], 2 * np.hypot(fluxes.spread["nee"], 0.3), rtol=1e-6)
    assert np.isnan(half["gpp"][4, 2])
    assert np.array_equal(np.isnan(half["gpp"]), np.isnan(fluxes.gpp))
    order = np.argsort(fluxes.spread["nee"][0])
    assert (np.diff(half["nee"][0][order]) >= 0).all()


def test_members_that_agree_have_no_spread(checkpoint, make_places):
    model = checkpoint.model
    same = Predictor(replace(checkpoint, model=Ensemble([model] * 5)))
    fluxes, _ = same.predict(make_places())
    alone, _ = Predictor(checkpoint).predict(make_places())
    for name in MAP_FLUXES:
        assert np.array_equal(fluxes.daily[name], alone.daily[name])
        assert not fluxes.spread[name].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (12, 256)])
def test_the_spread_does_not_hang_on_the_shape(shape):
    values = np.random.default_rng(0).normal(size=(10, 12, 256)).astype(np.float32)
    whole = spread_of(list(values))
    part = spread_of([each[: shape[0], : shape[1]].copy() for each in values])
    assert np.array_equal(whole[: shape[0], : shape[1]], part)
