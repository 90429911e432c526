"""CT-LSTM: a long short-term memory whose input joins encoded forcings and encoded static properties of the place.

Source: the CT-LSTM baseline of CarbonBench (Rozanov et al.): Linear F->H/2 beside Linear X->H/2, joined, LSTM, dropout,
Linear; no dropout between layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import LSTM
from fluxgrid.models.recurrent_network import RecurrentConfig, TwoEncoders


@MODELS.register("ct_lstm")
@dataclass(frozen=True)
class CTLSTMConfig(RecurrentConfig):
    """Settings of CT-LSTM."""

    def build(self, sizes: Sizes) -> CTLSTM:
        """Return the network with fresh weights."""
        return CTLSTM(self, sizes)


class CTLSTM(TwoEncoders):
    """See the module's text."""

    tap: ClassVar[str] = "lstm"
    cell_type = LSTM
