"""Heads: hidden states to fluxes in physical units."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["bounded", "linear"]


class FluxHead(nn.Module):
    """Linear map of hidden states to fluxes, of which GPP and RECO are never negative.

    GPP and RECO are ``scale * softplus(w h + b)``, g m-2 d-1, so that they are >= 0 for any input and NEE, formed as
    RECO - GPP, closes exactly. An NEE of the head's own, which has either sign, is ``scale * (w h + b)``.

    Parameters
    ----------
    hidden : int
        Width H of the hidden states.
    fluxes : int
        Number O of fluxes: GPP and RECO, and NEE where there are three.
    """

    scale: Tensor

    def __init__(self, hidden: int, fluxes: int):
        super().__init__()
        self.linear = nn.Linear(hidden, fluxes)
        self.register_buffer("scale", torch.ones(fluxes))

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of GPP, RECO, NEE, g m-2 d-1, > 0: their standard deviation over training sites.

        Given all three, a head takes those it predicts.
        """
        self.scale.copy_(scale[: len(self.scale)])

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of GPP, RECO, NEE over training sites, g m-2 d-1; this head needs none."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return fluxes (B, T, O) of hidden states (B, T, H)."""
        return self.close(self.linear(hidden))

    def close(self, raw: Tensor) -> Tensor:
        """Return fluxes of the readout (..., O)."""
        bounded = F.softplus(raw[..., :2])
        return self.scale * (bounded if raw.shape[-1] <= 2 else torch.cat([bounded, raw[..., 2:]], dim=-1))


class LinearHead(FluxHead):
    """Linear map of hidden states to standardised fluxes, ``centre + scale * (w h + b)``, as CarbonBench has it.

    Nothing keeps GPP and RECO from being negative but the closure, which cuts them at 0.
    """

    centre: Tensor

    def __init__(self, hidden: int, fluxes: int):
        super().__init__(hidden, fluxes)
        self.register_buffer("centre", torch.zeros(fluxes))

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of GPP, RECO, NEE over training sites, g m-2 d-1; a head takes those it predicts."""
        self.centre.copy_(centre[: len(self.centre)])

    def close(self, raw: Tensor) -> Tensor:
        """Return fluxes of the readout (..., O)."""
        return self.centre + self.scale * raw


HEADS: dict[HeadKind, type[FluxHead]] = {"bounded": FluxHead, "linear": LinearHead}
"""Heads by the name that configurations use."""
