"""Steps of recurrent cells where windows or places share something that torch's kernels do not know of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fluxgrid.models.gates import close_gru, close_lstm
from fluxgrid.models.gru_layers import CHUNK_ROWS, run_layers, weights_of
from fluxgrid.models.recurrent import GRU, lstm_in_slices


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
                close_lstm(read, rows, offset, column, self._gates, self._states, at, self._cells[layer])
                continue
            self._multiply_states(layer, at)
            if layer:
                before = self.states[:, at - self.width : at]
                torch.addmm(self._b_in[layer], before, self._into[layer], out=self._inner)
                read, rows, offset = self._inner.numpy(), self._own, 0
            close_gru(read, rows, offset, self._gates, self._bias[layer], self._states, at)
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
        states, last = run_layers(cell, [rows], maps[-1:], offset, before, factors=cell.factors)
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
