from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.scheduling import KINDS
from fluxgrid.scheduling.github import literal

HOSTED = {"runner": "ubuntu-latest", "install": ".", "path": "configs/runs/my own.yaml"}


def workflow(schedule):
    (file,) = KINDS["github-actions"].render(schedule)
    return yaml.safe_load(file.text), file


def evaluated(text: str) -> str:
    """Return a text as GitHub makes it: an expression that is a string becomes that string."""
    assert "${{" not in re.sub(r"\$\{\{ '((?:[^']|'')*)' \}\}", "", text), "an expression that is none of ours"
    return re.sub(r"\$\{\{ '((?:[^']|'')*)' \}\}", lambda match: match[1].replace("''", "'"), text)


@pytest.mark.parametrize("options", [{}, HOSTED], ids=["own", "hosted"])
def test_the_workflow_has_the_keys_that_github_knows(make, options):
    found, file = workflow(make("github-actions", options=options, environment={"A": "1"}))
    assert file.name == "fluxgrid-midwest.yml"
    assert set(found) == {"name", "on", "permissions", "concurrency", "jobs"}
    assert set(found["on"]) == {"schedule", "workflow_dispatch"}
    assert re.fullmatch(r"\d+ 6 \* \* 1", found["on"]["schedule"][0]["cron"])
    assert found["permissions"] == {"contents": "read"}
    assert found["concurrency"] == {"group": "fluxgrid-midwest", "cancel-in-progress": False}
    (job,) = found["jobs"].values()
    assert set(job) == {"runs-on", "timeout-minutes", "env", "steps"}
    assert job["timeout-minutes"] <= 360
    for step in job["steps"]:
        assert set(step) <= {"name", "uses", "with", "shell", "run"}
        assert ("uses" in step) != ("run" in step)


@given(st.text())
def test_nothing_is_evaluated(text):
    assert evaluated(literal(text)) == text


def test_a_runner_of_ones_own_has_the_paths(make, fakes, odd, tmp_path):
    python = fakes.add("python")
    folder = tmp_path / odd
    folder.mkdir()
    row = {"python": str(python), "folder": str(folder), "config": f"{folder}/c.yaml", "environment": {"A": odd}}
    found, _ = workflow(make("github-actions", **row))
    job = found["jobs"]["refresh"]
    assert job["runs-on"] == ["self-hosted"]
    assert evaluated(job["env"]["A"]) == odd
    (step,) = job["steps"]
    assert run_as_github(fakes, step).returncode == 0
    assert fakes.calls("python") == [[str(folder), "-m", "fluxgrid", "refresh", f"{folder}/c.yaml"]]


@pytest.mark.parametrize(("codes", "code", "calls"), [((5,), 0, 1), ((6, 0), 0, 2), ((6,), 6, 4), ((4,), 4, 1)])
def test_exit_codes(make, fakes, codes, code, calls):
    fakes.add("python", codes)
    found, _ = workflow(make("github-actions", options=HOSTED))
    assert run_as_github(fakes, found["jobs"]["refresh"]["steps"][-1]).returncode == code
    assert len(fakes.calls("python")) == calls
    assert fakes.calls("python")[0][1:] == ["-m", "fluxgrid", "refresh", "./configs/runs/my own.yaml"]


def run_as_github(fakes, step):
    script = fakes.folder / "step.sh"
    script.write_text(evaluated(step["run"]))
    assert step["shell"] == "bash"
    return fakes.run(["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)])


def test_a_machine_of_githubs_is_made_ready_and_its_limits_told(make):
    found, file = workflow(make("github-actions", options=HOSTED))
    steps = found["jobs"]["refresh"]["steps"]
    assert [step.get("uses", "").partition("@")[0] for step in steps[:2]] == [
        "actions/checkout",
        "actions/setup-python",
    ]
    assert steps[2]["run"] == "python -m pip install ."
    assert "FORGETS EVERYTHING" in file.text


def test_all_that_a_machine_of_githubs_lacks_is_told_at_once(make):
    with pytest.raises(ConfigError) as raised:
        workflow(make("github-actions", timeout_s=7 * 3600, options={"runner": "ubuntu-latest"}))
    for part in ("--install", "no git repository", "after six hours"):
        assert part in str(raised.value)


def test_a_runner_without_label_is_an_error(make):
    with pytest.raises(ConfigError, match="has no label"):
        workflow(make("github-actions", options={"runner": " ,"}))
