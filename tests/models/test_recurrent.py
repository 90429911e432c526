"""The fast GRU, and the LSTM in slices, are torch's: values, gradients, states; and rows do not touch each other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from fluxgrid.models import packed_product, recurrent
from fluxgrid.models.cell_layers import input_side, run_layers
from fluxgrid.models.network import Beside, read_nothing
from fluxgrid.models.recurrent import GRU, LSTM, in_slices

INPUTS, HIDDEN, STEPS = 5, 12, 9

# tanh and the logistic function are good to 4e-7, and errors of a few steps add up
VALUES = {"rtol": 1e-5, "atol": 3e-6}
# sums over some hundred products of such numbers, of order 1 to 100
GRADIENTS = {"rtol": 1e-4, "atol": 1e-4}


def pair(layers: int, width: int = HIDDEN, scale: float = 1.0) -> tuple[GRU, nn.GRU]:
    """Return the fast one and torch's with the same weights."""
    torch.manual_seed(1)
    fast, slow = GRU(INPUTS, width, layers), nn.GRU(INPUTS, width, layers, batch_first=True)
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.mul_(scale)
    fast.load_state_dict(slow.state_dict())
    return fast, slow


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(layers: int, batch: int, width: int = HIDDEN, start: bool = True, steps: int = STEPS):
    """Yield for each of the two its module, input, start and results; gradients are wanted of all."""
    for module in pair(layers, width):
        x = numbers(batch, steps, INPUTS).requires_grad_()
        first = numbers(layers, batch, width, seed=1).requires_grad_() if start else None
        yield module, x, first, *module(x, first)


@pytest.mark.parametrize(("layers", "batch", "width"), [(1, 1, 12), (1, 7, 13), (2, 3, 12), (2, 33, 1), (3, 5, 2)])
def test_values_and_gradients_are_those_of_torch(layers, batch, width):
    (fast, x, start, out, last), (slow, x2, start2, out2, last2) = both(layers, batch, width)
    torch.testing.assert_close(out, out2, **VALUES)
    torch.testing.assert_close(last, last2, **VALUES)
    weight, of_last = numbers(*out.shape, seed=2), numbers(*last.shape, seed=3)
    for result in ((out, last), (out2, last2)):
        ((result[0] * weight).sum() + (result[1] * of_last).sum()).backward()
    torch.testing.assert_close(x.grad, x2.grad, **GRADIENTS)
    torch.testing.assert_close(start.grad, start2.grad, **GRADIENTS)
    for (name, one), other in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **GRADIENTS, msg=lambda text, name=name: f"{name}: {text}")


def test_it_starts_from_zero_and_from_one_step_alone():
    (_, _, _, out, last), (_, _, _, out2, last2) = both(2, 4, start=False, steps=1)
    torch.testing.assert_close(out, out2, **VALUES)
    torch.testing.assert_close(last, last2, **VALUES)


@pytest.mark.parametrize("through", ["output of one step", "last state"])
def test_a_gradient_may_come_from_one_place_only(through):
    (_, x, _, out, last), (_, x2, _, out2, last2) = both(2, 3)
    for result in ((out, last), (out2, last2)):
        (result[0][:, 4].sum() if through != "last state" else result[1][0].sum()).backward()
    torch.testing.assert_close(x.grad, x2.grad, **GRADIENTS)
    assert through == "last state" or not x.grad[:, 5:].any()


@pytest.mark.parametrize("wanted", ["input", "start", "weight_hh_l0"])
def test_only_one_gradient_is_wanted(wanted):
    grads = []
    for module in pair(1):
        module.requires_grad_(False)
        x, start = numbers(3, STEPS, INPUTS), numbers(1, 3, HIDDEN, seed=1)
        leaf = {"input": x, "start": start}.get(wanted, getattr(module, wanted, None))
        leaf.requires_grad_()
        module(x, start)[0].square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, **GRADIENTS)


def test_gates_that_are_shut_stay_finite():
    """Far out the logistic function and tanh are flat: as torch's, and without a NaN in the gradient."""
    results = []
    for module in pair(1, scale=50.0):
        x = (100 * numbers(4, STEPS, INPUTS)).requires_grad_()
        out, _ = module(x)
        out.sum().backward()
        assert torch.isfinite(x.grad).all()
        assert out.abs().max() <= 1.0
        results.append(out)
    # a gate on its way from 0 to 1 magnifies the rounding of its input of some 1e4
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_without_gradients_the_numbers_are_the_same_bits():
    fast, _ = pair(2)
    x, start = numbers(6, STEPS, INPUTS), numbers(2, 6, HIDDEN, seed=1)
    with_graph, _ = fast(x, start)
    assert with_graph.requires_grad
    for quiet in (torch.no_grad(), torch.inference_mode()):
        with quiet:
            out, last = fast(x, start)
        assert not out.requires_grad
        assert np.array_equal(out.numpy(), with_graph.detach().numpy())
        assert np.array_equal(last[-1].numpy(), out[:, -1].numpy())


def test_inputs_are_left_as_they_were():
    fast, _ = pair(2)
    x, start = numbers(6, STEPS, INPUTS), numbers(2, 6, HIDDEN, seed=1)
    before = x.clone(), start.clone(), copy.deepcopy(fast.state_dict())
    out, last = fast(x.requires_grad_(), start.requires_grad_())
    (out.sum() + last.sum()).backward()
    assert torch.equal(x, before[0])
    assert torch.equal(start, before[1])
    assert all(torch.equal(value, before[2][name]) for name, value in fast.state_dict().items())


def test_an_input_that_is_not_contiguous_is_read_right():
    fast, slow = pair(1)
    x = numbers(STEPS, INPUTS, 4).permute(2, 0, 1)
    start = numbers(4, HIDDEN, 1).permute(2, 0, 1)
    torch.testing.assert_close(fast(x, start)[0], slow(x, start.contiguous())[0], **VALUES)
    wide = numbers(1, STEPS, INPUTS).expand(4, -1, -1)
    torch.testing.assert_close(fast(wide)[0], slow(wide)[0], **VALUES)


def test_rows_of_a_block_do_not_touch_each_other():
    """Bit for bit: a map must not hang on which cells share a block."""
    fast, _ = pair(2)
    x, start = numbers(32, STEPS, INPUTS), numbers(2, 32, HIDDEN, seed=1)
    other, other_start = numbers(32, STEPS, INPUTS, seed=4), numbers(2, 32, HIDDEN, seed=5)
    row = 13
    other[row], other_start[:, row] = x[row], start[:, row]
    with torch.no_grad():
        (one, last), (two, last2) = fast(x, start), fast(other, other_start)
    assert torch.equal(one[row], two[row])
    assert torch.equal(last[:, row], last2[:, row])
    assert not torch.equal(one[row + 1], two[row + 1])


def test_two_runs_are_one_run():
    fast, _ = pair(2)
    x = numbers(5, STEPS, INPUTS)
    whole, end = fast(x)
    early, between = fast(x[:, :4])
    late, last = fast(x[:, 4:], between)
    torch.testing.assert_close(torch.cat([early, late], dim=1), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(last, end, rtol=0, atol=1e-6)


def test_double_precision_is_left_to_torch():
    fast, slow = (module.double() for module in pair(2))
    x, start = numbers(3, STEPS, INPUTS).double(), numbers(2, 3, HIDDEN, seed=1).double()
    out, last = fast(x, start)
    assert out.dtype == torch.float64
    assert torch.equal(out, slow(x, start)[0])
    assert torch.equal(last, slow(x, start)[1])
    assert torch.autograd.gradcheck(lambda x: fast(x, start)[0].sum(), x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_borrowed_weights_are_used_for_the_call_and_no_longer(dtype):
    """Heads of places run the network with weights of their own, also where torch's kernels run."""
    fast, _ = (module.to(dtype) for module in pair(1))
    x = numbers(3, STEPS, INPUTS).to(dtype)
    before = fast(x)[0]
    with torch.no_grad():
        zero = {name: torch.zeros_like(value) for name, value in fast.named_parameters()}
        borrowed = functional_call(fast, zero, (x,))[0]
    assert not borrowed.any()
    assert torch.equal(fast(x)[0], before)


def test_dropout_acts_between_layers_and_in_training_only():
    torch.manual_seed(0)
    fast, x = GRU(INPUTS, HIDDEN, 2, dropout=0.5), numbers(3, STEPS, INPUTS)
    fast.train()
    (one, last), (two, last2) = fast(x), fast(x)
    assert not torch.equal(one, two)
    assert torch.equal(last[0], last2[0])
    fast.eval()
    assert torch.equal(fast(x)[0], fast(x)[0])
    single = GRU(INPUTS, HIDDEN, 1, dropout=0.5).train()
    assert torch.equal(single(x)[0], single(x)[0])


def test_weights_go_both_ways_between_it_and_torch():
    fast, slow = GRU(INPUTS, HIDDEN, 2), nn.GRU(INPUTS, HIDDEN, 2, batch_first=True)
    slow.load_state_dict(fast.state_dict())
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in slow.named_parameters()]
    torch.testing.assert_close(fast(numbers(2, 3, INPUTS))[0], slow(numbers(2, 3, INPUTS))[0], **VALUES)


def test_a_second_derivative_is_refused_rather_than_wrong():
    fast, _ = pair(1)
    x = numbers(2, STEPS, INPUTS).requires_grad_()
    out, _ = fast(x)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(out.sum(), x, create_graph=True)[0].sum().backward()


@pytest.fixture
def slices(monkeypatch):
    """Cut batches every 4 rows, so that small ones are cut."""
    monkeypatch.setattr(recurrent, "_SLICE", 4)


def doubled(cell: nn.LSTM) -> nn.LSTM:
    """Return torch's own LSTM in double precision with the weights of another."""
    ways = {"bidirectional": cell.bidirectional, "batch_first": True}
    reference = nn.LSTM(cell.input_size, cell.hidden_size, cell.num_layers, **ways)
    reference.load_state_dict(cell.state_dict())
    return reference.double()


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize(("layers", "batch", "width"), [(1, 1, 12), (1, 4, 13), (2, 9, 12), (3, 11, 7)])
@pytest.mark.usefixtures("slices")
def test_an_lstm_in_slices_is_torchs_in_double_precision(layers, batch, width, start):
    torch.manual_seed(1)
    cell = LSTM(INPUTS, width, layers)
    reference = doubled(cell)
    leaves = [numbers(STEPS, INPUTS, batch).permute(2, 0, 1)]  # not contiguous
    if start:
        leaves += [numbers(layers, batch, width, seed=seed) for seed in (1, 2)]
    results = []
    for module, dtype in ((cell, torch.float32), (reference, torch.float64)):
        given = [leaf.to(dtype).detach().requires_grad_() for leaf in leaves]
        out, (states, cells) = module(given[0], tuple(given[1:]) or None)
        parts = (out, states, cells)
        sum((part * numbers(*part.shape, seed=3 + i)).sum() for i, part in enumerate(parts)).backward()
        results.append((parts, [leaf.grad for leaf in given], [p.grad for p in module.parameters()]))
    (parts, of_inputs, of_weights), (parts2, of_inputs2, of_weights2) = results
    assert not leaves[0].is_contiguous() or batch == 1
    for one, other in zip(parts, parts2, strict=True):
        torch.testing.assert_close(one, other.float(), **VALUES)
    for one, other in zip((*of_inputs, *of_weights), (*of_inputs2, *of_weights2), strict=True):
        torch.testing.assert_close(one, other.float(), **GRADIENTS)


@pytest.mark.usefixtures("slices")
def test_an_lstm_of_two_directions_in_slices_is_torchs():
    torch.manual_seed(1)
    cell = nn.LSTM(INPUTS, HIDDEN, bidirectional=True, batch_first=True)
    x, reference = numbers(10, STEPS, INPUTS), doubled(cell)
    out, states, cells = in_slices(cell, x)
    out2, (states2, cells2) = reference(x.double())
    for one, other in ((out, out2), (states, states2), (cells, cells2)):
        torch.testing.assert_close(one, other.float(), **VALUES)


@pytest.mark.usefixtures("slices")
def test_slices_of_an_lstm_borrow_weights_too():
    cell, x = LSTM(INPUTS, HIDDEN), numbers(6, STEPS, INPUTS)
    with torch.no_grad():
        zero = {name: torch.zeros_like(value) for name, value in cell.named_parameters()}
        assert not functional_call(cell, zero, (x,))[0].any()
        assert cell(x)[0].any()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("steps", "batch", "layers", "hidden"),
    [(150, 300, 1, 6), (150, 1100, 2, 6), (65, 5, 3, 100), (64, 1, 2, 100), (2, 1100, 2, 6), (1, 1, 1, 100)],
)
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_what_is_read_as_it_comes_is_what_is_read_of_all_states(
    kind, steps, batch, layers, hidden, packed, monkeypatch
):
    """The room for a few steps is used again and again: a run longer than it, in chunks of any length.

    What is read, and in how many columns, changes no bit of the states, nor of what else is read: also of a single row,
    which products may round by their width.
    """
    monkeypatch.setattr(packed_product, "AVAILABLE", packed and packed_product.AVAILABLE)
    torch.manual_seed(0)
    cell, linear, wide = kind(INPUTS, hidden, layers).eval(), nn.Linear(hidden, 2), nn.Linear(hidden, 17)
    rows = numbers(steps, batch, INPUTS)
    rows[:, :, -1] = 0.0  # an input by itself that is mostly nothing
    rows[-1, 0, -1] = 3.0
    parts = [part.contiguous() for part in rows.split([INPUTS - 1, 1], dim=2)]
    into, offset = input_side(cell)
    maps, names = into.split([INPUTS - 1, 1], dim=1), (1, 2) if kind is LSTM else (1,)
    for start in (
        [numbers(layers, batch, hidden, seed=seed) for seed in names],
        [torch.zeros(layers, batch, hidden)] * 2,
    ):
        with torch.inference_mode():
            states, *after = run_layers(cell, parts, maps, offset, start)
            alone = run_layers(cell, parts, maps, offset, start, read=linear)[0]
            for read in (linear, Beside(linear, wide), Beside(linear, torch.exp), torch.exp, read_nothing):
                said, *after_read = run_layers(cell, parts, maps, offset, start, read=read)
                torch.testing.assert_close(said, read(states), rtol=0, atol=2e-6)
                assert all(torch.equal(one, other) for one, other in zip(after, after_read, strict=True))
                assert not packed or not isinstance(read, Beside) or torch.equal(said[..., :2], alone)
        reference = (nn.LSTM if kind is LSTM else nn.GRU)(INPUTS, hidden, layers)
        reference.load_state_dict(cell.state_dict())
        with torch.no_grad():
            expected, last = reference(rows, tuple(start) if kind is LSTM else start[0])
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
        for one, other in zip(after, last if kind is LSTM else (last,), strict=False):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_no_steps_are_refused():
    cell = GRU(INPUTS, 6)
    into, offset = input_side(cell)
    with pytest.raises(ValueError, match="no steps"):
        run_layers(cell, [numbers(0, 4, INPUTS)], [into], offset, [torch.zeros(1, 4, 6)], read=nn.Linear(6, 2))
