"""What windows share: the days of a record as rows, multiplied once and read by every window they fall into.

A record (B, D, F) becomes rows, day after day and place after place in each: row ``day * B + place``. A window that
begins on a day is at a place the rows from ``day * B + place`` on, B apart, so that a row number says all of it and no
window is ever copied. Windows are run in groups of a fixed number, and rows multiplied in pieces of a fixed number,
padded both: a product of another shape may round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fluxgrid.models.cell_layers import PackedLayers, cell_weights, input_side, run_layers
from fluxgrid.models.network import Read
from fluxgrid.models.window_cells import TableLayer

_PIECE = 1024
"""Rows multiplied together."""
_FEW, _APART, _GROUP = 128, 256, 512
"""Windows run together: where there are no more, where they begin days apart, and otherwise."""
_HELD = 2**23
"""Numbers of a table that are kept at least, 32 MB: of rows that later windows read too, few are moved."""


Fill = Callable[[Tensor, Tensor, Tensor], None]
"""Writes what rows (P, F) of these places (P,) come to into (P, columns); the table comes first."""


class Group(NamedTuple):
    """Windows that are run together."""

    first: np.ndarray
    """Row of the table in which the first day of each window stands, (N,), int64."""
    wanted: slice
    """Which of all windows they are; fewer than N at the end, where the last is repeated."""


class DayRows:
    """Windows of W days of a record.

    Parameters
    ----------
    record : Tensor, (B, D, F)
    starts : sequence of int
        First days of the windows, rising; each is a window of every place.
    window : int
        Days W.

    Attributes
    ----------
    apart : bool
        Whether windows begin days apart, and those of all places on one day are a group: where they share few days, a
        narrow input is multiplied again in less time than its gates are fetched from a table beyond the caches.
    """

    def __init__(self, record: Tensor, starts: Sequence[int], window: int):
        self.record, self.starts = record, starts
        self.places, days, channels = record.shape
        self.window = window
        count = days * self.places
        self.rows = record.new_zeros(-(-count // _PIECE) * _PIECE, channels)
        self.rows[:count] = record.transpose(0, 1).reshape(count, channels)
        first = np.asarray(starts, np.int64)[:, None] * self.places + np.arange(self.places)
        self.count = first.size
        close = len(starts) < 2 or starts[1] - starts[0] == 1
        self.group = _FEW if self.count <= _FEW else _GROUP if close else _APART
        self.apart = not close and self.places == self.group
        self.first = np.pad(first.ravel(), (0, -self.count % self.group), mode="edge")

    def windows(self) -> Iterator[tuple[Tensor, slice]]:
        """Yield the rows of the windows of all places, (W, B, F), start by start, and which of all windows they are."""
        for number, start in enumerate(self.starts):
            rows = self.rows[start * self.places : (start + self.window) * self.places]
            yield rows.unflatten(0, (self.window, -1)), slice(number * self.places, (number + 1) * self.places)

    def __len__(self) -> int:
        """Windows in all, M: those of the first day at every place, then those of the next."""
        return self.count

    @property
    def reach(self) -> slice:
        """Rows of the days of a window after that of its first day."""
        return slice(0, self.window * self.places, self.places)

    def place_of(self, rows: np.ndarray) -> Tensor:
        """Return the place of each row of the record."""
        return torch.from_numpy(rows % self.places)

    def groups(self, width: int, fill: Fill) -> Iterator[tuple[Tensor, Group]]:
        """Yield a table (R, width) and the windows that read it, group by group.

        Parameters
        ----------
        width : int
            Columns of the table.
        fill : Fill
        """
        reach = (self.window - 1) * self.places + 1
        spans = self.first.reshape(-1, self.group)
        most = int((spans[:, -1] - spans[:, 0]).max()) + reach + _PIECE
        table = self.rows.new_empty(-(-max(most, _HELD // width) // _PIECE) * _PIECE, width)
        table = table[: max(len(self.rows), 1)]
        base = filled = 0  # rows of the record: in the first row of the table, and one past the last known
        for number, span in enumerate(spans):
            end = int(span[-1]) + reach
            if end > base + len(table):
                kept = int(span[0]) // _PIECE * _PIECE
                known = table.numpy()
                known[: max(filled - kept, 0)] = known[kept - base : max(filled, kept) - base]
                base, filled = kept, max(filled, kept)
            while filled < end:
                rows = slice(filled, filled + _PIECE)
                places = self.place_of(np.arange(filled, filled + _PIECE))
                fill(table[filled - base : filled - base + _PIECE], self.rows[rows], places)
                filled += _PIECE
            low = number * self.group
            yield table, Group(span - base, slice(low, min(low + self.group, self.count)))


class Said:
    """What is read of the last states of windows, group by group.

    Parameters
    ----------
    days : DayRows
    read : callable, optional
        Takes states (n, N, H) of windows of all places for some days, N a multiple of the places: (n, N, m). The states
        themselves are kept unless given.
    """

    def __init__(self, days: DayRows, read: Read | None):
        self._read = read
        self._at_once = read is not None and days.group % days.places == 0
        self._parts: list[Tensor] = []

    def add(self, states: Tensor, wanted: slice) -> None:
        """Take the last states of a group, (last, N, H), of which the first are those of the windows wanted."""
        said = self._read(states) if self._at_once and self._read else states
        self._parts.append(said.transpose(0, 1)[: wanted.stop - wanted.start].clone())

    def all(self) -> Tensor:
        """Return what is read of all windows, (M, last, m)."""
        found = torch.cat(self._parts)
        if self._read is None or self._at_once:
            return found
        return self._read(found.transpose(0, 1)).transpose(0, 1)


def run_windows(cell: nn.RNNBase, days: DayRows, width: int, fill: Fill, last: int, read: Read | None = None) -> Tensor:
    """Return the states (M, last, H) of a cell over windows that read the gates of their days in one table.

    With `read`, as `Said` has it, what is read of them.
    """
    said, lowest = Said(days, read), TableLayer(cell, days.group)
    states = days.rows.new_empty(days.window if cell.num_layers > 1 else last, days.group, cell.hidden_size)
    for table, group in days.groups(width, fill):
        lowest.run(table.numpy(), group.first, days.reach, states.numpy())
        said.add(upper_layers(cell, states)[-last:], group.wanted)
    return said.all()


def run_apart(
    cell: nn.RNNBase, days: DayRows, into: Tensor, offset: Tensor, last: int, read: Read | None = None
) -> Tensor:
    """Return what `run_windows` does of windows that are `apart`, from their rows and the map to the gates (G, F)."""
    said = Said(days, read)
    start = (days.rows.new_zeros(cell.num_layers, days.places, cell.hidden_size),) * 2
    layers = PackedLayers(cell_weights(cell, [into], offset), start)
    states = days.rows.new_empty(days.window, days.places, cell.hidden_size)
    for rows, wanted in days.windows():
        layers.restart(start)
        layers.run([rows], states)
        said.add(states[-last:], wanted)
    return said.all()


def upper_layers(cell: nn.RNNBase, states: Tensor) -> Tensor:
    """Return the last layer's states (W, N, H) of those of the first, all layers empty before; nothing is shared."""
    if cell.num_layers == 1:
        return states
    into, offset = input_side(cell, 1)
    empty = states.new_zeros(cell.num_layers - 1, *states.shape[1:])
    return run_layers(cell, [states], [into], offset, [empty, empty], lowest=1)[0]
