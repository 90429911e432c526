"""Where numba keeps compiled kernels when neither fluxgrid's folder nor the home folder can be written.

numba refuses to import a module with cached kernels if it finds no folder for them, as in a container of which the file
system is read-only.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find_kernel_cache() -> None:
    """Set NUMBA_CACHE_DIR to a folder among the temporary files if numba would find none.

    To be called before numba is imported. Processes started from this one inherit it, so that kernels are compiled once
    for all of them.
    """
    if os.environ.get("NUMBA_CACHE_DIR") or _writable(_PACKAGE):
        return
    with suppress(RuntimeError):  # a user without a home
        if _writable(Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())):
            return
    os.environ["NUMBA_CACHE_DIR"] = str(_own_folder())


def _writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, or in the first of those above it that exists."""
    nearest = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError:
        return False
    return True


def _own_folder() -> Path:
    """Return a folder that nobody else can write to: numba runs what it finds there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"fluxgrid-kernels-{user}"
    with suppress(FileExistsError):  # ours, or whatever somebody else put there
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="fluxgrid-kernels-"))
