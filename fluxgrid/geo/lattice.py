"""Positions on one axis of a grid: whole or half multiples of a step, free of rounding noise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

TOLERANCE = 1e-2
"""Part of a cell by which positions may be off and still count as on the lattice: float32 coordinates of fine grids."""


def digits(geographic: bool) -> int:
    """Return the decimals that coordinates are rounded to: 0.01 mm on the ground in degrees, 1 um in metres.

    Parameters
    ----------
    geographic : bool
        Whether the coordinates are degrees.
    """
    return 10 if geographic else 6


def snap(origin: float, step: float, decimals: int) -> float:
    """Return an edge of the lattice without rounding noise.

    Parameters
    ----------
    origin, step : float
        An edge and the size of a cell, in one unit.
    decimals : int
        What is kept.

    Examples
    --------
    >>> snap(0.30000000000000004, 0.1, 10)
    0.3
    """
    return float(positions(origin, step, np.zeros(1), decimals)[0])


def positions(origin: float, step: float, index: np.ndarray, decimals: int) -> np.ndarray:
    """Return positions at (fractions of) cells from an edge.

    Computed from the number of steps to zero (kept to 1e-5), not from the grid's own edge: then overlapping grids agree
    to the last bit.

    Parameters
    ----------
    origin, step : float
        An edge and the size of a cell, in one unit.
    index : ndarray
        Cells from that edge; centres are at halves.
    decimals : int
        What is kept.

    Examples
    --------
    >>> positions(-91.5, 0.1, np.arange(3) + 0.5, 10).tolist()
    [-91.45, -91.35, -91.25]
    """
    return np.round((round(origin / step, 5) + index) * step, decimals) + 0.0  # adding zero turns -0.0 into 0.0


def cover(low: float, high: float, step: float) -> tuple[int, int]:
    """Return the cells, counted from zero, that cover an interval, the last one exclusive.

    Parameters
    ----------
    low, high, step : float
        In one unit. An end within a millionth of a cell of an edge is on it.

    Examples
    --------
    >>> cover(0.3, 0.7, 0.1)
    (3, 7)
    """
    return int(np.floor(low / step + 1e-6)), int(np.ceil(high / step - 1e-6))


def problems(name: str, centres: np.ndarray) -> list[str]:
    """Return what keeps ascending centres from being an axis of a grid.

    Parameters
    ----------
    name : str
        Of the axis, for the message.
    centres : ndarray, 1-D
        Positions of cell centres.

    Examples
    --------
    >>> problems("x", np.array([1.0, 2.0, 4.0]))
    ['x is not equally spaced: steps from 1.0 to 2.0 where 1.5 is the mean']
    """
    if centres.ndim != 1 or centres.size == 0 or not np.isfinite(centres).all():
        return [f"{name} must be a list of finite numbers, at least one; its shape is {centres.shape}"]
    if centres.size == 1:
        return []
    steps = np.diff(centres)
    if steps.min() <= 0:
        return [f"{name} must ascend or descend throughout; its steps run from {steps.min():.6g} to {steps.max():.6g}"]
    mean = (centres[-1] - centres[0]) / (centres.size - 1)
    off = np.abs(centres - centres[0] - mean * np.arange(centres.size)).max()
    if off <= TOLERANCE * mean:
        return []
    return [f"{name} is not equally spaced: steps from {steps.min()} to {steps.max()} where {mean} is the mean"]


def spacing(centres: np.ndarray) -> float:
    """Return the step between ascending centres, as the simplest fraction that fits them; 0.0 for a single one.

    Coordinates read from files are rounded: 0.1 degrees comes back as 0.09999999, 1/24 as 0.041666668. The simplest
    fraction that moves no cell by more than the tolerance is what was meant.

    Parameters
    ----------
    centres : ndarray, 1-D, ascending

    Examples
    --------
    >>> spacing(np.array([-91.45, -91.35, -91.25], dtype="float32").astype("float64"))
    0.1
    """
    count = centres.size - 1
    if count == 0:
        return 0.0
    mean = (centres[-1] - centres[0]) / count
    for limit in (1, 10, 100, 1_000, 10_000, 100_000):
        simple = float(Fraction(mean).limit_denominator(limit))
        if abs(simple - mean) * count <= TOLERANCE * mean:
            return simple
    return float(mean)


def origin(centres: np.ndarray, step: float) -> float:
    """Return the lower edge of the first cell, on a half multiple of the step if the centres are close to one.

    Parameters
    ----------
    centres : ndarray, 1-D, ascending
    step : float

    Examples
    --------
    >>> origin(np.array([-91.449997, -91.349998]), 0.1)
    -91.5
    """
    first = float(np.mean(centres - step * np.arange(centres.size))) - step / 2
    nearest = round(2 * first / step) / 2
    return nearest * step if abs(nearest - first / step) <= TOLERANCE else first
