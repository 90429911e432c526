"""The run folder: whose it is, whether it is finished, and what may be done with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fluxgrid.errors import OutputExists
from fluxgrid.files import read_json, write_text
from fluxgrid.locks import is_lock

MANIFEST = "manifest.json"
_WORK = ".fluxgrid"
_PLAN = "plan.json"

Mode = Literal["new", "resume", "overwrite"]
"""What the user allowed: nothing but a fresh folder, going on, or replacing."""

Status = Literal["fresh", "unfinished", "finished", "other"]

# what `fluxgrid.files` and zarr leave behind when they are killed; names of others look different
_LITTER = re.compile(r"^\..+\.[0-9a-f]{8}\.tmp(\..+)?$|^.*\.[0-9a-f]{32}\.partial$")


@dataclass(frozen=True)
class RunFolder:
    """Where a map and the work towards it stand.

    Parameters
    ----------
    path : Path
        ``OUT``.
    digest : str
        Of the plan that wants to run here.
    """

    path: Path
    digest: str

    @property
    def work(self) -> Path:
        """Stores, states and records of this plan; may be deleted once the map is finished."""
        return self.path / _WORK / self.digest[:16]

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest of the map that stands here, or None."""
        return read_json(self.path / MANIFEST)

    @property
    def status(self) -> Status:
        """What stands in the folder."""
        manifest, begun = self.manifest, read_json(self.work / _PLAN)
        if manifest is not None and manifest.get("plan") == self.digest:
            return "finished"
        standing = None if manifest is None else manifest.get("plan")
        # an unfinished run may replace just the map that stood here when the user allowed it
        if begun is not None and begun.get("replaces") == standing:
            return "unfinished"
        return "other" if manifest is not None or self._taken() else "fresh"

    @property
    def replacing(self) -> bool:
        """Whether --overwrite was said to bring the map that stands here up to date, so that --resume may go on."""
        return (read_json(self.work / _PLAN) or {}).get("replaces") == self.digest

    def claim(self, mode: Mode, description: dict[str, Any]) -> None:
        """Take the folder for this plan, or refuse.

        Parameters
        ----------
        mode : {"new", "resume", "overwrite"}
        description : dict
            What the plan is, stored for people.

        Raises
        ------
        OutputExists
            If the folder holds unfinished or other results and the user did not say what to do with them.
        OutputError
            If nothing can be written there.
        """
        status = self.status
        if status == "unfinished" and mode == "new":
            message = (
                f"{self.path} holds an unfinished run of this map. Say --resume to go on where it stopped, or choose "
                "another folder (--out)."
            )
            raise OutputExists(message)
        if status == "other" and mode != "overwrite":
            message = (
                f"{self.path} holds other results ({self._what()}), made with other settings. Choose another folder "
                "(--out), or say --overwrite to replace them; they stay until the new map is ready."
            )
            raise OutputExists(message)
        clear_litter(self.path)
        replaces = (self.manifest or {}).get("plan")
        if status != "unfinished":
            row = {"plan": self.digest, "replaces": replaces, **description}
            write_text(self.work / _PLAN, json.dumps(row, indent=2))

    def _taken(self) -> list[str]:
        """Return names of what stands in the folder and is neither input nor left over from a run that did nothing."""
        if not self.path.is_dir():
            return []
        names = sorted(p.name for p in self.path.iterdir() if p.name != "cube.zarr" and not _passing(p.name))
        return [name for name in names if name != _WORK or self._others()]

    def _others(self) -> list[dict[str, Any]]:
        """Return what is known of other runs that were begun here."""
        plans = (read_json(path) for path in sorted((self.path / _WORK).glob(f"*/{_PLAN}")))
        return [plan for plan in plans if plan is not None and plan.get("plan") != self.digest]

    def _what(self) -> str:
        """Say in a few words what stands in the folder."""
        manifest = self.manifest
        if manifest:
            return f"a map of {_title(manifest)}"
        if others := self._others():
            return f"an unfinished map of {_title(others[0])}"
        return ", ".join(self._taken()[:4])

    def intact(self) -> bool:
        """Return whether every file the manifest lists is there in its size."""
        files = (self.manifest or {}).get("files", {})
        return bool(files) and all(
            (self.path / name).is_file() and (self.path / name).stat().st_size == size for name, size in files.items()
        )


def _title(row: dict[str, Any]) -> str:
    """Name a map by its manifest or plan."""
    heads = row.get("calibration", "none")
    return f"{row.get('region')} by {row.get('model')}, {row.get('period')}, " + (
        "the global model" if heads == "none" else f"heads by {heads}"
    )


def clear_litter(out: Path) -> None:
    """Remove what killed runs left half-written in a run folder; the caller holds its lock."""
    for path in [*_litter(out.iterdir()), *_litter((out / _WORK).rglob("*"))]:
        remove(path)


def _litter(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the paths that are left over from a killed write."""
    return (path for path in paths if _LITTER.match(path.name))


def _passing(name: str) -> bool:
    """Return whether a file is the lock of a run, or left over from a killed write."""
    return is_lock(name) or _LITTER.match(name) is not None


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_foreign(out: Path, mode: Mode) -> None:
    """Refuse a folder that holds only what is not fluxgrid's, before anything is written into it.

    Parameters
    ----------
    out : Path
        Run folder; may not exist.
    mode : {"new", "resume", "overwrite"}

    Raises
    ------
    OutputExists
        If the folder holds files that are not fluxgrid's and --overwrite was not said.
    """
    if mode == "overwrite" or not out.is_dir() or any((out / name).exists() for name in (MANIFEST, _WORK, "cube.zarr")):
        return
    if names := sorted(p.name for p in out.iterdir() if not _passing(p.name)):
        message = (
            f"{out} holds other files ({', '.join(names[:4])}). Choose another folder (--out), or say --overwrite to "
            "write beside them."
        )
        raise OutputExists(message)
