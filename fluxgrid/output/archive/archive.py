"""The archive: every state of a map that was ever published, one of them the newest.

Nothing that was published is ever written to again. A publication builds new folders of the years it changes, which
share all other chunks with the state before (hard links), and becomes visible by one renaming of one folder.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxgrid.data.steps import Step
from fluxgrid.errors import DamagedMap, OutputError, OutputExists, RunLocked, TileMismatch, UnknownName
from fluxgrid.files import atomic_folder, flush_below, flush_path, output_error
from fluxgrid.geo.grid import Grid
from fluxgrid.locks import Lock
from fluxgrid.output.archive import disk
from fluxgrid.output.archive.build import Before, Draft, StagedYear, build_year, read_before, staged_year
from fluxgrid.output.archive.check import Damage, check_year, compare
from fluxgrid.output.archive.design import README_TEXT, Design, describe, designed
from fluxgrid.output.archive.guards import check_shrinkage, shrinkage_of
from fluxgrid.output.archive.layout import (
    ABOUT,
    CHANGED,
    FORMAT,
    README,
    STORE,
    VERSION,
    VERSIONS,
    YEARS,
    Unit,
    UnitName,
    Version,
    YearFolder,
    read_units,
    read_version,
    unseal,
    version_text,
)
from fluxgrid.output.archive.reading import archived, join_years, open_year
from fluxgrid.output.archive.times import moment_of, time_after, until
from fluxgrid.output.layers import Layers
from fluxgrid.provenance import seal

Which = Version | int | str | datetime | None
"""A version: itself, its number, its tag, a date in UTC (the newest published by then), or None for the newest."""

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NUMBER_OR_DATE = re.compile(r"\d[\d.+TZ-]*")


@dataclass(frozen=True)
class Difference:
    """How one version differs from another."""

    values: tuple[UnitName, ...]
    """Units whose values differ."""
    keys: tuple[UnitName, ...]
    """Units that were made from other inputs and have the same values."""
    added: tuple[UnitName, ...]
    removed: tuple[UnitName, ...]


@dataclass(frozen=True)
class Pruned:
    """What was removed from an archive."""

    versions: tuple[int, ...]
    freed: int
    """Bytes of disk."""


class Archive:
    """A versioned archive of the maps of one region.

    Parameters
    ----------
    path : Path
        Its folder. Use `Archive.create` and `Archive.open`.
    design : Design
        Grid, layers, step and tiles.
    """

    def __init__(self, path: Path, design: Design) -> None:
        self.path = path.absolute()
        self.design = design
        self._seen = self._newest_id()

    @classmethod
    def create(
        cls, path: Path | str, grid: Grid, layers: Layers, step: Step, tile: int = 32, chunk: int = 32
    ) -> Archive:
        """Make an empty archive.

        Parameters
        ----------
        path : path
            Its folder; must not exist.
        grid : Grid
            Of the maps.
        layers : Layers
            Their variables. The names of calibrated places may change from one publication to the next.
        step : {"daily", "monthly"}
        tile, chunk : int
            Sides in cells; a tile is a whole number of chunks.

        Returns
        -------
        archive : Archive

        Raises
        ------
        OutputExists
            If there is something at ``path``.
        TileMismatch
            If a tile is no whole number of chunks.
        OutputError
            If it cannot be written.
        """
        path = Path(path)
        if path.exists():
            message = f"{path} exists. Open the archive that is there, or choose another folder."
            raise OutputExists(message)
        if chunk < 1 or tile < 1 or tile % chunk:
            message = f"A tile of {tile} cells is not a whole number of chunks of {chunk}; choose a multiple."
            raise TileMismatch(message)
        design = Design(grid, layers, step, tile, chunk)
        with atomic_folder(path) as temporary:
            (temporary / VERSIONS).mkdir()
            (temporary / YEARS).mkdir()
            (temporary / README).write_text(README_TEXT, encoding="utf-8")
            (temporary / ABOUT).write_text(seal(describe(design)), encoding="utf-8")
            flush_below(temporary)
        return cls(path, design)

    @classmethod
    def open(cls, path: Path | str) -> Archive:
        """Open an archive; nothing is written.

        Raises
        ------
        DamagedMap
            If there is none, or what describes it is damaged.
        OutputError
            If a newer fluxgrid made it.
        """
        path = Path(path)
        about = unseal(path / ABOUT)
        if about.get("format") != FORMAT:
            message = f"{path} is an archive of format {about.get('format')}; this fluxgrid knows {FORMAT}. Update it."
            raise OutputError(message)
        return cls(path, designed(about))

    def numbers(self) -> list[int]:
        """Return the numbers of all versions, ascending; nothing of them is read."""
        with archived(f"the versions of {self.path}"):
            return sorted(int(entry.name) for entry in (self.path / VERSIONS).iterdir() if entry.name.isdecimal())

    def versions(self) -> list[Version]:
        """Return all versions, oldest first.

        Raises
        ------
        DamagedMap
            If the description of one cannot be read; the others can still be opened by their numbers.
        """
        return [self._version(number) for number in self.numbers()]

    def newest(self) -> Version | None:
        """Return the newest version, or None before anything was published."""
        number = self._newest_id()
        return self._version(number) if number else None

    def find(self, which: Which = None) -> Version:
        """Return a version by number, tag or date.

        Parameters
        ----------
        which : Version, int, str, datetime or None
            A text is a tag if there is one of that name, else a date in ISO 8601. A date finds the newest version
            published not after it; one without a time of day counts to its end. Times are UTC if they do not say.

        Returns
        -------
        version : Version

        Raises
        ------
        UnknownName
            If there is none.
        """
        if isinstance(which, Version):
            return which
        if isinstance(which, int):
            return self._version(which)
        if which is None:
            versions = [self._version(number) for number in self.numbers()[-1:]]
        else:
            versions = self.versions()
            tagged = [version for version in versions if version.tag == which]
            versions = tagged or until(versions, moment_of(which))
        if not versions:
            tags = [version.tag for version in self.versions() if version.tag]
            message = (
                f"{self.path} has no version {which if which is not None else 'yet'}. Give a number, a date not before "
                f"the first publication, or a tag ({', '.join(tags[-5:]) or 'none so far'})."
            )
            raise UnknownName(message)
        return versions[-1]

    def at(self, which: Which = None) -> xr.Dataset:
        """Open the maps of a version lazily; later publications do not change what is open.

        Parameters
        ----------
        which : Version, int, str, datetime or None
            As `find` takes it.

        Returns
        -------
        dataset : Dataset
            Dims (time, y, x) and, for variables of whole years, (year, y, x). Steps not covered are empty.

        Raises
        ------
        UnknownName
            If there is no such version.
        DamagedMap
            If it cannot be read.
        """
        return join_years(self.years(which))

    def years(self, which: Which = None) -> dict[int, xr.Dataset]:
        """Open the maps of a version lazily, each calendar year for itself; as `at` otherwise."""
        return {year: open_year(folder) for year, folder in self.folders(which).items()}

    def folders(self, which: Which = None) -> dict[int, Path]:
        """Return the folder of each year of a version; it holds ``map.zarr``."""
        return {year: self._folder(year, stored) for year, stored in sorted(self.find(which).years.items())}

    def units(self, which: Which = None) -> dict[UnitName, Unit]:
        """Return what the archive knows of each tile and year, without reading values.

        Raises
        ------
        UnknownName
            If there is no such version.
        DamagedMap
            If a list of units cannot be read.
        """
        found: dict[UnitName, Unit] = {}
        for year, folder in self.folders(which).items():
            found |= {(tile, year): unit for tile, unit in read_units(folder).items()}
        return found

    def changed(self, which: Which = None) -> tuple[UnitName, ...]:
        """Return the units in which a version differs from its parent."""
        rows = unseal(self.path / VERSIONS / self.find(which).name / CHANGED)["units"]
        return tuple((tile, int(year)) for tile, year in rows)

    def diff(self, before: Which, after: Which = None) -> Difference:
        """Return which units differ between two versions, without reading values."""
        old, new = self.units(before), self.units(after)
        both = sorted(old.keys() & new.keys())
        values = tuple(name for name in both if old[name].digest != new[name].digest)
        keys = tuple(name for name in both if old[name].digest == new[name].digest and old[name].key != new[name].key)
        return Difference(values, keys, tuple(sorted(new.keys() - old)), tuple(sorted(old.keys() - new)))

    def compare(
        self, before: Which, after: Which, name: str
    ) -> Iterator[tuple[UnitName, np.ndarray | None, np.ndarray | None]]:
        """Yield the values of every unit that differs between two versions, to sum up the change of a region.

        Parameters
        ----------
        before, after : Version, int, str, datetime or None
        name : str
            Variable.

        Yields
        ------
        unit : (tile, year)
        old, new : array (time, h, w) or (h, w), or None
            None where the version does not have the unit. One unit is held at a time.
        """
        old, new = self.find(before), self.find(after)
        difference = self.diff(old, new)
        years = {version.id: self.years(version) for version in (old, new)}
        absent = {old.id: set(difference.added), new.id: set(difference.removed)}
        for unit in sorted((*difference.values, *difference.added, *difference.removed)):
            tile = self.design.tiles[unit[0]]
            pair = []
            for version in (old, new):
                with archived(f"{name} of {unit} in version {version.id}"):
                    missing = unit in absent[version.id]
                    pair.append(None if missing else years[version.id][unit[1]][name][..., tile.rows, tile.cols].values)
            yield unit, pair[0], pair[1]

    def publish(
        self,
        staged: Iterable[StagedYear],
        tag: str | None = None,
        message: Mapping[str, Any] | None = None,
        covered: str | None = None,
        allow_shrink: bool = False,
    ) -> Version:
        """Publish staged tiles: all of them become visible at once, or none.

        Parameters
        ----------
        staged : iterable of StagedYear
            Stores and the tiles of them that changed. Tiles that are in the archive with the same key and bytes are
            left out, unless the archive's own copy is damaged: publishing a tile again repairs it.
        tag : str, optional
            Name of the version: letters, digits and ``._+-``.
        message : mapping, optional
            Provenance; anything JSON can hold.
        covered : str, optional
            End of what is covered (the first moment that is not), ISO 8601. The parent's if left out.
        allow_shrink : bool
            Whether less may be covered than before.

        Returns
        -------
        version : Version
            The new one; the newest that is there if nothing differs from it and no tag is to be given, and then nothing
            is written. A tag for what stands is given by a new version of the same state.

        Raises
        ------
        ArchiveWouldShrink
            If ``covered`` moves back, or units lose steps that have values.
        RunLocked
            If another process publishes, or has published since the archive was opened.
        TileMismatch, DamagedMap
            If something staged does not fit, or is not what its record says.
        UnknownName
            If the tag cannot be given.
        OutputError
            If the disk is full and the like. The archive is then as it was.
        """
        with disk.writing(self.path) as (work, lock):
            parent = self._parent()
            self.check_tag(tag)
            number = (parent.id if parent else 0) + 1
            drafts = list(self._drafts(staged, parent, work, number))
            if not drafts and parent and tag is None:
                return parent
            check_shrinkage(shrinkage_of(drafts, parent, covered), allow_shrink)
            years = parent.years if parent else {}
            changed = [(tile, draft.year) for draft in drafts for tile in draft.changed]
            covered = covered or (parent.covered if parent else None)
            return self._commit(work, lock, parent, _Content(tag, message or {}, covered, changed, years), drafts)

    def rollback(self, to: Which, tag: str | None = None, message: Mapping[str, Any] | None = None) -> Version:
        """Publish an old state again as the newest; no version is lost.

        Parameters
        ----------
        to : Version, int, str or datetime
            As `find` takes it.
        tag, message
            As `publish` takes them; the message says ``rollback_to`` too.

        Returns
        -------
        version : Version
            The newest that is there if it is of the same state and no tag is to be given.

        Raises
        ------
        UnknownName
            If there is no such version, or the tag cannot be given.
        RunLocked
            As `publish`.
        """
        with disk.writing(self.path) as (work, lock):
            parent, old = self._parent(), self.find(to)
            if parent is None or (parent.years == old.years and tag is None):
                return old if parent is None else parent
            self.check_tag(tag)
            difference = self.diff(parent, old)
            changed = sorted({*difference.values, *difference.keys, *difference.added, *difference.removed})
            content = _Content(tag, {**(message or {}), "rollback_to": old.id}, old.covered, changed, old.years)
            return self._commit(work, lock, parent, content)

    def prune(self, keep: int, protect: Iterable[str] | None = None) -> Pruned:
        """Remove old versions and free the disk of what no other version needs.

        A dataset that is open on a version removed here raises `DamagedMap` at the next read.

        Parameters
        ----------
        keep : int
            How many of the newest stay; the newest always does.
        protect : iterable of str, optional
            Tags that stay; all when left out.

        Returns
        -------
        pruned : Pruned

        Raises
        ------
        UnknownName
            If a tag to protect is not there.
        DamagedMap
            If the description of a version cannot be read: what it needs is then unknown, and nothing is removed.
        RunLocked
            If another process publishes.
        """
        if keep < 1:
            message = f"Cannot keep {keep} versions: the newest always stays. Give 1 or more."
            raise UnknownName(message)
        with disk.writing(self.path) as (work, lock):
            versions = self.versions()
            kept = _kept(versions, keep, protect)
            gone = [version for version in versions if version not in kept]
            needed = {(year, stored.folder) for version in kept for year, stored in version.years.items()}
            freed = 0
            lock.check()
            for version in gone:
                (self.path / VERSIONS / version.name).rename(work / version.name)
            for folder in sorted(self.path.glob(f"{YEARS}/*/*/")):  # what is no folder, or of no year, is not ours
                year = folder.parent.name
                if year.isdecimal() and (int(year), folder.name) not in needed:
                    aside = folder.rename(work / f"{folder.parent.name}-{folder.name}")
                    freed += disk.remove(aside)
            return Pruned(tuple(version.id for version in gone), freed)

    def verify(self, which: Which = None, years: Iterable[int] | None = None) -> list[Damage]:
        """Read every file of a version and name those that are not what was published.

        Parameters
        ----------
        which : Version, int, str, datetime or None
            As `find` takes it.
        years : iterable of int, optional
            Calendar years to read; all by default.

        Returns
        -------
        damages : list of Damage
            Empty if every byte is as it was. Publish the units named here again to repair the newest version.

        Raises
        ------
        UnknownName
            If there is no such version.
        DamagedMap
            If the description of the version itself is damaged.
        """
        version = self._version(self.find(which).id)
        folder = self.path / VERSIONS / version.name
        found = _about_damage(self.path)
        if not _sound(folder / CHANGED):
            found.append(Damage(folder / CHANGED, "changed"))
        wanted = set(version.years) if years is None else set(years)
        for year, stored in sorted(version.years.items()):
            found += _link_damage(folder, year, stored)
            if year not in wanted:
                continue
            found += check_year(self._folder(year, stored), year, stored, self.design.tile_of)
        return found

    def _drafts(self, staged: Iterable[StagedYear], parent: Version | None, work: Path, number: int) -> Iterator[Draft]:
        """Build every year that differs from what the archive has."""
        seen: set[int] = set()
        for one in staged:
            year = staged_year(one)
            if year in seen:
                message = f"{year} is staged twice, the second time in {one.path}. Publish one store for each year."
                raise TileMismatch(message)
            seen.add(year)
            if one.units:
                draft = build_year(self.design, year, one, self._before(parent, year, one), work, number)
                yield from [draft] if draft else []

    def _before(self, parent: Version | None, year: int, staged: StagedYear) -> Before | None:
        """Return a year as the archive has it."""
        if parent is None or year not in parent.years:
            return None
        stored = parent.years[year]
        return read_before(self._folder(year, stored), stored, staged.units.keys() >= self.design.tiles.keys())

    def _commit(
        self, work: Path, lock: Lock, parent: Version | None, content: _Content, drafts: Iterable[Draft] = ()
    ) -> Version:
        """Make a version visible: on the disk first, then by one renaming that succeeds once for a number."""
        number = parent.id + 1 if parent else 1
        settled = {draft.year: YearFolder(f"{number:06d}-{uuid.uuid4().hex[:8]}", draft.checksums) for draft in drafts}
        version = Version(
            id=number,
            tag=content.tag,
            time=time_after(parent.time if parent else None),
            parent=parent.id if parent else None,
            message=content.message,
            covered=content.covered,
            changed=len(content.changed),
            years={**content.years, **settled},
        )
        folder = _version_folder(work / VERSIONS, version, content.changed)
        flush_below(work)
        lock.check()
        try:
            for draft in drafts:
                self._settle(draft, settled[draft.year])
            folder.rename(self.path / VERSIONS / version.name)
        except OSError as error:
            for year, stored in settled.items():
                shutil.rmtree(self._folder(year, stored), ignore_errors=True)
            if self._newest_id() < number:
                raise output_error(error, self.path) from error
            raise self._moved() from error
        flush_path(self.path / VERSIONS)
        self._seen = number
        return version

    def _settle(self, draft: Draft, stored: YearFolder) -> None:
        """Move a draft to where it stays; nobody looks for it before a version names it."""
        place = self._folder(draft.year, stored)
        place.parent.mkdir(exist_ok=True)
        draft.path.rename(place)
        flush_path(place.parent)
        flush_path(place.parent.parent)

    def _parent(self) -> Version | None:
        """Return the newest version, which must be the one this object knows of."""
        if self._newest_id() != self._seen:
            raise self._moved()
        return self.newest()

    def _moved(self) -> RunLocked:
        """Return the error of whoever comes second."""
        message = (
            f"{self.path} was published to by another process: its newest version is {self._newest_id()}, and was "
            f"{self._seen} when it was opened. Nothing was changed; open it again and find anew what has changed."
        )
        return RunLocked(message)

    def check_tag(self, tag: str | None) -> None:
        """Refuse a tag that `find` would not find, for it is taken or may be a number or a date.

        Raises
        ------
        UnknownName
            If the tag cannot be given.
        DamagedMap
            If the description of a version cannot be read.
        """
        if tag is None:
            return
        check_tag(tag)
        taken = [version.id for version in self.versions() if version.tag == tag]
        if taken:
            message = f"Version {taken[0]} of {self.path} has the tag {tag!r} already. Choose another."
            raise UnknownName(message)

    def _newest_id(self) -> int:
        """Return the number of the newest version, 0 before the first."""
        return max(self.numbers(), default=0)

    def _version(self, number: int) -> Version:
        """Read the description of a version."""
        folder = self.path / VERSIONS / f"{number:06d}"
        if not folder.is_dir():
            numbers = self.numbers()
            message = f"{self.path} has no version {number}; it has {len(numbers)}, the last {numbers[-3:]}."
            raise UnknownName(message)
        version = read_version(folder)
        if version.id != number:
            message = f"{folder} holds version {version.id}: it was renamed. Give it its name back."
            raise DamagedMap(message)
        return version

    def _folder(self, year: int, stored: YearFolder) -> Path:
        """Return the folder of one state of a year."""
        return self.path / YEARS / str(year) / stored.folder


def check_tag(tag: str) -> None:
    """Refuse a text that cannot be the tag of any version.

    Raises
    ------
    UnknownName
        If it has other characters, or may be a number or a date.
    """
    if not _TAG.fullmatch(tag):
        message = f"{tag!r} cannot be a tag. Use letters, digits and the characters . _ + -"
        raise UnknownName(message)
    if _NUMBER_OR_DATE.fullmatch(tag):
        message = f"{tag!r} cannot be a tag: it could be the number of a version or a date. Put a letter before it."
        raise UnknownName(message)


@dataclass(frozen=True)
class _Content:
    """What a version is to say."""

    tag: str | None
    message: Mapping[str, Any]
    covered: str | None
    changed: Sequence[UnitName]
    years: Mapping[int, YearFolder]


def _version_folder(folder: Path, version: Version, changed: Sequence[UnitName]) -> Path:
    """Write the folder of a version, with a link to each of its years for whoever has no fluxgrid."""
    folder.mkdir()
    for year, stored in version.years.items():
        (folder / f"{year}.zarr").symlink_to(_link_target(year, stored), target_is_directory=True)
    (folder / CHANGED).write_text(seal({"units": [list(unit) for unit in changed]}), encoding="utf-8")
    (folder / VERSION).write_text(version_text(version), encoding="utf-8")
    return folder


def _about_damage(path: Path) -> list[Damage]:
    """Name what describes the archive and is not what was written when it was made."""
    if not _sound(path / ABOUT):
        return [Damage(path / ABOUT, "changed")]
    problem = compare(path / README, unseal(path / ABOUT)["readme"])
    return [Damage(path / README, problem)] if problem else []


def _sound(path: Path) -> bool:
    """Return whether a sealed file is what was written."""
    try:
        unseal(path)
    except DamagedMap:
        return False
    return True


def _link_target(year: int, stored: YearFolder) -> Path:
    """Return where the link of a year in the folder of a version points."""
    return Path("..", "..", YEARS, str(year), stored.folder, STORE)


def _link_damage(folder: Path, year: int, stored: YearFolder) -> list[Damage]:
    """Say whether the link of a year leads elsewhere."""
    link = folder / f"{year}.zarr"
    if not link.is_symlink():
        return [Damage(link, "missing", year)]
    return [] if link.readlink() == _link_target(year, stored) else [Damage(link, "changed", year)]


def _kept(versions: list[Version], keep: int, protect: Iterable[str] | None) -> list[Version]:
    """Return the versions that stay."""
    tags = {version.tag for version in versions if version.tag}
    protected = tags if protect is None else set(protect)
    unknown = sorted(protected - tags)
    if unknown:
        message = f"There is no tag {', '.join(unknown)} to protect; there are {', '.join(sorted(tags)) or 'none'}."
        raise UnknownName(message)
    return [version for version in versions[:-keep] if version.tag in protected] + versions[-keep:]
