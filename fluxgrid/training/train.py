"""From sites to a trained model: scaler, fit, importance and domain, each on training sites only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from fluxgrid.data.inputs import Inputs
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import Fold, member_folds, site_folds, validation_split
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.models import FluxModel, ModelSpec
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import Ensemble, members_of
from fluxgrid.models.network import Network
from fluxgrid.models.trees import Trees
from fluxgrid.models.uncertainty import LEVELS, Uncertainty
from fluxgrid.prediction.applicability import fit_domain, month_vectors
from fluxgrid.training.balance import balance_classes, balance_sequences, balance_variances
from fluxgrid.training.conformal import fit_uncertainty
from fluxgrid.training.fit import Lessons, error_variances, fit, joint_lessons, plan, spread, stack_all, validation_loss
from fluxgrid.training.importance import permutation_importance
from fluxgrid.training.meta import meta_lessons
from fluxgrid.training.sequences import Sequence, fit_scaler, inputs_of, make_sequence
from fluxgrid.training.settings import FitSettings, Regime
from fluxgrid.training.trees import fine_tuned_text, fit_trees
from fluxgrid.variables import SERIES_ROLES, VARIABLES

LESSONS: dict[Regime, Lessons] = {"joint": joint_lessons, "meta": meta_lessons}
"""What an epoch teaches a network, by regime."""

DOMAIN_POINTS = 4000
"""Most month vectors kept in a training domain; whole site-years are dropped evenly above it."""

_NAMED = 8
"""Most inputs that a message names."""

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and what it was fitted with."""

    spec: ModelSpec
    """With the variances of its errors at the sites held back, where its closure asks for them."""
    model: FluxModel
    """In evaluation mode."""
    scaler: Scaler
    """Fitted on `sites`."""
    sites: tuple[str, ...]
    """Ids the weights were fitted to: those of any member."""
    held_out: tuple[tuple[str, ...], ...]
    """Of each member, the ids held back to choose when to stop."""
    validation_loss: float
    """Loss at these, each flux over its variance at the sites fitted to; mean of the members."""
    uncertainty: Uncertainty | None = None
    """Half-widths of the fluxes, of an ensemble."""

    @property
    def validation(self) -> tuple[str, ...]:
        """Ids that only chose when to stop: no weight of any member was fitted to them."""
        return tuple(i for i in self.held_out[0] if i not in self.sites)


@dataclass(frozen=True, eq=False)
class _Member:
    """One fitted model, its loss at the sites held back, and its error variances where the closure asks for them."""

    model: FluxModel
    loss: float
    errors: dict[str, float]


def train_model(sites: Sites, spec: ModelSpec, settings: FitSettings, report: Report = lambda _: None) -> Trained:
    """Fit a model, or an ensemble, to sites; some groups are held back to choose the best epoch.

    With several members the site groups are dealt into parts and each member is trained without one of them, which
    chooses its epoch (cross-validation ensembles, Krogh & Vedelsby 1995). All members read inputs by one scaler, of all
    sites.

    Parameters
    ----------
    sites : Sites
        Training sites.
    spec : ModelSpec
        Architecture and inputs; how many members are trained is said by `settings`.
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
        If all sites are of one group, the loss is never finite, or nothing here trains the architecture so.
    """
    check_regime(spec, settings)
    usable = usable_sites(sites, spec)
    inputs = inputs_of(usable, spec.inputs, spec.step)
    if settings.members == 1:
        fold = validation_split(usable, settings.validation, settings.seed)
        scaler = fit_scaler((inputs[i] for i in fold.train), spec.inputs)
        member = _train_member(usable, fold, inputs, scaler, spec, settings, report)
        return Trained(_with_errors(spec, [member]), member.model, scaler, fold.train, (fold.test,), member.loss)
    scaler = fit_scaler(inputs.values(), spec.inputs)
    folds, members = member_folds(usable, settings.members, settings.seed), []
    for number, fold in enumerate(folds):
        seeded = replace(settings, seed=settings.seed + number * settings.tries)
        told = _prefixed(report, f"member {number + 1}/{len(folds)}, ")
        members.append(_train_member(usable, fold, inputs, scaler, spec, seeded, told))
    loss = float(np.mean([member.loss for member in members]))
    model = Ensemble([member.model for member in members])
    held_out, spec = tuple(fold.test for fold in folds), _with_errors(spec, members)
    uncertainty = fit_uncertainty(model, held_out, usable, spec, scaler)
    for level in LEVELS:
        known = ", ".join(uncertainty.known(level)) or "no flux: too few site groups"
        report(f"half-widths that hold {level:.0%} of the steps of a new site: {known}")
    return Trained(spec, model, scaler, usable.ids, held_out, loss, uncertainty)


def _with_errors(spec: ModelSpec, members: list[_Member]) -> ModelSpec:
    """Return the spec with the mean of the members' error variances."""
    names = members[0].errors
    found = {name: np.array([member.errors[name] for member in members]) for name in names}
    if unknown := [name for name, values in found.items() if not np.isfinite(values).any()]:
        message = (
            f"Closure 'projected' needs the errors of gpp, reco and nee at sites held back, and none of these observed "
            f"{', '.join(unknown)}. Give more sites that did, raise fit.validation, or take model.closure: derived."
        )
        raise TableError(message)
    return replace(spec, error_variances={name: float(np.nanmean(values)) for name, values in found.items()})


def check_regime(spec: ModelSpec, settings: FitSettings) -> None:
    """Refuse a way of training that the architecture does not know.

    Raises
    ------
    ConfigError
        If it is not trained by gradients, and the regime is one of gradients; or if it normalises over a batch, which
        in regime ``meta`` is of one site.
    """
    if settings.regime != "joint" and not spec.differentiable:
        message = (
            f"fit.regime: {settings.regime} trains by gradients, which {spec.kind!r} is not. Choose a network "
            "(`fluxgrid models` lists them), or leave fit.regime out."
        )
        raise ConfigError(message)
    model = replace(spec, members=1).build() if settings.regime == "meta" else None
    if isinstance(model, nn.Module) and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        message = (
            f"fit.regime: meta shows {spec.kind!r} one site at a time, but it normalises over the sites of a batch. "
            "Choose another network, or leave fit.regime out."
        )
        raise ConfigError(message)


def usable_sites(sites: Sites, spec: ModelSpec) -> Sites:
    """Return the sites that bring every input at some step.

    Parameters
    ----------
    sites : Sites
    spec : ModelSpec

    Returns
    -------
    sites : Sites
        With a note of how many were left out, and for want of what.

    Raises
    ------
    TableError
        If there is none.
    """
    lacking = {name: [site.id for site in sites if not _brings(site, name)] for name in spec.inputs.names}
    lacking = {name: ids for name, ids in lacking.items() if ids}
    without = sorted({site for ids in lacking.values() for site in ids})
    if len(without) == len(sites):
        names = list(lacking)[:_NAMED]
        few = "; ".join(f"{name} is lacking at {len(lacking[name])} of {len(sites)} sites" for name in names)
        few += f"; and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        message = (
            f"No site of {sites.source} brings all inputs of {spec.name}: {few}. "
            "Drop an input, or give a table that has them."
        )
        raise TableError("\n".join([message, *(f"  note: {note}" for note in sites.notes)]))
    return sites.without(without, f"no {', '.join(f'{name} (at {len(ids)})' for name, ids in lacking.items())}")


def _brings(site: Site, name: str) -> bool:
    """Return whether a site knows an input at some step."""
    if VARIABLES[name].role in SERIES_ROLES:
        return name in site.series and bool(site.series[name].notna().any())
    return bool(np.isfinite(site.statics.get(name, np.nan)))


def _prefixed(report: Report, prefix: str) -> Report:
    """Return a report whose lines begin with some words."""
    return lambda line: report(f"{prefix}{line}")


def _train_member(
    sites: Sites,
    fold: Fold,
    inputs: dict[str, Inputs],
    scaler: Scaler,
    spec: ModelSpec,
    settings: FitSettings,
    report: Report,
) -> _Member:
    """Return the best of some seeds, judged at the test sites of the fold, which also choose the epoch."""
    # one fold for all tries: losses over different sites would pick the easiest fold, not the best seed
    train, check = (list(_sequences(sites.select(ids), inputs, spec, scaler)) for ids in (fold.train, fold.test))
    train = _weighed(train, sites, settings, settings.loss.classes)
    check = _weighed(check, sites, settings)
    seeds = range(settings.seed, settings.seed + settings.tries)
    tries = (_fit_once(train, check, spec, replace(settings, seed=seed), report) for seed in seeds)
    return min(tries, key=lambda member: member.loss)


def _weighed(
    sequences: list[Sequence], sites: Sites, settings: FitSettings, classes: tuple[str, ...] = ()
) -> list[Sequence]:
    """Return sequences weighed as the loss counts them; classes are balanced in those that teach alone."""
    if not settings.loss.quality:
        sequences = [replace(s, weights=np.ones_like(s.weights)) for s in sequences]
    sequences = balance_sequences(sequences, sites, settings.balance)
    sequences = balance_classes(sequences, sites, classes)
    return balance_variances(sequences, settings.loss.site_variance)


def _fit_once(
    train: list[Sequence], check: list[Sequence], spec: ModelSpec, settings: FitSettings, report: Report
) -> _Member:
    """Fit with one seed."""
    torch.manual_seed(settings.seed)
    model = replace(spec, members=1).build()
    if isinstance(model, Network):
        fit(model, train, check, settings, lambda *row: report(_line(settings, *row)), LESSONS[settings.regime])
    elif isinstance(model, Trees):
        fit_trees(model, train, check, settings.seed)
        report(f"trees: {', '.join(map(str, model.rounds))} per flux")
        if text := fine_tuned_text(model):
            report(text)
    else:
        message = (
            f"fluxgrid does not know how to train the architecture {spec.kind!r}: build a `Network`, which is trained "
            "by gradients, or `Trees`."
        )
        raise ConfigError(message)
    held = stack_all(model, check, settings.window)
    errors = error_variances(model, held) if spec.closure == "projected" else {}
    return _Member(model, validation_loss(model, held, spread(train)), errors)


def _line(settings: FitSettings, epoch: int, train: float, check: float) -> str:
    """Return one line of progress."""
    return f"seed {settings.seed} epoch {epoch + 1}/{settings.epochs}: training {train:.4f}, held-out sites {check:.4f}"


def _sequences(sites: Sites, inputs: dict[str, Inputs], spec: ModelSpec, scaler: Scaler) -> Iterator[Sequence]:
    """Yield the sites as arrays."""
    for site in sites:
        arrays = site, inputs[site.id], spec.inputs, scaler, spec.step
        yield make_sequence(*arrays, spec.spin_up_years, spec.lookback)


def held_out_loss(trained: Trained, sites: Sites, held: Iterable[str], spec: ModelSpec, settings: FitSettings) -> float:
    """Return the loss of a trained model at sites that had no part in training, nor in the choice of its epoch.

    Parameters
    ----------
    trained : Trained
    sites : Sites
        Hold those it was fitted to and those held out.
    held : iterable of str
        Ids of the latter.
    spec : ModelSpec
    settings : FitSettings
        How windows are cut, and steps and sites weighed.

    Returns
    -------
    loss : float
        As at the sites that choose the epoch, each flux over its variance at the sites the model was fitted to.

    Raises
    ------
    TableError
        If none of the sites held out observed a flux at a step whose inputs are known.
    """
    known, unseen = (
        list(_sequences(part, inputs_of(part, spec.inputs, spec.step), spec, trained.scaler))
        for part in (sites.select(trained.sites), sites.select(held))
    )
    unseen = _weighed(unseen, sites, settings)
    if not plan(trained.model, unseen, settings.window):
        message = (
            f"None of the {len(unseen)} held-out sites ({', '.join(s.site for s in unseen[:4])} ...) observed a flux "
            "at a step whose inputs are known. Ask for fewer folds, or leave such sites out."
        )
        raise TableError(message)
    return validation_loss(trained.model, stack_all(trained.model, unseen, settings.window), spread(known))


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
    each = members_of(trained.model)  # of an ensemble the mean: members are scored on windows, the ensemble on records
    given = spec.inputs, settings.window, settings.seed
    importance = np.mean([permutation_importance(member, sequences, *given) for member in each], axis=0)
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
