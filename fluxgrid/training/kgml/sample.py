"""Where a model is pretrained: cells of states drawn at random, and fields on their cropland."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluxgrid.errors import ConfigError
from fluxgrid.geo.state_of import state_of
from fluxgrid.simulation import places_at

_CROPS = slice(0, 3)


def draw_cells(
    states: Sequence[str], count: int, seed: int, least_crop: float = 0.0, resolution: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells of some states without repetition.

    Parameters
    ----------
    states : sequence of str
        Postal codes.
    count : int
        Cells.
    seed : int
    least_crop : float, 0-1
        Share of a cell that corn and soybean must have.
    resolution : float, degrees
        Of the lattice whose cell centres are drawn.

    Returns
    -------
    latitude, longitude : ndarray, (count,), degrees

    Raises
    ------
    ConfigError
        If the states hold fewer such cells.
    """
    latitude, longitude = cells_of(states, resolution)
    order = np.random.default_rng(seed).permutation(len(latitude))
    kept: list[int] = []
    for part in np.array_split(order, max(1, len(order) // 2048)):
        shares = places_at(latitude[part], longitude[part]).shares[:, _CROPS].sum(axis=1)
        kept += part[shares >= least_crop].tolist()
        if len(kept) >= count:
            return latitude[kept[:count]], longitude[kept[:count]]
    message = (
        f"{', '.join(states)} hold {len(kept)} cells of {resolution} degrees with at least {least_crop:.0%} of corn "
        f"and soybean, {count} were asked for. Ask for fewer, or for less cropland."
    )
    raise ConfigError(message)


def cells_of(states: Sequence[str], resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres of all lattice cells of some states, in the order of latitude and longitude."""
    latitude, longitude = np.meshgrid(
        np.arange(36.0, 49.5, resolution) + resolution / 2, np.arange(-104.5, -80.0, resolution) + resolution / 2
    )
    inside = np.isin(state_of(latitude.ravel(), longitude.ravel()), list(states))
    return latitude.ravel()[inside], longitude.ravel()[inside]
