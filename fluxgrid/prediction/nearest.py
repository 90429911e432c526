"""Exact distances to the nearest of a few thousand fixed points, one query after the other without Python's lock.

The points stand in a k-d tree (Bentley 1975, doi 10.1145/361002.361007) over their leading principal components, where
vectors of correlated predictors differ most; a distance there is never longer than the whole one, so that nearly all
points are put aside by a few columns, a leaf at a time in vector instructions. What is left is measured in full, in
double precision. A search begins with the point found for the query before: neighbours of a map have nearly the same.
That changes how long it takes, not what it finds: the result is the least of the distances as `_squared` adds them up.
Where numba is missing scipy's k-d tree answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from fluxgrid import compiling

_compiled = compiling.kernel()
_inlined = compiling.kernel(forceinline=True)
_bounding = compiling.kernel(  # of what only says which points need not be measured
    forceinline=True, fastmath={"contract", "reassoc"}
)

_LEAF = 32
"""Most points of a leaf."""
_COLUMNS = 8
"""Leading components that are looked at first."""
_SLACK = 2e-6
"""Distance of two components in single precision, over the lengths of both vectors, that rounding may add: eight
columns, each rounded to 2**-24 and added up in as many steps, make less than 1e-6."""
_DEEPEST = 64
"""Levels of a tree that halves its points: enough for any number of them."""


class _Tree(NamedTuple):
    """N points in the order of the leaves, and Q nodes, the root first."""

    points: np.ndarray
    """(N, K), float64."""
    turn: np.ndarray
    """The leading components as rows, (L, K), float64."""
    leaves: np.ndarray
    """Components of the points of each leaf, (leaves, L, `_LEAF`), float32; far away where it is not full."""
    column: np.ndarray
    """(Q,): component that a node divides by, -1 of a leaf."""
    edges: np.ndarray
    """(Q, 2), float32: highest value of the left branch, lowest of the right one."""
    links: np.ndarray
    """(Q, 2): branches of a node; first point of a leaf, and the one after its last."""
    leaf: np.ndarray
    """(Q,): position in `leaves`."""
    longest: float
    """Length of the longest vector of components."""


class NearestPoints:
    """Points that distances are asked to.

    Parameters
    ----------
    points : ndarray, (N, K), finite
        N > 0.
    """

    def __init__(self, points: np.ndarray):
        points = np.ascontiguousarray(points, np.float64)
        self._width = points.shape[1]
        self._tree = _plant(points) if compiling.AVAILABLE else cKDTree(points)

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Return the Euclidean distance of each row to the nearest point.

        Parameters
        ----------
        rows : ndarray, (R, K), finite
            Rows that lie near each other are found faster one after the other.

        Returns
        -------
        distances : ndarray, (R,), float64
            The same for a row whatever the others are.
        """
        if rows.shape[1] != self._width:  # the kernel would read beyond a row
            message = f"Rows of {rows.shape[1]} numbers have no distance to points of {self._width}."
            raise ValueError(message)
        if isinstance(self._tree, cKDTree):
            return self._tree.query(rows)[0]
        found = np.empty(len(rows))
        _search(np.ascontiguousarray(rows, np.float64), self._tree, found)
        return found


def _plant(points: np.ndarray) -> _Tree:
    """Return the tree of points."""
    centred = points - points.mean(axis=0)
    turn = np.ascontiguousarray(np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :_COLUMNS].T)
    parts = (points @ turn.T).astype(np.float32)
    nodes: list[tuple[int, float, float, int, int, int]] = []
    leaves: list[np.ndarray] = []
    order = np.arange(len(points))

    def grow(low: int, high: int) -> int:
        """Add the node of a run of points, and all below it; return its number."""
        number, mine = len(nodes), parts[order[low:high]]
        nodes.append((-1, 0.0, 0.0, low, high, len(leaves)))
        if high - low <= _LEAF:
            full = np.full((_LEAF, len(turn)), np.inf, np.float32)
            full[: high - low] = mine
            leaves.append(full.T)
            return number
        column, half = int(np.ptp(mine, axis=0).argmax()), (high - low) // 2
        order[low:high] = order[low:high][np.argpartition(mine[:, column], half)]
        middle = low + half
        edges = parts[order[low:middle], column].max(), parts[order[middle:high], column].min()
        nodes[number] = (column, *edges, grow(low, middle), grow(middle, high), -1)
        return number

    grow(0, len(points))
    column, left, right, first, last, leaf = (np.array(values) for values in zip(*nodes, strict=True))
    edges, links = np.stack([left, right], axis=1).astype(np.float32), np.stack([first, last], axis=1)
    longest = float(np.linalg.norm(points @ turn.T, axis=1).max())
    return _Tree(points[order], turn, np.ascontiguousarray(leaves), column, edges, links, leaf, longest)


@_inlined
def _squared(row, point, most):
    """Return the squared distance of two vectors, or something not below `most` if it is not below that.

    Four sums side by side, added up at the end, as in `scipy.spatial.cKDTree`, so that the results are the same bits.
    """
    width = len(row)
    even = width - width % 4
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for k in range(0, even, 4):
        x, y, z, w = row[k] - point[k], row[k + 1] - point[k + 1], row[k + 2] - point[k + 2], row[k + 3] - point[k + 3]
        a, b, c, d = a + x * x, b + y * y, c + z * z, d + w * w
        if k % 8 == 4 and a + b + c + d >= most:  # rounding is monotonic: what is added can make it no less
            return most
    total = a + b + c + d
    for k in range(even, width):
        x = row[k] - point[k]
        total += x * x
    return total


@_bounding
def _turned(row, turn, out):
    """Fill the components of a row, (L,), float32, and return their length."""
    length = 0.0
    for j in range(len(out)):
        axis, part = turn[j], 0.0
        for k in range(len(row)):
            part += row[k] * axis[k]
        out[j] = part
        length += part * part
    return np.sqrt(length)


@_inlined
def _parts_squared(parts, leaf, sums):
    """Fill the squared distances of components, (L,), from those of a leaf's points, (L, `_LEAF`)."""
    sums[:] = np.float32(0.0)
    for k in range(len(parts)):
        x, row = parts[k], leaf[k]
        for i in range(len(row)):
            d = x - row[i]
            sums[i] += d * d


@_compiled
def _search(rows, tree, found):
    """Fill the distance of each row to its nearest point."""
    parts, sums = np.empty(len(tree.turn), np.float32), np.empty(tree.leaves.shape[2], np.float32)
    stack, bounds = np.empty(_DEEPEST, np.intp), np.empty(_DEEPEST, np.float32)
    nearest = 0
    for r in range(len(rows)):
        row = rows[r]
        length = _turned(row, tree.turn, parts)
        # beyond it squares leave single precision, and every point is measured
        slack = _SLACK * (length + tree.longest) if length + tree.longest < 1e15 else np.inf
        best = _squared(row, tree.points[nearest], np.inf)
        limit = (np.sqrt(best) + slack) ** 2
        stack[0], bounds[0], top = 0, np.float32(0.0), 1
        while top:
            top -= 1
            node, bound = stack[top], bounds[top]
            while not bound > limit and tree.column[node] >= 0:
                value = parts[tree.column[node]]
                left = max(value - tree.edges[node, 0], np.float32(0.0))
                right = max(tree.edges[node, 1] - value, np.float32(0.0))
                near = 0 if left <= right else 1
                stack[top] = tree.links[node, 1 - near]
                bounds[top] = max(bound, max(left, right) ** 2)
                top += 1
                node, bound = tree.links[node, near], max(bound, min(left, right) ** 2)
            if bound > limit:
                continue
            _parts_squared(parts, tree.leaves[tree.leaf[node]], sums)
            first = tree.links[node, 0]
            for i in range(tree.links[node, 1] - first):
                if sums[i] > limit:
                    continue
                distance = _squared(row, tree.points[first + i], best)
                if distance < best:
                    best, nearest = distance, first + i
                    limit = (np.sqrt(best) + slack) ** 2
        found[r] = np.sqrt(best)
