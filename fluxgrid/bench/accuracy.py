"""How far single precision is from plain torch modules in double, on a block of places."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from fluxgrid.bench.cubes import middle
from fluxgrid.data.inputs import Places, design, prepare
from fluxgrid.models import Checkpoint, zero_state
from fluxgrid.models.network import Network
from fluxgrid.prediction import BLOCK
from fluxgrid.variables import VARIABLES


@dataclass(frozen=True)
class Accuracy:
    """Errors of the fluxes of a model."""

    max_error: float
    """Largest difference from double precision over the largest absolute value of the flux, the worst flux."""
    max_error_std: float
    """The same over the standard deviation of the flux."""


def block_inputs(checkpoint: Checkpoint, days: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a network is given of a block of made-up places.

    Parameters
    ----------
    checkpoint : Checkpoint
    days : int
        T, from 1 January on.
    seed : int

    Returns
    -------
    dynamic, static, state : Tensor, (B, T, F), (B, S), (B, K), float32
        Made by the functions that the predictor calls; the state is that before any day.
    """
    spec = checkpoint.spec
    places = block_places(checkpoint, days, seed)
    arrays = design(prepare(places, spec.inputs, {})[0], spec.inputs, checkpoint.scaler)
    dynamic, static = (torch.from_numpy(array) for array in arrays)
    return dynamic, static, zero_state(checkpoint.model, BLOCK)


def block_places(checkpoint: Checkpoint, days: int, seed: int = 0) -> Places:
    """Return a block of made-up places with what a model reads of them, over so many days from 1 January on."""
    spec, rng = checkpoint.spec, np.random.default_rng(seed)
    forcings = {name: _values(name, (days, BLOCK), rng) for name in spec.inputs.forcings}
    statics = {name: _values(name, (BLOCK,), rng) for name in (*spec.inputs.static, *spec.inputs.classes)}
    time = pd.date_range("2019-01-01", periods=days)
    where = np.linspace(41.2, 42.4, BLOCK), np.linspace(-95.0, -93.0, BLOCK)
    return Places(time, spec.step, where[0], forcings, statics, longitude=where[1])


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return values of a variable."""
    if VARIABLES[name].role == "class":
        return rng.integers(0, len(VARIABLES[name].classes), shape).astype(np.float32)
    centre, span = middle(name)
    return rng.uniform(centre - span, centre + span, shape).astype(np.float32)


def accuracy_of(checkpoint: Checkpoint, days: int) -> Accuracy | None:
    """Return the errors of a network over a block of 256 places.

    Parameters
    ----------
    checkpoint : Checkpoint
    days : int
        Steps that are run.

    Returns
    -------
    accuracy : Accuracy or None
        None of a model that is no network: trees compare numbers and round nothing.
    """
    if not isinstance(checkpoint.model, Network):
        return None
    given = block_inputs(checkpoint, days)
    ours = checkpoint.model.predict(*given)[0].double()
    wide = copy.deepcopy(checkpoint.model).double().eval()
    parts = []
    with torch.inference_mode():
        for rows in zip(*(part.split(64) for part in given), strict=True):
            parts.append(wide(*(part.double() for part in rows))[0])
    exact = torch.cat(parts)
    gap = (ours - exact).abs().flatten(0, 1).amax(dim=0)
    said = exact.flatten(0, 1)
    return Accuracy(float((gap / said.abs().amax(dim=0)).max()), float((gap / said.std(dim=0)).max()))
