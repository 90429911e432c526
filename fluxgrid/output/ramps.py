"""Colours and value ranges shared by the quicklook and the QGIS layers."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

RAMPS = {
    **{"nee": "BrBG_r", "gpp": "YlGn", "reco": "YlOrBr", "ra": "YlOrBr", "rh": "YlOrBr"},
    **dict.fromkeys(("nee_se", "gpp_se", "reco_se"), "Purples"),
    **{"corn_yield": "YlGn", "soybean_yield": "YlGn", "harvest_removal": "YlOrBr", "balance_after_harvest": "BrBG_r"},
}
"""ColorBrewer ramps the colour-blind can read. NEE and balance: green is uptake, brown is release."""

SIGNED = ("nee", "balance_after_harvest")
"""Variables whose ramp is centred on 0."""

_ROUND = np.array([1, 1.5, 2, 3, 4, 5, 6, 8, 10])


@dataclass(frozen=True)
class Scale:
    """A colour ramp stretched over a range of values."""

    ramp: str
    """Name of a matplotlib colour map."""
    low: float
    """Value of the first colour."""
    high: float
    """Value of the last colour."""

    def stops(self, count: int = 9) -> list[tuple[float, str]]:
        """Return evenly spaced (value, colour) pairs.

        Parameters
        ----------
        count : int
            How many; an odd number puts one on the middle.

        Returns
        -------
        stops : list of (float, str)
            Colours as ``#rrggbb``.
        """
        colours = mpl.colormaps[self.ramp](np.linspace(0, 1, count))
        values = np.linspace(self.low, self.high, count)
        return [(float(value), to_hex(colour)) for value, colour in zip(values, colours, strict=True)]


def round_limit(values: np.ndarray, share: float = 0.98) -> float:
    """Return a round number that the absolute value of a given share of the values does not exceed.

    Parameters
    ----------
    values : array
        Of any shape; NaN is left out.
    share : float
        0 to 1.

    Returns
    -------
    limit : float
        A round number > 0; 1 where there is nothing but zeros.

    Examples
    --------
    >>> round_limit(np.array([-260.0, 10.0, 120.0, np.nan]))
    300.0
    """
    finite = np.abs(values[np.isfinite(values)])
    top = float(np.quantile(finite, share)) if finite.size else 0.0
    if top <= 0:
        return 1.0
    steps = 10.0 ** np.floor(np.log10(top)) * _ROUND
    return float(steps[np.searchsorted(steps, top * (1 - 1e-9))])


def flux_scale(flux: str, values: np.ndarray, share: float = 0.98) -> Scale:
    """Return colours and range for a flux: centred on 0 for signed ones, from 0 for the others.

    Parameters
    ----------
    flux : str
        A flux or an annual variable of a map.
    values : array
        Of the flux, any shape.
    share : float
        Of the values that shall lie inside the range, 0 to 1.

    Returns
    -------
    scale : Scale

    Examples
    --------
    >>> flux_scale("nee", np.array([-2.6, 1.0]))
    Scale(ramp='BrBG_r', low=-3.0, high=3.0)
    """
    limit = round_limit(values, share)
    return Scale(RAMPS[flux], -limit if flux in SIGNED else 0.0, limit)
