"""The files of a cube that grows, as bytes: metadata, axes and chunks in the format of the reference world."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import pandas as pd
import pyproj
import xarray as xr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from fluxgrid.data.cube.build import class_flags, coordinates
from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.data.cube.ledger import KNOWN, MISSING, PROVISIONAL, STATUS_MEANINGS
from fluxgrid.errors import CubeError
from fluxgrid.geo.grid import Grid
from fluxgrid.variables import VARIABLES

STATUS = "delivery_status"
"""Array of the cube: what is known of each day."""
ROOT = "zarr.json"
"""The file by which readers learn the shapes of all arrays."""
_ORIGIN = "2000-01-01"
# as `world build` and `cube rechunk` write; the same codec twice, for zarr and for files written without it
_COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
_ENCODER = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)


def new_files(
    grid: Grid, start: str, days: int, varying: Sequence[str], still: Sequence[str], about: Mapping[str, str]
) -> dict[str, bytes]:
    """Return all files of an empty cube but the chunks of its variables and of time; the root comes last.

    Parameters
    ----------
    grid : Grid
    start : str
        First day.
    days : int
        Whole chunks.
    varying, still : sequence of str
        Variables with dims (time, y, x) and (y, x).
    about : mapping
        Attributes of the cube.

    Returns
    -------
    files : dict of bytes
        By their paths in the store.
    """
    content: dict[str, Any] = {}
    template = _template(grid, start, days, varying, still, about)
    with warnings.catch_warnings():
        # Readers look for consolidated metadata and warn without it; zarr warns that they are not yet in its standard.
        warnings.simplefilter("ignore")
        template.to_zarr(MemoryStore(content), compute=False, zarr_format=3, encoding=_encoding(template))
    files = {key: value.to_bytes() for key, value in content.items() if not key.startswith("time/c/")}
    return files | {ROOT: files.pop(ROOT)}


def longer_files(folder: Path, days: int) -> dict[str, bytes]:
    """Return the metadata of a cube with another length of time; the root comes last.

    Parameters
    ----------
    folder : Path
        Of the store.
    days : int

    Returns
    -------
    files : dict of bytes

    Raises
    ------
    CubeError
        If the metadata are not those of a cube that grew.
    """
    try:
        root = json.loads((folder / ROOT).read_text(encoding="utf-8"))
        files = {}
        for name, about in root["consolidated_metadata"]["metadata"].items():
            if "time" in (about.get("dimension_names") or ()):
                about["shape"][about["dimension_names"].index("time")] = days
                files[f"{name}/zarr.json"] = json.dumps(about, indent=2).encode()
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder / ROOT} cannot be read ({type(error).__name__}: {error}). Restore it from a copy."
        raise CubeError(message) from error
    return files | {ROOT: json.dumps(root, indent=2).encode()}


def series_files(name: str, values: np.ndarray, first: int) -> Iterator[tuple[str, bytes]]:
    """Yield the chunks of a series along time, (T,), from a whole chunk on."""
    for begin in range(0, len(values), TILE_CHUNK[0]):
        yield f"{name}/c/{first + begin // TILE_CHUNK[0]}", encoded(values[begin : begin + TILE_CHUNK[0]])


def time_values(start: str, first: int, days: int) -> np.ndarray:
    """Return the time axis as stored, from a day of the cube up to its length, int32."""
    offset = (pd.Timestamp(start) - pd.Timestamp(_ORIGIN)).days
    return np.arange(offset + first, offset + days, dtype="<i4")


def encoded(chunk: np.ndarray) -> bytes:
    """Return the file of a chunk."""
    return bytes(_ENCODER.encode(np.ascontiguousarray(chunk)))


def _template(
    grid: Grid, start: str, days: int, varying: Sequence[str], still: Sequence[str], about: Mapping[str, str]
) -> xr.Dataset:
    """Return a cube without values."""
    time = pd.date_range(start, periods=days, freq="D")
    sizes = {"time": days, "y": grid.shape[0], "x": grid.shape[1]}
    dims = {name: ("time", "y", "x") for name in varying} | {name: ("y", "x") for name in still}
    variables: dict[str, Any] = {
        # one large empty part: a declaration, without a task for each chunk
        name: (axes, da.empty([sizes[a] for a in axes], dtype="f4", chunks=-1), _attributes(name))
        for name, axes in dims.items()
    }
    status = {
        "long_name": "what is known of the day, of the variable of which least is known",
        "flag_values": np.array([MISSING, PROVISIONAL, KNOWN], np.int8),
        "flag_meanings": STATUS_MEANINGS,
    }
    variables[STATUS] = (("time",), da.zeros(days, dtype="i1", chunks=-1), status)
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    axes = coordinates(time, grid) | {"spatial_ref": ((), np.int32(0), crs.to_cf())}
    return xr.Dataset(variables, axes, dict(about))


def _attributes(name: str) -> dict[str, Any]:
    """Return the attributes of a variable."""
    variable = VARIABLES[name]
    attrs: dict[str, Any] = {"units": variable.units, "long_name": variable.long_name, "grid_mapping": "spatial_ref"}
    if variable.standard_name:
        attrs["standard_name"] = variable.standard_name
    return attrs | (class_flags(variable.classes) if variable.role == "class" else {})


def _encoding(template: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return chunks, fill values and the unit of time."""
    encoding: dict[str, dict[str, Any]] = {
        str(name): {"chunks": TILE_CHUNK[-array.ndim :], "_FillValue": np.nan, "compressors": [_COMPRESSOR]}
        for name, array in template.data_vars.items()
        if array.ndim > 1
    }
    series = {"chunks": TILE_CHUNK[:1], "compressors": [_COMPRESSOR]}
    encoding[STATUS] = dict(series)
    encoding["time"] = series | {"units": f"days since {_ORIGIN}", "calendar": "standard", "dtype": "int32"}
    return encoding
