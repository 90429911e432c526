"""The places a model was calibrated at, and how far a calibration carries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fluxgrid.errors import itemise

_MOST_PLACES = int(np.iinfo(np.int16).max)


def _positive(value: object) -> bool:
    """Return whether it is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf


@dataclass(frozen=True)
class Bandwidth:
    """How fast a calibrated place loses its say with distance.

    Raises
    ------
    ValueError
        Listing every number that is not finite and above 0.
    """

    ground_km: float
    """Standard deviation of the kernel along the ground, km."""
    climate: float
    """Standard deviation of the kernel in climate, in units of `CalibratedPlaces.climate_scale`."""
    shrink: float
    """Weight of the global model beside places whose kernels count 1 where they stand (kappa)."""
    most: int
    """Places that a cell may blend."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: {value!r} must be a finite number above 0"
            for name, value in asdict(self).items()
            if not _positive(value)
        ]
        if not isinstance(self.most, int):
            wrong.append(f"most: {self.most!r} must be a whole number of places")
        if wrong:
            raise ValueError(itemise("The bandwidth cannot be used", wrong))


@dataclass(frozen=True, eq=False)
class CalibratedPlaces:
    """Where the calibrated heads of a checkpoint stand on the ground and in climate, in the order of the heads.

    Parameters
    ----------
    names : tuple of str, (P,)
        Of the places, all different.
    latitude, longitude : ndarray, (P,), float64, degrees
    climate : ndarray, (P, K), float64, units of the variables
        Normals of the places, as `fluxgrid.upscaling.normals.climate_normals` makes them for cells.
    climate_names : tuple of str, (K,)
        Forcings whose normals they are.
    climate_scale : ndarray, (K,), float64, > 0
        What counts as one unit of distance in climate; see `climate_scale`.
    states : tuple of str, (P,)
        Postal code of a place that is a whole state, empty for the others.
    bandwidth : Bandwidth, optional
        Chosen for these places; None where they are used state by state only.

    Raises
    ------
    ValueError
        Listing everything that does not fit together.
    """

    names: tuple[str, ...]
    latitude: np.ndarray
    longitude: np.ndarray
    climate: np.ndarray
    climate_names: tuple[str, ...]
    climate_scale: np.ndarray
    states: tuple[str, ...]
    bandwidth: Bandwidth | None = None

    def __post_init__(self) -> None:
        for name in ("latitude", "longitude", "climate", "climate_scale"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if problems := [*self._shapes(), *self._names()] or list(self._values()):
            raise ValueError(itemise("The calibrated places do not fit together", problems))

    def __len__(self) -> int:
        return len(self.names)

    def _shapes(self) -> Iterator[str]:
        """Yield one line for each array of another shape than names tell."""
        p, k = len(self.names), len(self.climate_names)
        if p == 0:
            yield "names: there is no place"
        if len(self.states) != p:
            yield f"states: {len(self.states)} for {p} names"
        shapes = {"latitude": (p,), "longitude": (p,), "climate": (p, k), "climate_scale": (k,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                yield f"{name}: shape {getattr(self, name).shape}, expected {shape}"

    def _names(self) -> Iterator[str]:
        """Yield one line for each name that is empty or comes twice."""
        if len(self.names) > _MOST_PLACES:
            yield f"names: {len(self.names)} places; a map can tell {_MOST_PLACES} apart"
        for field in ("names", "climate_names"):
            if "" in getattr(self, field):
                yield f"{field}: one is empty"
        for field in ("names", "climate_names", "states"):
            counts = Counter(name for name in getattr(self, field) if name)
            yield from (f"{field}: {name!r} comes {count} times" for name, count in counts.items() if count > 1)

    def _values(self) -> Iterator[str]:
        """Yield one line for each array with an impossible value."""
        for name, limit in (("latitude", 90.0), ("longitude", 180.0), ("climate", np.inf), ("climate_scale", np.inf)):
            values = getattr(self, name)
            if not (np.isfinite(values) & (np.abs(values) <= limit)).all():
                yield f"{name}: all must be finite" + (f" and within -{limit:g}..{limit:g}" if limit < np.inf else "")
        if (self.climate_scale <= 0).any():
            yield f"climate_scale: {self.climate_scale.tolist()} must be above 0"

    def positions_of(self, states: np.ndarray) -> np.ndarray:
        """Return the place that is each state.

        Parameters
        ----------
        states : array_like of str, any shape
            Postal codes, as `fluxgrid.geo.state_of.state_of` gives them.

        Returns
        -------
        position : ndarray of int16, same shape
            -1 where no place is that state.
        """
        codes = np.asarray(states)
        position = np.full(codes.shape, -1, np.int16)
        for place, state in enumerate(self.states):
            if state:
                position[codes == state] = place
        return position

    def to_json(self) -> str:
        """Return the text stored in a checkpoint."""
        row = {
            "names": self.names,
            "latitude": self.latitude.tolist(),
            "longitude": self.longitude.tolist(),
            "climate": self.climate.tolist(),
            "climate_names": self.climate_names,
            "climate_scale": self.climate_scale.tolist(),
            "states": self.states,
            "bandwidth": asdict(self.bandwidth) if self.bandwidth else None,
        }
        return json.dumps(row, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CalibratedPlaces:
        """Return the places stored by `to_json`; KeyError, TypeError or ValueError where the text does not fit."""
        row = json.loads(text)
        if not isinstance(row, dict):
            message = f"calibrated places are an object of lists, not {type(row).__name__}"
            raise TypeError(message)
        bandwidth = row.pop("bandwidth")
        for name in ("names", "climate_names", "states"):
            row[name] = tuple(_listed(row[name], name, str))
        for name in ("latitude", "longitude", "climate_scale"):
            row[name] = np.array(_listed(row[name], name, float), np.float64)
        normals = [_listed(each, "climate", float) for each in _listed(row["climate"], "climate", list)]
        row["climate"] = np.array(normals, np.float64)
        return cls(bandwidth=None if bandwidth is None else Bandwidth(**bandwidth), **row)


def _listed(values: Any, name: str, kind: type) -> list[Any]:
    """Return a list whose members are of one kind, where whole numbers count as floats."""
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(values, list) or not all(type(value) in allowed for value in values):
        message = f"{name} must be a list of {kind.__name__}, not {values!r}"
        raise TypeError(message)
    return values


def climate_scale(climate: np.ndarray) -> np.ndarray:
    """Return the spread of each climate variable over places, the unit of distance in climate.

    Parameters
    ----------
    climate : ndarray, (P, K), units of the variables

    Returns
    -------
    scale : ndarray, (K,), float64, > 0
        Population standard deviation; 1 where all places are alike.

    Examples
    --------
    >>> climate_scale(np.array([[8.0, 3.0], [12.0, 3.0]]))
    array([2., 1.])
    """
    spread = np.asarray(climate, np.float64).std(axis=0)
    return np.where(spread > 0, spread, 1.0)
