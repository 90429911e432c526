"""Conversion of units, once, at the border; inside fluxgrid every variable has one unit.

Units are read in their CF spelling ("g m-2 d-1", "degC", "W m-2") by pint with the registry of cf_xarray. Two rules are
our own. A rate per calendar month is converted by the true length of each month, because a library's "month" is 30.44
days, which puts February off by 9 %. And a mass of water per area equals a depth (1 kg m-2 = 1 mm), but only where a
depth of water is wanted, since 1 kg m-2 of anything else is no millimetre.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fluxgrid.errors import UnitError

if TYPE_CHECKING:
    import pint

Relation = Literal["same", "convertible", "impossible"]

_WATER_DEPTHS = ("mm", "mm d-1")
_UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, AssertionError, SyntaxError)


def compare_units(source_units: str, target_units: str) -> Relation:
    """Say whether values in one unit can be given in another.

    Parameters
    ----------
    source_units, target_units : str
        Units in CF spelling.

    Returns
    -------
    relation : {"same", "convertible", "impossible"}
        "same" means that the numbers stay as they are; a unit that cannot be read is "impossible", unless both texts
        are equal, which are not read.

    Examples
    --------
    >>> compare_units("mm/day", "mm d-1"), compare_units("K", "degC"), compare_units("K", "mm d-1")
    ('same', 'convertible', 'impossible')
    """
    try:
        months, factor, offset = _rule(source_units, target_units)
    except UnitError:
        return "impossible"
    return "same" if (months, factor, offset) == (0, 1.0, 0.0) else "convertible"


def check_units(source_units: str, target_units: str) -> None:
    """Raise if values in one unit cannot be given in another.

    Parameters
    ----------
    source_units, target_units : str
        Units in CF spelling.

    Raises
    ------
    UnitError
        If a unit cannot be read or the two measure different things; texts that are equal are not read.
    """
    _rule(source_units, target_units)


def convert(values: Any, source_units: str, target_units: str, days: Any = None) -> Any:
    """Convert values from one unit to another.

    Parameters
    ----------
    values : ndarray or dask array, (...) or (time, ...)
        In ``source_units``. A dask array stays lazy.
    source_units, target_units : str
        Units in CF spelling.
    days : array-like, (time,), optional
        Days in the calendar month of each step, along the leading axis; needed for rates per month only.

    Returns
    -------
    converted : ndarray or dask array, same shape
        In ``target_units``; computed in float64, given in the floating type of ``values`` (float32 for integers). An
        ndarray that is already as it shall be is given back itself.

    Raises
    ------
    UnitError
        If a unit cannot be read, the two measure different things, or ``days`` are needed and not given.

    Examples
    --------
    >>> convert(np.array([273.15, 300.15]), "K", "degC")
    array([ 0., 27.])
    >>> convert(np.array([62.0, 56.0]), "mm month-1", "mm d-1", days=[31, 28])
    array([2., 2.])
    """
    months, factor, offset = _rule(source_units, target_units)
    if not hasattr(values, "dtype"):
        values = np.asarray(values)
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype("float32")
    if (months, factor, offset) == (0, 1.0, 0.0):
        return values.astype(dtype, copy=False) if isinstance(values, np.ndarray) else values.astype(dtype)
    exact = values.astype("float64") * factor + offset
    if months:
        exact = exact * _month_factor(values, days, months, source_units, target_units)
    return exact.astype(dtype)


def _month_factor(values: Any, days: Any, months: int, source_units: str, target_units: str) -> np.ndarray:
    """Return days ** months, (time, 1, ...), to multiply the values by."""
    if days is None:
        message = (
            f"Cannot convert {source_units!r} to {target_units!r} without the calendar: months differ in length. "
            "Give the days of each step (days=), or give the values per day."
        )
        raise UnitError(message)
    days = np.asarray(days, dtype="float64")
    if values.ndim == 0 or days.shape != values.shape[:1]:
        message = f"Got {days.shape} days for values of shape {values.shape}; give one number per step."
        raise UnitError(message)
    return days.reshape(-1, *[1] * (values.ndim - 1)) ** months


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    """Return what reads units; half a second to import, which most cubes, in our own units, do not need."""
    from cf_xarray.units import units

    return units


@lru_cache(maxsize=1)
def _water() -> pint.Quantity:
    """Return the density of water."""
    return 1000 * _registry().kilogram / _registry().meter ** 3


@lru_cache(maxsize=512)
def _rule(source_units: str, target_units: str) -> tuple[int, float, float]:
    """Return (months, factor, offset): target = (source * factor + offset) * days ** months."""
    if source_units == target_units:
        return 0, 1.0, 0.0
    source, source_months = _without_months(_parse(source_units), source_units)
    target, target_months = _without_months(_parse(target_units), target_units)
    if target in [_parse(units) for units in _WATER_DEPTHS] and _is_water_mass(source, target):
        factor = float((1 * source / _water()).to(target).magnitude)
        return source_months - target_months, _clean(factor), 0.0
    if source.dimensionality != target.dimensionality:
        raise _mismatch(source_units, target_units)
    offset, one = (float(_registry().Quantity(value, source).to(target).magnitude) for value in (0.0, 1.0))
    return source_months - target_months, _clean(one - offset), _clean(offset)


def _is_water_mass(source: pint.Unit, target: pint.Unit) -> bool:
    """Say whether the source is a mass per area where the target is a depth of water."""
    return bool((source / _water().units).dimensionality == target.dimensionality)


def _clean(number: float) -> float:
    """Remove the rounding of the library's conversion, so that 1 mm d-1 is 1 and not 0.9999999999999999."""
    return float(f"{number:.13g}")


def _without_months(unit: pint.Unit, text: str) -> tuple[pint.Unit, int]:
    """Replace calendar months in a unit by days; return the unit and the power of the month."""
    powers = dict(unit._units)
    if "year" in powers or "common_year" in powers:
        message = (
            f"The unit {text!r} counts in years, whose length varies. Give the values per day, month or second and "
            "say so in the mapping (units:)."
        )
        raise UnitError(message)
    power = float(str(powers.get("month", 0)))
    if not power.is_integer():
        message = f"The unit {text!r} has a fractional power of the month, which means nothing. Correct the unit."
        raise UnitError(message)
    return unit * (_registry().day / _registry().month) ** int(power) if power else unit, int(power)


@lru_cache(maxsize=512)
def _parse(text: str) -> pint.Unit:
    """Read a unit in CF spelling."""
    from pint import PintError

    try:
        unit = _registry().Unit(text)
    except (PintError, *_UNREADABLE) as error:
        message = f"The unit {text!r} cannot be read.{_advice(text)} Write it in CF spelling, such as 'mm d-1'."
        raise UnitError(message) from error
    # "g C m-2" reads as gram times degree Celsius (elsewhere coulomb): never what its writer meant.
    if len(unit._units) > 1 and any("degree" in name and "delta" in name for name in unit._units):
        message = f"The unit {text!r} multiplies a temperature.{_advice(text)}"
        raise UnitError(message)
    return unit


def _advice(text: str) -> str:
    """Say how to mend the usual ways of spelling a unit that CF does not know."""
    if re.search(r"\b(k|M|T|P|m|u)?(g|mol|t)\s?(C|CO2)\b", text):
        mended = re.sub(r"(g|mol|t)\s?(C|CO2)\b", r"\1", text)
        return f" CF units name no substance: write {mended!r} and say carbon in the variable's name."
    if re.search(r"\bmon\b|\bmo\b", text):
        return " Write 'month-1' for a rate per calendar month."
    return ""


def _mismatch(source_units: str, target_units: str) -> UnitError:
    """Return the error for two units that measure different things."""
    hint = "correct the unit in the file, or give the true one in the mapping (units:)"
    source, target = _parse(source_units), _parse(target_units)
    per_day = source / _registry().day
    if per_day.dimensionality == target.dimensionality or _is_water_mass(per_day, target):
        hint = (
            f"if each value is the amount of one step, write units: '{source_units} d-1' (daily steps) or "
            f"'{source_units} month-1' (monthly steps) in the mapping"
        )
    return UnitError(f"Cannot convert {source_units!r} to {target_units!r}: they measure different things; {hint}.")
