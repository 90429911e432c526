"""SLURM: a job that asks for its successor."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from fluxgrid.scheduling.schedule import PAUSE_S, TRIES, File, Schedule, kind, refuse
from fluxgrid.scheduling.shell import EXIT_CODES, command, comment, exports
from fluxgrid.scheduling.when import When


@kind("slurm", cpus=2, memory=4)
def slurm(schedule: Schedule) -> tuple[File, ...]:
    """Render a batch job that submits its successor; for clusters, also those without scrontab.

    scrontab has no chain that could break, but most clusters do not allow it (``ScronParameters=enable`` is not the
    default) and it does not wait and try again after code 6. The chain is held together by its order: a job asks for
    the next one before it does anything else, unless one is waiting, so neither a failure nor a time-out ends it, and
    a chain that was started twice becomes one again.
    """
    refuse("slurm", _problems(schedule))
    return (File(f"{schedule.name}.sbatch", _script(schedule)),)


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what a line of #SBATCH cannot hold."""
    if set('"\\') & set(schedule.folder):
        yield f"working folder {schedule.folder!r}: SLURM reads quotes and backslashes its own way; use another folder"


def next_date(when: When) -> str:
    """Return the lines that set `next` to the coming date of a schedule, in seconds since 1970 (GNU date)."""
    time = f"{when.hour:02d}:{when.minute:02d}"
    # a number behind a time would be read as its time zone, hence "next month" and not "+1 month"
    this_month = f"$(date +%Y-%m)-{when.day:02d} {time}"
    first, second = {
        "daily": (f"'today {time}'", f"'tomorrow {time}'"),
        "weekly": (f"'{when.weekday} {time}'", f"'next {when.weekday} {time}'"),
        "monthly": (f'"{this_month}"', f'"{this_month} next month"'),
    }[when.every]
    return f"""\
now=$(date +%s)
next=$(date -d {first} +%s) && [ "$next" -gt "$now" ] || next=$(date -d {second} +%s) ||
    next=$(( now + {when.interval_s} ))  # a time that the change to summer time leaves out
"""


def _time(seconds: int) -> str:
    """Return a time limit as days-hours:minutes:seconds."""
    hours, rest = divmod(seconds, 3600)
    return f"{hours // 24}-{hours % 24:02d}:{rest // 60:02d}:{rest % 60:02d}"


def _script(schedule: Schedule) -> str:
    """Return the text of the batch script."""
    name, options = schedule.name, schedule.options
    log = f"{schedule.folder}/{name}.log".replace("%", "%%")
    head = comment(
        f"{name}.sbatch: fluxgrid refresh, {schedule.spread.words}, local time of the cluster: some minutes after the",
        "time that was asked for, so that not all ask their sources at one moment.",
        "",
        f"Start: `sbatch {name}.sbatch` in the folder named below; it runs at once, then on its dates.",
        f"Look: `squeue --me --name={name}`. End: `scancel --name={name}`. Start anew if it is no longer listed.",
        "Exit codes: " + EXIT_CODES[0],
        EXIT_CODES[1] + f" After 6 it is submitted again, {TRIES} times in all; 5 is no failure.",
        "Your cluster may want --partition and --account: `#SBATCH` lines for them go below.",
    )
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --time={_time(schedule.timeout_s)}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={options["cpus"]}
#SBATCH --mem={options["memory"]}G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="{log}"
{head}
set -u
script={shlex.quote(f"{schedule.place}/{name}.sbatch")}
try=${{1:-1}}
cd {shlex.quote(schedule.folder)} || exit 2
{exports(schedule.environment)}job=${{SLURM_JOB_ID:-0}}
echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) start of job $job on $(uname -n), attempt $try"

# First the successor. `singleton` lets it wait until no job of this name runs; the lock of fluxgrid refresh guards
# the store from all others.
broken=0
{next_date(schedule.spread)}waiting=$(squeue --noheader --user="$(id -un)" --name={name} --states=PENDING --format=%i)
if [ -z "$waiting" ]; then
    sbatch --begin="$(date -d "@$next" +%Y-%m-%dT%H:%M:%S)" --dependency=singleton "$script" || broken=1
fi

code=0
{command(schedule)} || code=$?

# A new job, not `scontrol requeue`, which would start again at once; and not a sleep, which would hold the processors.
if [ "$code" -eq 6 ] && [ "$try" -lt {TRIES} ]; then
    sbatch --begin=now+{PAUSE_S} --dependency=afterany:"$job" "$script" "$((try + 1))"
fi
echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) end with code $code"
[ "$code" -ne 5 ] || code=0
if [ "$broken" -ne 0 ]; then
    echo "{name}: the next run could not be submitted; do it by hand: sbatch $script" >&2
    [ "$code" -ne 0 ] || code=1
fi
exit "$code"
"""
