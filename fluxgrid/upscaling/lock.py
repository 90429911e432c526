"""One run at a time in a run folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fluxgrid.errors import OutputError, RunLocked
from fluxgrid.files import output_error

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows has no such locks)
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a run folder for one run; it is made if missing, and removed again if nothing came to stand in it.

    The system lets go of the lock when the process ends, however it ends; nothing is written for it.

    Parameters
    ----------
    out : Path
        Run folder.

    Raises
    ------
    RunLocked
        If another run holds it.
    OutputError
        If the folder cannot be made.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{out} is, or lies below, a file and not a folder. Choose another folder (--out)."
        raise OutputError(message) from error
    except OSError as error:
        raise output_error(error, out) from error
    try:
        _take(handle, out)
        yield
    finally:
        os.close(handle)
        for folder in made:
            with suppress(OSError):  # holds something, as it should
                folder.rmdir()


def _take(handle: int, out: Path) -> None:
    """Take the lock, or say who has it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return  # some network file systems have no locks for folders: better unlocked than not at all
        message = f"Another run works in {out}. Wait until it has ended, or choose another folder (--out)."
        raise RunLocked(message) from error
