"""Models compared at the same sites: every site held out once, nothing trained twice."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import yaml

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.splits import carbonbench_split, site_folds
from fluxgrid.errors import ConfigError, OutputExists
from fluxgrid.sources.base import SOURCES
from fluxgrid.testing import small_sites
from fluxgrid.workflows import evaluate as module
from fluxgrid.workflows.evaluate import evaluate
from fluxgrid.workflows.sites import evaluation_folds

VALUES = {
    "name": "towers",
    "description": "a model",
    "step": "daily",
    "sites": {"source": "tower_table", "path": "made up"},
    "inputs": {"dynamic": ["temperature_2m", "shortwave"], "static": ["crop_fraction"]},
    "model": {"kind": "mlp"},
    "fit": {"epochs": 2, "batch": 8, "validation": 0.3},
    "models": {
        "mlp": {"model": {"kind": "mlp", "hidden": 4}},
        "windows": {"model": {"kind": "ct_lstm", "window_mode": "exact", "hidden": 4, "window": 10, "stride": 5}},
        "streams": {"model": {"kind": "ct_gru", "hidden": 4}, "fit": {"window": 60}},
        "trees": {"model": {"kind": "lightgbm", "rounds": 5}, "inputs": {"dynamic": ["temperature_2m"]}},
    },
    "evaluation": {"folds": 2, "minimum": 20},
}


@pytest.fixture
def config(tmp_path, monkeypatch) -> TrainConfig:
    sites = small_sites("daily", n=6, periods=120)
    monkeypatch.setattr(module, "read_sites", lambda _: sites)
    module._sites.cache_clear()
    return load_config(TrainConfig, None, {**VALUES, "out": str(tmp_path / "model")})


def test_every_model_is_scored_at_every_site_on_the_same_days(config):
    outcome = evaluate(config)
    assert set(outcome.scores["model"]) == {"mlp", "windows", "streams", "trees", "climatology", "ridge"}
    counts = outcome.scores.pivot_table(index="site", columns=["model", "flux"], values="n")
    assert counts.shape == (6, 6 * 3)
    assert (counts.max(axis=1) == counts.min(axis=1)).all()
    kept = sorted(path.name for path in (outcome.folder / "predictions").iterdir())
    assert len(kept) == 4 * 2
    for path in (outcome.folder / "predictions").iterdir():
        table = pd.read_parquet(path)
        assert table["site"].nunique() == 3
        assert ((table["nee"] - (table["reco"] - table["gpp"])).abs() < 1e-6).all()


def test_what_was_trained_is_not_trained_again(config, monkeypatch):
    first = evaluate(config)
    kept = sorted((first.folder / "predictions").iterdir())
    kept[0].unlink()
    lines: list[str] = []
    with pytest.raises(OutputExists, match="--overwrite"):
        evaluate(config, lines.append)
    again = evaluate(config, lines.append, overwrite=True)
    assert len(lines) == 1
    assert lines[0].startswith("[8/8] ")
    pd.testing.assert_frame_equal(again.scores, first.scores)
    changed = {"models": {"mlp": {"model": {"kind": "mlp", "hidden": 5}}}}
    lines.clear()
    evaluate(load_config(TrainConfig, None, {**VALUES, **changed, "out": config.out}), lines.append, overwrite=True)
    assert [line.split(",")[0] for line in lines] == ["[1/2] mlp", "[2/2] mlp"]


def test_coverage_of_an_ensemble_stands_in_a_table_of_its_own(config):
    entries = {
        "alone": {"model": {"kind": "mlp", "hidden": 4}},
        "several": {"model": {"kind": "mlp", "hidden": 4}, "fit": {"members": 3, "epochs": 1}},
    }
    strict = {**VALUES["evaluation"], "minimum_qc": 0.8}
    values = {**VALUES, "models": entries, "evaluation": strict, "out": config.out}
    outcome = evaluate(load_config(TrainConfig, None, values))
    # three site groups of each training set are enough for one standard error and too few for 90 %
    assert outcome.coverage[["model", "level", "sites", "groups"]].drop_duplicates().to_numpy().tolist() == [
        ["several", 0.6827, 6, 6]
    ]
    assert list(outcome.coverage["flux"]) == ["nee", "gpp", "reco"]
    # counted on days of any quality, on which half-widths are fitted, though scores are not
    assert set(outcome.coverage["steps"]) == {6 * 120}
    assert outcome.scores["n"].max() < 120
    assert (outcome.coverage["half_width"] > 0).all()
    pd.testing.assert_frame_equal(pd.read_csv(outcome.folder / "coverage.csv"), outcome.coverage, check_dtype=False)
    kept = pd.read_parquet(next((outcome.folder / "predictions").glob("several-1-*")))
    assert [name for name in kept if "half" in name] == [f"{flux}_half_0.6827" for flux in ("nee", "gpp", "reco")]
    assert set(outcome.scores["model"]) == {"alone", "several", "climatology", "ridge"}


def test_without_models_the_one_of_the_configuration_is_evaluated(config):
    alone = config.model_copy(update={"models": {}})
    assert set(evaluate(alone).scores["model"]) == {"mlp", "climatology", "ridge"}


def test_published_scores_of_the_same_architectures_stand_beside(config, run, monkeypatch):
    config = config.model_copy(update={"models": {"trees": config.models["trees"]}})
    outcome = evaluate(config)
    assert set(outcome.published["model"]) == {"lightgbm"}
    stored = pd.read_csv(outcome.folder / "published.csv")
    assert len(stored) == len(outcome.published)
    assert stored["about"].str.contains("not the same data").all()
    assert (outcome.folder / "published.json").is_file()
    file = outcome.folder / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code, said, _ = run("evaluate", str(file), "--overwrite")
    assert code == 0
    assert said.startswith("2 folds of site groups\n")
    assert "Published (474 sites of CarbonBench; not the same data" in said
    monthly = config.model_copy(update={"step": "monthly", "models": {}})
    monkeypatch.setattr(module, "read_sites", lambda _: small_sites("monthly", n=4, periods=30))
    assert evaluate(monthly, overwrite=True).published.empty


def carbonbench_like(n=24):
    """Return sites of three climates and vegetation classes, the first two at one place."""
    sites = small_sites("daily", n=n, periods=120)
    changed = [
        replace(
            site,
            group="here" if number < 2 else site.id,
            statics={**site.statics, "igbp": float(number % 2), "climate_group": float(number % 3)},
        )
        for number, site in enumerate(sites)
    ]
    return replace(sites, sites=tuple(changed))


@pytest.mark.parametrize("split", ["igbp", "koppen"])
def test_one_split_of_carbonbench_in_the_place_of_folds(config, monkeypatch, split):
    sites = carbonbench_like()
    monkeypatch.setattr(module, "read_sites", lambda _: sites)
    models = {"mlp": config.models["mlp"]}
    settings = config.evaluation.model_copy(update={"split": split, "minimum_qc": 0.8})
    outcome = evaluate(config.model_copy(update={"evaluation": settings, "models": models}))
    expected = carbonbench_split(sites, split)
    assert set(outcome.scores["site"]) == set(expected.test)
    assert set(outcome.scores["model"]) == {"mlp", "climatology", "ridge"}
    assert len(list((outcome.folder / "predictions").iterdir())) == 1
    assert f"{len(expected.train)} sites to train, {len(expected.test)} held out" in outcome.about
    good = sum(int((sites[name].series["nee_qc"] >= 0.8).sum()) for name in expected.test)
    one = outcome.overall[(outcome.overall["model"] == "mlp") & (outcome.overall["flux"] == "gpp")]
    assert one["steps"].item() == good
    # one more site in training is another training
    published = settings.model_copy(update={"as_published": True})
    again = evaluate(config.model_copy(update={"evaluation": published, "models": models}), overwrite=True)
    whole = carbonbench_split(sites, split, groups=False)
    assert "as published" in again.about
    assert set(again.scores["site"]) == set(whole.test)
    assert len(list((outcome.folder / "predictions").iterdir())) == 1 + (whole.train != expected.train)


def test_sites_are_split_before_inputs_are_looked_at(config):
    sites = carbonbench_like()
    usable = sites.select(sites.ids[1:-1])
    settings = config.evaluation.model_copy(update={"split": "koppen"})
    (fold,) = evaluation_folds(settings, sites, usable)
    whole = carbonbench_split(sites, "koppen")
    assert set(fold.test) == set(whole.test) & set(usable.ids)
    assert set(fold.train) == set(whole.train) & set(usable.ids)
    with pytest.raises(ConfigError, match="bring all inputs; take folds"):
        evaluation_folds(settings, sites, sites.select(whole.test))
    stratified = config.evaluation.model_copy(update={"stratify": "climate_group"})
    assert evaluation_folds(stratified, sites, usable) == site_folds(usable, 2, 56, "climate_group")


def test_settings_of_all_models_are_checked_before_any_is_trained(config):
    wrong = {
        "one": {"model": {"kind": "mlp"}, "fit": {"epoch": 3}},
        "two": {"model": {"kind": "gru"}, "fit": {"batch": 0}},
    }
    with pytest.raises(ConfigError) as caught:
        evaluate(load_config(TrainConfig, None, {**VALUES, "models": wrong, "out": config.out}))
    assert "models.one.fit.epoch" in str(caught.value)
    assert "models.two.fit.batch" in str(caught.value)
    with pytest.raises(ConfigError, match="ridge is the name of a baseline"):
        evaluate(
            load_config(
                TrainConfig, None, {**VALUES, "models": {"ridge": wrong["one"] | {"fit": {}}}, "out": config.out}
            )
        )
    unknown = {"one": {"model": {"kind": "mpl"}}}
    with pytest.raises(Exception, match="Did you mean 'mlp'"):
        evaluate(load_config(TrainConfig, None, {**VALUES, "models": unknown, "out": config.out}))
    assert "tower_table" in SOURCES
