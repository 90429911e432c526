"""MLP: two hidden layers on one step at a time; no memory.

Source: the MLP baseline of CarbonBench (Rozanov et al.): Linear F+X->H, ReLU, dropout, Linear H->H, ReLU, dropout,
Linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from fluxgrid.models.base import MODELS, STRICT, Sizes
from fluxgrid.models.heads import HEADS, HeadKind
from fluxgrid.models.network import Network, Taps


@MODELS.register("mlp")
@dataclass(frozen=True)
class MLPConfig:
    """Settings of the MLP."""

    hidden: Annotated[int, Field(ge=1)] = 128
    """Width H of both hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of hidden units dropped in training."""
    head: HeadKind = "bounded"
    """``bounded``: fluxes >= 0; ``linear``: standardised fluxes without bounds, as published."""

    differentiable: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def build(self, sizes: Sizes) -> MLP:
        """Return the network with fresh weights."""
        return MLP(self, sizes)


class MLP(Network):
    """See the module's text. B batch, T steps, F channels, X static columns, H hidden, O fluxes."""

    state_size = 0

    def __init__(self, config: MLPConfig, sizes: Sizes):
        super().__init__()
        layers = []
        for width in (sizes.dynamic + sizes.static, config.hidden):
            layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)
        self.head = HEADS[config.head](config.hidden, sizes.fluxes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def run(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Taps:
        """Return the second hidden layer as the one tap ``hidden``; the empty state passes through."""
        place = static.unsqueeze(1).expand(-1, dynamic.shape[1], -1)
        return Taps({"hidden": self.layers(torch.cat([dynamic, place], dim=-1))[:, None]}, {}, state)

    @property
    def readouts(self) -> dict[str, nn.Linear]:
        """The head's linear map."""
        return {"hidden": self.head.linear}

    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return fluxes (B, T, O)."""
        return self.head.close(raw["hidden"][:, 0])

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of each flux."""
        self.head.set_scale(scale)

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of each flux."""
        self.head.set_centre(centre)
