"""`fluxgrid experiment`: training regimes compared over seeds, run by run, each kept as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fluxgrid.config_kgml import ExperimentConfig, VariantConfig
from fluxgrid.errors import ConfigError, OutputExists, itemise
from fluxgrid.files import check_writable, write_text
from fluxgrid.provenance import git_commit, now
from fluxgrid.simulation import WORLD_VERSION, world_digest
from fluxgrid.training.kgml.regimes import RegimeSettings, Run
from fluxgrid.workflows.experiment_pictures import draw_regimes, draw_sensitivity
from fluxgrid.workflows.experiment_runs import Planned, Result, ScheduledSettings, carry_out, read_result
from fluxgrid.workflows.experiment_tables import (
    OURS,
    compared,
    difference_table,
    frame_of,
    heat_table,
    sensitivity_table,
    share_differences,
    share_table,
    skill_table,
)
from fluxgrid.workflows.experiment_text import Shown, markdown_of, regime_texts, sensitivity_text
from fluxgrid.workflows.world_truth import world_text

Kind = Literal["regimes", "sensitivity"]
Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of an experiment."""

    kind: Kind
    config: ExperimentConfig
    results: tuple[Result, ...]
    frame: pd.DataFrame
    """Scores of all runs, from `frame_of`."""
    tables: tuple[Shown, ...]
    """What is printed."""
    folder: Path
    """Where tables and picture stand."""


def experiment(config: ExperimentConfig, kind: Kind, jobs: int = 1, report: Report = lambda _: None) -> Outcome:
    """Make the runs of an experiment that do not stand yet, then its tables and picture.

    Parameters
    ----------
    config : ExperimentConfig
    kind : str
        ``regimes`` or ``sensitivity``.
    jobs : int
        Processes, one thread each.
    report : callable
        Takes a line for each run that is done.

    Returns
    -------
    outcome : Outcome

    Raises
    ------
    ConfigError
        If the configuration does not fit, or a run diverges.
    OutputExists
        If the folder holds the tables of other settings; more seeds, shares or regimes of the same replace them.
    OutputError
        If results cannot be written.
    """
    runs = plan(config, kind)
    folder = Path(config.out).expanduser()
    for target in (folder, runs[0].folder):
        check_writable(target)
    _check_door(folder / f"{kind}.json", config)
    results = carry_out_all(runs, jobs, report)
    outcome = _outcome(kind, config, results, folder)
    _write(outcome, _numbers(outcome))
    return outcome


def _check_door(path: Path, config: ExperimentConfig) -> None:
    """Refuse a folder whose tables are of other settings: they would be lost."""
    if not path.is_file():
        return
    stored, own = json.loads(path.read_text(encoding="utf-8"))["config"], config.model_dump(mode="json")
    changed = [
        key for key in ("settings", "variants", "groups", "share_state", "regions") if stored.get(key) != own[key]
    ]
    # more of these add to the tables; fewer would lose rows
    changed += [key for key in ("seeds", "shares") if not set(stored.get(key, [])) <= set(own[key])]
    if changed:
        message = (
            f"{path} holds an experiment with other {', '.join(changed)}. Choose another folder (out=...), or remove "
            "the file first; the runs may stay and are used again where they fit."
        )
        raise OutputExists(message)


def _outcome(kind: Kind, config: ExperimentConfig, results: Sequence[Result], folder: Path) -> Outcome:
    """Return results with their tables."""
    frame = frame_of(results)
    if kind == "regimes":
        shown = tuple(regime_texts(frame, config.share_state))
    else:
        shown = (sensitivity_text(sensitivity_table(frame)),)
    return Outcome(kind, config, tuple(results), frame, shown, folder)


def _numbers(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Return the tables as numbers, by name."""
    frame, state = outcome.frame, outcome.config.share_state
    if outcome.kind == "sensitivity":
        return {"sensitivity": sensitivity_table(frame)}
    errors = compared(frame)
    return {
        "skill": skill_table(errors),
        "differences": difference_table(errors),
        "heat_map": heat_table(frame),
        "shares": share_table(frame, state),
        "share_differences": share_differences(frame, state),
    }


def about_text() -> str:
    """Return what stands with every table and picture: that the data are synthetic, and which they are."""
    return (
        f"Synthetic data: fields of corn and soybean of the process model of the fluxgrid {world_text()}, not "
        "observations; scored at places and in years that no model was trained on."
    )


def _write(outcome: Outcome, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables, picture and everything in JSON."""
    folder, about = outcome.folder, about_text()
    write_text(folder / "tables.md", markdown_of(outcome.tables, about))
    picture = folder / f"{outcome.kind}.png"
    if outcome.kind == "regimes":
        draw_regimes(outcome.frame, outcome.config.share_state, about, picture)
    else:
        draw_sensitivity(tables["sensitivity"], about, picture)
    row = {
        "experiment": outcome.kind,
        "data": about,
        "world_version": WORLD_VERSION,
        "world_digest": world_digest(),
        "config": outcome.config.model_dump(mode="json"),
        "seconds": round(sum(result.seconds for result in outcome.results), 1),
        "commit": git_commit(),
        "created": now(),
        "tables": {name: _records(table) for name, table in tables.items()},
        "runs": _records(outcome.frame),
    }
    write_text(folder / f"{outcome.kind}.json", json.dumps(row, indent=1) + "\n")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON; NaN becomes null."""
    return json.loads(table.to_json(orient="records", double_precision=10))


def plan(config: ExperimentConfig, kind: Kind) -> list[Planned]:
    """Return the runs of an experiment in the order in which they are made.

    One seed after the other, so that an experiment that is stopped has complete seeds; SDSA of all seeds comes last.

    Parameters
    ----------
    config : ExperimentConfig
    kind : str
        ``regimes``, or ``sensitivity`` of site-only training and FTBSC to hyperparameters.

    Returns
    -------
    runs : list of Planned

    Raises
    ------
    ConfigError
        Listing all that does not fit in the configuration.
    """
    _check(config, kind)
    runs = list(_regime_runs(config) if kind == "regimes" else _sensitivity_runs(config))
    return _placed(config, runs)


def _check(config: ExperimentConfig, kind: Kind) -> None:
    """Refuse a configuration whose parts do not fit."""
    states = set(config.settings.counts)
    problems = [
        f"groups: {'+'.join(group)} names states without counts; there are {', '.join(states)}"
        for group in config.groups
        if not states.issuperset(group)
    ]
    if config.shares and config.share_state not in states:
        problems.append(f"share_state: {config.share_state!r} has no count; choose of {', '.join(states)}")
    if "ftbsc" in config.regimes and "global" not in config.regimes:
        problems.append("regimes: ftbsc is tuned from global; add global")
    if len(set(config.seeds)) < len(config.seeds):
        problems.append(f"seeds: {list(config.seeds)} repeats one")
    if kind == "sensitivity" and not config.variants:
        problems.append("variants: none is given; name at least one, such as A: {learning_rate: 1e-3, batch: 16}")
    if kind == "regimes" and config.variants:
        problems.append("variants: are of `fluxgrid experiment sensitivity`; leave them out, or run that")
    if OURS in config.variants:
        problems.append(f"variants: {OURS!r} is what `settings` gives; choose another name")
    if problems:
        raise ConfigError(itemise("The experiment cannot be planned", problems))


def _regime_runs(config: ExperimentConfig) -> Iterator[Run]:
    """Yield the runs of the comparison of regimes."""
    for seed in config.seeds:
        yield from _seed_runs(config, seed)
    if "sdsa" in config.regimes:
        yield from (Run("sdsa", tuple(config.settings.counts), seed) for seed in config.seeds)


def _seed_runs(config: ExperimentConfig, seed: int) -> Iterator[Run]:
    """Yield those of one seed."""
    states = tuple(config.settings.counts)
    whole = Run("global", states, seed)
    singles = [(state,) for state in states]
    runs = [whole, *(Run("site-only", train, seed) for train in [*singles, *config.groups])]
    runs += [Run("ftbsc", train, seed, tuned_from=whole.name) for train in singles]
    for share in config.shares:
        cut = Run("global", states, seed, share)
        one = (config.share_state,)
        runs += [Run("site-only", one, seed, share), cut, Run("ftbsc", one, seed, share, cut.name)]
    yield from (run for run in runs if run.regime in config.regimes)


def _sensitivity_runs(config: ExperimentConfig) -> Iterator[Run]:
    """Yield the runs of all variants; the first is what `settings` gives."""
    states = tuple(config.settings.counts)
    for seed in config.seeds:
        whole = Run("global", states, seed)
        yield whole
        for setting in (OURS, *config.variants):
            yield from (Run("site-only", (state,), seed, setting=setting) for state in states)
            yield from (Run("ftbsc", (state,), seed, tuned_from=whole.name, setting=setting) for state in states)


def _placed(config: ExperimentConfig, runs: Sequence[Run]) -> list[Planned]:
    """Return runs with their settings, their folder and the runs they are tuned from."""
    folder = Path(config.runs).expanduser() if config.runs else Path(config.out).expanduser() / "runs"
    made: dict[str, Planned] = {}
    for run in runs:
        settings = _varied(config.settings, config.variants.get(run.setting))
        parent = made[run.tuned_from] if run.tuned_from else None
        made[run.name] = Planned(run, settings, folder, config.share_state, config.regions, parent)
    return list(made.values())


def _varied(settings: RegimeSettings, variant: VariantConfig | None) -> RegimeSettings:
    """Return settings with the hyperparameters of a variant."""
    if variant is None:
        return settings
    own = {**asdict(settings), "learning_rate": variant.learning_rate, "tune_rate": variant.learning_rate}
    return ScheduledSettings(**{**own, "batch": variant.batch, "schedule": variant.schedule})


def carry_out_all(runs: Sequence[Planned], jobs: int, report: Report) -> list[Result]:
    """Make the runs that do not stand yet and return the results of all.

    Parameters
    ----------
    runs : sequence of Planned
        Each after the run it is tuned from.
    jobs : int
        Processes, one thread each; with 1 all is done in this one.
    report : callable
        Takes a line for each run that is done.

    Returns
    -------
    results : list of Result
    """
    missing = [planned for planned in runs if not planned.stands]
    finished = map(carry_out, missing) if jobs == 1 else _side_by_side(missing, jobs)
    for number, result in enumerate(finished, len(runs) - len(missing) + 1):
        report(f"[{number}/{len(runs)}] {result.run.name}: {_in_short(result)}, {result.seconds:.0f} s")
    return [read_result(planned) for planned in runs]


def _side_by_side(missing: Sequence[Planned], jobs: int) -> Iterator[Result]:
    """Yield results of runs in several processes; a run waits for the one it is tuned from."""
    waiting, running = list(missing), dict[Future[Result], Planned]()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            for planned in [p for p in waiting if p.ready][: jobs - len(running)]:
                running[pool.submit(carry_out, planned)] = planned
                waiting.remove(planned)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                yield future.result()


def _in_short(result: Result) -> str:
    """Return the mean error in each state."""
    means = {s: sum(row["mse_z"] for row in each.values()) / len(each) for s, each in result.scores.items()}
    return "MSE " + ", ".join(f"{state} {value:.3f}" for state, value in means.items())
