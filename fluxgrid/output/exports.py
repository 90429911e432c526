"""Folders of files beside an archive, one for each version, and the link to the one to read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxgrid.errors import OutputError
from fluxgrid.files import atomic_folder, output_error, write_text
from fluxgrid.output.archive import Version

ABOUT = "export.json"


@dataclass(frozen=True)
class Exports:
    """Folders of exported versions, and the link to the one to read."""

    folder: Path
    latest: Path

    def of(self, version: Version) -> Path:
        """Return the folder of a version."""
        return self.folder / version.name

    def whole(self, version: Version) -> bool:
        """Return whether a version is exported with every file in its size, and ``latest`` leads to it."""
        about = _read(self.of(version))
        files: Mapping[str, int] = about.get("files", {})
        there = bool(files) and all(_size(self.of(version) / name) == size for name, size in files.items())
        return there and self.latest.is_symlink() and self.latest.resolve() == self.of(version).resolve()

    def files_of(self, year: int, folder: str) -> list[Path]:
        """Return the exported files of a state of a year, from whatever version has them all; else nothing."""
        for path in sorted(self.folder.glob(f"*/{ABOUT}"), reverse=True):
            row = _read(path.parent)
            known = row.get("years", {}).get(str(year), {})
            files = [path.parent / name for name in known.get("files", ())]
            if known.get("folder") == folder and files and all(_size(f) == row["files"][f.name] for f in files):
                return files
        return []

    def point(self, version: Version) -> None:
        """Let ``latest`` lead to a version, at once.

        Raises
        ------
        OutputError
            If it cannot be written, or something else stands there.
        """
        target = Path(os.path.relpath(self.of(version), self.latest.parent))
        if self.latest.exists() and not self.latest.is_symlink():
            message = f"{self.latest} is no link. Move it away; the files are in {self.of(version)}."
            raise OutputError(message)
        temporary = self.latest.with_name(f".{self.latest.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(self.latest)
        except OSError as error:
            raise output_error(error, self.latest) from error

    def relink(self, version: Version, old: Version) -> bool:
        """Export a version that is the state of an older one, from its files; False if they are not there."""
        about = _read(self.of(old))
        if not about or any(_size(self.of(old) / name) != size for name, size in about["files"].items()):
            return False
        if not self.of(version).exists():
            with atomic_folder(self.of(version)) as temporary:
                for name in about["files"]:
                    link_file(self.of(old) / name, temporary / name)
                write_text(temporary / ABOUT, json.dumps({**about, "version": version.id}, indent=1))
        self.point(version)
        return True

    def clear_litter(self) -> None:
        """Remove what killed exports left; nobody else may write there."""
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, kept: set[str]) -> None:
        """Remove the folders of versions that are gone."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in kept and path.name.isdigit():
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
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
