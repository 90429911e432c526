"""One run at a time in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fluxgrid.errors import OutputError
from fluxgrid.files import output_error
from fluxgrid.locks import Lock, held


@contextmanager
def locked(out: Path, note: Path | None = None) -> Iterator[Lock]:
    """Hold a run folder for one run; it is made if missing, and removed again if nothing came to stand in it.

    Parameters
    ----------
    out : Path
        Run folder.
    note : Path, optional
        Where it is to stand who holds it.

    Yields
    ------
    lock : Lock

    Raises
    ------
    RunLocked
        If another run holds it.
    OutputError
        If the folder cannot be made.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]

    def busy(holder: str) -> str:
        return f"Another run works in {out}{holder}. Wait until it has ended, or choose another folder (out)."

    try:
        with _holding(out, note, busy) as lock:
            yield lock
    finally:
        for folder in made:
            with suppress(OSError):  # holds something, as it should
                folder.rmdir()


@contextmanager
def _holding(out: Path, note: Path | None, busy: Callable[[str], str]) -> Iterator[Lock]:
    """Make the folder and hold it; what the block raises is its own."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        holding = held(out, note, busy)
        lock = holding.__enter__()
    except (FileExistsError, NotADirectoryError) as error:
        message = (
            f"{out} is, or lies below, a file and not a folder. "
            "Choose another folder (--out, or out in the configuration)."
        )
        raise OutputError(message) from error
    except OSError as error:
        raise output_error(error, out) from error
    try:
        yield lock
    finally:
        holding.__exit__(None, None, None)
        if note is not None:
            with suppress(OSError):
                note.parent.rmdir()
