"""Boosted trees as one compiled pass over rows, bit for bit what their library says.

QuickScorer (Lucchese et al. 2015, doi 10.1145/2766462.2767733): every inner node is asked of every row, and a row for
which its test fails strikes the leaves below its left branch off a bit mask; the lowest bit left is the row's leaf.
That is more tests than a walk from the root, but without a branch and with the rows side by side, so that they become
vector instructions. Inputs are first replaced by their rank among the thresholds of their column, one byte where there
are few. Leaves are added up as the library does: tree by tree, in its precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fluxgrid import compiling

MOST_LEAVES = 64
"""Leaves of the largest tree that fits a mask."""

_ROWS = 256
"""Rows that stay in the cache while all trees pass over them."""
_TOGETHER = 4
"""Nodes asked in one pass over the masks."""

# A de Bruijn sequence turns the lowest bit of a mask into the place of its leaf, by one product and one shift.
_DE_BRUIJN: dict[int, tuple[Any, int]] = {32: (np.uint32(0x077CB531), 27), 64: (np.uint64(0x03F79D71B4CB0A89), 58)}

_compiled = compiling.kernel(boundscheck=False)


@dataclass(frozen=True, eq=False)
class Split:
    """The inner nodes of one tree in any order, and its leaves from left to right.

    Parameters
    ----------
    column : ndarray of int, (K,)
        Input that a node asks.
    threshold : ndarray of float, (K,)
    first, middle : ndarray of int, (K,)
        The leaves of its left branch, `middle` excluded.
    leaves : ndarray of float, (K + 1,)
    """

    column: np.ndarray
    threshold: np.ndarray
    first: np.ndarray
    middle: np.ndarray
    leaves: np.ndarray


@dataclass(frozen=True, eq=False)
class Forest:
    """A booster's trees and how its library adds them up."""

    trees: list[Split]
    """In the order in which they are added up."""
    closed: bool
    """Whether a row whose input equals the threshold goes left."""
    dtype: type
    """``float64`` or ``float32``: what leaves are added up in."""
    base: float
    """Where the sum begins."""


def order_leaves(
    column: np.ndarray, threshold: np.ndarray, below: np.ndarray, above: np.ndarray, leaves: np.ndarray
) -> Split:
    """Return a tree with its leaves from left to right.

    Parameters
    ----------
    column : ndarray of int, (K,)
        Input that each inner node asks; node 0 is the root.
    threshold : ndarray of float, (K,)
    below, above : ndarray of int, (K,)
        Its left and its right child: a node, or ``~leaf``.
    leaves : ndarray of float, (K + 1,)

    Returns
    -------
    split : Split

    Examples
    --------
    >>> order_leaves(np.array([0]), np.array([0.5]), np.array([-2]), np.array([-1]), np.array([1.0, 2.0])).leaves
    array([2., 1.])
    """
    spans, order = np.zeros((len(column), 2), np.int64), []
    # a node is met twice: before its left branch, and between the two
    stack: list[tuple[int, bool]] = [(0 if len(column) else ~0, False)]
    while stack:
        node, between = stack.pop()
        if node < 0:
            order.append(~node)
        elif between:
            spans[node, 1] = len(order)
            stack.append((int(above[node]), False))
        else:
            spans[node, 0] = len(order)
            stack += [(node, True), (int(below[node]), False)]
    return Split(column, threshold, spans[:, 0], spans[:, 1], leaves[order])


@dataclass(frozen=True, eq=False)
class Kernel:
    """A compiled booster."""

    thresholds: np.ndarray
    """Of each column, float32 (F, 2**m), in order, then infinity; a row above one goes right."""
    columns: np.ndarray
    ranks: np.ndarray
    masks: np.ndarray
    """Of each node: column, rank and leaves that are left; trees padded to a multiple of nodes."""
    offsets: np.ndarray
    """Where the nodes of a tree begin, (trees + 1,)."""
    leaves: np.ndarray
    """Values by tree and de Bruijn place, float64 or float32: the precision they are added in."""
    base: float
    """Where the sum begins."""

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Return what the booster says.

        Parameters
        ----------
        rows : ndarray, (N, F), float32
            Finite.

        Returns
        -------
        values : ndarray, (N,)
        """
        width = self.masks.dtype.itemsize * 8
        magic, shift = _DE_BRUIJN[width]
        start = self.leaves.dtype.type(self.base)
        nodes = self.columns, self.ranks, self.masks, self.offsets, self.leaves
        found = np.empty(len(rows), self.leaves.dtype)
        _score(rows, self.thresholds, *nodes, magic, self.masks.dtype.type(shift), start, found)
        return found


def compile_trees(forest: Forest, columns: int) -> Kernel | None:
    """Return a kernel, or None where a tree has too many leaves or there is none.

    Parameters
    ----------
    forest : Forest
    columns : int
        Inputs of a row.

    Returns
    -------
    kernel : Kernel or None
    """
    trees = forest.trees
    most = max((len(tree.leaves) for tree in trees), default=1)
    if not trees or most > MOST_LEAVES:
        return None
    width = 32 if most <= 32 else 64
    word = np.uint32 if width == 32 else np.uint64
    column, threshold, first, middle = (
        np.concatenate([getattr(t, name) for t in trees]) for name in ("column", "threshold", "first", "middle")
    )
    above = _single(threshold, forest.closed)
    every = [np.unique(above[column == c]) for c in range(columns)]
    size = 1 << max(len(values) for values in every).bit_length()
    table = np.stack([np.pad(v, (0, size - len(v)), constant_values=np.inf) for v in every])
    ranks = np.zeros(len(column), np.int64)
    for c, values in enumerate(every):
        ranks[column == c] = np.searchsorted(values, above[column == c])
    one = word(1)
    struck = ((one << (middle - first).astype(word)) - one) << first.astype(word)
    counts = np.array([len(tree.column) for tree in trees])
    # each tree is padded with nodes that strike nothing
    offsets = np.cumsum([0, *(-(-np.maximum(counts, 1) // _TOGETHER) * _TOGETHER)])
    place = np.arange(len(column)) + np.repeat(offsets[:-1] - np.cumsum(counts) + counts, counts)

    def padded(values: np.ndarray, fill: Any, dtype: Any) -> np.ndarray:
        rows = np.full(offsets[-1], fill, dtype)
        rows[place] = values
        return rows

    return Kernel(
        thresholds=table,
        columns=padded(column, 0, np.int64),
        ranks=padded(ranks, 0, np.min_scalar_type(size - 1)),
        masks=padded(~struck, ~word(0), word),
        offsets=offsets,
        leaves=_placed([tree.leaves for tree in trees], width, forest.dtype),
        base=forest.base,
    )


def _single(threshold: np.ndarray, closed: bool) -> np.ndarray:
    """Return the largest numbers of single precision, (K,), that still go left."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold if closed else True, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _placed(leaves: list[np.ndarray], width: int, dtype: type) -> np.ndarray:
    """Return the values of each tree's leaves, (trees, width), at the places that the de Bruijn sequence gives bits."""
    magic, shift = int(_DE_BRUIJN[width][0]), _DE_BRUIJN[width][1]
    places = np.array([((magic << bit) & ((1 << width) - 1)) >> shift for bit in range(width)])
    placed: np.ndarray = np.zeros((len(leaves), width), dtype)
    for row, values in zip(placed, leaves, strict=True):
        row[places[: len(values)]] = values
    return placed


@_compiled
def _rank(row, thresholds, place):
    """Fill `place` with how many thresholds, ascending and 2**m of them, each input of a column is above."""
    place[:] = 0
    step = len(thresholds) >> 1
    while step:
        for r in range(len(row)):
            place[r] += step if row[r] > thresholds[place[r] + step - 1] else 0
        step >>= 1


@_compiled
def _score(rows, thresholds, columns, ranks, masks, offsets, leaves, magic, shift, base, found):
    """Fill `found` (N,) with the sums over trees of the rows (N, F)."""
    width = rows.shape[1]
    seen = np.zeros((width, _ROWS), ranks.dtype)
    row, place = np.zeros(_ROWS, thresholds.dtype), np.zeros(_ROWS, np.int32)
    alive = np.empty(_ROWS, masks.dtype)
    total = np.empty(_ROWS, leaves.dtype)
    mask = masks.dtype.type  # numba would make 64 bits of every sum and product
    whole = mask(~mask(0))
    for begin in range(0, len(rows), _ROWS):
        count = min(_ROWS, len(rows) - begin)
        for f in range(width):
            for r in range(count):
                row[r] = rows[begin + r, f]
            _rank(row, thresholds[f], place)
            for r in range(_ROWS):
                seen[f, r] = place[r]
        total[:] = base
        for tree in range(len(offsets) - 1):
            alive[:] = whole
            for k in range(offsets[tree], offsets[tree + 1], _TOGETHER):
                a, b, c, d = seen[columns[k]], seen[columns[k + 1]], seen[columns[k + 2]], seen[columns[k + 3]]
                at, bt, ct, dt = ranks[k], ranks[k + 1], ranks[k + 2], ranks[k + 3]
                am, bm, cm, dm = masks[k], masks[k + 1], masks[k + 2], masks[k + 3]
                for r in range(_ROWS):
                    left = alive[r]
                    left &= am if a[r] > at else whole
                    left &= bm if b[r] > bt else whole
                    left &= cm if c[r] > ct else whole
                    left &= dm if d[r] > dt else whole
                    alive[r] = left
            values = leaves[tree]
            for r in range(_ROWS):
                lowest = mask(alive[r] & mask(-alive[r]))
                total[r] += values[mask(mask(lowest * magic) >> shift)]
        found[begin : begin + count] = total[:count]
