"""Heads: hidden states to fluxes in physical units."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["bounded", "linear"]


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

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of each flux over training sites, (O,), g m-2 d-1; this head needs none."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return fluxes (B, T, O) of hidden states (B, T, H)."""
        return self.close(self.linear(hidden))

    def close(self, raw: Tensor) -> Tensor:
        """Return fluxes of the readout (..., O)."""
        return self.scale * F.softplus(raw)


class LinearHead(FluxHead):
    """Linear map of hidden states to standardised fluxes, ``centre + scale * (w h + b)``, as CarbonBench has it.

    Nothing keeps GPP and RECO from being negative but the closure, which cuts them at 0.
    """

    centre: Tensor

    def __init__(self, hidden: int, fluxes: int):
        super().__init__(hidden, fluxes)
        self.register_buffer("centre", torch.zeros(fluxes))

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of each flux over training sites, (O,), g m-2 d-1."""
        self.centre.copy_(centre)

    def close(self, raw: Tensor) -> Tensor:
        """Return fluxes of the readout (..., O)."""
        return self.centre + self.scale * raw


HEADS: dict[HeadKind, type[FluxHead]] = {"bounded": FluxHead, "linear": LinearHead}
"""Heads by the name that configurations use."""
