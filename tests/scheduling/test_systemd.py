from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.scheduling import KINDS, read_when
from fluxgrid.scheduling.systemd import quoted

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))


def unquoted(line: str) -> list[str]:
    """Return the words of a line as systemd.syntax(7) and systemd.unit(5) say: quotes, escapes, then specifiers."""
    words, word, quote, letters = [], None, "", iter(line)
    for letter in letters:
        if letter == "\\":
            word = (word or "") + next(letters)
        elif quote:
            word, quote = (word, "") if letter == quote else (word + letter, quote)
        elif letter in "\"'":
            word, quote = word or "", letter
        elif letter == " ":
            words, word = (words if word is None else [*words, word]), None
        else:
            word = (word or "") + letter
    assert not quote
    words = words if word is None else [*words, word]
    for text in words:
        assert "%" not in text.replace("%%", ""), "a specifier"
    return [text.replace("%%", "%") for text in words]


def settings(text: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit file."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@given(TEXT)
def test_a_word_comes_back(text):
    assert unquoted(quoted(text)) == [text]


@given(TEXT.filter(lambda text: not set("\"'\\") & set(text)), TEXT.filter(lambda text: "=" not in text), TEXT)
def test_a_unit_holds_command_and_environment(make, python, config, value):
    schedule = make("systemd", python=f"/{python}", config=f"/{config}", environment={"NAME": value})
    found = settings(KINDS["systemd"].render(schedule)[0].text)
    command = unquoted(found["ExecStart"][0])
    assert command[0][0] == ":"  # no variable is expanded
    assert [command[0][1:], *command[1:]] == list(schedule.words)
    assert unquoted(found["Environment"][0]) == [f"NAME={value}"]


@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
@pytest.mark.parametrize("words", ["daily 06:00", "weekly Mon 06:00", "monthly 15 06:00"])
def test_systemd_verifies_the_units(client, make, odd, tmp_path, system, words):
    analyze = client("systemd-analyze", "systemd")
    folder = tmp_path / odd
    python = tmp_path / odd.replace('"', "").replace("'", "") / "python"
    folder.mkdir()
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)  # verify looks whether the command is there and executable: it has read the path as we meant it
    every, _, at = words.partition(" ")
    schedule = make(
        "systemd", python=str(python), config=f"{folder}/c.yaml", folder=str(folder), when=read_when(every, at),
        environment={"FLUXGRID_X": odd, "B": "back\\slash"}, options={"system": system, "user": "root"},
    )  # fmt: skip
    for file in KINDS["systemd"].render(schedule):
        (tmp_path / file.name).write_text(file.text)
    done = verify(analyze, tmp_path, system)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
    service = tmp_path / "fluxgrid-midwest.service"
    service.write_text(service.read_text().replace("%%", "%"))
    assert verify(analyze, tmp_path, system).stderr.strip(), "the check sees a wrong path"


def verify(analyze, folder, system):
    units = [str(folder / f"fluxgrid-midwest.{kind}") for kind in ("service", "timer")]
    manager = [] if system else ["--user"]
    return subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *manager, *units],
        capture_output=True, text=True, check=False, env={"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)},
    )  # fmt: skip


def test_exit_codes_time_out_and_catch_up(make):
    service, timer = (settings(file.text) for file in KINDS["systemd"].render(make("systemd", timeout_s=1234)))
    assert service["SuccessExitStatus"] == ["5"]
    assert service["Restart"] == ["on-failure"]
    final = set(service["RestartPreventExitStatus"][0].split())
    assert {"1", "2", "3", "4", "130", "SIGTERM"} <= final
    assert not {"5", "6"} & final
    assert service["TimeoutStartSec"] == ["1234"]
    assert timer["Persistent"] == timer["FixedRandomDelay"] == ["true"]
    assert timer["RandomizedDelaySec"] == ["1800"]
    assert "User" not in service


def test_units_of_the_system_run_as_the_user(make):
    service, _ = KINDS["systemd"].render(make("systemd", options={"system": True, "user": "ada"}))
    assert settings(service.text)["User"] == ["ada"]
    assert "network-online.target" in service.text
    assert "/etc/systemd/system/" in service.text


@pytest.mark.parametrize("python", ['/a"b', "/a'b", "/a\\b"])
def test_an_interpreter_that_systemd_would_not_start_is_an_error(make, python):
    with pytest.raises(ConfigError, match="install fluxgrid elsewhere"):
        KINDS["systemd"].render(make("systemd", python=python))


@pytest.mark.parametrize("folder", ["/a ", "/a\\"])
def test_a_folder_that_a_unit_cannot_hold_is_an_error(make, folder):
    with pytest.raises(ConfigError, match="ends with a space or a backslash"):
        KINDS["systemd"].render(make("systemd", folder=folder))
