from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.training.losses import Moments, balance_loss, flux_loss, with_nee

NAN = float("nan")


def test_nee_is_reco_minus_gpp():
    assert with_nee(torch.tensor([[3.0, 1.0]])).tolist() == [[3.0, 1.0, -2.0]]


def test_an_nee_of_the_heads_own_stays():
    fluxes = torch.tensor([[3.0, 1.0, 5.0]])
    assert with_nee(fluxes) is fluxes


@given(
    st.lists(st.floats(0, 20), min_size=2, max_size=2),
    st.lists(st.floats(0.5, 5), min_size=3, max_size=3),
    st.floats(-4, 4),
)
def test_only_what_does_not_add_up_is_punished(pair, std, residual):
    gpp, reco = pair
    moments = Moments(torch.tensor([4.0, 2.0, -1.0]), torch.tensor(std))
    fluxes = torch.tensor([[gpp, reco, reco - gpp + residual]], dtype=torch.float64)
    expected = (residual / float(moments.std[2])) ** 2
    assert float(balance_loss(fluxes, moments)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_published_balance_punishes_fluxes_that_add_up():
    moments = Moments(torch.tensor([4.0, 3.0, -1.0]), torch.tensor([4.0, 2.0, 2.0]))
    fluxes = torch.tensor([[8.0, 3.0, -5.0]])  # z-scores 1, 0 and -2: -2 is not 0 - 1
    assert float(balance_loss(fluxes, moments)) == 0.0
    assert float(balance_loss(fluxes, moments, as_published=True)) == 1.0


def test_each_flux_is_a_weighted_mean_over_its_own_variance():
    fluxes = torch.tensor([[[1.0, 2.0], [4.0, 2.0]]])  # NEE 1, -2
    targets = torch.tensor([[[2.0, 2.0, 1.0], [1.0, NAN, 0.0]]])
    weights, sigma = torch.tensor([[1.0, 0.5]]), torch.tensor([2.0, 1.0, 4.0])
    gpp = (1.0 * (1 / 2) ** 2 + 0.5 * (3 / 2) ** 2) / 1.5
    nee = (1.0 * 0 + 0.5 * (2 / 4) ** 2) / 1.5
    assert float(flux_loss(fluxes, targets, weights, sigma)) == pytest.approx((gpp + 0 + nee) / 3)


def test_a_flux_nobody_observed_does_not_dilute_the_others():
    targets = torch.tensor([[[3.0, NAN, NAN]]])
    loss = flux_loss(torch.tensor([[[1.0, 9.0]]]), targets, torch.ones(1, 1), torch.ones(3))
    assert float(loss) == 4.0


@pytest.mark.parametrize("hole", [NAN, float("inf"), -float("inf")])
def test_what_was_not_observed_has_no_gradient(hole):
    fluxes = torch.tensor([[[1.0, 2.0], [5.0, 6.0]]], requires_grad=True)
    targets = torch.tensor([[[2.0, 1.0, 0.5], [hole, hole, hole]]])
    flux_loss(fluxes, targets, torch.ones(1, 2), torch.ones(3)).backward()
    assert torch.isfinite(fluxes.grad).all()
    assert fluxes.grad[0, 0].all()
    assert not fluxes.grad[0, 1].any()


def test_weight_zero_is_as_good_as_missing():
    fluxes = torch.tensor([[[1.0, 2.0], [5.0, 6.0]]])
    targets = torch.tensor([[[2.0, 1.0, 0.5], [1.0, 1.0, 1.0]]])
    one = flux_loss(fluxes, targets, torch.tensor([[1.0, 0.0]]), torch.ones(3))
    assert one == flux_loss(fluxes[:, :1], targets[:, :1], torch.ones(1, 1), torch.ones(3))


def test_nothing_observed_is_no_loss_but_can_be_differentiated():
    fluxes = torch.ones(2, 3, 2, requires_grad=True)
    loss = flux_loss(fluxes, torch.full((2, 3, 3), NAN), torch.ones(2, 3), torch.ones(3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not fluxes.grad.any()
