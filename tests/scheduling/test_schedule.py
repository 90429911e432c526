from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.scheduling import KINDS, read_when, schedule_name


@given(st.text(max_size=80))
def test_names_are_good_for_every_scheduler(stem):
    name = schedule_name(stem)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 52


@given(st.lists(st.text(alphabet="aB-_. ü", min_size=1, max_size=4), min_size=2, max_size=2, unique=True))
def test_two_configurations_have_two_names(stems):
    assert schedule_name(stems[0]) != schedule_name(stems[1])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("letter", ["\n", "\r", "\x00", "\x7f", "\x85", "\u2028", "\udce9"])
def test_what_ends_lines_or_is_no_text_is_an_error(make, kind, letter):
    bad = f"/a{letter}b"
    schedule = make(kind, config=f"{bad}.yaml", folder=bad, environment={"A": letter})
    with pytest.raises(ConfigError) as raised:
        KINDS[kind].render(schedule)
    assert raised.value.exit_code == 2
    for label in ("configuration", "working folder", "environment variable A"):
        assert f"{label} " in str(raised.value)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_path_that_the_command_line_takes_for_an_override_is_an_error(make, kind):
    with pytest.raises(ConfigError, match="takes a word with = for an override"):
        KINDS[kind].render(make(kind, config="/a=b/c.yaml"))


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a_b", "a" * 53])
def test_a_name_that_is_no_unit_is_an_error(make, name):
    with pytest.raises(ConfigError, match="small letters, digits and hyphens"):
        KINDS["cron"].render(make("cron", name=name))


def test_the_spread_is_stable_and_differs(make):
    at = read_when("daily", "06:00")
    spreads = {make("slurm", config=f"/{n}.yaml", when=at).spread for n in range(40)}
    assert len(spreads) > 10
    assert all(spread.hour == 6 and spread.minute < 30 for spread in spreads)
    assert make("slurm").spread == make("slurm").spread


def test_an_unknown_kind_names_the_known():
    with pytest.raises(UnknownName, match="Known: cron, github-actions, kubernetes, slurm, systemd"):
        KINDS["airflow"]
