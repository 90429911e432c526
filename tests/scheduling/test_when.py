from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.scheduling import DELAY_S, When, read_when
from fluxgrid.scheduling.slurm import next_date

HOURS, MINUTES = st.integers(0, 23), st.integers(0, 59)
WHENS = st.one_of(
    st.builds(When, st.just("daily"), HOURS, MINUTES),
    st.builds(When, st.just("weekly"), HOURS, MINUTES, st.integers(1, 7)),
    st.builds(When, st.just("monthly"), HOURS, MINUTES, st.integers(1, 28)),
)


def dates(when: When, after: datetime, count: int = 3) -> list[datetime]:
    """Return the next dates, day by day: slow and obvious."""
    found: list[datetime] = []
    day = after.replace(hour=when.hour, minute=when.minute, second=0, microsecond=0)
    while len(found) < count:
        fits = {"daily": True, "weekly": day.isoweekday() == when.day, "monthly": day.day == when.day}[when.every]
        if fits and day > after:
            found.append(day)
        day += timedelta(days=1)
    return found


@given(WHENS, st.datetimes(datetime(2024, 1, 1), datetime(2032, 1, 1)))
def test_cron_means_the_dates(when, now):
    assert [moment for moment, _ in zip(CronSim(when.cron, now), range(3), strict=False)] == dates(when, now)


@pytest.mark.parametrize("words", ["daily 06:00", "weekly Mon 06:00", "weekly Sun 23:59", "monthly 28 0:05"])
def test_systemd_means_the_dates(client, words):
    every, _, at = words.partition(" ")
    when, now = read_when(every, at), datetime(2026, 2, 27, 12, 30)
    tell = [client("systemd-analyze", "systemd"), "calendar", "--iterations=3", f"--base-time={now:%Y-%m-%d %H:%M:%S}"]
    done = subprocess.run([*tell, when.calendar], capture_output=True, text=True, check=True, env={"TZ": "UTC"})
    told = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "Next elapse" in line or "Iter. #" in line]
    assert [datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC") for text in told] == dates(when, now)


@given(WHENS, st.integers(0, DELAY_S // 60))
def test_a_delay_stays_on_its_day(when, minutes):
    later = when.later(minutes)
    assert (later.every, later.day) == (when.every, when.day)
    moved = 60 * (later.hour - when.hour) + later.minute - when.minute
    assert 0 <= moved <= minutes
    assert moved == minutes or (later.hour, later.minute) == (23, 59)


@pytest.mark.parametrize("offset", [-23, 7])
@pytest.mark.parametrize(
    "when",
    [
        *(When("daily", hour, 30) for hour in (0, 9, 18)),
        *(When("weekly", 12, 5, day) for day in range(1, 8)),
        *(When("monthly", 23, 59, day) for day in range(1, 29, 3)),
    ],
    ids=lambda when: when.cron,
)
def test_a_job_of_slurm_finds_its_next_date(when, offset):
    # `date` cannot be told another now, so the dates lie all around it, seen from clocks that are nearly a day off
    script = f'{next_date(when)}echo "$now $next"'
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": f"XXX{-offset}", "PATH": "/usr/bin:/bin"},
    )
    shift = timedelta(hours=offset)
    now, found = (datetime.fromtimestamp(int(word), UTC).replace(tzinfo=None) + shift for word in done.stdout.split())
    assert found == dates(when, now, 1)[0]


@pytest.mark.parametrize(
    ("every", "at"),
    [("weekly", "06:00"), ("weekly", "Mon 24:00"), ("weekly", "Mo 06:00"), ("weekly", "1 06:00"),
     ("daily", "Mon 06:00"), ("monthly", "29 06:00"), ("monthly", "0 06:00"), ("monthly", "06:00"),
     ("daily", "6"), ("daily", "٠٦:٠٠"), ("daily", "06:00; rm"), ("daily", "")],
)  # fmt: skip
def test_other_times_are_refused(every, at):
    with pytest.raises(ConfigError, match=r"is no time of a .* run\. Write a"):
        read_when(every, at)


def test_an_unknown_interval_names_the_known():
    with pytest.raises(UnknownName, match=r"'hourly'.*Known: daily, monthly, weekly"):
        read_when("hourly")


def test_words_for_people():
    assert read_when("weekly", "friday 7:05").words == "every Friday at 07:05"
    assert read_when("daily").words == "every day at 06:00"
    assert read_when("monthly", "3 06:00").words == "on day 3 of every month at 06:00"
