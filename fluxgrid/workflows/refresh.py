"""`fluxgrid refresh`: bring an archive of maps up to its inputs; imports no torch until something has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxgrid import clock
from fluxgrid.config_map import UpscaleConfig
from fluxgrid.errors import OutputError, OutputExists, RunLocked, UnknownName
from fluxgrid.files import configs_folder
from fluxgrid.locks import Lock
from fluxgrid.output.exports import Exports
from fluxgrid.provenance import digest, now, versions
from fluxgrid.upscaling.lock import locked
from fluxgrid.workflows.hooks import run_hook
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.refresh_check import cube_damages_of, damages_of, lasting, repairable
from fluxgrid.workflows.refresh_place import (
    EXPORTS,
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
    from fluxgrid.output.archive import Damage
    from fluxgrid.sources.deliveries import Look

_LOOK = "look.json"
_GROWTH, _TOLD = "growth_warnings", "told"
"""Keys of the state: what the last growth had to say, and warnings that were told."""
_PLAIN = Request()
_NOT_OF_THE_MAP: dict[str, Any] = {
    **dict.fromkeys(("workers", "threads", "scheduler"), True),
    "refresh": {"on_success", "on_failure", "hook_seconds", "stale_days"},
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
    with locked(place.out, place.holder) as lock:
        known: dict[str, Any] = {}
        try:
            return _refresh(config, request, place, progress, known, lock)
        except RunLocked:  # of the cube or the archive: the other run does the work
            raise
        except Exception as error:
            _tell_failure(config, place, error, known, time.perf_counter() - begun)
            raise


def _refresh(
    config: UpscaleConfig, request: Request, place: Place, progress: ProgressMaker, known: dict[str, Any], lock: Lock
) -> Refreshed:
    """Look, and go on if anything is new; the region is locked.

    What is known for the report, should it fail, is put into `known`.
    """
    if (place.out / "manifest.json").exists():
        message = f"{place.out} holds a map of `fluxgrid upscale`. Choose another folder for the archive (out)."
        raise OutputExists(message)
    _check_tag(request.tag, place)
    look = look_at(config, place)
    parts = fingerprint(config, place, look)
    state = read_state(place)
    # a cube elsewhere is looked into each time: that it is as it was shows in its values alone
    if parts["cube"] and state.get("fingerprint") == digest(parts) and request.tag is None and _exported(place):
        damages = damages_today(config, place)
        if not any(map(repairable, damages)) and not _cube_damaged(config, place):
            warnings = [*_of_look(look), *state.get(_GROWTH, []), *lasting(damages)]
            return _nothing_new(config, place, look, warnings)
    from fluxgrid.workflows.refresh_run import Running  # imports torch: only when there is something to do

    lock.tell()
    done = Running(config, request, place, look, progress, known).go()
    # as the inputs were before they were read: what changed meanwhile is found next time
    after = digest(parts | {"cube": done.cube_state} | _published_parts(place))
    new = {"fingerprint": after, _GROWTH: list(done.growth_warnings)}
    if done.refreshed.status != "up to date":
        new[_TOLD] = _news(done.warnings, look)
    if any(state.get(key, []) != value for key, value in new.items()):
        write_state(place, **new)
    if done.refreshed.status == "up to date":
        return _nothing_new(config, place, look, done.warnings)
    _run_hook(config, config.refresh.on_success, done.refreshed)
    return done.refreshed


def _check_tag(tag: str | None, place: Place) -> None:
    """Refuse a tag that could not be given, before anything is computed."""
    if tag is None:
        return
    from fluxgrid.output.archive import Archive, check_tag

    check_tag(tag)
    if place.newest():
        Archive.open(place.archive).check_tag(tag)


def _exported(place: Place) -> bool:
    """Return whether the files of the newest version stand, and readers are led to them."""
    exports = Exports(place.out / EXPORTS, place.out / LATEST)
    return not place.newest() or exports.whole(f"{place.newest():06d}")


def _of_look(look: Look | None) -> list[str]:
    """Return what a person should know of the files of the source."""
    if look is None:
        return []
    from fluxgrid.workflows.refresh_source import look_warnings

    return look_warnings(look)


def _news(warnings: Sequence[str], look: Look | None) -> list[str]:
    """Return the warnings that a person is to be told of: not yet of files that have just begun to wait."""
    if look is None:
        return list(warnings)
    from fluxgrid.workflows.refresh_source import passing_warnings

    passing = passing_warnings(look)
    return [text for text in warnings if text not in passing]


def _nothing_new(config: UpscaleConfig, place: Place, look: Look | None, known: Sequence[str]) -> Refreshed:
    """Answer with what a person should know; what was not told before is reported, and told as a failure is."""
    warnings = [*known, *_stale(config, place)]
    news, told = _news(warnings, look), read_state(place).get(_TOLD, [])
    row = {"region": str(config.region or ""), "status": "up to date", "started": now(), "warnings": warnings}
    done = Refreshed(place.out, "up to date", row if warnings else {})
    if set(news) - set(told):
        from fluxgrid.workflows.refresh_report import write_reports

        done = replace(done, files=write_reports(place.out / REPORTS, row))
    if set(news) != set(told):
        write_state(place, **{_TOLD: news})
    if done.files:
        _run_hook(config, config.refresh.on_failure, done)
    return done


def _stale(config: UpscaleConfig, place: Place) -> list[str]:
    """Say that nothing came for longer than the configuration has patience."""
    days, number = config.refresh.stale_days, place.newest()
    if days is None or not number:
        return []
    from fluxgrid.output.archive import Archive

    covered = Archive.open(place.archive).find(number).covered
    if covered is None or (config.end and covered > str(config.end)):
        return []
    if datetime.fromisoformat(covered).replace(tzinfo=UTC) + timedelta(days=days) > clock.utc():
        return []
    return [f"there is nothing of {covered} and later, more than {days} days ago: see whether the source still gives"]


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
    source = config.refresh.source
    texts = [config.mapping, config.region, *([source.mapping, source.base_mapping] if source else [])]
    files = [Path(text).expanduser() for text in texts if text and Path(text).expanduser().is_file()]
    return {
        "config": config.model_dump(mode="json", exclude=_NOT_OF_THE_MAP),
        "code": files_state([package, *(configs_folder() / name for name in ("regions", "mappings")), *files]),
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
    return [list(each.rank) for each in look.deliveries]


def _link(path: Path) -> str:
    """Return where a link points; nothing if there is none, or it leads nowhere."""
    return str(path.readlink()) if path.is_symlink() and path.exists() else ""


def damages_today(config: UpscaleConfig, place: Place) -> list[Damage]:
    """Return what of the newest version is not what was published, as far as it is looked at today.

    Parameters
    ----------
    config : UpscaleConfig
    place : Place

    Returns
    -------
    damages : list of Damage
        At most ``refresh.verify_gb`` are read; of a larger archive other years each week.
    """
    most = config.refresh.verify_gb
    if not place.newest() or not most:
        return []
    return damages_of(place.archive, most)


def _cube_damaged(config: UpscaleConfig, place: Place) -> bool:
    """Return whether a cube that grew is not what was written, as far as it is looked at today."""
    if config.refresh.source is None or place.cube is None or not config.refresh.verify_gb:
        return False
    return bool(cube_damages_of(place.cube, config.refresh.verify_gb))


def _tell_failure(config: UpscaleConfig, place: Place, error: Exception, known: dict[str, Any], seconds: float) -> None:
    """Write the report of a refresh that failed and run its hook; neither may hide why it failed."""
    from fluxgrid.workflows.refresh_report import failure_row, write_reports

    failed = Refreshed(place.out, "failed", failure_row(config, error, seconds, known))
    with suppress(OutputError, OSError):
        failed = replace(failed, files=write_reports(place.out / REPORTS, failed.report))
        error.add_note(f"Report: {failed.files[1]}")
    with suppress(OutputError, OSError):
        if problem := _run_hook(config, config.refresh.on_failure, failed):
            error.add_note(problem)


def _run_hook(config: UpscaleConfig, command: Sequence[str], done: Refreshed) -> str:
    """Run a hook; what is wrong with it goes into the report too."""
    problem = run_hook(command, done.files, done.out, config.refresh.hook_seconds)
    if problem:
        from fluxgrid.workflows.refresh_report import put_reports

        done.report.setdefault("warnings", []).append(problem)
        if done.files:
            put_reports(done.files, done.report, done.out / LATEST if done.status == "published" else None)
    return problem
