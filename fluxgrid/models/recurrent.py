"""A gated recurrent unit whose steps are one matrix product and one compiled kernel, forwards and backwards.

`GRU` holds the weights of `torch.nn.GRU` under the same names and gives the same numbers to rounding. On a CPU in
single precision it is faster: torch spends much of its time between the small operations of a gate, here they are one
pass over the batch. Elsewhere (GPU, double precision) torch's own kernels run.

`LSTM` runs torch's own kernels, over slices of the batch. `Steps` runs either cell where no gradient is wanted and
something is shared that torch's kernels do not know of: what a place adds to its gates (`run_gates`), or days that many
windows read (`fluxgrid.models.day_rows`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
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


@_compiled
def _step_only(gates, recurrent, bias, before, after):
    """Close the gates of one step and keep nothing for a gradient: `_step` where r and z come halved.

    `gates` (B, 3H) holds W_i x with all biases but b_hn, `recurrent` (B, 3H) W_h h, both with the rows of r and z
    times a half, for a logistic function is half a tanh of half its argument; `bias` (H,) is b_hn.
    """
    width = before.shape[1]
    for b in range(len(before)):
        both, new, given = gates[b, : 2 * width], gates[b, 2 * width :], recurrent[b, 2 * width :]
        for j in range(2 * width):
            both[j] = _HALF * _tanh(both[j] + recurrent[b, j]) + _HALF
        for j in range(width):
            new[j] = _tanh(new[j] + both[j] * (given[j] + bias[j]))
        update, old, row = both[width:], before[b], after[b]
        for j in range(width):
            row[j] = new[j] + update[j] * (old[j] - new[j])


CHUNK_ROWS = 1024
"""Rows of steps times places that all layers are run over before the next: what they hand on stays in the cache."""


class _Stage:
    """One layer of a GRU over a block of B places, without gradients: weights turned, buffers of n steps.

    `maps` (G, k) are the columns of W_i for each of the inputs side by side, `offset` (G,) or (B, G) what comes on top
    of their products, b_i and all; `start` (B, H); `factors` the type of what is multiplied.
    """

    def __init__(
        self,
        maps: Sequence[Tensor],
        offset: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        start: Tensor,
        n: int,
        factors: torch.dtype,
    ):
        self.factors, self.plain = factors, factors == torch.float32
        batch, width = start.shape
        halved = start.new_ones(3 * width)
        halved[: 2 * width] = 0.5
        # the widest first, which takes the offset along
        order = sorted(range(len(maps)), key=lambda k: -maps[k].shape[1])
        self.turned_in = [((maps[k] * halved[:, None]).t().contiguous().to(factors), k) for k in order]
        self.turned = (recurrent * halved[:, None]).t().contiguous().to(factors)
        self.bias = bias[2 * width :].contiguous().numpy()
        base = offset.clone()
        base[..., : 2 * width] += bias[: 2 * width]
        base *= halved
        self.base = base.repeat(n, 1) if base.dim() > 1 else base
        self.gates, self.product = start.new_empty(n * batch, 3 * width), start.new_empty(batch, 3 * width)
        self.g, self.p = self.gates.numpy().reshape(n, batch, 3 * width), self.product.numpy()
        self.before = start.contiguous()  # kernels are compiled for one layout

    def run(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Fill the states after each step, `out` (n, B, H), of inputs side by side, (n, B, k) each."""
        steps, batch, _ = out.shape
        gates = self.gates[: steps * batch]
        base = self.base[: steps * batch] if self.base.dim() > 1 else self.base
        for turned, k in self.turned_in:
            rows = parts[k].view(steps * batch, -1)
            # a lone column is mostly zero, an event of a few days
            if rows.shape[1] > 1 or base is not gates or bool(rows.any()):
                if self.plain:
                    torch.addmm(base, rows, turned, out=gates)
                else:
                    torch.add(base, rows.to(self.factors) @ turned, out=gates)
                base = gates
        before, after, g, p = self.before, out.unbind(), self.g, self.product
        old, new, turned, bias, product = before.numpy(), out.numpy(), self.turned, self.bias, self.p
        for t in range(steps):
            if self.plain:
                torch.mm(before, turned, out=p)
            else:
                p.copy_(before.to(self.factors) @ turned)
            _step_only(g[t], product, bias, old, new[t])
            before, old = after[t], new[t]
        self.before = before


def _forward_only(
    cell: GRU, inputs: Sequence[Tensor], maps: Sequence[Tensor], offset: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the states after every step of the last layer (T, B, H), and of all layers after the last (L, B, H).

    Inputs side by side (T, B, k), with their maps to the gates and the offset of the first layer as `_Stage` has them;
    `start` (L, B, H). Without gradients.
    """
    steps, batch, _ = inputs[0].shape
    width, n = cell.hidden_size, max(1, CHUNK_ROWS // batch)
    stages = []
    for layer in range(cell.num_layers):
        into, recurrent, b_in, b_re = (weight.detach() for weight in weights_of(cell, layer))
        given = ([into], b_in) if layer else ([each.detach() for each in maps], offset.detach())
        stages.append(_Stage(*given, recurrent, b_re, start[layer].detach(), n, cell.factors))
    # two buffers in turn, for the last state of a chunk is the first of the next
    handed = [start.new_empty(2, n, batch, width) for _ in stages[1:]]
    states = start.new_empty(steps, batch, width)
    for first in range(0, steps, n):
        rows = [part[first : first + n] for part in inputs]
        count = len(rows[0])
        outs = [*(each[first // n % 2, :count] for each in handed), states[first : first + n]]
        for stage, out in zip(stages, outs, strict=True):
            stage.run(rows, out)
            rows = [out]
    return states, torch.stack([stage.before for stage in stages])


def steps_first(x: Tensor) -> Tensor:
    """Return the same (B, T, k) laid out step after step in memory, as the states of a GRU are."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def read_out(linear: nn.Linear, hidden: Tensor) -> Tensor:
    """Return a linear map of states (B, T, H), which are not copied where their steps are first in memory."""
    return linear(hidden.transpose(0, 1)).transpose(0, 1)


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
        self, x: Tensor | Sequence[Tensor], start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return states after each step of the last layer (B, T, H), and after the last of every layer (L, B, H).

        Inputs may come in parts that stand side by side: (B, T, k), then (B, k) where they do not vary in time. On a
        CPU and without gradients these are not joined, and (B, T, k) whose steps are first in memory is not copied.
        """
        parts = [x] if isinstance(x, Tensor) else list(x)
        batch, like = len(parts[0]), parts[0]
        if like.device.type != "cpu" or like.dtype != torch.float32:
            return super().forward(side_by_side(parts), start)
        if start is None:
            start = like.new_zeros(self.num_layers, batch, self.hidden_size)
        if self.training or not is_quick(*parts, start, *self.parameters()):
            return self._layers(side_by_side(parts), start)
        varying, fixed = ([part for part in parts if part.dim() == dims] for dims in (3, 2))
        into, _, offset, _ = weights_of(self, 0)
        *maps, constant = into.split([*(v.shape[2] for v in varying), sum(f.shape[1] for f in fixed)], dim=1)
        if fixed:  # what does not vary in time is multiplied once
            offset = torch.addmm(offset, torch.cat(fixed, dim=1), constant.t())
        rows = [part.detach().transpose(0, 1).contiguous() for part in varying]
        states, last = _forward_only(self, rows, maps, offset, start)
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


@_inlined
def _parts(x):
    """Return what tanh is the ratio of: gates that are multiplied need one division in all."""
    x = min(max(x, -_LIMIT), _LIMIT)
    y = x * x
    top = _P0 + y * (_P1 + y * (_P2 + y * (_P3 + y * (_P4 + y * (_P5 + y * _P6)))))
    return x * top, _ONE + y * (_Q1 + y * (_Q2 + y * _Q3))


@_compiled
def _close_lstm(table, first, shift, column, product, states, at, cells):
    """Close the gates of one step of an LSTM, states and cells in place.

    Row n reads its input side, W_i x + b, (4H,), in ``table[first[n] + shift]`` from `column` on, and W_h h in
    `product` (N, 4H); its state stands in `states` (N, .) from column `at` on, its cell in `cells` (N, H).
    """
    width = cells.shape[1]
    for n in range(len(cells)):
        given, again = table[first[n] + shift, column : column + 4 * width], product[n]
        c, h = cells[n], states[n, at : at + width]
        for j in range(width):
            i, under_i = _parts(_HALF * (again[j] + given[j]))
            f, under_f = _parts(_HALF * (again[width + j] + given[width + j]))
            g, under_g = _parts(again[2 * width + j] + given[2 * width + j])
            o, under_o = _parts(_HALF * (again[3 * width + j] + given[3 * width + j]))
            both = under_i * under_g
            kept = (under_f + f) * c[j] * both + (under_i + i) * g * under_f
            cell = _HALF * kept / (under_f * both)
            c[j] = cell
            new, under = _parts(cell)
            h[j] = _HALF * (under_o + o) * new / (under_o * under)


@_compiled
def _close_gru(table, first, shift, product, bias, states, at):
    """Close the gates of one step of a GRU, states in place.

    Row n reads its input side, W_i x + b_i, (3H,), in ``table[first[n] + shift]``, and W_h h in `product` (N, 3H), to
    which `bias` (3H,) belongs; its state stands in `states` (N, .) from column `at` on.
    """
    width = product.shape[1] // 3
    for n in range(len(product)):
        given, again, h = table[first[n] + shift], product[n], states[n, at : at + width]
        for j in range(width):
            r = _sigmoid(given[j] + (again[j] + bias[j]))
            z, under_z = _parts(_HALF * (given[width + j] + (again[width + j] + bias[width + j])))
            c = again[2 * width + j] + bias[2 * width + j]
            n_, under_n = _parts(given[2 * width + j] + r * c)
            h[j] = _HALF * ((under_z + z) * h[j] * under_n + (under_z - z) * n_) / (under_z * under_n)


@_compiled
def scale_rows(table, first, shift, gain, states):
    """Put ``gain[n] * table[first[n] + shift]``, as many columns as the gain has, into the first columns of row n."""
    width = gain.shape[1]
    for n in range(len(gain)):
        given, own, into = table[first[n] + shift, :width], gain[n], states[n, :width]
        for j in range(width):
            into[j] = own[j] * given[j]


def is_quick(*tensors: Tensor) -> bool:
    """Return whether compiled steps may be taken: on a CPU, in single precision, and no gradient is wanted."""
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return plain and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def input_side(cell: nn.RNNBase) -> tuple[Tensor, Tensor]:
    """Return the map (G, I) from the inputs of a GRU or LSTM to the input side of its gates, and its bias (G,)."""
    into, _, bias, recurrent = weights_of(cell, 0)
    return into, bias + recurrent if isinstance(cell, nn.LSTM) else bias


class Steps:
    """The layers of a cell over N rows that step together, their states in one array (N, U + L * H).

    Parameters
    ----------
    cell : LSTM or GRU
    rows : int
        Number N of rows.
    into : Tensor, (U, G), optional
        LSTM only: a map to the gates of the first layer from U columns before the states, in which the caller puts
        inputs before each step. It comes on top of the input side that is read in the table of the step.
    layers : int, optional
        How many of the cell's layers; all unless given.
    suffix : str
        ``_reverse`` for the second direction.

    Notes
    -----
    Weights are those of the cell when this is made. A row's numbers do not hang on the other rows.
    """

    def __init__(
        self, cell: nn.RNNBase, rows: int, into: Tensor | None = None, layers: int | None = None, suffix: str = ""
    ):
        self.width, self.layers = cell.hidden_size, layers or cell.num_layers
        self.inputs = inputs = 0 if into is None else len(into)
        self.is_lstm = isinstance(cell, nn.LSTM)
        parts = range(self.layers)
        w_in, w_re, b_in, b_re = (
            [getattr(cell, f"{name}_l{layer}{suffix}").detach() for layer in parts]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        self.states = w_re[0].new_zeros(rows, inputs + self.layers * self.width)
        self.cells = w_re[0].new_zeros(self.layers, rows, self.width)
        self._product = w_re[0].new_empty(rows, w_re[0].shape[0])
        self._states, self._gates, self._cells = (t.numpy() for t in (self.states, self._product, self.cells))
        self._own, self._none = np.arange(rows), np.zeros(rows, np.int64)
        self._recurrent = [weight.t().contiguous() for weight in w_re]
        self._bias = [bias.numpy() for bias in b_re]
        self._into = [weight.t().contiguous() for weight in w_in]
        if into is not None:
            self._into[0] = into
        if self.is_lstm:  # inputs and states stand side by side: one product for both
            joint = zip(self._into, self._recurrent, strict=True)
            self._joint = [torch.cat(pair) if i or inputs else pair[1] for i, pair in enumerate(joint)]
            self._both = [(one + other).numpy()[None] for one, other in zip(b_in, b_re, strict=True)]
        else:
            self._b_in, self._inner = b_in, torch.empty_like(self._product)
        self._fresh = True

    def reset(self) -> None:
        """Empty states and cells."""
        self.states.zero_()
        self.cells.zero_()
        self._fresh = True

    def put(self, states: Tensor, cells: Tensor | None = None) -> None:
        """Take states, and cells of an LSTM, (L, N, H)."""
        self.states[:, self.inputs :] = states.transpose(0, 1).flatten(1)
        if cells is not None:
            self.cells.copy_(cells)
        self._fresh = False

    @property
    def array(self) -> np.ndarray:
        """Inputs and states, (N, U + L * H), a view."""
        return self._states

    @property
    def last(self) -> Tensor:
        """States of the last layer, (N, H), a view."""
        return self.states[:, -self.width :]

    @property
    def after(self) -> Tensor:
        """States of all layers, (L, N, H), a copy."""
        return self.states[:, self.inputs :].unflatten(1, (self.layers, -1)).transpose(0, 1).contiguous()

    def step(self, table: np.ndarray, first: np.ndarray, shift: int, column: int = 0) -> None:
        """Take one step; row n of the first layer reads ``table[first[n] + shift]`` from a column on."""
        for layer in range(self.layers):
            at = self.inputs + layer * self.width
            read, rows, offset = table, first, shift
            if self.is_lstm:
                self._multiply(layer, at)
                if layer:
                    read, rows, offset, column = self._both[layer], self._none, 0, 0
                _close_lstm(read, rows, offset, column, self._gates, self._states, at, self._cells[layer])
                continue
            self._multiply_states(layer, at)
            if layer:
                before = self.states[:, at - self.width : at]
                torch.addmm(self._b_in[layer], before, self._into[layer], out=self._inner)
                read, rows, offset = self._inner.numpy(), self._own, 0
            _close_gru(read, rows, offset, self._gates, self._bias[layer], self._states, at)
        self._fresh = False

    def _multiply(self, layer: int, at: int) -> None:
        """Multiply what a layer of an LSTM reads: states, and inputs where they stand beside them."""
        if not (layer or self.inputs):
            self._multiply_states(layer, at)
            return
        before = self.width if layer else self.inputs
        weights = self._into[layer] if self._fresh else self._joint[layer]  # an empty state adds nothing
        torch.mm(self.states[:, at - before : at - before + len(weights)], weights, out=self._product)

    def _multiply_states(self, layer: int, at: int) -> None:
        """Multiply the states of a layer."""
        if self._fresh:
            self._product.zero_()
        else:
            torch.mm(self.states[:, at : at + self.width], self._recurrent[layer], out=self._product)


_ABREAST = 256
"""Rows of a batch that step together over long runs."""


def run_gates(
    cell: GRU | nn.LSTM,
    x: Tensor,
    maps: tuple[Tensor, ...],
    offset: Tensor,
    start: Tensor | tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a cell does with inputs that linear maps bring to its gates, without gradients.

    Parameters
    ----------
    cell : LSTM or GRU
    x : Tensor, (B, T, F)
    maps : tuple of Tensor
        Applied in turn; the first is (., F), the last (G, .).
    offset : Tensor, (1, G) or (B, G)
        Added to the gates, biases and all.
    start : Tensor or tuple of Tensor, (L, B, H), optional
        States, and cells of an LSTM, before the first step; zeros unless given.

    Returns
    -------
    outputs : Tensor, (B, T, H)
    states, cells : Tensor, (L, B, H)
        A GRU has no cells: its states twice.
    """
    batch, steps, _ = x.shape
    if isinstance(cell, GRU):
        rows = x.detach().transpose(0, 1).contiguous()
        for weight in maps[:-1]:
            rows = rows @ weight.detach().t()
        before = start if isinstance(start, Tensor) else x.new_zeros(cell.num_layers, batch, cell.hidden_size)
        states, last = _forward_only(cell, [rows], maps[-1:], offset.expand(batch, -1), before)
        return states.transpose(0, 1), last, last
    if len(offset) == 1:
        return _run_torch(cell, x, maps, offset, start)
    offset = offset.detach().expand(batch, -1)
    outputs = x.new_empty(steps, batch, cell.hidden_size)
    turned = tuple(weight.detach().t().contiguous() for weight in maps)
    starts = (start,) if isinstance(start, Tensor) else start
    ends = []
    for low in range(0, batch, _ABREAST):
        part = slice(low, low + _ABREAST)
        first = None if starts is None else tuple(each[:, part].detach() for each in starts)
        ends.append(_run_abreast(cell, x[part], turned, offset[part], first, outputs[:, part]))
    states, cells = (torch.cat(parts, dim=1) for parts in zip(*ends, strict=True))
    return outputs.transpose(0, 1), states, cells


def _run_torch(
    cell: nn.LSTM, x: Tensor, maps: tuple[Tensor, ...], offset: Tensor, start: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the work of `run_gates` by torch's LSTM, which knows one bias for all places."""
    rows = x.transpose(0, 1)
    for weight in maps[:-1]:
        rows = rows @ weight.t()
    _, recurrent, bias, _ = weights_of(cell, 0)
    weights: list[tuple[Tensor, ...]] = [(maps[-1].contiguous(), recurrent, offset[0], torch.zeros_like(bias))]
    weights += [weights_of(cell, layer) for layer in range(1, cell.num_layers)]
    empty = x.new_zeros(cell.num_layers, len(x), cell.hidden_size)
    outputs, states, cells = lstm_in_slices(rows, start or (empty, empty), weights)
    return outputs.transpose(0, 1), states, cells


def _run_abreast(
    cell: nn.LSTM,
    x: Tensor,
    maps: tuple[Tensor, ...],
    offset: Tensor,
    start: tuple[Tensor, ...] | None,
    outputs: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fill the outputs (T, B, H) of a few rows; return states and cells (L, B, H).

    The first layer, to which places add, takes steps here; torch runs the layers above faster than steps here would.
    """
    batch, rows = len(x), np.arange(len(x))
    run = Steps(cell, batch, maps[-1], 1)
    if start is not None:
        run.put(*(part[:1] for part in start))
    at_once, gates = max(1, CHUNK_ROWS // batch), offset.contiguous().numpy()
    for low in range(0, x.shape[1], at_once):
        piece = x[:, low : low + at_once].transpose(0, 1).contiguous()  # (t, B, F)
        for weight in maps[:-1]:
            piece = piece @ weight
        for step in range(len(piece)):
            run.states[:, : run.inputs] = piece[step]
            run.step(gates, rows, 0)
            outputs[low + step].copy_(run.last)
    if cell.num_layers == 1:
        return run.after, run.cells
    later, states, cells = _upper_layers(cell, outputs, start)
    outputs.copy_(later)
    return torch.cat([run.after, states]), torch.cat([run.cells, cells])


def _upper_layers(cell: nn.RNNBase, rows: Tensor, start: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the layers of an LSTM above the first do with its states (T, B, H)."""
    layers = range(1, cell.num_layers)
    first = tuple(part[1:] for part in start) if start else (rows.new_zeros(len(layers), *rows.shape[1:]),) * 2
    return lstm_in_slices(rows, first, [weights_of(cell, layer) for layer in layers])


def multiply_into(out: Tensor, rows: Tensor, maps: tuple[Tensor, ...]) -> None:
    """Add to (R, G) what transposed linear maps, (F, .) ... (., G), make of rows (R, F)."""
    for weight in maps[:-1]:
        rows = rows.mm(weight)
    out.addmm_(rows, maps[-1])


_SLICE = 128
"""Rows of a batch that torch's LSTM is given at once: what it needs for more is fetched from further away."""


def weights_of(cell: nn.RNNBase, layer: int) -> tuple[Tensor, ...]:
    """Return the weights of a layer in torch's order."""
    return tuple(getattr(cell, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def lstm_in_slices(
    rows: Tensor, start: tuple[Tensor, ...], weights: list[tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (T, B, H), states and cells (L, B, H) of torch's LSTM of any weights over rows (T, B, I)."""
    flat = [weight for layer in weights for weight in layer]
    parts = [
        torch.lstm(
            part.contiguous(), [h.contiguous(), c.contiguous()], flat, True, len(weights), 0.0, False, False, False
        )
        for part, h, c in zip(*(each.split(_SLICE, dim=1) for each in (rows, *start)), strict=True)
    ]
    outputs, states, cells = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    return outputs, states, cells


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
    are torch's: over a long run of inputs alone they reach the speed of the products. Where a place adds to its gates,
    and for windows that share their days, see `run_gates` and `Steps`.
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
