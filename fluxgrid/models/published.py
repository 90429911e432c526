"""Weights of the published CarbonBench networks, read by the names they have there.

Their files are state dicts; saved as safetensors they are read without running anything. Heads must be ``linear``: what
is read out there are z-scores of GPP, RECO and NEE.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from fluxgrid.errors import CheckpointError
from fluxgrid.models.heads import LinearHead
from fluxgrid.models.network import Network
from fluxgrid.registry import unknown_name

_ENCODERS = {"dynamic_encoder": "forcing_encoder", "static_encoder": "static_encoder"}
_ATTENTION = {"embedding": "embedding", "transformer": "encoder", "fc": "head.linear"}
_PATCHES = {
    "patch_embedding": "embedding",
    "pos_embed": "positions",
    "encoder": "encoder",
    "static_encoder": "static_encoder",
    "head.0": "joint.0",
    "head.1": "joint.1",
    "head.4": "head.linear",
}
_FORWARD = {"dynamic_encoder": "forcing_encoder", "static_encoder": "modulation", "film_layer_head": "film"}
_INVERSE = {
    "instance_encoder.0": "inverse.embedding",
    "instance_encoder.1": "inverse.norm",
    "temporal_encoder": "inverse.lstm",
    "code_linear": "inverse.code",
}
_PERCEPTRON = {"network.0": "layers.0", "network.3": "layers.3", "network.6": "head.linear"}

NAMES: dict[str, dict[str, str]] = {
    "lstm": {**_ENCODERS, "encoder": "lstm", "out": "head.linear"},
    "ct_lstm": {**_ENCODERS, "encoder": "lstm", "out": "head.linear"},
    "gru": {"gru": "gru", "fc": "head.linear"},
    "ct_gru": {**_ENCODERS, "encoder": "gru", "out": "head.linear"},
    "transformer": _ATTENTION,
    "patch_transformer": _PATCHES,
    "tam_rl": {**_FORWARD, "encoder": "lstm", "out": "head.linear", **_INVERSE},
    "mlp": _PERCEPTRON,
}
"""Beginnings of names there, and here, by architecture."""

_IDLE = ("pe", "decode_linear", "temporal_decoder", "instance_decoder", "static_out")
"""What is no parameter, or takes no part in any prediction."""


def load_published(network: Network, kind: str, *paths: Path) -> None:
    """Give a network the weights of a published one.

    Parameters
    ----------
    network : Network
        Of the same sizes, with a linear head; changed in place and left in evaluation mode.
    kind : str
        Its architecture.
    *paths : Path
        Safetensors of the state dict; of TAM-RL that of the forward and that of the inverse network.

    Raises
    ------
    UnknownName
        If the architecture is none of CarbonBench.
    CheckpointError
        If a file cannot be read, or names or shapes do not fit.
    """
    if kind not in NAMES:
        error = unknown_name("network of CarbonBench", kind, NAMES)
        raise error
    if not isinstance(getattr(network, "head", None), LinearHead):
        message = "Published weights give z-scores without bounds. Build the network with head: linear."
        raise CheckpointError(message)
    try:
        found = {name: value for path in paths for name, value in load_file(path).items()}
        own = {_renamed(name, NAMES[kind]): value for name, value in found.items() if not _idle(name)}
        moments = {name: value for name, value in network.state_dict().items() if name in ("head.scale", "head.centre")}
        network.load_state_dict({**moments, **own})
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: names and shapes that do not fit
        message = (
            f"The published weights {', '.join(map(str, paths))} cannot be read into a {kind} ({error}). Give "
            "safetensors of a network of the same sizes; for tam_rl those of the forward and of the inverse network."
        )
        raise CheckpointError(message) from error
    network.eval()


def _idle(name: str) -> bool:
    """Return whether a published tensor is not needed."""
    return name.split(".")[0] in _IDLE


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Return our name of a published tensor; one that nobody knows stays, and does not fit."""
    start = max((key for key in names if name == key or name.startswith(f"{key}.")), key=len, default="")
    return f"{names[start]}{name[len(start) :]}" if start else name
