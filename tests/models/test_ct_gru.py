from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.models import Sizes, model_config, zero_state
from fluxgrid.models.heads import FluxHead


def build(dynamic: int, static: int, **options):
    torch.manual_seed(11)
    return model_config("ct_gru", options).build(Sizes(dynamic, static))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(network, dynamic, static, state):
    """Return fluxes and state by the equations of the GRU (Cho et al. 2014, reset after the product), step by step."""
    w = {name: value.detach().numpy().astype(np.float64) for name, value in network.state_dict().items()}
    batch, steps, _ = dynamic.shape
    layers = network.gru.num_layers
    hidden = state.astype(np.float64).reshape(batch, layers, -1).copy()
    fluxes = np.zeros((batch, steps, 2))
    for b in range(batch):
        for t in range(steps):
            x = w["forcing_encoder.weight"] @ dynamic[b, t] + w["forcing_encoder.bias"]
            if "static_encoder.weight" in w:
                x = np.concatenate([x, w["static_encoder.weight"] @ static[b] + w["static_encoder.bias"]])
            for layer in range(layers):
                h = hidden[b, layer]
                from_input = w[f"gru.weight_ih_l{layer}"] @ x + w[f"gru.bias_ih_l{layer}"]
                from_state = w[f"gru.weight_hh_l{layer}"] @ h + w[f"gru.bias_hh_l{layer}"]
                (xr, xz, xn), (hr, hz, hn) = np.split(from_input, 3), np.split(from_state, 3)
                reset, update = sigmoid(xr + hr), sigmoid(xz + hz)
                candidate = np.tanh(xn + reset * hn)
                x = hidden[b, layer] = (1 - update) * candidate + update * h
            fluxes[b, t] = w["head.scale"] * np.log1p(np.exp(w["head.linear.weight"] @ x + w["head.linear.bias"]))
    return fluxes, hidden.reshape(batch, -1)


@pytest.mark.parametrize(("static", "layers"), [(3, 1), (3, 2), (0, 1)])
def test_it_is_the_gru_of_the_book(static, layers):
    rng = np.random.default_rng(2)
    network = build(4, static, hidden=6, layers=layers)
    network.head.set_scale(torch.tensor([2.0, 0.5]))
    shapes = (3, 7, 4), (3, static), (3, 6 * layers)
    dynamic, place, state = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    fluxes, after = network.predict(*map(torch.from_numpy, (dynamic, place, state)))
    expected, expected_state = reference(network, dynamic, place, state)
    # the reference runs in float64; a few hundred float32 operations of order 1 round to about 1e-6
    np.testing.assert_allclose(fluxes, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(after, expected_state, rtol=1e-5, atol=2e-6)


def test_number_of_parameters_is_that_of_the_paper():
    """CarbonBench counts 104,131 with F=20, S=51, H=128 and three outputs; an output less is 128 weights and a bias."""
    network = build(20, 51, hidden=128)
    assert sum(parameter.numel() for parameter in network.parameters()) == 104_131 - 129


def test_dropout_acts_in_training_only():
    network = build(4, 3, hidden=6, dropout=0.5)
    inputs = torch.ones(2, 5, 4), torch.ones(2, 3), zero_state(network, 2)
    network.train()
    assert not torch.equal(network(*inputs)[0], network(*inputs)[0])
    network.eval()
    assert torch.equal(network(*inputs)[0], network(*inputs)[0])


def test_options_out_of_range_are_all_named():
    with pytest.raises(ConfigError) as caught:
        model_config("ct_gru", {"hidden": 7, "layers": 0, "dropout": 1.0})
    for option in ("hidden", "layers", "dropout"):
        assert f"- {option}:" in str(caught.value)


def test_head_scales_each_flux():
    head = FluxHead(4, 2)
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    plain = head(hidden)
    head.set_scale(torch.tensor([3.0, 0.25]))
    torch.testing.assert_close(head(hidden), plain * torch.tensor([3.0, 0.25]))
