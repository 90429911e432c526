"""Train the part of the mosaic that knows covers apart: GPP of corn, of soybean, and all fluxes of other cover."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_TYPE, YEAR
from fluxgrid.data.inputs import Inputs, design
from fluxgrid.data.scaler import Scaler
from fluxgrid.models.crop_mosaic import COVER_FORCINGS, COVER_STATICS, PARTS, CropMosaic
from fluxgrid.simulation import places_at
from fluxgrid.training.kgml.cells import MOSAIC_INPUTS, Cells, cell_inputs
from fluxgrid.training.kgml.descent import Descent, Report, StepHistory, descend
from fluxgrid.training.kgml.fields import CropFields
from fluxgrid.training.kgml.settings import StepSettings

_LEAST = 0.02
"""Least weight of a cover of a cell, relative to a cell full of it."""


def train_cover(
    mosaic: CropMosaic,
    cells: Cells,
    scaler: Scaler,
    settings: StepSettings,
    seed: int = 0,
    report: Report = lambda _: None,
) -> StepHistory:
    """Fit the CT-GRU of a mosaic to the covers of cells; the state goes from year to year.

    Parameters
    ----------
    mosaic : CropMosaic
        Its `PARTS` are trained, KGML-ag is left alone.
    cells : Cells
        A tenth of them chooses the epoch.
    scaler : Scaler
        Of the inputs.
    settings : StepSettings
        ``batch`` is cells per optimiser step.
    seed : int
    report : callable

    Returns
    -------
    history : StepHistory
    """
    begun = time.perf_counter()
    dynamic, static = cells.tensors(scaler)
    dynamic, static = dynamic[..., : len(COVER_FORCINGS)], static[:, : len(COVER_STATICS)]
    targets = torch.from_numpy(np.stack([cells.parts[name] for name in PARTS], axis=-1))
    weights = torch.from_numpy(np.stack([_weight(cells, name) for name in PARTS], axis=-1).astype(np.float32))
    spread = torch.tensor([float(np.nanstd(cells.parts[name])) or 1.0 for name in PARTS])
    mosaic.set_scale(spread)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(cells), generator=generator)
    held, used = order.split([max(1, len(cells) // 10), len(cells) - max(1, len(cells) // 10)])
    mosaic.requires_grad_(False)
    parts = (mosaic.cover_forcing, mosaic.cover_static, mosaic.cover, mosaic.cover_head)
    for part in parts:
        part.requires_grad_(True)
    descent = Descent([([p for part in parts for p in part.parameters()], 1.0)], settings)

    def losses(rows: Tensor):
        """Yield the loss of each year after the first, which is spin-up."""
        state = torch.zeros(len(rows), mosaic.cover.hidden_size)
        for number, days in enumerate(cells.years):
            hidden, state = mosaic.cover_states(dynamic[rows][:, days], static[rows], state)
            state = state.detach()
            if number:
                guess = mosaic.parts(mosaic.cover_head(hidden))
                yield _loss(guess, targets[rows][:, days], weights[rows][:, days], spread)

    def epoch_loss(_: int) -> float:
        found = []
        for rows in used[torch.randperm(len(used), generator=generator)].split(settings.batch):
            found += [descent.step(loss) for loss in losses(rows)]
        return float(np.mean(found))

    @torch.no_grad()
    def held_out() -> float:
        return float(torch.stack(list(losses(held))).mean())

    history = descend(mosaic, settings, descent, epoch_loss, held_out, "cover", report)
    mosaic.requires_grad_(True)
    return replace(history, seconds=time.perf_counter() - begun)


def _weight(cells: Cells, part: str) -> np.ndarray:
    """Return how much a part counts: as the square root of its share, and where there is none not at all."""
    share = cells.shares[part.rpartition("_")[2]]
    return np.where(share > 0, np.sqrt(np.maximum(share, _LEAST)), 0.0)


def _loss(guess: Tensor, target: Tensor, weight: Tensor, spread: Tensor) -> Tensor:
    """Return the weighted mean squared error of all parts over their variances."""
    error = torch.where(weight > 0, (guess - torch.nan_to_num(target)) / spread, 0.0)
    return (weight * error.square()).sum() / weight.sum().clamp_min(1e-9)


def driver_gpp(
    mosaic: CropMosaic, scaler: Scaler, latitude: np.ndarray, longitude: np.ndarray, days: pd.DatetimeIndex
) -> np.ndarray:
    """Return the GPP of corn and of soybean that a map's KGML-ag would read at places, (2, n, T), g m-2 d-1.

    Parameters
    ----------
    mosaic : CropMosaic
        With its covers trained.
    scaler : Scaler
        Of its inputs.
    latitude, longitude : ndarray, (n,), degrees
    days : DatetimeIndex, (T,)
        Whole calendar years; the first is run twice, as spin-up.

    Returns
    -------
    gpp : ndarray, (2, n, T), float32
        By the satellite where that is what the mosaic reads.
    """
    parts = []
    for first in range(0, len(latitude), 128):
        rows = slice(first, first + 128)
        parts.append(crop_gpp(mosaic, scaler, cell_inputs(places_at(latitude[rows], longitude[rows]), days)))
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def crop_gpp(mosaic: CropMosaic, scaler: Scaler, inputs: Inputs) -> np.ndarray:
    """Return the GPP of corn and of soybean that KGML-ag reads, (2, n, T), g m-2 d-1; the first year runs twice.

    Parameters
    ----------
    mosaic : CropMosaic
    scaler : Scaler
        Of its inputs.
    inputs : Inputs
        (T, n) and (n,), whole years.

    Returns
    -------
    gpp : ndarray, (2, n, T), float32
    """
    if mosaic.config.gpp == "satellite":
        return np.stack([inputs.dynamic["gpp_satellite"].T] * 2)
    dynamic, static = (torch.from_numpy(array) for array in design(inputs, MOSAIC_INPUTS, scaler))
    state = torch.zeros(len(static), mosaic.cover.hidden_size)
    state = mosaic.cover_states(dynamic[:, :365], static, state)[1]
    hidden, _ = mosaic.cover_states(dynamic, static, state)
    return mosaic.parts(mosaic.cover_head(hidden))[..., :2].permute(2, 0, 1).numpy()


def with_driver(fields: CropFields, mosaic: CropMosaic, scaler: Scaler) -> CropFields:
    """Return fields that read the GPP and the year a map reads there, whichever crop stands on them.

    Fields of an external set, which stand nowhere, keep their own GPP.
    """
    if not np.isfinite(fields.latitude).all():
        return replace(fields, features=hold_year(fields.features, mosaic))
    _, first, owner = np.unique(fields.place, return_index=True, return_inverse=True)
    corn, soybean = driver_gpp(mosaic, scaler, fields.latitude[first], fields.longitude[first], fields.time)
    has_corn = fields.features[..., CROP_TYPE] == CORN_CODE
    driven = fields.with_gpp(np.where(has_corn, corn[owner], soybean[owner]))
    return replace(driven, features=hold_year(driven.features, mosaic))


def hold_year(features: np.ndarray, mosaic: CropMosaic) -> np.ndarray:
    """Return inputs of KGML-ag (..., 19) whose year is what a map gives it: as it is, or held at the scaler's mean."""
    if mosaic.config.year == "held":
        features = features.copy()
        features[..., YEAR] = float(mosaic.crop.features[0, YEAR])
    return features
