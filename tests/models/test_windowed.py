"""The networks of CarbonBench: their equations, their sizes, and what a record's cut into windows does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.models import Sizes, model_config, zero_state
from fluxgrid.models.windowed import WindowNetwork

W, S, F, X, DAYS = 10, 4, 3, 5, 23
RECURRENT = ("lstm", "ct_lstm", "gru", "ct_gru")
WINDOWED = (*RECURRENT, "transformer", "patch_transformer", "tam_rl")
ATTENTION = {"attention_heads": 2}
OWN = {"transformer": ATTENTION, "patch_transformer": {**ATTENTION, "patch": 4}, "tam_rl": {"latent": 6}}

# The references run in float64: a few hundred float32 operations of order 1 round to about 1e-6.
ROUNDING = {"rtol": 2e-5, "atol": 3e-6}

_path = Path(__file__).with_name("carbonbench_reference.py")
_spec = importlib.util.spec_from_file_location(_path.stem, _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def build(kind: str, mode: str = "exact", sizes: Sizes | None = None, **options) -> WindowNetwork:
    torch.manual_seed(5)
    own = {"hidden": 8, "window": W, "stride": S, "window_mode": mode, **OWN.get(kind, {}), **options}
    network = model_config(kind, own).build(sizes or Sizes(F, X, 2)).eval()
    with torch.no_grad():
        for name, value in network.named_buffers():
            if "running" in name:  # statistics of a batch norm that has seen something
                value.uniform_(0.5, 1.5)
    return network


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(network) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [*WINDOWED, "mlp"])
def test_a_network_is_its_equations(kind, layers):
    if kind == "mlp":
        torch.manual_seed(5)
        network = model_config(kind, {"hidden": 8}).build(Sizes(F, X, 2)).eval()
    else:
        network = build(kind, layers=layers)
    window, place = numbers(3, W, F), numbers(3, X, seed=2)
    with torch.no_grad():
        if kind == "mlp":
            found = network.run(window, place, torch.zeros(3, 0)).hidden["hidden"][:, 0]
        else:
            found = network.encode(window, place, W)
    for row in range(3):
        expected = getattr(reference, kind)(weights(network), window[row].numpy(), place[row].numpy(), layers)
        np.testing.assert_allclose(found[row], np.broadcast_to(expected, found[row].shape), **ROUNDING)


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("head", ["bounded", "linear"])
def test_exact_is_a_window_for_every_day(kind, head):
    network = build(kind, head=head)
    network.set_scale(torch.tensor([3.0, 2.0]))
    network.set_centre(torch.tensor([1.0, -0.5]))
    record, place = numbers(2, DAYS, F), numbers(2, X, seed=2)
    fluxes, _ = network.predict(record, place, zero_state(network, 2))
    padded = torch.cat([torch.zeros(2, W - 1, F), record], dim=1)
    for day in range(DAYS):
        one = _said(network, padded[:, day : day + W], place)
        torch.testing.assert_close(fluxes[:, day], one[:, -1], **ROUNDING)


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("days", [S, S - 1, 5 * S, DAYS])
def test_stride_is_a_window_every_few_days(kind, days):
    network = build(kind, "stride")
    record, place = numbers(2, days, F), numbers(2, X, seed=2)
    fluxes, _ = network.predict(record, place, zero_state(network, 2))
    padded = torch.cat([torch.zeros(2, W - 1, F), record], dim=1)
    for day in range(0, days, S):
        last = min(day + S, days)  # one past the last day that the window answers for, W - 1 further in `padded`
        one = _said(network, padded[:, last - 1 : last - 1 + W], place)
        torch.testing.assert_close(fluxes[:, day:last], one[:, S - (last - day) :], **ROUNDING)


def _said(network, window, place):
    """Return the fluxes of the last S days of one window."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.BatchNorm1d | torch.nn.LSTM | torch.nn.GRU):
            module.eval()
        if isinstance(module, torch.nn.TransformerEncoderLayer):
            module.eval()
    with torch.no_grad():
        fluxes, _ = network(window, place, torch.zeros(len(window), network.state_size))
    network.eval()
    return fluxes


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("mode", ["exact", "stride"])
def test_years_follow_each_other(kind, mode):
    """A second year stands on the last days of the first; in stride its windows begin anew."""
    network = build(kind, mode)
    record, place = numbers(2, 2 * S * 3, F), numbers(2, X, seed=2)
    whole, end = network.predict(record, place, zero_state(network, 2))
    half = S * 3
    early, between = network.predict(record[:, :half], place, zero_state(network, 2))
    late, last = network.predict(record[:, half:], place, between)
    torch.testing.assert_close(torch.cat([early, late], dim=1), whole, **ROUNDING)
    assert torch.equal(last, end)
    assert torch.equal(network.advance(record[:, :half], place, zero_state(network, 2)), between)
    assert torch.equal(between, record[:, half - W + 1 : half].reshape(2, -1))


@pytest.mark.parametrize("mode", ["exact", "stride", "stream"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_more_days_change_nothing_before(kind, mode):
    network = build(kind, mode)
    record, place = numbers(2, DAYS, F), numbers(2, X, seed=2)
    whole, _ = network.predict(record, place, zero_state(network, 2))
    part, _ = network.predict(record[:, : DAYS - 9], place, zero_state(network, 2))
    first = DAYS - 9 if mode != "stride" else (DAYS - 9) // S * S
    torch.testing.assert_close(part[:, :first], whole[:, :first], **ROUNDING)


@pytest.mark.parametrize("kind", RECURRENT)
def test_modes_agree_where_they_see_the_same(kind):
    """Within the first window, started from nothing, a carried state and a window are one."""
    stream, exact = build(kind, "stream"), build(kind, window=DAYS, stride=1)
    record, place = numbers(2, DAYS, F), numbers(2, X, seed=2)
    carried, _ = stream.predict(record, place, zero_state(stream, 2))
    windows, _ = exact.predict(record, place, zero_state(exact, 2))
    torch.testing.assert_close(windows[:, -1], carried[:, -1], **ROUNDING)
    assert not torch.allclose(windows[:, 0], carried[:, 0], atol=1e-4)  # DAYS - 1 days of zeros before it


SIZES = [
    ("lstm", {"hidden": 256}, 532_483, 540_163, 569_347),
    ("lstm", {"hidden": 128}, 135_171, 139_011, 153_603),
    ("ct_lstm", {"hidden": 128}, 137_155, 139_075, 146_371),
    ("ct_lstm", {"hidden": 256, "layers": 2}, 1_062_787, 1_066_627, 1_081_219),
    ("gru", {"hidden": 128}, 57_987, 69_507, 113_283),
    ("gru", {"hidden": 256, "layers": 2}, 609_027, 632_067, 719_619),
    ("ct_gru", {"hidden": 128}, 104_131, 106_051, 113_347),
    ("transformer", {}, 406_147, 409_987, 424_579),
    ("patch_transformer", {}, 569_645, 585_005, 643_373),
    ("patch_transformer", {"as_published": True}, 569_645, 585_005, 643_373),
]
TAM_RL = [
    ({"layers": 2, "latent": 64}, (292_227, 121_671), (296_067, 125_541), (310_659, 140_247)),
    ({"layers": 1, "latent": 32}, (147_843, 33_223), (151_683, 35_173), (166_275, 42_583)),
]


@pytest.mark.parametrize(("kind", "options", "minimal", "standard", "full"), SIZES)
def test_sizes_are_those_of_the_paper(kind, options, minimal, standard, full):
    for channels, count in ((20, minimal), (50, standard), (164, full)):
        network = model_config(kind, {"head": "linear", **options}).build(Sizes(channels, 51, 3))
        assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("options", "minimal", "standard", "full"), TAM_RL)
def test_sizes_of_tam_rl_are_those_of_the_paper_without_its_idle_decoder(options, minimal, standard, full):
    for channels, (forward, inverse) in ((20, minimal), (50, standard), (164, full)):
        network = model_config("tam_rl", {"head": "linear", **options}).build(Sizes(channels, 51, 3))
        own = sum(parameter.numel() for parameter in network.inverse.parameters())
        assert sum(parameter.numel() for parameter in network.parameters()) - own == forward
        z = options["latent"]  # decoder: z to state, LSTM, state to inputs; and z to a static code
        idle = 2 * (z * z + z) + 2 * (4 * z * z + 4 * z) + (z + 1) * (channels + 51)
        assert own + idle == inverse


@pytest.mark.parametrize(("as_published", "blind"), [(True, {28, 29}), (False, {0, 1})])
def test_days_the_patch_transformer_does_not_read(as_published, blind):
    """As published it is blind to the day it predicts; mended, to the oldest days."""
    network = build("patch_transformer", window=30, stride=15, as_published=as_published)
    window, place = numbers(1, 30, F), numbers(1, X, seed=2)
    before = _said(network, window, place)
    unread = set()
    for day in range(30):
        changed = window.clone()
        changed[:, day] += 1.0
        if torch.equal(_said(network, changed, place), before):
            unread.add(day)
    assert unread == blind


def test_the_patch_transformer_gives_its_days_one_by_one():
    network = build("patch_transformer", head="linear")
    window, place = numbers(2, W, F), numbers(2, X, seed=2)
    code = network.encode(window, place, 1)[:, 0]
    expected = network.head.linear(code).view(2, S, 2)  # days first, then fluxes
    torch.testing.assert_close(_said(network, window, place), expected.detach())


@pytest.mark.parametrize("kind", ["transformer", "patch_transformer", "tam_rl"])
def test_what_carries_no_state_cannot_stream(kind):
    with pytest.raises(ConfigError, match="cannot stream; choose exact or stride"):
        build(kind, "stream")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("lstm", {"window": 10, "stride": 11}, "stride: 11 steps are more than the window of 10"),
        ("transformer", {"hidden": 10, "attention_heads": 4}, "4 do not share a width of 10"),
        (
            "patch_transformer",
            {"window": 10, "stride": 5, "patch": 11},
            "patch: 11 steps are more than",
        ),
        ("tam_rl", {"window_mode": "streams"}, "window_mode"),
    ],
)
def test_options_that_do_not_fit_are_named(kind, options, named):
    with pytest.raises(ConfigError, match=named):
        model_config(kind, options)


def test_the_state_of_an_lstm_is_one_row_for_each_place():
    network = build("ct_lstm", "stream", layers=2)
    assert network.state_size == 2 * 2 * 8
    state = numbers(3, network.state_size)
    assert torch.equal(network.cell.pack(network.cell.unpack(state)), state)


def test_a_linear_head_starts_from_the_mean():
    network = build("ct_lstm", head="linear")
    network.set_scale(torch.tensor([2.0, 3.0]))
    network.set_centre(torch.tensor([5.0, -1.0]))
    raw = numbers(2, 1, 4, 2)
    found = network.finish({"lstm": raw}, {})
    torch.testing.assert_close(found, raw[:, 0] * torch.tensor([2.0, 3.0]) + torch.tensor([5.0, -1.0]))
