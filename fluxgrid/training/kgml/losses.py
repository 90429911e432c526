"""Loss terms of KGML-ag, each a small function of tensors in the scale it says."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def paced(errors: Tensor, threshold: float) -> Tensor:
    """Return the self-paced mean of squared errors: samples above the threshold count as zero.

    Parameters
    ----------
    errors : Tensor, (samples,)
        Mean squared error of each sample.
    threshold : float

    Returns
    -------
    loss : Tensor, ()

    Examples
    --------
    >>> import torch
    >>> float(paced(torch.tensor([0.5, 3.0]), 1.0))
    0.25
    """
    return (errors * (errors < threshold)).mean()


def balance(gpp: Tensor, ra: Tensor, rh: Tensor, nee: Tensor, tolerance: float, counts: Tensor | None = None) -> Tensor:
    """Return how far the carbon balance stays open beyond a tolerance, g m-2 d-1.

    Parameters
    ----------
    gpp, ra, rh, nee : Tensor, any one shape, g m-2 d-1
        Native signs: GPP + Ra + Rh + NEE = 0 closes.
    tolerance : float
        Share of Ra + Rh that may stay open.
    counts : Tensor of bool or float, optional
        What counts; all by default.

    Returns
    -------
    loss : Tensor, ()
        Mean of the hinged absolute residual.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1)
    >>> [round(float(balance(gpp * one, -one, -one, -one, 0.01)), 4) for gpp in (3, 2)]
    [0.0, 0.98]
    """
    reco = ra + rh
    open_ = F.relu((gpp + reco + nee).abs() - tolerance * reco.abs())
    return open_.mean() if counts is None else (counts * open_).mean()


def falling(curve: Tensor, values: Tensor) -> Tensor:
    """Return how steeply a response curve falls: the sum of its negative slopes.

    Parameters
    ----------
    curve : Tensor, (values,)
    values : Tensor, (values,)
        Rising.

    Returns
    -------
    loss : Tensor, ()

    Examples
    --------
    >>> import torch
    >>> float(falling(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 2.0])))
    0.5
    """
    return F.relu(-curve.diff() / values.diff()).sum()


def yield_bounds(grain: Tensor, gpp: Tensor) -> Tensor:
    """Return how far yields leave 0 to half of the year's GPP, g m-2."""
    return F.relu(grain - 0.5 * gpp).mean() + F.relu(-grain).mean()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of two curves, ()."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9)


def determination(guess: Tensor, truth: Tensor) -> Tensor:
    """Return R2 of a curve against another, ()."""
    return 1.0 - (guess - truth).square().sum() / (truth - truth.mean()).square().sum().clamp_min(1e-9)
