"""Files that appear whole or not at all, YAML that loses no key, and the configurations that come with fluxgrid."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fluxgrid.errors import ConfigError, OutputError, OutputExists

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this process may write; raise the limit (ulimit -f)",
    errno.EACCES: "permission is denied; choose a folder you may write to (out)",
    errno.EPERM: "permission is denied; choose a folder you may write to (out)",
    errno.EROFS: "the file system is read-only; choose another folder (out)",
}


def output_error(error: OSError, path: Path | str) -> OutputError:
    """Return the error a user can act on for a failed write.

    Parameters
    ----------
    error : OSError
        What the system said.
    path : path
        What was being written.

    Returns
    -------
    error : OutputError
        To be raised by the caller, from ``error``.
    """
    reason = _REASONS.get(error.errno or 0, str(error))
    return OutputError(f"Cannot write {path}: {reason}. Nothing that was finished before is lost.")


def check_writable(path: Path | str) -> None:
    """Find out at the door whether a file or folder can be written later; nothing is left behind.

    Parameters
    ----------
    path : path
        What will be written. It and its folders may not exist yet.

    Raises
    ------
    OutputError
        If the nearest folder that exists cannot be written to, or is no folder.
    """
    try:
        nearest = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise output_error(error, path) from error


def new_folder(path: Path | str) -> Path:
    """Return a folder that may be made: it does not exist yet and can be written.

    Parameters
    ----------
    path : path
        As a configuration gives it under ``out``.

    Returns
    -------
    folder : Path

    Raises
    ------
    OutputExists
        If there is something.
    OutputError
        If it cannot be written.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        message = f"{folder} exists. Name another folder (out=...), or remove it first."
        raise OutputExists(message)
    check_writable(folder)
    return folder


def check_replaceable(folder: Path, names: Iterable[str], what: str, overwrite: bool = False) -> None:
    """Refuse, before the work, a folder that holds files of an earlier run or cannot be written.

    Parameters
    ----------
    folder : Path
        Where results go.
    names : iterable of str
        Files of the results.
    what : str
        What they are, such as ``"an earlier score"``.
    overwrite : bool
        Whether they may be replaced.

    Raises
    ------
    OutputExists
        If one of the files stands and may not be replaced.
    OutputError
        If the folder cannot be written.
    """
    standing = [name for name in names if (folder / name).exists()]
    if standing and not overwrite:
        message = (
            f"{folder} holds {what} ({', '.join(standing[:4])}). Choose another folder (--out, or "
            "out=... in a configuration), or say --overwrite to replace it when the new one is ready."
        )
        raise OutputExists(message)
    check_writable(folder)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and move it there if the block ends well.

    The file is flushed to disk before it is moved, so that a reader, a crash or a second run sees the old file or the
    new one, never half of one. A failed block leaves nothing behind.

    Parameters
    ----------
    path : path
        Where the finished file shall be. Its folder is made if missing.

    Yields
    ------
    temporary : Path
        Same folder and suffix.

    Raises
    ------
    OutputError
        If the disk is full, the folder read-only and the like.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with suppress(OSError):  # a parent that is a file: the error above has said so
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` and move it there if the block ends well.

    Parameters
    ----------
    path : path
        Where the finished folder shall be; it must not exist when the block ends.
    replace : bool
        Whether a folder that stands there, or that a link there points to, is removed for it, at the very end.

    Yields
    ------
    temporary : Path
        An existing, empty folder.

    Raises
    ------
    OutputError
        If the disk is full, the folder read-only and the like.
    """
    path = Path(path).resolve()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if replace and path.is_dir():
            _swap(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(fresh: Path, path: Path) -> None:
    """Put a folder in the place of another; where the system can, so that there is one at every moment."""
    if _exchange(fresh, path):  # the old one now is where the caller removes what is left
        return
    # a visible name: if this process is killed before it ends, nobody takes the old folder for litter
    old = path.with_name(f"{path.name}.old-{uuid.uuid4().hex[:8]}")
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError as error:
        _put_back(old, path, error)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, path: Path, error: OSError) -> None:
    """Give a folder its name back, or say where it is."""
    try:
        old.rename(path)
    except OSError:
        message = f"Cannot replace {path}: {error}. What stood there is whole and now at {old}; rename it back."
        raise OutputError(message) from error


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places at once, or return False where system or disk cannot do that."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_text(path: Path | str, text: str) -> None:
    """Write a text file that appears whole or not at all.

    Parameters
    ----------
    path : path
        Where to.
    text : str
        What, written as UTF-8.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none, or it cannot be read.

    Parameters
    ----------
    path : path

    Returns
    -------
    content : dict or None
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class _UniqueLoader(yaml.SafeLoader):
    """Safe YAML in which a key that is given twice is an error, because one of the two would be lost unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # << may be overridden
        keys = [self.construct_object(key, deep=deep) for key in own]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            message = f"the key {twice!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, read safely; a key given twice is an error.

    Parameters
    ----------
    text : str

    Returns
    -------
    value : dict, list, str, number, date or None

    Raises
    ------
    yaml.YAMLError
        If the text is not YAML, asks for objects, or gives a key twice.

    Examples
    --------
    >>> parse_yaml("fit: {epochs: 3}")
    {'fit': {'epochs': 3}}
    """
    return _UniqueLoader(text).get_single_data()


def configs_folder() -> Path:
    """Return the folder of the configurations that come with fluxgrid.

    An installed wheel carries them inside the package; in a checkout they lie beside it.

    Returns
    -------
    folder : Path
        Holds ``regions/``, ``models/`` and ``runs/``.

    Raises
    ------
    ConfigError
        If the installation has lost them.
    """
    package = Path(__file__).parent
    candidates = (package / "configs", package.parent / "configs")
    for folder in candidates:
        if (folder / "regions").is_dir():
            return folder
    message = f"fluxgrid's own configs are missing; looked in {' and '.join(map(str, candidates))}. Install it again."
    raise ConfigError(message)


def flush_path(path: Path) -> None:
    """Return when a file, or the list of names in a folder, is on the disk.

    Parameters
    ----------
    path : Path
        Must exist.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_below(folder: Path) -> None:
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
