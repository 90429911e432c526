"""Layers of a GRU or LSTM over a block of places, without gradients: all layers over a few steps, then the next few.

What a layer hands to the next so stays in the cache. Where `fluxgrid.models.packed_product` is available the steps of a
layer are one call of a compiled kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fluxgrid.models import packed_product
from fluxgrid.models.packed_product import pack
from fluxgrid.models.recurrent_kernels import close_cells, close_states, run_gru, run_lstm

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


class Layer:
    """One layer over a block of B places: weights turned, room for n steps.

    Parameters
    ----------
    cell : type
        GRU or LSTM of torch.
    maps : sequence of Tensor, (G, k)
        Columns of W_i for each of the inputs that stand side by side.
    offset : Tensor, (G,), (1, G) or (B, G)
        What comes on top of their products; all biases but b_h of a GRU.
    recurrent, bias : Tensor, (G, H), (G,)
        W_h, and b_h of a GRU.
    start : tuple of Tensor, (B, H)
        State, and cells of an LSTM.
    n : int
    factors : torch.dtype
        Of what is multiplied.

    Attributes
    ----------
    states, cells : Tensor, (B, H)
        After the last step that was run; a GRU has no cells.
    """

    def __init__(
        self,
        cell: type[nn.RNNBase],
        maps: Sequence[Tensor],
        offset: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        start: Sequence[Tensor],
        n: int,
        factors: torch.dtype = torch.float32,
    ):
        self.is_lstm, self.factors = issubclass(cell, nn.LSTM), factors
        batch, width = start[0].shape
        base = halve(offset.reshape(-1, len(recurrent)).t(), cell).t().contiguous()
        # the widest first: kernels write its product and add the others
        self.order = sorted(range(len(maps)), key=lambda k: -maps[k].shape[1])
        weights = [halve(maps[k], cell) for k in self.order]
        turned = halve(recurrent, cell)
        if self.is_lstm:
            weights.append(turned)
        else:
            base[:, : 2 * width] += halve(bias, cell)[: 2 * width]
            weights += [turned[: 2 * width], turned[2 * width :]]
        self.base, self.bias = base.numpy(), bias[2 * width :].contiguous().numpy()
        self.packed = packed_product.AVAILABLE and factors == torch.float32
        rows = [weight.t().contiguous() for weight in weights]
        self.turned: tuple[Any, ...] = tuple(
            pack(each.numpy(), batch) if self.packed else each.to(factors) for each in rows
        )
        self.gates = start[0].new_empty(1 if self.packed else n, batch, len(recurrent))
        self.product = start[0].new_empty(batch, width)
        self.restart(start)

    def restart(self, start: Sequence[Tensor]) -> None:
        """Go back to a state, and cells of an LSTM, (B, H)."""
        self.states = start[0].contiguous()  # kernels are compiled for one layout
        self.cells = start[1].clone(memory_format=torch.contiguous_format) if self.is_lstm else self.states

    def run(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Fill the states after each step, `out` (t, B, H), of inputs side by side, (t, B, k) each; t <= n."""
        inputs, count = [parts[k] for k in self.order], len(parts)
        if not self.packed:
            self._run_plain(inputs, out)
        else:
            arrays = tuple(part.numpy() for part in inputs)
            maps, own = self.turned[:count], self.turned[count:]
            before, after, gates = self.states.numpy(), out.numpy(), self.gates[0].numpy()
            if self.is_lstm:
                run_lstm(arrays, maps, own[0], self.base, before, self.cells.numpy(), after, gates)
            else:
                run_gru(arrays, maps, own[0], own[1], self.base, self.bias, before, after, gates, self.product.numpy())
        self.states = out[-1]

    def _run_plain(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Do what the kernels do by products of torch."""
        rows, count = self.gates[: len(out)], len(parts)
        for k, (part, turned) in enumerate(zip(parts, self.turned[:count], strict=True)):
            if k == 0:
                rows.copy_(part.to(self.factors) @ turned)
            elif part.shape[2] > 1 or bool(part.any()):
                rows += part.to(self.factors) @ turned
        before = self.states
        for gates, after in zip(rows, out, strict=True):
            given, own = before.to(self.factors), self.turned[count:]
            gates[:, : own[0].shape[1]] += given @ own[0]
            if self.is_lstm:
                close_cells(gates.numpy(), self.base, self.cells.numpy(), after.numpy())
            else:
                self.product.copy_(given @ own[1])
                others = self.product.numpy(), self.bias, before.numpy(), after.numpy()
                close_states(gates.numpy(), self.base, *others)
            before = after


def run_layers(
    cell: nn.RNNBase,
    inputs: Sequence[Tensor],
    maps: Sequence[Tensor],
    offset: Tensor,
    start: Sequence[Tensor],
    factors: torch.dtype = torch.float32,
    lowest: int = 0,
    read: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the upper L layers of a GRU or LSTM without gradients, on a CPU and in single precision.

    Parameters
    ----------
    cell : GRU or LSTM
        In one direction.
    inputs : sequence of Tensor, (T, B, k), contiguous
        Side by side.
    maps : sequence of Tensor, (G, k)
        What brings each of them to the gates of the lowest layer.
    offset : Tensor, (G,), (1, G) or (B, G)
        What comes on top, as `Layer` has it.
    start : sequence of Tensor, (L, B, H)
        States before the first step, and cells of an LSTM.
    factors : torch.dtype
        Of what is multiplied: bfloat16 is faster and less exact.
    lowest : int
        Number of the lowest layer that is run.
    read : callable, optional
        What is wanted of the last layer's states, (N, B, H) of a few steps: (N, B, m).

    Returns
    -------
    outputs : Tensor, (T, B, H), or (T, B, m) of `read`
        States of the last layer after each step.
    states, cells : Tensor, (L, B, H)
        After the last step; a GRU has no cells, its states twice.
    """
    steps, batch, _ = inputs[0].shape
    n, kind = max(1, CHUNK_ROWS // batch), type(cell)
    layers = []
    for number in range(lowest, cell.num_layers):
        _, recurrent, _, bias = (weight.detach() for weight in weights_of(cell, number))
        given = [each.detach() for each in maps], offset.detach()
        if number > lowest:
            into, onto = input_side(cell, number)
            given = [into.detach()], onto.detach()
        before = [each[number - lowest].detach() for each in start]
        layers.append(Layer(kind, *given, recurrent, bias, before, n, factors))
    together = steps if read is None else max(n, READ_STEPS // n * n)
    outputs = start[0].new_empty(min(steps, together), batch, cell.hidden_size)
    # two buffers in turn, for the last state of a chunk is the first of the next
    handed = [outputs.new_empty(2, n, batch, cell.hidden_size) for _ in layers[1:]]
    found = []
    for first in range(0, steps, n):
        rows = [part[first : first + n] for part in inputs]
        count, at = len(rows[0]), first % together
        outs = [*(each[first // n % 2, :count] for each in handed), outputs[at : at + count]]
        for layer, out in zip(layers, outs, strict=True):
            layer.run(rows, out)
            rows = [out]
        if read is not None and (at + count == together or first + count == steps):
            found.append(read(outputs[: at + count]))
    states, cells = (torch.stack([getattr(layer, name) for layer in layers]) for name in ("states", "cells"))
    return outputs if read is None else torch.cat(found), states, cells


def input_side(cell: nn.RNNBase, layer: int = 0) -> tuple[Tensor, Tensor]:
    """Return the map (G, I) from the inputs of a layer to the input side of its gates, and its bias (G,)."""
    into, _, bias, recurrent = weights_of(cell, layer)
    return into, bias + recurrent if isinstance(cell, nn.LSTM) else bias
