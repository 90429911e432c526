"""Plan of training windows: slices only, apart from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WindowMode = Literal["exact", "stride", "stream"]
"""How a network of windows cuts a record; `fluxgrid.models.windowed` says what each is."""


@dataclass(frozen=True)
class Window:
    """A run of consecutive steps of one sequence; its first steps are spin-up and are not scored."""

    sequence: int
    """Which sequence (site) it is cut from."""
    start: int
    """First step, spin-up included."""
    spin_up: int
    """Steps that only build up the state."""
    stop: int
    """One past the last step."""

    @property
    def scored(self) -> slice:
        """Steps of the sequence that count in the loss."""
        return slice(self.start + self.spin_up, self.stop)


def plan_windows(lengths: list[int], spin_up: int, window: int, whole: bool = False) -> tuple[Window, ...]:
    """Cut sequences into windows that score every step after the first spin-up exactly once.

    Parameters
    ----------
    lengths : list of int
        Steps of each sequence; the first ``spin_up`` of them are never scored.
    spin_up : int
        Steps before each scored part, >= 0.
    window : int
        Scored steps of a window, > 0; the last window of a sequence may be shorter.
    whole : bool
        Leave the last window out where it is shorter.

    Returns
    -------
    windows : tuple of Window

    Examples
    --------
    >>> [(w.start, w.stop) for w in plan_windows([10], spin_up=2, window=4)]
    [(0, 6), (4, 10)]
    """
    return tuple(
        Window(sequence, first - spin_up, spin_up, min(first + window, length))
        for sequence, length in enumerate(lengths)
        for first in range(spin_up, length - window + 1 if whole else length, window)
    )
