"""Where everything of a refresh stands, what it is asked and answers, and what it leaves for the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxgrid.config_map import UpscaleConfig
from fluxgrid.errors import ConfigError
from fluxgrid.files import write_text
from fluxgrid.provenance import digest

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
    """For JSON; empty where nothing was done."""
    files: tuple[Path, ...] = ()
    """Reports."""


@dataclass(frozen=True)
class Place:
    """Where everything of a refresh stands."""

    out: Path
    archive: Path
    cube: Path | None
    """Cube on this machine, which may not exist yet; None for one elsewhere."""

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
        out = Path(config.out or f"maps/{Path(str(config.region)).stem}").expanduser()
        archive = Path(config.refresh.archive).expanduser() if config.refresh.archive else out / ARCHIVE
        own = out / "cube.zarr" if config.cube is None else None
        there = Path(config.cube).expanduser() if config.cube and "://" not in config.cube else own
        return cls(out, archive, there)

    @property
    def work(self) -> Path:
        """Folder of what is not for readers."""
        return self.out / WORK

    def newest(self) -> int:
        """Return the number of the newest published version, 0 before the first; nothing is opened."""
        try:
            return max(
                (int(entry.name) for entry in (self.archive / "versions").iterdir() if entry.name.isdigit()), default=0
            )
        except OSError:
            return 0


def cube_state(place: Place) -> str:
    """Return a hash of the names, sizes and times of the files of the cube; one elsewhere has none."""
    return "" if place.cube is None else files_state([place.cube])


def files_state(paths: Iterable[Path]) -> str:
    """Return a hash of the names, sizes, times and inodes of files, and of those below folders; nothing is read."""
    return digest(sorted(row for path in paths for row in _stats(str(path))))


def _stats(path: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield what the system says of a file, or of those below a folder."""
    if not Path(path).is_dir():
        with suppress(OSError):
            about = Path(path).stat()
            yield path, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _stats(entry.path)
            else:
                about = entry.stat()
                yield entry.path, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def read_state(place: Place) -> dict[str, Any]:
    """Return what the refresh before left for this one; nothing if there is none or it cannot be read."""
    try:
        found = json.loads((place.work / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_state(place: Place, **values: Any) -> None:
    """Change some of what is left for the next refresh."""
    write_text(place.work / _STATE, json.dumps({**read_state(place), **values}))
