"""Architectures, heads, the registry and checkpoints."""

from fluxgrid.models import (  # noqa: F401  registers them
    crop_mosaic,
    ct_gru,
    ct_lstm,
    gru,
    lightgbm,
    lstm,
    mlp,
    patch_transformer,
    tam_rl,
    transformer,
    xgboost,
)
from fluxgrid.models.base import MODELS, FluxModel, Sizes, model_config, zero_state
from fluxgrid.models.checkpoint import Checkpoint, Precision, load_checkpoint, save_checkpoint, shipped_checkpoints
from fluxgrid.models.spec import NUMERICS_VERSION, ModelSpec

__all__ = [
    "MODELS",
    "NUMERICS_VERSION",
    "Checkpoint",
    "FluxModel",
    "ModelSpec",
    "Precision",
    "Sizes",
    "load_checkpoint",
    "model_config",
    "save_checkpoint",
    "shipped_checkpoints",
    "zero_state",
]
