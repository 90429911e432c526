"""What `train` and `evaluate` refuse at the door, before they read or train anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fluxgrid import cli
from fluxgrid.config import TrainConfig
from fluxgrid.errors import OutputError, OutputExists, TableError
from fluxgrid.workflows.evaluate import evaluate
from fluxgrid.workflows.train import train


def config(out: Path) -> TrainConfig:
    """Return a configuration whose table does not exist: who asks for it has passed the door."""
    return TrainConfig.model_validate(
        {
            "name": "towers",
            "description": "a model",
            "step": "monthly",
            "sites": {"source": "tower_table", "path": str(out.parent / "no_table.parquet")},
            "inputs": {"dynamic": ["temperature_2m"]},
            "model": {"kind": "lightgbm"},
            "out": str(out),
        }
    )


@pytest.fixture
def evaluated(tmp_path) -> Path:
    """Return the `out` of a model that was evaluated before."""
    folder = tmp_path / "model-evaluation"
    folder.mkdir()
    (folder / "overall.csv").write_text("old")
    return tmp_path / "model"


def test_an_evaluation_is_not_replaced_unasked(evaluated):
    with pytest.raises(OutputExists, match=r"model-evaluation holds the tables .*\(overall\.csv\).*--overwrite"):
        evaluate(config(evaluated))


def test_it_is_replaced_where_that_was_said_but_not_before_there_is_another(evaluated):
    with pytest.raises(TableError):
        evaluate(config(evaluated), overwrite=True)
    assert Path(f"{evaluated}-evaluation/overall.csv").read_text() == "old"


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    (tmp_path / "model-evaluation").mkdir()
    (tmp_path / "model-evaluation" / "notes.txt").write_text("mine")
    with pytest.raises(TableError):
        evaluate(config(tmp_path / "model"))


@pytest.mark.parametrize("workflow", [train, evaluate])
def test_a_place_that_cannot_be_written_is_found_first(tmp_path, workflow):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*file/model"):
        workflow(config(tmp_path / "file" / "model"))


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_the_command_line_passes_overwrite_on(monkeypatch, tmp_path, words):
    seen = []

    def remember(_config, _report, overwrite, _jobs):
        seen.append(overwrite)
        raise TableError

    monkeypatch.setattr("fluxgrid.workflows.evaluate.evaluate", remember)
    monkeypatch.setattr("fluxgrid.config.load_config", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["fluxgrid", "evaluate", "x", *words])
    with pytest.raises(SystemExit):
        cli.main()
    assert seen == [bool(words)]
