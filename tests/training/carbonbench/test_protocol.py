"""The published loss by hand, and that its training learns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.models import Sizes, model_config
from fluxgrid.training.carbonbench.protocol import Protocol, Trainset, loss_of, predict, train, validation_loss
from fluxgrid.training.carbonbench.samples import Moments, Samples

MOMENTS = Moments(np.zeros(3), np.ones(3), np.array([4.0, 3.0, -1.0]), np.array([5.0, 2.0, 3.0]))
WINDOW = {"hidden": 8, "window": 6, "stride": 3, "window_mode": "exact", "head": "linear", "dropout": 0.0}
OWN = {
    "transformer": {"attention_heads": 2},
    "patch_transformer": {"attention_heads": 2, "patch": 2},
    "tam_rl": {"latent": 4},
}


def by_hand(z, truth, weight, balance, physical):
    """Return the loss number by number."""
    total = 0.0
    for b in range(z.shape[0]):
        for t in range(z.shape[1]):
            square = sum((z[b, t, k] - truth[b, t, k]) ** 2 for k in range(3)) / 3
            gpp, reco, nee = z[b, t] * MOMENTS.y_std + MOMENTS.y_mean if physical else z[b, t]
            gap = (nee - (reco - gpp)) / (MOMENTS.y_std[2] if physical else 1.0)
            total += square * weight[b, t] + balance * gap**2
    return total / (z.shape[0] * z.shape[1])


@pytest.mark.parametrize("physical", [False, True])
def test_the_loss_is_the_published_one(physical):
    rng = np.random.default_rng(3)
    z, truth, weight = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 3)), rng.uniform(size=(4, 5))
    found = loss_of(*map(torch.from_numpy, (z, truth, weight)), Protocol(physical=physical), MOMENTS)
    assert float(found) == pytest.approx(by_hand(z, truth, weight, 0.1, physical), rel=1e-12)


def test_the_published_balance_punishes_the_truth_and_the_physical_one_does_not():
    """Fluxes that close: their z-scores do not."""
    gpp, reco = torch.tensor([2.0, 9.0]), torch.tensor([4.0, 1.0])
    fluxes = torch.stack([gpp, reco, reco - gpp], dim=-1)[None].double()
    z = (fluxes - torch.from_numpy(MOMENTS.y_mean)) / torch.from_numpy(MOMENTS.y_std)
    assert float(loss_of(z, z, None, Protocol(physical=True), MOMENTS)) == pytest.approx(0.0, abs=1e-12)
    assert float(loss_of(z, z, None, Protocol(), MOMENTS)) > 0.005


@pytest.fixture
def data() -> Trainset:
    """Return windows whose fluxes are sums of their inputs."""
    rng = np.random.default_rng(0)

    def draw(count):
        x = rng.normal(size=(count, 6, 3)).astype(np.float32)
        y = np.stack([x[:, -3:, 0], x[:, -3:, 1], x[:, -3:, 1] - x[:, -3:, 0]], axis=-1)
        quality, site = np.ones((count, 3), np.float32), rng.integers(0, 4, count)
        return Samples(x, y, quality, site, pd.date_range("2001-01-01", periods=count))

    return Trainset(draw(160), draw(40), torch.eye(4), torch.ones(4), MOMENTS)


@pytest.mark.parametrize("kind", ["lstm", "ct_lstm", "gru", "ct_gru", "transformer", "patch_transformer", "tam_rl"])
def test_training_learns_and_repeats_itself(data, kind):
    protocol = Protocol(epochs=10, batch=16, learning_rate=1e-2)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        network = model_config(kind, {**WINDOW, **OWN.get(kind, {})}).build(Sizes(3, 4, 3))
        before = validation_loss(network, data, protocol)
        losses = train(network, data, protocol)
        assert min(losses) < 0.7 * before
        found.append(predict(network, data.validation, data.places, MOMENTS))
    assert np.array_equal(*found)
    assert found[0].shape == (40, 3)


def test_the_best_weights_are_kept(data):
    torch.manual_seed(1)
    network = model_config("ct_lstm", WINDOW).build(Sizes(3, 4, 3))
    protocol = Protocol(epochs=10, batch=16, learning_rate=0.3, check_every=1)
    losses = train(network, data, protocol)
    assert validation_loss(network, data, protocol) == pytest.approx(min(losses), rel=1e-6)


def test_tam_rl_takes_over_the_recurrent_weights_of_its_first_phase(data, monkeypatch):
    network = model_config("tam_rl", {**WINDOW, "latent": 4}).build(Sizes(3, 4, 3))
    lines: list[str] = []
    train(network, data, Protocol(epochs=2, batch=32), lines.append)
    assert [line.split(",")[0] for line in lines] == ["phase 1", "phase 2"]
