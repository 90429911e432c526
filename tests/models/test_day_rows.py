"""Windows that share their days say what they say one by one, in float64 too, and no row touches another."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fluxgrid.models import Sizes, model_config, packed_product, recurrent, windowed, zero_state
from fluxgrid.models.cell_layers import input_side, run_layers
from fluxgrid.models.day_rows import DayRows
from fluxgrid.models.recurrent import GRU, LSTM
from fluxgrid.models.windowed import WindowNetwork

W, S, F, X, DAYS = 7, 3, 4, 5, 17
SMALL = {"hidden": 16, "window": W, "stride": S, "window_mode": "exact", "head": "linear"}
CASES = {
    "lstm": {},
    "lstm deep": {"layers": 3},
    "ct_lstm": {"layers": 2},
    "gru": {"layers": 2},
    "ct_gru": {},
    "ct_gru wide": {"hidden": 4},  # an encoder so narrow that folding it would make more work
    "transformer": {"layers": 3},
    "transformer flat": {"layers": 1},
    "patch_transformer": {"patch": 3},
    "patch_transformer published": {"patch": 3, "as_published": True},
    "tam_rl": {"latent": 6, "layers": 2},
    "tam_rl record": {"latent": 6, "code_from": "record"},
}
SCALE = 2e-6
"""Of the largest state: some hundred float32 operations, and gates good to 4e-7."""

cases = pytest.mark.parametrize("case", CASES)
modes = pytest.mark.parametrize("mode", ["exact", "stride"])


def build(case: str, mode: str = "exact", forcings: int = F, places: int = X) -> WindowNetwork:
    torch.manual_seed(4)
    network = model_config(case.split()[0], {**SMALL, **CASES[case], "window_mode": mode})
    network = network.build(Sizes(forcings, places, 2)).eval()
    with torch.no_grad():
        for name, value in network.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return network


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_double(network: WindowNetwork) -> WindowNetwork:
    """Return the network in float64, its cells torch's: no window shares anything there."""
    double = copy.deepcopy(network).double()
    assert not windowed.shares_days(numbers(1).double())
    return double


def said(network: WindowNetwork, record: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    state = torch.zeros(len(record), network.state_size, dtype=record.dtype)
    return network.predict(record, place, state)[0]


@pytest.fixture
def cut_out(monkeypatch):
    """Return a function that predicts with windows cut out, one batch after the other, and torch's own kernels."""

    def run(network, record, place):
        with monkeypatch.context() as patch:
            for module in ("windowed", "recurrent_network", "tam_rl"):
                patch.setattr(f"fluxgrid.models.{module}.shares_days", lambda *_: False)
            return said(network, record, place)

    return run


@cases
@modes
@pytest.mark.parametrize("places", [1, 3, 130, 256])
def test_shared_days_are_windows_in_double_precision(case, mode, places, cut_out):
    network = build(case, mode)
    record, place = numbers(places, DAYS, F), numbers(places, X, seed=2)
    found = said(network, record, place)
    some = slice(None) if places < 100 else slice(127, 130)
    expected = said(in_double(network), record[some].double(), place[some].double())
    worst = float((found[some] - expected).abs().max() / expected.abs().max())
    assert worst < SCALE
    plain = cut_out(network, record[some], place[some])
    assert not np.array_equal(plain.numpy(), found[some].numpy()) or case == "gru" or places == 1
    assert float((plain - expected).abs().max() / expected.abs().max()) < 2 * SCALE


@pytest.mark.parametrize("case", ["lstm", "ct_lstm", "ct_gru", "ct_gru wide", "gru"])
def test_a_carried_state_with_folded_encoders_is_torchs_in_double_precision(case, cut_out):
    network = build(case, "stream")
    record, place = numbers(9, 40, F), numbers(9, X, seed=2)
    state = 0.5 * numbers(9, network.state_size, seed=3)
    (found, after), (expected, end) = (
        module.predict(*(part.to(dtype) for part in (record, place, state)))
        for module, dtype in ((network, torch.float32), (in_double(network), torch.float64))
    )
    for one, other in ((found, expected), (after, end)):
        assert float((one - other).abs().max() / other.abs().max()) < SCALE


@pytest.mark.parametrize("case", CASES)
def test_networks_without_static_properties_or_with_many_forcings(case):
    for forcings, places in ((3, 0), (60, 2)):
        network = build(case, "stride", forcings, places)
        record, place = numbers(2, DAYS, forcings), numbers(2, places, seed=2)
        found, expected = said(network, record, place), said(in_double(network), record.double(), place.double())
        assert float((found - expected).abs().max() / expected.abs().max()) < SCALE


@cases
@modes
def test_a_place_does_not_hang_on_the_others_nor_a_run_on_the_one_before(case, mode):
    """Bit for bit, whatever stands beside it, and twenty times over."""
    network = build(case, mode)
    record, place = numbers(30, DAYS, F), numbers(30, X, seed=2)
    other, others = numbers(30, DAYS, F, seed=8), numbers(30, X, seed=9)
    other[20:] = np.nan
    own = [0, 5, 17]
    other[own], others[own] = record[own], place[own]
    first = said(network, record, place)
    assert torch.equal(said(network, other, others)[own], first[own])
    for _ in range(20):
        assert torch.equal(said(network, record, place), first)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case != "tam_rl record"]
)  # whose code is of the whole record
def test_a_record_may_end_early(case):
    """Days after it are padding: those before are the same bits."""
    network = build(case)
    record, place = numbers(130, DAYS, F), numbers(130, X, seed=2)
    assert torch.equal(said(network, record[:, :11], place), said(network, record, place)[:, :11])


@settings(max_examples=25, deadline=None)
@given(
    places=st.sampled_from([1, 2, 5, 130, 300]),
    window=st.integers(2, 9),
    gaps=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    held=st.sampled_from([1, 4096, 2**23]),
)
def test_every_window_reads_its_own_days(places, window, gaps, held):
    """Of any starts no further apart than a window, and where the table is moved along and where it is not."""
    starts = np.minimum.accumulate(np.cumsum(np.minimum(gaps, window))[::-1])[::-1].tolist()
    days = starts[-1] + window
    record = torch.arange(places * days, dtype=torch.float32).view(places, days, 1)
    read = DayRows(record, starts, window)
    found = torch.empty(len(read), window)

    def fill(out, rows, where):
        out.copy_(rows + 0 * where[:, None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluxgrid.models.day_rows._HELD", held)
        for table, group in read.groups(1, fill):
            rows = torch.from_numpy(group.first[:, None] + np.arange(window) * places)
            some = found[group.wanted]
            some.copy_(table[rows.flatten(), 0].view(-1, window)[: len(some)])
    expected = torch.stack([record[:, start : start + window, 0] for start in starts]).flatten(0, 1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("batch", [5, 300])
def test_gates_with_an_offset_for_each_place_are_torchs(kind, layers, batch):
    torch.manual_seed(1)
    cell = kind(F, 13, layers)
    reference = (nn.LSTM if kind is LSTM else nn.GRU)(F, 13, layers, batch_first=True)
    reference.load_state_dict(cell.state_dict())
    reference.double()
    x, start = numbers(batch, 11, F), (numbers(layers, batch, 13, seed=2), numbers(layers, batch, 13, seed=3))
    weight, bias = input_side(cell)
    change = numbers(len(bias), F, seed=4)
    moved = numbers(batch, F, seed=5)
    with torch.no_grad():
        reference.weight_ih_l0 += change.double()
        rows = (x - moved[:, None]).transpose(0, 1).contiguous()
        outputs, states, cells = run_layers(
            cell, [rows], [weight + change], bias + moved @ (weight + change).t(), start
        )
        doubled = tuple(part.double() for part in start) if kind is LSTM else start[0].double()
        expected, after = reference(x.double(), doubled)
    torch.testing.assert_close(outputs.transpose(0, 1), expected.float(), rtol=0, atol=3e-6)
    after = after if kind is LSTM else (after,)
    for one, other in zip((states, cells), after, strict=False):
        torch.testing.assert_close(one, other.float(), rtol=0, atol=6e-6)


def test_gates_that_are_shut_stay_finite():
    cell = LSTM(F, 16, 2)
    weight, bias = input_side(cell)
    with torch.no_grad():
        outputs, states, cells = run_layers(cell, [1e4 * numbers(9, 4, F)], [weight], bias, [torch.zeros(2, 4, 16)] * 2)
    for part in (outputs, states, cells):
        assert torch.isfinite(part).all()
    assert outputs.abs().max() <= 1 + 1e-6


def test_borrowed_weights_are_read_when_a_network_is_called():
    """Heads of places run a network with weights of their own: nothing folded may be kept."""
    network = build("ct_lstm")
    record, place = numbers(3, DAYS, F), numbers(3, X, seed=2)
    before = said(network, record, place)
    with torch.inference_mode():
        zero = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
        borrowed, _ = torch.func.functional_call(network, zero, (record, place, zero_state(network, 3)))
    assert not borrowed.any()
    assert torch.equal(said(network, record, place), before)


def test_where_a_gradient_is_wanted_windows_are_cut_out():
    network = build("transformer")
    record, place = numbers(2, DAYS, F).requires_grad_(), numbers(2, X, seed=2)
    fluxes, _ = network(record, place, zero_state(network, 2))
    fluxes.sum().backward()
    assert record.grad.any()
    assert not recurrent.is_quick(record)


@pytest.mark.parametrize("kind", CASES)
def test_without_packed_products_windows_are_cut_out_and_come_to_the_same(kind, monkeypatch):
    network = build(kind)
    record, place = numbers(5, DAYS, F), numbers(5, X, seed=2)
    shared = said(network, record, place)
    monkeypatch.setattr(packed_product, "AVAILABLE", False)
    torch.testing.assert_close(said(network, record, place), shared, rtol=0, atol=3e-6)
