"""How much of each cell is land."""

from __future__ import annotations

import numpy as np

from fluxgrid.geo import boundaries
from fluxgrid.geo.grid import Grid


def land_fraction(grid: Grid) -> np.ndarray:
    """Return the share of each cell inside the United States' state boundaries.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    fraction : ndarray float32, (y, x), 0-1
        Land plus inland water (rivers, lakes, reservoirs); sea, Great Lakes and ground outside the 50 states and the
        District of Columbia are left out.
    """
    inside = np.asarray(grid.coverage(boundaries.states().geometry).sum(axis=0))
    return np.clip(inside, 0, 1).reshape(grid.shape).astype("float32")
