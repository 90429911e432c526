"""The inputs and outputs of KGML-ag: their names, order, units and published scalers, defined once.

KGML-ag (Liu et al. 2024, doi:10.1038/s41467-023-43860-5) knows its inputs by position. Its outputs have the signs of
the process model it learnt from (ecosys): Ra and Rh are zero or negative, NEE is positive to the atmosphere, GPP is
positive, so that GPP + Ra + Rh + NEE = 0.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fluxgrid.variables import CARBON_FLUX_UNITS


class Scaled(NamedTuple):
    """One quantity of KGML-ag with the mean and the population standard deviation it is standardised by."""

    name: str
    """Name in the published data."""
    units: str
    """Unit in CF spelling."""
    mean: float
    """Of the published synthetic data, all sites and days together."""
    std: float
    """Of the published synthetic data, all sites and days together."""


KGML_FEATURES = (
    Scaled("RADN", "MJ m-2 d-1", 15.0531, 7.3265),
    Scaled("TMAX_AIR", "degC", 17.1940, 12.2140),
    Scaled("TDIF_AIR", "degC", 9.9766, 3.9206),
    Scaled("HMAX_AIR", "kPa", 1.43317, 0.86492),
    Scaled("HDIF_AIR", "kPa", 0.42118, 0.29767),
    Scaled("WIND", "km d-1", 373.316, 144.322),
    Scaled("PRECN", "mm d-1", 2.80376, 7.20961),
    Scaled("Crop_Type", "1", 3.00077, 2.0),
    Scaled("GPP", CARBON_FLUX_UNITS, 2.88921, 5.75792),
    Scaled("Year", "year", 2009.5, 5.18813),
    Scaled("TBKDS", "Mg m-3", 1.38507, 0.10334),
    Scaled("TSAND", "g kg-1", 165.738, 179.753),
    Scaled("TSILT", "g kg-1", 591.159, 161.251),
    Scaled("TFC", "m3 m-3", 0.298815, 0.042005),
    Scaled("TWP", "m3 m-3", 0.165358, 0.048926),
    Scaled("TKSat", "mm h-1", 30.9435, 38.1884),
    Scaled("TSOC", "g kg-1", 17.0822, 19.6327),
    Scaled("TPH", "1", 6.23786, 0.481466),
    Scaled("TCEC", "cmol kg-1", 20.1704, 8.91454),
)
"""The 19 inputs in their order. Differences (``DIF``) are highest less lowest of the day, ``HMAX`` is the highest
vapour pressure of the day, and everything from ``TBKDS`` on is a constant of the soil."""

KGML_OUTPUTS = (
    Scaled("ra", CARBON_FLUX_UNITS, -1.35840, 2.58334),
    Scaled("rh", CARBON_FLUX_UNITS, -0.97472, 0.85668),
    Scaled("nee", CARBON_FLUX_UNITS, -0.52354, 2.99425),
)
"""The daily outputs in their order, native signs. A scaler of yield has not been published."""

KGML_CROPS = MappingProxyType({"corn": 1.0, "soybean": 5.0})
"""Code of each crop in ``Crop_Type``."""

KGML_YEAR_DAYS = 365
"""Days of a published year: 31 December of leap years is left out."""

_POSITIONS = {feature.name: position for position, feature in enumerate(KGML_FEATURES)}


def feature_index(name: str) -> int:
    """Return the position of an input.

    Parameters
    ----------
    name : str
        A name of `KGML_FEATURES`.

    Returns
    -------
    position : int

    Examples
    --------
    >>> feature_index("Crop_Type"), feature_index("GPP"), feature_index("Year")
    (7, 8, 9)
    """
    return _POSITIONS[name]


def published_scaler(quantities: tuple[Scaled, ...]) -> np.ndarray:
    """Return the published means and standard deviations as an array.

    Parameters
    ----------
    quantities : tuple of Scaled
        `KGML_FEATURES` or `KGML_OUTPUTS`.

    Returns
    -------
    scaler : ndarray, (quantities, 2), float64
        Mean and standard deviation.

    Examples
    --------
    >>> published_scaler(KGML_FEATURES).shape, float(published_scaler(KGML_OUTPUTS)[1, 0])
    ((19, 2), -0.97472)
    """
    return np.array([[quantity.mean, quantity.std] for quantity in quantities])
