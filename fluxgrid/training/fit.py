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
from fluxgrid.training.losses import LossSettings, Moments, balance_loss, flux_loss, with_nee
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
    """Windows stacked: inputs (B, T, F) and (B, S), targets and weights (B, T, 3), which sequence each is of (B,)."""

    dynamic: Tensor
    static: Tensor
    targets: Tensor
    weights: Tensor
    sequence: Tensor


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
    weights = np.zeros_like(targets)
    for row, window in enumerate(windows):
        sequence, steps = sequences[window.sequence], slice(window.start, window.stop)
        length, spin_up = window.stop - window.start, window.spin_up
        dynamic[row, :length] = sequence.dynamic[steps]
        targets[row, spin_up:length] = sequence.targets[window.scored]
        weights[row, spin_up:length] = sequence.weights[window.scored, None] * sequence.emphasis
    static = np.stack([sequences[w.sequence].static for w in windows])
    owner = np.array([w.sequence for w in windows])
    return Batch(*(torch.from_numpy(array) for array in (dynamic, static, targets, weights, owner)))


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


def _some_windows(network: Network, sequences: list[Sequence], window: int, kind: str) -> list[Window]:
    """Return the training windows of sequences; raise where there is none."""
    if windows := plan(network, sequences, window):
        return windows
    message = f"None of the {len(sequences)} {kind} sites observed a flux at a step whose inputs are known."
    raise TableError(message)


def stack_all(model: FluxModel, sequences: list[Sequence], window: int) -> Batch:
    """Return all training windows of some sequences as one batch; see `plan`."""
    return stack(plan(model, sequences, window), sequences)


def shuffle(windows: list[Window], together: int, generator: torch.Generator) -> list[Window]:
    """Return windows in random order, runs of so many of one sequence side by side; what is left of one is shorter."""
    order = [windows[i] for i in torch.randperm(len(windows), generator=generator).tolist()]
    if together == 1:
        return order
    of_sequence: dict[int, list[Window]] = {}
    for window in order:
        of_sequence.setdefault(window.sequence, []).append(window)
    runs = [own[first : first + together] for own in of_sequence.values() for first in range(0, len(own), together)]
    return [window for i in torch.randperm(len(runs), generator=generator).tolist() for window in runs[i]]


def flux_moments(sequences: list[Sequence]) -> Moments:
    """Return mean and standard deviation of GPP, RECO and NEE over training sites.

    Of a flux that was never observed the mean is 0; of one that was not or never varied the deviation is 1.
    """
    values = np.concatenate([s.targets for s in sequences]).astype(np.float64)
    columns = [v[np.isfinite(v)] for v in values.T]
    deviations = [float(np.std(v)) if len(v) else 0.0 for v in columns]
    return Moments(
        torch.tensor([float(np.mean(v)) if len(v) else 0.0 for v in columns]),
        torch.tensor([deviation if deviation > 0 else 1.0 for deviation in deviations]),
    )


def spread(sequences: list[Sequence]) -> Tensor:
    """Return the standard deviation of GPP, RECO and NEE over training sites, (3,), g m-2 d-1, > 0."""
    return flux_moments(sequences).std


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
    return float(_loss(_said(model, batch), batch, sigma))


def _said(model: FluxModel, batch: Batch) -> Tensor:
    """Return the fluxes of training windows in evaluation mode, (B, T, O), or of their last steps, (B, S, O)."""
    if isinstance(model, Network):
        model.eval()
        with torch.inference_mode():
            places = model.places(batch.dynamic, batch.static, batch.sequence)
        return model.say(batch.dynamic, places)
    return model.predict(batch.dynamic, batch.static, zero_state(model, len(batch.dynamic)))[0]


def _loss(fluxes: Tensor, batch: Batch, sigma: Tensor) -> Tensor:
    """Return the loss of the fluxes of a batch, or of its last steps, (B, S, O)."""
    steps = fluxes.shape[1]
    return flux_loss(fluxes, batch.targets[:, -steps:], batch.weights[:, -steps:], sigma)


def _imbalance(fluxes: Tensor, terms: LossSettings, moments: Moments) -> Tensor | float:
    """Return the weighted carbon balance of fluxes (B, S, O); an NEE that is derived has none."""
    if fluxes.shape[-1] < len(moments.std) or not terms.carbon_balance:
        return 0.0
    return terms.carbon_balance * balance_loss(fluxes, moments, terms.as_published)


def error_variances(model: FluxModel, batch: Batch) -> dict[str, float]:
    """Return the mean square errors of GPP, RECO and NEE on training windows, (g m-2 d-1)2; observed fluxes only."""
    fluxes = with_nee(_said(model, batch))
    steps = fluxes.shape[1]
    errors = (fluxes - batch.targets[:, -steps:]).square()
    return {name: float(errors[..., i].nanmean()) for i, name in enumerate(("gpp", "reco", "nee"))}


def training_loss(network: Network, batch: Batch, moments: Moments, terms: LossSettings) -> Tensor:
    """Return the loss of a network on training windows, (), for gradients; its state starts at zero."""
    places = network.places(batch.dynamic, batch.static, batch.sequence)
    fluxes, _ = network(batch.dynamic, places, zero_state(network, len(batch.dynamic)))
    return _loss(fluxes, batch, moments.std) + _imbalance(fluxes, terms, moments)


Lessons = Callable[[Network, list[Window], list[Sequence], Moments, FitSettings, torch.Generator], Iterator[float]]
"""One epoch: for each optimiser step, leaves the gradients in the network's parameters and yields the loss.

Takes the network, the training windows and their sequences, the moments of the fluxes, settings, and what draws; there
are as many steps as batches in all windows.
"""


def joint_lessons(
    network: Network,
    windows: list[Window],
    sequences: list[Sequence],
    moments: Moments,
    settings: FitSettings,
    generator: torch.Generator,
) -> Iterator[float]:
    """Show every window once, in batches drawn from all sites alike; see `Lessons`."""
    order = shuffle(windows, network.together, generator)
    for first in range(0, len(order), settings.batch):
        batch = stack(order[first : first + settings.batch], sequences)
        loss = training_loss(network, batch, moments, settings.loss)
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
        If no flux was observed at any step of either whose inputs are known.
    TrainingDiverged
        If the loss was never finite.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    moments = flux_moments(train)
    sigma = moments.std
    network.set_scale(sigma)
    network.set_centre(moments.mean)
    windows = _some_windows(network, train, settings.window, "training")
    checks = stack(_some_windows(network, validation, settings.window, "held-out"), validation)
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
        for loss in lessons(network, windows, train, moments, settings, generator):
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
