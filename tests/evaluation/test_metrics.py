from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from fluxgrid.evaluation.metrics import score

fluxes = arrays(np.float64, 11, elements=st.floats(-20, 30)).filter(lambda values: np.ptp(values) > 1e-3)


@given(fluxes, fluxes)
def test_scores_are_those_of_the_definitions(observed, predicted):
    found = score(observed, predicted)
    mae = mean_absolute_error(observed, predicted)
    assert found.n == 11
    assert found.r2 == pytest.approx(r2_score(observed, predicted))
    assert found.rmse == pytest.approx(root_mean_squared_error(observed, predicted))
    assert found.nmae == pytest.approx(mae / (abs(observed.mean()) + 1e-9))
    assert found.rae == pytest.approx(mae / mean_absolute_error(observed, np.full(11, observed.mean())))
    assert found.bias == pytest.approx(predicted.mean() - observed.mean(), abs=1e-9)


@given(fluxes)
def test_the_site_mean_scores_zero_and_one(observed):
    found = score(observed, np.full(11, observed.mean()))
    assert found.r2 == pytest.approx(0, abs=1e-9)
    assert found.rae == pytest.approx(1)


def test_only_steps_with_both_count():
    observed = np.array([1.0, np.nan, 3.0, 4.0], dtype=np.float32)
    predicted = np.array([1.0, 2.0, np.nan, 5.0], dtype=np.float32)
    found = score(observed, predicted)
    assert (found.n, found.bias) == (2, 0.5)


def test_constant_observations_have_no_r2_and_an_infinite_rae():
    found = score(np.full(5, 0.1, dtype=np.float32), np.arange(5.0))
    assert np.isnan(found.r2)
    assert found.rae == np.inf
    assert np.isfinite(found.rmse)


def test_too_few_steps_give_nan_but_their_number():
    found = score(np.arange(4.0), np.arange(4.0), minimum=5)
    assert found.n == 4
    assert np.isnan([found.r2, found.rmse, found.nmae, found.rae, found.bias]).all()
    assert score(np.array([np.nan]), np.array([1.0])).n == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"observed \(3,\) and predicted \(4,\)"):
        score(np.zeros(3), np.zeros(4))
