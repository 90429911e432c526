"""From the variables of a cube to the 19 inputs of KGML-ag: one table of linear conversions."""

from __future__ import annotations

import numpy as np

from fluxgrid.data.kgml import KGML_CROPS, KGML_FEATURES

CROP_FEATURES = tuple(feature.name for feature in KGML_FEATURES)
"""Inputs of KGML-ag, in its order."""

RADIATION, CROP_TYPE, GPP, YEAR, TSOC = (CROP_FEATURES.index(n) for n in ("RADN", "Crop_Type", "GPP", "Year", "TSOC"))
CORN_CODE, SOYBEAN_CODE = KGML_CROPS["corn"], KGML_CROPS["soybean"]
"""What stands for the two crops in ``Crop_Type``."""

RECIPES: dict[str, dict[str, float]] = {
    "RADN": {"shortwave": 0.0864},  # W m-2 to MJ m-2 d-1
    "TMAX_AIR": {"tmax": 1.0},
    "TDIF_AIR": {"tmax": 1.0, "tmin": -1.0},
    "HMAX_AIR": {"vapour_pressure": 0.1, "vapour_pressure_range": 0.05},  # hPa to kPa; half the range above the mean
    "HDIF_AIR": {"vapour_pressure_range": 0.1},
    "WIND": {"wind_speed": 86.4},  # m s-1 to km d-1
    "PRECN": {"precipitation": 1.0},
    "Year": {"calendar_year": 1.0},
    "TBKDS": {"bulk_density": 1.0},
    "TSAND": {"sand": 1.0},
    "TSILT": {"silt": 1.0},
    "TFC": {"field_capacity": 1.0},
    "TWP": {"wilting_point": 1.0},
    "TKSat": {"saturated_hydraulic_conductivity": 1.0},
    "TSOC": {"soc": 1.0},
    "TPH": {"ph": 1.0},
    "TCEC": {"cec": 1.0},
}
"""How each input is made of our variables, in their units; crop and GPP are given apart."""

CROP_FORCINGS = (
    *("shortwave", "tmax", "tmin", "vapour_pressure", "vapour_pressure_range", "wind_speed", "precipitation"),
    "calendar_year",
)
CROP_STATICS = (
    *("bulk_density", "sand", "silt", "field_capacity", "wilting_point", "saturated_hydraulic_conductivity"),
    *("soc", "ph", "cec"),
)


def conversion(variables: tuple[str, ...]) -> np.ndarray:
    """Return the matrix that makes inputs of KGML-ag of variables, (variables, 19), float64.

    Parameters
    ----------
    variables : tuple of str
        Columns of what will be multiplied; those no input needs get a row of zeros.

    Returns
    -------
    matrix : ndarray, (variables, 19)
        The columns of ``Crop_Type`` and ``GPP`` are zero.

    Raises
    ------
    ValueError
        If a variable that an input is made of is not among them.

    Examples
    --------
    >>> matrix = conversion((*CROP_FORCINGS, *CROP_STATICS))
    >>> float(matrix[0, RADIATION])
    0.0864
    """
    lost = sorted({name for recipe in RECIPES.values() for name in recipe} - set(variables))
    if lost:
        message = f"KGML-ag is made of {', '.join(lost)} too, and they are not among {', '.join(variables)}."
        raise ValueError(message)
    matrix = np.zeros((len(variables), len(CROP_FEATURES)))
    for feature, recipe in RECIPES.items():
        for name, factor in recipe.items():
            matrix[variables.index(name), CROP_FEATURES.index(feature)] = factor
    return matrix


def crop_features(
    forcings: dict[str, np.ndarray], statics: dict[str, np.ndarray], crop: np.ndarray, gpp: np.ndarray
) -> np.ndarray:
    """Return the inputs of KGML-ag of places.

    Parameters
    ----------
    forcings : dict of ndarray, (n, T)
        `CROP_FORCINGS`.
    statics : dict of ndarray, (n,)
        `CROP_STATICS`.
    crop : ndarray, (n, T)
        1 where corn grows, 5 for soybean.
    gpp : ndarray, (n, T), g m-2 d-1

    Returns
    -------
    features : ndarray, (n, T, 19), float32, physical units
    """
    features = np.zeros((*gpp.shape, len(CROP_FEATURES)), np.float32)
    for column, name in enumerate(CROP_FEATURES):
        for variable, factor in RECIPES.get(name, {}).items():
            values = forcings[variable] if variable in forcings else statics[variable][:, None]
            features[..., column] += np.float32(factor) * values
    features[..., CROP_TYPE], features[..., GPP] = crop, gpp
    return features
