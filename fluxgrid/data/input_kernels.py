"""Compiled passes over the inputs of a block: all its variables in one call that leaves Python's lock alone.

Each variable is an array (T, n) of its own, and a call for each, or a copy side by side, would cost more than the work:
kernels get the addresses of the arrays (`Rows`). Every element is worked on by itself, and sums run over the steps in
their order, so that a place gets the same bits whatever stands beside it. Without numba numpy does the same, variable
by variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fluxgrid import compiling

if compiling.AVAILABLE:
    import numba
    from numba import types
    from numba.extending import intrinsic

_compiled = compiling.kernel()
_LARGEST = np.finfo(np.float32).max


class Rows:
    """Variables of one shape, held so that kernels may read them at their addresses.

    Parameters
    ----------
    arrays : sequence of ndarray, (T, n), float32
        Copied where their memory is not in that order.
    """

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = [np.ascontiguousarray(array, np.float32) for array in arrays]
        shapes = {array.shape for array in self.arrays}
        if len(shapes) > 1:
            message = f"Variables of one block must have one shape (steps, places), got {sorted(shapes)}."
            raise ValueError(message)
        self.shape = shapes.pop() if shapes else (0, 0)
        self.addresses = np.array([array.ctypes.data for array in self.arrays], np.uintp)


def screen(rows: Rows, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say of each variable whether all is well with it.

    Parameters
    ----------
    rows : Rows
        F variables.
    low, high : ndarray, (F,), float32
        What is credible.

    Returns
    -------
    whole : ndarray of bool, (F,)
        Every value is finite and credible.
    credible : ndarray of bool, (F,)
        Every value is credible or NaN.
    """
    _check_width(rows, len(low), len(high))
    if not compiling.AVAILABLE:
        limits = list(zip(rows.arrays, low, high, strict=True))
        credible = ~np.array([((x < least) | (x > most)).any() for x, least, most in limits], np.bool_)
        return credible & np.array([np.isfinite(x).all() for x in rows.arrays], np.bool_), credible
    whole, credible = np.ones(len(low), np.bool_), np.ones(len(low), np.bool_)
    steps, places = rows.shape
    _screen(rows.addresses, steps, places, low, high, whole, credible)
    return whole, credible


def mark_unknown(rows: Rows, missing: np.ndarray) -> None:
    """Set `missing`, bool (T, n), where any of the variables is not finite."""
    if not len(rows.addresses):
        return
    _check(rows, missing.shape, 0)
    if compiling.AVAILABLE:
        _mark(rows.addresses, missing)
    else:
        for values in rows.arrays:
            missing |= ~np.isfinite(values)


def scale_rows(rows: Rows, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return (x - mean) / std of F variables side by side, what is not a number as 0.

    Parameters
    ----------
    rows : Rows
    mean, std : ndarray, (F,), float32

    Returns
    -------
    scaled : ndarray, (T, n, F), float32
        What overflows is the largest number there is, as in `numpy.nan_to_num`.
    """
    _check_width(rows, len(mean), len(std))
    scaled = np.empty((*rows.shape, len(mean)), np.float32)
    if compiling.AVAILABLE:
        _scale(rows.addresses, mean, std, scaled)
    else:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for f, values in enumerate(rows.arrays):
                scaled[..., f] = np.nan_to_num((values - mean[f]) / std[f])
    return scaled


def mean_rows(rows: Rows, starts: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with the means of F variables over periods, added up in double precision in the order of time.

    Parameters
    ----------
    rows : Rows
    starts : ndarray of int, (M,)
        First step of each period; the last one goes to the end.
    missing : ndarray of bool, (T, n)
        Steps that are left out.
    out : ndarray, (M, n, F or more), float64
        NaN where a period has no step left.
    """
    _check(rows, missing.shape, int(starts[-1]))
    _check_width(rows, min(out.shape[-1], len(rows.addresses)))
    edges = np.append(starts, rows.shape[0]).astype(np.intp)
    if compiling.AVAILABLE:
        _mean(rows.addresses, edges, np.ascontiguousarray(missing), out)
        return
    with np.errstate(invalid="ignore"):
        for m, (first, after) in enumerate(pairwise(edges)):
            known = ~missing[first:after]
            for f, values in enumerate(rows.arrays):
                total = np.where(known, values[first:after], 0).sum(axis=0, dtype=np.float64)
                out[m, :, f] = total / known.sum(axis=0)


def _check_width(rows: Rows, *widths: int) -> None:
    """Check that so many numbers stand for each variable: kernels would read beyond them."""
    if any(width != len(rows.addresses) for width in widths):
        message = f"There are {len(rows.addresses)} variables and numbers for {', '.join(map(str, widths))}."
        raise ValueError(message)


def _check(rows: Rows, shape: tuple[int, ...], last: int) -> None:
    """Check that a mask and the last step asked for lie within the variables: kernels would read beyond them."""
    if shape != rows.shape or last >= max(rows.shape[0], 1):
        message = f"Variables of {rows.shape} steps and places do not go with a mask of {shape} and a step {last}."
        raise ValueError(message)


def _point(typing: Any, address: Any) -> Any:  # noqa: ARG001
    """Return an address as a pointer to float32; numba's word for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.uintp), generate


_as_pointer: Any = intrinsic(_point) if compiling.AVAILABLE else None


@_compiled
def _screen(
    addresses: np.ndarray,
    steps: int,
    places: int,
    low: np.ndarray,
    high: np.ndarray,
    whole: np.ndarray,
    credible: np.ndarray,
) -> None:
    """Do what `screen` says."""
    size = steps * places
    for f in range(len(addresses)):
        values = numba.carray(_as_pointer(addresses[f]), size)
        least, most = max(low[f], -_LARGEST), min(high[f], _LARGEST)
        bad = 0
        for i in range(size):
            bad += not (values[i] >= least) & (values[i] <= most)
        if bad == 0:
            continue
        whole[f] = False
        false = 0
        for i in range(size):
            false += (values[i] < low[f]) | (values[i] > high[f])
        credible[f] = false == 0


@_compiled
def _mark(addresses: np.ndarray, missing: np.ndarray) -> None:
    """Do what `mark_unknown` says."""
    flat = missing.reshape(-1)
    for f in range(len(addresses)):
        values = numba.carray(_as_pointer(addresses[f]), flat.size)
        for i in range(flat.size):
            flat[i] |= not abs(values[i]) <= _LARGEST


@_compiled
def _scale(addresses: np.ndarray, mean: np.ndarray, std: np.ndarray, scaled: np.ndarray) -> None:
    """Do what `scale_rows` says, step by step: all variables of one step stay in the nearest cache."""
    steps, places, width = scaled.shape
    step = np.empty((width, places + 16), np.float32)  # rows a power of two apart would push each other out of it
    zero = np.float32(0.0)
    for t in range(steps):
        for f in range(width):
            values, row = numba.carray(_as_pointer(addresses[f]), (steps, places))[t], step[f]
            middle, spread = mean[f], std[f]
            for b in range(places):
                x = (values[b] - middle) / spread
                row[b] = min(max(x, -_LARGEST), _LARGEST) if x == x else zero
        out = scaled[t]
        for b in range(places):
            for f in range(width):
                out[b, f] = step[f, b]


@_compiled
def _mean(addresses: np.ndarray, edges: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
    """Do what `mean_rows` says."""
    steps, places = missing.shape
    total, count = np.empty(places), np.empty(places)
    for m in range(len(edges) - 1):
        count[:] = 0.0
        for t in range(edges[m], edges[m + 1]):
            for b in range(places):
                count[b] += 0.0 if missing[t, b] else 1.0
        for f in range(len(addresses)):
            values = numba.carray(_as_pointer(addresses[f]), (steps, places))
            total[:] = 0.0
            for t in range(edges[m], edges[m + 1]):
                for b in range(places):
                    total[b] += 0.0 if missing[t, b] else np.float64(values[t, b])
            for b in range(places):
                out[m, b, f] = total[b] / count[b]  # 0 / 0 is NaN
