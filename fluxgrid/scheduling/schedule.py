"""What a schedule is, the kinds there are, and what no kind can express."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from fluxgrid.errors import ConfigError, itemise
from fluxgrid.registry import Registry
from fluxgrid.scheduling.when import DELAY_S, When

TRIES = 4
"""Runs until a source that cannot be reached (exit code 6) is left to the next date..."""
PAUSE_S = 1800
"""...and the seconds between them."""

_LONGEST_NAME = 52
"""Kubernetes adds eleven characters to the name of a CronJob, and 63 are the most."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories that end lines or are not text: control characters, lone surrogates, line and paragraph ends."""


@dataclass(frozen=True)
class Schedule:
    """What runs, when and where.

    Parameters
    ----------
    name : str
        Of files, units and jobs: small letters, digits, hyphens.
    config : str
        The configuration that `fluxgrid refresh` reads; absolute where it runs on this machine.
    folder : str
        Working folder, absolute; relative paths of the configuration begin here.
    python : str
        Interpreter.
    when : When
        Time.
    timeout_s : int
        Seconds after which a run is ended.
    place : str
        Folder in which the files will stand, absolute.
    environment : mapping of str to str
        Variables that the run gets.
    options : mapping
        What only some kinds know; a `Kind` lists its own.
    """

    name: str
    config: str
    folder: str
    python: str
    when: When
    timeout_s: int
    place: str
    environment: Mapping[str, str]
    options: Mapping[str, Any]

    @property
    def words(self) -> tuple[str, ...]:
        """The command, word by word."""
        return self.python, "-m", "fluxgrid", "refresh", self.config

    @property
    def spread(self) -> When:
        """The time moved by a stable part of `DELAY_S`, for kinds whose scheduler knows no random delay."""
        key = f"{self.name} {self.config}"
        return self.when.later(zlib.crc32(key.encode()) % (DELAY_S // 60))


@dataclass(frozen=True)
class File:
    """A file to be written: name and text."""

    name: str
    text: str


@dataclass(frozen=True)
class Kind:
    """A kind of schedule.

    Parameters
    ----------
    render : callable
        From a `Schedule` to its files.
    options : dict
        What it knows beyond the others, with its default; ``...`` where it must be given. `text`, `path` and `user` are
        no options of the command line but what the workflow finds out: the configuration itself, its path in its
        repository, the user's name.
    here : callable
        Whether, with these options, the run happens on this machine or on one that has its paths.
    """

    render: Callable[[Schedule], tuple[File, ...]]
    options: Mapping[str, Any]
    here: Callable[[Mapping[str, Any]], bool]


KINDS: Registry[Kind] = Registry("kind of schedule")


def kind(
    name: str,
    here: Callable[[Mapping[str, Any]], bool] = lambda options: True,  # noqa: ARG005
    **options: Any,
) -> Callable[[Callable[[Schedule], tuple[File, ...]]], Callable[[Schedule], tuple[File, ...]]]:
    """Return a decorator that registers the function which renders a kind; the others' problems are checked before it.

    Parameters
    ----------
    name : str
        As ``--kind`` says it.
    here : callable
        See `Kind`.
    **options
        See `Kind`.
    """

    def add(render: Callable[[Schedule], tuple[File, ...]]) -> Callable[[Schedule], tuple[File, ...]]:
        @wraps(render)
        def checked(schedule: Schedule) -> tuple[File, ...]:
            refuse(name, _problems(schedule))
            return render(schedule)

        KINDS.register(name)(Kind(checked, options, here))
        return checked

    return add


def schedule_name(stem: str) -> str:
    """Return a name for files, units and jobs from that of a configuration; different names stay different.

    Parameters
    ----------
    stem : str
        Name of the configuration's file without its suffix.

    Returns
    -------
    name : str
        Small letters, digits and hyphens, at most 52.

    Examples
    --------
    >>> schedule_name("midwest")
    'fluxgrid-midwest'
    >>> schedule_name("My region!")
    'fluxgrid-my-region-f39079'
    """
    kept = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    name = f"fluxgrid-{kept}".strip("-")
    if kept == stem and len(name) <= _LONGEST_NAME:
        return name
    mark = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{name[: _LONGEST_NAME - 7].strip('-')}-{mark}"


def refuse(name: str, problems: Iterable[str]) -> None:
    """Raise if a kind cannot express a schedule.

    Parameters
    ----------
    name : str
        The kind.
    problems : iterable of str
        One line each; none is fine.

    Raises
    ------
    ConfigError
        Listing them all.
    """
    if lines := list(problems):
        raise ConfigError(itemise(f"A schedule of kind {name} cannot express this", lines))


def unprintable(text: str) -> str | None:
    """Return the first character of a text that ends lines or cannot be written as UTF-8, if there is one."""
    return next((letter for letter in text if unicodedata.category(letter) in _UNPRINTABLE), None)


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what no kind can express."""
    if not _NAME.fullmatch(schedule.name) or len(schedule.name) > _LONGEST_NAME:
        yield (
            f"name {schedule.name!r}: give one of small letters, digits and hyphens, at most {_LONGEST_NAME} (--name)"
        )
    texts = {"configuration": schedule.config, "working folder": schedule.folder, "interpreter": schedule.python}
    texts |= {"folder of the files": schedule.place}
    texts |= {f"environment variable {name}": value for name, value in schedule.environment.items()}
    # not `text`, which is a whole file
    texts |= {
        f"--{name}": value for name, value in schedule.options.items() if isinstance(value, str) and name != "text"
    }
    for label, text in texts.items():
        if (letter := unprintable(text)) is not None:
            yield f"{label} {text!r}: {letter!r} is a line end or no text; rename it, or leave it out"
    if "=" in schedule.config:
        yield (
            f"configuration {schedule.config!r}: the command line takes a word with = for an override; "
            "move the file to a path without one"
        )
