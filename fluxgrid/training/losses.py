"""Losses in physical units, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor


@dataclass(frozen=True)
class LossSettings:
    """What the loss is made of, term by term; the mean square error over the fluxes' variances is always in it.

    Factors of sites count against the others of a batch, whose weights are made to sum to 1. In regime ``meta`` a batch
    is one site, so that there they count in the choice of the epoch only.
    """

    quality: bool = True
    """Weigh each step by the share of good half-hours of its observation."""
    classes: tuple[str, ...] = ()
    """Class variables whose classes weigh alike: all observed steps / (classes x steps of the class), multiplied over
    the variables; CarbonBench balances ``igbp`` and ``climate_group``."""
    site_variance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far errors count in units of their own site's variability instead of that of all sites: 0 not at all, 1
    fully, as in the loss of Kratzert et al. 2019 (doi 10.5194/hess-23-5089-2019): a quiet site counts as much as a busy
    one, as it does in a median of R2 over sites."""
    carbon_balance: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the carbon balance, for a head with an NEE of its own; where NEE is derived it holds anyway."""
    as_published: bool = False
    """Balance z-scores, as the published code does, instead of fluxes; the two agree only where GPP, RECO and NEE have
    one variance, and means that balance."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation (> 0) of GPP, RECO and NEE over training sites, (3,) each, g m-2 d-1."""

    mean: Tensor
    std: Tensor


def with_nee(fluxes: Tensor) -> Tensor:
    """Return GPP, RECO and NEE, (..., 3), of predicted GPP and RECO, (..., 2); an NEE that is predicted stays."""
    if fluxes.shape[-1] == 3:
        return fluxes
    gpp, reco = fluxes[..., 0], fluxes[..., 1]
    return torch.stack([gpp, reco, reco - gpp], dim=-1)


def flux_loss(fluxes: Tensor, targets: Tensor, weights: Tensor, sigma: Tensor) -> Tensor:
    """Return the weighted mean squared error of GPP, RECO and NEE, each over its own variance.

    Every flux counts over the steps it was observed at: a site with GPP alone still teaches GPP.

    Parameters
    ----------
    fluxes : Tensor, (B, T, 2) or (B, T, 3), g m-2 d-1
        Predicted GPP and RECO, and NEE where the head has its own.
    targets : Tensor, (B, T, 3), g m-2 d-1
        Observed GPP, RECO, NEE; not finite where there is none.
    weights : Tensor, (B, T) or (B, T, 3)
        Quality of the observation, times how much its site, class and flux count.
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
    weight = seen * (weights if weights.ndim == targets.ndim else weights.unsqueeze(-1))
    per_flux = (weight * error.square()).sum(dim=(0, 1)) / weight.sum(dim=(0, 1)).clamp_min(1e-9)
    observed = weight.sum(dim=(0, 1)) > 0
    return per_flux[observed].mean() if observed.any() else (fluxes * 0).sum()


def balance_loss(fluxes: Tensor, moments: Moments, as_published: bool = False) -> Tensor:
    """Return the mean square of what the fluxes fail to add up by, NEE - (RECO - GPP), over the spread of NEE.

    Parameters
    ----------
    fluxes : Tensor, (..., 3), g m-2 d-1
        Predicted GPP, RECO and NEE.
    moments : Moments
    as_published : bool
        Of z-scores: the square of NEE_z - (RECO_z - GPP_z), as the code of CarbonBench has it.

    Returns
    -------
    loss : Tensor, ()
        0 for fluxes that add up, unless as published.

    Examples
    --------
    >>> closed = torch.tensor([[3.0, 1.0, -2.0]])
    >>> moments = Moments(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([2.0, 1.0, 1.0]))
    >>> float(balance_loss(closed, moments)), float(balance_loss(closed, moments, as_published=True))
    (0.0, 0.25)
    """
    if as_published:
        gpp, reco, nee = ((fluxes - moments.mean) / moments.std).unbind(dim=-1)
        return (nee - (reco - gpp)).square().mean()
    gpp, reco, nee = fluxes.unbind(dim=-1)
    return ((nee - (reco - gpp)) / moments.std[2]).square().mean()
