"""`fluxgrid refresh`: bring an archive of maps up to its inputs; imports no torch until something has changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxgrid.config_map import UpscaleConfig
from fluxgrid.errors import FluxgridError, OutputError, OutputExists, RunLocked, UnknownName
from fluxgrid.files import write_text
from fluxgrid.provenance import digest, now, versions
from fluxgrid.upscaling.lock import locked
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.refresh_place import (
    LATEST,
    REPORTS,
    Place,
    Refreshed,
    Request,
    cube_state,
    files_state,
    read_state,
    write_state,
)

if TYPE_CHECKING:
    from fluxgrid.sources.deliveries import Look

_HOLDER, _LOOK = "holder.json", "look.json"
_PLAIN = Request()
_NOT_OF_THE_MAP: dict[str, Any] = {
    **dict.fromkeys(("workers", "threads", "scheduler"), True),
    "refresh": {"on_success", "on_failure", "hook_seconds"},
}
"""Keys of a configuration that say who computes and who is told."""


def refresh(config: UpscaleConfig, request: Request = _PLAIN, progress: ProgressMaker = silent) -> Refreshed:
    """Look at the inputs, recompute what changed, publish it by one commit, and report.

    Parameters
    ----------
    config : UpscaleConfig
        Of the map, with its section ``refresh``.
    request : Request
    progress : callable
        Makes a progress display of a title and a number of steps.

    Returns
    -------
    refreshed : Refreshed

    Raises
    ------
    PublicationStopped
        If a guard speaks that is not overridden.
    RunLocked
        If another refresh of the region runs.
    SourceUnavailable
        If the source cannot be reached.
    FluxgridError
        For all else; see the table of exit codes in the README.
    """
    from fluxgrid.output.guards import GUARDS

    if unknown := [name for name in request.allow if name not in GUARDS]:
        message = f"There is no guard {', '.join(unknown)}; there are {', '.join(GUARDS)}."
        raise UnknownName(message)
    place = Place.of(config)
    begun = time.perf_counter()
    with _held(place):
        try:
            return _refresh(config, request, place, progress)
        except FluxgridError as error:
            _tell_failure(config, place, error, time.perf_counter() - begun)
            raise


def _refresh(config: UpscaleConfig, request: Request, place: Place, progress: ProgressMaker) -> Refreshed:
    """Look, and go on if anything is new; the region is locked."""
    if (place.out / "manifest.json").exists():
        message = f"{place.out} holds a map of `fluxgrid upscale`. Choose another folder for the archive (out)."
        raise OutputExists(message)
    look = look_at(config, place)
    parts = fingerprint(config, place, look)
    state = read_state(place)
    if state.get("fingerprint") == digest(parts) and not damaged_paths(config, place):
        return Refreshed(place.out, "up to date")
    from fluxgrid.workflows.refresh_run import Running  # imports torch: only when there is something to do

    _write_holder(place)
    done = Running(config, request, place, look, progress).go()
    # as the inputs were before they were read: what changed meanwhile is found next time
    after = digest(parts | {"cube": done.cube_state} | _published_parts(place))
    if state.get("fingerprint") != after:
        write_state(place, fingerprint=after)
    if done.refreshed.status != "up to date":
        problem = run_hook(config.refresh.on_success, done.refreshed.files, place.out, config.refresh.hook_seconds)
        done.refreshed.report.setdefault("warnings", []).extend([problem] if problem else [])
    return done.refreshed


def look_at(config: UpscaleConfig, place: Place) -> Look | None:
    """Return what the source has; None where there is none.

    Raises
    ------
    SourceUnavailable
        If it cannot be reached.
    """
    if config.refresh.source is None:
        return None
    from fluxgrid.workflows.refresh_source import look_at_source

    return look_at_source(config.refresh.source, place.work / _LOOK, place.work / "copies")


def fingerprint(config: UpscaleConfig, place: Place, look: Look | None) -> dict[str, Any]:
    """Return what stays the same as long as no input, no code and no published state changes; nothing large is read.

    Parameters
    ----------
    config : UpscaleConfig
    place : Place
    look : Look or None

    Returns
    -------
    parts : dict
        Anything JSON can hold.
    """
    package = Path(__file__).parent.parent
    model = package / "checkpoints" / config.model
    texts = [config.mapping, config.region, config.refresh.source and config.refresh.source.mapping]
    files = [Path(text).expanduser() for text in texts if text and Path(text).expanduser().is_file()]
    return {
        "config": config.model_dump(mode="json", exclude=_NOT_OF_THE_MAP),
        "code": files_state([package, *files]),
        "model": files_state([model if model.is_dir() else Path(config.model).expanduser()]),
        "cube": cube_state(place),
        "look": _look_rows(look),
        "versions": versions(),
        "machine": [os.environ.get("ATEN_CPU_CAPABILITY", ""), Path("/dev/nvidia0").exists()],
        **_published_parts(place),
    }


def _published_parts(place: Place) -> dict[str, Any]:
    """Return which version is the newest, and which one readers of files see."""
    return {"archive": [str(place.archive.absolute()), place.newest()], "latest": _link(place.out / LATEST)}


def _look_rows(look: Look | None) -> list[Any]:
    """Return what of a look decides what a cube grows to."""
    if look is None:
        return []
    return [[each.digest, each.status, each.issued] for each in look.deliveries]


def _link(path: Path) -> str:
    """Return where a link points; nothing if there is none, or it leads nowhere."""
    return str(path.readlink()) if path.is_symlink() and path.exists() else ""


def damaged_paths(config: UpscaleConfig, place: Place) -> list[Path]:
    """Return the files of the newest version that are not what was published, among those that are looked at today.

    Parameters
    ----------
    config : UpscaleConfig
    place : Place

    Returns
    -------
    paths : list of Path
        At most ``refresh.verify_gb`` are read; of a larger archive other years each week.
    """
    if not place.newest() or not config.refresh.verify_gb:
        return []
    from fluxgrid.workflows.refresh_check import damages_of, repairable

    return [damage.path for damage in damages_of(place.archive, config.refresh.verify_gb) if repairable(damage)]


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """Hold the region for one refresh; the system lets go of it when the process ends, however it ends."""
    lock = locked(place.out)
    try:
        lock.__enter__()
    except RunLocked as error:
        holder = _holder(place)
        message = f"Another refresh works in {place.out}{holder}. Wait until it has ended; nothing was changed."
        raise RunLocked(message) from error
    try:
        yield
    finally:
        (place.work / _HOLDER).unlink(missing_ok=True)
        lock.__exit__(None, None, None)


def _write_holder(place: Place) -> None:
    """Say who holds the region, for the message that the second one gets; the lock itself is the system's."""
    row = {"host": socket.gethostname(), "pid": os.getpid(), "user": os.environ.get("USER", ""), "since": now()}
    write_text(place.work / _HOLDER, json.dumps(row))


def _holder(place: Place) -> str:
    """Say who holds the region, as far as it is known."""
    try:
        row = json.loads((place.work / _HOLDER).read_text(encoding="utf-8"))
        return f" (process {row['pid']} on {row['host']}, since {row['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _tell_failure(config: UpscaleConfig, place: Place, error: FluxgridError, seconds: float) -> None:
    """Write the report of a refresh that failed and run its hook; neither may hide why it failed."""
    from fluxgrid.workflows.refresh_report import failure_row, write_reports

    files: tuple[Path, ...] = ()
    with suppress(OutputError):
        files = write_reports(place.out / REPORTS, failure_row(config, error, seconds, read_state(place)))
    run_hook(config.refresh.on_failure, files, place.out, config.refresh.hook_seconds)


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
    try:
        done = subprocess.run(list(command), env={**os.environ, **about}, timeout=seconds, check=False)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"The hook {command[0]} did not run: {error}"
    return f"The hook {command[0]} ended with code {done.returncode}" if done.returncode else ""
