"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing when asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress(Protocol):
    """What work tells of itself."""

    def advance(self, steps: int, amount: float = 0.0) -> None:
        """Say that `steps` more are done, and how many pixel-days they were."""
        ...

    def set(self, done: int, total: int) -> None:
        """Say how far the work is."""
        ...


ProgressMaker = Callable[[str, int | None, str], AbstractContextManager[Progress]]
"""Makes a display of a title, a number of steps (None if not yet known) and their unit."""


class _Silent:
    """Says nothing."""

    def advance(self, steps: int, amount: float = 0.0) -> None:
        """Do nothing."""

    def set(self, done: int, total: int) -> None:
        """Do nothing."""


@contextmanager
def silent(title: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:  # noqa: ARG001  a Progress maker
    """Show nothing."""
    yield _Silent()


class _Terminal:
    """A bar with rate and time left."""

    def __init__(self, bar: Bar, title: str, total: int | None):
        self.bar, self.begun, self.amount = bar, time.perf_counter(), 0.0
        self.task = bar.add_task(title, total=total, rate="")

    def advance(self, steps: int, amount: float = 0.0) -> None:
        """Move the bar."""
        self.amount += amount
        seconds = max(time.perf_counter() - self.begun, 1e-3)
        self.bar.update(self.task, advance=steps, rate=_rate(self.amount, seconds))

    def set(self, done: int, total: int) -> None:
        """Move the bar to a place."""
        self.bar.update(self.task, completed=done, total=total)


class _Lines:
    """A line for each tenth of the work."""

    def __init__(self, title: str, total: int | None, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.done, self.told, self.amount, self.begun = 0, 0, 0.0, time.perf_counter()

    def advance(self, steps: int, amount: float = 0.0) -> None:
        """Count, and say so at each tenth."""
        self.amount += amount
        self.set(self.done + steps, self.total or 0)

    def set(self, done: int, total: int) -> None:
        """Count, and say so at each tenth."""
        self.done, self.total = done, total
        tenth = 10 * done // max(total, 1)
        if tenth > self.told:
            self.told = tenth
            seconds = time.perf_counter() - self.begun
            left = seconds / done * (total - done)
            rate = _rate(self.amount, seconds)
            parts = [f"{self.title}: {done}/{total} {self.unit}", *([rate] if rate else []), f"{left:.0f} s left"]
            sys.stderr.write(", ".join(parts) + "\n")
            sys.stderr.flush()


def _rate(amount: float, seconds: float) -> str:
    """Return pixel-days per second for people."""
    return f"{amount / seconds / 1e6:.2f} M pixel-days/s" if amount else ""


@contextmanager
def shown(title: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
    """Show progress on standard error: a bar on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        yield _Terminal(bar, title, total)
