"""Checking a cube: every problem at once, axes and values, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from fluxgrid.data.cube.build import as_mapping, field_values
from fluxgrid.data.cube.guess import Guess, guess_variables, suggest_mapping
from fluxgrid.data.cube.layout import Field, Layout, survey
from fluxgrid.data.cube.stores import StorePath, open_raw, zarr_folder
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import UnitError
from fluxgrid.units import convert
from fluxgrid.variables import Variable, get_variable

# Units that files are found to be in when they say another one, in the order they are tried.
_LIKELY_UNITS = (
    *("K", "degF", "degC", "mm d-1", "kg m-2 s-1", "m d-1", "mm month-1", "MJ m-2 d-1", "J m-2 d-1", "J m-2 h-1"),
    *("Pa", "hPa", "kPa", "%", "1", "g kg-1", "m3 m-3", "umol m-2 s-1"),
)
_MISSING_CODES = (-9999.0, -999.0, -32768.0, 1e20, 9.969209968386869e36)


@dataclass(frozen=True)
class CubeReport:
    """What `check_cube` found."""

    problems: tuple[str, ...]
    """Each must be mended before the cube can be used, or used with trust."""
    notes: tuple[str, ...]
    """What is mended on opening, and what the values look like."""
    suggestion: str
    """Text of a mapping (YAML) for the file."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def check_cube(
    path: StorePath,
    mapping: CubeMapping | Path | str | None = None,
    wanted: Sequence[str] = (),
    sample: int | None = 64,
) -> CubeReport:
    """Find everything that is wrong with a cube.

    Parameters
    ----------
    path : path, or list of paths
        As for `open_cube`.
    mapping : CubeMapping, path or str, optional
        As for `open_cube`.
    wanted : sequence of str
        Variables that must be there.
    sample : int, optional
        Chunks read of each variable, spread evenly from the first to the last; all if None. One chunk is held at a
        time.

    Returns
    -------
    report : CubeReport

    Raises
    ------
    CubeError
        If the file cannot be opened at all.
    ConfigError
        If the mapping is wrong.
    UnknownName
        If a wanted variable is not in the table of variables.
    """
    raw, mapping = open_raw(path), as_mapping(mapping)
    layout = survey(raw, mapping)
    problems = [*layout.problems, *_missing(raw, layout, wanted)]
    notes = list(layout.notes)
    for field in layout.fields:
        if _readable(field, layout):
            scan = _scan(raw, field, layout, sample)
            problems += scan.problems(field)
            notes.append(scan.note(field))
    notes += _absent_chunks(path, layout)
    return CubeReport(tuple(problems), tuple(notes), suggest_mapping(raw, layout, mapping))


def _readable(field: Field, layout: Layout) -> bool:
    """Say whether the values can be looked at: everything needed to convert them was found."""
    return field.usable and len(layout.dims) == 3 and layout.time is not None


def _missing(raw: xr.Dataset, layout: Layout, wanted: Sequence[str]) -> list[str]:
    """Return a problem for each wanted variable that the file does not give."""
    have = {field.variable.name for field in layout.fields}
    guesses: dict[str, Guess] = {guess.variable.name: guess for guess in guess_variables(raw, layout)}
    problems = []
    for name in wanted:
        variable = get_variable(name)
        if name in have or variable.role == "derived":  # derived ones are computed, not read
            continue
        guess = guesses.get(name)
        hint = f"; {guess.source!r} may be it: say so in the mapping" if guess else "; add it to the file"
        problems.append(f"{name} ({variable.long_name}, {variable.units}) is missing{hint}")
    return problems


@dataclass
class _Scan:
    """What a look at some chunks of a variable gave."""

    read: int = 0
    chunks: int = 0
    cells: int = 0
    missing: int = 0
    infinite: int = 0
    outside: int = 0
    low: float = np.inf
    high: float = -np.inf
    broken: tuple[str, ...] = ()
    strange_codes: tuple[float, ...] = ()

    def add(self, values: np.ndarray, variable: Variable) -> None:
        """Count one chunk."""
        finite = values[np.isfinite(values)]
        self.cells += values.size
        self.missing += int(np.isnan(values).sum())
        self.infinite += int(np.isinf(values).sum())
        if len(finite):
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if variable.valid_range:
            low, high = variable.valid_range
            self.outside += int(((finite < low) | (finite > high)).sum())

    def problems(self, field: Field) -> list[str]:
        """Return what is wrong with the values."""
        variable, name = field.variable, field.variable.name
        problems = [f"{name}: {text}" for text in self.broken]
        if self.cells and self.missing == self.cells:
            problems.append(f"{name}: all values{self._extent()} are NaN; is it filled at all?")
        if self.infinite:
            problems.append(
                f"{name}: {_share(self.infinite, self.cells)} of the values are infinite; write NaN instead"
            )
        if self.strange_codes:
            codes = ", ".join(f"{code:g}" for code in self.strange_codes[:10])
            problems.append(f"{name}: codes {codes} of {field.source!r} are in no class; add them to classes:")
        if self.outside and variable.valid_range:
            low, high = variable.valid_range
            problems.append(
                f"{name}: {_share(self.outside, self.cells)} of the values lie outside {low:g}..{high:g} "
                f"{variable.units}; they run {self.low:.4g}..{self.high:.4g}{_likely(self, field)}"
            )
        return problems

    def note(self, field: Field) -> str:
        """Return what the values look like."""
        if self.low > self.high:
            return f"{field.variable.name}: no finite value{self._extent()}"
        units = field.variable.units.removeprefix("1")
        about = "" if field.variable.role == "class" else f", {self.low:.4g}..{self.high:.4g} {units}".rstrip()
        return f"{field.variable.name}: {_share(self.missing, self.cells)} NaN{about}{self._extent()}"

    def _extent(self) -> str:
        """Say how much was looked at, if not everything."""
        return "" if self.read == self.chunks else f" (in {self.read} of {self.chunks} chunks looked at)"


def _scan(raw: xr.Dataset, field: Field, layout: Layout, sample: int | None) -> _Scan:
    """Look at chunks of a variable one by one."""
    values = field_values(raw, field, layout)
    places = _places(values, sample)
    scan = _Scan(read=len(places), chunks=int(np.prod(values.numblocks)))
    broken = []
    for place in places:
        try:
            scan.add(_compute(values.blocks[place]), field.variable)
        except Exception as error:  # noqa: BLE001  each codec has its own exceptions, and each means a bad chunk
            broken.append(_broken(field, layout, values, place, error))
    scan.broken = tuple(broken)
    if field.variable.role == "class" and not broken:
        scan.strange_codes = _strange_codes(raw, field, sample)
    return scan


def _places(values: da.Array, sample: int | None) -> list[tuple[int, ...]]:
    """Return the indices of the chunks to look at, spread evenly from the first to the last."""
    places = list(np.ndindex(*values.numblocks))
    if sample is None or len(places) <= sample:
        return places
    return [places[i] for i in np.unique(np.linspace(0, len(places) - 1, sample).round().astype(int))]


def _compute(block: da.Array) -> np.ndarray:
    """Read one chunk in this thread, so that no others are held."""
    return np.asarray(block.compute(scheduler="synchronous"))


def _broken(field: Field, layout: Layout, values: da.Array, place: tuple[int, ...], error: Exception) -> str:
    """Say which chunk cannot be read."""
    axes = ("time", "y", "x")[-len(place) :]
    where = ", ".join(f"{layout.dims[axis]} {index}" for axis, index in zip(axes, place, strict=True))
    first = [sum(values.chunks[axis][:index]) for axis, index in enumerate(place)]
    cells = ", ".join(f"{start}:{start + values.chunks[axis][place[axis]]}" for axis, start in enumerate(first))
    return (
        f"chunk ({where}) of array {field.source!r}, cells [{cells}], cannot be read "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); "
        "it is truncated or damaged: copy or write it again"
    )


def _absent_chunks(path: StorePath, layout: Layout) -> list[str]:
    """Return a note for each array whose store lacks chunks: empty on purpose, or lost in a copy."""
    folder, notes = zarr_folder(path), []
    if folder is None:
        return []
    for field in layout.fields:
        array = zarr.open_array(folder / field.source, mode="r")
        written, whole = array.nchunks_initialized, array.nchunks
        if written < whole:
            notes.append(
                f"{field.variable.name}: {whole - written} of {whole} chunks of array {field.source!r} are not in the "
                f"store and read as {array.fill_value}; if they should be there, copy or write the store again"
            )
    return notes


def _strange_codes(raw: xr.Dataset, field: Field, sample: int | None) -> tuple[float, ...]:
    """Return codes of a class variable that no class is given for."""
    codes, array = set(), raw[field.source].data
    for place in _places(array, sample):
        block = np.unique(_compute(array.blocks[place]))
        codes.update(block[np.isfinite(block)].tolist())
    return tuple(sorted(codes - set(field.classes)))


def _share(part: int, whole: int) -> str:
    """Return a share in per cent, never rounded to none."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.3g} %"


def _likely(scan: _Scan, field: Field) -> str:
    """Guess why values lie outside: a missing-value code, or another unit than stated."""
    ends = (scan.low, scan.high)
    code = next((code for code in _MISSING_CODES for end in ends if np.isclose(_stated(end, field), code)), None)
    if code is not None:
        return f"; {code:g} looks like a code for missing values: declare it (_FillValue)"
    for units in _LIKELY_UNITS:
        if units != field.units and _would_fit(ends, units, field):
            return f"; in {units} they would fit: is {field.units!r} the right unit? Correct it in the mapping (units:)"
    return "; correct the file or its unit (units: in the mapping)"


def _stated(value: float, field: Field) -> float:
    """Return a value as it stands in the file."""
    return float(convert(np.array([value]), field.variable.units, field.units, days=[30])[0])


def _would_fit(ends: tuple[float, float], units: str, field: Field) -> bool:
    """Say whether values would be valid if the file were in another unit than it states."""
    assert field.variable.valid_range is not None
    low, high = field.variable.valid_range
    try:
        fitted = [convert(np.array([_stated(end, field)]), units, field.variable.units, days=[30])[0] for end in ends]
    except UnitError:
        return False
    return bool(low <= min(fitted) and max(fitted) <= high)
