"""Finding out how a file lays its values out: dimensions, coordinate system, steps of time, grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from odc.geo.crs import CRS

from fluxgrid.data.mapping import Dims
from fluxgrid.data.steps import STEPS, Step, calendar
from fluxgrid.errors import GridError
from fluxgrid.geo.grid import Grid

_USUAL_NAMES = {
    "time": ("time", "t", "date", "day", "valid_time"),
    "y": ("y", "lat", "latitude", "northing", "rlat"),
    "x": ("x", "lon", "longitude", "long", "easting", "rlon"),
}
_STANDARD_NAMES = {
    "time": ("time",),
    "y": ("latitude", "projection_y_coordinate", "grid_latitude"),
    "x": ("longitude", "projection_x_coordinate", "grid_longitude"),
}
_METRES = ("m", "metre", "metres", "meter", "meters")


@dataclass
class Findings:
    """What was found on the way: problems forbid the use of a file, notes tell what is mended."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_dims(raw: xr.Dataset, named: Dims, found: Findings) -> dict[str, str]:
    """Find the dimensions of time, y and x.

    Parameters
    ----------
    raw : Dataset
        As opened.
    named : Dims
        Names given by the mapping.
    found : Findings
        Takes a problem for each dimension that cannot be told.

    Returns
    -------
    dims : dict
        From "time", "y", "x" to the names in the file, those that were found.
    """
    dims = {}
    for axis in ("time", "y", "x"):
        given = getattr(named, axis)
        candidates = [given] if given else [str(dim) for dim in raw.dims if _axis(raw, str(dim)) == axis]
        if len(candidates) == 1 and candidates[0] in raw.indexes:
            dims[axis] = candidates[0]
        else:
            found.problems.append(_dim_problem(raw, axis, candidates))
    return dims


def _axis(raw: xr.Dataset, dim: str) -> str | None:
    """Return the axis a dimension is, by its attributes or its name."""
    attrs = raw[dim].attrs if dim in raw.variables else {}
    for axis, standard_names in _STANDARD_NAMES.items():
        if attrs.get("standard_name") in standard_names or str(attrs.get("axis", "")).upper() == axis[0].upper():
            return axis
    return next((axis for axis, names in _USUAL_NAMES.items() if dim.lower() in names), None)


def _dim_problem(raw: xr.Dataset, axis: str, candidates: list[str]) -> str:
    """Say why a dimension could not be told."""
    known = ", ".join(f"{name} ({size})" for name, size in raw.sizes.items()) or "none"
    if len(candidates) > 1:
        return f"more than one dimension may be {axis}: {', '.join(candidates)}; name it in the mapping (dims:)"
    if candidates and candidates[0] in raw.dims:
        return f"the dimension {candidates[0]!r} ({axis}) has no coordinate values; add a variable of that name"
    if candidates:
        return f"there is no dimension {candidates[0]!r} ({axis}); the dimensions are {known}"
    curved = [str(name) for name, v in raw.variables.items() if v.ndim == 2 and _usual(str(name)) == axis]
    if curved:
        return f"{axis} is given by the 2-D variable {curved[0]!r}: the grid is not regular; regrid the file first"
    return f"no dimension is {axis}; the dimensions are {known}: name it in the mapping (dims:)"


def _usual(name: str) -> str | None:
    """Return the axis usually meant by a name."""
    return next((axis for axis, names in _USUAL_NAMES.items() if name.lower() in names), None)


def find_crs(raw: xr.Dataset, named: str | None, found: Findings) -> CRS | None:
    """Find the coordinate reference system: that of the mapping, else that of the file.

    Parameters
    ----------
    raw : Dataset
        As opened.
    named : str, optional
        CRS given by the mapping.
    found : Findings
        Takes a problem if there is none, a note if the mapping overrides the file's.

    Returns
    -------
    crs : CRS or None
    """
    own = _own_crs(raw)
    if named is None:
        if own is None:
            found.problems.append(
                "no coordinate reference system: the file has no grid mapping; give it in the mapping, such as "
                "crs: EPSG:4326 for longitudes and latitudes"
            )
        return _checked(own, found)
    crs = CRS(named)
    if own is not None and own != crs:
        found.notes.append(f"the mapping's CRS {named} overrides the file's {_crs_name(own)}")
    return _checked(crs, found)


def _checked(crs: CRS | None, found: Findings) -> CRS | None:
    """Refuse a rotated pole, whose coordinates look like longitude and latitude and are not."""
    if crs is not None and crs.geographic and crs.proj.is_derived:
        found.problems.append(
            "the coordinate reference system has a rotated pole: its coordinates are not longitudes and latitudes; "
            "regrid the file to EPSG:4326 or to a projection"
        )
    return crs


def _own_crs(raw: xr.Dataset) -> CRS | None:
    """Return the CRS a file states, if it does so in a way that can be read."""
    # variables first: for the whole, rioxarray takes a global attribute where it does not know the names of the dims
    for part in (*(raw[name] for name in raw.data_vars), raw):
        try:
            crs = part.rio.crs
        except (RuntimeError, ValueError):  # what pyproj and rasterio raise for a CRS that means nothing
            continue
        if crs is not None:
            return CRS(crs.to_wkt())
    return None


def _crs_name(crs: CRS) -> str:
    """Return a short name of a CRS."""
    return f"EPSG:{crs.epsg}" if crs.epsg else str(crs.proj.name)


def find_time(
    raw: xr.Dataset, dim: str, named: Step | None, found: Findings
) -> tuple[pd.DatetimeIndex | None, Step | None]:
    """Find the starts of the steps and their length.

    Parameters
    ----------
    raw : Dataset
        As opened.
    dim : str
        Dimension of time in the file.
    named : Step, optional
        Step given by the mapping.
    found : Findings
        Takes problems (calendar, spacing, gaps, duplicates, order) and notes (stamps that were moved).

    Returns
    -------
    time : DatetimeIndex, (T,), or None
        Starts of the steps: midnight, or the first of the month.
    step : Step or None
    """
    stamps = _stamps(raw, dim, found)
    if stamps is None:
        return None, None
    step = _find_step(stamps, named or _own_step(raw), found)
    if step is None:
        return None, None
    time = stamps.normalize()
    if step == "monthly":
        time = time - pd.to_timedelta(time.day - 1, unit="D")
    time = pd.DatetimeIndex(time).as_unit("ns")
    if not time.equals(stamps):
        found.notes.append(f"stamps such as {stamps[0]} are moved to the start of their step, {time[0]}")
    found.problems += _order_problems(time, step)
    return time, step


def _stamps(raw: xr.Dataset, dim: str, found: Findings) -> pd.DatetimeIndex | None:
    """Return the time stamps, or the starts of the time bounds where the file has bounds."""
    index = raw.indexes[dim]
    if isinstance(index, xr.CFTimeIndex):
        found.problems.append(
            f"the calendar is {index.calendar!r}, which lacks or invents days; convert it first, such as "
            "ds.convert_calendar('standard', use_cftime=False), and fill the days it adds"
        )
        return None
    if not isinstance(index, pd.DatetimeIndex):
        found.problems.append(
            f"the time coordinate {dim!r} holds {index.dtype} and no dates; give it CF units such as "
            "'days since 2000-01-01'"
        )
        return None
    if len(index) == 0 or index.hasnans:
        found.problems.append(f"the time coordinate {dim!r} is empty or has missing values; remove those steps")
        return None
    bounds = raw[dim].attrs.get("bounds") or raw[dim].encoding.get("bounds")
    if bounds in raw.variables and raw[bounds].dims[:1] == (dim,) and raw[bounds].dtype.kind == "M":
        return pd.DatetimeIndex(raw[bounds].values[:, 0]).as_unit("ns")
    return index.as_unit("ns")


def _own_step(raw: xr.Dataset) -> Step | None:
    """Return the step a file states as fluxgrid writes it."""
    return next((step for step in STEPS if raw.attrs.get("step") == step), None)


def _find_step(stamps: pd.DatetimeIndex, named: Step | None, found: Findings) -> Step | None:
    """Return the step, checked against the usual spacing of the stamps."""
    if len(stamps) < 2:
        if named is None:
            found.problems.append("a single time stamp does not tell its step; give it in the mapping (step:)")
        return named
    days = float(np.median(np.abs(np.diff(stamps.to_numpy())) / np.timedelta64(1, "D")))
    seen: Step | None = "daily" if days == 1 else "monthly" if 28 <= days <= 31 else None
    if seen is None:
        found.problems.append(
            f"time stamps are usually {days:g} days apart, which is neither daily nor monthly; aggregate them first"
        )
    elif named is not None and seen != named:
        found.problems.append(f"the step is said to be {named}, but time stamps are usually {days:g} days apart")
        return None
    return seen


def _order_problems(time: pd.DatetimeIndex, step: Step) -> list[str]:
    """Return what is wrong with the sequence of steps: duplicates, gaps, order."""
    problems = []
    if not time.is_monotonic_increasing:
        problems.append("time does not run forward; sort the steps")
    twice = time[time.duplicated()]
    if len(twice):
        problems.append(f"{_count(twice)} occur more than once, first {twice[0].date()}; keep one of each")
    missing = calendar(time.min(), time.max(), step).difference(time)
    if len(missing):
        problems.append(
            f"{_count(missing)} are missing in time, first {missing[0].date()}, last {missing[-1].date()}; "
            "insert them as NaN (reindex), so that gap filling can see them"
        )
    return problems


def _count(steps: pd.DatetimeIndex) -> str:
    """Return a number of steps in words."""
    return f"{len(steps)} step" + "s" * (len(steps) != 1)


def find_grid(raw: xr.Dataset, dims: dict[str, str], crs: CRS | None, found: Findings) -> Grid | None:
    """Find the grid of the cube, north up, with longitudes -180..180.

    Parameters
    ----------
    raw : Dataset
        As opened.
    dims : dict
        Names of y and x in the file.
    crs : CRS or None
        Coordinate reference system; without it the spacing is still checked.
    found : Findings
        Takes problems of spacing and units, and notes of what is flipped or rolled.

    Returns
    -------
    grid : Grid or None
    """
    y, x = (raw.indexes[dims[axis]].to_numpy() for axis in ("y", "x"))
    if y.dtype.kind not in "fiu" or x.dtype.kind not in "fiu":
        found.problems.append(f"coordinates must be numbers; {dims['y']!r} is {y.dtype}, {dims['x']!r} is {x.dtype}")
        return None
    if len(y) > 1 and y[0] < y[-1]:
        found.notes.append(f"{dims['y']} ascends (south up); it is flipped")
    geographic = crs.geographic if crs is not None else looks_geographic(raw, dims)
    if geographic and x.max() > 180:
        found.notes.append(f"longitudes run {x.min():g}..{x.max():g}; they are rolled to -180..180")
    units = str(raw[dims["x"]].attrs.get("units", "m"))
    if not geographic and units not in _METRES:
        found.problems.append(f"projected coordinates are in {units!r}; give them in m")
    try:
        grid = Grid.from_centres(
            longitudes(x, geographic)[column_order(x, geographic)], y[row_order(y)], crs or "EPSG:4326"
        )
    except GridError as error:
        found.problems += [
            line.removeprefix("  - ") for line in str(error).splitlines() if line.startswith("  - ")
        ] or [str(error)]
        return None
    return grid if crs is not None else None


def looks_geographic(raw: xr.Dataset, dims: dict[str, str]) -> bool:
    """Say whether x and y look like longitude and latitude, by attributes or names.

    Parameters
    ----------
    raw : Dataset
        As opened.
    dims : dict
        Names of y and x in the file.

    Returns
    -------
    geographic : bool
    """
    if not {"x", "y"} <= set(dims):
        return False
    x = raw[dims["x"]]
    named = x.attrs.get("standard_name") == "longitude" or dims["x"].lower().startswith("lon")
    return named or str(x.attrs.get("units", "")).startswith("degree")


def row_order(y: np.ndarray) -> np.ndarray:
    """Return which row of the file each row of the cube is: y descends.

    Parameters
    ----------
    y : ndarray, (ny,)
        As in the file.

    Returns
    -------
    order : ndarray of int, (ny,)

    Examples
    --------
    >>> row_order(np.array([10.0, 20.0, 30.0]))
    array([2, 1, 0])
    """
    return np.argsort(-np.asarray(y, dtype="float64"), kind="stable")


def column_order(x: np.ndarray, geographic: bool) -> np.ndarray:
    """Return which column of the file each column of the cube is: longitudes run -180..180.

    Parameters
    ----------
    x : ndarray, (nx,)
        As in the file.
    geographic : bool
        Whether x is longitude.

    Returns
    -------
    order : ndarray of int, (nx,)

    Examples
    --------
    >>> column_order(np.array([0.0, 90.0, 180.0, 270.0]), geographic=True)
    array([2, 3, 0, 1])
    """
    return np.argsort(longitudes(np.asarray(x, dtype="float64"), geographic), kind="stable")


def longitudes(x: np.ndarray, geographic: bool) -> np.ndarray:
    """Return x with longitudes within -180..180.

    Parameters
    ----------
    x : ndarray, (nx,)
        As in the file.
    geographic : bool
        Whether x is longitude; other x are left alone.

    Returns
    -------
    x : ndarray, (nx,)
    """
    return (x + 180) % 360 - 180 if geographic and x.max() > 180 else x
