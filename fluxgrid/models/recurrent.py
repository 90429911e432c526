"""A gated recurrent unit whose steps are one matrix product and one compiled kernel, forwards and backwards.

`GRU` holds the weights of `torch.nn.GRU` under the same names and gives the same numbers to rounding. On a CPU in
single precision it is faster: torch spends much of its time between the small operations of a gate, here they are one
pass over the batch. Elsewhere (GPU, double precision) torch's own kernels run.

`LSTM` runs torch's own kernels, over slices of the batch.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

_LIMIT = np.float32(9.02)
"""Beyond it tanh is 1 in single precision."""
# Least-squares fit of tanh(x) / x as a ratio of polynomials in x * x on the range above: relative error 7e-9.
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    np.float32(v)
    for v in (
        *(0.9999999932251311, 0.1308315627003667, 0.003103000688803497, 1.1144249630908925e-05),
        *(-2.018394453713397e-08, 5.257768981629798e-11, -8.436022558640926e-14),
    )
)
_Q1, _Q2, _Q3 = (np.float32(v) for v in (0.4641648323076848, 0.02449137836115934, 0.00025447502476958145))
_ONE, _HALF = np.float32(1.0), np.float32(0.5)

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nnan", "ninf", "nsz"})
_inlined = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)


@_inlined
def _tanh(x):
    """Return tanh to 4e-7, without a branch, so that loops over it become vector instructions."""
    x = min(max(x, -_LIMIT), _LIMIT)
    y = x * x
    top = _P0 + y * (_P1 + y * (_P2 + y * (_P3 + y * (_P4 + y * (_P5 + y * _P6)))))
    bottom = _ONE + y * (_Q1 + y * (_Q2 + y * _Q3))
    return min(max(x * top / bottom, -_ONE), _ONE)


@_inlined
def _sigmoid(x):
    """Return the logistic function."""
    return _HALF * _tanh(_HALF * x) + _HALF


@_compiled
def _step(gates, recurrent, bias, before, inner, after):
    """Close the gates of one step: `gates` holds W_i x + b_i, and r, z, n afterwards; `recurrent` W_h h.

    Shapes: (B, 3H), (B, 3H), (3H,), (B, H), (B, H), (B, H); `inner` takes W_hn h + b_hn, `after` the new state.
    """
    width = before.shape[1]
    for b in range(len(before)):
        # rows in short loops over few arrays: a loop over many is not made into vector instructions
        both, new, given = gates[b, : 2 * width], gates[b, 2 * width :], recurrent[b, 2 * width :]
        for j in range(2 * width):
            both[j] = _sigmoid(both[j] + recurrent[b, j] + bias[j])
        c = inner[b]
        for j in range(width):
            c[j] = given[j] + bias[2 * width + j]
        for j in range(width):
            new[j] = _tanh(new[j] + both[j] * c[j])
        update, old, row = both[width:], before[b], after[b]
        for j in range(width):
            row[j] = new[j] + update[j] * (old[j] - new[j])


@_compiled
def _step_back(gates, inner, before, from_output, through, direct, for_input, for_recurrent, straight):
    """Turn the gradient of a step's state into that of its gates; the reverse of `_step`.

    The state's gradient is `from_output` + `through` + `direct` (B, H): from the step's output, and from the step after
    it by way of its gates and past them. Fills the gradients of the input side (B, 3H), of the recurrent side (B, 3H),
    and the part that passes by the gates (B, H).
    """
    width = before.shape[1]
    for b in range(len(before)):
        r, z, n = gates[b, :width], gates[b, width : 2 * width], gates[b, 2 * width :]
        reset, update, new = for_input[b, :width], for_input[b, width : 2 * width], for_input[b, 2 * width :]
        kept, old, c = straight[b], before[b], inner[b]
        for j in range(width):
            kept[j] = from_output[b, j] + through[b, j] + direct[b, j]
        for j in range(width):
            new[j] = kept[j] * (_ONE - z[j]) * (_ONE - n[j] * n[j])
        for j in range(width):
            update[j] = kept[j] * (old[j] - n[j]) * (z[j] * (_ONE - z[j]))
        for j in range(width):
            reset[j] = new[j] * c[j] * (r[j] * (_ONE - r[j]))
        for j in range(2 * width):
            for_recurrent[b, j] = for_input[b, j]
        last = for_recurrent[b, 2 * width :]
        for j in range(width):
            last[j] = new[j] * r[j]
        for j in range(width):
            kept[j] = kept[j] * z[j]


_CHUNK = 16
"""Steps whose inputs are multiplied together where no gradient is wanted: what they need stays in the cache."""


def _forward_only(x: Tensor, start: Tensor, w_in: Tensor, w_re: Tensor, b_in: Tensor, b_re: Tensor) -> Tensor:
    """Return the states before and after every step, (T + 1, B, H), and keep nothing for a gradient."""
    steps, batch, _ = x.shape
    width = w_re.shape[1]
    states = x.new_empty(steps + 1, batch, width)
    states[0] = start
    product, turned, turned_in = x.new_empty(batch, 3 * width), w_re.t().contiguous(), w_in.t().contiguous()
    gates, inner = x.new_empty(_CHUNK * batch, 3 * width), x.new_empty(batch, width)
    p, bias, s, c = (t.detach().numpy() for t in (product, b_re, states, inner))
    g = gates.numpy().reshape(_CHUNK, batch, 3 * width)
    for first in range(0, steps, _CHUNK):
        count = min(_CHUNK, steps - first)
        torch.addmm(b_in, x[first : first + count].view(count * batch, -1), turned_in, out=gates[: count * batch])
        for t in range(count):
            torch.mm(states[first + t], turned, out=product)
            _step(g[t], p, bias, s[first + t], c, s[first + t + 1])
    return states


class _Layer(torch.autograd.Function):
    """One layer over all steps; time first, (T, B, .)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, w_in: Tensor, w_re: Tensor, b_in: Tensor, b_re: Tensor) -> Tensor:
        """Return the states before and after every step, (T + 1, B, H)."""
        steps, batch, _ = x.shape
        width = w_re.shape[1]
        gates = torch.addmm(b_in, x.reshape(steps * batch, -1), w_in.t()).view(steps, batch, 3 * width)
        states = x.new_empty(steps + 1, batch, width)
        states[0] = start
        inner = x.new_empty(steps, batch, width)
        product, turned = x.new_empty(batch, 3 * width), w_re.t().contiguous()
        arrays = [t.detach().numpy() for t in (gates, product, b_re, states, inner)]
        g, p, bias, s, c = arrays
        for t in range(steps):
            torch.mm(states[t], turned, out=product)
            _step(g[t], p, bias, s[t], c[t], s[t + 1])
        ctx.save_for_backward(x, w_in, w_re, gates, inner, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of all inputs."""
        x, w_in, w_re, gates, inner, states = ctx.saved_tensors
        outer = gradients[0].contiguous()
        steps, batch, width = inner.shape
        for_input, for_recurrent = torch.empty_like(gates), torch.empty_like(gates)
        through, direct, straight = (x.new_zeros(batch, width) for _ in range(3))
        g, c, s, o, i, r = (t.numpy() for t in (gates, inner, states, outer, for_input, for_recurrent))
        for t in range(steps - 1, -1, -1):
            _step_back(g[t], c[t], s[t], o[t + 1], through.numpy(), direct.numpy(), i[t], r[t], straight.numpy())
            torch.mm(for_recurrent[t], w_re, out=through)
            direct, straight = straight, direct
        flat = for_input.view(steps * batch, -1)
        flat_re = for_recurrent.view(steps * batch, -1)
        need = ctx.needs_input_grad
        return (
            flat.mm(w_in).view_as(x) if need[0] else None,
            outer[0] + through + direct if need[1] else None,
            flat.t().mm(x.reshape(steps * batch, -1)) if need[2] else None,
            flat_re.t().mm(states[:-1].reshape(steps * batch, -1)) if need[3] else None,
            flat.sum(0) if need[4] else None,
            flat_re.sum(0) if need[5] else None,
        )


class GRU(nn.GRU):
    """`torch.nn.GRU` with ``batch_first``, faster on a CPU in single precision.

    Parameters
    ----------
    inputs : int
        Width I of the inputs.
    hidden : int
        Width H of the states.
    layers : int
        Stacked layers L.
    dropout : float
        Share of the states dropped between layers in training.

    Notes
    -----
    States are zero before the first step unless given. Gates as in torch: r and z by a logistic function,
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h (Cho et al. 2014, arXiv:1406.1078).
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0):
        super().__init__(inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    @property
    def state_size(self) -> int:
        """Columns of the state of a place, L * H."""
        return self.num_layers * self.hidden_size

    def unpack(self, state: Tensor) -> Tensor:
        """Return the states of the layers, (L, B, H), of a state (B, L * H)."""
        return state.view(len(state), self.num_layers, -1).transpose(0, 1).contiguous()

    def pack(self, states: Tensor) -> Tensor:
        """Return the state (B, L * H) of the states of the layers."""
        return states.transpose(0, 1).reshape(states.shape[1], -1)

    def forward(self, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return states after each step of the last layer (B, T, H), and after the last of every layer (L, B, H)."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x, start)
        if start is None:
            start = x.new_zeros(self.num_layers, x.shape[0], self.hidden_size)
        rows, last = x.transpose(0, 1).contiguous(), []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                rows = nn.functional.dropout(rows, self.dropout)
            weights = [getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            given = rows, start[layer].contiguous(), *weights
            wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
            states = _Layer.apply(*given) if wanted else _forward_only(*(tensor.detach() for tensor in given))
            rows = states[1:]
            last.append(rows[-1])
        return rows.transpose(0, 1), torch.stack(last)


_SLICE = 128
"""Rows of a batch that torch's LSTM is given at once: what it needs for more is fetched from further away."""


def in_slices(cell: nn.LSTM, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return what an LSTM with ``batch_first`` does, run over slices of the batch where that is faster.

    Parameters
    ----------
    cell : LSTM
        Of any number of layers and directions, K states in all.
    x : Tensor, (B, T, I)
    start : tuple of Tensor, (K, B, H), optional
        States and cells before the first step; zeros unless given.

    Returns
    -------
    outputs : Tensor, (B, T, H), or (B, T, 2 * H) of two directions
    states, cells : Tensor, (K, B, H)

    Notes
    -----
    On a CPU, in single precision and one thread, slices of 128 rows take about 0.8 of the time of one call in training
    (256 windows of 30 steps, widths of 128 and 256) and in prediction of 2048 windows; 256 windows are predicted in the
    same time.
    """
    run = functools.partial(nn.LSTM.forward, cell)
    if x.device.type != "cpu" or len(x) <= _SLICE:
        outputs, (states, cells) = run(x, start)
        return outputs, states, cells
    starts = zip(*(part.split(_SLICE, dim=1) for part in start), strict=True) if start else itertools.repeat(None)
    parts = [run(rows, first) for rows, first in zip(x.split(_SLICE), starts, strict=False)]
    states, cells = (torch.cat([after[which] for _, after in parts], dim=1) for which in range(2))
    return torch.cat([outputs for outputs, _ in parts]), states, cells


class LSTM(nn.LSTM):
    """`torch.nn.LSTM` with ``batch_first``, run over slices of the batch, and a state that is one row for each place.

    Parameters
    ----------
    inputs : int
        Width I of the inputs.
    hidden : int
        Width H of the states.
    layers : int
        Stacked layers L.
    dropout : float
        Taken, so that cells are built alike, and not used: CarbonBench's LSTMs drop nothing between layers.

    Notes
    -----
    Gates as in torch (Hochreiter & Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735, with forget gates). Its kernels
    are torch's: unlike those of the GRU they close the gates of a step at once, and steps compiled here as those of
    `GRU` are were slower than slices of torch's.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0):  # noqa: ARG002
        super().__init__(inputs, hidden, layers, batch_first=True)

    @property
    def state_size(self) -> int:
        """Columns of the state of a place, 2 * L * H: states, then cells."""
        return 2 * self.num_layers * self.hidden_size

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return states and cells of the layers, (L, B, H) each, of a state (B, 2 * L * H)."""
        states, cells = state.view(len(state), 2, self.num_layers, -1).permute(1, 2, 0, 3).contiguous()
        return states, cells

    def pack(self, after: tuple[Tensor, Tensor]) -> Tensor:
        """Return the state (B, 2 * L * H) of states and cells of the layers."""
        return torch.stack(after).permute(2, 0, 1, 3).reshape(after[0].shape[1], -1)

    def forward(  # type: ignore[override]
        self, x: Tensor, start: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return states after each step of the last layer (B, T, H); states and cells of every layer (L, B, H)."""
        outputs, states, cells = in_slices(self, x, start)
        return outputs, (states, cells)
