"""How far heads carry: what every head says at every place, and the bandwidth that leaving places out chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fluxgrid.models.calibration import Heads
from fluxgrid.models.places import Bandwidth, CalibratedPlaces
from fluxgrid.prediction.bandwidth import DEFAULT_GRID, BandwidthGrid, PlaceErrors, choose_bandwidth
from fluxgrid.training.calibrate import Passed, named, outputs_of, spreads

COMPARED = ("gpp", "reco", "nee")
"""Fluxes whose means decide how far a head carries."""


@torch.no_grad()
def bandwidth_of(
    heads: Heads,
    outputs: Sequence[str],
    passed: Passed,
    places: CalibratedPlaces,
    grid: BandwidthGrid = DEFAULT_GRID,
) -> tuple[Bandwidth, pd.DataFrame]:
    """Choose the bandwidth by leaving each place out: its yearly means predicted by the heads of others.

    Parameters
    ----------
    heads : Heads
        Of a kind that shares a pass of the backbone; one row of `passed` for each place at least.
    outputs : sequence of str
        Names of the network's outputs.
    passed : Passed
        The means of its years count, as far as `Passed.year` says which they are.
    places : CalibratedPlaces
        Of the heads.
    grid : BandwidthGrid
        What is tried.

    Returns
    -------
    bandwidth : Bandwidth
    table : DataFrame
        Every combination with its error relative to the global model.
    """
    truth = _means(_compared(named_known(passed.fluxes)), passed.year)
    scale = {name: value**0.5 for name, value in spreads([truth]).items()}
    said = [_stack(_said(heads, None, outputs, passed), scale)]
    for place in range(heads.places):
        said.append(_stack(_said(heads, place, outputs, passed), scale))
    known = _stack(truth, scale)
    rows = [passed.place == place for place in range(heads.places)]
    errors = PlaceErrors.from_outputs(
        [said[0][row].ravel() for row in rows],
        [np.stack([head[row].ravel() for head in said[1:]]) for row in rows],
        [known[row].ravel() for row in rows],
    )
    return choose_bandwidth(places, errors, grid)


def named_known(fluxes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return known fluxes with RECO and NEE where they follow."""
    names = list(fluxes)
    return named(torch.stack([fluxes[name] for name in names], dim=-1), names)


def _compared(fluxes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the fluxes that decide."""
    return {name: fluxes[name] for name in COMPARED if name in fluxes}


def _said(heads: Heads, place: int | None, outputs: Sequence[str], passed: Passed) -> dict[str, Tensor]:
    """Return the means that one head, or the global model, gives at all rows."""
    who = None if place is None else torch.full_like(passed.place, place)
    guess = named(outputs_of(heads.network, None if place is None else heads, passed, who), outputs)
    known = named_known(passed.fluxes)
    # days that nobody observed do not count in either mean
    seen = {n: torch.where(torch.isfinite(known[n]), guess[n], torch.nan) for n in COMPARED if n in known}
    return _means(seen, passed.year)


def _means(fluxes: dict[str, Tensor], year: Tensor) -> dict[str, Tensor]:
    """Return means over each year, (n, Y); NaN where no day is known."""
    own = [year == number for number in range(int(year.max()) + 1)]
    return {
        name: torch.stack([torch.where(days, values, torch.nan).nanmean(dim=1) for days in own], dim=1)
        for name, values in fluxes.items()
    }


def _stack(means: dict[str, Tensor], scale: dict[str, float]) -> np.ndarray:
    """Return means in units of their spread, (n, fluxes, Y)."""
    return torch.stack([means[name] / scale[name] for name in means], dim=1).numpy()
