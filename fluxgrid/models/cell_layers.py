"""Layers of a GRU or LSTM over a block of places, without gradients: all layers over a few steps, then the next few.

What a layer hands to the next so stays in the cache. Where `fluxgrid.models.packed_product` is available all steps are
one call of a compiled kernel, and a linear map that reads the last layer's states is part of its products: states are
neither kept nor fetched again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fluxgrid.models import packed_product
from fluxgrid.models.network import Beside, Read, read_nothing
from fluxgrid.models.packed_product import pack
from fluxgrid.models.recurrent_kernels import close_cells, close_states, run_grus, run_lstms

CHUNK_ROWS = 1024
"""Rows of steps times places that all layers are run over before the next."""

READ_STEPS = 64
"""Steps whose states are read together: enough for small products over the steps of one place."""


def weights_of(cell: nn.RNNBase, layer: int, suffix: str = "") -> tuple[Tensor, ...]:
    """Return the weights of a layer in torch's order; the suffix ``_reverse`` is the second direction."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return tuple(getattr(cell, f"{name}_l{layer}{suffix}") for name in names)


def halve(gates: Tensor, cell: type[nn.RNNBase]) -> Tensor:
    """Return weights (G, .) or biases (G,) with the rows of logistic gates halved: a logistic is half a tanh of half.

    Those are r and z of a GRU, and i, f and o of an LSTM.
    """
    width = len(gates) // (4 if issubclass(cell, nn.LSTM) else 3)
    kept = slice(2 * width, 3 * width)
    halved = 0.5 * gates
    halved[kept] = gates[kept]
    return halved


class CellWeights(NamedTuple):
    """What L layers multiply and add, as kernels take it: turned, and halved where a gate is logistic (`halve`)."""

    kind: type[nn.RNNBase]
    maps: list[Tensor]
    """(k, G) of each of the inputs that stand side by side, for the lowest layer."""
    base: Tensor
    """(1 or B, G): what comes on top there."""
    upper: list[Tensor]
    """(H, G) of each layer above."""
    onto: list[Tensor]
    """(1, G) of each layer above."""
    recurrent: list[Tensor]
    """(H, G) of each layer."""
    bias: list[Tensor]
    """(H,) of each layer: b_hn of a GRU."""


def cell_weights(cell: nn.RNNBase, maps: Sequence[Tensor], offset: Tensor, lowest: int = 0) -> CellWeights:
    """Return the weights of the layers from the lowest on.

    Parameters
    ----------
    cell : GRU or LSTM
        In one direction.
    maps : sequence of Tensor, (G, k)
        What brings each of the inputs to the gates of the lowest layer.
    offset : Tensor, (G,), (1, G) or (B, G)
        What comes on top of their products: all biases but b_h of a GRU.
    lowest : int
        Number of the lowest layer.
    """
    kind, width = type(cell), cell.hidden_size
    upper, onto, turned, biases = [], [], [], []
    for number in range(lowest, cell.num_layers):
        _, recurrent, _, bias = (weight.detach() for weight in weights_of(cell, number))
        into, given = (None, offset) if number == lowest else input_side(cell, number)
        top = halve(given.detach().reshape(-1, len(recurrent)).t(), kind).t().contiguous()
        if not issubclass(kind, nn.LSTM):
            top[:, : 2 * width] += halve(bias, kind)[: 2 * width]
        onto.append(top)
        if into is not None:
            upper.append(halve(into.detach(), kind).t().contiguous())
        turned.append(halve(recurrent, kind).t().contiguous())
        biases.append(bias[2 * width : 3 * width].contiguous())
    lowest_maps = [halve(each.detach(), kind).t().contiguous() for each in maps]
    return CellWeights(kind, lowest_maps, onto[0], upper, onto[1:], turned, biases)


_TOGETHER = 16
"""Columns that a product works on together: fewer at its end cost as much as so many, and may be rounded otherwise."""


class PackedLayers:
    """Layers over a block of B places in one compiled kernel; only where `fluxgrid.models.packed_product` is available.

    Parameters
    ----------
    weights : CellWeights
    start : sequence of Tensor, (L, B, H)
        States before the first step, and cells of an LSTM.
    readouts : sequence of Linear
        Read the states of the last layer, side by side.

    Attributes
    ----------
    states, cells : Tensor, (L, B, H)
        After the last step that was run; a GRU has no cells.
    """

    def __init__(self, weights: CellWeights, start: Sequence[Tensor], readouts: Sequence[nn.Linear] = ()):
        self._is_lstm = issubclass(weights.kind, nn.LSTM)
        layers, batch, width = start[0].shape
        biases = [each.bias.detach().numpy() for each in readouts]
        self._readout = np.concatenate([np.empty(0, np.float32), *biases])
        reading = start[0].new_zeros(width, _whole(len(self._readout)))
        if readouts:
            torch.cat([each.weight.detach() for each in readouts], out=reading.t()[: len(self._readout)])
        # the widest first: kernels write its product and add the others
        self._order = sorted(range(len(weights.maps)), key=lambda k: -len(weights.maps[k]))
        self._maps = tuple(_packed([weights.maps[k]], batch)[0] for k in self._order)
        self._base, self._upper = weights.base.numpy(), _packed(weights.upper, batch)
        columns = weights.base.shape[1]
        self._onto = start[0].new_empty(layers - 1, 1, columns).numpy()
        for row, onto in zip(self._onto, weights.onto, strict=True):
            row[:] = onto.numpy()
        self._bias = torch.stack(weights.bias).numpy()
        # all gates of an LSTM take one product; n of a GRU wants one of its own, for r comes between
        split = 0 if self._is_lstm else 2 * width
        self._own_columns = _whole(columns - split)
        filling = 0, self._own_columns - columns + split
        own = [nn.functional.pad(each[:, split:], filling) for each in weights.recurrent]
        own[-1] = torch.cat([own[-1], reading], dim=1)
        self._own = _packed(own, batch)
        self._added = _packed([] if self._is_lstm else [each[:, :split] for each in weights.recurrent], batch)
        wide = self._own_columns + reading.shape[1]
        self._gates = np.empty((batch, wide if self._is_lstm else columns), np.float32)
        self._product = np.empty((batch, wide), np.float32)
        self._n = max(1, CHUNK_ROWS // batch)
        self._handed = np.empty((layers - 1, 2 * self._n, batch, width), np.float32)
        self.restart(start)

    def restart(self, start: Sequence[Tensor]) -> None:
        """Go back to states, and cells of an LSTM, (L, B, H)."""
        self.states, self.cells = _copies(start)

    def run(self, parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """Run T steps of inputs side by side, (T, B, k) each, and return what is read of the last layer, (T, B, m).

        `out` (T, B, H) takes its states, if they are wanted.
        """
        steps, batch, _ = parts[0].shape
        kept = self.states.new_empty(2, *self.states.shape[1:]) if out is None else out
        said = self.states.new_empty(steps, batch, len(self._readout))
        inputs, states = tuple(parts[k].numpy() for k in self._order), self.states.numpy()
        lowest, above = (inputs, self._maps, self._base), (self._upper, self._onto)
        rooms = self._handed, kept.numpy(), said.numpy(), self._gates
        if self._is_lstm:
            cells = self.cells.numpy()
            own = self._own, self._readout, self._own_columns
            run_lstms(*lowest, *above, *own, self._n, states, cells, *rooms)
        else:
            weights = self._added, self._own, self._bias, self._readout, self._own_columns
            run_grus(*lowest, *above, *weights, self._n, states, *rooms, self._product)
        return said


class PlainLayers:
    """Layers by products of torch: where there are no packed ones, and for bfloat16.

    Parameters
    ----------
    weights, start
        As `PackedLayers` has them.
    factors : torch.dtype
        Of what is multiplied.
    """

    def __init__(self, weights: CellWeights, start: Sequence[Tensor], factors: torch.dtype = torch.float32):
        self._weights, self._factors = weights, factors
        self._maps, self._upper, self._recurrent = (
            [each.to(factors) for each in some] for some in (weights.maps, weights.upper, weights.recurrent)
        )
        self.states, self.cells = _copies(start)

    def run(self, parts: Sequence[Tensor], out: Tensor) -> Tensor:
        """Run T steps of inputs side by side, (T, B, k) each, fill the states of the last layer, (T, B, H).

        Returns what is read of them on the way: nothing, (T, B, 0).
        """
        n, layers = max(1, CHUNK_ROWS // out.shape[1]), len(self.states)
        for first in range(0, len(out), n):
            rows, own = [part[first : first + n] for part in parts], out[first : first + n]
            for layer in range(layers):
                after = own if layer == layers - 1 else torch.empty_like(own)
                self._run_layer(layer, rows, after)
                rows = [after]
        return read_nothing(out)

    def _run_layer(self, layer: int, rows: Sequence[Tensor], out: Tensor) -> None:
        """Fill the states of one layer after each of a few steps."""
        weights, own = self._weights, self._recurrent[layer]
        maps, base = ([self._upper[layer - 1]], weights.onto[layer - 1]) if layer else (self._maps, weights.base)
        gates = out.new_zeros(*out.shape[:2], base.shape[1])
        for part, turned in zip(rows, maps, strict=True):
            if part.shape[2] > 1 or bool(part.any()):
                gates += part.to(self._factors) @ turned
        before, width = self.states[layer], out.shape[2]
        for now, after in zip(gates, out, strict=True):
            product = before.to(self._factors) @ own
            if issubclass(weights.kind, nn.LSTM):
                now += product
                close_cells(now.numpy(), base.numpy(), self.cells[layer].numpy(), after.numpy())
            else:
                now[:, : 2 * width] += product[:, : 2 * width]
                inner = product[:, 2 * width :].float().contiguous()
                others = weights.bias[layer].numpy(), before.numpy(), after.numpy()
                close_states(now.numpy(), base.numpy(), inner.numpy(), *others)
            before = after
        self.states[layer] = before


def run_layers(
    cell: nn.RNNBase,
    inputs: Sequence[Tensor],
    maps: Sequence[Tensor],
    offset: Tensor,
    start: Sequence[Tensor],
    factors: torch.dtype = torch.float32,
    lowest: int = 0,
    read: Read | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the upper L layers of a GRU or LSTM without gradients, on a CPU and in single precision.

    Parameters
    ----------
    cell, maps, offset, lowest
        As `cell_weights` has them.
    inputs : sequence of Tensor, (T, B, k), contiguous
        Side by side.
    start : sequence of Tensor, (L, B, H)
        States before the first step, and cells of an LSTM.
    factors : torch.dtype
        Of what is multiplied: bfloat16 is faster and less exact.
    read : callable, optional
        What is wanted of the last layer's states. Those of a `Linear`, and `Beside` it, come with the products of the
        steps; others are read a few steps at a time.

    Returns
    -------
    outputs : Tensor, (T, B, H), or (T, B, m) of `read`
        States of the last layer after each step.
    states, cells : Tensor, (L, B, H)
        After the last step; a GRU has no cells, its states twice.
    """
    steps, batch, _ = inputs[0].shape
    if not steps:
        message = "A cell cannot be run over no steps."
        raise ValueError(message)
    weights, first = cell_weights(cell, maps, offset, lowest), [each.detach() for each in start]
    layers: PackedLayers | PlainLayers
    if packed_product.AVAILABLE and factors == torch.float32:
        readouts, read = _readouts(read)
        layers = PackedLayers(weights, first, readouts)
        if read is read_nothing:
            return layers.run(inputs), *_after(layers, weights)
    else:
        layers = PlainLayers(weights, first, factors)
    together = steps if read is None else min(steps, READ_STEPS)
    outputs, found = first[0].new_empty(together, batch, cell.hidden_size), []
    for low in range(0, steps, together):
        rows = [part[low : low + together] for part in inputs]
        out = outputs[: len(rows[0])]
        said = layers.run(rows, out)
        if read is not None:
            found.append(torch.cat([said, read(out)], dim=-1))
    return outputs if read is None else torch.cat(found), *_after(layers, weights)


def _readouts(read: Read | None) -> tuple[list[nn.Linear], Read | None]:
    """Return the linear maps that a read begins with, and the rest of it."""
    if type(read) is nn.Linear and read.bias is not None:  # one that is derived from it may do more
        return [read], read_nothing
    if isinstance(read, Beside) and _readouts(read.linear)[0]:
        more, rest = _readouts(read.more)
        return [read.linear, *more], rest
    return [], read


def _whole(columns: int) -> int:
    """Return the least multiple of `_TOGETHER` that holds so many columns."""
    return -(-columns // _TOGETHER) * _TOGETHER


def _copies(start: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return copies of states and cells, those of a GRU twice, in the one layout that kernels are compiled for."""
    states, cells = (each.clone(memory_format=torch.contiguous_format) for each in (start[0], start[-1]))
    return states, cells


def _packed(weights: Sequence[Tensor], rows: int) -> np.ndarray:
    """Return packed weights (L, .) of layers."""
    return pack([weight.contiguous().numpy() for weight in weights], rows)


def _after(layers: PackedLayers | PlainLayers, weights: CellWeights) -> tuple[Tensor, Tensor]:
    """Return states and cells after the last step; the states twice where there are no cells."""
    return layers.states, layers.cells if issubclass(weights.kind, nn.LSTM) else layers.states


def input_side(cell: nn.RNNBase, layer: int = 0) -> tuple[Tensor, Tensor]:
    """Return the map (G, I) from the inputs of a layer to the input side of its gates, and its bias (G,)."""
    into, _, bias, recurrent = weights_of(cell, layer)
    return into, bias + recurrent if isinstance(cell, nn.LSTM) else bias
