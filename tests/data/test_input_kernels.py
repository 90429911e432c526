"""The compiled passes against plain numpy, one variable at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxgrid.data.input_kernels import Rows, mark_unknown, mean_rows, scale_rows, screen

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 19))  # F, T, n
VALUES = st.one_of(
    st.floats(-30, 30, width=32), st.sampled_from([np.nan, np.inf, -np.inf, -9999.0, 20.0, -20.0, 3e38, -0.0])
)


@st.composite
def variables(draw, elements=VALUES) -> np.ndarray:
    shape = draw(SHAPES)
    # a few values in many places: whole variables are to be found among them
    return np.stack(
        [draw(arrays(np.float32, shape[1:], elements=elements, fill=st.just(1.5))) for _ in range(shape[0])]
    )


@given(variables(), st.sampled_from([(-20.0, 20.0), (-np.inf, np.inf), (0.1, 20.0)]))
@settings(max_examples=60, deadline=None)
def test_screening(values, limits):
    low, high = (np.full(len(values), limit, np.float32) for limit in limits)
    whole, credible = screen(Rows(list(values)), low, high)
    inside = (values >= limits[0]) & (values <= limits[1])
    np.testing.assert_array_equal(
        whole, [(part & np.isfinite(v)).all() for part, v in zip(inside, values, strict=True)]
    )
    np.testing.assert_array_equal(
        credible, [(part | np.isnan(v)).all() for part, v in zip(inside, values, strict=True)]
    )


@given(variables())
@settings(max_examples=40, deadline=None)
def test_what_is_not_finite_is_marked_beside_what_was(values):
    missing = values[0] == 1.5
    expected = missing | ~np.isfinite(values).all(axis=0)
    mark_unknown(Rows(list(values)), missing)
    np.testing.assert_array_equal(missing, expected)


@given(variables(), st.sampled_from([1.0, 1e-9, 3.7]))
@settings(max_examples=60, deadline=None)
def test_scaling_is_that_of_numpy_bit_for_bit(values, spread):
    mean = np.linspace(-3, 5, len(values)).astype(np.float32)
    std = np.full(len(values), spread, np.float32)
    found = scale_rows(Rows(list(values)), mean, std)
    with np.errstate(all="ignore"):
        channels = [(v - m) / s for v, m, s in zip(values, mean, std, strict=True)]
    expected = np.nan_to_num(np.stack(channels, axis=-1))
    assert found.dtype == expected.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.tobytes() == expected.tobytes()


@given(variables(st.floats(-1e6, 1e6, width=32)), st.data())
@settings(max_examples=60, deadline=None)
def test_means_are_added_up_in_the_order_of_time(values, data):
    _, steps, places = values.shape
    starts = np.array([0, *sorted(data.draw(st.sets(st.integers(1, steps), max_size=3)) - {steps})])
    missing = data.draw(arrays(bool, (steps, places)))
    values[:, missing] = data.draw(st.sampled_from([np.nan, 5.0]))
    out = np.full((len(starts), places, len(values) + 1), 7.0)
    mean_rows(Rows(list(values)), starts, missing, out)
    for f, m, b in np.ndindex(len(values), len(starts), places):
        rows = range(starts[m], [*starts[1:], steps][m])
        seen = [float(values[f, t, b]) for t in rows if not missing[t, b]]
        total = 0.0
        for value in seen:
            total += value
        np.testing.assert_equal(out[m, b, f], total / len(seen) if seen else np.nan)
    assert (out[..., -1] == 7.0).all()


def test_variables_that_do_not_lie_step_by_step_are_copied():
    values = np.arange(24.0).reshape(6, 4)
    rows = [values.T, np.asfortranarray(values.T), values.T.astype(np.float32)]  # float64, columns first
    scaled = scale_rows(Rows(rows), np.zeros(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_array_equal(scaled, np.repeat(values.T[..., None], 3, axis=2))


def test_variables_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(steps, places\), got \[\(2, 3\), \(3, 2\)\]"):
        Rows([np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)])


def test_a_mask_or_a_period_that_does_not_fit_is_refused():
    rows, out = Rows([np.zeros((2, 3), np.float32)]), np.empty((1, 3, 1))
    with pytest.raises(ValueError, match=r"do not go with a mask of \(2, 2\)"):
        mark_unknown(rows, np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="and a step 2"):
        mean_rows(rows, np.array([0, 2]), np.zeros((2, 3), bool), out)
