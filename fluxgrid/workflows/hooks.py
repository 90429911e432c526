"""Programs of the user's that are run when a refresh has ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_STDERR = 2


def run_hook(command: Sequence[str], files: Sequence[Path], out: Path, seconds: float) -> str:
    """Run a program of the user's, without a shell; what becomes of it does not change what the refresh did.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; nothing is run if empty.
    files : sequence of Path
        Reports; the first is named by ``FLUXGRID_REPORT``.
    out : Path
        Named by ``FLUXGRID_OUT``.
    seconds : float
        After which it is ended.

    Returns
    -------
    problem : str
        Empty if all went well.
    """
    if not command:
        return ""
    about = {"FLUXGRID_OUT": str(out.absolute()), "FLUXGRID_REPORT": str(files[0].absolute()) if files else ""}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": _STDERR}  # our own output may be JSON
    try:
        with subprocess.Popen(list(command), env={**os.environ, **about}, start_new_session=True, **streams) as process:
            try:
                code = process.wait(seconds)
            finally:
                _end(process)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"The hook {command[0]} did not run to its end: {error}"
    return f"The hook {command[0]} ended with code {code}" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, and what it started."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover  (Windows)
        process.kill()
