"""`fluxgrid evaluate`: skill at sites nobody trained on, models side by side and beside simple baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from fluxgrid.config import TrainConfig
from fluxgrid.data.records import filled_site
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import Fold
from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.baselines import BASELINES
from fluxgrid.evaluation.coverage import coverage_table, with_half_widths
from fluxgrid.evaluation.published import ABOUT, ABOUT_FILES, published_scores
from fluxgrid.evaluation.site_pairs import compare_models
from fluxgrid.evaluation.skill_picture import draw_skill
from fluxgrid.evaluation.tables import common_steps, site_scores, summarise, write_table
from fluxgrid.files import atomic_path, check_replaceable
from fluxgrid.models import NUMERICS_VERSION, Checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.provenance import digest
from fluxgrid.training.train import train_model, usable_sites
from fluxgrid.variables import MAP_FLUXES
from fluxgrid.workflows.sites import SYNTHETIC, evaluation_folds, fingerprint, model_spec, read_sites, split_text

Predictions = dict[str, pd.DataFrame]
Report = Callable[[str], None]

_GROUPINGS = ("class", "climate")
_TABLES = ("sites", "overall", *_GROUPINGS, "pairs", "coverage", "published")
_SUFFIXES = (".csv", ".json")
_PICTURE = "skill.png"


@dataclass(frozen=True, eq=False)
class EvaluateOutcome:
    """Scores of models and baselines."""

    scores: pd.DataFrame
    """One row per model, flux and site."""
    overall: pd.DataFrame
    """Quartiles over sites."""
    by_class: dict[str, pd.DataFrame]
    """The same by vegetation class and climate group."""
    pairs: pd.DataFrame
    """Every model against the first, site by site, by R2."""
    coverage: pd.DataFrame
    """How often half-widths hold, for the models that have them."""
    published: pd.DataFrame
    """What CarbonBench published of these architectures, on other data; empty for a step of months."""
    about: str
    """How sites were held out."""
    folder: Path
    """Where the tables stand."""


@dataclass(frozen=True)
class Unit:
    """One model trained without the sites of one fold, and where its predictions there are kept."""

    name: str
    """Of the model."""
    number: int
    """Of the fold."""
    config: TrainConfig
    fold: Fold
    path: Path


def evaluate(
    config: TrainConfig, report: Report = lambda _: None, overwrite: bool = False, jobs: int = 1
) -> EvaluateOutcome:
    """Train on all folds but one, or on CarbonBench's training sites, predict the sites held out, and score.

    Parameters
    ----------
    config : TrainConfig
    report : callable
        Takes one line of progress.
    overwrite : bool
        Whether the tables of an earlier evaluation may be replaced.
    jobs : int
        Processes, one thread each.

    Returns
    -------
    outcome : EvaluateOutcome
        At the sites that bring the inputs of every model. The tables, and a picture, stand in ``<out>-evaluation``, the
        predictions of each model and fold beside them: an evaluation that was stopped goes on with those missing.

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
    names = [*(f"{name}{suffix}" for name in _TABLES for suffix in _SUFFIXES), _PICTURE]
    check_replaceable(folder, names, "the tables of an evaluation", overwrite)
    entries = config.entries
    if taken := sorted(entries.keys() & BASELINES.keys()):
        message = f"models: {', '.join(taken)} is the name of a baseline, which is always scored; choose another name."
        raise ConfigError(message)
    sites = everything = read_sites(config)
    for entry in entries.values():
        sites = usable_sites(sites, model_spec(entry, sites))
    for note in sites.notes:
        report(note)
    folds = evaluation_folds(config.evaluation, everything, sites)
    units = list(_plan(entries, sites, folds, folder / "predictions"))
    missing = [unit for unit in units if not unit.path.is_file()]
    for done, unit in enumerate(_carried_out(missing, config, jobs), len(units) - len(missing) + 1):
        tested = f"{len(unit.fold.train)} sites to train, {len(unit.fold.test)} held out"
        report(f"[{done}/{len(units)}] {unit.name}, fold {unit.number + 1} of {len(folds)}: {tested}")
    predictions: dict[str, Predictions] = {name: {} for name in (*entries, *BASELINES)}
    for unit in units:
        predictions[unit.name].update(_read(unit.path))
    for fold in folds:
        for name, found in _baselines(config, sites, fold).items():
            predictions[name].update(found)
    return _scored(config, sites, folds, predictions, folder)


def _plan(entries: dict[str, TrainConfig], sites: Sites, folds: Sequence[Fold], folder: Path) -> Iterator[Unit]:
    """Yield the units, fold by fold; the name of each holds a hash of all that decides its predictions."""
    seen = fingerprint(sites)
    for number, fold in enumerate(folds):
        for name, entry in entries.items():
            decides = [asdict(model_spec(entry, sites)), asdict(entry.fit), seen, fold, NUMERICS_VERSION]
            key = digest(repr(decides))
            yield Unit(name, number, entry, fold, folder / f"{name}-{number + 1}-{key[:12]}.parquet")


def _carried_out(units: Sequence[Unit], config: TrainConfig, jobs: int) -> Iterator[Unit]:
    """Train, predict and keep; yield each unit when it is done."""
    if jobs == 1 or len(units) < 2:
        yield from (_carry_out(unit, config.model_dump_json()) for unit in units)
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_carry_out, unit, config.model_dump_json()) for unit in units]
        yield from (future.result() for future in futures)


@lru_cache(maxsize=1)
def _sites(config: str) -> Sites:
    """Return the sites of a configuration, read once in a process."""
    return read_sites(TrainConfig.model_validate_json(config))


def _carry_out(unit: Unit, config: str) -> Unit:
    """Train without the fold's sites, and keep what the model predicts there."""
    sites = _sites(config)
    trained = train_model(sites.select(unit.fold.train), model_spec(unit.config, sites), unit.config.fit)
    spec = trained.spec
    domain = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    checkpoint = Checkpoint(Path(), spec, trained.scaler, trained.model, domain, "")
    predictor = Predictor(checkpoint, block=1)
    held = sites.select(unit.fold.test)
    found = {site.id: with_half_widths(predict_site(predictor, site), trained.uncertainty) for site in held}
    table = pd.concat(found, names=["site", "time"]).reset_index()
    with atomic_path(unit.path) as temporary:
        table.to_parquet(temporary, index=False)
    return unit


def _read(path: Path) -> Predictions:
    """Return kept predictions by site."""
    table = pd.read_parquet(path)
    return {str(site): part.drop(columns="site").set_index("time") for site, part in table.groupby("site")}


def _baselines(config: TrainConfig, sites: Sites, fold: Fold) -> dict[str, Predictions]:
    """Return what the baselines predict at the sites held out."""
    spec = model_spec(config, sites).inputs
    # the same inputs as the models: a day that a band was not seen on is no day without a prediction
    parts = (sites.select(ids) for ids in (fold.train, fold.test))
    train, test = (replace(s, sites=tuple(filled_site(each, s.step, spec) for each in s)) for s in parts)
    inputs = (*config.inputs.dynamic, *config.inputs.static, *config.inputs.classes)
    found = {}
    for name, fit in BASELINES.items():
        baseline = fit(train, inputs)
        found[name] = {site.id: baseline.predict(site) for site in test}
    return found


def _scored(
    config: TrainConfig, sites: Sites, folds: Sequence[Fold], predictions: dict[str, Predictions], folder: Path
) -> EvaluateOutcome:
    """Return and write the scores of all models on the steps they share."""
    observed = replace(sites, sites=tuple(screen(site, config.evaluation.minimum_qc) for site in sites))
    shared = common_steps(predictions)
    tables = [
        site_scores(name, observed, found, MAP_FLUXES, config.evaluation.minimum) for name, found in shared.items()
    ]
    scores = pd.concat(tables, ignore_index=True)
    by_class = {by: summarise(scores, by) for by in _GROUPINGS}
    pairs = compare_models(scores, next(iter(predictions)))
    coverage = coverage_table(sites, predictions)  # on the days that half-widths are fitted on: of any quality
    kinds = {entry.model.kind for entry in config.entries.values()} if config.step == "daily" else ()
    published = published_scores(kinds, about=ABOUT_FILES if config.sites.source == "carbonbench" else ABOUT)
    held = split_text(config.evaluation, folds)
    outcome = EvaluateOutcome(scores, summarise(scores), by_class, pairs, coverage, published, held, folder)
    _write(outcome)
    about = f"{held}; {len(sites)} sites of {sites.source}. {sites.citation}"
    draw_skill(outcome.overall, about, folder / _PICTURE, config.synthetic or config.sites.source in SYNTHETIC)
    return outcome


def screen(site: Site, minimum_qc: float) -> Site:
    """Return a site without the observed fluxes of steps of too poor quality."""
    if minimum_qc <= 0 or "nee_qc" not in site.series:
        return site
    poor = site.series["nee_qc"] < minimum_qc
    columns = {name: site.series[name].mask(poor) for name in MAP_FLUXES if name in site.series}
    return replace(site, series=site.series.assign(**columns))


def _write(outcome: EvaluateOutcome) -> None:
    """Write all tables."""
    classes = (outcome.by_class[by] for by in _GROUPINGS)
    tables = (outcome.scores, outcome.overall, *classes, outcome.pairs, outcome.coverage, outcome.published)
    for name, table in zip(_TABLES, tables, strict=True):
        for suffix in _SUFFIXES:
            write_table(table, outcome.folder / f"{name}{suffix}")
