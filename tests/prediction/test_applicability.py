from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.inputs import Inputs, InputSpec, prepare
from fluxgrid.data.steps import calendar
from fluxgrid.errors import TableError
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction.applicability import Applicability, fit_domain, month_starts, month_vectors


def brute_index(domain: TrainingDomain, vectors: np.ndarray) -> np.ndarray:
    """Return the dissimilarity index of Meyer & Pebesma (2021) by two loops: new vectors times training vectors."""
    index = np.zeros(len(vectors))
    for i, vector in enumerate(vectors):
        scaled = (vector - domain.mean) / domain.std * domain.weight
        index[i] = min(np.sqrt(((scaled - point) ** 2).sum()) for point in domain.points)
    return index / domain.mean_distance


def brute_spread(points: np.ndarray) -> float:
    """Return the mean distance between all pairs of vectors by two loops."""
    return float(np.mean([np.sqrt(((a - b) ** 2).sum()) for i, a in enumerate(points) for b in points[:i]]))


@pytest.fixture
def spec(make_spec) -> InputSpec:
    return make_spec().inputs


@pytest.fixture
def prepared(spec, make_places):
    places = make_places(5, end="2002-05-01")
    return prepare(places, spec, {})[0], places.time


@pytest.fixture
def domain(prepared, spec) -> TrainingDomain:
    inputs, time = prepared
    vectors = month_vectors(inputs, spec, time)  # (17, 5, K)
    places = np.tile(np.arange(5), 17)
    rng = np.random.default_rng(0)
    return fit_domain(vectors.reshape(-1, vectors.shape[-1]), rng.uniform(0, 2, vectors.shape[-1]), places % 2)


def test_months_of_a_daily_calendar():
    time = calendar("2019-12-30", "2020-03-02", "daily")
    assert [str(time[i].date()) for i in month_starts(time)] == ["2019-12-30", "2020-01-01", "2020-02-01", "2020-03-01"]
    assert month_starts(calendar("2019-11-01", "2020-02-01", "monthly")).tolist() == [0, 1, 2, 3]


def test_vectors_are_monthly_means_beside_statics_and_one_hot_classes(prepared, spec):
    inputs, time = prepared
    vectors = month_vectors(inputs, spec, time)
    assert vectors.shape == (17, 5, 4 + 1 + 5)
    np.testing.assert_array_equal(vectors[..., 0], inputs.dynamic["temperature_2m"])
    np.testing.assert_array_equal(vectors[3, :, 4], inputs.static["crop_fraction"])
    assert vectors[0, 0, 5:].tolist() == [0, 0, 0, 1, 0]


def test_vectors_of_days_and_without_statics(make_places):
    spec = InputSpec(("temperature_2m",))
    places = make_places(3)
    time = calendar("2001-01-01", "2001-03-10", "daily")
    values = np.random.default_rng(0).normal(size=(len(time), 3)).astype(np.float32)
    places = replace(places, time=time, step="daily", forcings={"temperature_2m": values}, statics={})
    vectors = month_vectors(prepare(places, spec, {})[0], spec, time)
    means = pd.DataFrame(values.astype(np.float64), index=time).resample("MS").mean()
    np.testing.assert_allclose(vectors[..., 0], means, rtol=1e-12)


def test_index_against_brute_force(prepared, domain, spec, make_places):
    places = make_places(4, seed=9)
    inputs, _ = prepare(places, spec, {})
    found = Applicability(domain, spec)(inputs, places.time)
    vectors = month_vectors(inputs, spec, places.time)
    expected = brute_index(domain, vectors.reshape(-1, vectors.shape[-1])).reshape(12, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # found is float32
    assert found.dtype == np.float32


def test_mean_distance_against_brute_force(domain):
    assert domain.mean_distance == pytest.approx(brute_spread(domain.points), rel=1e-12)


def test_a_training_vector_is_not_dissimilar(prepared, domain, spec, tmp_path):
    inputs, time = prepared
    assert not Applicability(domain, spec)(inputs, time).any()
    domain.save(tmp_path)
    stored = Applicability(TrainingDomain.load(tmp_path), spec)(inputs, time)
    assert stored.max() < 1e-6  # points are stored as float32


def test_index_does_not_depend_on_the_other_places(domain, spec, make_places):
    places = make_places(6, seed=4)
    inputs, _ = prepare(places, spec, {})
    one = replace(
        inputs,
        dynamic={name: values[:, [2]] for name, values in inputs.dynamic.items()},
        static={name: values[[2]] for name, values in inputs.static.items()},
        missing=inputs.missing[:, [2]],
        filled=inputs.filled[:, [2]],
    )
    look = Applicability(domain, spec)
    np.testing.assert_array_equal(look(one, places.time)[:, 0], look(inputs, places.time)[:, 2])


def test_a_month_with_a_hole_has_no_index(domain, spec, make_places):
    places = make_places(3)
    places.forcings["precipitation"][5, 1] = np.nan
    index = Applicability(domain, spec)(prepare(places, spec, {})[0], places.time)
    assert np.argwhere(np.isnan(index)).tolist() == [[5, 1]]


def test_threshold_by_hand():
    """Two folds on a line; each vector's distance to the other fold, over the mean distance between vectors.

    Fold 0 at 0 and 1, fold 1 at 3, 4 and 6 with unit weight: distances to the other fold 3, 2 | 2, 3, 5.
    Quartiles of (3, 2, 2, 3, 5) are 2 and 3, so 5 is above 3 + 1.5 and the threshold is 3 over the mean distance.
    """
    x = np.array([0.0, 1.0, 3.0, 4.0, 6.0])
    domain = fit_domain(x[:, None], np.array([7.0]), np.array([0, 0, 1, 1, 1]))
    assert domain.weight.tolist() == [1.0]  # importance counts relative to its mean
    distances = np.abs(x[:, None] - x)[~np.eye(5, dtype=bool)]
    assert domain.threshold == pytest.approx(3.0 / distances.mean())
    assert domain.std == pytest.approx(x.std())
    assert domain.mean_distance == pytest.approx(distances.mean() / x.std())


def test_importance_stretches_the_space():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 2))
    places = np.arange(40)
    domain = fit_domain(vectors, np.array([1.0, 0.0]), places % 4)
    spec = InputSpec(("temperature_2m", "precipitation"))
    time = calendar("2001-01-01", "2001-01-01", "monthly")
    mean = vectors.mean(axis=0).astype(np.float32)

    def index(temperature, precipitation):
        dynamic = {"temperature_2m": np.array([[temperature]]), "precipitation": np.array([[precipitation]])}
        nothing = np.zeros((1, 1), dtype=bool)
        return float(Applicability(domain, spec)(Inputs(dynamic, {}, nothing, nothing), time)[0, 0])

    near = index(mean[0], mean[1])
    assert index(mean[0], mean[1] + 100) == near  # an input the model does not use cannot make a place strange
    assert index(mean[0] + 100, mean[1]) > 10


def test_a_predictor_that_never_varies_does_not_divide_by_zero():
    vectors = np.column_stack([np.arange(6.0), np.full(6, 5.0)])
    domain = fit_domain(vectors, np.ones(2), np.arange(6) % 2)
    assert np.isfinite(domain.points).all()
    assert domain.std[1] == 1


def test_a_missing_day_leaves_the_month_to_the_others():
    time = pd.date_range("2001-01-30", periods=5)
    missing = np.zeros((5, 2), bool)
    missing[1, 0] = True  # 31 January at the first place
    missing[2:, 1] = True  # all of February at the second
    values = np.array([[1.0, 1.0], [np.nan, 3.0], [5.0, np.nan], [6.0, np.nan], [7.0, np.nan]], np.float32)
    inputs = Inputs({"temperature_2m": values}, {}, missing, np.zeros_like(missing))
    vectors = month_vectors(inputs, InputSpec(("temperature_2m",)), pd.DatetimeIndex(time))
    np.testing.assert_array_equal(vectors[..., 0], [[1.0, 2.0], [6.0, np.nan]])


def test_one_place_alone_gives_no_threshold():
    with pytest.raises(TableError, match="two site groups"):
        fit_domain(np.arange(6.0)[:, None], np.ones(1), np.zeros(6))
