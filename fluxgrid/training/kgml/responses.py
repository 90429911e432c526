"""Response curves: what a network's means do when one input is moved over its range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluxgrid.data.crop_inputs import CROP_FEATURES
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.training.kgml.settings import Budget, KGMLSettings
from fluxgrid.training.kgml.walk import Track, spun_up

# Range and step of each input in z-scores, as the published step 5 tests them (steps are times three there).
# fmt: off
_LOW = (
    -2, -3.5, -2.5, -1.5, -1.5, -2, -0.3889, -1, -0.5, -1.6384, -10, -0.75, -3.25, -4.5, -2.5, -0.75, -0.5, -3.25, -1.75
)
# fmt: on
_HIGH = (2, 2.5, 5, 3.5, 7, 5.5, 10, 1, 5, 1.6384, 2, 4, 1.25, 5, 3, 7.75, 5, 4.25, 3.5)
_STEP = (0.2, 0.3, 0.5, 0.25, 0.5, 0.5, 0.5, 2, 0.25, 0.19275, 0.5, 0.25, 0.25, 0.5, 0.25, 0.5, 0.25, 0.5, 0.25)
RARER = 3
"""Step 5 takes every third value."""


def grid_of(feature: str, rarer: int = 1) -> Tensor:
    """Return the values at which a feature is tested, z-scores.

    Examples
    --------
    >>> grid_of("Crop_Type").tolist(), len(grid_of("TSOC"))
    ([-1.0, 1.0], 23)
    """
    i = CROP_FEATURES.index(feature)
    step = _STEP[i] * (1 if feature == "Crop_Type" else rarer)
    slack = 1e-3 * step  # so that rounding does not lose the end of the range
    return torch.from_numpy(np.arange(_LOW[i], _HIGH[i] + slack, step).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Curves:
    """Means over fields and days at each value of a feature; native signs."""

    values: Tensor
    """(values,), z-scores."""
    ra: Tensor
    """(values,), g m-2 d-1."""
    rh: Tensor
    """The same."""
    grain: Tensor
    """Yield, (values,), z-scores."""


def thinned(values: Tensor, budget: Budget | None, generator: torch.Generator) -> Tensor:
    """Return some of a grid's values in order, drawn anew; all of them without a budget."""
    if budget is None or len(values) <= budget.values:
        return values
    return values[torch.randperm(len(values), generator=generator)[: budget.values].sort().values]


def fields_for_responses(track: Track, budget: Budget | None, seed: int) -> Track:
    """Return the fixed few fields that responses are tested on, with some of their years or, without a budget, all."""
    count = Budget().sites if budget is None else budget.sites
    some = track.rows(torch.randperm(len(track), generator=torch.Generator().manual_seed(seed))[:count])
    years = some.years if budget is None else some.years[: budget.years]
    return Track(some.z, some.targets, some.grain, years, some.counts)


def spin_up_of(settings: KGMLSettings) -> tuple[int, bool]:
    """Return the years that responses run first, and whether these run again and count: without a budget they do.

    Examples
    --------
    >>> spin_up_of(KGMLSettings()), spin_up_of(KGMLSettings(budget=Budget(years=2)))
    ((2, True), (1, False))
    """
    if settings.budget is None:
        return settings.spin_up_years, True
    return min(1, settings.budget.years - 1), False


def respond(
    network: KGMLAg, track: Track, feature: str, values: Tensor, spin_up: int, *, again: bool = False
) -> Curves:
    """Return the response curves of a network to one feature; gradients pass.

    Parameters
    ----------
    network : KGMLAg
    track : Track
        Fields whose inputs are varied, all years of it.
    feature : str
        Name of an input.
    values : Tensor, (values,)
        What it is set to on all days, z-scores.
    spin_up : int
        Years run first without gradient.
    again : bool
        Run these once more and average over all years, as published; otherwise over those after them.

    Returns
    -------
    curves : Curves
    """
    n, column = len(track), CROP_FEATURES.index(feature)
    z = track.z.repeat(len(values), 1, 1)
    z[..., column] = values.repeat_interleave(n)[:, None]
    varied = Track(z, track.targets, track.grain, track.years, track.counts)
    state = spun_up(network, varied, spin_up)
    means: list[tuple[Tensor, Tensor, Tensor]] = []
    for days in track.years if again or spin_up >= len(track.years) else track.years[spin_up:]:
        result = network(z[:, days], state)
        state = result.state
        means.append((result.ra.mean(dim=1), result.rh.mean(dim=1), result.grain))
    ra, rh, grain = (
        torch.stack(part).mean(dim=0).view(len(values), n).mean(dim=1) for part in zip(*means, strict=True)
    )
    return Curves(values, network.physical("ra", ra), network.physical("rh", rh), grain)
