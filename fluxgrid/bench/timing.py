"""Timing in turns, so that a machine that slows down does so for all; medians with their spread, paired ratios."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fluxgrid.evaluation.paired import mean_interval

_Form = TypeVar("_Form", bound=Hashable)
Run = Callable[[], float]
"""Does the work once and returns the seconds it took, without what stands before and after it."""


@dataclass(frozen=True)
class Spread:
    """Median, least and most of several runs, s."""

    n: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one thing is as another, with the 95 % interval of paired runs."""

    n: int
    ratio: float
    low: float
    """NaN of a single pair."""
    high: float


def spread_of(seconds: Sequence[float]) -> Spread:
    """Return median and range of runs.

    Parameters
    ----------
    seconds : sequence of float, (n,)

    Returns
    -------
    spread : Spread

    Examples
    --------
    >>> spread_of([3.0, 1.0, 2.0])
    Spread(n=3, median=2.0, low=1.0, high=3.0)
    """
    return Spread(len(seconds), float(np.median(seconds)), float(min(seconds)), float(max(seconds)))


def speed_ratio(ours: Sequence[float], other: Sequence[float], work: float = 1.0) -> Ratio:
    """Return how many times as fast `ours` is, round by round.

    Parameters
    ----------
    ours, other : sequence of float, (n,)
        Seconds of the same rounds.
    work : float
        How many times as much work is done in `ours`.

    Returns
    -------
    ratio : Ratio
        Geometric mean of the rounds' ratios and its t interval, taken of logarithms: a ratio and its inverse then
        say the same.

    Examples
    --------
    >>> found = speed_ratio([1.0, 1.0], [2.0, 2.0])
    >>> round(found.ratio, 6), round(found.low, 6)
    (2.0, 2.0)
    """
    logs = np.log(work * np.asarray(other, np.float64) / np.asarray(ours, np.float64))
    found = mean_interval(logs)
    return Ratio(found.n, *(float(np.exp(value)) for value in (found.mean, found.low, found.high)))


def fastest(forms: Iterable[tuple[_Form, Run]]) -> tuple[_Form, dict[_Form, float]]:
    """Return the fastest of several forms, and the seconds of all.

    Parameters
    ----------
    forms : iterable of (hashable, callable)
        What runs each; taken one after the other, so that a generator need make but one ready at a time.

    Returns
    -------
    best : hashable
    seconds : dict of hashable to float
        Each form ran twice, and the second time counts: in the first one engines compile and start processes.
    """
    seconds: dict[_Form, float] = {}
    for name, run in forms:
        run()
        seconds[name] = run()
    return min(seconds, key=seconds.__getitem__), seconds


def in_turns(
    runs: Mapping[str, Run],
    rounds: int,
    report: Callable[[str], None] = lambda _: None,
    groups_of: Callable[[str], tuple[str, str]] = lambda name: (name, name),
) -> dict[str, list[float]]:
    """Run everything once a round.

    Parameters
    ----------
    runs : mapping of str to callable
        By name; each returns its seconds.
    rounds : int
    report : callable
        Told each round.
    groups_of : callable
        Names of what a run is compared with, and of what it is compared with most closely: those of one group follow
        each other, for a machine that others use as well may be another one a minute later.

    Returns
    -------
    seconds : dict of str to list of float
        By name, round by round. Each round has an order of its own, of groups and within them (shuffled, always the
        same), so that none always follows the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rng = np.random.default_rng(0)
    for number in range(rounds):
        order: dict[str, tuple[float, ...]] = {}
        drawn: dict[tuple[str, ...], float] = {}
        for name in runs:
            outer, inner = groups_of(name)
            order[name] = tuple(drawn.setdefault(key, rng.random()) for key in ((outer,), (outer, inner)))
            order[name] += (rng.random(),)
        for name in sorted(runs, key=order.__getitem__):
            seconds[name].append(runs[name]())
        report(f"round {number + 1} of {rounds}")
    return seconds
