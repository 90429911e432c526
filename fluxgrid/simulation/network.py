"""Where virtual towers stand, and what grows in their footprints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from fluxgrid.data.sites import class_index
from fluxgrid.geo import boundaries
from fluxgrid.geo.grid import Grid
from fluxgrid.simulation.land import COLUMNS, Places, places_at
from fluxgrid.simulation.noise import uniforms
from fluxgrid.simulation.parameters import strict_dataclass

_CELL_DEGREES = 0.1
_KM_PER_DEGREE = 111.2
# Columns of a cover; the columns before grass are crops, in their rotations.
_COVERS = {
    "crop": ("CRO", COLUMNS[: COLUMNS.index("grass")]),
    "grass": ("GRA", ("grass",)),
    "deciduous": ("DBF", ("deciduous",)),
    "evergreen": ("ENF", ("evergreen",)),
    "wetland": ("WET", ("wetland",)),
}
_LEAST_SHARE = 0.02  # of a column, as everywhere in the world
_CENTRE, _MEMBER, _CLUSTER, _COLUMN, _PURITY = range(5)  # streams of random numbers


@strict_dataclass
class Network:
    """How the towers of a network are spread over land and covers."""

    most: int
    """Number of towers that a network may have."""
    bounds: tuple[float, float, float, float]
    """West, east, south, north, degrees."""
    state_without: str
    """Postal code of the state in which no tower stands."""
    per_cluster: float
    cluster_km: float
    covers: dict[str, float]
    """Share of the towers by main cover."""
    least_purity: float
    """Smallest share of the main cover in a footprint; the largest is 1."""


@dataclass(frozen=True)
class Footprints:
    """Virtual towers: what they see, and which of them stand together."""

    places: Places
    """Land of the footprints: mostly one cover, the rest as in the cell."""
    clusters: np.ndarray
    """Number of each tower's cluster, (n,)."""


def draw_footprints(network: Network, n: int, seed: int) -> Footprints:
    """Place towers in clusters, each where its cover grows.

    Parameters
    ----------
    network : Network
    n : int
        Number of towers, >= 1.
    seed : int
        >= 0.

    Returns
    -------
    footprints : Footprints
        At the centres of different cells of the 0.1 degree lattice, ordered by cluster.
    """
    cells = _candidates(network)
    growing = np.stack([_share(cells, cover) for cover in _COVERS], axis=1)
    clusters = _draw_clusters(n, max(1, round(n / network.per_cluster)), seed)
    left = _count_covers(network, n)
    free, room = np.ones(len(growing)), np.ones(len(growing))
    chosen, covers = np.empty(n, dtype=int), np.empty(n, dtype=int)
    for cluster in range(clusters.max() + 1):
        far = _distances_km(cells, _draw_centre(growing, left, room, cluster, seed)) / network.cluster_km
        room[far < 5.0] = 0.0
        nearness = np.exp(-0.5 * far * far) * (far < 4.0)
        for tower in np.flatnonzero(clusters == cluster):
            covers[tower], chosen[tower] = _draw_tower(growing, nearness * free, left, int(tower), seed)
            left[covers[tower]] -= 1
            free[chosen[tower]] = 0.0
    names = [list(_COVERS)[cover] for cover in covers]
    return Footprints(_footprints(cells, chosen, names, network.least_purity, seed), clusters)


def draw(seed: int, purpose: int, number: int, count: int) -> np.ndarray:
    """Return a stream of its own for each purpose and each tower.

    Parameters
    ----------
    seed, purpose, number : int
        Seed of the network, what the numbers are for, and of which tower; all >= 0.
    count : int
        How many.

    Returns
    -------
    numbers : ndarray, (count,), float64
        In (0, 1).

    Examples
    --------
    >>> draw(1, 2, 3, 4).shape
    (4,)
    """
    return uniforms((seed * 1_000 + purpose) * 100_000 + number, count)


def _candidates(network: Network) -> Places:
    """Return all cells in which a tower may stand: US land, but for the state without."""
    longitude, latitude = (values.ravel() for values in Grid.from_bounds(network.bounds, _CELL_DEGREES).lonlat())
    states = boundaries.states()
    allowed = states[states["postal"] != network.state_without].union_all()
    shapely.prepare(allowed)
    inside = shapely.contains_xy(allowed, longitude, latitude)
    return places_at(latitude[inside], longitude[inside])


def _count_covers(network: Network, n: int) -> np.ndarray:
    """Return the number of towers of each cover, (cover,): the shares asked for as nearly as whole towers can."""
    wanted = np.array([network.covers[cover] for cover in _COVERS]) * n
    counts = np.floor(wanted).astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: n - counts.sum()]] += 1
    return counts


def _draw_clusters(n: int, count: int, seed: int) -> np.ndarray:
    """Return the cluster of each tower, (n,), in order; every cluster has one at least."""
    rest = np.floor(draw(seed, _CLUSTER, 0, n) * count).astype(int)
    return np.sort(np.concatenate([np.arange(count), rest])[:n])


def _draw_centre(growing: np.ndarray, left: np.ndarray, room: np.ndarray, cluster: int, seed: int) -> int:
    """Return the cell of a cluster's centre, where a cover grows that still lacks towers, far from other clusters."""
    first, second = draw(seed, _CENTRE, cluster, 2)
    weights = growing[:, _pick(left, first)] + 1e-6
    return _pick(weights * room if room.any() else weights, second)


def _draw_tower(growing: np.ndarray, nearness: np.ndarray, left: np.ndarray, tower: int, seed: int) -> tuple[int, int]:
    """Return the cover of a tower, one that lacks towers and is at hand, and its cell, where that cover grows."""
    first, second = draw(seed, _MEMBER, tower, 2)
    at_hand = (nearness[:, None] * growing).sum(axis=0) / nearness.sum()
    cover = _pick(left * (at_hand + 1e-3), first)
    return cover, _pick(nearness * (growing[:, cover] + 1e-3), second)


def _share(cells: Places, cover: str) -> np.ndarray:
    """Return the share of a cover in each cell, (cell,)."""
    share = np.zeros_like(cells.latitude)
    for column in _COVERS[cover][1]:
        share += cells.shares[:, COLUMNS.index(column)]
    return share


def _pick(weights: np.ndarray, number: float) -> int:
    """Return a position drawn by weights; a weight of zero is never drawn."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, number * total[-1], side="right"))


def _distances_km(cells: Places, centre: int) -> np.ndarray:
    """Return distances to a cell, km, on a plane good enough for a few hundred km."""
    north = cells.latitude - cells.latitude[centre]
    east = (cells.longitude - cells.longitude[centre]) * np.cos(np.deg2rad(cells.latitude[centre]))
    return _KM_PER_DEGREE * np.hypot(north, east)


def _footprints(cells: Places, chosen: np.ndarray, covers: list[str], least: float, seed: int) -> Places:
    """Return the land of the footprints: the main cover's column, and the rest in the proportions of the cell."""
    n = len(chosen)
    main = np.zeros((n, len(COLUMNS)))
    for i, (cell, cover) in enumerate(zip(chosen, covers, strict=True)):
        columns = [COLUMNS.index(name) for name in _COVERS[cover][1]]
        weights = cells.shares[cell, columns]
        weights = weights if weights.any() else np.ones_like(weights)
        main[i, columns[_pick(weights, draw(seed, _COLUMN, i, 1)[0])]] = 1.0
    purity = least + (1.0 - least) * np.array([draw(seed, _PURITY, i, 1) for i in range(n)])
    shares = purity * main + (1.0 - purity) * cells.shares[chosen]
    shares[shares < _LEAST_SHARE] = 0.0
    statics = {name: values[chosen] for name, values in cells.statics.items()}
    statics |= _fractions(shares)
    statics["water_fraction"] = (1.0 - purity[:, 0]) * statics["water_fraction"]
    statics["igbp"] = np.array([class_index("igbp", _COVERS[cover][0]) for cover in covers])
    return Places(cells.latitude[chosen], cells.longitude[chosen], statics, shares)


def _fractions(shares: np.ndarray) -> dict[str, np.ndarray]:
    """Return the cover statics that belong to shares of columns, (n,)."""
    share = dict(zip(COLUMNS, shares.T, strict=True))
    return {
        "crop_fraction": share["corn_soy"] + share["soy_corn"] + share["corn_corn"] + share["small_grain"],
        "small_grain_fraction": share["small_grain"],
        "grass_fraction": share["grass"],
        "forest_fraction": share["deciduous"] + share["evergreen"],
        "evergreen_fraction": share["evergreen"],
        "wetland_fraction": share["wetland"],
    }
