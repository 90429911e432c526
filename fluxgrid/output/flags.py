"""Why a cell of a map is missing or doubtful: the bits of ``quality_flag``."""

from __future__ import annotations

from enum import IntFlag


class Quality(IntFlag):
    """Bits of ``quality_flag``; 0 is a plain, complete prediction.

    ``OUTSIDE_REGION``, ``WATER``, ``INPUT_MISSING`` and ``NO_MODEL`` say why a cell holds no value; the others qualify
    a value.

    Examples
    --------
    >>> (Quality.FILLED | Quality.PROVISIONAL).value
    24
    """

    OUTSIDE_REGION = 1
    """The cell lies outside the region of the map."""
    WATER = 2
    """The cell holds no land."""
    INPUT_MISSING = 4
    """A covariate the model needs is missing or out of its valid range."""
    FILLED = 8
    """A covariate was filled from its neighbours in time."""
    PROVISIONAL = 16
    """A covariate is preliminary and will be revised by its source."""
    OUTSIDE_APPLICABILITY = 32
    """The covariates are unlike those the model was trained on."""
    NO_MODEL = 64
    """No model is calibrated for the cell."""


NO_VALUE = Quality.OUTSIDE_REGION | Quality.WATER | Quality.INPUT_MISSING | Quality.NO_MODEL
"""A cell with any of these bits holds fill values."""


def flag_masks() -> list[int]:
    """Return the mask of every bit, in order.

    Returns
    -------
    masks : list of int

    Examples
    --------
    >>> flag_masks()
    [1, 2, 4, 8, 16, 32, 64]
    """
    return [bit.value for bit in Quality]


def flag_meanings() -> str:
    """Return the names of the bits as CF's ``flag_meanings`` wants them.

    Returns
    -------
    meanings : str
        Lower case, separated by blanks, in the order of `flag_masks`.

    Examples
    --------
    >>> flag_meanings().split()[:2]
    ['outside_region', 'water']
    """
    return " ".join(str(bit.name).lower() for bit in Quality)
