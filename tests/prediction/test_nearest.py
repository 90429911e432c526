"""The search against all distances and against scipy's tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from fluxgrid.prediction.nearest import NearestPoints


def all_distances(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest point by measuring them all."""
    return np.array([np.sqrt(((points - row) ** 2).sum(axis=1).min()) for row in rows])


@st.composite
def searches(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw points that are correlated, doubled or on a grid, and rows near them, on them and far away."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, width = draw(st.sampled_from([1, 2, 31, 32, 33, 70, 300])), draw(st.sampled_from([1, 3, 4, 8, 11, 32, 71]))
    points = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) * np.exp(-np.arange(width) / 3)
    kind = draw(st.sampled_from(["plain", "doubled", "grid", "flat", "offset"]))
    points = {
        "plain": points,
        "doubled": points[rng.integers(0, max(1, count // 3), count)],
        "grid": np.round(points),
        "flat": points * (np.arange(width) % 3 == 0),
        "offset": points * 1e-3 + 1e4,
    }[kind]
    near = points[rng.integers(0, count, 40)] + rng.normal(size=(40, width)) * draw(st.sampled_from([0.0, 1e-9, 0.1]))
    far = rng.normal(size=(5, width)) * 10.0 ** rng.integers(0, 12, (5, 1))
    return points, rng.permutation(np.concatenate([near, far]))


@given(searches())
@settings(max_examples=80, deadline=None)
def test_the_nearest_point_is_found(search):
    points, rows = search
    found = NearestPoints(points).distances(rows)
    np.testing.assert_allclose(found, cKDTree(points).query(rows)[0], rtol=1e-14, atol=0)
    np.testing.assert_allclose(found, all_distances(rows, points), rtol=1e-12, atol=0)


@given(searches())
@settings(max_examples=40, deadline=None)
def test_a_row_gets_the_same_bits_beside_any_others(search):
    points, rows = search
    nearest = NearestPoints(points)
    together = nearest.distances(rows)
    np.testing.assert_array_equal(nearest.distances(rows[::-1])[::-1], together)
    np.testing.assert_array_equal([nearest.distances(row[None])[0] for row in rows], together)


@pytest.mark.parametrize("size", [1e16, 1e25, 1e160])
def test_rows_that_leave_single_precision(size):
    points = np.random.default_rng(0).normal(size=(100, 5))
    rows = np.stack([np.full(5, size), points[3], -np.full(5, size)])
    with np.errstate(over="ignore"):
        expected = all_distances(rows, points)
    np.testing.assert_allclose(NearestPoints(points).distances(rows), expected, rtol=1e-12)


def test_no_rows():
    assert NearestPoints(np.zeros((3, 2))).distances(np.empty((0, 2))).shape == (0,)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="3 numbers have no distance to points of 4"):
        NearestPoints(np.ones((5, 4))).distances(np.ones((2, 3)))
