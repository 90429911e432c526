"""Where everything of a refresh stands, what it is asked and answers, and what it leaves for the next one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fluxgrid.config_map import UpscaleConfig
from fluxgrid.errors import ConfigError
from fluxgrid.files import read_json, write_text

ARCHIVE, EXPORTS, LATEST, REPORTS = "archive", "exports", "latest", "reports"
WORK = ".fluxgrid"
_STATE = "refresh.json"


@dataclass(frozen=True)
class Request:
    """What the command line asks for beside the configuration."""

    allow: tuple[str, ...] = ()
    """Guards that are overridden."""
    tag: str | None = None
    """Name of the version that is published."""


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did."""

    out: Path
    status: str
    """``up to date``, ``published``, or ``repaired`` where only files beside the archive were missing."""
    report: dict[str, Any] = field(default_factory=dict)
    """For JSON; empty where nothing was done and there is nothing to tell."""
    files: tuple[Path, ...] = ()
    """Reports."""


@dataclass(frozen=True)
class Place:
    """Where everything of a refresh stands."""

    out: Path
    archive: Path
    cube: Path | None
    """Cube on this machine, which may not exist yet, or a pattern of files; None for one elsewhere."""

    @classmethod
    def of(cls, config: UpscaleConfig) -> Place:
        """Return the places of a configuration.

        Raises
        ------
        ConfigError
            If neither ``out`` nor ``region`` is given.
        """
        if config.out is None and config.region is None:
            message = "No region is given. Write region: NAME into the configuration (see `fluxgrid regions`)."
            raise ConfigError(message)
        out = Path(config.out or f"maps/{_name(str(config.region))}").expanduser()
        archive = Path(config.refresh.archive).expanduser() if config.refresh.archive else out / ARCHIVE
        own = out / "cube.zarr" if config.cube is None else None
        return cls(out, archive, local_path(config.cube) if config.cube else own)

    @property
    def work(self) -> Path:
        """Folder of what is not for readers."""
        return self.out / WORK

    @property
    def holder(self) -> Path:
        """Note of who works here."""
        return self.work / "holder.json"

    def newest(self) -> int:
        """Return the number of the newest published version, 0 before the first; nothing is opened."""
        try:
            return max(
                (int(entry.name) for entry in (self.archive / "versions").iterdir() if entry.name.isdigit()), default=0
            )
        except OSError:
            return 0


def local_path(text: str) -> Path | None:
    """Return a path on this machine, None for an address.

    Examples
    --------
    >>> local_path("file:///data/cube.zarr").name, local_path("s3://bucket/cube.zarr")
    ('cube.zarr', None)
    """
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return None if "://" in text else Path(text).expanduser()


def _name(region: str) -> str:
    """Return the name of a region's folder: of a file without what follows the last point, else as it is given."""
    return region if "," in region and not Path(region).exists() else Path(region).stem


def cube_state(place: Place) -> str:
    """Return a hash of the names, sizes and times of the files of the cube; empty for one elsewhere, which has none."""
    if place.cube is None:
        return ""
    if any(letter in str(place.cube) for letter in "*?[") and not place.cube.exists():
        from fluxgrid.data.cube.stores import match_files  # imports xarray

        return files_state(match_files(place.cube))
    return files_state([place.cube])


def files_state(paths: Iterable[Path]) -> str:
    """Return a hash of the names, sizes, times and inodes of files, and of those below folders; nothing is read.

    Folders are hashed as they are listed: of a cube with a million files only those of one folder are held at a time.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        for row in _stats(str(path)):
            total.update(json.dumps(row).encode())
    return total.hexdigest()


def _stats(path: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield what the system says of a file, or of those below a folder; what is gone meanwhile has changed."""
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except NotADirectoryError:
        yield path, *_stat(Path(path))
        return
    except OSError:
        yield path, 0, 0, 0, 0
        return
    for entry in entries:
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _stats(entry.path)
        else:
            yield entry.path, *_stat(entry)


def _stat(entry: os.DirEntry[str] | Path) -> tuple[int, int, int, int]:
    """Return size, times and inode of a file; zeros for one that is not there, or a link that leads nowhere."""
    try:
        about = entry.stat()
    except OSError:
        return 0, 0, 0, 0
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def read_state(place: Place) -> dict[str, Any]:
    """Return what the refresh before left for this one; nothing if there is none or it cannot be read."""
    return read_json(place.work / _STATE) or {}


def write_state(place: Place, **values: Any) -> None:
    """Change some of what is left for the next refresh."""
    write_text(place.work / _STATE, json.dumps({**read_state(place), **values}))
