"""CT-GRU: a gated recurrent unit whose input joins encoded forcings and encoded static properties of the place.

Source: the CT-GRU baseline of CarbonBench (Rozanov et al.): Linear F->H/2 beside Linear S->H/2, joined, GRU, dropout,
Linear. Here the head keeps fluxes >= 0 and the state is carried from year to year instead of being rebuilt in 30-day
windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from fluxgrid.models.base import MODELS, STRICT, Sizes
from fluxgrid.models.heads import FluxHead
from fluxgrid.models.network import Network, Taps
from fluxgrid.models.recurrent import GRU


@MODELS.register("ct_gru")
@dataclass(frozen=True)
class CTGRUConfig:
    """Settings of CT-GRU."""

    hidden: Annotated[int, Field(gt=1, multiple_of=2)] = 128
    """Width H of the hidden state; each encoder gives half of it."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Stacked GRU layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of hidden states dropped in training, before the head and between layers."""

    differentiable: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def build(self, sizes: Sizes) -> CTGRU:
        """Return the network with fresh weights."""
        return CTGRU(self, sizes)


class CTGRU(Network):
    """See the module's text. B batch, T time, F channels, S static columns, H hidden, L layers, O fluxes."""

    def __init__(self, config: CTGRUConfig, sizes: Sizes):
        super().__init__()
        half = config.hidden // 2 if sizes.static else 0
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden - half)
        self.static_encoder = nn.Linear(sizes.static, half) if half else None
        self.gru = GRU(config.hidden, config.hidden, config.layers, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.head = FluxHead(config.hidden, sizes.fluxes)
        self.state_size = config.layers * config.hidden
        for encoder in (self.forcing_encoder, self.static_encoder):
            if encoder is not None:
                nn.init.xavier_uniform_(encoder.weight)

    def run(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Taps:
        """Return the GRU's states as the one tap ``gru``, and the state (B, L*H) after the last step."""
        batch, steps, _ = dynamic.shape
        encoded = self.forcing_encoder(dynamic)  # (B, T, H) or (B, T, H/2)
        if self.static_encoder is not None:
            place = self.static_encoder(static).unsqueeze(1).expand(batch, steps, -1)  # (B, T, H/2)
            encoded = torch.cat([encoded, place], dim=-1)  # (B, T, H)
        start = state.view(batch, self.gru.num_layers, -1).transpose(0, 1).contiguous()  # (L, B, H)
        hidden, last = self.gru(encoded, start)
        return Taps({"gru": self.dropout(hidden)[:, None]}, {}, last.transpose(0, 1).reshape(batch, -1))

    @property
    def readouts(self) -> dict[str, nn.Linear]:
        """The head's linear map."""
        return {"gru": self.head.linear}

    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return fluxes (B, T, O)."""
        return self.head.close(raw["gru"][:, 0])

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of each flux."""
        self.head.set_scale(scale)
