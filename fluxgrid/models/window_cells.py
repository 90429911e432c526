"""Recurrent layers over many windows of a few days, from an empty state: all steps are one call of a compiled kernel.

Windows read what hangs on a day alone in a table (`fluxgrid.models.day_rows`) by row numbers. To be used only where
`fluxgrid.models.packed_product` is available; windows are cut out and run by torch otherwise.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from fluxgrid.models.cell_layers import halve, weights_of
from fluxgrid.models.packed_product import pack
from fluxgrid.models.recurrent_kernels import run_gru_windows, run_lstm_windows, run_scaled_windows


class TableLayer:
    """The first layer of a GRU or LSTM over N windows that read the input side of their gates in a table.

    Parameters
    ----------
    cell : GRU or LSTM
    rows : int
        Number N of windows run together.
    suffix : str
        ``_reverse`` for the second direction.

    Notes
    -----
    Weights are those of the cell when this is made. A window's numbers do not hang on the others.
    """

    def __init__(self, cell: nn.RNNBase, rows: int, suffix: str = ""):
        _, recurrent, _, bias = (weight.detach() for weight in weights_of(cell, 0, suffix))
        self.is_lstm = isinstance(cell, nn.LSTM)
        (self._packed,), self._bias = pack([recurrent.t().contiguous().numpy()], rows), bias.numpy()
        room = (recurrent.new_empty(rows, columns).numpy() for columns in (len(recurrent), *[cell.hidden_size] * 2))
        self._product, self._states, self._cells = room

    def run(self, table: np.ndarray, first: np.ndarray, days: slice, out: np.ndarray, column: int = 0) -> None:
        """Keep the last states of windows, run from an empty state.

        Parameters
        ----------
        table : ndarray, (R, columns)
        first : ndarray of int, (N,)
            Row of the table in which each window begins.
        days : slice
            Rows after that of the steps that are taken in turn, such as ``slice(0, W * B, B)``.
        out : ndarray, (kept, N, H)
        column : int
            Where the gates of an LSTM begin in the table.
        """
        reach = range(days.start, days.stop, days.step)
        where = table, first, reach.start, reach.step, len(reach)
        if self.is_lstm:
            run_lstm_windows(*where, column, self._packed, self._cells, self._states, out, self._product)
        else:
            run_gru_windows(*where, self._packed, self._bias, self._states, out, self._product)


class ScaledLayer:
    """The first layer of an LSTM over N windows of which each scales the rows of the table by a gain of its own.

    Parameters
    ----------
    cell : LSTM
    rows : int
        Number N of windows run together.
    """

    def __init__(self, cell: nn.LSTM, rows: int):
        into, recurrent, b_in, b_re = (weight.detach() for weight in weights_of(cell, 0))
        kind = type(cell)
        self._into, self._recurrent = pack(
            [halve(each, kind).t().contiguous().numpy() for each in (into, recurrent)], rows
        )
        self._base = halve(b_in + b_re, kind)[None].numpy()
        widths = into.shape[1], len(into), cell.hidden_size, cell.hidden_size
        self._scaled, self._gates, self._states, self._cells = (into.new_empty(rows, k).numpy() for k in widths)

    def run(self, table: np.ndarray, first: np.ndarray, stride: int, gain: Tensor, out: Tensor) -> None:
        """Fill the states of all steps, `out` (W, N, H), of windows with gains (N, I), rows `stride` apart."""
        weights = self._into, self._recurrent, self._base
        room = self._cells, self._states, out.numpy(), self._scaled, self._gates
        run_scaled_windows(table, first, stride, gain.numpy(), *weights, *room)
