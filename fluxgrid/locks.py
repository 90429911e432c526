"""A folder that one process holds at a time, and a note of who that is, with a heartbeat.

The system's lock is used where the file system has it: it ends with its process, however that ends. Elsewhere a file
stands for it that is created once only. Whether its holder lives is asked of the system on the same machine; of another
machine it shows by the heartbeat, watched by our own steady clock: times of day of two machines are not compared.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from fluxgrid import clock
from fluxgrid.errors import RunLocked
from fluxgrid.files import output_error

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows has no such locks)
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock.json"
"""In the folder, where the file system has no locks."""
SYSTEM_FILE = ".lock"
"""In the folder while it is held: what the system locks. NFS would keep the lock of a folder from other machines."""
BEAT_SECONDS = 5.0
"""How often a holder says that it lives; the first time so long after it began, unless it says so before."""
STALE_SECONDS = 60.0
"""How long a file of a lock must stand without a beat before it is broken."""
_LENGTH = 1024
"""Of a note, bytes; always the same, so that a beat replaces all of it."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder."""

    host: str
    pid: int
    user: str
    since: str
    """Time of day, UTC."""
    token: str
    """Like no other."""
    machine: str
    """Same for processes that can see each other by number; empty where that is not known."""
    started: str
    """When the process began, in the count of its machine: numbers of processes are used again."""
    beat: int = 0
    seen: str = ""
    """Time of day of the last beat, UTC, and that of the machine's steady clock."""
    steady: float = 0.0

    @classmethod
    def me(cls) -> Holder:
        """Return this process."""
        host, user, pid = socket.gethostname()[:64], os.environ.get("USER", "")[:64], os.getpid()
        return cls(host, pid, user, _now(), uuid.uuid4().hex, _machine(), _started(pid))

    def beaten(self) -> Holder:
        """Return it one beat later."""
        return replace(self, beat=self.beat + 1, seen=_now(), steady=time.monotonic())

    @property
    def alive(self) -> bool | None:
        """Whether its process runs; None where this machine cannot tell."""
        if not self.machine or self.machine != _machine():
            return None
        return bool(self.started) and _started(self.pid) == self.started

    def __str__(self) -> str:
        """Return it for a message."""
        return f"process {self.pid} on {self.host}, since {self.since}, last alive {self._last()}"

    def _last(self) -> str:
        """Return when it last said that it lives."""
        if self.machine and self.machine == _machine():
            return f"{max(0.0, time.monotonic() - self.steady):.0f} s ago"
        with suppress(ValueError):
            age = (clock.utc() - datetime.fromisoformat(self.seen)).total_seconds()
            if age >= 0:
                return f"{age:.0f} s ago"
        return f"at {self.seen} by its own clock"


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path | None, system: tuple[int, Path] | None = None):
        self.path, self._system = path, system
        self._holder, self._handle = Holder.me(), -1
        self._told, self._ended = threading.Lock(), threading.Event()

    def tell(self) -> None:
        """Write down who holds the folder, now and not only at the first beat.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if self.path is None:
            return
        try:
            with self._told:
                if self._ended.is_set():
                    return
                if self._handle < 0:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._handle = self._placed(self.path)
                self._beat(self._handle)
        except OSError as error:
            raise output_error(error, self.path) from error

    def check(self) -> None:
        """Make sure that the lock is still ours; before what cannot be taken back.

        Raises
        ------
        RunLocked
            If another process broke it, because this one slept too long, or somebody removed its file.
        """
        if self._system is not None:
            ours, where = _stands(*self._system), self._system[1]
        else:
            assert self.path is not None  # of a lock that is a file
            found, where = read_holder(self.path), self.path
            ours = found is not None and found.token == self._holder.token
        if not ours:
            message = (
                f"The lock {where} is no longer that of this process, which may have slept: another may be at work "
                "there. Nothing more was written; run the same command again when it has ended."
            )
            raise RunLocked(message)

    def create(self) -> bool:
        """Make the file that stands for the lock; False if there is one."""
        assert self.path is not None  # of a lock that is a file
        try:
            self._handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            return False
        try:
            self._beat(self._handle)
        except OSError:
            self._remove()
            raise
        return True

    def replace(self) -> None:
        """Put our file in the place of another, at once."""
        assert self.path is not None  # of a lock that is a file
        self._handle = self._placed(self.path)

    def _placed(self, path: Path) -> int:
        """Put a note in its place, whole, and return it open: beats go to this very file, never to one after it."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            self._beat(handle)
            temporary.replace(path)
        except OSError:
            os.close(handle)
            temporary.unlink(missing_ok=True)
            raise
        return handle

    def _beat(self, handle: int) -> None:
        """Write the note over itself."""
        self._holder = self._holder.beaten()
        os.pwrite(handle, json.dumps(asdict(self._holder)).encode().ljust(_LENGTH)[:_LENGTH], 0)

    def _beats(self) -> None:
        """Say again and again that the holder lives."""
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(Exception):  # a disk that is full stops nobody who only says that he lives
                self.tell()

    @contextmanager
    def beating(self) -> Iterator[Lock]:
        """Let the heart beat, and take the note away in the end."""
        if self.path is not None:
            threading.Thread(target=self._beats, name="fluxgrid heartbeat", daemon=True).start()
        try:
            yield self
        finally:
            self._ended.set()
            with self._told, suppress(OSError):
                self._remove()

    def _remove(self) -> None:
        """Take the note away, if it is ours."""
        if self._handle < 0 or self.path is None:
            return
        try:
            if _stands(self._handle, self.path):
                self.path.unlink()
        finally:
            os.close(self._handle)
            self._handle = -1


@contextmanager
def held(folder: Path, note: Path | None, busy: Callable[[str], str]) -> Iterator[Lock]:
    """Hold a folder, or say who does.

    Parameters
    ----------
    folder : Path
        Must exist.
    note : Path or None
        Where it is to stand who holds it; for whoever comes second, the lock does not hang on it.
    busy : callable
        Makes the message for whoever comes second, of a text like " (process 7 on host, ...)" that may be empty.

    Yields
    ------
    lock : Lock

    Raises
    ------
    RunLocked
        If another process holds it.
    OSError
        If the folder cannot be opened, or has no locks and cannot be written.
    """
    own = folder / SYSTEM_FILE
    handle, taken = _locked(own)
    try:
        if taken is False:
            raise RunLocked(busy(_told(read_holder(note) if note else None)))
        lock = Lock(note, (handle, own)) if taken else Lock(folder / LOCK_FILE)
        if taken is None:
            _take_file(lock, folder / LOCK_FILE, busy)
        with lock.beating():
            yield lock
    finally:
        if taken and _stands(handle, own):
            with suppress(OSError):  # before it is let go: who has opened it meanwhile sees that it is gone
                own.unlink()
        os.close(handle)


def read_holder(path: Path) -> Holder | None:
    """Return who wrote a note; None if there is none, or it cannot be read.

    Parameters
    ----------
    path : Path

    Returns
    -------
    holder : Holder or None
    """
    try:
        return _parsed(_content(path))
    except OSError:  # such as a note that only its writer may read
        return None


def _told(holder: Holder | None) -> str:
    """Return a holder in brackets; nothing of one that is dead, for then another has the lock."""
    return "" if holder is None or holder.alive is False else f" ({holder})"


def _locked(path: Path) -> tuple[int, bool | None]:
    """Open the file that the system locks, made if missing, and try to lock it; see `_flock`."""
    while True:
        known = path.exists()
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)  # NFS locks only what may be written
        if not known:
            with suppress(OSError):  # another user may come after one that was killed
                os.fchmod(handle, 0o666)
        taken = _flock(handle)
        if taken is None and not known:  # of no use here
            with suppress(OSError):
                path.unlink()
        if not taken or _stands(handle, path):
            return handle, taken
        os.close(handle)  # its holder took it away between our two steps


def _stands(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        about, mine = path.stat(), os.fstat(handle)
    except OSError:
        return False
    return (about.st_dev, about.st_ino) == (mine.st_dev, mine.st_ino)


def is_lock(name: str) -> bool:
    """Return whether a file of a folder is its lock, or belongs to one that is broken.

    Examples
    --------
    >>> is_lock(".lock"), is_lock(".lock.json.0f3a.0"), is_lock("map.nc")
    (True, True, False)
    """
    return name in (SYSTEM_FILE, LOCK_FILE) or name.startswith(f"{LOCK_FILE}.")


def _flock(handle: int) -> bool | None:
    """Take the system's lock: True, False where another process has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _take_file(lock: Lock, path: Path, busy: Callable[[str], str]) -> None:
    """Take a lock that is a file, also from a holder that is dead."""
    while not lock.create():
        try:
            content = _content(path)
        except PermissionError as error:  # of another user, who alone can tell
            raise RunLocked(busy("")) from error
        if content is None:  # given back just now
            time.sleep(0.01)
            continue
        state, breakers = _state(path, content)
        if state == "alive":
            raise RunLocked(busy(_told(_parsed(_content(path)))))
        if state == "dead" and _break(lock, path, content, breakers):
            return


def _state(path: Path, content: bytes) -> tuple[Literal["alive", "dead", "gone"], list[Path]]:
    """Return how it stands with the holder of a file, and those who died breaking it; may take `STALE_SECONDS`."""
    holder = _parsed(content)
    known = holder.alive if holder is not None else None
    breakers = _breakers(path, content)
    if known is True:
        return "alive", []
    if known is False and not breakers:
        return "dead", []
    begun = time.monotonic()
    while time.monotonic() - begun < STALE_SECONDS:
        time.sleep(min(BEAT_SECONDS, STALE_SECONDS) / 10)
        now = _content(path)
        if now != content:
            return ("gone" if now is None else "alive"), []
        if _breakers(path, content) != breakers:
            begun, breakers = time.monotonic(), _breakers(path, content)  # somebody is at it
    return "dead", breakers


def _break(lock: Lock, path: Path, content: bytes, before: list[Path]) -> bool:
    """Put our file in the place of a dead one's; False if another was faster.

    Who may do so is settled by a second file, of the dead one's name and a number, that one process alone can create.
    If that one died as well, the next number is free. Whoever has it looks once more whether the dead one's file still
    stands: nobody else may replace it.
    """
    number = max((int(one.suffix[1:]) + 1 for one in before), default=0)
    mine = path.with_name(f"{path.name}.{_name(content)}.{number}")
    try:
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    try:
        now = _content(path)
        if now is None or _name(now) != _name(content):
            return False
        lock.replace()
    finally:
        for one in (*before, mine):
            one.unlink(missing_ok=True)
    return True


def _breakers(path: Path, content: bytes) -> list[Path]:
    """Return the files of those who are, or were, at breaking a lock."""
    return sorted(path.parent.glob(f"{path.name}.{_name(content)}.*"))


def _name(content: bytes) -> str:
    """Return what a file of a lock is called by those who break it: the same at each beat of a holder."""
    holder = _parsed(content)
    return holder.token if holder is not None else uuid.uuid5(uuid.NAMESPACE_OID, content.hex()).hex


def _content(path: Path) -> bytes | None:
    """Return the bytes of a note; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parsed(content: bytes | None) -> Holder | None:
    """Return who wrote a note; None if that cannot be read."""
    try:
        found = Holder(**json.loads(content or b""))
        return found if found.token.isalnum() else None
    except (ValueError, TypeError, AttributeError):
        return None


def _now() -> str:
    """Return the time of day, ISO 8601."""
    return clock.utc().isoformat(timespec="seconds")


def _machine() -> str:
    """Return what two processes share only if one can ask for the other by its number; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process began, in ticks of its machine; empty if there is none that runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # one that ended and was not yet collected holds nothing
