"""The time of day, asked in one place, so that everything that hangs on it can be tried with a clock that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime


def utc() -> datetime:
    """Return the time of day, in UTC.

    Names and notes for people are made of it. No order of versions, no lock and nothing of a map hangs on it.
    """
    return datetime.now(UTC)
