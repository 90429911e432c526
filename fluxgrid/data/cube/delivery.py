"""A delivery: one file of covariates that somebody else drops, over some days, preliminary or final.

What a delivery holds is found by reading all of it once, so that damage is known before any of it is used, and what
its values look like can be compared with the delivery before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from fluxgrid.data.chunk_files import UNREADABLE
from fluxgrid.data.cube.axes import column_order, row_order
from fluxgrid.data.cube.layout import Field, Layout, survey
from fluxgrid.data.cube.stores import open_raw
from fluxgrid.data.cube.window import CubeReader
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import CubeError
from fluxgrid.geo.grid import Grid

Status = Literal["provisional", "final"]
STATUSES: tuple[Status, ...] = get_args(Status)

MALFORMED = (*UNREADABLE, TypeError, AttributeError, IndexError, OverflowError, MemoryError)
"""What a file of others can raise in whoever reads it: attributes of any type and sizes of any number."""

_MOST_VALUES = 2**24
"""Values read at a time: 64 MB."""
_MOST_CELLS = 2**30
"""Cells of a grid: the land and sea of the Earth at 1 km. A small file can declare any number of them."""
# not how the numbers are packed: many products pack each file by itself, and values are compared as decoded
_DESCRIBING = ("long_name", "standard_name", "cell_methods")
_TIMELESS = ("static", "class")


@dataclass(frozen=True)
class Delivered:
    """One of our variables in a delivery."""

    name: str
    """Ours."""
    source: str
    """In the file."""
    units: str
    """As the file, or the mapping, states them."""
    about: tuple[tuple[str, str], ...]
    """What else describes the variable in the file: name and value of attributes."""
    missing: float
    """Share of the values that are NaN, 0 to 1."""
    low: float | None
    """Least value, in our unit, infinite ones too; None where there is none."""
    high: float | None
    """Greatest value, in our unit, infinite ones too."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Delivered:
        """Return it from what JSON holds of it."""
        return cls(**{**content, "about": tuple((key, value) for key, value in content["about"])})


@dataclass(frozen=True)
class Delivery:
    """A file that can be read and used."""

    name: str
    """At the source."""
    path: str
    """Where it can be read on this machine."""
    size: int
    """Bytes."""
    modified_ns: int
    """When it was last changed, as the source says, ns since 1970."""
    digest: str
    """BLAKE3 of its content."""
    status: Status
    issued: str
    """When its content came to be, UTC in ISO 8601: as it says itself, or else when the file was last changed."""
    seen: str
    """When this content was first seen, UTC in ISO 8601."""
    start: str
    """First day, ISO 8601."""
    end: str
    """Last day."""
    grid: str
    """Shape, bounds and coordinate system, as `grid_text` gives them."""
    day_definition: str
    """When its days begin; empty where it does not say."""
    variables: tuple[Delivered, ...]
    """Those that vary in time, in the order of the file's survey."""

    @property
    def rank(self) -> tuple[bool, str, int, str]:
        """Which of two files speaks for a day that both hold: the greater one.

        Final beats provisional; then the later issue, the later change of the file, and at last the digest, which means
        nothing but is the same everywhere. The name plays no part.
        """
        return (self.status == "final", self.issued, self.modified_ns, self.digest)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Delivery:
        """Return what `to_dict` gave; KeyError, TypeError or ValueError if it is something else."""
        values = dict(content)
        variables = tuple(Delivered.from_dict(part) for part in values.pop("variables"))
        return cls(**values, variables=variables)

    def variable(self, name: str) -> Delivered | None:
        """Return one of its variables; None if it does not hold it."""
        return next((variable for variable in self.variables if variable.name == name), None)


@dataclass(frozen=True, eq=False)
class OpenDelivery:
    """A file opened with a mapping."""

    reader: CubeReader
    fields: tuple[Field, ...]
    """Usable variables that vary in time."""
    problems: tuple[str, ...]
    """Why it cannot be used; windows may be read only if there is none."""

    @property
    def layout(self) -> Layout:
        """What the file holds."""
        return self.reader.layout

    def close(self) -> None:
        """Let go of the file."""
        self.reader.raw.close()


def open_delivery(path: Path | str, mapping: CubeMapping) -> OpenDelivery:
    """Open a file that may hold only some of the variables of a mapping, over any number of days.

    Parameters
    ----------
    path : path
        A CF NetCDF file.
    mapping : CubeMapping
        As for the cube; variables the file lacks are left out.

    Returns
    -------
    opened : OpenDelivery
        To be closed.

    Raises
    ------
    CubeError
        If it cannot be opened.
    """
    raw = open_raw(str(path), dask=False)
    have = {name: entry for name, entry in mapping.variables.items() if entry.source in raw.variables}
    try:
        # a week or a single day does not tell its step by itself
        layout = survey(raw, mapping.model_copy(update={"step": "daily", "variables": have or mapping.variables}))
    except MALFORMED as error:
        raw.close()
        message = f"{path} cannot be read ({type(error).__name__}: {error})"
        raise CubeError(message) from error
    problems = list(layout.problems)
    if layout.grid is not None and layout.grid.shape[0] * layout.grid.shape[1] > _MOST_CELLS:
        ny, nx = layout.grid.shape
        problems.append(f"its grid has {ny} x {nx} cells; {_MOST_CELLS} are the most. Deliver the region alone")
    fields = tuple(field for field in layout.fields if field.usable and field.variable.role not in _TIMELESS)
    if not fields and not problems:
        problems.append("no variable of it varies in time; give land and soil as the base of the cube")
    return OpenDelivery(CubeReader(raw, layout, _order(raw, layout), {}), fields, tuple(problems))


def _order(raw: xr.Dataset, layout: Layout) -> dict[str, np.ndarray]:
    """Return the place in the file of each row and column; nothing where there is no grid."""
    if layout.grid is None:
        return {}
    y, x = (raw.indexes[layout.dims[axis]].to_numpy() for axis in "yx")
    return {"y": row_order(y), "x": column_order(x, layout.grid.geographic)}


def describe(opened: OpenDelivery) -> tuple[Delivered, ...]:
    """Read all values of a file once and say what they look like.

    Parameters
    ----------
    opened : OpenDelivery
        Without problems.

    Returns
    -------
    variables : tuple of Delivered

    Raises
    ------
    CubeError
        If any value cannot be read.
    """
    return tuple(_described(opened, field) for field in opened.fields)


def _described(opened: OpenDelivery, field: Field) -> Delivered:
    """Return one variable, looked through a few days at a time."""
    attributes = opened.reader.raw[field.source].attrs | opened.reader.raw[field.source].encoding
    about = tuple((key, str(attributes[key])) for key in _DESCRIBING if key in attributes)
    missing = count = 0
    low, high = np.inf, -np.inf
    for values in _parts(opened, field):
        known = values[~np.isnan(values)]
        missing, count = missing + values.size - known.size, count + values.size
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    ends = (low, high) if missing < count else (None, None)
    return Delivered(field.variable.name, field.source, field.units, about, missing / max(count, 1), *ends)


def _parts(opened: OpenDelivery, field: Field) -> Iterator[np.ndarray]:
    """Yield the values of a variable, (T, y, x), as many days, or rows of one, as may be held."""
    layout = opened.layout
    assert layout.grid is not None  # told as a problem otherwise
    assert layout.time is not None
    (ny, nx), days = layout.grid.shape, len(layout.time)
    step, height = max(1, _MOST_VALUES // (ny * nx)), min(max(1, _MOST_VALUES // nx), ny)
    for first, top in product(range(0, days, step), range(0, ny, height)):
        span, rows = slice(first, min(first + step, days)), slice(top, min(top + height, ny))
        try:
            yield opened.reader.read(field.variable.name, span, rows, slice(0, nx))
        except MALFORMED as error:
            message = f"{field.source!r} cannot be read ({type(error).__name__}: {error})"
            raise CubeError(message) from error


def grid_text(grid: Grid) -> str:
    """Return a grid as text that is the same for equal grids and for no others.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    text : str
    """
    ny, nx = grid.shape
    west, east, south, north = (float(side) for side in grid.bounds)
    crs = f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else grid.crs.to_wkt()
    return f"{ny} x {nx} cells, bounds ({west!r}, {east!r}, {south!r}, {north!r}), {crs}"
