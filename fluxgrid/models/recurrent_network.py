"""What the recurrent networks of CarbonBench share: encoded inputs, a cell over the steps, a head."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fluxgrid.data.windows import WindowMode
from fluxgrid.models.base import Sizes
from fluxgrid.models.recurrent import GRU, LSTM
from fluxgrid.models.windowed import WindowConfig, WindowNetwork


@dataclass(frozen=True)
class RecurrentConfig(WindowConfig):
    """Settings of a recurrent network."""

    window_mode: WindowMode = "stream"
    """How a record is cut: ``exact``, ``stride`` or ``stream``."""
    hidden: Annotated[int, Field(gt=1, multiple_of=2)] = 128
    """Width H of the hidden state."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Stacked layers L."""


class RecurrentNetwork(WindowNetwork):
    """A cell over encoded inputs; architectures say how inputs are encoded and which cell it is."""

    streams: ClassVar[bool] = True
    cell_type: ClassVar[type[GRU] | type[LSTM]]

    def add_cell(self, config: RecurrentConfig, inputs: int) -> None:
        """Add the cell, under the name of the tap, that reads inputs of a width."""
        self.add_module(self.tap, self.cell_type(inputs, config.hidden, config.layers, config.dropout))

    @property
    def cell(self) -> GRU | LSTM:
        """The cell."""
        return getattr(self, self.tap)

    @abstractmethod
    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return what the cell reads, (N, T, I), of inputs (N, T, F) and (N, X)."""

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the states of the last steps, (N, last, H), the cell empty before the window."""
        states, _ = self.cell(self.encode_inputs(dynamic, static))
        return states[:, states.shape[1] - last :]

    def stream(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (B, T, H) and what the cell carries on, (B, K)."""
        states, after = self.cell(self.encode_inputs(dynamic, static), self.cell.unpack(state))
        return states, self.cell.pack(after)

    @property
    def stream_size(self) -> int:
        """Columns of the cell's state."""
        return self.cell.state_size


class TwoEncoders(RecurrentNetwork):
    """Forcings and properties of the place encoded apart, half of the width each, and joined (the CT networks)."""

    def __init__(self, config: RecurrentConfig, sizes: Sizes):
        super().__init__(config, sizes)
        half = config.hidden // 2 if sizes.static else 0
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden - half)
        self.static_encoder = nn.Linear(sizes.static, half) if half else None
        self.add_cell(config, config.hidden)
        self.add_head(config, sizes, config.hidden)
        for encoder in (self.forcing_encoder, self.static_encoder):
            if encoder is not None:
                nn.init.xavier_uniform_(encoder.weight)

    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return the two codes side by side, (N, T, H)."""
        encoded = self.forcing_encoder(dynamic)  # (N, T, H) or (N, T, H/2)
        if self.static_encoder is None:
            return encoded
        place = self.static_encoder(static).unsqueeze(1).expand(-1, dynamic.shape[1], -1)  # (N, T, H/2)
        return torch.cat([encoded, place], dim=-1)
