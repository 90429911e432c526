"""Which run a work folder belongs to now: what workers still do for an earlier one is not written.

A worker that was lost, or whose tile another one finished, may come back hours later. Its run is over then, a newer one
may have other inputs, and its stores may be gone. So a task on a cluster looks, before it writes a unit, whether the
file that its run has put into the work folder still stands there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fluxgrid.errors import FluxgridError
from fluxgrid.files import write_text

_NAME = "run"


class Withdrawn(FluxgridError):
    """The run that asked for a tile is over."""


@contextmanager
def claimed(work: Path) -> Iterator[str]:
    """Make a work folder that of a new run, until the block ends.

    Parameters
    ----------
    work : Path
        Made if missing.

    Yields
    ------
    run : str
        For `check_claim`.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    run = uuid.uuid4().hex
    write_text(work / _NAME, run)
    try:
        yield run
    finally:
        release(work)


def release(work: Path) -> None:
    """Take a work folder from the run that has it, if any."""
    with suppress(OSError):
        (work / _NAME).unlink(missing_ok=True)


def check_claim(work: Path | str, run: str) -> None:
    """Refuse to write for a run that is over.

    Parameters
    ----------
    work : path
    run : str
        Of `claimed`; nothing is looked at if empty.

    Raises
    ------
    Withdrawn
        If the folder belongs to another run, or to none.
    """
    if not run:
        return
    try:
        held = (Path(work) / _NAME).read_text(encoding="utf-8") == run
    except OSError:
        held = False
    if not held:
        message = f"The run that asked for this tile in {work} is over, so nothing was written. There is nothing to do."
        raise Withdrawn(message)
