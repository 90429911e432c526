"""systemd: a service that runs once, and the timer that starts it."""

from __future__ import annotations

from collections.abc import Iterator

from fluxgrid.scheduling.schedule import PAUSE_S, TRIES, File, Schedule, kind, refuse
from fluxgrid.scheduling.shell import EXIT_CODES, comment
from fluxgrid.scheduling.when import DELAY_S

_FINAL = "1 2 3 4 130 SIGINT SIGTERM SIGKILL SIGABRT SIGSEGV"
"""Ends that another attempt would not mend, the time-out (SIGTERM) among them."""

_LIMIT_S = 6 * 3600
"""In so many seconds a service is not started more often than `TRIES` says."""


@kind("systemd", system=False, user="")
def systemd(schedule: Schedule) -> tuple[File, ...]:
    """Render a service and a timer, of the user or of the system.

    Retries stand as ``Restart=on-failure`` less the final codes: ``RestartForceExitStatus=6`` says it more directly,
    but systemd before 256 refuses a service of type oneshot that has it.
    """
    refuse("systemd", _problems(schedule))
    return File(f"{schedule.name}.service", _service(schedule)), File(f"{schedule.name}.timer", _timer(schedule))


def quoted(text: str) -> str:
    """Return a word for a unit file: quotes and backslashes escaped, no specifier in it.

    Examples
    --------
    >>> quoted("100 % sure")
    '"100 %% sure"'
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what a unit file cannot hold: WorkingDirectory= is never unquoted, and a backslash joins lines."""
    if schedule.folder.endswith(("\\", " ")):
        yield f"working folder {schedule.folder!r}: it ends with a space or a backslash; rename it"
    if set("\"'\\") & set(schedule.python):
        yield (
            f"interpreter {schedule.python!r}: systemd starts no program with quotes or a backslash in its path; "
            "install fluxgrid elsewhere"
        )


def _service(schedule: Schedule) -> str:
    """Return the text of the service."""
    system = schedule.options["system"]
    environment = "".join(
        f"Environment={quoted(f'{name}={value}')}\n" for name, value in sorted(schedule.environment.items())
    )
    network = "Wants=network-online.target\nAfter=network-online.target\n" if system else ""
    user = f"User={schedule.options['user']}\n" if system else ""
    head = comment(
        f"{schedule.name}.service: fluxgrid refresh, once. Started by {schedule.name}.timer.",
        "",
        *_install(schedule),
        "",
        "Exit codes: " + EXIT_CODES[0],
        EXIT_CODES[1] + " 5 is no failure;",
        f"after 6 it is tried again, {TRIES} times in all; the others wait for the next date. A unit that is active is",
        "never started twice, and fluxgrid refresh locks its store as well. The log is the journal.",
    )
    prefix = ":"  # no $ in the command is a variable
    words = " ".join(quoted(word) if "/" in word else word for word in schedule.words)
    return f"""{head}
[Unit]
Description=fluxgrid refresh ({schedule.name})
{network}StartLimitIntervalSec={_LIMIT_S}
StartLimitBurst={TRIES}
# OnFailure=a unit that tells you

[Service]
Type=oneshot
{user}WorkingDirectory={schedule.folder.replace("%", "%%")}
{environment}ExecStart={prefix}{words}
TimeoutStartSec={schedule.timeout_s}
SuccessExitStatus=5
Restart=on-failure
RestartSec={PAUSE_S}
RestartPreventExitStatus={_FINAL}
Nice=10
"""


def _install(schedule: Schedule) -> tuple[str, ...]:
    """Return how to install, look and remove."""
    name = schedule.name
    if schedule.options["system"]:
        return (
            "Install, in the folder of these files, as root:",
            f"  cp {name}.service {name}.timer /etc/systemd/system/",
            f"  systemctl daemon-reload && systemctl enable --now {name}.timer",
            f"Next date: systemctl list-timers {name}.timer    Run now: systemctl start {name}.service",
            f"Log: journalctl -u {name}.service                Remove: systemctl disable --now {name}.timer",
        )
    return (
        "Install, in the folder of these files:",
        f"  mkdir -p ~/.config/systemd/user && cp {name}.service {name}.timer ~/.config/systemd/user/",
        f"  systemctl --user daemon-reload && systemctl --user enable --now {name}.timer",
        '  loginctl enable-linger "$USER"    # or it runs only while you are logged in',
        f"Next date: systemctl --user list-timers {name}.timer    Run now: systemctl --user start {name}.service",
        f"Log: journalctl --user -u {name}.service    Remove: systemctl --user disable --now {name}.timer",
    )


def _timer(schedule: Schedule) -> str:
    """Return the text of the timer."""
    head = comment(
        f"{schedule.name}.timer: {schedule.when.words}, local time of the machine, up to {DELAY_S // 60} min later",
        "by an offset that is this machine's own. A date that passed while it was off is made up for.",
        f"Install it with {schedule.name}.service, which says how.",
    )
    return f"""{head}
[Unit]
Description={schedule.when.every.capitalize()} fluxgrid refresh ({schedule.name})

[Timer]
OnCalendar={schedule.when.calendar}
RandomizedDelaySec={DELAY_S}
FixedRandomDelay=true
AccuracySec=1min
Persistent=true

[Install]
WantedBy=timers.target
"""
