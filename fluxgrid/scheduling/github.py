"""GitHub Actions: a workflow on a machine of yours or of GitHub."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fluxgrid.scheduling.manifests import yaml_text
from fluxgrid.scheduling.schedule import TRIES, File, Schedule, kind, refuse
from fluxgrid.scheduling.shell import EXIT_CODES, attempts, comment

_PAUSE_S = 600
_HOSTED_S = 350 * 60
"""GitHub ends a job on its own machines after six hours; ours shall end by itself."""


def _self_hosted(options: Mapping[str, Any]) -> bool:
    """Return whether the runner is a machine of the user's."""
    return "self-hosted" in _labels(options)


def _labels(options: Mapping[str, Any]) -> list[str]:
    """Return the labels of the runner."""
    return [label.strip() for label in options["runner"].split(",") if label.strip()]


@kind("github-actions", here=_self_hosted, runner="self-hosted", install="", path="")
def github(schedule: Schedule) -> tuple[File, ...]:
    """Render a workflow for your own runner (the default), or for one of GitHub's, which forgets everything."""
    refuse("github-actions", _problems(schedule))
    if not _self_hosted(schedule.options):
        schedule = replace(schedule, python="python", config=f"./{schedule.options['path']}")
    job: dict[str, Any] = {"runs-on": _labels(schedule.options), "timeout-minutes": schedule.timeout_s // 60 + 5}
    if schedule.environment:
        job["env"] = {name: literal(value) for name, value in sorted(schedule.environment.items())}
    job["steps"] = [*_setup(schedule), {"name": "Refresh", "shell": "bash", "run": literal(_run(schedule))}]
    workflow = {
        "name": schedule.name,
        "on": {"schedule": [{"cron": schedule.spread.cron}], "workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        "concurrency": {"group": schedule.name, "cancel-in-progress": False},
        "jobs": {"refresh": job},
    }
    return (File(f"{schedule.name}.yml", _head(schedule) + yaml_text(workflow)),)


def literal(text: str) -> str:
    """Return a text in which GitHub evaluates nothing.

    Examples
    --------
    >>> literal("a ${{ b")
    "a ${{ '${{' }} b"
    """
    return text.replace("${{", "${{ '${{' }}")


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what is missing, or too much for GitHub's machines."""
    if not _labels(schedule.options):
        yield f"--runner {schedule.options['runner']!r} has no label; give self-hosted or one such as ubuntu-latest"
    elif not _self_hosted(schedule.options):
        if not schedule.options["install"]:
            yield (
                f"--runner {schedule.options['runner']!r} is a machine without fluxgrid: say what pip shall install "
                "there, such as --install . for a checkout of fluxgrid"
            )
        if not schedule.options["path"]:
            yield f"configuration {schedule.config!r} lies in no git repository: GitHub's machines have no other files"
        if schedule.timeout_s > _HOSTED_S:
            yield (
                f"a time-out of {schedule.timeout_s / 3600:g} h: GitHub's machines end a job after six hours; "
                "say --timeout 5 or use a runner of your own"
            )


def _head(schedule: Schedule) -> str:
    """Return the comment above the workflow."""
    hosted = (
        "A MACHINE OF GITHUB'S FORGETS EVERYTHING WHEN THE JOB ENDS: covariates and store must lie outside, and steps",
        "of yours must fetch them before `Refresh` and bring the store back after it, or every run makes all maps anew",
        "and loses them. A cache is no place for a store (GitHub removes what is unused for a week), nor an artifact.",
    )
    own = (
        "The runner is a Linux machine that has the paths below; the store stays on its disk. Never let a public",
        "repository use it: whoever opens a pull request could run code on it.",
    )
    return comment(
        f"{schedule.name}.yml: fluxgrid refresh, {schedule.spread.words} UTC (GitHub may be late, or leave a run out).",
        "Install: put it into .github/workflows/ of the default branch; only there are schedules obeyed. In a public",
        "repository without a commit for 60 days GitHub switches them off.",
        "",
        *(own if _self_hosted(schedule.options) else hosted),
        "",
        "Exit codes: " + EXIT_CODES[0],
        EXIT_CODES[1] + f" After 6 it is tried again, {TRIES} times in all; 5 is no failure.",
        "Secrets never stand here: `env: {NAME: ${{ secrets.NAME }}}` in the step gives it one.",
    )


def _setup(schedule: Schedule) -> list[dict[str, Any]]:
    """Return the steps that make a machine of GitHub's ready."""
    if _self_hosted(schedule.options):
        return []
    version = ".".join(map(str, sys.version_info[:2]))
    # a tag can be moved; whoever needs more certainty writes the hash of a commit
    return [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": version}},
        {
            "name": "Install fluxgrid",
            "shell": "bash",
            "run": literal(f"python -m pip install {shlex.quote(schedule.options['install'])}"),
        },
    ]


def _run(schedule: Schedule) -> str:
    """Return the script of the step; the job as a whole starts in the checkout."""
    folder = f"cd {shlex.quote(schedule.folder)} || exit 2\n" if _self_hosted(schedule.options) else ""
    return (
        f"{folder}{attempts(schedule, TRIES, _PAUSE_S)}"
        'if [ "$code" -eq 5 ]; then echo "another run holds the lock"; code=0; fi\n'
        'exit "$code"\n'
    )
