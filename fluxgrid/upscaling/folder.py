"""The run folder: whose it is, whether it is finished, and what may be done with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fluxgrid.errors import OutputError, OutputExists
from fluxgrid.files import output_error, write_text

MANIFEST = "manifest.json"
_WORK = ".fluxgrid"
_PLAN = "plan.json"

Mode = Literal["new", "resume", "overwrite"]
"""What the user allowed: nothing but a fresh folder, going on, or replacing."""

Status = Literal["fresh", "unfinished", "finished", "other"]


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
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    @property
    def status(self) -> Status:
        """What stands in the folder."""
        manifest = self.manifest
        if manifest is not None:
            return "finished" if manifest.get("plan") == self.digest else "other"
        if (self.work / _PLAN).is_file():
            return "unfinished"
        taken = [p for p in self.path.iterdir() if p.name != "cube.zarr"] if self.path.is_dir() else []
        return "other" if taken else "fresh"

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
                f"{self.path} holds an unfinished run of this map. Say --resume to go on where it stopped, or "
                "--overwrite to start it again."
            )
            raise OutputExists(message)
        if status == "other" and mode != "overwrite":
            message = (
                f"{self.path} holds other results ({self._what()}). Choose another folder (--out), or say --overwrite "
                "to replace them; they stay until the new map is ready."
            )
            raise OutputExists(message)
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            message = f"{self.path} is a file, not a folder. Choose another folder (--out)."
            raise OutputError(message) from error
        except OSError as error:
            raise output_error(error, self.path) from error
        write_text(self.work / _PLAN, json.dumps({"plan": self.digest, **description}, indent=2))

    def _what(self) -> str:
        """Say in a few words what stands in the folder."""
        manifest = self.manifest
        if manifest:
            return f"a map of {manifest.get('region')} by {manifest.get('model')}, {manifest.get('period')}"
        names = sorted(p.name for p in self.path.iterdir())[:4]
        return ", ".join(names)

    def intact(self) -> bool:
        """Return whether every file the manifest lists is there in its size."""
        files = (self.manifest or {}).get("files", {})
        return bool(files) and all(
            (self.path / name).is_file() and (self.path / name).stat().st_size == size for name, size in files.items()
        )


def sweep(out: Path, mode: Mode, replaced: tuple[Path, ...] = ()) -> None:
    """Clear what killed runs left behind, and what the user said may be replaced; refuse a folder of others.

    Parameters
    ----------
    out : Path
        Run folder; may not exist.
    mode : {"new", "resume", "overwrite"}
    replaced : tuple of Path
        Folders inside `out` to remove.

    Raises
    ------
    OutputExists
        If the folder holds files that are not fluxgrid's and --overwrite was not said.
    """
    if not out.is_dir():
        return
    ours = any((out / name).exists() for name in (MANIFEST, _WORK, "cube.zarr"))
    leftovers = list(out.glob(".*.tmp")) + list(out.glob(".*.tmp.*"))
    names = sorted(p.name for p in out.iterdir() if p not in leftovers)
    if names and not ours and mode != "overwrite":
        message = (
            f"{out} holds other files ({', '.join(names[:4])}). Choose another folder (--out), or say --overwrite to "
            "write beside them."
        )
        raise OutputExists(message)
    for path in (*leftovers, *replaced):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
