"""A gated recurrent unit whose steps are matrix products and one compiled kernel, forwards and backwards.

`GRU` holds the weights of `torch.nn.GRU` under the same names and gives the same numbers to rounding. On a CPU in
single precision it is faster: torch spends much of its time between the small operations of a gate, here they are one
pass over the batch. Elsewhere (GPU, double precision, no numba) torch's own kernels run.

`LSTM` runs torch's own kernels, over slices of the batch, where a gradient is wanted. Where none is, both run their
layers as `fluxgrid.models.cell_layers` says, an LSTM only where `fluxgrid.models.packed_product` is available.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fluxgrid import compiling
from fluxgrid.models import packed_product
from fluxgrid.models.cell_layers import input_side, run_layers, weights_of
from fluxgrid.models.network import Read
from fluxgrid.models.recurrent_kernels import step, step_back


def steps_first(x: Tensor) -> Tensor:
    """Return the same (B, T, k) laid out step after step in memory, as the states of a GRU are."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def read_out(linear: nn.Linear, hidden: Tensor) -> Tensor:
    """Return a linear map of states (B, T, H), which are not copied where their steps are first in memory."""
    return linear(hidden.transpose(0, 1)).transpose(0, 1)


def first_of(read: Tensor, outputs: int) -> Tensor:
    """Return the first columns of what was read, (B, T, outputs), laid out as if they had been read alone.

    Sums and softplus round by how their input lies in memory.
    """
    return steps_first(read[..., :outputs])


After = TypeVar("After")


def read_states(read: Read | None, states: Tensor, after: After) -> tuple[Tensor, After]:
    """Return what is read of states (B, T, H), themselves without a `read`, and what comes after them as it is."""
    return states if read is None else read(states.transpose(0, 1)).transpose(0, 1), after


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return inputs that stand side by side, (B, T, k) or (B, k) for all steps, as one, (B, T, sum of k)."""
    if len(parts) == 1:
        return parts[0]
    steps = next(part.shape[1] for part in parts if part.dim() == 3)
    return torch.cat([p if p.dim() == 3 else p[:, None].expand(-1, steps, -1) for p in parts], dim=-1)


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
            step(g[t], p, bias, s[t], c[t], s[t + 1])
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
            step_back(g[t], c[t], s[t], o[t + 1], through.numpy(), direct.numpy(), i[t], r[t], straight.numpy())
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

    factors: torch.dtype = torch.float32
    """Of what is multiplied on a CPU without gradients: bfloat16 is faster and less exact; states stay single."""

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

    def forward(  # type: ignore[override]
        self, x: Tensor | Sequence[Tensor], start: Tensor | None = None, read: Read | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return states after each step of the last layer (B, T, H), and after the last of every layer (L, B, H).

        With `read` the first are what is read of them, (B, T, m), without gradients where steps are compiled.

        Inputs may come in parts that stand side by side: (B, T, k), then (B, k) where they do not vary in time. On a
        CPU and without gradients these are not joined, and (B, T, k) whose steps are first in memory is not copied.
        """
        parts = [x] if isinstance(x, Tensor) else list(x)
        batch, like = len(parts[0]), parts[0]
        if like.device.type != "cpu" or like.dtype != torch.float32 or not compiling.AVAILABLE:
            return read_states(read, *super().forward(side_by_side(parts), start))
        if start is None:
            start = like.new_zeros(self.num_layers, batch, self.hidden_size)
        if self.training or not is_quick(*parts, start, *self.parameters()):
            return read_states(read, *self._layers(side_by_side(parts), start))
        varying, fixed = ([part for part in parts if part.dim() == dims] for dims in (3, 2))
        into, _, offset, _ = weights_of(self, 0)
        *maps, constant = into.split([*(v.shape[2] for v in varying), sum(f.shape[1] for f in fixed)], dim=1)
        if fixed:  # what does not vary in time is multiplied once
            offset = torch.addmm(offset, torch.cat(fixed, dim=1), constant.t())
        rows = [part.detach().transpose(0, 1).contiguous() for part in varying]
        states, last, _ = run_layers(self, rows, maps, offset, [start], self.factors, read=read)
        return states.transpose(0, 1), last

    def _layers(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, one layer after the other, with gradients."""
        rows, last = x.transpose(0, 1).contiguous(), []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                rows = nn.functional.dropout(rows, self.dropout)
            states = _Layer.apply(rows, start[layer].contiguous(), *weights_of(self, layer))
            rows = states[1:]
            last.append(rows[-1])
        return rows.transpose(0, 1), torch.stack(last)


def is_quick(*tensors: Tensor) -> bool:
    """Return whether compiled steps may be taken: numba, a CPU, single precision, and no gradient is wanted."""
    if not compiling.AVAILABLE:
        return False
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return plain and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


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
    (256 windows of 30 steps, widths of 128 and 256).
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
    are torch's where a gradient is wanted, or MKL or numba is missing, and compiled ones otherwise.
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
        self, x: Tensor, start: tuple[Tensor, Tensor] | None = None, read: Read | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return states after each step of the last layer (B, T, H); states and cells of every layer (L, B, H).

        With `read` the first are what is read of them, (B, T, m), without gradients where steps are compiled.
        """
        quick = packed_product.AVAILABLE and not self.training
        if not quick or not is_quick(x, *(start or ()), *self.parameters()):
            outputs, states, cells = in_slices(self, x, start)
            return read_states(read, outputs, (states, cells))
        into, offset = input_side(self)
        first = start or (x.new_zeros(self.num_layers, len(x), self.hidden_size),) * 2
        outputs, *after = run_layers(self, [x.transpose(0, 1).contiguous()], [into], offset, first, read=read)
        return outputs.transpose(0, 1), (after[0], after[1])
