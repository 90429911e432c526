"""What lies on the disk of an archive, and how each of its files can be told from a damaged one.

A chain of hashes runs from the name of a version to every byte of it: ``version.json`` carries its own hash and those
of the lists of checksums of its years; a list carries that of every file beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxgrid import provenance
from fluxgrid.errors import DamagedMap
from fluxgrid.provenance import seal

FORMAT = 1
ABOUT = "archive.json"
README = "README.txt"
VERSIONS = "versions"
YEARS = "years"
WORK = ".work"
"""Folder of what is not finished or no longer wanted; whatever a dead process left there is litter."""

VERSION = "version.json"
CHANGED = "changed.json"
STORE = "map.zarr"
UNITS = "units.json"
CHECKSUMS = "checksums.txt"

UnitName = tuple[str, int]
"""Tile (``r0000c0032``) and calendar year."""


@dataclass(frozen=True)
class Unit:
    """What the archive knows of one tile and year without reading its values."""

    key: str
    """Hash of all that went in, from the completion record."""
    digest: str
    """Hash of the values, as `fluxgrid.output.store.tile_digest` gives it."""
    values: int
    """Cell-steps that have a net flux."""
    steps: int
    """Steps at which any cell has one."""
    version: int
    """Number of the version that published it."""


@dataclass(frozen=True)
class YearFolder:
    """One state of one calendar year."""

    folder: str
    """Name below ``years/<year>``."""
    checksums: str
    """Hash of its list of checksums."""


@dataclass(frozen=True)
class Version:
    """One published state of an archive."""

    id: int
    """Counts from 1; names the folder ``versions/<id, six digits>``."""
    tag: str | None
    """Name given to it, unique in the archive."""
    time: str
    """When it was published, UTC, ISO 8601; later than that of every version before."""
    parent: int | None
    """The version it was made from; it may have been pruned since."""
    message: Mapping[str, Any]
    """Provenance, as the caller gave it."""
    covered: str | None
    """End of what is covered (the first moment that is not), as the caller gave it."""
    changed: int
    """Number of units that differ from the parent; `Archive.changed` names them."""
    years: Mapping[int, YearFolder] = field(repr=False)
    """Folders it is made of."""

    @property
    def name(self) -> str:
        """Name of its folder: 000012."""
        return f"{self.id:06d}"


def unseal(path: Path) -> dict[str, Any]:
    """Return what `seal` wrote.

    Raises
    ------
    DamagedMap
        If the file is missing or a byte of it is not as it was written.
    """
    try:
        return provenance.unseal(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"Cannot read {path}: {error!r}. The file is damaged or missing; restore it from a copy."
        raise DamagedMap(message) from error


def file_hash(content: bytes) -> str:
    """Return BLAKE2b-128, as ``b2sum --length 128`` prints it."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def version_text(version: Version) -> str:
    """Return the text of ``version.json``."""
    years = {str(year): vars(folder) for year, folder in version.years.items()}
    return seal({**vars(version), "message": dict(version.message), "years": years})


def read_version(path: Path) -> Version:
    """Return the version whose folder is given.

    Raises
    ------
    DamagedMap
        If it cannot be read.
    """
    content = unseal(path / VERSION)
    years = {int(year): YearFolder(**folder) for year, folder in content.pop("years").items()}
    return Version(**content, years=years)


def write_checksums(folder: Path, files: Mapping[str, str]) -> str:
    """Write the list of checksums of a folder, which ``b2sum -c`` reads too, and return its hash."""
    text = "".join(f"{value}  {name}\n" for name, value in sorted(files.items()))
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")
    return file_hash(text.encode())


def read_checksums(folder: Path, expected: str) -> dict[str, str]:
    """Return the checksum of every file of a year's folder.

    Raises
    ------
    DamagedMap
        If the list is not the one that was published.
    """
    path = folder / CHECKSUMS
    content = read_whole(path)
    if file_hash(content) != expected:
        message = f"{path} is damaged: it is not the list that was published. {REPUBLISH}"
        raise DamagedMap(message)
    pairs = (line.split("  ", 1) for line in content.decode().splitlines())
    return {name: value for value, name in pairs}


def read_units(folder: Path, expected: str | None = None) -> dict[str, Unit]:
    """Return the units of a year's folder by tile.

    Parameters
    ----------
    folder : Path
        Of the year.
    expected : str, optional
        Hash of the file.

    Raises
    ------
    DamagedMap
        If the file cannot be read or is another.
    """
    path = folder / UNITS
    if expected is not None and file_hash(read_whole(path)) != expected:
        message = f"{path} is damaged: it is not the file that was published. {REPUBLISH}"
        raise DamagedMap(message)
    return {tile: Unit(**unit) for tile, unit in unseal(path)["units"].items()}


def write_units(folder: Path, units: Mapping[str, Unit]) -> None:
    """Write the units of a year's folder."""
    text = seal({"units": {tile: vars(unit) for tile, unit in units.items()}})
    (folder / UNITS).write_text(text, encoding="utf-8")


def read_whole(path: Path) -> bytes:
    """Return the content of a file.

    Raises
    ------
    DamagedMap
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"Cannot read {path}: {error}. The file is damaged or missing. {REPUBLISH}"
        raise DamagedMap(message) from error


REPUBLISH = "Recompute and publish all tiles of that year, or restore the file from a copy."
