"""TAM-RL whose places have one code: how it is added up over a record, carried, and read in training."""

from __future__ import annotations

import pytest
import torch

from fluxgrid.models import Sizes, model_config, zero_state
from fluxgrid.models.tam_rl import TAMRL

W, S, F, X, LATENT = 10, 4, 3, 5, 6
DAYS = 6 * S
MODES = pytest.mark.parametrize("mode", ["exact", "stride"])

# products of a batch of another shape add in another order: some hundred float32 operations of order 1
ROUNDING = {"rtol": 2e-5, "atol": 3e-6}


def build(mode: str = "exact", code_from: str = "record") -> TAMRL:
    torch.manual_seed(5)
    own = {"hidden": 8, "latent": LATENT, "window": W, "stride": S, "window_mode": mode, "code_from": code_from}
    return model_config("tam_rl", own).build(Sizes(F, X, 2)).eval()


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codes_of(network: TAMRL, record: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the mean code of a record (B, W - 1 + T, F), window by window."""
    days = record.shape[1] - W + 1
    ends = [*range(S, days + 1, S), *([days] if days % S else [])]  # one past the last day of each window
    with torch.no_grad():
        return torch.stack([network.codes(record[:, end - 1 : end - 1 + W], place) for end in ends]).mean(dim=0)


@MODES
@pytest.mark.parametrize("days", [S - 1, DAYS, DAYS + 3])
def test_every_day_of_a_record_is_read_with_one_code(mode, days):
    """Whichever window is predicted: a slow loop over them, all with the mean code."""
    network = build(mode)
    record, place = numbers(2, days, F), numbers(2, X, seed=2)
    fluxes, state = network.predict(record, place, zero_state(network, 2))
    padded = torch.cat([torch.zeros(2, W - 1, F), record], dim=1)
    code = codes_of(network, padded, place)
    for day in range(days):
        end = day + 1 if mode == "exact" else min((day // S + 1) * S, days)
        with torch.no_grad():
            hidden = network.modulate(padded[:, end - 1 : end - 1 + W], code, S)[:, S - (end - day)]
            expected = network.finish(network.raw({network.tap: hidden[:, None, None]}), {})[:, 0]
        torch.testing.assert_close(fluxes[:, day], expected, **ROUNDING)
    count = -(-days // S)
    torch.testing.assert_close(state[:, -LATENT - 1 : -1] / count, code, **ROUNDING)
    assert (state[:, -1] == count).all()


@MODES
def test_a_second_year_knows_the_first_and_the_first_not_the_second(mode):
    """The carried sum makes two years one record: the second year is read as the end of one long block."""
    network = build(mode)
    record, place = numbers(2, 2 * DAYS, F), numbers(2, X, seed=2)
    whole, end = network.predict(record, place, zero_state(network, 2))
    early, between = network.predict(record[:, :DAYS], place, zero_state(network, 2))
    late, last = network.predict(record[:, DAYS:], place, between)
    torch.testing.assert_close(late, whole[:, DAYS:], **ROUNDING)
    assert torch.equal(last, end)
    assert torch.equal(network.advance(record[:, :DAYS], place, zero_state(network, 2)), between)
    assert not torch.allclose(early, whole[:, :DAYS], atol=1e-4)
    alone, _ = network.predict(record[:, DAYS:], place, torch.cat([between[:, : (W - 1) * F], torch.zeros(2, 7)], 1))
    assert not torch.allclose(late, alone, atol=1e-4)


@MODES
def test_it_differs_from_the_published_way_with_the_same_weights(mode):
    network, published = build(mode), build(mode, "window")
    published.load_state_dict(network.state_dict())
    record, place = numbers(2, DAYS, F), numbers(2, X, seed=2)
    one, other = (model.predict(record, place, zero_state(model, 2))[0] for model in (network, published))
    assert not torch.allclose(one, other, atol=1e-4)
    alike, same = (model.say(record[:, :W], place) for model in (network, published))
    assert torch.equal(alike, same)  # one window is a record by itself


def test_windows_of_a_sequence_share_their_code_in_training():
    network = build()
    windows, place = numbers(6, W, F), numbers(6, X, seed=2)
    sequence = torch.tensor([7, 2, 7, 5, 7, 2])
    known = network.places(windows, place, sequence)
    codes = network.codes(windows, place)
    assert torch.equal(known[:, :X], place)
    for row in range(6):
        mean = torch.stack([codes[i] for i in range(6) if sequence[i] == sequence[row]]).mean(dim=0)
        torch.testing.assert_close(known[row, X:], mean, **ROUNDING)
    spoken = network.encode(windows, known, S)
    torch.testing.assert_close(spoken, network.modulate(windows, known[:, X:], S), rtol=0, atol=0)


def test_a_window_teaches_the_code_of_its_companions():
    network = build()
    windows, place = numbers(4, W, F).requires_grad_(), numbers(4, X, seed=2)
    spoken = network.encode(windows, network.places(windows, place, torch.tensor([0, 0, 1, 1])), S)
    (gradient,) = torch.autograd.grad(spoken[0].sum(), windows)
    assert gradient[1].any()
    assert not gradient[2:].any()


def test_the_published_way_knows_its_own_window_only():
    network, windows, place = build(code_from="window"), numbers(4, W, F), numbers(4, X, seed=2)
    assert network.places(windows, place, torch.zeros(4, dtype=torch.int64)) is place
    assert (network.together, build().together) == (1, 4)
