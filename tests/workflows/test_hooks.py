"""Programs that are run when a refresh has ended."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from fluxgrid.workflows.hooks import run_hook


def test_what_a_hook_prints_is_not_in_our_answer(capfd):
    assert run_hook(["echo", "hello"], [], Path(), 10) == ""
    assert tuple(capfd.readouterr()) == ("", "hello\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [(["false"], "ended with code 1"), (["/no/such/program"], "did not run to its end: .*No such file")],
)
def test_what_went_wrong_is_said(command, says):
    assert re.search(says, run_hook(command, [], Path(), 10))


def test_after_its_time_a_hook_ends_with_all_it_started(tmp_path):
    beat = tmp_path / "beat"
    script = f"(while true; do date +%N > {beat}; sleep 0.02; done) & wait"
    assert "timed out after 0.3 seconds" in run_hook(["sh", "-c", script], [], tmp_path, 0.3)
    last = beat.read_text()
    time.sleep(0.2)
    assert beat.read_text() == last
