"""Loss terms by hand, and where they give no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.training.kgml.losses import balance, correlation, determination, falling, paced, yield_bounds

numbers = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=9)


def test_samples_above_the_threshold_wait():
    errors = torch.tensor([0.2, 0.9, 1.0, 4.0], requires_grad=True)
    loss = paced(errors, 1.0)
    assert float(loss.detach()) == pytest.approx((0.2 + 0.9) / 4)
    loss.backward()
    assert errors.grad.tolist() == [0.25, 0.25, 0.0, 0.0]
    assert float(paced(errors, float("inf")).detach()) == pytest.approx(6.1 / 4)


@given(numbers, numbers, numbers)
def test_a_closed_balance_costs_nothing(gpp, ra, rh):
    n = min(map(len, (gpp, ra, rh)))
    gpp, ra, rh = (torch.tensor(values[:n]) for values in (gpp, ra, rh))
    # sums of three float32 of up to 50
    assert float(balance(gpp, ra, rh, -(gpp + ra + rh), 0.0)) < 2e-5


def test_an_open_balance_costs_what_is_open_beyond_the_tolerance():
    gpp, ra, rh = torch.tensor([5.0, 5.0, 5.0]), torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([-1.0, -1.0, -1.0])
    nee = torch.tensor([-2.0, -1.0, -3.0])  # closed, 1 too high, 1 too low; 10 % of 3 are tolerated
    assert float(balance(gpp, ra, rh, nee, 0.1)) == pytest.approx((0.0 + 0.7 + 0.7) / 3)
    assert float(balance(gpp, ra, rh, nee, 0.1, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(0.7 / 3)


@given(numbers)
def test_only_falling_parts_of_a_curve_cost(values):
    curve, grid = np.array(values, np.float32), np.linspace(-1, 2, len(values), dtype=np.float32)
    slopes = np.diff(curve) / np.diff(grid)
    expected = -slopes[slopes < 0].sum()
    assert float(falling(torch.tensor(curve), torch.tensor(grid))) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert float(falling(torch.tensor(np.sort(curve)), torch.tensor(grid))) == 0.0


def test_yields_stay_between_nothing_and_half_of_what_grew():
    gpp = torch.tensor([1000.0, 1000.0, 1000.0, 1000.0])
    assert float(yield_bounds(torch.tensor([0.0, 300.0, 500.0, 200.0]), gpp)) == 0.0
    assert float(yield_bounds(torch.tensor([600.0, 300.0, -40.0, 500.0]), gpp)) == pytest.approx(100 / 4 + 40 / 4)


@given(st.integers(0, 99))
def test_correlation_and_determination_are_those_of_the_book(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 12)).astype(np.float32)
    x, y = torch.tensor(a), torch.tensor(b)
    assert float(correlation(x, y)) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
    assert float(correlation(x, 3 * x + 7)) == pytest.approx(1.0, abs=1e-5)
    assert float(correlation(x, -x)) == pytest.approx(-1.0, abs=1e-5)
    expected = 1 - ((a - b) ** 2).sum() / ((b - b.mean()) ** 2).sum()
    assert float(determination(x, y)) == pytest.approx(expected, rel=1e-4)
    assert float(determination(x, x)) == 1.0


def test_a_flat_curve_has_a_finite_gradient():
    flat = torch.ones(5, requires_grad=True)
    (correlation(flat, torch.arange(5.0)) + determination(flat, torch.ones(5))).backward()
    assert torch.isfinite(flat.grad).all()
