"""When a schedule runs: every day, week or month, at a time of day."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fluxgrid.errors import ConfigError
from fluxgrid.registry import unknown_name

Every = Literal["daily", "weekly", "monthly"]

DELAY_S = 1800
"""Runs are spread over so many seconds after their time, so that all users of a source do not ask it at one moment."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SHORT = tuple(day[:3] for day in _DAYS)
_LAST_DAY = 28
_TIME = re.compile(r"(?:(?P<day>[A-Za-z0-9]+) +)?(?P<hour>[01]?[0-9]|2[0-3]):(?P<minute>[0-5][0-9])")
_DEFAULT: dict[Every, str] = {"daily": "06:00", "weekly": "Mon 06:00", "monthly": "1 06:00"}
_SECONDS: dict[Every, int] = {"daily": 86_400, "weekly": 7 * 86_400, "monthly": 28 * 86_400}
_WANTED: dict[Every, str] = {
    "daily": 'a time of day, such as "06:00"',
    "weekly": 'a weekday and a time of day, such as "Mon 06:00"',
    "monthly": 'a day that every month has (1 to 28) and a time of day, such as "15 06:00"',
}


@dataclass(frozen=True)
class When:
    """A time that comes back.

    Parameters
    ----------
    every : str
        ``daily``, ``weekly`` or ``monthly``.
    hour, minute : int
        Time of day, of the scheduler's clock.
    day : int
        Of the week from Monday, 1 to 7, or of the month, 1 to 28; 0 where it is every day.
    """

    every: Every
    hour: int
    minute: int
    day: int = 0

    @property
    def interval_s(self) -> int:
        """Shortest time between two runs, seconds."""
        return _SECONDS[self.every]

    @property
    def weekday(self) -> str:
        """Name of the weekday, of a weekly time."""
        return _DAYS[self.day - 1] if self.every == "weekly" else ""

    @property
    def cron(self) -> str:
        """The five fields of cron, such as ``0 6 * * 1``."""
        month_day = self.day if self.every == "monthly" else "*"
        week_day = self.day % 7 if self.every == "weekly" else "*"  # 0 is Sunday everywhere, 7 not in every cron
        return f"{self.minute} {self.hour} {month_day} * {week_day}"

    @property
    def calendar(self) -> str:
        """The calendar event of systemd, such as ``Mon *-*-* 06:00:00``."""
        weekday = f"{self.weekday[:3]} " if self.weekday else ""
        month_day = f"{self.day:02d}" if self.every == "monthly" else "*"
        return f"{weekday}*-*-{month_day} {self.hour:02d}:{self.minute:02d}:00"

    @property
    def words(self) -> str:
        """The time for people, such as ``every Monday at 06:00``."""
        days = {"daily": "every day", "weekly": f"every {self.weekday}", "monthly": f"on day {self.day} of every month"}
        return f"{days[self.every]} at {self.hour:02d}:{self.minute:02d}"

    def later(self, minutes: int) -> When:
        """Return the time moved by some minutes, but never past midnight: day 28 plus one is not in every month."""
        moved = min(60 * self.hour + self.minute + minutes, 24 * 60 - 1)
        return replace(self, hour=moved // 60, minute=moved % 60)


def read_when(every: str, at: str | None = None) -> When:
    """Return the time that two options name.

    Parameters
    ----------
    every : str
        ``daily``, ``weekly`` or ``monthly``.
    at : str, optional
        ``HH:MM``, before it a weekday (weekly) or a day of the month (monthly). By default six o'clock, on Monday, on
        the first.

    Returns
    -------
    when : When

    Raises
    ------
    UnknownName
        If `every` is none of the three.
    ConfigError
        If `at` is no such time.

    Examples
    --------
    >>> read_when("weekly", "Mon 06:00").cron
    '0 6 * * 1'
    >>> read_when("monthly", "15 6:30").calendar
    '*-*-15 06:30:00'
    """
    kinds: dict[str, Every] = {kind: kind for kind in get_args(Every)}
    if every not in kinds:
        error = unknown_name("interval (--every)", every, kinds)
        raise error
    kind = kinds[every]
    text = _DEFAULT[kind] if at is None else at
    found = _TIME.fullmatch(text.strip())
    day = _day(kind, found["day"]) if found else None
    if found is None or day is None:
        message = f"--at {text!r} is no time of a {kind} run. Write {_WANTED[kind]}."
        raise ConfigError(message)
    return When(kind, int(found["hour"]), int(found["minute"]), day)


def _day(every: Every, text: str | None) -> int | None:
    """Return the number of a day, or None where it does not fit the interval."""
    if every == "daily":
        return 0 if text is None else None
    if text is None:
        return None
    if every == "monthly":
        return int(text) if text.isdigit() and 1 <= int(text) <= _LAST_DAY else None
    names = {name.lower(): i for row in (_DAYS, _SHORT) for i, name in enumerate(row, start=1)}
    return names.get(text.lower())
