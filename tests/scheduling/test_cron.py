from __future__ import annotations

import fcntl
import re
import shlex
from datetime import datetime
from pathlib import Path

import pytest
from cronsim import CronSim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.scheduling import DELAY_S, KINDS

NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/="), min_size=1)


def as_cron_gives_it(command: str) -> str:
    """Return a command of a crontab as cron hands it to the shell: up to the first % without a backslash."""
    whole = re.match(r"(?:[^\\%]|\\.)*", command)[0]
    assert whole == command, "an unescaped % ends the command"
    return command.replace("\\%", "%")


def entries(text: str) -> list[tuple[str, str]]:
    """Return when and what of each line of a crontab, by the grammar of five fields or a nickname."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"(@[a-z]+|(?:[0-9*]+ ){4}[0-9*]+) (.+)", line) for line in lines]
    return [(match[1], match[2]) for match in found]


@pytest.fixture
def installed(make, fakes, odd, tmp_path):
    """Return a function that writes script and crontab of a fake interpreter: folder of both, crontab."""

    def install(codes=(0,), **changes):
        place = tmp_path / odd
        place.mkdir(exist_ok=True)
        python = fakes.add("python " + odd, codes)
        row = {"python": str(python), "folder": str(place), "config": f"{place}/c $1.yaml", "place": str(place)}
        files = KINDS["cron"].render(make("cron", **(row | changes)))
        for file in files:
            (place / file.name).write_text(file.text)
        return place, {file.name.partition(".")[2]: file.text for file in files}

    return install


def run(fakes, text: str, *more: str):
    """Run the first crontab line as cron does, with words behind it."""
    command = as_cron_gives_it(entries(text)[0][1])
    return fakes.run(["/bin/sh", "-c", " ".join([command, *more])])


def test_the_lines_parse_and_mean_the_dates(make):
    _, lines = KINDS["cron"].render(make("cron"))
    (when, what), (reboot, again) = entries(lines.text)
    assert next(CronSim(when, datetime(2026, 11, 29))) == datetime(2026, 11, 30, 6)
    assert (reboot, again) == ("@reboot", what)
    assert what == "/bin/sh /maps/fluxgrid-midwest.sh"
    assert lines.text.endswith("\n")  # cron passes over a last line without an end


def test_the_command_runs_with_its_words_folder_and_environment(installed, fakes, odd):
    place, texts = installed(environment={"FLUXGRID_X": odd, "OMP_NUM_THREADS": "2"})
    done = run(fakes, texts["cron"], "now")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    name = "python " + odd
    assert fakes.calls(name) == [[str(place), "-m", "fluxgrid", "refresh", f"{place}/c $1.yaml"]]
    environment = fakes.environments(name)[0]
    assert (environment["FLUXGRID_X"], environment["OMP_NUM_THREADS"]) == (odd, "2")
    assert "end with code 0" in (place / "fluxgrid-midwest.log").read_text()
    assert fakes.calls("sleep") == []


def test_the_delay_is_stable(installed, fakes):
    _, texts = installed()
    for _ in range(2):
        run(fakes, texts["cron"])
    first, second = ([int(word) for word in call[1:]] for call in fakes.calls("sleep"))
    assert first == second
    assert 0 <= first[0] < DELAY_S


@pytest.mark.parametrize(
    ("codes", "calls", "mail"),
    [((0,), 1, False), ((5,), 1, False), ((6, 6, 0), 3, False), ((6,), 4, True), ((3,), 1, True), ((2,), 1, True)],
)
def test_exit_codes(installed, fakes, odd, codes, calls, mail):
    place, texts = installed(codes)
    done = run(fakes, texts["cron"], "now")
    assert len(fakes.calls("python " + odd)) == calls
    assert done.returncode == codes[-1]
    assert [call[1] for call in fakes.calls("sleep")] == ["1800"] * (calls - 1)
    assert done.stderr == (
        f"fluxgrid-midwest: fluxgrid refresh ended with code {codes[-1]}; see {place}/fluxgrid-midwest.log\n"
        if mail
        else ""
    )


def test_a_second_one_ends_at_once(installed, fakes, odd):
    place, texts = installed()
    with (place / ".fluxgrid-midwest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(fakes, texts["cron"], "now").returncode == 5
    assert fakes.calls("python " + odd) == []
    assert run(fakes, texts["cron"], "now").returncode == 0


def test_a_run_that_hangs_is_ended(installed, fakes, tmp_path):
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec /bin/sleep 50\n")
    hanging.chmod(0o755)
    place, texts = installed(python=str(hanging), timeout_s=1)
    assert run(fakes, texts["cron"], "now").returncode == 124
    assert "code 124" in (place / "fluxgrid-midwest.log").read_text()


def test_a_long_log_makes_room(installed, fakes):
    place, texts = installed()
    log = place / "fluxgrid-midwest.log"
    log.write_bytes(b"x" * 10_000_001)
    run(fakes, texts["cron"], "now")
    assert log.stat().st_size < 1000
    assert (place / "fluxgrid-midwest.log.1").stat().st_size == 10_000_001


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, value=NAMES)
def test_any_name_and_value_come_through(make, fakes_in, tmp_path_factory, name, value):
    root = tmp_path_factory.mktemp("any")
    fakes = fakes_in(root / "bin")
    python = fakes.add("python")
    schedule = make(
        "cron", python=str(python), folder=str(root), config=f"/{name}", place=str(root), environment={"A": value}
    )
    script, _ = KINDS["cron"].render(schedule)
    file = Path(root / "script")
    file.write_text(script.text)
    assert fakes.run(["/bin/sh", str(file), "now"]).returncode == 0
    assert fakes.calls("python") == [[str(root), "-m", "fluxgrid", "refresh", f"/{name}"]]
    assert fakes.environments("python")[0]["A"] == value


@given(NAMES.filter(lambda text: "\\" not in text))
def test_any_place_comes_through_cron(make, name):
    _, lines = KINDS["cron"].render(make("cron", place=f"/{name}"))
    command = as_cron_gives_it(entries(lines.text)[0][1])
    assert shlex.split(command) == ["/bin/sh", f"/{name}/fluxgrid-midwest.sh"]


@pytest.mark.parametrize("place", ["/a\\b", "/" + "x" * 990])
def test_a_place_that_a_crontab_cannot_hold_is_an_error(make, place):
    with pytest.raises(ConfigError, match="write them elsewhere"):
        KINDS["cron"].render(make("cron", place=place))
