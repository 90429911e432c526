"""Permutation importance: how much worse a model gets when one input is shuffled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fluxgrid.data.inputs import InputSpec
from fluxgrid.models import FluxModel
from fluxgrid.training.fit import Batch, plan, spread, stack, validation_loss
from fluxgrid.training.sequences import Sequence


def permutation_importance(
    model: FluxModel, sequences: list[Sequence], spec: InputSpec, window: int, seed: int, most: int = 256
) -> np.ndarray:
    """Return the importance of every predictor column.

    Parameters
    ----------
    model : FluxModel
        Trained.
    sequences : list of Sequence
        Sites the importance is measured on.
    spec : InputSpec
    window : int
        Scored steps of a window.
    seed : int
    most : int
        Most windows used.

    Returns
    -------
    importance : ndarray, (n_dynamic + n_static,), >= 0
        Growth of the loss when the input is shuffled over windows and steps; every column of a class variable gets
        the growth that shuffling the class makes. All ones if no shuffling hurts.
    """
    rng = np.random.default_rng(seed)
    windows = plan(model, sequences, window)
    # windows of one length: the padding of shorter ones would be shuffled into the data
    longest = max(w.stop - w.start for w in windows)
    windows = [w for w in windows if w.stop - w.start == longest]
    if len(windows) > most:
        windows = [windows[i] for i in sorted(rng.choice(len(windows), most, replace=False))]
    batch = stack(windows, sequences)
    sigma = spread(sequences)
    base = validation_loss(model, batch, sigma)
    columns = []
    for channel in range(spec.n_dynamic):
        columns.append(max(validation_loss(model, _shuffle_channel(batch, channel, rng), sigma) - base, 0.0))
    for names in _static_groups(spec):
        growth = max(validation_loss(model, _shuffle_static(batch, names, rng), sigma) - base, 0.0)
        columns += [growth] * len(names)
    importance = np.array(columns)
    return importance if importance.any() else np.ones_like(importance)


def _static_groups(spec: InputSpec) -> list[list[int]]:
    """Return the static columns that belong together: one number, or all columns of one class."""
    owners = [column.split("=")[0] for column in spec.static_columns]
    return [[i for i, owner in enumerate(owners) if owner == name] for name in (*spec.static, *spec.classes)]


def _shuffle_channel(batch: Batch, channel: int, rng: np.random.Generator) -> Batch:
    """Return the batch with one dynamic channel shuffled over windows and steps."""
    dynamic = batch.dynamic.clone()
    values = dynamic[..., channel].flatten()
    dynamic[..., channel] = values[torch.from_numpy(rng.permutation(len(values)))].view(dynamic.shape[:2])
    return replace(batch, dynamic=dynamic)


def _shuffle_static(batch: Batch, columns: list[int], rng: np.random.Generator) -> Batch:
    """Return the batch with some static columns shuffled over windows, together."""
    static = batch.static.clone()
    static[:, columns] = static[torch.from_numpy(rng.permutation(len(static)))][:, columns]
    return replace(batch, static=static)
