"""What every architecture keeps to, and the registry they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor

from fluxgrid.errors import ConfigError, itemise
from fluxgrid.registry import Registry, unknown_name

PREDICTED_FLUXES = ("gpp", "reco")
"""What a model predicts; NEE = RECO - GPP follows (closure ``derived``)."""


@dataclass(frozen=True)
class Sizes:
    """Widths of the tensors of one model."""

    dynamic: int
    static: int
    fluxes: int = len(PREDICTED_FLUXES)
    classes: Mapping[str, range] = field(default_factory=dict)
    """Static columns, one-hot, of each class variable."""


@runtime_checkable
class FluxModel(Protocol):
    """A backbone with its head: inputs and state in, fluxes and state out; pure in evaluation.

    Shapes: batch B, time T, channels F, static columns S, fluxes O, state columns K (0 for a model without memory).
    """

    state_size: int

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O), g m-2 d-1, and the state (B, K) after the last step.

        GPP and RECO are >= 0 unless the head is linear; an NEE of its own has either sign.

        `dynamic` is (B, T, F) and `static` (B, S), both scaled; `state` is (B, K), zeros at the start.
        """
        ...

    def save_weights(self, folder: Path) -> list[Path]:
        """Write the weights into a checkpoint folder and return the files written."""
        ...

    def load_weights(self, folder: Path) -> None:
        """Read the weights of a checkpoint folder; OSError, ValueError or KeyError where they do not fit."""
        ...


class ModelConfig(Protocol):
    """Settings of one architecture: a frozen dataclass that builds it."""

    differentiable: ClassVar[bool]

    def build(self, sizes: Sizes) -> FluxModel:
        """Return the model with fresh weights."""
        ...


STRICT = ConfigDict(extra="forbid")
"""Pydantic settings of every architecture's dataclass: a key nobody knows is an error."""

MODELS: Registry[type[Any]] = Registry("model", group="fluxgrid.models")
"""Architectures by name; the values are `ModelConfig` dataclasses."""


def model_config(kind: str, settings: dict[str, Any]) -> ModelConfig:
    """Return the checked settings of an architecture.

    Parameters
    ----------
    kind : str
        Name in `MODELS`.
    settings : dict
        Its options.

    Returns
    -------
    config : ModelConfig

    Raises
    ------
    UnknownName
        If no architecture has that name.
    ConfigError
        Listing every option that is unknown or out of range.
    """
    try:
        return TypeAdapter(MODELS[kind]).validate_python(settings)
    except ValidationError as error:
        options = [option.name for option in fields(MODELS[kind])]
        problems = [_problem(options, ".".join(map(str, e["loc"])), e) for e in error.errors()]
        raise ConfigError(itemise(f"Options of the model {kind!r} are wrong", problems)) from error


def _problem(options: list[str], name: str, found: ErrorDetails) -> str:
    """Return one line about an option."""
    if found["type"] == "unexpected_keyword_argument":
        return f"{name}: {unknown_name('option', name, options)}"
    return f"{name}: {found['msg'][0].lower()}{found['msg'][1:]} (given {found['input']!r})"


def zero_state(model: FluxModel, batch: int) -> Tensor:
    """Return the state before the first step, (batch, K)."""
    return torch.zeros(batch, model.state_size)
