"""Blends of calibrated places: a slow reference, limits, symmetries and continuity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.geo.sphere import EARTH_RADIUS_KM
from fluxgrid.models.places import Bandwidth, CalibratedPlaces, climate_scale
from fluxgrid.prediction import blend as module
from fluxgrid.prediction.blend import Blend, global_blend, neighbourhood_blend, state_blend

ANYWHERE = st.builds(
    Bandwidth,
    ground_km=st.floats(1.0, 1e5),
    climate=st.floats(0.05, 1e3),
    shrink=st.floats(1e-6, 1e3),
    most=st.integers(1, 15),
)


def make_places(n: int = 11, seed: int = 0, bandwidth: Bandwidth | None = None, variables: int = 3) -> CalibratedPlaces:
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(36, 48, n), rng.uniform(-100, -82, n)
    climate = np.column_stack([25 - 0.4 * latitude, 0.1 * (longitude + 120), rng.normal(180, 9, n)])[:, :variables]
    return CalibratedPlaces(
        tuple(f"p{i}" for i in range(n)),
        latitude,
        longitude,
        climate,
        ("temperature_2m", "precipitation", "shortwave")[:variables],
        climate_scale(climate),
        ("",) * n,
        bandwidth or Bandwidth(250.0, 0.8, 0.3, 4),
    )


def make_cells(n: int = 23, seed: int = 1, variables: int = 3):
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(36, 48, n), rng.uniform(-100, -82, n)
    climate = np.column_stack([25 - 0.4 * latitude, 0.1 * (longitude + 120), rng.normal(180, 9, n)])[:, :variables]
    return latitude, longitude, climate


def dense(blend: Blend, n_places: int) -> np.ndarray:
    out = np.zeros((len(blend), n_places))
    for row, (places, weights) in enumerate(zip(blend.places, blend.weights, strict=True)):
        for place, weight in zip(places, weights, strict=True):
            if place >= 0:
                out[row, place] += weight
    return out


def reference(latitude, longitude, climate, places: CalibratedPlaces) -> np.ndarray:
    """Weights of one cell, by the equations of the docstring, without any short cut."""
    h = places.bandwidth
    raw = []
    for p in range(len(places)):
        a, b = np.radians(latitude), np.radians(places.latitude[p])
        turn = np.radians(longitude - places.longitude[p])
        half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(turn / 2) ** 2
        ground = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(half))
        apart = [(c - q) / s for c, q, s in zip(climate, places.climate[p], places.climate_scale, strict=True)]
        known = [d for d in apart if np.isfinite(d)]
        far = np.sqrt(sum(d**2 for d in known) / len(known)) if known else 0.0
        raw.append(np.exp(-(ground**2) / (2 * h.ground_km**2) - far**2 / (2 * h.climate**2)))
    falling = sorted(raw, reverse=True)
    following = falling[h.most] if h.most < len(raw) else 0.0
    kept = [max(r - following, 0.0) for r in raw]
    return np.array([v / (h.shrink + sum(kept)) for v in kept])


@given(ANYWHERE, st.integers(1, 9), st.integers(0, 99))
def test_it_is_the_equation_cell_by_cell(bandwidth, n, seed):
    places = make_places(n, seed, bandwidth)
    latitude, longitude, climate = make_cells(7, seed + 1)
    climate[2] = np.nan
    climate[4, 1] = np.nan
    found = neighbourhood_blend(latitude, longitude, climate, places)
    for row, cell in enumerate(zip(latitude, longitude, climate, strict=True)):
        # weights are float32; what the subtraction cancels is lost in float64 already
        np.testing.assert_allclose(
            dense(found, n)[row], reference(*cell, places), rtol=1e-6, atol=1e-9 / bandwidth.shrink
        )


@given(ANYWHERE, st.integers(1, 12), st.integers(0, 99))
def test_weights_are_shares(bandwidth, n, seed):
    blend = neighbourhood_blend(*make_cells(9, seed), make_places(n, seed, bandwidth))
    assert blend.places.shape == (9, min(n, bandwidth.most))
    assert blend.places.dtype == np.int16
    assert blend.weights.dtype == np.float32
    assert ((blend.weights >= 0) & (blend.weights <= 1)).all()
    # a sum of n rounded float32 numbers below 1
    assert (blend.weights.sum(axis=1, dtype=np.float64) <= 1 + n * 2.0**-24).all()
    assert (np.diff(blend.weights, axis=1) <= 0).all()
    np.testing.assert_array_equal(blend.places < 0, blend.weights == 0)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in blend.places)


def test_a_cell_does_not_depend_on_the_others(monkeypatch):
    places = make_places(13)
    latitude, longitude, climate = make_cells(41)
    whole = neighbourhood_blend(latitude, longitude, climate, places)
    order = np.random.default_rng(2).permutation(41)
    turned = neighbourhood_blend(latitude[order], longitude[order], climate[order], places)
    np.testing.assert_array_equal(turned.weights, whole.weights[order])
    np.testing.assert_array_equal(turned.places, whole.places[order])
    for row in range(41):
        one = neighbourhood_blend(latitude[row : row + 1], longitude[row : row + 1], climate[row : row + 1], places)
        np.testing.assert_array_equal(one.weights[0], whole.weights[row])
    monkeypatch.setattr(module, "_PAIRS", 13 * 5)
    np.testing.assert_array_equal(neighbourhood_blend(latitude, longitude, climate, places).weights, whole.weights)


def test_the_order_of_places_only_names_them():
    places, cells = make_places(11), make_cells()
    order = np.random.default_rng(3).permutation(11)
    arrays = {name: getattr(places, name)[order] for name in ("latitude", "longitude", "climate")}
    turned = neighbourhood_blend(*cells, replace(places, names=tuple(places.names[i] for i in order), **arrays))
    # the same raw weights are sorted before they are summed, so the bits are the same
    np.testing.assert_array_equal(dense(turned, 11), dense(neighbourhood_blend(*cells, places), 11)[:, order])


def test_far_from_all_places_the_global_model_is_all():
    places = make_places(5)
    blend = neighbourhood_blend(np.array([-35.0]), np.array([147.0]), places.climate[:1], places)
    np.testing.assert_array_equal(blend.places, -1)
    assert blend.global_weight[0] == 1
    assert blend.strongest[0] == -1
    assert blend.strongest_weight[0] == 0
    # another climate is as far as another continent
    away = neighbourhood_blend(places.latitude[:1], places.longitude[:1], places.climate[:1] + 1e3, places)
    assert away.global_weight[0] == 1


def test_a_place_alone_speaks_for_its_own_cell():
    places = make_places(1, bandwidth=Bandwidth(100.0, 1.0, 1e-9, 3))
    blend = neighbourhood_blend(places.latitude, places.longitude, places.climate, places)
    assert blend.weights[0, 0] == pytest.approx(1.0, abs=1e-8)
    half = replace(places, bandwidth=Bandwidth(100.0, 1.0, 1.0, 3))
    assert neighbourhood_blend(places.latitude, places.longitude, places.climate, half).weights[0, 0] == 0.5


def test_wide_bandwidths_make_all_places_alike():
    places = make_places(6, bandwidth=Bandwidth(1e9, 1e9, 2.0, 6))
    blend = neighbourhood_blend(*make_cells(), places)
    np.testing.assert_allclose(blend.weights, 1 / (6 + 2.0), rtol=1e-6)
    np.testing.assert_allclose(blend.global_weight, 2 / (6 + 2.0), rtol=1e-6)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_weights_do_not_jump_along_a_way(most):
    bandwidth = Bandwidth(150.0, 1.0, 0.1, most)
    places = make_places(20, 5, bandwidth)
    steps = 4001
    latitude, longitude = np.linspace(37, 47, steps), np.linspace(-99, -83, steps)
    climate = np.column_stack([25 - 0.4 * latitude, 0.1 * (longitude + 120), 180 + 9 * np.sin(latitude)])
    weights = dense(neighbourhood_blend(latitude, longitude, climate, places), 20)
    assert (weights > 0).any(axis=0).sum() > most, "places must come and go on the way"
    # one step moves 0.4 km in 150 and 0.007 in climate: raw weights change by < 0.01, weights by twice that over shrink
    assert np.abs(np.diff(weights, axis=0)).max() < 0.02


def test_unknown_climate_leaves_the_ground():
    places = make_places(6)
    latitude, longitude, climate = make_cells(4)
    blind = neighbourhood_blend(latitude, longitude, np.full_like(climate, np.nan), places)
    ground = replace(places, bandwidth=replace(places.bandwidth, climate=1e12))
    np.testing.assert_array_equal(blind.weights, neighbourhood_blend(latitude, longitude, climate, ground).weights)


def test_places_without_climate_are_told_apart_by_ground():
    places = make_places(4, variables=0)
    blend = neighbourhood_blend(places.latitude, places.longitude, np.empty((4, 0)), places)
    np.testing.assert_array_equal(blend.strongest, np.arange(4))


def test_places_that_tie_at_the_last_slot_are_both_left_out():
    places = make_places(3, bandwidth=Bandwidth(200.0, 1.0, 0.5, 2))
    same = replace(places, latitude=np.full(3, 42.0), longitude=np.full(3, -93.0), climate=np.ones((3, 3)))
    blend = neighbourhood_blend(np.array([42.0]), np.array([-93.0]), np.ones((1, 3)), same)
    np.testing.assert_array_equal(blend.places, -1)


def test_no_bandwidth_and_a_wrong_climate_are_refused():
    places = make_places(3)
    with pytest.raises(ValueError, match="no bandwidth"):
        neighbourhood_blend(*make_cells(), replace(places, bandwidth=None))
    with pytest.raises(ValueError, match=r"\(23, 2\), expected \(23, 3\)"):
        neighbourhood_blend(*make_cells(variables=2), places)


def test_each_cell_takes_the_head_of_its_state():
    blend = state_blend(np.array([4, -1, 0], np.int16))
    np.testing.assert_array_equal(blend.places, [[4], [-1], [0]])
    np.testing.assert_array_equal(blend.weights, [[1], [0], [1]])
    np.testing.assert_array_equal(blend.strongest, [4, -1, 0])
    np.testing.assert_array_equal(blend.global_weight, [0, 1, 0])


def test_cells_are_selected_and_padded():
    blend = neighbourhood_blend(*make_cells(5), make_places())
    some = blend.select(np.array([3, 0])).pad(4)
    np.testing.assert_array_equal(some.places[:2], blend.places[[3, 0]])
    np.testing.assert_array_equal(some.weights[:2], blend.weights[[3, 0]])
    np.testing.assert_array_equal(some.strongest[2:], -1)
    np.testing.assert_array_equal(some.global_weight[2:], 1)
    assert len(blend.select(slice(1, 3))) == 2
    with pytest.raises(ValueError, match="5 cells cannot be padded to 4"):
        blend.pad(4)
    assert (global_blend(3).global_weight == 1).all()


def test_the_strongest_is_the_heaviest_wherever_it_stands():
    blend = Blend(np.array([[7, 2, -1], [1, 5, 3]]), np.array([[0.1, 0.6, 0.0], [0.25, 0.25, 0.5]]))
    np.testing.assert_array_equal(blend.strongest, [2, 3])
    np.testing.assert_allclose(blend.strongest_weight, [0.6, 0.5], rtol=1e-7)
    np.testing.assert_allclose(blend.global_weight, [0.3, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("places", "weights", "text"),
    [
        ([[0, 1]], [[0.7, 0.6]], "sum to 1"),
        ([[0, 1]], [[-0.1, 0.6]], "0 or more"),
        ([[0, 1]], [[np.nan, 0.6]], "not NaN"),
        ([[0, -1]], [[0.1, 0.6]], "empty slot"),
        ([[0, 1]], [[0.1]], "one shape"),
    ],
)
def test_wrong_weights_are_refused(places, weights, text):
    with pytest.raises(ValueError, match=text):
        Blend(np.array(places), np.array(weights))
