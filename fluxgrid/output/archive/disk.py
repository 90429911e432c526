"""What a publication asks of the disk: one writer, nothing left in memory when it is done, no litter."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fluxgrid.errors import DamagedMap
from fluxgrid.files import output_error
from fluxgrid.locks import Lock, held
from fluxgrid.output.archive.layout import REPUBLISH, VERSIONS, WORK

_UNLINKABLE = {errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def writing(archive: Path) -> Iterator[tuple[Path, Lock]]:
    """Hold an archive for one writer and give a folder to work in, removed in the end.

    Were there ever two writers at once, one would publish after the other or not at all: the number of a version can be
    taken once only.

    Parameters
    ----------
    archive : Path

    Yields
    ------
    work : Path
        Empty folder on the same disk.
    lock : Lock
        To be checked before anything becomes visible.

    Raises
    ------
    RunLocked
        If another process writes.
    OutputError
        If the archive cannot be written, or the block fails to write.
    """
    work = archive / WORK / uuid.uuid4().hex[:8]

    def busy(holder: str) -> str:
        return f"Another process publishes to {archive}{holder}. Nothing was changed; try again when it has ended."

    try:
        with held(archive / VERSIONS, None, busy) as lock:
            try:
                shutil.rmtree(archive / WORK, ignore_errors=True)  # of writers that died
                work.mkdir(parents=True)
                yield work, lock
            finally:
                shutil.rmtree(work, ignore_errors=True)
                with suppress(OSError):
                    work.parent.rmdir()
    except OSError as error:
        raise output_error(error, archive) from error


def link(source: Path, target: Path) -> None:
    """Let a second name stand for a file that is never changed, or copy it where the disk cannot do that.

    Raises
    ------
    DamagedMap
        If the file is missing.
    OSError
        If the disk is full and the like.
    """
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        message = f"{source} is missing from the archive. {REPUBLISH}"
        raise DamagedMap(message) from error
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copyfile(source, target)


def remove(folder: Path) -> int:
    """Remove a folder and return the bytes of disk that it frees: files with no other name."""
    entries = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    stats = [path.stat() for path in entries]
    shutil.rmtree(folder)
    return sum(stat.st_blocks * 512 for stat in stats if stat.st_nlink == 1)
