"""Times of versions: always later than the version before, found by dates as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pandas as pd

from fluxgrid import clock
from fluxgrid.errors import UnknownName
from fluxgrid.output.archive.layout import Version


def until(versions: Iterable[Version], moment: datetime) -> list[Version]:
    """Return the versions published not after a moment."""
    return [version for version in versions if datetime.fromisoformat(version.time) <= moment]


def moment_of(value: str | datetime, end: bool = True) -> datetime:
    """Return a moment in UTC; of a date without a time of day its end or its start."""
    try:
        moment = pd.Timestamp(value).to_pydatetime()
    except ValueError as error:
        message = f"{value!r} is neither a tag of the archive nor a date like 2026-11-29 or 2026-11-29T06:00:00Z."
        raise UnknownName(message) from error
    bare = isinstance(value, str) and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", value)
    if bare and end:
        moment += timedelta(days=1, microseconds=-1)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def time_after(before: str | None) -> str:
    """Return the time in UTC, to the microsecond, or a moment after another one if the clock was turned back."""
    now = clock.utc()
    earliest = datetime.fromisoformat(before) + timedelta(microseconds=1) if before else now
    return max(now, earliest).isoformat(timespec="microseconds")
