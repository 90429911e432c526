"""One holder at a time, with the system's locks and without them; who it is, and whether it lives."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from fluxgrid import clock, locks
from fluxgrid.errors import RunLocked
from fluxgrid.locks import LOCK_FILE, SYSTEM_FILE, Holder, held, read_holder
from fluxgrid.upscaling.folder import RunFolder, check_foreign


def busy(holder: str) -> str:
    return f"busy{holder}"


@pytest.fixture
def lockless(monkeypatch):
    """A file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat fast."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.4)


@pytest.fixture(params=["locks", "no locks"])
def system(request):
    if request.param == "no locks":
        request.getfixturevalue("lockless")
    return request.param


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_at_a_time_and_nothing_left(tmp_path, system):
    note = tmp_path / "holder.json"
    for _ in range(2):
        with held(tmp_path, note, busy) as lock:
            lock.tell()
            message = rf"busy \(process {os.getpid()} on .*, since 20.*, last alive 0 s ago\)"
            with pytest.raises(RunLocked, match=message), held(tmp_path, note, busy):
                pass
            assert files(tmp_path) == ([SYSTEM_FILE, "holder.json"] if system == "locks" else [LOCK_FILE])
        assert files(tmp_path) == []


def test_a_short_hold_writes_no_note_where_there_are_locks(tmp_path):
    with held(tmp_path, tmp_path / "holder.json", busy):
        assert files(tmp_path) == [SYSTEM_FILE]
        assert (tmp_path / SYSTEM_FILE).read_bytes() == b""
    assert files(tmp_path) == []


def test_what_is_locked_is_a_file_that_may_be_written(tmp_path, monkeypatch):
    """NFS keeps the lock of a folder on the machine, and refuses that of a file opened to be read."""
    real, opened = fcntl.flock, []

    def seen(handle: int, how: int) -> None:
        opened.append((stat.S_ISREG(os.fstat(handle).st_mode), fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
        real(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", seen)
    with held(tmp_path, None, busy):
        pass
    assert opened == [(True, os.O_RDWR)]


def test_a_lock_taken_of_a_file_that_went_is_taken_again(tmp_path, monkeypatch):
    """Between opening and locking, the holder before takes its file away: it would lock out nobody."""
    real, calls = fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not calls:
            (tmp_path / SYSTEM_FILE).unlink()
        calls.append(handle)
        real(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with held(tmp_path, None, busy):
        assert len(calls) == 2
        with pytest.raises(RunLocked), held(tmp_path, None, busy):
            pass


def test_a_lock_makes_a_folder_nobodys(tmp_path, system):
    folder = RunFolder(tmp_path, "a" * 32)
    (tmp_path / f"{LOCK_FILE}.0f3a.0").touch()  # of one that breaks a lock
    with held(tmp_path, None, busy):
        check_foreign(tmp_path, "new")
        assert folder.status == "fresh"
        folder.claim("new", {})


def test_the_heart_beats(tmp_path, system, quick):
    note = tmp_path / ("holder.json" if system == "locks" else LOCK_FILE)
    with held(tmp_path, tmp_path / "holder.json", busy):
        wait_for(lambda: (read_holder(note) or Holder.me()).beat >= 3)
    assert files(tmp_path) == []


def wait_for(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_moves_makes_nobody_older(tmp_path, monkeypatch, system, days):
    with held(tmp_path, tmp_path / "holder.json", busy) as lock:
        lock.tell()
        real = clock.utc
        monkeypatch.setattr(clock, "utc", lambda: real() + timedelta(days=days))
        message = r"last alive 0 s ago"
        with pytest.raises(RunLocked, match=message), held(tmp_path, tmp_path / "holder.json", busy):
            pass


def write_lock(folder: Path, **changes: object) -> Path:
    """Leave the file of a lock behind, as of this process but for some changes."""
    path = folder / LOCK_FILE
    path.write_text(json.dumps({**vars(Holder.me().beaten()), **changes}))
    return path


DEAD = {"pid": 2**22 + 1, "started": "1"}
"""No process has such a number."""


def test_of_a_dead_process_nothing_holds(tmp_path, lockless):
    write_lock(tmp_path, **DEAD)
    begun = time.monotonic()
    with held(tmp_path, None, busy):
        assert read_holder(tmp_path / LOCK_FILE).pid == os.getpid()
    assert time.monotonic() - begun < 2  # seen at once, on the same machine
    assert files(tmp_path) == []


def test_a_number_that_is_used_again_is_another_process(tmp_path, lockless):
    write_lock(tmp_path, started="1")  # our own number, of a process that began at another time
    with held(tmp_path, None, busy):
        pass
    write_lock(tmp_path)
    with pytest.raises(RunLocked), held(tmp_path, None, busy):
        pass


@pytest.mark.parametrize("content", ["other machine", b"", b"\x00" * 1024, b"{}", b'{"host": 1'])
def test_what_cannot_be_asked_is_broken_when_it_stands_still(tmp_path, lockless, quick, content):
    if content == "other machine":
        write_lock(tmp_path, machine="far away", host="far")
    else:
        (tmp_path / LOCK_FILE).write_bytes(content)
    begun = time.monotonic()
    with held(tmp_path, None, busy):
        assert time.monotonic() - begun >= 0.4
    assert files(tmp_path) == []


def test_on_another_machine_a_beat_is_enough(tmp_path, lockless, quick, monkeypatch):
    with ExitStack() as far:
        with monkeypatch.context() as there:
            there.setattr(locks, "_machine", lambda: "far away")
            far.enter_context(held(tmp_path, None, busy))
        with pytest.raises(RunLocked, match="busy"), held(tmp_path, None, busy):
            pass


def test_one_that_was_broken_while_it_slept_leaves_the_other_alone(tmp_path, lockless):
    """Its beats go to the file that it made, which is no longer there; and it takes nobody's lock away."""
    with held(tmp_path, None, busy) as sleeper:
        (tmp_path / LOCK_FILE).unlink()
        write_lock(tmp_path, pid=1, token="other")
        sleeper.tell()
        assert read_holder(tmp_path / LOCK_FILE).token == "other"
        with pytest.raises(RunLocked, match="no longer that of this process"):
            sleeper.check()
    assert read_holder(tmp_path / LOCK_FILE).token == "other"


def test_a_holder_knows_whether_it_holds(tmp_path, system):
    with held(tmp_path, None, busy) as lock:
        lock.check()
        (tmp_path / (SYSTEM_FILE if system == "locks" else LOCK_FILE)).unlink()
        with pytest.raises(RunLocked, match="no longer that of this process"):
            lock.check()


def test_a_note_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "holder.json").mkdir()
    assert read_holder(tmp_path / "holder.json") is None


def test_a_breaker_that_died_is_passed_by(tmp_path, lockless, quick):
    path = write_lock(tmp_path, **DEAD)
    for number in (0, 1):
        path.with_name(f"{path.name}.{read_holder(path).token}.{number}").touch()
    with held(tmp_path, None, busy):
        assert files(tmp_path) == [LOCK_FILE]


_RACE = """
import errno, json, os, random, sys, time
from pathlib import Path
from fluxgrid import locks
from fluxgrid.errors import RunLocked

def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

locks.fcntl.flock, locks.BEAT_SECONDS, locks.STALE_SECONDS = refuse, 0.1, 0.3
folder, rounds, racers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(rounds):
    stale = vars(locks.Holder.me().beaten()) | json.loads(sys.argv[4])
    (folder / locks.LOCK_FILE).write_text(json.dumps(stale))
    start = time.monotonic() + 0.05
    children = []
    for _ in range(racers):
        children.append(os.fork())
        if not children[-1]:
            time.sleep(max(0, start - time.monotonic()) + random.uniform(0, 0.003))
            try:
                with locks.held(folder, None, str):
                    os.write(1, b"won\\n")
                    time.sleep(0.6)
            except RunLocked:
                os.write(1, b"locked\\n")
            except BaseException as error:
                os.write(1, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    left = set(os.listdir(folder)) - {locks.SYSTEM_FILE}  # empty, and no lock where the system has none
    os.write(1, f"left {sorted(left)}\\n".encode())
"""


@pytest.mark.parametrize("changes", [DEAD, {"machine": "far away"}], ids=["dead", "stale"])
def test_of_many_breakers_one_wins(tmp_path, changes, capsys):
    rounds, racers = 4, 8
    words = [sys.executable, "-c", _RACE, str(tmp_path), str(rounds), str(racers), json.dumps(changes)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    found = Counter(done.stdout.splitlines())
    assert found == {"won": rounds, "locked": rounds * (racers - 1), "left []": rounds}, done.stdout
    with capsys.disabled():
        print(f"\n{rounds} locks of a {changes} raced for by {racers} processes: {found['won']} taken, once each")


def test_a_killed_holder_holds_nothing(tmp_path, system):
    code = (
        "import sys, time; from pathlib import Path; from fluxgrid import locks\n"
        "def refuse(*_):\n    raise OSError(37, 'No locks available')\n"
        "locks.fcntl.flock = refuse if sys.argv[2] == 'no locks' else locks.fcntl.flock\n"
        "with locks.held(Path(sys.argv[1]), Path(sys.argv[1]) / 'holder.json', str) as lock:\n"
        "    lock.tell(); print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path), system]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunLocked, match=f"process {process.pid} on "), held(tmp_path, tmp_path / "holder.json", busy):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with held(tmp_path, tmp_path / "holder.json", busy) as lock:
        lock.tell()
    assert files(tmp_path) == []
