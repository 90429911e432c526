"""cron: a script, and the crontab lines that start it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from fluxgrid.scheduling.schedule import PAUSE_S, TRIES, File, Schedule, kind, refuse
from fluxgrid.scheduling.shell import EXIT_CODES, attempts, comment, exports
from fluxgrid.scheduling.when import DELAY_S

_LONGEST_LINE = 990
"""Vixie's cron cuts a command at 1000 characters."""
_LOG_BYTES = 10_000_000


@kind("cron")
def cron(schedule: Schedule) -> tuple[File, ...]:
    """Render a script and two lines for a crontab; for machines without systemd.

    All that needs quoting stands in the script, for a crontab line has a grammar of its own around the shell's: it is
    short, and ``%`` ends it.
    """
    refuse("cron", _problems(schedule))
    return File(f"{schedule.name}.sh", _script(schedule)), File(f"{schedule.name}.cron", _lines(schedule))


def _start(schedule: Schedule) -> str:
    """Return the command of the crontab; cron hands a % behind a backslash to the shell without it."""
    return f"/bin/sh {shlex.quote(f'{schedule.place}/{schedule.name}.sh')}".replace("%", "\\%")


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what a crontab line cannot hold."""
    if "\\" in schedule.place:
        yield f"folder of the files {schedule.place!r}: cron reads backslashes its way; write them elsewhere (--out)"
    if len(_start(schedule)) > _LONGEST_LINE:
        yield f"folder of the files {schedule.place!r}: longer than a crontab line; write them elsewhere (--out)"


def _lines(schedule: Schedule) -> str:
    """Return the text of the crontab lines."""
    head = comment(
        f"{schedule.name}.cron: fluxgrid refresh, {schedule.when.words}, local time of the machine.",
        f"Needs {schedule.name}.sh in the folder named below. Install: `crontab -e`, and paste the two lines.",
        "The second makes up for a date that passed while the machine was off: with nothing new it ends in seconds.",
        "cron mails what is printed, which is one line when a run failed. Set MAILTO=you@example.org above the lines.",
    )
    start = _start(schedule)
    return f"{head}{schedule.when.cron} {start}\n@reboot {start}\n"


def _script(schedule: Schedule) -> str:
    """Return the text of the script."""
    log = f"{schedule.folder}/{schedule.name}.log"
    head = comment(
        f"{schedule.name}.sh: fluxgrid refresh as cron runs it. `sh {schedule.name}.sh now` runs it at once.",
        "",
        "Exit codes: " + EXIT_CODES[0],
        EXIT_CODES[1] + f" After 6 it is tried again, {TRIES} times in all; 5 is no failure; 124: the time-out.",
        "Needs date, uname, cksum, timeout (coreutils) and flock (util-linux).",
    )
    seed = shlex.quote(f" {schedule.config}")
    return f"""#!/bin/sh
{head}
set -u
cd {shlex.quote(schedule.folder)} || exit 2
{exports(schedule.environment)}log={shlex.quote(log)}

# fluxgrid refresh locks its store by itself. This lock also covers the waiting below, and the kernel lets go of it
# whenever this script ends, however it ends.
exec 3>&2 9>>{shlex.quote(f"{schedule.folder}/.{schedule.name}.lock")} || exit 2
flock -n 9 || exit 5

if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt {_LOG_BYTES} ]; then mv -f "$log" "$log.1"; fi
exec >>"$log" 2>&1 || exit 2

# A delay that is this machine's and this configuration's own, and the same each time.
if [ "${{1:-}}" != now ]; then
    sleep "$(( $(printf '%s%s' "$(uname -n)" {seed} | cksum | cut -d ' ' -f 1) % {DELAY_S} ))" 3>&- 9>&-
fi

echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) start"
{attempts(schedule, TRIES, PAUSE_S, "3>&- 9>&-")}echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) end with code $code"
case $code in
0 | 5) ;;
*) echo "{schedule.name}: fluxgrid refresh ended with code $code; see $log" >&3 ;;
esac
exit "$code"
"""
