"""An experiment with tiny networks from the plan to the tables: nothing that stands is trained again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid import cli
from fluxgrid.config import load_config
from fluxgrid.config_kgml import ExperimentConfig
from fluxgrid.errors import ConfigError, OutputError, OutputExists
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.simulation import world_digest
from fluxgrid.training.kgml.regimes import RegimeSettings, score, scored_fields
from fluxgrid.training.kgml.walk import fit_crop_scalers
from fluxgrid.workflows import experiment_runs
from fluxgrid.workflows.experiment import carry_out_all, experiment, plan
from fluxgrid.workflows.experiment_runs import Regions, ScheduledSettings, _climate, _score_regions, read_result

SETTINGS = {
    "counts": {"IA": 4, "IL": 4},
    "test_count": 2,
    "train_years": [2016, 2017],
    "test_years": [2019, 2019],
    "steps": 2,
    "tune_steps": 2,
    "hidden": 4,
    "spin_up_years": 1,
}


def config(out: Path, **changes: object) -> ExperimentConfig:
    """Return a tiny experiment."""
    values = {"settings": SETTINGS, "seeds": [0, 1], "groups": [["IL", "IA"]], "shares": [0.5], "regions": 2}
    return load_config(ExperimentConfig, None, {**values, "out": str(out), **changes})


@pytest.fixture(scope="module", autouse=True)
def grown_once():
    """Grow the same fields once: most of the time of a tiny run goes there."""

    def remembered(function):
        known = {}

        def call(settings, *key):
            if (repr(settings), *key) not in known:
                known[repr(settings), *key] = function(settings, *key)
            return known[repr(settings), *key]

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("training_fields", "scored_fields"):
            patch.setattr(experiment_runs, name, remembered(getattr(experiment_runs, name)))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a finished experiment and the lines it reported."""
    lines: list[str] = []
    outcome = experiment(config(tmp_path_factory.mktemp("made")), "regimes", report=lines.append)
    return outcome, lines


def test_order_of_runs(tmp_path):
    names = [planned.run.name for planned in plan(config(tmp_path), "regimes")]
    seeds = [name[-1] for name in names[:-2]]
    assert seeds == sorted(seeds)  # a stopped experiment has complete seeds
    assert names[0] == "global-IA+IL-seed0"
    assert names[-2:] == ["sdsa-IA+IL-seed0", "sdsa-IA+IL-seed1"]
    assert len(names) == len(set(names)) == 2 * (1 + 3 + 2 + 3 + 1)
    runs = plan(config(tmp_path), "regimes")
    for number, planned in enumerate(runs):
        assert planned.parent is None or planned.parent in runs[:number]


def test_a_cut_state_is_cut_for_the_model_that_is_tuned_too(tmp_path, made):
    results = {result.run.name: result for result in made[0].results}
    assert results["site-only-IA-50pc-seed0"].fields == results["ftbsc-IA-50pc-seed0"].fields == 2
    assert results["global-IA+IL-50pc-seed0"].fields == 2 + 4
    assert results["ftbsc-IA-50pc-seed0"].run.tuned_from == "global-IA+IL-50pc-seed0"


def test_what_decides_a_run(tmp_path):
    def digests(**changes):
        runs = plan(config(tmp_path, **changes), "regimes")
        return {planned.run.name: planned.digest for planned in runs}

    before = digests()
    tuned = digests(settings={**SETTINGS, "mu": 0.5})
    changed = {name for name in before if before[name] != tuned[name]}
    assert changed == {name for name in before if name.startswith("ftbsc")}
    heavier = digests(settings={**SETTINGS, "rho": [0.5]})
    wider = digests(settings={**SETTINGS, "hidden": 6})
    assert all(before[name] != heavier[name] for name in before)
    assert all(before[name] != wider[name] for name in before)
    regions = digests(regions=3)
    assert {name for name in before if before[name] != regions[name]} == {"sdsa-IA+IL-seed0", "sdsa-IA+IL-seed1"}
    assert len(set(before.values())) == len(before)
    assert all(digests(seeds=[1])[name] == before[name] for name in digests(seeds=[1]))


def test_results_and_products(made):
    outcome, lines = made
    assert len(lines) == len(outcome.results) == 20
    assert lines[-1].startswith("[20/20] sdsa-IA+IL-seed1: MSE IA ")
    assert {path.name for path in outcome.folder.iterdir()} == {"runs", "tables.md", "regimes.png", "regimes.json"}
    row = json.loads((outcome.folder / "regimes.json").read_text())
    assert row["world_digest"] == world_digest()
    assert "Synthetic data" in row["data"]
    assert set(row["tables"]) == {"skill", "differences", "heat_map", "shares", "share_differences"}
    assert len(row["runs"]) == 20 * 2 * 6  # runs, states, five quantities and their mean
    assert "Synthetic data" in (outcome.folder / "tables.md").read_text()
    runs = sorted(path.name for path in (outcome.folder / "runs").iterdir())
    assert len(runs) == 40
    one = json.loads((outcome.folder / "runs" / runs[0]).read_text())
    assert one["digest"].startswith(runs[0].removesuffix(".json").rpartition("-")[2])
    assert set(one["scores"]) == {"IA", "IL"}
    assert np.isfinite([s["mse_z"] for each in one["scores"].values() for s in each.values()]).all()


def test_what_stands_is_not_trained_again(made, monkeypatch):
    outcome, _ = made

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("fluxgrid.workflows.experiment.carry_out", fail)
    folder = outcome.folder / "runs"
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = experiment(outcome.config, "regimes")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    assert [result.scores for result in again.results] == [result.scores for result in outcome.results]


def test_tables_of_other_settings_are_not_replaced(made):
    folder = made[0].folder
    before = (folder / "tables.md").read_text()
    with pytest.raises(OutputExists, match=r"regimes\.json holds an experiment with other settings"):
        experiment(config(folder, settings={**SETTINGS, "steps": 3}), "regimes")
    for fewer in ({"seeds": [1]}, {"shares": []}):
        with pytest.raises(OutputExists, match=f"other {next(iter(fewer))}"):
            experiment(config(folder, **fewer), "regimes")
    assert (folder / "tables.md").read_text() == before


def test_a_run_made_again_is_the_same(made):
    """Whatever ran before it: a run seeds itself."""
    outcome, _ = made
    planned = next(p for p in plan(outcome.config, "regimes") if p.run.regime == "ftbsc" and p.run.seed == 1)
    before, weights = read_result(planned), planned.weights.read_bytes()
    planned.path.unlink()  # stopped between weights and JSON
    assert not planned.stands
    torch.manual_seed(77)
    lines: list[str] = []
    carry_out_all(plan(outcome.config, "regimes"), 1, lines.append)
    assert len(lines) == 1
    assert read_result(planned).scores == before.scores
    assert planned.weights.read_bytes() == weights


def test_a_damaged_result_is_named(made, tmp_path):
    planned = plan(made[0].config, "regimes")[0]
    other = replace(planned, folder=tmp_path)
    other.path.write_text('{"scores": ')
    with pytest.raises(OutputError, match=r"global-IA\+IL-seed0-.*Remove it"):
        read_result(other)


def test_sensitivity_takes_over_what_stands(made, monkeypatch):
    outcome, _ = made
    variants = {
        "published": {"learning_rate": 1e-3, "batch": 4},
        "B": {"learning_rate": 1e-2, "batch": 4, "schedule": "restarts"},
    }
    folder = outcome.folder / "runs"
    own = config(outcome.folder / "sensitivity", variants=variants, runs=str(folder), seeds=[0])
    runs = plan(own, "sensitivity")
    assert [planned.run.name for planned in runs if planned.stands] == [
        *("global-IA+IL-seed0", "site-only-IA-seed0", "site-only-IL-seed0", "ftbsc-IA-seed0", "ftbsc-IL-seed0")
    ]
    found = experiment(own, "sensitivity")
    assert {path.name for path in found.folder.iterdir()} == {"tables.md", "sensitivity.png", "sensitivity.json"}
    rows = json.loads((found.folder / "sensitivity.json").read_text())["tables"]["sensitivity"]
    assert [(row["setting"], row["state"]) for row in rows] == [
        (setting, state) for state in ("IA", "IL") for setting in ("baseline", "published", "B")
    ]
    assert rows[1]["ftbsc"] != rows[2]["ftbsc"]


def test_schedules_of_a_variant():
    base = RegimeSettings(steps=480)
    steps = {name: ScheduledSettings(steps=480, schedule=name).kgml(90, 0, False) for name in ("step", "restarts")}
    epochs = base.kgml(90, 0, False).emulate_ra.epochs
    assert {step.emulate_rest.epochs for step in steps.values()} == {epochs}
    assert steps["step"].emulate_ra.schedule == "step"
    assert 3 * steps["step"].emulate_ra.every < epochs <= 4 * steps["step"].emulate_ra.every  # four rates are used
    assert 3 * steps["restarts"].emulate_ra.every < epochs <= 7 * steps["restarts"].emulate_ra.every  # three cosines


def test_regions_of_one_network_score_as_the_network():
    settings = RegimeSettings(**{**SETTINGS, "test_count": 5})
    fields = scored_fields(settings, "IA")
    torch.manual_seed(0)
    network = KGMLAg(4, 0.0)
    network.set_scalers(fit_crop_scalers(fields))
    places = _climate(fields)
    moments = np.stack([places.mean(axis=0), places.std(axis=0)])
    model = Regions([network, network], ((places - moments[0]) / moments[1])[[0, 3]], moments)
    assert model.of(fields)[[0, 3]].tolist() == [0, 1]
    pooled, whole = _score_regions(model, fields, settings), score(network, fields, settings)
    for name, row in whole.items():
        for key, value in row.items():
            assert pooled[name][key] == pytest.approx(value, rel=1e-5, abs=1e-6)  # float32 sums in another order


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"groups": [["IA", "OH"]], "share_state": "OH"}, [r"groups: IA\+OH names", "share_state: 'OH' has no count"]),
        ({"regimes": ["ftbsc"]}, ["ftbsc is tuned from global"]),
        ({"seeds": [1, 1]}, [r"seeds: \[1, 1\] repeats one"]),
        (
            {"variants": {"baseline": {"learning_rate": 1e-3, "batch": 4}}},
            ["'baseline' is what `settings` gives", "are of `fluxgrid experiment sensitivity`"],
        ),
    ],
)
def test_what_does_not_fit_is_said_at_once(tmp_path, changes, texts):
    for text in texts:
        with pytest.raises(ConfigError, match=text):
            plan(config(tmp_path, **changes), "regimes")


def test_sensitivity_needs_variants(tmp_path):
    with pytest.raises(ConfigError, match="variants: none is given"):
        plan(config(tmp_path), "sensitivity")


def test_dry_run_lists_and_writes_nothing(tmp_path, monkeypatch, capsys):
    words = ["fluxgrid", "experiment", "regimes", "regimes", "--dry-run", f"out={tmp_path / 'new'}", "seeds=[3]"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.count("to do   ") == 18
    assert "0 of 18 runs stand." in out
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_processes_do_not_change_the_numbers(made, tmp_path):
    own = config(tmp_path, seeds=[0], groups=[], shares=[], regimes=["global", "site-only", "ftbsc"])
    results = carry_out_all(plan(own, "regimes"), 2, lambda _: None)
    serial = {result.run.name: result.scores for result in made[0].results}
    assert all(result.scores == serial[result.run.name] for result in results)
