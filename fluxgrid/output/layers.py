"""What a map holds: its variables, their types and dims."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.steps import step_ends
from fluxgrid.output.flags import Quality
from fluxgrid.variables import MAP_FLUXES, VARIABLES, Role, get_variable

CALIBRATION: dict[str, np.dtype] = {
    "calibration_id": np.dtype("int16"),
    "calibration_weight": np.dtype("float32"),
    "calibration_global_weight": np.dtype("float32"),
}
"""Variables that say which calibrated places a cell's values come from, and their types."""

PER_CROP = ("corn_yield", "soybean_yield")
"""Annual variables per area of a crop; without its area in each cell they have no mean and no sum over a region."""

_ERROR_SUFFIX = "_se"

GLOBAL_ONLY = -1
"""``calibration_id`` where no calibrated place has weight: the values are the global model's alone."""

_FLAG: np.dtype = np.dtype("int8")
_FLOAT: np.dtype = np.dtype("float32")


def error_name(flux: str) -> str:
    """Return the name of the variable that says how far a flux may be off: its half-width.

    Examples
    --------
    >>> error_name("nee")
    'nee_se'
    """
    return f"{flux}{_ERROR_SUFFIX}"


def _role_problems(names: tuple[str, ...], role: Role) -> list[str]:
    """Say which names have another role."""
    found = ((name, get_variable(name).role) for name in names)
    return [f"{name} is of role {other}, not {role}" for name, other in found if other != role]


@dataclass(frozen=True)
class Layers:
    """The variables of a map, which depend on its model.

    Parameters
    ----------
    fluxes : tuple of str
        Fluxes of each step, (time, y, x), float32; `MAP_FLUXES` at least.
    annual : tuple of str
        Sums over the calendar year, (y, x), float32.
    calibrated_places : tuple of str
        Places whose calibrated parameters the map uses; the position is the ``calibration_id``. Without any, the map
        has no variables about calibration.
    errors : tuple of str
        Fluxes that have their half-width beside them, ``<flux>_se``, (time, y, x), float32.

    Raises
    ------
    UnknownName
        If a name is not in the table of variables.
    ValueError
        If a name has another role, stands twice, one of `MAP_FLUXES` is missing, or a half-width has no flux.

    Examples
    --------
    >>> list(Layers(annual=("corn_yield",)).dtypes)
    ['nee', 'gpp', 'reco', 'quality_flag', 'applicability', 'corn_yield']
    """

    fluxes: tuple[str, ...] = MAP_FLUXES
    annual: tuple[str, ...] = ()
    calibrated_places: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that no map can hold."""
        problems = [*_role_problems(self.fluxes, "flux"), *_role_problems(self.annual, "annual")]
        names = [*self.fluxes, *self.annual]
        problems += [f"{name} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        problems += [
            f"{name} is missing; every map has {', '.join(MAP_FLUXES)}" for name in MAP_FLUXES if name not in names
        ]
        if len(set(self.calibrated_places)) < len(self.calibrated_places):
            problems.append(f"calibrated places stand twice: {', '.join(self.calibrated_places)}")
        problems += [f"{error_name(name)} has no {name} beside it" for name in self.errors if name not in self.fluxes]
        if problems:
            message = f"No map has these layers: {'; '.join(problems)}."
            raise ValueError(message)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Every variable of a map and its type, in order."""
        return self.stepwise | self.constant

    @property
    def stepwise(self) -> dict[str, np.dtype]:
        """Variables of dims (time, y, x) and their types, in order."""
        values = (*self.fluxes, *map(error_name, self.errors))
        return {**dict.fromkeys(values, _FLOAT), "quality_flag": _FLAG, "applicability": _FLOAT}

    @property
    def constant(self) -> dict[str, np.dtype]:
        """Variables of dims (y, x) and their types, in order."""
        annual = dict.fromkeys(self.annual, _FLOAT)
        return annual | CALIBRATION if self.calibrated_places else annual

    @property
    def step_bytes(self) -> int:
        """Bytes of one cell and step before compression."""
        return sum(dtype.itemsize for dtype in self.stepwise.values())

    def dims(self, name: str) -> tuple[str, ...]:
        """Return the dims of a variable in a map store.

        Raises
        ------
        KeyError
            If the map does not hold it.
        """
        if name in self.stepwise:
            return ("time", "y", "x")
        if name in self.constant:
            return ("y", "x")
        raise KeyError(name)

    def empty(self, name: str) -> float:
        """Return the value of a variable where a store has not been written."""
        if name == "quality_flag":
            return Quality.OUTSIDE_REGION.value
        return GLOBAL_ONLY if name == "calibration_id" else np.nan


PLAIN = Layers()
"""What every map holds."""


def layers_of(dataset: xr.Dataset) -> Layers:
    """Return the layers of an open map.

    Parameters
    ----------
    dataset : Dataset
        From `fluxgrid.output.stream.open_map`: a map store, a NetCDF map, or a part of either.

    Returns
    -------
    layers : Layers
        Names of places as the map gives them: sanitised in a NetCDF map.
    """
    fluxes, annual = (
        tuple(name for name, variable in VARIABLES.items() if variable.role == role and name in dataset)
        for role in ("flux", "annual")
    )
    errors = tuple(name for name in fluxes if error_name(name) in dataset)
    return Layers(fluxes, annual, tuple(_places_of(dataset)), errors)


def whole_year(times: pd.DatetimeIndex, step: str) -> bool:
    """Return whether steps are all of one calendar year: only then has it annual variables.

    Parameters
    ----------
    times : DatetimeIndex
        Starts of the steps, ascending, none missing between them.
    step : {"daily", "monthly"}

    Returns
    -------
    whole : bool

    Examples
    --------
    >>> whole_year(pd.date_range("2020-01-01", "2020-12-31"), "daily")
    True
    >>> whole_year(pd.date_range("2020-01-01", "2020-12-30"), "daily")
    False
    """
    if not len(times):
        return False
    after = pd.Timestamp(times[0].year + 1, 1, 1)
    return times[0].day_of_year == 1 and step_ends(times[-1:], step)[0] == after


def _places_of(dataset: xr.Dataset) -> list[str]:
    """Return the names of the calibrated places of an open map."""
    if "calibration_id" not in dataset:
        return []
    attributes = dataset["calibration_id"].attrs
    return list(attributes.get("places") or str(attributes.get("flag_meanings", "")).split())
