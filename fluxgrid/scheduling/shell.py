"""Pieces of POSIX shell that several kinds share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from fluxgrid.scheduling.schedule import Schedule

EXIT_CODES = (
    "0 done or nothing new, 2 the input is wrong, 3 tiles failed, 4 a guard stopped the publication,",
    "5 another run holds the lock, 6 a source or cluster cannot be reached.",
)
"""What `fluxgrid refresh` ends with, for the head of every file."""


def comment(*lines: str) -> str:
    """Return lines as comments of a shell, crontab, unit or YAML file."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def command(schedule: Schedule) -> str:
    """Return the command as a shell reads it."""
    return " ".join(map(shlex.quote, schedule.words))


def exports(environment: Mapping[str, str]) -> str:
    """Return the lines that set variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()))


def attempts(schedule: Schedule, tries: int, pause_s: int, redirect: str = "") -> str:
    """Return the lines that run the command, again while a source cannot be reached; `code` is what came of it.

    Parameters
    ----------
    schedule : Schedule
        What to run, and how long all attempts may take together.
    tries : int
        Most attempts.
    pause_s : int
        Seconds between them.
    redirect : str
        Behind the command, such as ``9>&-``.
    """
    # `|| code=$?` keeps a shell alive that stops at errors (`bash -e`); a clock that was moved must not lengthen a run
    return f"""\
code=124
try=1
end=$(( $(date +%s) + {schedule.timeout_s} ))
while :; do
    left=$(( end - $(date +%s) ))
    [ "$left" -le {schedule.timeout_s} ] || left={schedule.timeout_s}
    [ "$left" -gt 0 ] || break
    code=0
    timeout -k 60 "$left" {command(schedule)}{redirect and " " + redirect} || code=$?
    [ "$code" -eq 6 ] && [ "$try" -lt {tries} ] || break
    try=$(( try + 1 ))
    sleep {pause_s}{redirect and " " + redirect}
done
"""
