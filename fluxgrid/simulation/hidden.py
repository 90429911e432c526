"""What the covariates do not show: smooth fields of management and soil life, without a step at any border."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.simulation.noise import Waves, days_since_epoch, random_field
from fluxgrid.simulation.parameters import load_section, strict_dataclass


@strict_dataclass
class Hidden:
    """The hidden fields: a random field of unit variance each, and how far it moves a parameter."""

    planting: Waves
    planting_days: float
    """Standard deviation of the planting date, days."""
    efficiency: Waves
    efficiency_spread: float
    """Standard deviation of the logarithm of light-use efficiency."""
    turnover: Waves
    turnover_spread: float
    """Standard deviation of the logarithm of the decay rate of soil carbon."""
    residue: Waves
    removal: float
    """Median share of crop residue taken off the field."""
    removal_spread: float
    """Standard deviation of its logit."""
    vigour: Waves
    decay: Waves
    decay_spread: float
    """Standard deviation of the logarithm of the decay rate from year to year."""


HIDDEN = load_section("hidden", Hidden)


def hidden_fields(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return what management and soil life add to a place.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), float64, degrees
        Places.

    Returns
    -------
    fields : dict of ndarray, (n,), float64
        ``planting_shift`` days, ``efficiency`` and ``turnover`` (factors, median 1), ``removal`` (share, 0 to 1).

    Examples
    --------
    >>> sorted(hidden_fields(np.array([41.0]), np.array([-93.0])))
    ['efficiency', 'planting_shift', 'removal', 'turnover']
    """
    place = np.ascontiguousarray(latitude, dtype=np.float64), np.ascontiguousarray(longitude, dtype=np.float64)
    logit = np.log(HIDDEN.removal / (1.0 - HIDDEN.removal))
    residue = logit + HIDDEN.removal_spread * random_field(HIDDEN.residue, *place)
    return {
        "planting_shift": HIDDEN.planting_days * random_field(HIDDEN.planting, *place),
        "efficiency": np.exp(HIDDEN.efficiency_spread * random_field(HIDDEN.efficiency, *place)),
        "turnover": np.exp(HIDDEN.turnover_spread * random_field(HIDDEN.turnover, *place)),
        "removal": 1.0 / (1.0 + np.exp(-residue)),
    }


def hidden_year(latitude: np.ndarray, longitude: np.ndarray, year: int) -> dict[str, np.ndarray]:
    """Return what makes a year good or bad for plants and soil life beyond its weather.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), float64, degrees
        Places.
    year : int

    Returns
    -------
    fields : dict of ndarray, (n,), float64
        ``vigour`` of unit variance and ``decay``, a factor of median 1.
    """
    middle = days_since_epoch(pd.DatetimeIndex([f"{year}-07-01"]))
    vigour, decay = (random_field(waves, latitude, longitude, middle)[:, 0] for waves in (HIDDEN.vigour, HIDDEN.decay))
    return {"vigour": vigour, "decay": np.exp(HIDDEN.decay_spread * decay)}
