"""`fluxgrid evaluate`: skill at sites nobody trained on, beside simple baselines on the same steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.config import TrainConfig
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import Fold, site_folds
from fluxgrid.evaluation.baselines import BASELINES
from fluxgrid.evaluation.tables import common_steps, site_scores, summarise, write_table
from fluxgrid.files import check_replaceable
from fluxgrid.models import Checkpoint, ModelSpec
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.training.train import train_model
from fluxgrid.variables import MAP_FLUXES
from fluxgrid.workflows.sites import model_spec, read_sites

Predictions = dict[str, pd.DataFrame]

_GROUPINGS = ("class", "climate")
_TABLES = ("sites", "overall", *_GROUPINGS)
_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True, eq=False)
class EvaluateOutcome:
    """Scores of a model and its baselines."""

    scores: pd.DataFrame
    """One row per model, flux and site."""
    overall: pd.DataFrame
    """Quartiles over sites."""
    by_class: dict[str, pd.DataFrame]
    """The same by vegetation class and climate group."""
    folder: Path
    """Where the tables stand."""


def evaluate(
    config: TrainConfig, report: Callable[[str], None] = lambda _: None, overwrite: bool = False
) -> EvaluateOutcome:
    """Train on all folds but one, predict the sites of that one, and score; every site is held out once.

    Parameters
    ----------
    config : TrainConfig
    report : callable
        Takes one line of progress.
    overwrite : bool
        Whether the tables of an earlier evaluation may be replaced.

    Returns
    -------
    outcome : EvaluateOutcome
        The tables stand in ``<out>-evaluation`` as CSV and JSON.

    Raises
    ------
    OutputExists
        If tables stand there and may not be replaced.
    OutputError
        If they cannot be written there.
    FluxgridError
        If configuration or table are wrong.
    """
    folder = Path(f"{config.out}-evaluation").expanduser()
    names = [f"{name}{suffix}" for name in _TABLES for suffix in _SUFFIXES]
    check_replaceable(folder, names, "the tables of an evaluation", overwrite)
    sites = read_sites(config)
    spec = model_spec(config, sites)
    predictions: dict[str, Predictions] = {name: {} for name in (spec.kind, *BASELINES)}
    folds = site_folds(sites, config.evaluation.folds, config.evaluation.seed)
    for number, fold in enumerate(folds):
        report(f"Fold {number + 1} of {len(folds)}: {len(fold.train)} sites to train, {len(fold.test)} held out")
        for name, found in _predict_fold(config, spec, sites, fold).items():
            predictions[name].update(found)
    observed = replace(sites, sites=tuple(screen(site, config.evaluation.minimum_qc) for site in sites))
    shared = common_steps(predictions)
    tables = [
        site_scores(name, observed, found, MAP_FLUXES, config.evaluation.minimum) for name, found in shared.items()
    ]
    scores = pd.concat(tables, ignore_index=True)
    by_class = {by: summarise(scores, by) for by in _GROUPINGS}
    outcome = EvaluateOutcome(scores, summarise(scores), by_class, folder)
    _write(outcome)
    return outcome


def _predict_fold(config: TrainConfig, spec: ModelSpec, sites: Sites, fold: Fold) -> dict[str, Predictions]:
    """Return what the model and the baselines predict at the sites held out."""
    train, test = sites.select(fold.train), sites.select(fold.test)
    trained = train_model(train, spec, config.fit)
    predictor = Predictor(Checkpoint(Path(), spec, trained.scaler, trained.model, _no_domain(spec), ""))
    found = {spec.kind: {site.id: predict_site(predictor, site) for site in test}}
    inputs = (*spec.inputs.dynamic, *spec.inputs.static, *spec.inputs.classes)
    for name, fit in BASELINES.items():
        baseline = fit(train, inputs)
        found[name] = {site.id: baseline.predict(site) for site in test}
    return found


def _no_domain(spec: ModelSpec) -> TrainingDomain:
    """Return a domain that is not looked at: scores do not need one."""
    width = spec.inputs.n_dynamic + len(spec.inputs.static_columns)
    ones = np.ones(width)
    return TrainingDomain(np.zeros(width), ones, ones, np.zeros((1, width)), 1.0, np.inf)


def screen(site: Site, minimum_qc: float) -> Site:
    """Return a site without the observed fluxes of steps of too poor quality."""
    if minimum_qc <= 0 or "nee_qc" not in site.series:
        return site
    poor = site.series["nee_qc"] < minimum_qc
    columns = {name: site.series[name].mask(poor) for name in MAP_FLUXES if name in site.series}
    return replace(site, series=site.series.assign(**columns))


def _write(outcome: EvaluateOutcome) -> None:
    """Write all tables."""
    tables = (outcome.scores, outcome.overall, *(outcome.by_class[by] for by in _GROUPINGS))
    for name, table in zip(_TABLES, tables, strict=True):
        for suffix in _SUFFIXES:
            write_table(table, outcome.folder / f"{name}{suffix}")
