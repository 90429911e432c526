"""From sites to a trained model: scaler, fit, importance and domain, each on training sites only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.inputs import Inputs
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Sites
from fluxgrid.data.splits import Fold, site_folds, validation_split
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.models import FluxModel, ModelSpec
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.network import Network
from fluxgrid.models.trees import Trees
from fluxgrid.prediction.applicability import fit_domain, month_vectors
from fluxgrid.training.balance import balance_sequences
from fluxgrid.training.fit import fit, spread, stack_all, validation_loss
from fluxgrid.training.importance import permutation_importance
from fluxgrid.training.sequences import Sequence, fit_scaler, inputs_of, make_sequence
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.trees import fit_trees

DOMAIN_POINTS = 4000
"""Most month vectors kept in a training domain; whole site-years are dropped evenly above it."""

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and what it was fitted with."""

    model: FluxModel
    """In evaluation mode."""
    scaler: Scaler
    """Fitted on `sites`."""
    sites: tuple[str, ...]
    """Ids the weights were fitted to."""
    validation: tuple[str, ...]
    """Ids held back to choose when to stop."""
    validation_loss: float
    """Loss at these, each flux over its variance at `sites`."""


def train_model(sites: Sites, spec: ModelSpec, settings: FitSettings, report: Report = lambda _: None) -> Trained:
    """Fit a model to sites; some groups are held back to choose the best epoch.

    Parameters
    ----------
    sites : Sites
        Training sites.
    spec : ModelSpec
        Architecture and inputs.
    settings : FitSettings
    report : callable
        Takes one line of progress.

    Returns
    -------
    trained : Trained

    Raises
    ------
    TableError
        If no site brings all inputs, or none of the sites trained on observed a flux.
    ConfigError
        If all sites are of one group, the loss is never finite, or nothing here trains the architecture.
    """
    usable = sites.select(with_inputs(sites, spec))
    inputs = inputs_of(usable, spec.inputs, spec.step)
    # one split for all members: losses over different sites would pick the easiest split, not the best member
    split = validation_split(usable, settings.validation, settings.seed)
    seeds = range(settings.seed, settings.seed + settings.members)
    members = (_train_member(usable, split, inputs, spec, replace(settings, seed=seed), report) for seed in seeds)
    return min(members, key=lambda member: member.validation_loss)


def with_inputs(sites: Sites, spec: ModelSpec) -> tuple[str, ...]:
    """Return the ids of the sites that bring every input at some step.

    Raises
    ------
    TableError
        If there is none.
    """
    ids = tuple(
        site.id
        for site in sites
        if all(name in site.series and site.series[name].notna().any() for name in spec.inputs.forcings)
        and all(np.isfinite(site.statics.get(name, np.nan)) for name in (*spec.inputs.static, *spec.inputs.classes))
    )
    if not ids:
        nowhere = [name for name in spec.inputs.names if not any(name in s.series or name in s.statics for s in sites)]
        names = nowhere or spec.inputs.names
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        message = (
            f"No site of {sites.source} brings all inputs of {spec.name}: {', '.join(names[:8])}{more}. "
            "Drop an input, or give a table that has them."
        )
        raise TableError(message)
    return ids


def _train_member(
    sites: Sites, split: Fold, inputs: dict[str, Inputs], spec: ModelSpec, settings: FitSettings, report: Report
) -> Trained:
    """Fit with one seed; the test sites of the split choose the epoch."""
    scaler = fit_scaler((inputs[i] for i in split.train), spec.inputs)
    train, check = (
        balance_sequences(list(_sequences(part, inputs, spec, scaler)), part, settings.balance)
        for part in (sites.select(split.train), sites.select(split.test))
    )
    torch.manual_seed(settings.seed)
    model = spec.build()
    if isinstance(model, Network):
        fit(model, train, check, settings, lambda *row: report(_line(settings, *row)))
    elif isinstance(model, Trees):
        fit_trees(model, train, check, settings.seed)
        report(f"trees: {', '.join(map(str, model.rounds))} per flux")
    else:
        message = (
            f"fluxgrid does not know how to train the architecture {spec.kind!r}: build a `Network`, which is trained "
            "by gradients, or `Trees`."
        )
        raise ConfigError(message)
    loss = validation_loss(model, stack_all(model, check, settings.window), spread(train))
    return Trained(model, scaler, split.train, split.test, loss)


def _line(settings: FitSettings, epoch: int, train: float, check: float) -> str:
    """Return one line of progress."""
    return f"seed {settings.seed} epoch {epoch + 1}/{settings.epochs}: training {train:.4f}, held-out sites {check:.4f}"


def _sequences(sites: Sites, inputs: dict[str, Inputs], spec: ModelSpec, scaler: Scaler) -> Iterator[Sequence]:
    """Yield the sites as arrays."""
    for site in sites:
        arrays = site, inputs[site.id], spec.inputs, scaler, spec.step
        yield make_sequence(*arrays, spec.spin_up_years, spec.lookback)


def training_domain(trained: Trained, sites: Sites, spec: ModelSpec, settings: FitSettings) -> TrainingDomain:
    """Return the domain of a trained model: its training months, their importance and the threshold.

    Parameters
    ----------
    trained : Trained
    sites : Sites
        The sites given to `train_model`.
    spec : ModelSpec
    settings : FitSettings

    Returns
    -------
    domain : TrainingDomain
    """
    used = sites.select(trained.sites)  # not the sites that only chose the epoch: they are not in the weights
    inputs = inputs_of(used, spec.inputs, spec.step)
    sequences = list(_sequences(used, inputs, spec, trained.scaler))
    importance = permutation_importance(trained.model, sequences, spec.inputs, settings.window, settings.seed)
    fold_of = {
        i: n for n, fold in enumerate(site_folds(used, min(5, len(set(used.groups))), settings.seed)) for i in fold.test
    }
    vectors, places = [], []
    for number, site in enumerate(used):
        time = pd.DatetimeIndex(site.series.index)
        rows = month_vectors(inputs[site.id], spec.inputs, time)[:, 0]  # (M, K)
        vectors.append(rows[np.isfinite(rows).all(axis=1)])
        places.append(np.full(len(vectors[-1]), number))
    points, owner = np.concatenate(vectors), np.concatenate(places)
    kept = _thin(owner, DOMAIN_POINTS)
    folds = np.array([fold_of[site.id] for site in used])[owner[kept]]
    return fit_domain(points[kept], importance, folds)


def _thin(owner: np.ndarray, most: int) -> np.ndarray:
    """Return the rows to keep: every k-th run of twelve months of each site, the first always."""
    every = -(-len(owner) // most)
    position = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return np.flatnonzero((position // 12) % every == 0)
