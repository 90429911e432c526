"""Opening of zarr stores and NetCDF files as they are: lazily, in their own chunks, with errors a user can act on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxgrid.errors import CubeError, itemise
from fluxgrid.netcdf import join_netcdf, open_netcdf

StorePath = Path | str | Sequence[Path | str]
"""A zarr store or NetCDF file, a pattern of NetCDF files ("pr_*.nc"), or a list of them."""

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zmetadata", "c/0", "0")  # the last two: values of coordinates
# All metadata that tie variables together (grid mapping, bounds) become coordinates; durations stay numbers.
_DECODING: dict[str, Any] = {"decode_coords": "all", "decode_timedelta": False}
_PLAIN: dict[str, Any] = {"decode_cf": False}
_PARTLY: dict[str, Any] = {"decode_coords": False, "decode_timedelta": False, "concat_characters": False}
# what xarray and its readers raise for what they cannot make sense of: attributes of any type, sizes of any number
_UNOPENABLE = (
    *(OSError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, OverflowError),
    *(AttributeError, IndexError, MemoryError),
)
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_CALENDARS = {None: "standard", "gregorian": "standard", "proleptic_gregorian": "standard"}  # alike for our dates


def open_raw(path: StorePath, decode: bool | Mapping[str, bool] = True, dask: bool = True) -> xr.Dataset:
    """Open covariates with the names, units and axes of their maker.

    Parameters
    ----------
    path : StorePath
        Where they are. Text with ``://`` is a remote zarr store.
    decode : bool or mapping
        Whether fill values, packing and times are decoded; False gives numbers as they are stored, of single files
        without dask between; a mapping from `stored_unlike` says so for each variable.
    dask : bool
        Whether decoded values come through dask; without, those of single files are read where they are asked for.

    Returns
    -------
    raw : Dataset
        Lazy, in the chunks of the store; contiguous files in chunks of dask's choice.

    Raises
    ------
    CubeError
        If nothing is there, or it cannot be opened.
    """
    try:
        if isinstance(decode, Mapping):
            return _open(path, None, {**_PARTLY, "mask_and_scale": decode, "decode_times": decode})
        if not decode:
            return _open(path, None, _PLAIN)
        if dask and _is_zarr(path):
            return _open(path, {}, _DECODING)  # which has chunks of its own
        plain = _open(path, None, _DECODING)
        if not dask:
            return plain
        stored = any(variable.encoding.get("preferred_chunks") for variable in plain.variables.values())
        plain.close()
        return _open(path, {} if stored else "auto", _DECODING)
    except _UNOPENABLE as error:
        message = (
            f"{path} cannot be opened: {type(error).__name__}: {error}. A cube is a zarr store or a CF NetCDF file; "
            "if it is one, it is damaged: copy it again."
        )
        raise CubeError(message) from error


def zarr_folder(path: StorePath) -> Path | None:
    """Return the folder of a zarr store on this machine, None for anything else.

    Parameters
    ----------
    path : StorePath

    Returns
    -------
    folder : Path or None
    """
    if not isinstance(path, Path | str) or "://" in str(path):
        return None
    folder = Path(path)
    return folder if any((folder / mark).is_file() for mark in _ZARR_MARKS) else None


def metadata_stamp(path: StorePath) -> tuple[tuple[str, int, int], ...]:
    """Return what changes whenever the layout of covariates does: name, inode and time of the files that tell it.

    Parameters
    ----------
    path : StorePath

    Returns
    -------
    stamp : tuple
        Of a zarr store its metadata, of another file on this machine the file; empty where neither is known.
    """
    folder = zarr_folder(path)
    if folder is None:
        remote = isinstance(path, Path | str) and "://" in str(path)
        files = [] if remote else [str(file) for file in _files(path)]
    else:
        folders = [str(folder), *(entry.path for entry in os.scandir(folder) if entry.is_dir())]
        files = [f"{where}/{name}" for where in folders for name in _METADATA]
    return tuple(found for file in files for found in _stamp_of(file))


def _stamp_of(file: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, inode and time of a file, if there is one."""
    with suppress(OSError):
        state = Path(file).stat()
        yield file, state.st_ino, state.st_mtime_ns


def is_packed(stored: xr.Variable) -> bool:
    """Say whether decoding would change the numbers of a variable, or their type.

    Parameters
    ----------
    stored : Variable
        From `open_raw` without decoding.

    Returns
    -------
    packed : bool
    """
    if stored.dtype.kind != "f" or "dtype" in stored.attrs:
        return True
    packing = {key: stored.attrs[key] for key in _PACKING if key in stored.attrs}
    fills = [packing.pop(key) for key in ("_FillValue", "missing_value") if key in packing]
    return bool(packing) or not all(np.isnan(np.asarray(fill, "float64")).all() for fill in fills)


def decode_window(name: str, stored: xr.Variable, dims: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Decode numbers of a variable as `open_raw` would.

    Parameters
    ----------
    name : str
        Of the variable.
    stored : Variable
        From `open_raw` without decoding.
    dims : sequence of str
        Those of the values.
    values : ndarray
        As stored.

    Returns
    -------
    decoded : ndarray, same shape
    """
    packed = xr.Variable(dims, values, stored.attrs)
    return np.asarray(xr.conventions.decode_cf_variable(name, packed, decode_timedelta=False).values)


def stored_unlike(path: StorePath) -> dict[str, bool]:
    """Return which variables some of several NetCDF files pack, or count time, in another way than the first.

    Their stored numbers make no common array; decoded ones do.

    Parameters
    ----------
    path : StorePath

    Returns
    -------
    unlike : dict of bool
        By the names of all variables; empty where none differs.

    Raises
    ------
    CubeError
        If units or calendars of a variable differ, which decoding does not mend, or a file cannot be opened.
    """
    if _is_zarr(path):
        return {}
    files = _files(path)
    first: dict[str, tuple[Path, xr.Variable]] = {}
    unlike: dict[str, bool] = {}
    problems = []
    for file in files if len(files) > 1 else []:
        with open_raw(file, decode=False) as raw:
            for name, variable in raw.variables.items():
                where, other = first.setdefault(str(name), (file, variable))
                problems += [
                    f"{file}: {key} of {name!r} is {a}, in {where} {b}"
                    for key, a, b in _meanings(variable, other)
                    if a != b
                ]
                for own in (str(name), variable.attrs.get("bounds")):  # bounds are in the units of their variable
                    if own is not None:
                        unlike[own] = unlike.get(own, False) or _storage(variable) != _storage(other)
    if problems:
        raise CubeError(itemise("The files do not mean the same; convert those that differ", problems))
    return unlike if any(unlike.values()) else {}


def _meanings(one: xr.Variable, other: xr.Variable) -> list[tuple[str, Any, Any]]:
    """Return units and calendars of two variables; times counted from other days decode to the same."""
    units = one.attrs.get("units"), other.attrs.get("units")
    if not all(" since " in str(text) for text in units):
        return [("units", *units)]
    calendars = one.attrs.get("calendar"), other.attrs.get("calendar")
    return [("calendar", _CALENDARS.get(calendars[0], calendars[0]), _CALENDARS.get(calendars[1], calendars[1]))]


def _storage(variable: xr.Variable) -> tuple[str, ...]:
    """Return what says how the numbers of a variable are stored; text, for NaN is not equal to itself."""
    return tuple(map(repr, (variable.dtype, *(variable.attrs.get(key) for key in ("units", "calendar", *_PACKING)))))


def _open(path: StorePath, chunks: Any, decoding: dict[str, Any]) -> xr.Dataset:
    """Open whatever is at the path."""
    folder = zarr_folder(path)
    if folder is not None:
        return xr.open_zarr(folder, chunks=chunks, consolidated=_is_consolidated(folder), **decoding)
    if isinstance(path, Path | str) and "://" in str(path):
        return xr.open_zarr(str(path), chunks=chunks, **decoding)
    files = _files(path)
    if len(files) == 1:
        return open_netcdf(files[0], chunks=chunks, cache=False, **decoding)
    alike = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
    joining = {**alike, "join": "exact", "combine_attrs": "drop_conflicts"}
    return join_netcdf(files, joining, chunks={} if chunks is None else chunks, **decoding)


def _is_zarr(path: StorePath) -> bool:
    """Say whether something is a zarr store, here or elsewhere."""
    return zarr_folder(path) is not None or (isinstance(path, Path | str) and "://" in str(path))


def _is_consolidated(folder: Path) -> bool:
    """Say whether a store carries the metadata of all its arrays in one place."""
    if (folder / "zarr.json").is_file():
        return bool(json.loads((folder / "zarr.json").read_text(encoding="utf-8")).get("consolidated_metadata"))
    return (folder / ".zmetadata").is_file()


def _files(path: StorePath) -> list[Path]:
    """Return the NetCDF files a path, pattern or list stands for."""
    if not isinstance(path, Path | str):
        files = [Path(part) for part in path]
    elif any(letter in str(path) for letter in "*?["):
        files = match_files(Path(path))
    else:
        files = [Path(path)]
    absent = [str(file) for file in files if not file.exists()]
    if absent or not files:
        message = (
            f"There is nothing at {', '.join(absent) or path}. Give a zarr store, NetCDF files or a pattern of them."
        )
        raise CubeError(message)
    folders = [str(file) for file in files if file.is_dir()]
    if folders:
        message = (
            f"{', '.join(folders)} is a folder but not a zarr store (it has no {' or '.join(_ZARR_MARKS)}). "
            "Give the store itself, or a pattern of NetCDF files such as 'folder/*.nc'."
        )
        raise CubeError(message)
    return files


def match_files(pattern: Path) -> list[Path]:
    """Return the files a pattern matches, sorted."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(letter in part for letter in "*?["))
    return sorted(Path(*parts[:first]).glob(str(Path(*parts[first:]))))
