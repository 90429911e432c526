"""Folders of files beside an archive, one for each version, and the link to the one to read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxgrid.errors import OutputError
from fluxgrid.files import atomic_folder, output_error, read_json, write_text

if TYPE_CHECKING:
    from fluxgrid.output.archive import Version

ABOUT = "export.json"
QUICKLOOK = "quicklook.png"


@dataclass(frozen=True)
class Exports:
    """Folders of exported versions, and the link to the one to read."""

    folder: Path
    latest: Path

    def of(self, name: str) -> Path:
        """Return the folder of a version, by the name of the version (000012)."""
        return self.folder / name

    def stand(self, name: str) -> bool:
        """Return whether a version is exported with every file in its size."""
        files: Mapping[str, int] = _read(self.of(name)).get("files", {})
        return bool(files) and all(_size(self.of(name) / file) == size for file, size in files.items())

    def whole(self, name: str) -> bool:
        """Return whether the files of a version stand, and ``latest`` leads to them."""
        return self.stand(name) and self.latest.is_symlink() and self.latest.resolve() == self.of(name).resolve()

    def files_of(self, year: int, folder: str) -> list[Path]:
        """Return the exported files of a state of a year, from whatever version has them all; else nothing."""
        for path in sorted(self.folder.glob(f"*/{ABOUT}"), reverse=True):
            if path.parent.name < folder.partition("-")[0]:  # before that state of the year was published
                break
            row = _read(path.parent)
            known = row.get("years", {}).get(str(year), {})
            files = [path.parent / name for name in known.get("files", ())]
            if known.get("folder") == folder and files and all(_size(f) == row["files"][f.name] for f in files):
                return files
        return []

    def point(self, name: str) -> None:
        """Let ``latest`` lead to a version, at once.

        Raises
        ------
        OutputError
            If it cannot be written, or something else stands there.
        """
        target = Path(os.path.relpath(self.of(name), self.latest.parent))
        if self.latest.exists() and not self.latest.is_symlink():
            message = f"{self.latest} is no link. Move it away; the files are in {self.of(name)}."
            raise OutputError(message)
        temporary = self.latest.with_name(f".{self.latest.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(self.latest)
        except OSError as error:
            raise output_error(error, self.latest) from error

    def relink(self, version: Version, old: Version) -> bool:
        """Export a version that is the state of an older one, from its files; False if they are not there."""
        if not self.stand(old.name):
            return False
        about, there = _read(self.of(old.name)), self.of(version.name)
        if not there.exists():
            with atomic_folder(there) as temporary:
                for name in about["files"]:
                    link_file(self.of(old.name) / name, temporary / name)
                write_text(temporary / ABOUT, json.dumps({**about, "version": version.id}, indent=1))
        self.point(version.name)
        return True

    def clear_litter(self) -> None:
        """Remove what killed exports left; nobody else may write there."""
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, kept: set[str]) -> None:
        """Remove the folders of versions that are gone, but not the one that readers are led to."""
        shown = self.latest.resolve()
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in kept and path.name.isdecimal() and path.resolve() != shown:
                shutil.rmtree(path, ignore_errors=True)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk has no such links."""
    try:
        target.hardlink_to(source)
    except OSError:
        target.write_bytes(source.read_bytes())


def _size(path: Path) -> int:
    """Return the size of a file, -1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself; nothing if there is none."""
    return read_json(folder / ABOUT) or {}
