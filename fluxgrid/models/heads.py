"""Heads: hidden states to fluxes in physical units."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FluxHead(nn.Module):
    """Linear map of hidden states to fluxes that are never negative.

    Each flux is ``scale * softplus(w h + b)``, g m-2 d-1, so that GPP, RECO >= 0 holds for any input and NEE, formed
    as RECO - GPP, closes exactly.

    Parameters
    ----------
    hidden : int
        Width H of the hidden states.
    fluxes : int
        Number O of fluxes.
    """

    scale: Tensor

    def __init__(self, hidden: int, fluxes: int):
        super().__init__()
        self.linear = nn.Linear(hidden, fluxes)
        self.register_buffer("scale", torch.ones(fluxes))

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of each flux, (O,), g m-2 d-1, > 0: the standard deviation over training sites."""
        self.scale.copy_(scale)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return fluxes (B, T, O) of hidden states (B, T, H)."""
        return self.close(self.linear(hidden))

    def close(self, raw: Tensor) -> Tensor:
        """Return fluxes of the readout (..., O)."""
        return self.scale * F.softplus(raw)
