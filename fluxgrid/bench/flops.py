"""The matrix work of a pixel-day, counted from the shapes of a network.

Counted is the least work that the network asks for when every exact shortcut is taken: linear encoders without an
activation are folded into the weights they feed, static inputs are projected once for a place (and so not counted),
heads read the delivered days alone, what windows share is worked out once (also the first layer's queries, keys and
values of a transformer), and the first step of a window multiplies no empty state. KGML-ag is counted unfolded, its
static inputs as any other. Element-wise operations are not counted. An engine that leaves a shortcut out does more than
is counted here, and its share of the peak is the lower for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fluxgrid.models.base import FluxModel
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.models.ensemble import members_of
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.models.patch_transformer import PatchTransformer
from fluxgrid.models.recurrent_network import RecurrentNetwork
from fluxgrid.models.tam_rl import TAMRL
from fluxgrid.models.transformer import Transformer

_GATES = {nn.GRU: 3, nn.LSTM: 4}


@dataclass(frozen=True)
class Work:
    """Matrix work of a pixel-day, FLOP: two for each multiplication with its addition."""

    delivered: float
    """Of a day that is written."""
    spin_up: float
    """Of a day that only builds the state; 0 where the state is the last inputs."""


def work_of(model: FluxModel) -> Work | None:
    """Return the matrix work of a model in its window mode.

    Parameters
    ----------
    model : FluxModel
        A network, or an ensemble of them.

    Returns
    -------
    work : Work or None
        Of all members together; None for what multiplies no matrices (trees), or is not counted here.
    """
    total = Work(0.0, 0.0)
    for member in members_of(model):
        count = next((count for kind, count in _COUNTS.items() if isinstance(member, kind)), None)
        if count is None:
            return None
        delivered, spin_up = count(member)
        total = Work(total.delivered + 2 * delivered, total.spin_up + 2 * spin_up)
    return total


def cell_macs(gates: int, inputs: int, hidden: int, layers: int = 1) -> int:
    """Return the multiplications of a recurrent cell in one step.

    Parameters
    ----------
    gates : int
        3 for a GRU, 4 for an LSTM.
    inputs, hidden, layers : int
        Widths, and stacked layers.

    Returns
    -------
    macs : int

    Examples
    --------
    >>> 2 * (cell_macs(3, 20, 128) + 128), 2 * (cell_macs(4, 20, 128) + 128)  # with a head of one output
    (113920, 151808)
    """
    return gates * hidden * (inputs + hidden + (layers - 1) * 2 * hidden)


def _cell(cell: nn.RNNBase) -> tuple[int, int, int]:
    """Return gates, width and layers of a cell."""
    gates = next(count for kind, count in _GATES.items() if isinstance(cell, kind))
    return gates, cell.hidden_size, cell.num_layers


def _linear(layer: nn.Linear) -> int:
    """Return the multiplications of a linear layer for one row."""
    return layer.in_features * layer.out_features


def _recurrent(network: RecurrentNetwork) -> tuple[float, float]:
    """Count a recurrent network; its encoders are linear and folded into the cell."""
    gates, hidden, layers = _cell(network.cell)
    head = _linear(network.head.linear)
    if network.window_mode == "stream":
        steps = cell_macs(gates, network.channels, hidden, layers)
        return steps + head, steps
    # the input side of the first layer is the same in all windows; states begin anew, empty, in each
    products = layers * (network.window - 1) + (layers - 1) * network.window
    inside = gates * hidden * hidden * products / _answered(network)
    return inside + network.channels * gates * hidden + head, 0.0


def _answered(network: Any) -> int:
    """Return the days that a window answers for."""
    return 1 if network.window_mode == "exact" else network.stride


def _tam_rl(network: TAMRL) -> tuple[float, float]:
    """Count TAM-RL with the code of each window: no decoder, no support window."""
    gates, hidden, layers = _cell(network.lstm)
    latent, days = network.latent, network.inverse.lstm.hidden_size
    per_day = (
        network.channels * (hidden + latent)  # both encoders; static properties of the place are a constant
        + 2 * gates * days * latent  # input side of the inverse cell, two directions
        + _linear(network.head.linear)
    )
    # gain modulates what the cell reads, window by window: its input side is not shared
    after, square = network.window - 1, gates * hidden * hidden  # the first step's state is empty
    inside = layers * (network.window + after) * square + after * 2 * gates * days * days
    codes = _linear(network.inverse.code) + _linear(network.modulation) + _linear(network.film)
    return per_day + (inside + codes) / _answered(network), 0.0


def _attention(encoder: nn.TransformerEncoder, positions: int, last: int) -> int:
    """Count encoder layers of a window, but for the first's queries, keys and values; of the last the read positions.

    The last layer has keys and values of all positions, and the rest of the last ones alone.
    """
    layers: list[Any] = list(encoder.layers)
    hidden, square = layers[0].linear1.in_features, layers[0].linear1.in_features ** 2
    rest = square + 2 * _linear(layers[0].linear1) + 2 * positions * hidden  # output, both linears, attention
    if len(layers) == 1:
        return last * rest
    every = (len(layers) - 1) * positions * rest + (len(layers) - 2) * positions * 3 * square
    return every + positions * 2 * square + last * (square + rest)


def _transformer(network: Transformer) -> tuple[float, float]:
    """Count a Transformer; a day's embedding, and what the first layer makes of it, are the same in all windows."""
    last = _answered(network)
    shared = network.channels * 4 * network.embedding.out_features
    return shared + _attention(network.encoder, network.window, last) / last + _linear(network.head.linear), 0.0


def _patch_transformer(network: PatchTransformer) -> tuple[float, float]:
    """Count a Patch-Transformer: patches that begin on the same day are the same in all windows."""
    last, patches = _answered(network), network.patches
    shared = 4 * _linear(network.embedding) * min(1.0, patches / last)
    head = network.head.linear
    inside = _attention(network.encoder, patches, patches) + _linear(network.joint[1])  # type: ignore[arg-type]
    return shared + inside / last + _linear(head) / network.stride, 0.0


def kgml_ag_macs(network: KGMLAg, diagnose: bool = True) -> int:
    """Return the multiplications of a day of KGML-ag, unfolded; the yield's are once a year and not counted.

    Parameters
    ----------
    network : KGMLAg
    diagnose : bool
        With the network's own NEE, which maps leave out.

    Returns
    -------
    macs : int
    """
    cells = [network.basis, network.ra, network.rh, *([network.nee] if diagnose else [])]
    heads = [network.ra_head, network.rh_head, *([network.nee_head] if diagnose else [])]
    attention = [layer for layer in network.attention if isinstance(layer, nn.Linear)]
    steps = sum(cell_macs(3, cell.input_size, cell.hidden_size, cell.num_layers) for cell in cells)
    return steps + sum(map(_linear, [*heads, *attention]))


def _mosaic(network: CropMosaic) -> tuple[float, float]:
    """Count the two rotations of KGML-ag and the CT-GRU of all other cover."""
    gates, hidden, layers = _cell(network.cover)
    cover = cell_macs(gates, network.cover_forcing.in_features, hidden, layers) + _linear(network.cover_head)
    total = 2 * kgml_ag_macs(network.crop, diagnose=False) + cover
    return total, total


_COUNTS: dict[type, Callable[[Any], tuple[float, float]]] = {
    RecurrentNetwork: _recurrent,
    TAMRL: _tam_rl,
    Transformer: _transformer,
    PatchTransformer: _patch_transformer,
    CropMosaic: _mosaic,
}
