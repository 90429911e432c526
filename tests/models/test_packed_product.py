"""Products of packed weights, as compiled kernels call them: right, and a row by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.models import packed_product
from fluxgrid.models.packed_product import pack
from fluxgrid.models.recurrent_kernels import multiply_rows

# where torch has MKL, their absence is a fault: maps would be made by the slow road, and nobody would know
pytestmark = pytest.mark.skipif(
    not (packed_product.AVAILABLE or torch.backends.mkl.is_available()),
    reason="torch is built without MKL here; test_day_rows and test_recurrent hold the road that is taken then",
)


def product(rows, weights, kept=0.0, out=None):
    found = np.full((len(rows), weights.shape[1]), np.nan, np.float32) if out is None else out.copy()
    multiply_rows(rows, pack([weights], len(rows))[0], np.float32(kept), found, found.shape[1])
    return found


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 300), k=st.integers(1, 150), n=st.integers(1, 400), seed=st.integers(0, 9))
def test_the_product_is_that_of_doubles(m, k, n, seed):
    rows, weights = numbers(seed, m, k), numbers(seed + 1, k, n)
    expected = rows.astype(np.float64) @ weights
    scale = np.abs(rows).astype(np.float64) @ np.abs(weights)
    assert np.all(np.abs(product(rows, weights) - expected) <= 1e-6 * scale)  # k roundings of 6e-8
    before = numbers(seed + 2, m, n)
    added = product(rows, weights, 1.0, before)
    assert np.all(np.abs(added - expected - before) <= 1e-6 * (scale + np.abs(before)))


@pytest.mark.parametrize("k", [20, 64, 128, 256])
def test_a_row_is_the_same_wherever_it_stands_and_whatever_the_others_hold(k):
    rows, weights = numbers(0, 256, k), numbers(1, k, 3 * k)
    whole = product(rows, weights)
    order = np.random.default_rng(2).permutation(256)
    assert np.array_equal(product(np.ascontiguousarray(rows[order]), weights), whole[order])
    rows[128:] = np.nan
    assert np.array_equal(product(rows, weights)[:128], whole[:128])


def test_what_lies_in_the_room_of_packed_weights_does_not_matter(monkeypatch):
    """The library asks for more room than it fills."""
    rows = numbers(0, 256, 130)
    weights = [numbers(1, 130, 41), numbers(2, 130, 16), numbers(3, 130, 1)]
    expected = [product(rows, each) for each in weights]
    monkeypatch.setattr(packed_product.np, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    packed = pack(weights, 256)
    monkeypatch.undo()
    for own, wanted in zip(packed, expected, strict=True):
        found = np.empty_like(wanted)
        multiply_rows(rows, own, np.float32(0), found, found.shape[1])
        assert np.array_equal(found, wanted)
