"""Cubes: lazy gridded covariates with the names, units and axes of fluxgrid.

This is the border where foreign files become ours: names and units of the table of variables, dims (time, y, x) with
y descending and longitudes -180..180, stamps at the start of the step, float32 values in the chunks of the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

from fluxgrid.data.cube.axes import column_order, row_order
from fluxgrid.data.cube.layout import Field, Layout, survey
from fluxgrid.data.cube.stores import StorePath, open_raw
from fluxgrid.data.mapping import CubeMapping, load_mapping
from fluxgrid.data.steps import STEPS, Step
from fluxgrid.errors import CubeError, itemise
from fluxgrid.geo.grid import Grid
from fluxgrid.units import convert

_DESCRIPTIONS = ("title", "source", "citation", "day_definition")
UNSTATED = "not stated"
"""Value of a descriptive attribute that neither the file nor the mapping gives."""


def open_cube(path: StorePath, mapping: CubeMapping | Path | str | None = None) -> xr.Dataset:
    """Open covariates as a cube.

    Parameters
    ----------
    path : path, or list of paths
        A zarr store, a CF NetCDF file, or a pattern or list of NetCDF files that follow each other in time.
    mapping : CubeMapping, path or str, optional
        What the file does not say itself: a mapping, its file, or the name of one that comes with fluxgrid.

    Returns
    -------
    cube : Dataset
        Lazy, dims (time, y, x) and (y, x), float32, coordinates time, y, x and spatial_ref; attributes step,
        day_definition, title, source, citation and crs. Class variables are the position in `Variable.classes`.

    Raises
    ------
    CubeError
        If it cannot be opened as a cube; the message lists every problem. Values are not looked at: `check_cube` does.
    ConfigError
        If the mapping is wrong.
    """
    named, mapping = mapping, as_mapping(mapping)
    raw = open_raw(path)
    layout = survey(raw, mapping)
    if layout.problems:
        header = f"{path} cannot be used as a cube (`fluxgrid cube check` suggests a mapping)"
        raise CubeError(itemise(header, layout.problems))
    cube = _build(raw, layout, mapping)
    # as a command line would name them
    cube.encoding["source"] = str(path) if isinstance(path, Path | str) else "FOLDER/*.nc"
    if named is not None:
        cube.encoding["mapping"] = str(named) if isinstance(named, Path | str) else "MAPPING.yaml"
    return cube


def as_mapping(mapping: CubeMapping | Path | str | None) -> CubeMapping:
    """Return a mapping given as such, as a file or name, or not at all.

    Parameters
    ----------
    mapping : CubeMapping, path, str or None

    Returns
    -------
    mapping : CubeMapping

    Raises
    ------
    ConfigError
        If the file is missing or wrong.
    """
    if mapping is None:
        return CubeMapping()
    return mapping if isinstance(mapping, CubeMapping) else load_mapping(mapping)


def grid_of(cube: xr.Dataset) -> Grid:
    """Return the grid of a cube or of a window of it.

    Parameters
    ----------
    cube : Dataset

    Returns
    -------
    grid : Grid

    Raises
    ------
    CubeError
        If the dataset has no y, x or CRS.
    GridError
        If the coordinates make no grid.
    """
    crs = cube.rio.crs
    if crs is None or not {"y", "x"} <= set(cube.coords):
        message = "The dataset is no cube: it lacks y, x or spatial_ref. Open it with open_cube."
        raise CubeError(message)
    return Grid.from_centres(cube["x"].to_numpy(), cube["y"].to_numpy(), crs.to_wkt())


def step_of(cube: xr.Dataset) -> Step:
    """Return the time step of a cube.

    Parameters
    ----------
    cube : Dataset

    Returns
    -------
    step : {"daily", "monthly"}

    Raises
    ------
    CubeError
        If the attribute ``step`` is missing or something else.
    """
    step = next((step for step in STEPS if cube.attrs.get("step") == step), None)
    if step is None:
        message = (
            f"The dataset is no cube: its attribute step is {cube.attrs.get('step')!r}, not one of {', '.join(STEPS)}. "
            "Open it with open_cube."
        )
        raise CubeError(message)
    return step


def field_values(raw: xr.Dataset, field: Field, layout: Layout) -> da.Array:
    """Return a variable in our unit, still with rows and columns as in the file.

    Parameters
    ----------
    raw : Dataset
        As opened.
    field : Field
        A usable field of the layout.
    layout : Layout
        Of the same file; dims and time are used.

    Returns
    -------
    values : dask array, (time, y, x) or (y, x), float32
    """
    dims = [layout.dims[axis] for axis in ("time", "y", "x") if layout.dims[axis] in raw[field.source].dims]
    array = raw[field.source]
    array = array.isel({dim: 0 for dim in array.dims if dim not in dims}, drop=True).transpose(*dims)
    values = array.data if isinstance(array.data, da.Array) else da.from_array(array.data)
    days = layout.time.days_in_month.to_numpy() if layout.time is not None and len(dims) == 3 else None
    return convert_field(values, field, days)


def convert_field(values: Any, field: Field, days: np.ndarray | None) -> Any:
    """Return values of a file in our unit, or as positions of our classes.

    Parameters
    ----------
    values : ndarray or dask array, (time, y, x) or (y, x)
        As in the file.
    field : Field
        What they are.
    days : ndarray, (time,), optional
        Days in the calendar month of each step.

    Returns
    -------
    converted : ndarray or dask array, same shape, float32
    """
    if field.variable.role == "class":
        known, index = _class_table(field)
        if isinstance(values, np.ndarray):
            return _class_index(values, known, index)
        return da.map_blocks(_class_index, values, known=known, index=index, dtype="float32")
    converted = convert(values, field.units, field.variable.units, days=days)
    return converted if converted.dtype == np.float32 else converted.astype("float32")


def _class_table(field: Field) -> tuple[np.ndarray, np.ndarray]:
    """Return codes, ascending, and the class index of each; NaN for codes that mean no class."""
    names = field.variable.classes
    codes = sorted(field.classes)
    index = [names.index(name) if name in names else np.nan for name in (field.classes[code] for code in codes)]
    return np.array(codes, dtype="float64"), np.array(index, dtype="float32")


def _class_index(codes: np.ndarray, known: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the class index of each code, NaN where the code is not known."""
    place = np.clip(np.searchsorted(known, codes), 0, len(known) - 1)
    return np.where(known[place] == codes, index[place], np.float32(np.nan)).astype("float32")


def _build(raw: xr.Dataset, layout: Layout, mapping: CubeMapping) -> xr.Dataset:
    """Return the cube of a file without problems."""
    assert layout.grid is not None  # survey tells a problem otherwise
    assert layout.time is not None
    grid, dims = layout.grid, layout.dims
    rows = row_order(raw.indexes[dims["y"]].to_numpy())
    cols = column_order(raw.indexes[dims["x"]].to_numpy(), grid.geographic)
    variables = {}
    for field in layout.fields:
        values = _take(_take(field_values(raw, field, layout), rows, -2), cols, -1)
        variables[field.variable.name] = (("time", "y", "x")[-values.ndim :], values, _attributes(field))
    cube = xr.Dataset(variables, coordinates(layout.time, grid), _cube_attributes(raw, layout, mapping))
    cube = cube.rio.write_crs(grid.crs.to_wkt())
    for axis, dim in dims.items():
        cube[axis].attrs["source_dimension"] = dim
    cube["time"].attrs["source_start"] = str(layout.time[0].date())
    cube.attrs["crs"] = f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else grid.crs.to_wkt()  # write_crs drops this name
    return cube


def coordinates(time: pd.DatetimeIndex, grid: Grid) -> dict[str, Any]:
    """Return the coordinates of a cube.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Starts of the steps.
    grid : Grid

    Returns
    -------
    coordinates : dict
        time, y and x with CF attributes.
    """
    y, x, units = ("latitude", "longitude", ("degrees_north", "degrees_east"))
    if not grid.geographic:
        y, x, units = ("projection_y_coordinate", "projection_x_coordinate", ("m", "m"))
    return {
        "time": ("time", time, {"standard_name": "time", "axis": "T", "long_name": "start of the step"}),
        "y": ("y", grid.y, {"standard_name": y, "units": units[0], "axis": "Y"}),
        "x": ("x", grid.x, {"standard_name": x, "units": units[1], "axis": "X"}),
    }


def _take(values: da.Array, order: np.ndarray, axis: int) -> da.Array:
    """Reorder an axis without breaking chunks up: as it is, flipped, or rolled."""
    if np.array_equal(order, np.arange(len(order))):
        return values
    if np.array_equal(order, np.arange(len(order))[::-1]):
        return da.flip(values, axis)
    first = int(order[0])
    if np.array_equal(order, np.roll(np.arange(len(order)), -first)):
        parts = [da.take(values, np.arange(first, len(order)), axis), da.take(values, np.arange(first), axis)]
        return da.concatenate(parts, axis)
    return da.take(values, order, axis)


def _attributes(field: Field) -> dict[str, Any]:
    """Return the attributes of a variable of the cube."""
    variable = field.variable
    attrs = {"units": variable.units, "long_name": variable.long_name, "source_variable": field.source}
    if variable.standard_name:
        attrs["standard_name"] = variable.standard_name
    if variable.role == "class":
        codes = "; ".join(f"{code:g} {name}" for code, name in sorted(field.classes.items()))
        return attrs | class_flags(variable.classes) | {"source_classes": codes}
    return attrs | {"source_units": field.units}


def class_flags(classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the CF flags of a class variable: position and name of each class.

    Parameters
    ----------
    classes : tuple of str
        Of the `Variable`.

    Returns
    -------
    attributes : dict

    Examples
    --------
    >>> class_flags(("arid", "polar"))["flag_meanings"]
    'arid polar'
    """
    return {"flag_values": np.arange(len(classes), dtype="float32"), "flag_meanings": " ".join(classes)}


def _cube_attributes(raw: xr.Dataset, layout: Layout, mapping: CubeMapping) -> dict[str, str]:
    """Return the attributes of the cube, of the mapping before those of the file."""
    attrs = {key: str(getattr(mapping, key) or raw.attrs.get(key, UNSTATED)) for key in _DESCRIPTIONS}
    return attrs | {"step": str(layout.step), "Conventions": "CF-1.11"}
