"""A process that forks refreshes: imports are paid once, and each child is a real process to be killed or starved.

It reads a line of JSON for each refresh (`config`, `allow`, `times`: how many of it at once, `at`: what happens to it
at which stage) and answers with lines: ``child PID``, ``stage NAME`` as a stage begins, ``error CODE MESSAGE``, ``done
STATUS`` and ``end STATUS``, as `os.waitpid` has it. Not a test by itself; see `test_refresh_faults.py`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import lightgbm  # noqa: F401  (what a refresh imports on its way)
import netCDF4  # noqa: F401

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.data.cube import staging
from fluxgrid.errors import FluxgridError
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.workflows import refresh_run
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Request

_UNLIMITED = resource.RLIM_INFINITY


def say(*words: object) -> None:
    """Send a line at once, in one piece."""
    os.write(1, (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())


def limit(most: int) -> None:
    """Let files be no larger than some bytes, which stands for a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, _UNLIMITED))


def forbid(path: str) -> None:
    """Take the right to write below a folder away."""
    for place in (Path(path), *Path(path).rglob("*/")):
        place.chmod(0o500)


def hide(path: str) -> None:
    """Take the right to read a file, or all below a folder, away."""
    for place in sorted((*Path(path).rglob("*"), Path(path)), reverse=True):  # what is in a folder before it
        place.chmod(0)


def fill(path: str) -> None:
    """Leave no byte on the disk of a folder."""
    with (Path(path) / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def turn(days: float) -> None:
    """Set the clock of the product forward or back."""
    from fluxgrid import clock

    real = clock.utc
    clock.utc = lambda: real() + timedelta(days=days)


ACTIONS = {"limit": limit, "forbid": forbid, "hide": hide, "fill": fill, "turn": turn, "wait": time.sleep}


def staged(at: dict[str, list]) -> None:
    """Say which stage begins, and do there what is asked."""

    def enter(name: str) -> None:
        say("stage", name)
        for action, value in at.get(name, ()):
            ACTIONS[action](value)

    timed, grow, reports = refresh_run.Running._timed, refresh_run.grow_cube, refresh_run.write_reports
    move = staging._move

    @contextmanager
    def told(self, name: str):
        enter(name)
        with timed(self, name):
            yield

    def growing(*args, **options):
        enter("growth")
        return grow(*args, **options)

    def reporting(*args, **options):
        enter("report")
        return reports(*args, **options)

    def moving(*args):
        enter("moving")
        return move(*args)

    refresh_run.Running._timed, refresh_run.grow_cube, refresh_run.write_reports = told, growing, reporting
    staging._move = moving
    enter("look")


def child(asked: dict) -> None:
    """Run one refresh."""
    quicklook.draw_quicklook = lambda *args: args[-1].write_bytes(b"") or args[-1]  # takes most of the time
    code = 0
    try:
        staged(asked.get("at", {}))
        done = refresh(load_config(UpscaleConfig, asked["config"]), Request(tuple(asked.get("allow", ()))))
        say("done", done.status)
    except FluxgridError as error:
        say("error", error.exit_code, error)
        code = error.exit_code
    except BaseException as error:  # noqa: BLE001  (a traceback is what tests must never see)
        say("error", "traceback", type(error).__name__, error)
        code = 1
    os._exit(code)


def main() -> None:
    """Fork a refresh for each line."""
    say("ready", Archive.__name__)
    for line in sys.stdin:
        asked, pids = json.loads(line), []
        for _ in range(asked["times"]):
            pids.append(os.fork())
            if not pids[-1]:
                child(asked)
        say("child", *pids)
        for pid in pids:
            say("end", os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
