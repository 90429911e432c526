"""Search of settings: what to try next, and what was found before.

Trials are kept by optuna (Akiba et al. 2019, doi:10.1145/3292500.3330701) in an SQLite file, as numbers and JSON. Its
other storage, the journal, may unpickle a snapshot and is not used. A trial is written when it is finished, whole; what
is tried next hangs on the trials that stand and on a seed, so a search that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fluxgrid.errors import ConfigError, OutputError

Value = bool | int | float | str | None
Grid = Mapping[str, tuple[Value, ...]]
"""Values to try by the key of the configuration, such as ``model.hidden``."""
Point = dict[str, Value]
"""One value for each key."""
SpaceName = Literal["code", "paper"]

_ATTEMPTS = 50
"""Proposals of settings tried before, until any that were not are taken."""


def _network(space: SpaceName, *more: str, **own: tuple[Value, ...]) -> dict[str, tuple[Value, ...]]:
    """Return the grid of a network of CarbonBench: width, dropout and rate, and what it has besides."""
    grid = {key: _PUBLISHED[space][key] for key in ("hidden", "dropout", *more)} | own
    rates = grid.pop("learning_rate", _PUBLISHED[space]["learning_rate"])
    return {**{f"model.{key}": values for key, values in grid.items()}, "fit.learning_rate": rates}


_PUBLISHED: dict[str, dict[str, tuple[Value, ...]]] = {
    "code": {
        "hidden": (128, 256),
        "dropout": (0.2, 0.3),
        "learning_rate": (5e-4, 1e-3),
        "layers": (1, 2),
        "attention_heads": (4, 8),
        "latent": (32, 64),
    },
    "paper": {
        "hidden": (64, 128, 256, 512),
        "dropout": (0.1, 0.2, 0.3, 0.4),
        "learning_rate": (1e-4, 5e-4, 1e-3, 5e-3),
        "layers": (1, 2, 3),
        "attention_heads": (2, 4, 8),
        "latent": (16, 32, 64, 128),
    },
}
_TREES: dict[str, tuple[Value, ...]] = {
    "model.learning_rate": (0.02, 0.05, 0.1),
    "model.depth": (6, 10, 15),
    "model.leaves": (15, 31, 63),
}


def _spaces(space: SpaceName) -> dict[str, Grid]:
    """Return the grids of all architectures."""
    deep = (2, 4) if space == "code" else (1, 2, 3)
    slow = (1e-4, 1e-3) if space == "code" else _PUBLISHED[space]["learning_rate"]
    return {
        "mlp": _network(space),
        **{kind: _network(space, "layers") for kind in ("lstm", "ct_lstm", "gru", "ct_gru")},
        **{kind: _network(space, "attention_heads", layers=deep) for kind in ("transformer", "patch_transformer")},
        "tam_rl": _network(space, "layers", "latent", learning_rate=slow),
        "lightgbm": _TREES,
        "xgboost": _TREES,
    }


SPACES: dict[SpaceName, dict[str, Grid]] = {"code": _spaces("code"), "paper": _spaces("paper")}
"""Grids by architecture: CarbonBench's, of its code and of its paper. The paper gives ranges; values between their ends
are ours, the four learning rates among them. CarbonBench searched neither trees nor the MLP: their grids are ours."""


def default_grid(kind: str, space: SpaceName) -> Grid:
    """Return the grid of an architecture.

    Parameters
    ----------
    kind : str
        Name of the architecture.
    space : {"code", "paper"}

    Returns
    -------
    grid : mapping of str to tuple

    Raises
    ------
    ConfigError
        If it has none.
    """
    if kind not in SPACES[space]:
        message = (
            f"The architecture {kind!r} has no grid of its own ({', '.join(sorted(SPACES[space]))} have). Give "
            "search.grid, such as {fit.learning_rate: [0.001, 0.01]}."
        )
        raise ConfigError(message)
    return SPACES[space][kind]


def grid_points(grid: Grid) -> Iterator[Point]:
    """Yield all points of a grid, the last key fastest.

    Examples
    --------
    >>> [point["b"] for point in grid_points({"a": (1, 2), "b": ("x", "y")})]
    ['x', 'y', 'x', 'y']
    """
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def grid_size(grid: Grid) -> int:
    """Return the number of points of a grid."""
    return math.prod(len(values) for values in grid.values())


@dataclass(frozen=True)
class Trial:
    """Settings and what they came to."""

    settings: Point
    folds: tuple[float, ...]
    """Loss at the sites held out, fold by fold; infinite where training diverged."""
    pruned: bool
    """Given up before all folds."""
    seconds: float

    @property
    def loss(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.folds))


class Study:
    """Trials of one grid, kept in a file; others may stand in it under other names.

    Parameters
    ----------
    path : Path
        SQLite file, made where there is none.
    name : str
        Holds what decides a loss: trials under one name can be compared.
    grid : mapping of str to tuple
    seed : int
        Of what is tried next.

    Raises
    ------
    ConfigError
        If optuna is not installed.
    OutputError
        If the file cannot be read or made.
    """

    def __init__(self, path: Path, name: str, grid: Grid, seed: int):
        self._optuna = require_optuna()
        self.path, self.grid, self.seed = path, grid, seed
        self._kinds = {key: self._optuna.distributions.CategoricalDistribution(grid[key]) for key in grid}
        with self._open():
            self._kept = self._optuna.create_study(storage=_address(path), study_name=name, load_if_exists=True)
            self.trials = [self._trial(kept) for kept in self._kept.trials]

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Turn what the file may do into one error, and keep optuna's own lines back."""
        from sqlalchemy.exc import SQLAlchemyError

        level = self._optuna.logging.get_verbosity()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        try:
            yield
        except (SQLAlchemyError, OSError, RuntimeError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            message = (
                f"The trials in {self.path} cannot be read or written ({reason}). Free its disk, or move the file away "
                "to begin anew."
            )
            raise OutputError(message) from error
        finally:
            self._optuna.logging.set_verbosity(level)

    def propose(self, trials: int) -> Point | None:
        """Return the settings to try next.

        Parameters
        ----------
        trials : int
            Wanted in all.

        Returns
        -------
        point : dict or None
            Never one that was tried: the next of the grid, where it has no more points than trials are wanted;
            otherwise what a tree-structured Parzen estimator (Bergstra et al. 2011) proposes from the trials that
            stand. None where enough of them do.
        """
        tried = [trial.settings for trial in self.trials]
        sampled = None
        if grid_size(self.grid) > trials:
            if len(tried) >= trials:
                return None
            sampled = self._sample(tried)
        return sampled or next((point for point in grid_points(self.grid) if point not in tried), None)

    def _sample(self, tried: list[Point]) -> Point | None:
        """Return what the estimator proposes, None if it cannot think of anything new."""
        optuna = self._optuna
        with self._open():
            memory = optuna.create_study()
            memory.add_trials(self._kept.trials)
            for attempt in range(_ATTEMPTS):
                # a seed for each proposal: it does not hang on when the process began
                seed = np.random.SeedSequence([self.seed, len(tried), attempt]).generate_state(1)[0]
                memory.sampler = optuna.samplers.TPESampler(seed=int(seed))
                if (point := self._point(memory.ask(self._kinds))) not in tried:
                    return point
        return None

    def hopeless(self, point: Point, folds: Iterable[float]) -> bool:
        """Return whether the mean of these folds is worse than the median of earlier trials at as many folds."""
        running = self._frozen(tuple(folds), self._optuna.trial.TrialState.RUNNING, point)
        return bool(self._optuna.pruners.MedianPruner().prune(self._kept, running))

    def add(self, trial: Trial) -> None:
        """Keep a finished trial; OutputError where it cannot be written."""
        states = self._optuna.trial.TrialState
        state = states.PRUNED if trial.pruned else states.COMPLETE
        about = {"folds": list(trial.folds), "seconds": trial.seconds}
        with self._open():
            self._kept.add_trial(self._frozen(trial.folds, state, trial.settings, value=trial.loss, user_attrs=about))
        self.trials.append(trial)

    def _point(self, kept: Any) -> Point:
        """Return the settings of a trial of optuna, in the order of the grid; KeyError where they are others."""
        return {key: kept.params[key] for key in self.grid}

    def _trial(self, kept: Any) -> Trial:
        """Return a trial of optuna as ours; KeyError where it is not."""
        about = kept.user_attrs
        return Trial(self._point(kept), tuple(about["folds"]), kept.state.name == "PRUNED", about["seconds"])

    def _frozen(self, folds: tuple[float, ...], state: Any, settings: Point, **more: Any) -> Any:
        """Return a trial as optuna has it; after each fold it knows the mean so far."""
        means = {number: float(np.mean(folds[: number + 1])) for number in range(len(folds))}
        about = {"params": settings, "distributions": self._kinds, "intermediate_values": means}
        return self._optuna.trial.create_trial(state=state, **about, **more)


def run_search(
    study: Study,
    trials: int,
    folds: int,
    score: Callable[[Point], Iterator[float]],
    prune: bool = False,
    report: Callable[[Trial], None] = lambda _: None,
) -> Trial:
    """Try settings until enough were tried, and return the best.

    Parameters
    ----------
    study : Study
        Holds what was tried before; what is tried is added.
    trials : int
        Wanted in all, those that stand included.
    folds : int
        Losses of a trial.
    score : callable
        Yields the loss of settings at the held-out sites of each fold.
    prune : bool
        Whether to give a trial up that is worse than the median at as many folds.
    report : callable
        Called after each trial.

    Returns
    -------
    best : Trial
        Of the lowest loss among those that went through all folds.

    Raises
    ------
    ConfigError
        If no trial had a finite loss.
    OutputError
        If a trial cannot be kept.
    """
    while (point := study.propose(trials)) is not None:
        begun = time.perf_counter()
        losses: list[float] = []
        for loss in score(point):
            losses.append(loss if math.isfinite(loss) else math.inf)
            if prune and len(losses) < folds and study.hopeless(point, losses):
                break
        trial = Trial(point, tuple(losses), len(losses) < folds, round(time.perf_counter() - begun, 3))
        study.add(trial)
        report(trial)
    whole = [trial for trial in study.trials if not trial.pruned and math.isfinite(trial.loss)]
    if not whole:
        message = (
            f"None of the {len(study.trials)} trials had a finite loss at the held-out sites. Give lower learning "
            "rates in search.grid, or a lower fit.clip."
        )
        raise ConfigError(message)
    return min(whole, key=lambda trial: trial.loss)


def require_optuna() -> Any:
    """Return the library, which is optional; ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        message = "A search of settings needs optuna, which is not installed: pip install 'fluxgrid[search]'."
        raise ConfigError(message) from error
    return optuna


def _address(path: Path) -> str:
    """Return the address of an SQLite file as the library below optuna has it."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()
