"""A new state of one year: the changed tiles from where they were staged, all else shared with the state before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr

from fluxgrid.errors import DamagedMap, TileMismatch, itemise
from fluxgrid.geo.tiles import Tile
from fluxgrid.output.archive import disk
from fluxgrid.output.archive.check import compare
from fluxgrid.output.archive.design import Design
from fluxgrid.output.archive.layout import (
    STORE,
    UNITS,
    Unit,
    YearFolder,
    file_hash,
    read_checksums,
    read_units,
    write_checksums,
    write_units,
)
from fluxgrid.output.layers import Layers, layers_of
from fluxgrid.output.store import create_store, open_store, readable, tile_digest


@dataclass(frozen=True)
class StagedUnit:
    """A finished tile of a staged year, as its completion record knows it."""

    key: str
    """Hash of all that went in."""
    digest: str | None = None
    """Hash of the values; None for a tile that has no record because nothing in it is predicted."""


@dataclass(frozen=True)
class StagedYear:
    """A map store of one calendar year, made by `create_store` with the archive's grid and chunk, to publish from."""

    path: Path
    units: Mapping[str, StagedUnit]
    """Tiles to publish, by name; all others in the store are left alone. Of a year new to the archive name idle tiles
    too, or they read as outside the region."""


@dataclass(frozen=True)
class Before:
    """A year as the archive has it."""

    folder: Path
    files: Mapping[str, str]
    """Checksum of each file."""
    units: Mapping[str, Unit]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """A year that is ready to be published, in the working folder."""

    year: int
    path: Path
    checksums: str
    changed: tuple[str, ...]
    """Tiles."""
    before: Mapping[str, Unit]
    """What the changed tiles were."""
    after: Mapping[str, Unit]


@dataclass
class _Files:
    """Chunks on their way into a draft."""

    target: Path
    before: Before | None
    checksums: dict[str, str] = field(default_factory=dict)
    same: bool = True
    """Whether nothing taken since `same` was last set differs from what the archive has."""

    def share(self, name: str) -> None:
        """Take a file of the state before."""
        assert self.before is not None  # asked by the type checker
        place = self.target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        disk.link(self.before.folder / name, place)
        self.checksums[name] = self.before.files[name]

    def take(self, name: str, source: Path) -> None:
        """Copy a file, or share the one of the state before if it is whole and has the same bytes."""
        known = self.before.files.get(name) if self.before else None
        try:
            content = source.read_bytes()
        except FileNotFoundError:  # a chunk that holds nothing but fill values
            self.same &= known is None
            return
        value = file_hash(content)
        if known == value and self._intact(name, value):
            self.share(name)
            return
        self.same = False
        place = self.target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        self.checksums[name] = value

    def _intact(self, name: str, value: str) -> bool:
        """Return whether the archive's file still is what was published: publishing a unit again repairs it."""
        assert self.before is not None
        try:
            return file_hash((self.before.folder / name).read_bytes()) == value
        except OSError:
            return False


def staged_year(staged: StagedYear) -> int:
    """Return the calendar year of a staged store.

    Raises
    ------
    DamagedMap
        If it cannot be read.
    """
    return int(open_store(staged.path)["time"].dt.year[0])


def read_before(folder: Path, stored: YearFolder, replaced: bool) -> Before | None:
    """Return a year as the archive has it.

    Parameters
    ----------
    folder : Path
        Of the year.
    stored : YearFolder
    replaced : bool
        Whether all its tiles are published anew: a year whose lists are damaged is then taken for one that is new.

    Raises
    ------
    DamagedMap
        If its lists cannot be read and something of it is to be kept.
    """
    try:
        files = read_checksums(folder, stored.checksums)
        units = read_units(folder, files[UNITS])
        places = layers_of(open_store(folder / STORE)).calibrated_places
    except DamagedMap:
        if replaced:
            return None
        raise
    return Before(folder, files, units, places)


def build_year(
    design: Design, year: int, staged: StagedYear, before: Before | None, work: Path, version: int
) -> Draft | None:
    """Make the new state of a year in a working folder.

    The cost is that of the tiles named, and of one name on the disk for each other chunk of the year.

    Parameters
    ----------
    design : Design
    year : int
    staged : StagedYear
    before : Before or None
        The year as it is; None if it is new.
    work : Path
        Working folder of the publication.
    version : int
        That will publish it.

    Returns
    -------
    draft : Draft or None
        None if every unit is in the archive as it was staged.

    Raises
    ------
    TileMismatch
        If the store is not one of this archive; the message lists every reason.
    DamagedMap
        If a staged tile is not what its record says.
    """
    target = work / str(year)
    target.mkdir()
    layers = _checked_layers(design, year, staged, before)
    create_store(target / STORE, design.grid, design.times(year), layers, design.chunk)
    _check_arrays(staged, target / STORE, layers)
    files = _Files(target, before)
    keys = _chunk_names(target / STORE, layers, {name: design.tiles[name] for name in staged.units})
    _share_rest(files, layers, set().union(*keys.values()))
    units = dict(before.units) if before else {}
    changed = [name for name in staged.units if _take_unit(files, staged, name, keys[name], units.get(name))]
    for name in changed:
        units[name] = _unit(target / STORE, design.tiles[name], staged.units[name], version)
    if not changed and (before is None or _metadata_intact(before, layers)):
        return None
    write_units(target, units)
    _sum_metadata(files)
    old = {name: before.units[name] for name in changed if name in before.units} if before else {}
    return Draft(
        year, target, write_checksums(target, files.checksums), tuple(changed), old, {n: units[n] for n in changed}
    )


def _take_unit(files: _Files, staged: StagedYear, tile: str, keys: Iterable[str], before: Unit | None) -> bool:
    """Take the chunks of a tile and return whether it differs from what the archive has."""
    files.same = True
    for key in keys:
        files.take(key, staged.path / key.removeprefix(f"{STORE}/"))
    return not files.same or before is None or before.key != staged.units[tile].key


def _share_rest(files: _Files, layers: Layers, named: set[str]) -> None:
    """Take all chunks of the state before that are not of a tile to be published."""
    for name in files.before.files if files.before else ():
        if name.startswith(_chunk_starts(layers)) and name not in named:
            files.share(name)


def _metadata_intact(before: Before, layers: Layers) -> bool:
    """Return whether all that is not a chunk of the map is what was published; if not, publishing makes it anew."""
    others = (item for item in before.files.items() if not item[0].startswith(_chunk_starts(layers)))
    return all(compare(before.folder / name, value) is None for name, value in others)


def _chunk_starts(layers: Layers) -> tuple[str, ...]:
    """Return how the names of chunks of the map begin."""
    return tuple(f"{STORE}/{name}/c/" for name in layers.dtypes)


def _unit(store: Path, tile: Tile, staged: StagedUnit, version: int) -> Unit:
    """Read a tile back from the draft, hold it against its record, and count what it covers."""
    value = tile_digest(store, tile)
    if staged.digest not in (None, value):
        message = (
            f"Tile {tile.name} of the staged map is not what its record says: its values have the hash {value}, not "
            f"{staged.digest}. It was damaged after it was computed; run again to remake it."
        )
        raise DamagedMap(message)
    flux = cast("zarr.Array[Any]", zarr.open_group(store, mode="r", zarr_format=3)["nee"])
    there = np.isfinite(np.asarray(flux[:, tile.rows, tile.cols]))
    return Unit(staged.key, value, int(there.sum()), int(there.any((1, 2)).sum()), version)


def _chunk_names(store: Path, layers: Layers, tiles: Mapping[str, Tile]) -> dict[str, list[str]]:
    """Return, by tile, the files that can hold its values, in the folder of the year."""
    group = zarr.open_group(store, mode="r", zarr_format=3)
    names: dict[str, list[str]] = {tile: [] for tile in tiles}
    for layer in layers.dtypes:
        array = cast("zarr.Array[Any]", group[layer])
        lead = (0,) * (array.ndim - 2)
        for name, tile in tiles.items():
            places = product(_spans(tile.rows, array.chunks[-2]), _spans(tile.cols, array.chunks[-1]))
            keys = (array.metadata.encode_chunk_key((*lead, *place)) for place in places)
            names[name] += [f"{STORE}/{layer}/{key}" for key in keys]
    return names


def _spans(cells: slice, chunk: int) -> range:
    """Return the numbers of the chunks that some cells lie in."""
    return range(cells.start // chunk, -(-cells.stop // chunk))


def _sum_metadata(files: _Files) -> None:
    """Add the checksums of everything that is not a chunk of the map."""
    for path in files.target.rglob("*"):
        name = path.relative_to(files.target).as_posix()
        if path.is_file() and name not in files.checksums:
            files.checksums[name] = file_hash(path.read_bytes())


def _checked_layers(design: Design, year: int, staged: StagedYear, before: Before | None) -> Layers:
    """Return the layers of a staged store, or say everything that does not fit the archive."""
    dataset = open_store(staged.path)
    layers = layers_of(dataset)
    problems = [
        *_unit_problems(design, staged),
        *_axis_problems(design, year, dataset),
        *_layer_problems(design.layers, layers),
        *_place_problems(layers.calibrated_places, staged, before),
    ]
    if problems:
        raise TileMismatch(itemise(f"{staged.path} cannot be published to this archive", problems))
    return replace(design.layers, calibrated_places=layers.calibrated_places)


def _unit_problems(design: Design, staged: StagedYear) -> list[str]:
    """Say which tiles the archive does not have."""
    strange = sorted(staged.units.keys() - design.tiles.keys())
    return [f"tiles {', '.join(strange[:5])} are not of its {design.tile} x {design.tile} cells"] if strange else []


def _axis_problems(design: Design, year: int, dataset: xr.Dataset) -> list[str]:
    """Say which coordinates differ."""
    right = {"time": design.times(year).to_numpy(), "y": design.grid.y, "x": design.grid.x}
    problems = []
    for name, values in right.items():
        given = dataset[name].to_numpy()
        if len(given) != len(values) or (given != values).any():
            runs = f"{given[0]} to {given[-1]} ({len(given)}), not {values[0]} to {values[-1]} ({len(values)})"
            problems.append(f"its {name} runs {runs}")
    return problems


def _layer_problems(right: Layers, given: Layers) -> list[str]:
    """Say which variables there are too many or too few."""
    missing, strange = right.dtypes.keys() - given.dtypes.keys(), given.dtypes.keys() - right.dtypes.keys()
    return [f"{name} is missing" for name in sorted(missing)] + [f"{name} is not in the archive" for name in strange]


def _place_problems(given: tuple[str, ...], staged: StagedYear, before: Before | None) -> list[str]:
    """Say whether ``calibration_id`` would come to mean another place in tiles that stay."""
    if before is None or given[: len(before.places)] == before.places or before.units.keys() <= staged.units.keys():
        return []
    moved = next(name for name, other in zip(before.places, (*given, None), strict=False) if name != other)
    return [f"calibrated places changed ({moved} is not where it was): publish all tiles of the year, or add them last"]


def _check_arrays(staged: StagedYear, template: Path, layers: Layers) -> None:
    """Refuse chunks that the archive's metadata could not decode: they are copied as they are."""
    given, right = (zarr.open_group(path, mode="r", zarr_format=3) for path in (staged.path, template))
    problems = []
    for name in layers.dtypes:
        with readable(f"{name} of {staged.path}"):
            one, other = (_form(cast("zarr.Array[Any]", group[name])) for group in (given, right))
        problems += [f"{name} has {part} {one[part]}, not {other[part]}" for part in other if one[part] != other[part]]
    if problems:
        raise TileMismatch(itemise(f"{staged.path} cannot be published to this archive", problems))


def _form(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return what decides how the bytes of a chunk are read."""
    form = dict(array.metadata.to_dict())
    form["fill_value"] = str(form["fill_value"])  # nan does not equal itself
    del form["attributes"]
    return form
