"""Which calibrated heads speak for a cell, and with what weight; the rest is the global model's.

A cell's outputs are a mean over heads, weighted by a kernel in space and climate and shrunk to the global model: the
estimator of Nadaraya and Watson with a prior of mass kappa on the global model.

References
----------
Nadaraya, E. A. (1964): On estimating regression. Theory of Probability and its Applications 9, 141-142,
https://doi.org/10.1137/1109020
Watson, G. S. (1964): Smooth regression analysis. Sankhya A 26, 359-372
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fluxgrid.errors import itemise
from fluxgrid.geo.sphere import great_circle_km
from fluxgrid.models.places import Bandwidth, CalibratedPlaces

_PAIRS = 2**20
"""Cells times places held at once."""
_ROUNDING = 1e-5
"""How far weights in float32 may sum above 1."""


@dataclass(frozen=True, eq=False)
class Blend:
    """Weights of calibrated places at n cells.

    Parameters
    ----------
    places : ndarray, (n, k), int16
        Positions in the checkpoint's list of places, -1 for an empty slot.
    weights : ndarray, (n, k), float32, 0-1
        0 in empty slots. Row sums are at most 1; the rest is the global model's.

    Raises
    ------
    ValueError
        Listing every disagreement of the two.
    """

    places: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", np.asarray(self.places, np.int16))
        object.__setattr__(self, "weights", np.asarray(self.weights, np.float32))
        if problems := list(self._problems()):
            raise ValueError(itemise("The weights of calibrated places are wrong", problems))

    def _problems(self) -> Iterator[str]:
        """Yield one line for each disagreement of places and weights."""
        if self.places.ndim != 2 or self.places.shape != self.weights.shape:
            yield f"places {self.places.shape} and weights {self.weights.shape} must have one shape (n, k)"
            return
        if not (self.weights >= 0).all():
            yield "weights must be 0 or more and not NaN"
        if (self.weights.sum(axis=1, dtype=np.float64) > 1 + _ROUNDING).any():
            yield "weights of a cell must sum to 1 at most"
        if (self.weights[self.places < 0] > 0).any():
            yield "an empty slot (-1) must have weight 0"

    def __len__(self) -> int:
        return len(self.places)

    @property
    def global_weight(self) -> np.ndarray:
        """Share of the global model, (n,), float32, 0-1."""
        return np.maximum(1 - self.weights.sum(axis=1, dtype=np.float64), 0).astype(np.float32)

    @property
    def strongest(self) -> np.ndarray:
        """Place that weighs most, (n,), int16; -1 where the global model is all there is."""
        first = self._strongest_slot
        place = np.take_along_axis(self.places, first, axis=1)[:, 0]
        return np.where(self.strongest_weight > 0, place, np.int16(-1))

    @property
    def strongest_weight(self) -> np.ndarray:
        """Its weight, (n,), float32; 0 where there is none."""
        return np.take_along_axis(self.weights, self._strongest_slot, axis=1)[:, 0]

    @property
    def _strongest_slot(self) -> np.ndarray:
        """Slot that weighs most, (n, 1)."""
        return self.weights.argmax(axis=1)[:, None]

    def select(self, rows: np.ndarray | slice) -> Blend:
        """Return the blend of some cells.

        Parameters
        ----------
        rows : slice, or array of int or bool
            Which cells, in the order wanted.
        """
        return Blend(self.places[rows], self.weights[rows])

    def pad(self, size: int) -> Blend:
        """Return the blend with cells of the global model appended.

        Parameters
        ----------
        size : int
            Number of cells wanted.

        Raises
        ------
        ValueError
            If there are more cells already.
        """
        if size < len(self):
            message = f"A blend of {len(self)} cells cannot be padded to {size}; select the cells wanted first."
            raise ValueError(message)
        more = ((0, size - len(self)), (0, 0))
        return Blend(np.pad(self.places, more, constant_values=-1), np.pad(self.weights, more))


def global_blend(n: int) -> Blend:
    """Return the blend of n cells that take the global model alone.

    Parameters
    ----------
    n : int
        Number of cells.
    """
    return Blend(np.full((n, 1), -1), np.zeros((n, 1)))


def state_blend(state_of_cell: np.ndarray) -> Blend:
    """Return the blend in which each cell takes the head of its state.

    Parameters
    ----------
    state_of_cell : ndarray of int, (n,)
        Position of the cell's state in the list of places, -1 where there is none: what
        `CalibratedPlaces.positions_of` gives.

    Returns
    -------
    blend : Blend
        One slot of weight 1; the global model where there is no state.

    Examples
    --------
    >>> state_blend(np.array([3, -1])).global_weight
    array([0., 1.], dtype=float32)
    """
    places = np.asarray(state_of_cell)[:, None]
    return Blend(np.maximum(places, -1), places >= 0)


def neighbourhood_blend(
    latitude: np.ndarray, longitude: np.ndarray, climate: np.ndarray, places: CalibratedPlaces
) -> Blend:
    """Return the blend in which each cell takes the heads of places near it on the ground and in climate.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
    climate : ndarray, (n, K), units of the variables
        Normals of the cells, in the order of ``places.climate_names``. A variable that is NaN does not count in the
        distance of that cell; without any, the ground alone counts.
    places : CalibratedPlaces
        With a bandwidth.

    Returns
    -------
    blend : Blend
        ``most`` slots (or as many as there are places), by falling weight. The weights of a cell follow from that cell
        and the places alone, bit for bit.

    Raises
    ------
    ValueError
        If the places have no bandwidth, or the climate has another shape.

    Notes
    -----
    With d_g the great-circle distance, d_c the root mean square of the differences in climate in units of
    ``climate_scale``, and the bandwidth's h_g, h_c, kappa and k, the raw weight of place p is

        r_p = exp(-d_g^2 / (2 h_g^2) - d_c^2 / (2 h_c^2)).

    The k largest are kept, lowered by the next one: v_p = max(r_p - r_(k+1), 0). Without that a place would drop out,
    and another come in, with a jump; so weights are continuous in place and climate. The weight is
    v_p / (kappa + sum of v), and kappa / (kappa + sum of v) is left to the global model. A bandwidth so wide that more
    than k places count alike therefore leans to the global model: it asks for more places than it may blend.
    """
    if places.bandwidth is None:
        message = "The calibrated places have no bandwidth: choose one with choose_bandwidth, or blend state by state."
        raise ValueError(message)
    climate = np.asarray(climate, np.float64)
    if climate.shape != (len(latitude), len(places.climate_names)):
        wanted = (len(latitude), len(places.climate_names))
        message = f"The climate has shape {climate.shape}, expected {wanted}: cells x {list(places.climate_names)}."
        raise ValueError(message)
    kept = min(places.bandwidth.most, len(places))
    index = np.empty((len(climate), kept), np.int16)
    weights = np.empty((len(climate), kept), np.float32)
    step = max(_PAIRS // len(places), 1)
    for start in range(0, len(climate), step):
        rows = slice(start, start + step)
        distances = place_distances(latitude[rows], longitude[rows], climate[rows], places)
        near, share = kept_weights(kernel(*distances, places.bandwidth), places.bandwidth)
        weights[rows] = share
        index[rows] = np.where(weights[rows] > 0, near, -1)
    return Blend(index, weights)


def place_distances(
    latitude: np.ndarray, longitude: np.ndarray, climate: np.ndarray, places: CalibratedPlaces
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of cells from places on the ground and in climate.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
    climate : ndarray, (n, K), units of the variables
    places : CalibratedPlaces

    Returns
    -------
    ground, climate : ndarray, (n, P), float64
        km, and root mean square over the variables known of the differences in units of ``climate_scale``.
    """
    ground = great_circle_km(latitude, longitude, places.latitude, places.longitude)
    square, known = np.zeros(ground.shape), np.zeros((len(ground), 1))
    for variable, scale in enumerate(places.climate_scale):
        here = np.asarray(climate[:, variable], np.float64)[:, None]
        seen = np.isfinite(here)
        square += np.where(seen, ((here - places.climate[:, variable]) / scale) ** 2, 0.0)
        known += seen
    return ground, np.sqrt(square / np.maximum(known, 1))


def kernel(ground: np.ndarray, climate: np.ndarray, bandwidth: Bandwidth) -> np.ndarray:
    """Return the raw weights of places at cells.

    Parameters
    ----------
    ground, climate : ndarray, (n, P)
        From `place_distances`.
    bandwidth : Bandwidth

    Returns
    -------
    raw : ndarray, (n, P), float64, 0-1
        See `neighbourhood_blend`; 1 at the place itself.
    """
    return np.exp(-0.5 * ((ground / bandwidth.ground_km) ** 2 + (climate / bandwidth.climate) ** 2))


def kept_weights(raw: np.ndarray, bandwidth: Bandwidth) -> tuple[np.ndarray, np.ndarray]:
    """Return the places that each cell keeps, and their weights.

    Parameters
    ----------
    raw : ndarray, (n, P), 0-1
        From `kernel`.
    bandwidth : Bandwidth

    Returns
    -------
    index : ndarray of int, (n, k)
        Positions of the places, by falling weight, equal ones by position; k is the smaller of ``most`` and P.
    weights : ndarray, (n, k), float64, 0-1
        See `neighbourhood_blend`.
    """
    k = min(bandwidth.most, raw.shape[1])
    if k < raw.shape[1]:
        # whichever of several that tie with the (k+1)-th comes among the first k, it has nothing above it
        order = np.argpartition(-raw, k, axis=1)
        next_one = np.take_along_axis(raw, order[:, k : k + 1], axis=1)
        index = np.sort(order[:, :k], axis=1)
    else:
        next_one, index = np.zeros((len(raw), 1)), np.broadcast_to(np.arange(k), raw.shape)
    above = np.take_along_axis(raw, index, axis=1) - next_one
    falling = np.argsort(-above, axis=1, kind="stable")
    index, above = (np.take_along_axis(values, falling, axis=1) for values in (index, above))
    # summed in one fixed order, so that a cell gets the same bits among any others
    total = np.add.accumulate(above, axis=1)[:, -1:]
    return index, above / (bandwidth.shrink + total)
