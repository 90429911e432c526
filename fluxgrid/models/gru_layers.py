"""Layers of a GRU over a block of places, without gradients: all layers over a few steps, then the next few.

What a layer hands to the next so stays in the cache. Where `fluxgrid.models.packed_product` is available the steps of a
layer are one call of a compiled kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fluxgrid.models import packed_product
from fluxgrid.models.gates import close_only, compiled
from fluxgrid.models.packed_product import PACKED, PLAIN, ROWS_FIRST, multiply, pack

CHUNK_ROWS = 1024
"""Rows of steps times places that all layers are run over before the next."""

Read = Callable[[Tensor], Tensor]
"""What is read out of states (t, B, H): (t, B, m)."""


def weights_of(cell: nn.RNNBase, layer: int) -> tuple[Tensor, ...]:
    """Return the weights of a layer in torch's order."""
    return tuple(getattr(cell, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


@compiled
def _run_steps(inputs, maps, base, both, new, bias, before, out, gates, product):
    """Fill the states after each step, `out` (n, B, H), from the state `before` (B, H).

    `inputs` are a tuple of (n, B, k), `maps` their packed weights; `both` and `new` those of the state for r and z, and
    for n; `base` (1 or B, 3H) and `bias` (H,) as `close_only` has them. `gates` (B, 3H) and `product` (B, H) are room.
    """
    steps, batch, width = out.shape
    fresh, added = np.float32(0.0), np.float32(1.0)
    for t in range(steps):
        old = before if t == 0 else out[t - 1]
        for k in range(len(inputs)):
            x = inputs[k][t]
            # a lone column is mostly zero, an event of a few days
            if k == 0 or x.shape[1] > 1 or x.any():
                beta = added if k else fresh
                multiply(
                    *(ROWS_FIRST, PLAIN, PACKED, batch, 3 * width, x.shape[1], x.ctypes, x.shape[1]),
                    *(maps[k].ctypes, 3 * width, beta, gates.ctypes, 3 * width),
                )
        multiply(
            *(ROWS_FIRST, PLAIN, PACKED, batch, 2 * width, width, old.ctypes, width),
            *(both.ctypes, 2 * width, added, gates.ctypes, 3 * width),
        )
        multiply(
            *(ROWS_FIRST, PLAIN, PACKED, batch, width, width, old.ctypes, width),
            *(new.ctypes, width, fresh, product.ctypes, width),
        )
        close_only(gates, base, product, bias, old, out[t])


class _Layer:
    """One layer over a block of B places: weights turned, room for n steps.

    Parameters
    ----------
    maps : sequence of Tensor, (3H, k)
        Columns of W_i for each of the inputs that stand side by side.
    offset : Tensor, (3H,) or (B, 3H)
        What comes on top of their products, b_i and all.
    recurrent, bias : Tensor, (3H, H), (3H,)
    start : Tensor, (B, H)
    n : int
    factors : torch.dtype
        Of what is multiplied.
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
        batch, width = start.shape
        halved = start.new_ones(3 * width)
        halved[: 2 * width] = 0.5  # a logistic function is half a tanh of half its argument
        base = offset.reshape(-1, 3 * width).clone()
        base[:, : 2 * width] += bias[: 2 * width]
        self.base = (base * halved).numpy()
        self.bias = bias[2 * width :].contiguous().numpy()
        # the widest first: kernels write its product and add the others
        self.order = sorted(range(len(maps)), key=lambda k: -maps[k].shape[1])
        turned = (recurrent * halved[:, None]).t()
        weights = [(maps[k] * halved[:, None]).t() for k in self.order]
        weights += [turned[:, : 2 * width], turned[:, 2 * width :]]
        self.packed = packed_product.AVAILABLE and factors == torch.float32
        if self.packed:
            *self.maps, self.both, self.new = (pack(weight.contiguous().numpy(), batch) for weight in weights)
        else:
            *self.turned, self.turned_both, self.turned_new = (weight.contiguous().to(factors) for weight in weights)
        self.gates = start.new_empty(1 if self.packed else n, batch, 3 * width)
        self.product = start.new_empty(batch, width)
        self.before = start.contiguous()  # kernels are compiled for one layout

    def run(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Fill the states after each step, `out` (t, B, H), of inputs side by side, (t, B, k) each; t <= n."""
        parts = [parts[k] for k in self.order]
        if self.packed:
            inputs = tuple(part.numpy() for part in parts)
            room = self.gates[0].numpy(), self.product.numpy()
            weights = tuple(self.maps), self.base, self.both, self.new, self.bias
            _run_steps(inputs, *weights, self.before.numpy(), out.numpy(), *room)
        else:
            self._run_plain(parts, out)
        self.before = out[-1]

    def _run_plain(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Do what `_run_steps` does by products of torch."""
        width, factors = out.shape[2], self.turned_new.dtype
        rows = self.gates[: len(out)]
        for k, (part, turned) in enumerate(zip(parts, self.turned, strict=True)):
            if k == 0:
                rows.copy_(part.to(factors) @ turned)
            elif part.shape[2] > 1 or bool(part.any()):
                rows += part.to(factors) @ turned
        before = self.before
        for t, after in enumerate(out.unbind()):
            given = before.to(factors)
            rows[t, :, : 2 * width] += given @ self.turned_both
            self.product.copy_(given @ self.turned_new)
            arrays = rows[t].numpy(), self.base, self.product.numpy(), self.bias, before.numpy(), after.numpy()
            close_only(*arrays)
            before = after


def run_layers(
    cell: nn.GRU,
    inputs: Sequence[Tensor],
    maps: Sequence[Tensor],
    offset: Tensor,
    start: Tensor,
    read: Read | None = None,
    factors: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Run a GRU without gradients, on a CPU and in single precision.

    Parameters
    ----------
    cell : GRU
        Of L layers.
    inputs : sequence of Tensor, (T, B, k), contiguous
        Side by side.
    maps : sequence of Tensor, (3H, k)
        What brings each of them to the gates of the first layer.
    offset : Tensor, (3H,) or (B, 3H)
        What comes on top, b_i and all.
    start : Tensor, (L, B, H)
        States before the first step.
    read : callable, optional
        What is wanted of the states of the last layer; the states themselves unless given.
    factors : torch.dtype
        Of what is multiplied: bfloat16 is faster and less exact.

    Returns
    -------
    found : Tensor, (T, B, H), or (T, B, m) of `read`
    states : Tensor, (L, B, H)
        After the last step.
    """
    steps, batch, _ = inputs[0].shape
    width, n = cell.hidden_size, max(1, CHUNK_ROWS // batch)
    layers = []
    for number in range(cell.num_layers):
        into, recurrent, b_in, b_re = (weight.detach() for weight in weights_of(cell, number))
        given = ([into], b_in) if number else ([each.detach() for each in maps], offset.detach())
        layers.append(_Layer(*given, recurrent, b_re, start[number].detach(), n, factors))
    whole = start.new_empty(steps, batch, width) if read is None else None
    # two buffers in turn, for the last state of a chunk is the first of the next
    handed = [start.new_empty(2, n, batch, width) for _ in (layers[1:] if read is None else layers)]
    found = []
    for first in range(0, steps, n):
        rows = [part[first : first + n] for part in inputs]
        count = len(rows[0])
        outs = [each[first // n % 2, :count] for each in handed]
        if whole is not None:
            outs.append(whole[first : first + n])
        for layer, out in zip(layers, outs, strict=True):
            layer.run(rows, out)
            rows = [out]
        if read is not None:
            found.append(read(rows[0]))
    last = torch.stack([layer.before for layer in layers])
    return whole if whole is not None else torch.cat(found), last
