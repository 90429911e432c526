"""What a publication asks of the disk: one writer, nothing left in memory when it is done, no litter."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fluxgrid.errors import DamagedMap, RunLocked
from fluxgrid.files import flush_path, output_error
from fluxgrid.output.archive.layout import REPUBLISH, VERSIONS, WORK

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows has no such locks)
    fcntl = None  # type: ignore[assignment]

_UNLINKABLE = {errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def writing(archive: Path) -> Iterator[Path]:
    """Hold an archive for one writer and give a folder to work in, removed in the end.

    The system lets go of the lock when the process ends, however it ends. Where folders cannot be locked (some network
    file systems), two writers at once still publish one version after the other or not at all: the number of a version
    can be taken once only.

    Parameters
    ----------
    archive : Path

    Yields
    ------
    work : Path
        Empty folder on the same disk.

    Raises
    ------
    RunLocked
        If another process writes.
    OutputError
        If the archive cannot be written, or the block fails to write.
    """
    work = archive / WORK / uuid.uuid4().hex[:8]
    try:
        handle = os.open(archive / VERSIONS, os.O_RDONLY)
    except OSError as error:
        raise output_error(error, archive) from error
    try:
        if _take(handle, archive):
            shutil.rmtree(archive / WORK, ignore_errors=True)  # of writers that died
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        raise output_error(error, archive) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            work.parent.rmdir()
        os.close(handle)


def _take(handle: int, archive: Path) -> bool:
    """Take the lock and return True, or False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return False
        message = f"Another process publishes to {archive}. Nothing was changed; try again when it has ended."
        raise RunLocked(message) from error
    return True


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


def flush(folder: Path) -> None:
    """Return when everything written below a folder is on the disk.

    Linux is asked once for the whole file system: ten thousand small files, each on its own, take minutes.

    Raises
    ------
    OSError
        If the disk failed to take something.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "syncfs"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(handle)
        return
    for path in (*folder.rglob("*"), folder):  # pragma: no cover  (not on Linux)
        flush_path(path)


def remove(folder: Path) -> int:
    """Remove a folder and return the bytes of disk that it frees: files with no other name."""
    entries = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    stats = [path.stat() for path in entries]
    shutil.rmtree(folder)
    return sum(stat.st_blocks * 512 for stat in stats if stat.st_nlink == 1)
