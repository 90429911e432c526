"""How CarbonBench trains its networks: one function for all of them, and two phases for TAM-RL.

Source: the published code of CarbonBench (Rozanov et al.), 474-site revision. AdamW, the rate halved every ten epochs,
no stopping; the loss on the validation windows is looked at after epochs 1, 5, 10 and so on, and the best weights are
kept. TAM-RL first trains a plain LSTM that way and takes over its recurrent weights; then all of it is trained with
Adam at a rate of 1e-3, stopped after ten epochs without gain, and ends with its last weights: what the code calls the
best is a reference to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluxgrid.models.base import Sizes
from fluxgrid.models.lstm import LSTMConfig
from fluxgrid.models.tam_rl import TAMRL
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.training.carbonbench.samples import Moments, Samples
from fluxgrid.training.losses import Moments as FluxMoments
from fluxgrid.training.losses import balance_loss

Report = Callable[[str], None]


@dataclass(frozen=True)
class Protocol:
    """Settings of a training run."""

    epochs: int = 100
    """Passes over the training windows; of TAM-RL in each phase, at most."""
    batch: int = 32
    """Windows per optimiser step."""
    learning_rate: float = 5e-4
    """Of AdamW; of TAM-RL in the first phase."""
    weight_decay: float = 1e-2
    halve_every: int = 10
    """Epochs."""
    check_every: int = 5
    """Epochs between looks at the validation windows; the first is after the first epoch."""
    patience: int = 10
    """Epochs without gain that end TAM-RL's second phase."""
    balance: float = 0.1
    """Weight of the carbon balance."""
    physical: bool = False
    """Whether the balance is that of the fluxes over the spread of NEE, and not of z-scores."""
    seed: int = 27


@dataclass(frozen=True, eq=False)
class Trainset:
    """Windows to train and validate on, with what the loss needs."""

    train: Samples
    validation: Samples
    places: Tensor
    """Classes of the sites one-hot, (sites, 51)."""
    weights: Tensor
    """Class weight of each site, the product over IGBP and Koeppen, (sites,)."""
    moments: Moments


def loss_of(z: Tensor, truth: Tensor, weight: Tensor | None, protocol: Protocol, moments: Moments) -> Tensor:
    """Return the published loss.

    Parameters
    ----------
    z, truth : Tensor, (B, S, 3)
        Predicted and observed z-scores of GPP, RECO and NEE.
    weight : Tensor, (B, S), optional
        Quality times class weights; 1 where none are given, as on validation windows.
    protocol : Protocol
    moments : Moments

    Returns
    -------
    loss : Tensor, ()
        Mean over windows and days of the weighted mean square over the fluxes, and ``balance`` times the square of
        NEE - (RECO - GPP): of z-scores, as published, or of fluxes over the standard deviation of NEE.
    """
    errors = (z - truth).square().mean(dim=-1)
    if weight is not None:
        errors = errors * weight
    of_fluxes = FluxMoments(torch.from_numpy(moments.y_mean).to(z), torch.from_numpy(moments.y_std).to(z))
    fluxes = z * of_fluxes.std + of_fluxes.mean
    return errors.mean() + protocol.balance * balance_loss(fluxes, of_fluxes, as_published=not protocol.physical)


def train(network: WindowNetwork, data: Trainset, protocol: Protocol, report: Report = lambda _: None) -> list[float]:
    """Train a network as published and leave it with its weights; return the validation losses that were looked at.

    Parameters
    ----------
    network : WindowNetwork
        With a linear head, whose outputs are z-scores; changed in place.
    data : Trainset
    protocol : Protocol
    report : callable
        Takes one line of progress.
    """
    torch.manual_seed(protocol.seed)
    if isinstance(network, TAMRL):
        return _train_tam_rl(network, data, protocol, report)
    optimiser = torch.optim.AdamW(network.parameters(), protocol.learning_rate, weight_decay=protocol.weight_decay)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, protocol.halve_every, 0.5)
    best, kept, seen = float("inf"), copy.deepcopy(network.state_dict()), []
    for epoch in range(protocol.epochs):
        network.train()
        for x, place, truth, weight, _ in _batches(data, data.train, protocol.batch, shuffle=True):
            loss = loss_of(network(x, place, _nothing(network, x))[0], truth, weight, protocol, data.moments)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        if epoch == 0 or (epoch + 1) % protocol.check_every == 0:
            check = validation_loss(network, data, protocol)
            seen.append(check)
            report(f"epoch {epoch + 1}/{protocol.epochs}: validation {check:.4f}")
            if check < best:
                best, kept = check, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    network.eval()
    return seen


def _train_tam_rl(network: TAMRL, data: Trainset, protocol: Protocol, report: Report) -> list[float]:
    """Train TAM-RL in its two phases."""
    cell = network.lstm
    plain = LSTMConfig(
        window=network.window,
        stride=network.stride,
        window_mode="exact",
        head="linear",
        dropout=network.dropout.p,
        hidden=cell.hidden_size,
        layers=cell.num_layers,
    ).build(Sizes(network.channels, 0, network.head.linear.out_features))
    train(plain, data, protocol, lambda line: report(f"phase 1, {line}"))
    cell.load_state_dict(plain.cell.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, protocol.halve_every, 0.5)
    best, since, seen = float("inf"), 0, []
    for epoch in range(protocol.epochs):
        network.train()
        for x, place, truth, weight, rows in _batches(data, data.train, protocol.batch, shuffle=True):
            others = torch.from_numpy(data.train.x[_support(data.train, rows)])
            # windows of the same sites take part in the batch norm and in nothing else
            codes = network.codes(torch.cat([x, others]), torch.cat([place, place]))[: len(x)]
            hidden = network.dropout(network.modulate(x, codes, network.stride))
            loss = loss_of(network.head(hidden), truth, weight, protocol, data.moments)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        since += 1
        if epoch % protocol.check_every == 0:
            check = validation_loss(network, data, protocol)
            seen.append(check)
            report(f"phase 2, epoch {epoch + 1}/{protocol.epochs}: validation {check:.4f}")
            if check < best:
                best, since = check, 0
            if since >= protocol.patience:
                break
    network.eval()
    return seen


def _support(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Return another window of the site of each of some windows, at random."""
    found = []
    for site in samples.site[rows]:
        own = np.flatnonzero(samples.site == site)
        found.append(own[int(torch.randint(len(own), (1,)))])
    return np.array(found)


@torch.no_grad()
def validation_loss(network: WindowNetwork, data: Trainset, protocol: Protocol) -> float:
    """Return the loss on the validation windows, without quality and class weights."""
    network.eval()
    total = 0.0
    for x, place, truth, _, rows in _batches(data, data.validation, 1024, shuffle=False):
        total += float(loss_of(network.say(x, place), truth, None, protocol, data.moments)) * len(rows)
    return total / max(len(data.validation), 1)


def predict(network: WindowNetwork, samples: Samples, places: Tensor, moments: Moments) -> np.ndarray:
    """Return the fluxes of the last day of each window, (n, 3), g m-2 d-1."""
    parts = []
    for rows in np.array_split(np.arange(len(samples)), max(1, -(-len(samples) // 2048))):
        z = network.say(torch.from_numpy(samples.x[rows]), places[torch.from_numpy(samples.site[rows])])
        parts.append(z[:, -1].numpy())
    return np.concatenate(parts) * moments.y_std + moments.y_mean


def _batches(
    data: Trainset, samples: Samples, size: int, shuffle: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, np.ndarray]]:
    """Yield windows, places, z-scores, weights and positions, some at a time."""
    order = torch.randperm(len(samples)).numpy() if shuffle else np.arange(len(samples))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        site = torch.from_numpy(samples.site[rows])
        weight = torch.from_numpy(samples.quality[rows]) * data.weights[site][:, None]
        yield torch.from_numpy(samples.x[rows]), data.places[site], torch.from_numpy(samples.y[rows]), weight, rows


def _nothing(network: WindowNetwork, x: Tensor) -> Tensor:
    """Return the empty state of windows."""
    return x.new_zeros(len(x), network.state_size)
