"""Losses in physical units."""

from __future__ import annotations

import torch
from torch import Tensor


def with_nee(fluxes: Tensor) -> Tensor:
    """Return GPP, RECO and NEE = RECO - GPP, (..., 3), of predicted GPP and RECO, (..., 2)."""
    gpp, reco = fluxes[..., 0], fluxes[..., 1]
    return torch.stack([gpp, reco, reco - gpp], dim=-1)


def flux_loss(fluxes: Tensor, targets: Tensor, weights: Tensor, sigma: Tensor) -> Tensor:
    """Return the weighted mean squared error of GPP, RECO and NEE, each over its own variance.

    Every flux counts over the steps it was observed at: a site with GPP alone still teaches GPP.

    Parameters
    ----------
    fluxes : Tensor, (B, T, 2), g m-2 d-1
        Predicted GPP and RECO.
    targets : Tensor, (B, T, 3), g m-2 d-1
        Observed GPP, RECO, NEE; not finite where there is none.
    weights : Tensor, (B, T)
        Quality of the observation.
    sigma : Tensor, (3,), g m-2 d-1
        Standard deviation of each flux over the training sites.

    Returns
    -------
    loss : Tensor, ()

    Examples
    --------
    >>> one = torch.ones(1, 1, 2)
    >>> float(flux_loss(one, torch.tensor([[[2.0, 1.0, float("nan")]]]), torch.ones(1, 1), torch.ones(3)))
    0.5
    """
    seen = torch.isfinite(targets)
    error = (with_nee(fluxes) - torch.where(seen, targets, 0.0)) / sigma
    weight = seen * weights.unsqueeze(-1)
    per_flux = (weight * error.square()).sum(dim=(0, 1)) / weight.sum(dim=(0, 1)).clamp_min(1e-9)
    observed = weight.sum(dim=(0, 1)) > 0
    return per_flux[observed].mean() if observed.any() else (fluxes * 0).sum()
