"""What a file holds, seen with a mapping: axes, variables, units and classes, with all that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from odc.geo.crs import CRS

from fluxgrid.data.cube.axes import Findings, find_crs, find_dims, find_grid, find_time
from fluxgrid.data.mapping import UNKNOWN_CLASS, CubeMapping, VariableMapping
from fluxgrid.data.steps import Step
from fluxgrid.errors import UnitError
from fluxgrid.geo.grid import Grid
from fluxgrid.units import check_units, compare_units
from fluxgrid.variables import VARIABLES, Variable

_TIMELESS = ("static", "class")


@dataclass(frozen=True)
class Field:
    """One of our variables in a file."""

    variable: Variable
    """What it is."""
    source: str
    """Its name in the file."""
    units: str
    """Unit of the values in the file."""
    classes: Mapping[float, str]
    """Codes of the file and our class names, for class variables."""
    usable: bool
    """Whether dimensions, unit and classes allow to convert it."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A file seen with a mapping."""

    dims: dict[str, str]
    """From "time", "y", "x" to the names in the file, those that were found."""
    crs: CRS | None
    """Coordinate reference system."""
    grid: Grid | None
    """Grid of the cube, north up."""
    time: pd.DatetimeIndex | None
    """Starts of the steps."""
    step: Step | None
    """Length of a step."""
    fields: tuple[Field, ...]
    """Variables found, also those that cannot be used."""
    problems: tuple[str, ...]
    """Reasons why the file is no cube."""
    notes: tuple[str, ...]
    """What is mended on opening."""


def survey(raw: xr.Dataset, mapping: CubeMapping) -> Layout:
    """Find out what a file holds, without reading values.

    Parameters
    ----------
    raw : Dataset
        As opened.
    mapping : CubeMapping
        What the file does not say itself.

    Returns
    -------
    layout : Layout
        With every problem and note.
    """
    found = Findings()
    dims = find_dims(raw, mapping.dims, found)
    crs = find_crs(raw, mapping.crs, found)
    time, step = find_time(raw, dims["time"], mapping.step, found) if "time" in dims else (None, None)
    grid = find_grid(raw, dims, crs, found) if {"x", "y"} <= set(dims) else None
    fields = tuple(_field(raw, name, entry, dims, found) for name, entry in _wanted(raw, mapping, found).items())
    return Layout(dims, crs, grid, time, step, fields, tuple(found.problems), tuple(found.notes))


def _wanted(raw: xr.Dataset, mapping: CubeMapping, found: Findings) -> dict[str, VariableMapping]:
    """Return the entries of the mapping that the file can serve, or those of variables that bear our names."""
    if not mapping.variables:
        # In the order of our table: a zarr store lists its arrays in no order of its own.
        # what a finished map says of a whole year has no steps
        names = [n for n, v in VARIABLES.items() if v.in_cubes and n in raw.variables and n not in raw.dims]
        if not names:
            found.problems.append(
                "no variable bears a name fluxgrid knows; say in the mapping (variables:) which is which. "
                f"The file has {_listed(raw)}"
            )
        return {name: VariableMapping.model_validate({"from": name}) for name in names}
    entries = {}
    for name, entry in mapping.variables.items():
        if entry.source in raw.variables:
            entries[name] = entry
            continue
        near = get_close_matches(entry.source, [str(v) for v in raw.variables], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        found.problems.append(
            f"{name}: the mapping takes it from {entry.source!r}, which the file lacks.{hint} It has {_listed(raw)}"
        )
    return entries


def _listed(raw: xr.Dataset) -> str:
    """Return the names of the data variables."""
    return ", ".join(str(name) for name in raw.data_vars) or "no variables"


def _field(raw: xr.Dataset, name: str, entry: VariableMapping, dims: dict[str, str], found: Findings) -> Field:
    """Return one variable with its unit and classes, noting what is wrong."""
    variable, array = VARIABLES[name], raw[entry.source]
    before = len(found.problems)
    found.problems += _dims_problems(array, variable, dims)
    if array.dtype.kind not in "fiub":
        found.problems.append(f"{name}: values are {array.dtype} and no numbers; encode them")
    units, classes = variable.units, {}
    if variable.role == "class":
        classes = _find_classes(array, variable, entry, found)
    else:
        units = _find_units(array, variable, entry, found)
    usable = len(found.problems) == before
    return Field(variable, entry.source, units, classes, usable)


def _dims_problems(array: xr.DataArray, variable: Variable, dims: dict[str, str]) -> list[str]:
    """Return what is wrong with the dimensions of a variable; those of length 1 do not count."""
    axes = ("y", "x") if variable.role in _TIMELESS else ("time", "y", "x")
    wanted = {dims[axis] for axis in axes if axis in dims}
    if len(wanted) < len(axes):
        return []  # told once, for the file
    have = {str(dim) for dim, size in zip(array.dims, array.shape, strict=True) if size > 1 or dim in wanted}
    if have == wanted:
        return []
    expected = ", ".join(dims[axis] for axis in axes)
    return [f"{variable.name}: {array.name!r} has dimensions ({', '.join(map(str, array.dims))}), needs ({expected})"]


def _find_units(array: xr.DataArray, variable: Variable, entry: VariableMapping, found: Findings) -> str:
    """Return the unit of the values in the file."""
    units = entry.units or array.attrs.get("units")
    if units is None:
        if variable.units != "1":
            found.problems.append(
                f"{variable.name}: {array.name!r} states no unit; give it in the mapping (units:), "
                f"for example {variable.units}"
            )
        return variable.units
    try:
        check_units(str(units), variable.units)
    except UnitError as error:
        found.problems.append(f"{variable.name}: {error}")
        return str(units)
    if compare_units(str(units), variable.units) == "convertible":
        found.notes.append(f"{variable.name}: {units} is converted to {variable.units}")
    return str(units)


def _find_classes(array: xr.DataArray, variable: Variable, entry: VariableMapping, found: Findings) -> dict[float, str]:
    """Return codes and class names, from the mapping or from the flags of the file."""
    classes: dict[Any, str] = entry.classes or _flags(array)
    known = (*variable.classes, UNKNOWN_CLASS)
    wrong = sorted(set(classes.values()) - set(known))
    if not classes:
        found.problems.append(
            f"{variable.name}: nothing says which codes of {array.name!r} mean which class; list them in the mapping "
            f"(classes:) as code: name, with names {', '.join(known)}"
        )
    if wrong:
        found.problems.append(
            f"{variable.name}: {array.name!r} has classes {', '.join(wrong)}, not known here; map its codes to "
            f"{', '.join(known)} (classes:)"
        )
    return {float(code): name for code, name in classes.items()}


def _flags(array: xr.DataArray) -> dict[float, str]:
    """Return the CF flags of a variable."""
    values = np.atleast_1d(array.attrs.get("flag_values", []))
    meanings = str(array.attrs.get("flag_meanings", "")).split()
    return dict(zip(values.tolist(), meanings, strict=True)) if len(values) == len(meanings) else {}
