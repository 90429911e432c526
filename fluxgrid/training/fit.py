"""Fit one network: the whole loop in one function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluxgrid.data.windows import Window, plan_windows
from fluxgrid.errors import TableError, TrainingDiverged
from fluxgrid.models import FluxModel, zero_state
from fluxgrid.models.network import Network
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.training.losses import flux_loss
from fluxgrid.training.sequences import Sequence
from fluxgrid.training.settings import FitSettings


@dataclass(frozen=True)
class FitHistory:
    """What happened in training: losses by epoch, and the epoch whose weights were kept."""

    train: tuple[float, ...]
    validation: tuple[float, ...]
    best_epoch: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows stacked: inputs (B, T, F) and (B, S), targets (B, T, 3), weights (B, T)."""

    dynamic: Tensor
    static: Tensor
    targets: Tensor
    weights: Tensor


def stack(windows: list[Window], sequences: list[Sequence]) -> Batch:
    """Cut windows out of their sequences; shorter ones are padded at the end with steps that do not count.

    Parameters
    ----------
    windows : list of Window
    sequences : list of Sequence

    Returns
    -------
    batch : Batch
    """
    longest = max(w.stop - w.start for w in windows)
    first = sequences[0]
    dynamic = np.zeros((len(windows), longest, first.dynamic.shape[1]), np.float32)
    targets = np.full((len(windows), longest, first.targets.shape[1]), np.nan, np.float32)
    weights = np.zeros((len(windows), longest), np.float32)
    for row, window in enumerate(windows):
        sequence, steps = sequences[window.sequence], slice(window.start, window.stop)
        length, spin_up = window.stop - window.start, window.spin_up
        dynamic[row, :length] = sequence.dynamic[steps]
        targets[row, spin_up:length] = sequence.targets[window.scored]
        weights[row, spin_up:length] = sequence.weights[window.scored]
    static = np.stack([sequences[w.sequence].static for w in windows])
    return Batch(*(torch.from_numpy(array) for array in (dynamic, static, targets, weights)))


def plan(model: FluxModel, sequences: list[Sequence], window: int) -> list[Window]:
    """Return the training windows of sequences in which a flux was observed.

    Parameters
    ----------
    model : FluxModel
        One that looks back a number of steps brings its own scored steps, and knows whole windows only.
    sequences : list of Sequence
    window : int
        Scored steps of a window otherwise.

    Returns
    -------
    windows : list of Window
    """
    lengths, whole = [len(s.dynamic) for s in sequences], False
    if isinstance(model, WindowNetwork) and model.lookback is not None:
        window, whole = model.stride, True
    windows = plan_windows(lengths, sequences[0].spin_up, window, whole)
    return [w for w in windows if np.isfinite(sequences[w.sequence].targets[w.scored]).any()]


def stack_all(model: FluxModel, sequences: list[Sequence], window: int) -> Batch:
    """Return all training windows of some sequences as one batch; see `plan`."""
    return stack(plan(model, sequences, window), sequences)


def spread(sequences: list[Sequence]) -> Tensor:
    """Return the standard deviation of GPP, RECO and NEE over training sites, (3,), g m-2 d-1, > 0.

    A flux that was never observed, or never varied, gets 1.
    """
    values = np.concatenate([s.targets for s in sequences]).astype(np.float64)
    found = [float(np.std(v[np.isfinite(v)])) if np.isfinite(v).any() else 0.0 for v in values.T]
    return torch.tensor([std if std > 0 else 1.0 for std in found])


def centre(sequences: list[Sequence]) -> Tensor:
    """Return the mean of GPP, RECO and NEE over training sites, (3,), g m-2 d-1; 0 where one was never observed."""
    values = np.concatenate([s.targets for s in sequences]).astype(np.float64)
    return torch.tensor([float(np.mean(v[np.isfinite(v)])) if np.isfinite(v).any() else 0.0 for v in values.T])


def validation_loss(model: FluxModel, batch: Batch, sigma: Tensor) -> float:
    """Return the loss of a model in evaluation mode on training windows, its state starting at zero.

    Parameters
    ----------
    model : FluxModel
    batch : Batch
    sigma : Tensor, (3,), g m-2 d-1
        From `spread`.

    Returns
    -------
    loss : float
    """
    if isinstance(model, Network):
        fluxes = model.say(batch.dynamic, batch.static)
    else:
        fluxes, _ = model.predict(batch.dynamic, batch.static, zero_state(model, len(batch.dynamic)))
    return float(_loss(fluxes, batch, sigma))


def _loss(fluxes: Tensor, batch: Batch, sigma: Tensor) -> Tensor:
    """Return the loss of the fluxes of a batch, or of its last steps, (B, S, O)."""
    steps = fluxes.shape[1]
    return flux_loss(fluxes, batch.targets[:, -steps:], batch.weights[:, -steps:], sigma)


def training_loss(network: Network, batch: Batch, sigma: Tensor) -> Tensor:
    """Return the loss of a network on training windows, (), for gradients; its state starts at zero."""
    fluxes, _ = network(batch.dynamic, batch.static, zero_state(network, len(batch.dynamic)))
    return _loss(fluxes, batch, sigma)


Lessons = Callable[[Network, list[Window], list[Sequence], Tensor, FitSettings, torch.Generator], Iterator[float]]
"""One epoch: for each optimiser step, leaves the gradients in the network's parameters and yields the loss.

Takes the network, the training windows and their sequences, the spread of the fluxes, settings, and what draws; there
are as many steps as batches in all windows.
"""


def joint_lessons(
    network: Network,
    windows: list[Window],
    sequences: list[Sequence],
    sigma: Tensor,
    settings: FitSettings,
    generator: torch.Generator,
) -> Iterator[float]:
    """Show every window once, in batches drawn from all sites alike; see `Lessons`."""
    order = torch.randperm(len(windows), generator=generator).tolist()
    for first in range(0, len(order), settings.batch):
        batch = stack([windows[i] for i in order[first : first + settings.batch]], sequences)
        loss = training_loss(network, batch, sigma)
        network.zero_grad()
        loss.backward()
        yield float(loss.detach())


def fit(
    network: Network,
    train: list[Sequence],
    validation: list[Sequence],
    settings: FitSettings,
    report: Callable[[int, float, float], None] = lambda *_: None,
    lessons: Lessons = joint_lessons,
) -> FitHistory:
    """Fit a network and leave it with the weights that did best on sites it was not trained on.

    Parameters
    ----------
    network : Network
        With fresh weights; changed in place.
    train, validation : list of Sequence
        No site group may stand in both.
    settings : FitSettings
    report : callable
        Called after each epoch with its number and the two losses.
    lessons : callable
        What an epoch teaches: the regime.

    Returns
    -------
    history : FitHistory

    Raises
    ------
    TableError
        If no flux was observed at any training step whose inputs are known.
    TrainingDiverged
        If the loss was never finite.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    sigma = spread(train)
    network.set_scale(sigma[:2])
    network.set_centre(centre(train)[:2])
    windows = plan(network, train, settings.window)
    if not windows:
        message = f"None of the {len(train)} training sites observed a flux at a step whose inputs are known."
        raise TableError(message)
    checks = stack_all(network, validation, settings.window)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    batches = -(-len(windows) // settings.batch)
    steps = settings.epochs * batches
    rise = 0.1 if steps != 10 else 0.11  # a tenth of ten steps is a rise of no length, by which torch divides
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps, pct_start=rise, final_div_factor=4
    )
    losses: list[tuple[float, float]] = []
    best, lowest, kept = 0, float("inf"), network.state_dict()
    for epoch in range(settings.epochs):
        network.train()
        total = 0.0
        for loss in lessons(network, windows, train, sigma, settings, generator):
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            schedule.step()
            total += loss
        check = validation_loss(network, checks, sigma)
        losses.append((total / batches, check))
        report(epoch, *losses[-1])
        if check <= lowest:
            best, lowest, kept = epoch, check, copy.deepcopy(network.state_dict())
        if epoch - best >= settings.patience:
            break
    if lowest == float("inf"):
        message = f"The loss on the held-out sites was never finite ({check}). Lower fit.learning_rate or fit.clip."
        raise TrainingDiverged(message)
    network.load_state_dict(kept)
    network.eval()
    return FitHistory(tuple(t for t, _ in losses), tuple(v for _, v in losses), best)
