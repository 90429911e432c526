"""Meta-training: a network learns to do well at a site after a few steps on some windows of that site.

The way of MetaFlux (Nathaniel, Liu & Gentine 2023, Scientific Data 10:440, doi:10.1038/s41597-023-02349-y), which
trains an ensemble by MAML (Finn et al. 2017, arXiv:1703.03400): in each step a copy of the network is adapted to a task
on some of its windows (inner steps), and the loss of the copy on other windows moves the network itself (outer step).
What results is an ordinary network: nothing is adapted in prediction, nor at the sites that choose the epoch.

A task is a site here, and every site is a task as often as any other, however long its record: the sparse ones are not
drowned. (MetaFlux's code adapts on sites of regions rich in data and takes the outer loss at sites of poor ones.) The
gradient is of first order (Nichol et al. 2018, arXiv:1803.02999): that of the copy's loss by the copy's weights. The
derivative through the inner steps, which MetaFlux takes, needs second derivatives of every kernel of a network and the
memory of all inner steps, and gained little where the two were compared (Finn et al.). Reptile, simpler still, would
not judge a copy by windows other than those it was adapted on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxgrid.data.windows import Window
from fluxgrid.errors import ConfigError
from fluxgrid.models.network import Network
from fluxgrid.training.fit import stack, training_loss
from fluxgrid.training.losses import Moments
from fluxgrid.training.sequences import Sequence
from fluxgrid.training.settings import FitSettings, MetaSettings


@dataclass(frozen=True)
class Task:
    """Windows of one site."""

    inner: tuple[Window, ...]
    """To adapt on; none where the site has one window alone."""
    outer: tuple[Window, ...]
    """Others, to learn from."""


def meta_lessons(
    network: Network,
    windows: list[Window],
    sequences: list[Sequence],
    moments: Moments,
    settings: FitSettings,
    generator: torch.Generator,
) -> Iterator[float]:
    """Leave the mean outer gradient of a few sites for each step; see `fluxgrid.training.fit.Lessons`.

    Raises
    ------
    ConfigError
        If no site has a second window to be judged on.
    """
    meta = settings.meta or MetaSettings()
    for tasks in plan_tasks(windows, settings.batch, meta.tasks, generator):
        total, gradient = 0.0, [torch.zeros_like(parameter) for parameter in network.parameters()]
        weights = [parameter.detach().clone() for parameter in network.parameters()]
        for task in tasks:
            if task.inner:
                _adapt(network, task, sequences, moments, settings)
            loss = training_loss(network, stack(list(task.outer), sequences), moments, settings.loss)
            network.zero_grad()
            loss.backward()
            total += float(loss.detach()) / len(tasks)
            _restore(network, weights, gradient, 1 / len(tasks))
        for parameter, mean in zip(network.parameters(), gradient, strict=True):
            parameter.grad = mean
        yield total


def plan_tasks(windows: list[Window], batch: int, tasks: int, generator: torch.Generator) -> Iterator[tuple[Task, ...]]:
    """Yield the tasks of each step of an epoch.

    Parameters
    ----------
    windows : list of Window
        Of all sites.
    batch : int
        Windows of a step that are learnt from, and as many to adapt on at most; the tasks share them.
    tasks : int
        Sites per step, or all where there are fewer.
    generator : Generator
        Draws sites, each once before any comes again, and the windows of a site.

    Yields
    ------
    tasks : tuple of Task
        In as many steps as all windows fill batches.

    Raises
    ------
    ConfigError
        If no site has two windows.
    """
    by_site: dict[int, list[Window]] = {}
    for window in windows:
        by_site.setdefault(window.sequence, []).append(window)
    if max(map(len, by_site.values())) < 2:
        message = (
            "fit.regime: meta learns from a window of a site after adapting on another, but none of the "
            f"{len(by_site)} training sites has two. Lower fit.window."
        )
        raise ConfigError(message)
    sites = list(by_site.values())
    queue: list[int] = []
    share = max(1, batch // min(tasks, len(sites)))
    for _ in range(-(-len(windows) // batch)):
        chosen: list[Task] = []
        while len(chosen) < min(tasks, len(sites)):
            queue = queue or torch.randperm(len(sites), generator=generator).tolist()
            chosen.append(_draw(sites[queue.pop()], share, generator))
        yield tuple(chosen)


def _draw(windows: list[Window], share: int, generator: torch.Generator) -> Task:
    """Return up to `share` windows of a site to learn from and up to as many others to adapt on."""
    order = [windows[i] for i in torch.randperm(len(windows), generator=generator).tolist()]
    outer = min(share, -(-len(order) // 2))
    return Task(inner=tuple(order[outer : 2 * outer]), outer=tuple(order[:outer]))


def _adapt(network: Network, task: Task, sequences: list[Sequence], moments: Moments, settings: FitSettings) -> None:
    """Move the weights of a network by plain gradient steps towards a site; no gradient is longer than its clip."""
    meta, batch = settings.meta or MetaSettings(), stack(list(task.inner), sequences)
    steps = torch.optim.SGD(network.parameters(), meta.inner_rate)
    for _ in range(meta.inner_steps):
        network.zero_grad()
        training_loss(network, batch, moments, settings.loss).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        steps.step()


def _restore(network: Network, weights: list[Tensor], gradient: list[Tensor], share: float) -> None:
    """Add a share of a network's gradient to the sum, and give it back the weights it had before it was adapted."""
    with torch.no_grad():
        for parameter, weight, total in zip(network.parameters(), weights, gradient, strict=True):
            if parameter.grad is not None:
                total += share * parameter.grad
            parameter.copy_(weight)
