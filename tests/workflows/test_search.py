"""A search of settings on tiny towers: what is tried, scored, kept and made of it."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.sites import Sites
from fluxgrid.data.splits import Fold, carbonbench_split, site_folds
from fluxgrid.errors import ConfigError, OutputExists, TrainingDiverged
from fluxgrid.models import load_checkpoint
from fluxgrid.testing import small_sites
from fluxgrid.training.losses import with_nee
from fluxgrid.training.sequences import inputs_of, make_sequence
from fluxgrid.training.train import held_out_loss, train_model
from fluxgrid.workflows import search as module
from fluxgrid.workflows import train as train_module
from fluxgrid.workflows.search import search, search_grid
from fluxgrid.workflows.sites import model_spec

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other

SITES = small_sites(n=9)
VALUES = {
    "name": "tiny",
    "description": "a model",
    "step": "monthly",
    "sites": {"source": "tower_table", "path": "made up"},
    "inputs": {"dynamic": ["temperature_2m", "shortwave"]},
    "model": {"kind": "mlp", "hidden": 4},
    "fit": {"epochs": 2, "batch": 8, "validation": 0.3, "window": 12},
    "search": {"folds": 2, "grid": {"model.hidden": [2, 8], "fit.learning_rate": [0.001, 0.03]}},
}


@pytest.fixture
def config_of(tmp_path, monkeypatch):
    """Return a function that gives a configuration of these towers, with changes of its search."""
    monkeypatch.setattr(module, "read_sites", lambda _: SITES)
    monkeypatch.setattr(train_module, "read_sites", lambda _: SITES)

    def make(out: str = "model", **changes) -> TrainConfig:
        own = {"search": {**VALUES["search"], **changes}, "out": str(tmp_path / out)}
        return load_config(TrainConfig, None, {**VALUES, **own})

    return make


@pytest.fixture
def untrained(monkeypatch):
    """Put one loss in the place of all training; return the list that the folds of each search go to."""
    seen: list[tuple[Fold, ...]] = []

    def scorer(_config, _sites, folds):
        seen.append(folds)
        return lambda _: iter([0.5] * len(folds))

    monkeypatch.setattr(module, "_scorer", scorer)
    monkeypatch.setattr(module, "train", lambda *_: None)
    return seen


def test_all_of_a_small_grid_is_tried_and_the_best_is_trained(config_of, tmp_path):
    lines: list[str] = []
    outcome = search(config_of(), lines.append)
    assert lines[0] == "4 of 4 settings of mlp, each on 2 folds of 9 sites"
    points = {tuple(trial.settings.values()) for trial in outcome.trials}
    assert points == {(2, 0.001), (2, 0.03), (8, 0.001), (8, 0.03)}
    assert len(outcome.trials) == 4
    assert outcome.best.loss == min(trial.loss for trial in outcome.trials)
    table = pd.read_csv(outcome.folder / "trials.csv")
    assert list(table.columns[:4]) == ["trial", "loss", "fold_1", "fold_2"]
    np.testing.assert_allclose(table["loss"], table[["fold_1", "fold_2"]].mean(axis=1))
    assert {path.name for path in outcome.folder.iterdir()} == {"study.db", "trials.csv", "search.png", "best.yaml"}
    best = load_config(TrainConfig, str(outcome.folder / "best.yaml"))
    assert best.model.settings["hidden"] == outcome.best.settings["model.hidden"]
    assert best.fit.learning_rate == outcome.best.settings["fit.learning_rate"]
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.spec.settings["hidden"] == outcome.best.settings["model.hidden"]
    assert load_config(TrainConfig, str(tmp_path / "model" / "config.yaml")) == best


def test_the_score_is_the_loss_at_sites_that_had_no_part(config_of):
    """The slow reference: site by site in float64, over the variance at the sites the weights were fitted to."""
    config = config_of()
    fold = site_folds(SITES, 2, config.search.seed)[0]
    spec = model_spec(config, SITES)
    trained = train_model(SITES.select(fold.train), spec, config.fit)
    assert not {*trained.sites, *trained.validation} & {*fold.test}

    def arrays(ids):
        inputs = inputs_of(SITES, spec.inputs, spec.step)
        return [make_sequence(SITES[i], inputs[i], spec.inputs, trained.scaler, spec.step, 1) for i in ids]

    variance = np.var(np.concatenate([s.targets[s.spin_up :] for s in arrays(trained.sites)]).astype(float), axis=0)
    squares, weights = np.zeros(3), 0.0
    for sequence in arrays(fold.test):
        dynamic, static = torch.from_numpy(sequence.dynamic[None]), torch.from_numpy(sequence.static[None])
        fluxes, _ = trained.model.predict(dynamic, static, torch.zeros(1, 0))
        error = (with_nee(fluxes)[0].numpy() - sequence.targets)[sequence.spin_up :].astype(float)
        weight = sequence.weights[sequence.spin_up :].astype(float)
        squares += (weight[:, None] * error**2).sum(axis=0)
        weights += weight.sum()
    expected = (squares / weights / variance).mean()
    assert held_out_loss(trained, SITES, fold.test, spec, config.fit) == pytest.approx(expected, rel=1e-5)
    several = config.changed({"fit.members": 3})  # a trial is one seed all the same
    unseen = list(module._scorer(several, SITES, (fold,))({"model.hidden": 4}))
    assert unseen == [held_out_loss(trained, SITES, fold.test, spec, config.fit)]
    point = {"fit.loss.quality": False, "fit.window": 6}  # trained otherwise, scored by the same measure
    other = config.changed(point)
    trained = train_model(SITES.select(fold.train), spec, other.fit)
    judged = held_out_loss(trained, SITES, fold.test, spec, config.fit)
    assert list(module._scorer(config, SITES, (fold,))(point)) == [judged]
    assert judged != held_out_loss(trained, SITES, fold.test, spec, other.fit)


@pytest.mark.parametrize("changes", [{}, {"trials": 3}, {"trials": 3, "prune": True}])
def test_a_search_that_was_stopped_goes_on_to_the_same_best(config_of, monkeypatch, changes):
    whole = search(config_of("whole", **changes))
    scorer, count = module._scorer, [0]

    def stopped(*given):
        def score(point):
            count[0] += 1
            if count[0] == 3:
                raise KeyboardInterrupt
            yield from scorer(*given)(point)

        return score

    monkeypatch.setattr(module, "_scorer", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(config_of("stopped", **changes))
    lines: list[str] = []
    again = search(config_of("stopped", **changes), lines.append)
    assert any(line.startswith("2 trials stand in") for line in lines)
    assert count[0] == 3 + len(whole.trials) - 2
    assert [(t.settings, t.folds) for t in again.trials] == [(t.settings, t.folds) for t in whole.trials]
    assert again.best.settings == whole.best.settings


def test_more_trials_build_on_those_that_stand(config_of, tmp_path, monkeypatch):
    few = search(config_of(trials=2))
    (tmp_path / "model").rename(tmp_path / "first")
    all_of_them = search(config_of(trials=9))
    assert all_of_them.trials[:2] == few.trials
    assert len({tuple(trial.settings.values()) for trial in all_of_them.trials}) == 4


def test_other_settings_of_training_are_another_search(config_of, tmp_path):
    search(config_of())
    other = load_config(
        TrainConfig, None, {**VALUES, "fit": {**VALUES["fit"], "epochs": 1}, "out": str(tmp_path / "model")}
    )
    (tmp_path / "model").rename(tmp_path / "first")
    lines: list[str] = []
    assert len(search(other, lines.append).trials) == 4
    assert not any("stand in" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value", "stand"), [("model.closure", "free", False), ("fit.members", 3, True), ("fit.tries", 2, True)]
)
def test_trials_stand_unless_their_losses_would_be_others(config_of, untrained, key, value, stand):
    search(config_of())
    lines: list[str] = []
    search(config_of().changed({key: value}), lines.append)
    assert any(line.startswith("4 trials stand in") for line in lines) == stand
    assert len(untrained) == 2


def split_sites(split: str, seed: int) -> tuple[Sites, Fold]:
    """Return sites of several classes and their split; a training site stands at the place of a test site."""
    sites = small_sites(n=24)
    classed = [
        replace(site, statics={**site.statics, "igbp": float(i % 2), "climate_group": float(i % 3)})
        for i, site in enumerate(sites)
    ]
    fold = carbonbench_split(replace(sites, sites=tuple(classed)), split, seed)
    beside = [replace(site, group=fold.test[0]) if site.id == fold.train[0] else site for site in classed]
    return replace(sites, sites=tuple(beside)), fold


@pytest.mark.parametrize(
    ("split", "seed", "as_published"), [("igbp", 56, False), ("koppen", 56, True), ("koppen", 7, False)]
)
def test_settings_are_chosen_without_the_test_sites_of_a_split(
    config_of, untrained, monkeypatch, split, seed, as_published
):
    sites, fold = split_sites(split, seed)
    beside, blind, *rest = fold.train  # the first stands beside a test site, the second lacks an input
    unseen = replace(sites[blind], series=sites[blind].series.assign(shortwave=np.nan))
    changed = replace(sites, sites=tuple(unseen if site.id == blind else site for site in sites))
    monkeypatch.setattr(module, "read_sites", lambda _: changed)
    evaluation = {"split": split, "seed": seed, "as_published": as_published}
    lines: list[str] = []
    search(config_of(folds=3).changed({"evaluation": evaluation}), lines.append)
    (folds,) = untrained
    wanted = sorted([beside, *rest] if as_published else rest)
    assert sorted(each for part in folds for each in part.test) == wanted
    assert all(sorted((*part.train, *part.test)) == wanted for part in folds)
    assert not {*wanted} & {*fold.test}
    assert lines[0].endswith(f"each on 3 folds of {len(wanted)} sites")


def test_a_split_that_leaves_nothing_to_search_on(config_of, untrained, monkeypatch):
    sites, fold = split_sites("koppen", 56)
    kept = {*fold.test, *fold.train[:3]}
    bare = [s if s.id in kept else replace(s, series=s.series.assign(shortwave=np.nan)) for s in sites]
    monkeypatch.setattr(module, "read_sites", lambda _: replace(sites, sites=tuple(bare)))
    with pytest.raises(ConfigError, match="of the koppen split that bring all inputs leave a fold of the search empty"):
        search(config_of(folds=6).changed({"evaluation.split": "koppen"}))
    assert not untrained


@pytest.mark.usefixtures("untrained")
def test_what_was_found_is_what_evaluate_scores(config_of):
    listed = {"other": {"model": {"kind": "lightgbm"}}}
    outcome = search(config_of(grid={"model.hidden": [3]}).changed({"models": listed}))
    entries = load_config(TrainConfig, str(outcome.folder / "best.yaml")).entries
    assert {name: entry.model.settings["hidden"] for name, entry in entries.items()} == {"mlp": 3}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("source", "marked"), [("synthetic", True), ("world_cells", True), ("tower_table", False)])
def test_a_picture_of_sites_that_are_made_up_says_so(config_of, monkeypatch, source, marked):
    drawn: list[bool] = []
    monkeypatch.setattr(module, "draw_search", lambda *given: drawn.append(given[-1]))
    search(config_of().changed({"sites.source": source}))
    assert drawn == [marked]


def test_training_that_diverges_is_a_bad_setting_not_an_error(config_of, monkeypatch):
    real = module.train_model

    def wild(sites, spec, settings):
        if settings.learning_rate > 0.01:
            raise TrainingDiverged
        return real(sites, spec, settings)

    monkeypatch.setattr(module, "train_model", wild)
    outcome = search(config_of())
    assert sorted(np.isfinite(trial.loss) for trial in outcome.trials) == [False, False, True, True]
    assert outcome.best.settings["fit.learning_rate"] == 0.001
    assert np.isinf(pd.read_csv(outcome.folder / "trials.csv")["loss"]).sum() == 2
    monkeypatch.setattr(module, "train_model", lambda *_: wild(*_[:2], replace(_[2], learning_rate=1.0)))
    with pytest.raises(ConfigError, match="None of the 4 trials had a finite loss"):
        search(config_of("none"))


def test_everything_wrong_with_the_grid_is_listed(config_of):
    wrong = {
        "model.hiden": [3],
        "model.dropout": [0.1, 1.5],
        "fit.epoch": [3],
        "fit.batch": [0],
    }
    with pytest.raises(ConfigError, match="The grid of the search") as caught:
        search_grid(config_of(grid=wrong))
    for text in (
        "hiden: There is no option named 'hiden'. Did you mean 'hidden'?",
        "dropout: ",
        "1.5",
        "'epoch'",
        "fit.batch: ",
    ):
        assert text in str(caught.value)
    stray = {"inputs.dynamic": ["a"], "model.kind": ["lstm"], "fit.members": [2], "fit.tries": [2, 3]}
    stray |= {"fit.batch": [4, 4], "fit.clip": []}
    with pytest.raises(ConfigError) as caught:
        search_grid(config_of(grid=stray))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  - inputs.dynamic",
        "  - model.kind",
        "  - fit.members",
        "  - fit.tries",
        "  - fit.batch",
        "  - fit.clip",
    ]
    with pytest.raises(ConfigError, match="names no setting"):
        search_grid(config_of(grid={}))


def test_values_that_do_not_go_together_are_found_before_any_is_tried(config_of):
    config = config_of(grid={"model.hidden": [64, 96], "model.attention_heads": [8, 64]})
    transformer = config.changed({"model": {"kind": "transformer"}})
    with pytest.raises(ConfigError, match="64 do not share a width of 96 evenly"):
        search_grid(transformer)


def test_the_grid_of_carbonbench_is_that_of_its_code_unless_the_papers_is_wanted(config_of):
    for kind in ("mlp", "lstm", "ct_lstm", "gru", "ct_gru", "transformer", "patch_transformer", "tam_rl", "lightgbm"):
        for space in ("code", "paper"):
            config = config_of(grid=None, space=space).changed({"model": {"kind": kind}})
            assert search_grid(config)
    config = config_of(grid=None).changed({"model": {"kind": "tam_rl"}})
    assert search_grid(config)["fit.learning_rate"] == (1e-4, 1e-3)
    with pytest.raises(ConfigError, match=r"search: space: paper and grid are two grids"):
        config_of(space="paper")
    with pytest.raises(ConfigError, match="'kgml_ag' has no grid of its own"):
        search_grid(config_of(grid=None).changed({"model": {"kind": "kgml_ag"}}))


def test_a_checkpoint_is_not_replaced(config_of, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputExists):
        search(config_of())


def test_without_optuna_the_extra_is_named(config_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'fluxgrid\[search\]'"):
        search(config_of())


def test_the_command_line_searches_and_prints_yaml(config_of, run, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "out": str(tmp_path / "model")}))
    code, out, err = run("train", str(path), "--search", "--trials", "1")
    assert code == 0, err
    assert "[1/1] loss" in err
    assert out.startswith("Best of 1 trials: loss ")
    text = "\n".join(out[: out.index("Trials, picture")].splitlines()[1:])
    assert set(yaml.safe_load(text)) == {"model", "fit"}
    code, _, err = run("train", str(path), "--trials", "3")
    assert code == 2
    assert "say --search as well" in err
    code, _, err = run("train", "train_default", "--search")
    assert code == 2
    assert "is a recipe" in err
