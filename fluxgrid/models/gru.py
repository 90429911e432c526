"""GRU: a gated recurrent unit over the forcings as they are; it knows nothing of the place.

Source: the GRU baseline of CarbonBench (Rozanov et al.): GRU, dropout, Linear; static inputs are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import GRU
from fluxgrid.models.recurrent_network import RecurrentConfig, RecurrentNetwork


@MODELS.register("gru")
@dataclass(frozen=True)
class GRUConfig(RecurrentConfig):
    """Settings of the GRU."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of hidden states dropped in training, before the head and between layers."""

    def build(self, sizes: Sizes) -> GRUNetwork:
        """Return the network with fresh weights."""
        return GRUNetwork(self, sizes)


class GRUNetwork(RecurrentNetwork):
    """See the module's text."""

    tap: ClassVar[str] = "gru"
    cell_type = GRU
    folds: ClassVar[bool] = False

    def __init__(self, config: GRUConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.add_cell(config, sizes.dynamic)
        self.add_head(config, sizes, config.hidden)

    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:  # noqa: ARG002
        """Return the forcings, (N, T, F)."""
        return dynamic

    def input_map(self, static: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return that forcings are read as they are."""
        return (), static.new_zeros(1, self.cell.input_size)
