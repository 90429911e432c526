"""Architectures, heads, the registry and checkpoints."""

from fluxgrid.models import crop_mosaic, ct_gru, lightgbm  # noqa: F401  registers them
from fluxgrid.models.base import MODELS, FluxModel, Sizes, model_config, zero_state
from fluxgrid.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, shipped_checkpoints
from fluxgrid.models.spec import NUMERICS_VERSION, ModelSpec

__all__ = [
    "MODELS",
    "NUMERICS_VERSION",
    "Checkpoint",
    "FluxModel",
    "ModelSpec",
    "Sizes",
    "load_checkpoint",
    "model_config",
    "save_checkpoint",
    "shipped_checkpoints",
    "zero_state",
]
