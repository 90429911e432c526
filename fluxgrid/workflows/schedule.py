"""`fluxgrid schedule`: files that let the system's scheduler run `fluxgrid refresh` unattended."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fluxgrid.config import UpscaleConfig, load_config, shipped_runs, written_config
from fluxgrid.config_map import config_texts
from fluxgrid.errors import ConfigError, itemise
from fluxgrid.files import check_replaceable, write_text
from fluxgrid.scheduling import DELAY_S, KINDS, File, Kind, Schedule, When, read_when, schedule_name

TIMEOUT_H = 5.0
"""Hours after which a run is ended, if nothing else is said; the next one goes on where it stopped."""

_SLACK_S = 3600
"""Between the latest end of a run and the next: a day of summer time is an hour shorter."""
_SECRET = re.compile(r"TOKEN|SECRET|PASS|CREDENTIAL|KEY|AUTH", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Parameters
    ----------
    kind : str
        A name of `fluxgrid.scheduling.KINDS`.
    every, at : str
        See `fluxgrid.scheduling.read_when`.
    out : str, optional
        Folder to write into; without it nothing is written.
    overwrite : bool
        Whether files that stand there may be replaced.
    env : tuple of str
        More environment variables whose values the run gets.
    name : str, optional
        Of files, units and jobs; by default from the configuration's.
    timeout_h : float
        Hours after which a run is ended.
    options : mapping
        What only some kinds know.
    """

    kind: str
    every: str = "weekly"
    at: str | None = None
    out: str | None = None
    overwrite: bool = False
    env: tuple[str, ...] = ()
    name: str | None = None
    timeout_h: float = TIMEOUT_H
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheduled:
    """What came of it: the files, the folder they were written to, and what the user should know."""

    files: tuple[File, ...]
    folder: Path | None
    notes: tuple[str, ...]


def schedule(config: str, request: Request) -> Scheduled:
    """Return the files of a schedule; with ``out`` they are also written.

    Parameters
    ----------
    config : str
        Run configuration: a file or the name of a shipped one.
    request : Request

    Returns
    -------
    scheduled : Scheduled

    Raises
    ------
    UnknownName
        If configuration, kind or interval is not known.
    ConfigError
        If the configuration is wrong, or the kind cannot express what is asked for; the message lists everything.
    OutputExists
        If a file stands that may not be replaced.
    OutputError
        If it cannot be written.
    """
    load_config(UpscaleConfig, config)  # what refresh would refuse every week is refused now
    values, needed = written_config(config)
    file = Path(shipped_runs().get(config, Path(config).expanduser())).absolute()
    chosen = KINDS[request.kind]
    options = _options(chosen, request, _facts(file, values))
    here = chosen.here(options)
    when = read_when(request.every, request.at)
    environment, notes = _environment(request.env, needed, here)
    place = Path(request.out or ".").expanduser().absolute()
    files = chosen.render(
        Schedule(
            name=request.name or schedule_name(file.stem),
            config=str(file),
            folder=str(Path.cwd()),
            python=sys.executable,
            when=when,
            timeout_s=_timeout(request.timeout_h, when),
            place=str(place),
            environment=environment,
            options=options,
        )
    )
    if not here:
        notes = (*notes, *_foreign((*config_texts(values), *environment.items())))
    if request.out is not None:
        _write(place, files, request.overwrite)
    return Scheduled(files, place if request.out is not None else None, notes)


def _write(folder: Path, files: Iterable[File], overwrite: bool) -> None:
    """Write the files into a folder, or none of them."""
    files = tuple(files)
    check_replaceable(folder, [file.name for file in files], "an earlier schedule", overwrite)
    for file in files:
        write_text(folder / file.name, file.text)


def _timeout(hours: float, when: When) -> int:
    """Return the time-out in seconds, if it ends before the next run begins."""
    longest = (when.interval_s - DELAY_S - _SLACK_S) / 3600
    if not 0.02 <= hours <= longest:  # nan is neither
        message = (
            f"--timeout {hours:g} h does not fit a {when.every} run: it must be over before the next begins. "
            f"Give 0.02 to {longest:g} hours."
        )
        raise ConfigError(message)
    return round(hours * 3600)


def _facts(file: Path, values: dict[str, Any]) -> dict[str, Callable[[], str]]:
    """Return what a kind may ask for that is no option: the configuration, its path in its repository, the user."""
    return {
        "text": lambda: yaml.safe_dump(values, sort_keys=False, allow_unicode=True),
        "path": lambda: _in_repository(file),
        "user": lambda: os.environ.get("SUDO_USER") or getpass.getuser(),
    }


def _in_repository(file: Path) -> str:
    """Return the path of a file in the git repository it lies in, or nothing."""
    root = next((folder for folder in file.parents if (folder / ".git").exists()), None)
    return file.relative_to(root).as_posix() if root is not None else ""


def _options(kind: Kind, request: Request, facts: Mapping[str, Callable[[], str]]) -> dict[str, Any]:
    """Return the options of a kind, given, found out or default; one that it does not know is refused."""
    given = {name: value for name, value in request.options.items() if value is not None}
    problems = []
    for name in sorted(given.keys() - (kind.options.keys() - facts.keys())):
        others = ", ".join(other for other in KINDS if name in KINDS[other].options)
        problems.append(f"--{name} is of {others}, not of {request.kind}; leave it out")
    required = [name for name, default in kind.options.items() if default is ... and name not in given]
    problems += [f"--{name} is missing: there is no default that would be right" for name in required]
    if problems:
        raise ConfigError(itemise(f"The options do not fit --kind {request.kind}", problems))
    found = {name: facts[name]() for name in kind.options if name in facts}
    return {**kind.options, **found, **given}


def _environment(listed: tuple[str, ...], needed: Iterable[str], here: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables a run gets, and notes: fluxgrid's own, the listed ones, and nothing that may be a secret.

    Parameters
    ----------
    listed : tuple of str
        Names the user asks for.
    needed : iterable of str
        Names in the configuration.
    here : bool
        Whether the run has the paths of this machine.
    """
    own = {name for name in os.environ if name.startswith("FLUXGRID_")}
    own |= {name for name in ("OMP_NUM_THREADS", *(["XDG_CACHE_HOME"] if here else [])) if name in os.environ}
    secret = {name for name in own if _SECRET.search(name)} - set(listed)
    names = (own - secret) | set(listed)
    problems = [f"--env {name}: no name of a variable" for name in listed if not _VARIABLE.fullmatch(name)]
    problems += [
        f"--env {name}: it is not set here, so there is no value to write; export it first"
        for name in listed
        if _VARIABLE.fullmatch(name) and name not in os.environ
    ]
    problems += [
        f"the configuration needs ${name}, which a scheduled run does not have: say --env {name} to write its present "
        "value into the files, or write the value into the configuration"
        for name in sorted(set(needed) - names)
    ]
    if problems:
        raise ConfigError(itemise("The environment of the run is not complete", problems))
    notes = [f"{name} may be a secret and is left out; --env {name} would write it in plain text" for name in secret]
    notes += [
        f"{name} stands in plain text in the files, for you asked for it; let nobody else read them"
        for name in listed
        if _SECRET.search(name)
    ]
    return {name: os.environ[name] for name in sorted(names)}, tuple(sorted(notes))


def _foreign(texts: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return a note for each text that looks like a path of this machine, for a run that happens on another."""
    return tuple(
        f"{key}: {text} is a path of this machine; the run happens on another, where it must exist too"
        for key, text in texts
        if text and _is_path(Path(text))
    )


def _is_path(path: Path) -> bool:
    """Return whether a text is a path of this machine; words of a program may be longer than any."""
    try:
        return path.is_absolute() or path.exists()
    except OSError:
        return False
