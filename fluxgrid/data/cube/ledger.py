"""Which delivery gave each day of a grown cube, and which one should: the rules of precedence, without any values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fluxgrid.data.cube.delivery import Delivery
from fluxgrid.errors import CubeError
from fluxgrid.files import write_text
from fluxgrid.provenance import seal, unseal

MISSING, PROVISIONAL, KNOWN = 0, 1, 2
"""What is known of a day: nothing was delivered, a preliminary stream alone, or a final one."""
STATUS_MEANINGS = "missing provisional known"

_KEYS = {"start", "grid", "variables", "days", "sources", "holders"}

NOBODY = -1
"""Holder of days that nobody delivered."""

Take = tuple[Delivery, np.ndarray]
"""A delivery and the days to take from it, counted from the first of the cube."""


@dataclass
class Ledger:
    """What a grown cube is made of; rewritten whole with each growth."""

    start: str
    """First day of the cube."""
    grid: str
    """As `grid_text` gives it."""
    variables: tuple[str, ...]
    days: int
    """Length of the cube: whole chunks."""
    sources: list[Delivery] = field(default_factory=list)
    """Deliveries that hold a day."""
    holders: dict[str, np.ndarray] = field(default_factory=dict)
    """By variable, (days,): place in `sources`, or `NOBODY`."""

    def status(self, name: str) -> np.ndarray:
        """Return what is known of each day of a variable, (days,), int8."""
        codes = [PROVISIONAL if source.status == "provisional" else KNOWN for source in self.sources]
        return np.array([*codes, MISSING], np.int8)[self.holders[name]]

    def combined(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Return what is known of each day: that of the variable of which least is known, (days,), int8."""
        return np.min([self.status(name) for name in names or self.variables], axis=0)

    def date(self, day: int) -> str:
        """Return a day of the cube as ISO 8601."""
        return str((pd.Timestamp(self.start) + pd.Timedelta(days=int(day))).date())

    def dates(self, days: np.ndarray) -> tuple[str, ...]:
        """Return days of the cube as ISO 8601."""
        return tuple(self.date(day) for day in days)

    def reach(self) -> int:
        """Return the number of days up to the last one that anybody delivered."""
        held = [np.flatnonzero(holder != NOBODY) for holder in self.holders.values()]
        return max((int(days[-1]) + 1 for days in held if len(days)), default=0)

    def extended(self, days: int) -> Ledger:
        """Return a copy of at least that many days."""
        days = max(days, self.days)
        fresh = {name: np.full(days, NOBODY) for name in self.variables}
        for name, holder in self.holders.items():
            fresh[name][: len(holder)] = holder
        return Ledger(self.start, self.grid, self.variables, days, list(self.sources), fresh)

    def give(self, name: str, take: Take) -> None:
        """Enter that days of a variable are those of a delivery."""
        delivery, days = take
        digests = [source.digest for source in self.sources]
        if delivery.digest not in digests:
            self.sources.append(delivery)
            digests.append(delivery.digest)
        place = digests.index(delivery.digest)
        self.sources[place] = delivery
        self.holders[name][days] = place

    def last_of(self, name: str) -> Delivery | None:
        """Return the delivery that gave the last day of a variable."""
        held = np.flatnonzero(self.holders[name] != NOBODY)
        return self.sources[self.holders[name][held[-1]]] if len(held) else None

    def swept(self) -> Ledger:
        """Return a copy without sources that hold no day."""
        used = np.unique(np.concatenate([holder for holder in self.holders.values()]))
        used = used[used != NOBODY]
        place = np.full(len(self.sources) + 1, NOBODY)  # the last one stands for nobody
        place[used] = np.arange(len(used))
        holders = {name: place[holder] for name, holder in self.holders.items()}
        return Ledger(self.start, self.grid, self.variables, self.days, [self.sources[i] for i in used], holders)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "start": self.start,
            "grid": self.grid,
            "variables": list(self.variables),
            "days": self.days,
            "sources": [source.to_dict() for source in self.sources],
            "holders": {name: _runs(holder) for name, holder in self.holders.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Ledger:
        """Return what `to_dict` gave; KeyError, TypeError or ValueError if it is something else."""
        sources = [Delivery.from_dict(source) for source in content["sources"]]
        holders = {name: np.repeat(*np.array(runs, int).T) for name, runs in content["holders"].items()}
        return cls(content["start"], content["grid"], tuple(content["variables"]), content["days"], sources, holders)


def _runs(holder: np.ndarray) -> list[list[int]]:
    """Return an array as pairs of a value and how often it stands there in a row."""
    cuts = np.flatnonzero(np.diff(holder)) + 1
    return [[int(part[0]), len(part)] for part in np.split(holder, cuts)]


def read_ledger(path: Path) -> Ledger | None:
    """Return a ledger, or its copy if it is lost or damaged; None where there is neither.

    Parameters
    ----------
    path : Path

    Returns
    -------
    ledger : Ledger or None

    Raises
    ------
    CubeError
        If it cannot be read.
    """
    if not path.exists() and not ledger_copy(path).exists():
        return None
    try:
        sound = path if path.exists() and (not ledger_damage(path) or ledger_damage(ledger_copy(path))) else None
        return Ledger.from_dict(_content(sound or ledger_copy(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"{path} cannot be read ({type(error).__name__}: {error}), and it alone says which delivery each day of "
            "the cube is from. Restore it from a copy, or grow a new cube with the old one as its base."
        )
        raise CubeError(message) from error


def write_ledger(path: Path, content: Mapping[str, Any]) -> None:
    """Write a ledger as `Ledger.to_dict` gives it, and a copy.

    Parameters
    ----------
    path : Path
    content : mapping

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    for place in (ledger_copy(path), path):
        write_text(place, seal(content))


def ledger_copy(path: Path) -> Path:
    """Return where the copy of a ledger stands."""
    return path.parent / "copies" / path.name


def ledger_damage(path: Path) -> bool:
    """Return whether a ledger is missing or not what was written."""
    try:
        _content(path)
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return False


def _content(path: Path) -> dict[str, Any]:
    """Return what a ledger holds; an error if it is not what was written, where it carries a hash that tells."""
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if isinstance(content, dict) and content.keys() == _KEYS:  # of a fluxgrid that sealed none
        return content
    return unseal(text)


def reach_of(deliveries: Sequence[Delivery], start: str) -> int:
    """Return the number of days from a start up to the last one that deliveries hold."""
    return max((_span(delivery, start)[1] for delivery in deliveries), default=0)


def _span(delivery: Delivery, start: str) -> tuple[int, int]:
    """Return the days of a delivery, first and one past the last; those before the start are cut off."""
    first, last = ((pd.Timestamp(day) - pd.Timestamp(start)).days for day in (delivery.start, delivery.end))
    return max(first, 0), max(last + 1, 0)


def takes(ledger: Ledger, deliveries: Sequence[Delivery], name: str) -> list[Take]:
    """Return what days of a variable are to be taken from which delivery.

    Where several hold a day, the one of the greatest rank speaks for all cells of it. A day that stands is replaced by
    another delivery that outranks it, and by what the same name now holds at the source; never by a provisional one if
    it is final, and never by nothing.

    Parameters
    ----------
    ledger : Ledger
        As long as the deliveries need.
    deliveries : sequence of Delivery
        What the source has now.
    name : str
        Variable.

    Returns
    -------
    takes : list of (Delivery, ndarray of int)
    """
    ranked = sorted(deliveries, key=lambda delivery: delivery.rank)
    best = np.full(ledger.days, NOBODY)
    for place, delivery in enumerate(ranked):
        if any(variable.name == name for variable in delivery.variables):
            best[slice(*_span(delivery, ledger.start))] = place
    return list(_decided(ledger, ranked, best, ledger.holders[name]))


def _decided(ledger: Ledger, ranked: Sequence[Delivery], best: np.ndarray, held: np.ndarray) -> Iterator[Take]:
    """Yield the days of each delivery that it takes from whoever holds them."""
    digests, names = {delivery.digest for delivery in ranked}, {delivery.name for delivery in ranked}
    found: dict[int, list[np.ndarray]] = {}
    for holder, place in np.unique(np.stack([held, best]), axis=1).T.tolist():
        if place == NOBODY:
            continue
        holding = None if holder == NOBODY else ledger.sources[holder]
        current = holding is not None and holding.digest not in digests and holding.name in names
        if _replaces(ranked[place], holding, superseded=current):
            found.setdefault(place, []).append(np.flatnonzero((held == holder) & (best == place)))
    for place, days in sorted(found.items()):
        yield ranked[place], np.sort(np.concatenate(days))


def _replaces(delivery: Delivery, holding: Delivery | None, superseded: bool) -> bool:
    """Return whether a delivery takes a day from the one that holds it, which its source may have replaced."""
    if holding is None:
        return True
    if holding.digest == delivery.digest:
        return holding.status != delivery.status  # another rule of reading the status
    if holding.status == "final" and delivery.status == "provisional":
        return False
    return superseded or delivery.rank > holding.rank
