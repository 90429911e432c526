"""Many files of a store replaced as good as at once: written aside, then a journal, then moves that can be done again.

Until the journal stands nothing of the store has changed; once it stands, whoever comes next finishes the moves. Each
file is replaced whole, so a reader sees the old one or the new one; what makes the new ones visible moves last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from fluxgrid.errors import OutputError
from fluxgrid.files import flush_below, flush_path, output_error, write_text

_STAGED, _JOURNAL = "staged", "journal.json"


class Staging:
    """Files for a folder, put together beside it.

    Parameters
    ----------
    aside : Path
        Folder on the same disk, of which one process at a time makes use; made if missing.
    target : Path
        Folder whose files are to be replaced.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(self, aside: Path, target: Path):
        self.aside, self.target = aside, target
        self._moves: list[str] = []
        self._removals: list[str] = []
        self.sums: dict[str, str | None] = {}
        """BLAKE3 of each file; None for one that goes."""
        self._gone()
        try:
            (aside / _STAGED).mkdir(parents=True)
        except OSError as error:
            raise output_error(error, aside) from error

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.aside / _JOURNAL).exists():
            self._gone()

    def _gone(self) -> None:
        """Remove what was put together and never published."""
        _tidy(self.aside)

    @property
    def files(self) -> int:
        """How many files are to be replaced or removed."""
        return len(self._moves) + len(self._removals)

    def put(self, name: str, data: bytes) -> None:
        """Put a file together; files move in the order they are put."""
        path = self.aside / _STAGED / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise output_error(error, self.target / name) from error
        self._moves.append(name)
        self.sums[name] = blake3(data).hexdigest()

    def remove(self, name: str) -> None:
        """Let a file go, with the moves."""
        self._removals.append(name)
        self.sums[name] = None

    def publish(self, note: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
        """Write the journal and make the moves.

        Parameters
        ----------
        note : mapping
            Kept in the journal for `finish`; what JSON can hold.
        check : callable
            Raises if the folder is no longer held; called before the journal and before the moves.

        Raises
        ------
        OutputError
            If the disk is full and the like; before the journal stands nothing has changed, after it `finish` goes on.
        """
        if lost := [name for name in self._moves if not (self.aside / _STAGED / name).exists()]:
            # to whoever finishes the moves, a file that is not there is one that was moved
            message = (
                f"{', '.join(lost[:4])} of {len(lost)} files for {self.target} went away before they were moved. "
                "Nothing was changed; see who else writes there, and try again."
            )
            raise OutputError(message)
        content = {"moves": self._moves, "removals": self._removals, "note": dict(note)}
        try:
            flush_below(self.aside / _STAGED)  # once for all of them: each by itself takes milliseconds
            check()
            write_text(self.aside / _JOURNAL, json.dumps(content))
            flush_path(self.aside)
        except OSError as error:
            raise output_error(error, self.target) from error
        check()
        _move(self.aside, self.target, content)


def unfinished(aside: Path, target: Path) -> dict[str, Any] | None:
    """Finish the moves of a journal that was left behind.

    Parameters
    ----------
    aside, target : Path
        As for `Staging`.

    Returns
    -------
    note : dict or None
        As it was given to `Staging.publish`; None where nothing was left. `done` is to follow.

    Raises
    ------
    OutputError
        If files cannot be moved, or the journal is not one.
    """
    path = aside / _JOURNAL
    if not path.exists():
        _tidy(aside)
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _move(aside, target, content)
        return dict(content["note"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is no journal ({type(error).__name__}: {error}). Restore it, or grow the cube anew."
        raise OutputError(message) from error


def done(aside: Path) -> None:
    """Forget the journal, when all that hangs on it is written."""
    try:
        flush_path(aside)
        (aside / _JOURNAL).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, aside) from error
    _tidy(aside)


def _tidy(aside: Path) -> None:
    """Remove staged files, and what a process left that was killed while it wrote journal or ledger."""
    shutil.rmtree(aside / _STAGED, ignore_errors=True)
    for litter in aside.rglob(".*.tmp*"):
        litter.unlink(missing_ok=True)


def _move(aside: Path, target: Path, content: Mapping[str, Any]) -> None:
    """Put the staged files that are still there in their places, in order."""
    try:
        for name in content["removals"]:
            (target / name).unlink(missing_ok=True)
        for name in content["moves"]:
            staged, place = aside / _STAGED / name, target / name
            if not staged.exists():  # moved before the process was killed
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(place)
        if target.exists():
            flush_below(target)  # with the folders that are new, before anybody forgets the journal
    except OSError as error:
        raise output_error(error, target) from error
