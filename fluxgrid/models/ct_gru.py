"""CT-GRU: a gated recurrent unit whose input joins encoded forcings and encoded static properties of the place.

Source: the CT-GRU baseline of CarbonBench (Rozanov et al.): Linear F->H/2 beside Linear X->H/2, joined, GRU, dropout,
Linear. By default the head keeps fluxes >= 0 and the state is carried from year to year instead of being rebuilt in
30-day windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import GRU
from fluxgrid.models.recurrent_network import RecurrentConfig, TwoEncoders


@MODELS.register("ct_gru")
@dataclass(frozen=True)
class CTGRUConfig(RecurrentConfig):
    """Settings of CT-GRU."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of hidden states dropped in training, before the head and between layers."""

    def build(self, sizes: Sizes) -> CTGRU:
        """Return the network with fresh weights."""
        return CTGRU(self, sizes)


class CTGRU(TwoEncoders):
    """See the module's text."""

    tap: ClassVar[str] = "gru"
    cell_type = GRU
