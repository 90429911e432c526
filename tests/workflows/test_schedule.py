from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from fluxgrid.config import UpscaleConfig, load_config, shipped_runs

FILES = {
    "systemd": ["fluxgrid-midwest.service", "fluxgrid-midwest.timer"],
    "cron": ["fluxgrid-midwest.cron", "fluxgrid-midwest.sh"],
    "slurm": ["fluxgrid-midwest.sbatch"],
    "kubernetes": ["fluxgrid-midwest.yaml"],
    "github-actions": ["fluxgrid-midwest.yml"],
}
IMAGE = {"kubernetes": ["--image", "example.org/fluxgrid:1"]}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Work in an empty folder, with none of the variables that a schedule copies."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLUXGRID_TEST_DATA", "FLUXGRID_REQUIRE_DATA", "FLUXGRID_REQUIRE_CLIENTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


@pytest.mark.parametrize("kind", sorted(FILES))
def test_what_is_printed_is_what_is_written(run, kind, tmp_path):
    words = ["schedule", "midwest", "--kind", kind, *IMAGE.get(kind, [])]
    code, printed, _ = run(*words)
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert run(*words, "--out", ".")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[kind]
    for path in tmp_path.iterdir():
        assert path.read_text() in printed


@pytest.mark.parametrize("kind", ["systemd", "cron", "slurm", "github-actions"])
def test_the_run_has_this_interpreter_folder_configuration_and_threads(run, kind, tmp_path):
    _, printed, _ = run("schedule", "midwest", "--kind", kind)
    for part in (sys.executable, str(tmp_path), str(shipped_runs()["midwest"]), "OMP_NUM_THREADS"):
        assert part in printed


def test_nothing_that_stands_is_replaced_unasked(run, tmp_path):
    words = ["schedule", "midwest", "--kind", "systemd", "--out", "units"]
    assert run(*words)[0] == 0
    timer = tmp_path / "units" / "fluxgrid-midwest.timer"
    timer.write_text("mine")
    code, _, err = run(*words, "--at", "Tue 07:00")
    assert (code, timer.read_text()) == (2, "mine")
    assert "holds an earlier schedule" in err
    assert run(*words, "--at", "Tue 07:00", "--overwrite")[0] == 0
    assert "OnCalendar=Tue *-*-* 07:00:00" in timer.read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere.yaml", "--kind", "cron"], "There is no configuration file"),
        (["bad.yaml", "--kind", "cron"], "unknown_key"),
        (["midwest", "--kind", "crom"], "Did you mean 'cron'?"),
        (["midwest", "--kind", "cron", "--every", "hourly"], "There is no interval"),
        (["midwest", "--kind", "cron", "--at", "noon"], "is no time of a weekly run"),
        (["midwest", "--kind", "cron", "--image", "a"], "--image is of kubernetes, not of cron"),
        (["midwest", "--kind", "cron", "--system"], "--system is of systemd, not of cron"),
        (["midwest", "--kind", "kubernetes"], "--image is missing"),
        (["midwest", "--kind", "cron", "--timeout", "23", "--every", "daily"], "must be over before the next begins"),
        (["midwest", "--kind", "cron", "--timeout", "nan"], "must be over before the next begins"),
        (["midwest", "--kind", "cron", "--env", "NOT_SET"], "it is not set here"),
        (["midwest", "--kind", "cron", "--env", "A-B"], "no name of a variable"),
        (["midwest", "--kind", "github-actions", "--runner", "ubuntu-latest"], "--install"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what_to_do(run, tmp_path, words, text):
    (tmp_path / "bad.yaml").write_text("unknown_key: 1\n")
    code, out, err = run("schedule", *words)
    assert (code, out) == (2, "")
    assert text in err


def test_only_own_and_listed_variables_are_copied(run, monkeypatch):
    monkeypatch.setenv("FLUXGRID_PLACE", "here")
    monkeypatch.setenv("FLUXGRID_API_TOKEN", "hidden1")
    monkeypatch.setenv("DATABASE_PASSWORD", "hidden2")
    monkeypatch.setenv("PROXY", "listed")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    words = ["schedule", "midwest", "--kind", "systemd", "--env", "PROXY"]
    _, out, err = run(*words)
    for line in ("FLUXGRID_PLACE=here", "PROXY=listed", "XDG_CACHE_HOME=/cache", "OMP_NUM_THREADS=3"):
        assert f'Environment="{line}"\n' in out
    assert "hidden" not in out + err
    assert "FLUXGRID_API_TOKEN may be a secret and is left out" in err
    _, out, err = run(*words, "--env", "FLUXGRID_API_TOKEN")
    assert "hidden1" in out
    assert "FLUXGRID_API_TOKEN stands in plain text" in err


def test_a_variable_that_the_configuration_needs_must_be_listed(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CUBES", "/cubes")
    (tmp_path / "own.yaml").write_text("region: iowa\ncube: $CUBES/a.zarr\n")
    code, _, err = run("schedule", "own.yaml", "--kind", "cron")
    assert code == 2
    assert "say --env CUBES" in err
    code, out, _ = run("schedule", "own.yaml", "--kind", "cron", "--env", "CUBES")
    assert code == 0
    assert "export CUBES=/cubes" in out


def test_kubernetes_gets_the_whole_configuration_and_is_told_of_paths_here(run, tmp_path):
    (tmp_path / "own.yaml").write_text("extends: midwest\ncube: /cubes/a.zarr\nout: maps/ü\n")
    code, out, err = run("schedule", "own.yaml", "--kind", "kubernetes", *IMAGE["kubernetes"])
    assert code == 0
    config = next(iter(yaml.safe_load_all(out)))
    inside = tmp_path / "inside.yaml"
    inside.write_text(config["data"]["run.yaml"])
    assert load_config(UpscaleConfig, str(inside)) == load_config(UpscaleConfig, "own.yaml")
    assert "cube: /cubes/a.zarr is a path of this machine" in err
    assert "XDG_CACHE_HOME" in out


def test_a_machine_of_githubs_finds_the_configuration_in_the_repository(run, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "own.yaml").write_text("region: iowa\n")
    words = ["--kind", "github-actions", "--runner", "ubuntu-latest", "--install", "."]
    code, out, _ = run("schedule", "runs/own.yaml", *words)
    assert code == 0
    assert "python -m fluxgrid refresh ./runs/own.yaml" in out
    assert str(tmp_path) not in out


def test_two_configurations_of_one_folder_do_not_meet(run, tmp_path):
    for name in ("a b.yaml", "a_b.yaml"):
        (tmp_path / name).write_text("region: iowa\n")
        assert run("schedule", name, "--kind", "slurm", "--out", "jobs")[0] == 0
    assert len(list(Path("jobs").iterdir())) == 2
    assert run("schedule", "a b.yaml", "--kind", "slurm", "--out", "jobs", "--name", "mine")[0] == 0
    assert Path("jobs/mine.sbatch").is_file()


def test_texts_are_printed_as_they_are(run, monkeypatch):
    monkeypatch.setenv("FLUXGRID_NOTE", "[bold]:smile: ü")
    _, out, _ = run("schedule", "midwest", "--kind", "kubernetes", *IMAGE["kubernetes"])
    assert "[bold]:smile: ü" in out


def test_every_path_of_this_machine_is_noted_wherever_it_stands(run, tmp_path):
    hook = "[/usr/local/bin/tell, -c, '" + "x" * 300 + "']"
    source = "{location: /data/incoming, base: s3://bucket/land.zarr, pattern: '*.nc'}"
    (tmp_path / "own.yaml").write_text(f"region: iowa\nrefresh: {{source: {source}, on_failure: {hook}}}\n")
    _, _, err = run("schedule", "own.yaml", "--kind", "kubernetes", *IMAGE["kubernetes"])
    for part in ("refresh.source.location: /data/incoming", "refresh.on_failure.0: /usr/local/bin/tell"):
        assert f"{part} is a path of this machine" in err
    assert "s3://" not in err
