"""Steps at borders: whether a map changes from state to state more than it does inside the states.

Fluxes know nothing of state lines. A map made with covariates or parameters that were drawn state by state jumps there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fluxgrid.evaluation.map_places import map_places
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region


def border_steps(means: Mapping[str, np.ndarray], grid: Grid, region: Region) -> dict[str, float]:
    """Return the `border_step` of each of some maps over the states of the US.

    Parameters
    ----------
    means : mapping of str to ndarray, (y, x), any unit
        Such as the mean of each flux over the period; NaN where there is no value.
    grid : Grid
        Of the maps.
    region : Region
        A cell belongs to the state that has most of the region's land in it, as in a score.

    Returns
    -------
    ratios : dict of str to float
        By the names of `means`; those without a finite ratio, as where cells with a value lie in fewer than two
        states, are left out.
    """
    places = map_places(region, grid)
    state = places.on_grid(places.state)
    ratios = {name: border_step(values, state) for name, values in means.items()}
    return {name: ratio for name, ratio in ratios.items() if np.isfinite(ratio)}


def border_step(annual_map: np.ndarray, state: np.ndarray) -> float:
    """Return the mean jump across state borders over the mean jump inside states.

    Parameters
    ----------
    annual_map : ndarray, (y, x), any unit
        NaN where there is no value.
    state : ndarray of int, (y, x)
        State of each cell, below 0 for none.

    Returns
    -------
    ratio : float
        Mean absolute difference between 4-neighbouring cells of two states, divided by that between 4-neighbours of one
        state. Near 1 where borders do not show; NaN if there is no border or no inside, or the map is flat in both;
        inf if it is flat inside states only.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    Compare the ratio of a map with that of the truth on the same cells: borders that follow a river or a shore may
    run where the truth is steep itself.

    Examples
    --------
    >>> border_step(np.array([[1.0, 2.0, 5.0, 6.0]]), np.array([[0, 0, 1, 1]]))
    3.0
    """
    if annual_map.shape != state.shape:
        message = f"The map {annual_map.shape} and the states {state.shape} must have one shape (y, x)."
        raise ValueError(message)
    jumps, across = (
        np.concatenate(parts) for parts in zip(*(_pairs(annual_map, state, k) for k in (0, 1)), strict=True)
    )
    if across.all() or not across.any():
        return float("nan")
    border, inside = float(jumps[across].mean()), float(jumps[~across].mean())
    if inside > 0:
        return border / inside
    return float("inf") if border > 0 else float("nan")


def _pairs(values: np.ndarray, state: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the jumps between neighbours along an axis that both have value and state, and which cross a border."""
    near, far = (np.take(state, range(k, state.shape[axis] - 1 + k), axis) for k in (0, 1))
    jumps = np.abs(np.diff(values.astype(np.float64), axis=axis))
    known = np.isfinite(jumps) & (near >= 0) & (far >= 0)
    return jumps[known], (near != far)[known]
