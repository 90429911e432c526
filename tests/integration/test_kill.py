"""Runs that are killed: by signal 9 at any moment, a worker alone, by Control-C; and two runs in one folder."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fluxgrid.errors import RunLocked

RUN_SECONDS = 2.5
"""About how long the small run takes once its folder is claimed."""

FAST_KILLS, SLOW_KILLS = 1, 14


@pytest.mark.parametrize("kills", [FAST_KILLS, pytest.param(SLOW_KILLS, marks=pytest.mark.slow)])
def test_killed_at_random_and_resumed_gives_the_same_map(
    world, baseline, digests_of, litter, snapshot, tmp_path, kills
):
    """Each run goes on where the last was killed; a finished one is compared and another begun."""
    moments, expected = random.Random(kills), digests_of(baseline["ct_gru"])
    done, maps = 0, 0
    while done < kills or maps == 0:
        out = tmp_path / f"map-{maps}"
        delay = moments.uniform(0, RUN_SECONDS) if done < kills else None
        code = run_and_kill(world.command(out, "--resume", threads=1), out, delay)
        assert code in (0, -signal.SIGKILL)
        if not (out / "manifest.json").exists():  # a kill after the manifest proves nothing
            done += 1
            if done == 1:
                assert_refused(world, out, snapshot)
            continue
        assert digests_of(out) == expected
        assert litter(out) == []
        maps += 1


def assert_refused(world, out, snapshot):
    """Without --resume an unfinished run is left alone."""
    (out / ".lock").unlink(missing_ok=True)  # of the process that was killed; the next one makes and removes its own
    before = snapshot(out)
    answer = world.call(out)
    assert answer.returncode == 2
    assert "holds an unfinished run of this map. Say --resume" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert snapshot(out) == before


def run_and_kill(command: list[str], out: Path, delay: float | None, claimed: str = "plan.json") -> int:
    """Run a command; kill it that long after its folder was claimed. Return its exit code."""
    begun = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if delay is not None:
        wait_for(lambda: process.poll() is not None or is_claimed(out, begun, claimed))
        time.sleep(delay)
        process.kill()
        print(f"killed {delay:.2f} s after the claim:", stage(out))  # shown when a test fails, or with -s
    return process.wait(timeout=120)


def stage(out: Path) -> str:
    """Say how far a run is."""
    stores, records = (len(list(out.glob(f".fluxgrid/*/{what}"))) for what in ("*.zarr", "records/*/*.json"))
    aside, files = len(list(out.glob(".fluxgrid/*/files/*"))), len(list(out.glob("*.*")))
    return f"{stores} stores, {records} records, {aside} files aside, {files - 1} files"


def is_claimed(out: Path, since: float, name: str) -> bool:
    """Whether a run has begun to work in its folder: a resumed one shows by its first write or by its lock."""
    if not any(out.glob(f".fluxgrid/*/{name}")):
        return False
    return is_locked(out) or newest(out) > since


def is_locked(out: Path) -> bool:
    """Whether a run holds the folder."""
    try:
        handle = os.open(out / ".lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def newest(folder: Path) -> float:
    """Return when something was last written below a folder."""
    return max((path.stat().st_mtime for path in folder.rglob("*.json")), default=0.0)


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while True:
        with suppress(FileNotFoundError):  # folders appear and go while they are looked through
            if condition():
                return
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_while_the_synthetic_world_is_built(digests_of, litter, tmp_path):
    options = ["--region=-93.6,41.2,-92.1,42.3", "--start=2019-06-01", "--end=2019-06-20", "--resolution=0.1"]
    command = [sys.executable, "-m", "fluxgrid", "upscale", *options]
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, f"--out={out}"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(out.glob(".cube.zarr.*.tmp/*/c")))
    process.kill()
    process.wait()
    assert litter(out)
    for folder in (out, whole):  # nothing was begun yet: no --resume is asked for
        assert subprocess.run([*command, f"--out={folder}"], check=False).returncode == 0
    assert digests_of(out) == digests_of(whole)
    assert litter(out) == []


def test_a_killed_worker_is_replaced_and_the_map_is_the_same(world, baseline, digests_of, tmp_path):
    """Units that were finished when it died are not computed again: only what it was at is lost."""
    out, killed, finished = tmp_path / "map", [], {}

    def kill_a_worker():
        # not rglob: folders of stores are renamed while it walks
        wait_for(lambda: any((out / ".fluxgrid").glob("*/records/*/*.json")), 300)
        workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
        busy = max(workers, key=lambda p: sum(p.cpu_times()[:2]))
        busy.kill()
        killed.append(busy.pid)
        finished.update(records_of(out))

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    world.run(out, workers=2, threads=1)
    killer.join()
    assert killed
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    twice = [path for path, written in records_of(out).items() if path in finished and written != finished[path]]
    assert twice == []


def records_of(out: Path) -> dict[Path, int]:
    """Return when each unit of a run was finished."""
    return {path: path.stat().st_mtime_ns for path in (out / ".fluxgrid").glob("*/records/*/*.json")}


_AT_WORK = """
import sys, time
import torch
from fluxgrid import cli
from fluxgrid.errors import ConfigError
from fluxgrid.models.lstm import LSTM
from fluxgrid.upscaling import execute

def work(task, job):
    torch.set_num_threads(1)
    cell, x = LSTM(32, 64), torch.randn(256, 30, 32)
    while True:  # in and out of compiled code, as the network of a tile
        cell(x)

class Task:
    wanted = torch.ones(1)

def app(**_):
    execute.run_tile = work
    tiles = execute._in_threads([Task()] * 2, None, 2)
    execute.Thread(target=next, args=(tiles,), daemon=True).start()
    time.sleep(0.5)
    assert execute.tiles_at_work()
    raise KeyboardInterrupt if sys.argv[1] == "130" else ConfigError("wrong")

cli.app = app
cli.main()
"""


@pytest.mark.parametrize("code", [130, 2])
def test_a_process_that_leaves_tiles_behind_ends_with_its_code(code):
    """Threads that Python ends inside a network's code would abort it now and then."""
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", _AT_WORK, str(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found.append((done.returncode, done.stderr.count("fluxgrid: "), "Traceback" in done.stderr))
    assert found == [(code, 1, False)] * 2


def test_interrupted_run_ends_with_130_and_can_be_resumed(world, baseline, digests_of, litter, tmp_path):
    out = tmp_path / "map"
    process = subprocess.Popen(world.command(out, threads=1), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(out.rglob("records/*/*.json")))
    with pytest.raises(RunLocked, match="Another run works in") as caught:
        world.run(out, "resume")
    assert caught.value.exit_code == 5
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("fluxgrid: interrupted. What is finished is kept; an upscale goes on")
    assert "Traceback" not in errors
    world.run(out, "resume")
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    assert litter(out) == []
