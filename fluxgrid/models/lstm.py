"""LSTM: a long short-term memory over encoded forcings; it knows nothing of the place.

Source: the LSTM baseline of CarbonBench (Rozanov et al.): Linear F->H, LSTM, dropout, Linear; static inputs are not
read, and there is no dropout between layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import LSTM
from fluxgrid.models.recurrent_network import RecurrentConfig, RecurrentNetwork


@MODELS.register("lstm")
@dataclass(frozen=True)
class LSTMConfig(RecurrentConfig):
    """Settings of the LSTM."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of hidden states dropped in training, before the head."""

    def build(self, sizes: Sizes) -> LSTMNetwork:
        """Return the network with fresh weights."""
        return LSTMNetwork(self, sizes)


class LSTMNetwork(RecurrentNetwork):
    """See the module's text."""

    tap: ClassVar[str] = "lstm"
    cell_type = LSTM

    def __init__(self, config: LSTMConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden)
        self.add_cell(config, config.hidden)
        self.add_head(config, sizes, config.hidden)
        nn.init.xavier_uniform_(self.forcing_encoder.weight)

    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:  # noqa: ARG002
        """Return encoded forcings, (N, T, H)."""
        return self.forcing_encoder(dynamic)

    def input_map(self, static: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: ARG002
        """Return the encoder of the forcings, and its bias."""
        return (self.forcing_encoder.weight,), self.forcing_encoder.bias[None]
