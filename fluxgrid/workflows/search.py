"""`fluxgrid train --search`: settings tried at sites held out, and a checkpoint trained with the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from fluxgrid.config import TrainConfig
from fluxgrid.data.sites import Sites
from fluxgrid.data.splits import Fold
from fluxgrid.errors import ConfigError, FluxgridError, TrainingDiverged, itemise
from fluxgrid.evaluation.search_picture import draw_search
from fluxgrid.evaluation.tables import write_table
from fluxgrid.files import check_writable, new_folder, write_text
from fluxgrid.models import NUMERICS_VERSION, model_config
from fluxgrid.provenance import digest
from fluxgrid.training.search import (
    Grid,
    Point,
    Study,
    Trial,
    default_grid,
    grid_points,
    grid_size,
    require_optuna,
    run_search,
)
from fluxgrid.training.train import held_out_loss, train_model, usable_sites
from fluxgrid.workflows.sites import SYNTHETIC, fingerprint, model_spec, read_sites, search_folds
from fluxgrid.workflows.train import TrainOutcome, train

Report = Callable[[str], None]

_STUDY, _TABLE, _PICTURE, _BEST = "study.db", "trials.csv", "search.png", "best.yaml"
_MOST = 100_000
"""Points of a grid that are checked one by one before any is tried."""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search came to."""

    folder: Path
    """Holds ``study.db``, ``trials.csv``, ``search.png`` and ``best.yaml``."""
    trials: tuple[Trial, ...]
    """In their order."""
    best: Trial
    trained: TrainOutcome
    """With the settings of the best."""


def search(config: TrainConfig, report: Report = lambda _: None) -> SearchOutcome:
    """Try settings, each trained and scored on folds of site groups, and train with the best on all sites.

    The sites that score a fold have no part in it: they neither teach nor choose the epoch. Where `evaluate` splits as
    CarbonBench does, its test sites are in no fold.

    Parameters
    ----------
    config : TrainConfig
        Its `search` says what is tried; everything that is not searched is as it says.
    report : callable
        Takes one line of progress.

    Returns
    -------
    outcome : SearchOutcome
        A search that was stopped goes on with the trials that stand in ``<out>-search``.

    Raises
    ------
    OutputExists
        If the checkpoint folder exists.
    OutputError
        If something cannot be written, or the trials that stand cannot be read.
    ConfigError
        If optuna is not installed, or listing all that is wrong with the grid.
    FluxgridError
        If configuration or table are wrong.
    """
    require_optuna()
    new_folder(config.out)
    folder = Path(f"{config.out}-search").expanduser()
    check_writable(folder)
    grid = search_grid(config)
    everything = read_sites(config)
    sites = usable_sites(everything, model_spec(config, everything))
    folds = search_folds(config.search, config.evaluation, everything, sites)
    sites = sites.select(name for fold in folds for name in fold.test)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder / _STUDY, _name(config, sites, folds, grid), grid, config.search.seed)
    size = grid_size(grid)
    total = min(config.search.trials, size)
    report(f"{total} of {size} settings of {config.model.kind}, each on {len(folds)} folds of {len(sites)} sites")
    if study.trials:
        report(f"{len(study.trials)} trials stand in {study.path}")

    def keep(trial: Trial) -> None:
        report(f"[{len(study.trials)}/{total}] {_line(trial)}")
        write_table(trial_table(study.trials, len(folds)), folder / _TABLE)

    score = _scorer(config, sites, folds)
    best = run_search(study, config.search.trials, len(folds), score, config.search.prune, keep)
    chosen = config.changed({**best.settings, "models": {}})  # `evaluate` would compare those instead
    _write(folder, config, sites, study, chosen)
    report(f"Best: {_line(best)}; {folder / _BEST}")
    return SearchOutcome(folder, tuple(study.trials), best, train(chosen, report))


def search_grid(config: TrainConfig) -> Grid:
    """Return what a configuration searches.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    grid : mapping of str to tuple

    Raises
    ------
    ConfigError
        Listing every key and value that is wrong, and options that do not go together.
    """
    own = config.search.grid
    grid = default_grid(config.model.kind, config.search.space or "code") if own is None else own
    problems = list(_stray(grid))
    if not problems:
        problems = [problem for part in ("model.", "fit.") for problem in _refused(config, grid, part)]
    if problems:
        raise ConfigError(itemise("The grid of the search (search.grid) is wrong", dict.fromkeys(problems)))
    return grid


def best_text(settings: Mapping[str, object]) -> str:
    """Return settings as YAML of a configuration.

    Examples
    --------
    >>> print(best_text({"model.hidden": 64, "fit.learning_rate": 0.001, "fit.meta.tasks": 4}))
    model:
      hidden: 64
    fit:
      learning_rate: 0.001
      meta:
        tasks: 4
    """
    tree: dict = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return yaml.safe_dump(tree, sort_keys=False).rstrip()


def trial_table(trials: Sequence[Trial], folds: int) -> pd.DataFrame:
    """Return trials as a table: number, loss, loss of each fold, whether given up, seconds, and the settings."""
    rows = [
        {
            "trial": number,
            "loss": trial.loss,
            **{f"fold_{k + 1}": trial.folds[k] if k < len(trial.folds) else None for k in range(folds)},
            "pruned": trial.pruned,
            "seconds": trial.seconds,
            **trial.settings,
        }
        for number, trial in enumerate(trials, 1)
    ]
    return pd.DataFrame(rows)


def _stray(grid: Grid) -> Iterator[str]:
    """Yield what is wrong with a grid whatever the model."""
    if not grid:
        yield "it names no setting; give some, such as fit.learning_rate: [0.001, 0.01]"
    for key, values in grid.items():
        if key in ("fit.members", "fit.tries"):
            yield f"{key}: a trial is one seed of one model, so all values would score alike; leave it out of the grid"
        elif not key.startswith(("model.", "fit.")) or key == "model.kind":
            yield f"{key}: only options of the model (model.hidden) and settings of training (fit.batch) are searched"
        if not values:
            yield f"{key}: there is no value to try"
        for value in {value for value in values if values.count(value) > 1}:
            yield f"{key}: {value} is given twice"
    if (size := grid_size(grid)) > _MOST:
        yield f"it has {size} points; give fewer values, {_MOST} points at most"


def _refused(config: TrainConfig, grid: Grid, part: str) -> Iterator[str]:
    """Yield what the model or its training refuses of the points of a part of the grid."""
    for point in grid_points({key: values for key, values in grid.items() if key.startswith(part)}):
        try:
            changed = config.changed(point)
            model_config(changed.model.kind, changed.model.settings)
        except FluxgridError as error:
            header, *problems = str(error).split("\n  - ")
            yield from problems or [header]


def _name(config: TrainConfig, sites: Sites, folds: Sequence[Fold], grid: Grid) -> str:
    """Return the name of a study, with a hash of all that decides the loss of a trial."""
    spec = model_spec(config, sites)
    fit = replace(config.fit, members=1, tries=1)  # a trial is one seed of one model whatever these are
    contract = [spec.settings, spec.step, asdict(spec.inputs), spec.spin_up_years, spec.closure, spec.fluxes]
    decides = [*contract, asdict(fit), dict(grid)]
    key = digest(repr(decides), fingerprint(sites), [fold.test for fold in folds], NUMERICS_VERSION)
    return f"{spec.kind}-{key[:12]}"


def _scorer(config: TrainConfig, sites: Sites, folds: Sequence[Fold]) -> Callable[[Point], Iterator[float]]:
    """Return what yields the losses of settings, one seed each, scored as the configuration itself says."""

    def score(point: Point) -> Iterator[float]:
        changed = config.changed({**point, "fit.members": 1, "fit.tries": 1})
        spec = model_spec(changed, sites)
        for fold in folds:
            try:
                trained = train_model(sites.select(fold.train), spec, changed.fit)
                yield held_out_loss(trained, sites, fold.test, spec, config.fit)
            except TrainingDiverged:
                yield float("inf")

    return score


def _write(folder: Path, config: TrainConfig, sites: Sites, study: Study, chosen: TrainConfig) -> None:
    """Write table, picture and the configuration with the best settings."""
    table = trial_table(study.trials, config.search.folds)
    write_table(table, folder / _TABLE)
    about = f"{config.name} ({config.model.kind}), {config.search.folds} folds of {len(sites)} sites of {sites.source}"
    synthetic = config.synthetic or config.sites.source in SYNTHETIC
    draw_search(table, study.grid, f"{about}. {sites.citation}", folder / _PICTURE, synthetic)
    write_text(folder / _BEST, yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False))


def _line(trial: Trial) -> str:
    """Return one line about a trial."""
    settings = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
    folds = ", ".join(f"{loss:.3f}" for loss in trial.folds)
    return f"loss {trial.loss:.4f} ({folds}{', given up' if trial.pruned else ''}), {trial.seconds:.0f} s: {settings}"
