"""The loop that all training steps share: epochs, schedule, early stopping, and the best weights kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluxgrid.errors import ConfigError
from fluxgrid.training.kgml.settings import StepSettings

Report = Callable[[str], None]


@dataclass(frozen=True)
class StepHistory:
    """What happened in one training step."""

    name: str
    train: tuple[float, ...]
    """Loss of each epoch."""
    validation: tuple[float, ...]
    best_epoch: int
    seconds: float = 0.0


class Descent:
    """Adam on some parameters, with a schedule of its rate.

    Parameters
    ----------
    groups : iterable of (parameters, relative rate)
    settings : StepSettings
    """

    def __init__(self, groups: Iterable[tuple[Iterable[nn.Parameter], float]], settings: StepSettings):
        parts = [(list(part), settings.learning_rate * rate) for part, rate in groups]
        self.parameters = [parameter for part, _ in parts for parameter in part]
        self.optimiser = torch.optim.Adam([{"params": part, "lr": rate} for part, rate in parts])
        self.clip = settings.clip
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda epoch: rate_of(epoch, settings))

    def step(self, loss: Tensor) -> float:
        """Go one step down a loss and return it."""
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimiser.step()
        return float(loss.detach())

    def next_epoch(self) -> None:
        """Move the schedule on."""
        self._schedule.step()


def rate_of(epoch: int, settings: StepSettings) -> float:
    """Return the learning rate of an epoch over the first one's.

    Examples
    --------
    >>> [rate_of(e, StepSettings(schedule="step", every=2, decay=0.5)) for e in range(4)]
    [1.0, 1.0, 0.5, 0.5]
    """
    if settings.schedule == "step":
        return settings.decay ** (epoch // settings.every)
    length, start = settings.epochs, 0
    if settings.schedule == "restarts":
        length = settings.every
        while epoch >= start + length:
            start, length = start + length, 2 * length
    share = min(epoch - start, length) / max(length, 1)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * share))


def descend(
    network: nn.Module,
    settings: StepSettings,
    descent: Descent,
    epoch_loss: Callable[[int], float],
    held_out: Callable[[], float],
    name: str,
    report: Report = lambda _: None,
    *,
    may_stay: bool = False,
) -> StepHistory:
    """Run the epochs of a step and leave the network with the weights that did best on what was held out.

    Parameters
    ----------
    network : Module
        Changed in place.
    settings : StepSettings
    descent : Descent
    epoch_loss : callable
        Trains through one epoch, given its number, and returns its mean loss.
    held_out : callable
        Returns the loss on held-out years.
    name : str
        Of the step, for reports.
    report : callable
        Takes one line of progress.
    may_stay : bool
        Whether the weights it starts from stand for choice too, as when a model is tuned.

    Returns
    -------
    history : StepHistory

    Raises
    ------
    ConfigError
        If the held-out loss was never finite.
    """
    losses: list[tuple[float, float]] = []
    best, lowest, kept = 0, float("inf"), copy.deepcopy(network.state_dict())
    if may_stay:
        network.eval()
        lowest = held_out()
    for epoch in range(settings.epochs):
        network.train()
        train = epoch_loss(epoch)
        descent.next_epoch()
        if (epoch + 1) % settings.check and epoch + 1 < settings.epochs:
            continue
        network.eval()
        check = held_out()
        losses.append((train, check))
        report(f"{name} epoch {epoch + 1}/{settings.epochs}: training {train:.4f}, held-out years {check:.4f}")
        if check < lowest:
            best, lowest, kept = epoch, check, copy.deepcopy(network.state_dict())
        if epoch - best >= settings.patience:
            break
    if settings.epochs and lowest == float("inf"):
        message = f"The held-out loss of {name} was never finite. Lower its learning_rate ({settings.learning_rate})."
        raise ConfigError(message)
    network.load_state_dict(kept)
    network.eval()
    return StepHistory(name, tuple(t for t, _ in losses), tuple(v for _, v in losses), best)
