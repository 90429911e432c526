from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
import yaml

from fluxgrid.config import TrainConfig, UpscaleConfig, load_config, shipped_runs, written_config
from fluxgrid.data.gaps import GapRule
from fluxgrid.errors import ConfigError, UnknownName

TRAIN = {
    "name": "towers",
    "description": "a model",
    "step": "monthly",
    "sites": {"source": "tower_table", "path": "towers.parquet"},
    "inputs": {"dynamic": ["temperature_2m"], "gaps": {"temperature_2m": {"linear_steps": 2}}},
    "model": {"kind": "ct_gru", "hidden": 16},
    "out": "checkpoints/towers",
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(TRAIN))
    return str(path)


def test_a_file_is_read_and_the_rest_is_default(file):
    config = load_config(TrainConfig, file)
    assert config.inputs.gaps == {"temperature_2m": GapRule(2)}
    assert config.model.settings == {"hidden": 16}
    assert config.model.spin_up_years == 1
    assert config.fit.epochs == 60
    assert config.evaluation.folds == 5


def test_a_config_survives_being_stored(file, tmp_path):
    """Checkpoints keep the whole configuration; it must give the same run again."""
    config = load_config(TrainConfig, file)
    stored = tmp_path / "stored.yaml"
    stored.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(TrainConfig, str(stored)) == config


def test_overrides_win_are_yaml_and_reach_any_depth(file):
    words = [
        "fit.epochs=3",
        "model.hidden=32",
        "inputs.dynamic=[vpd, lai]",
        "name=other",
        "inputs.gaps.vpd.linear_steps=1",
    ]
    config = load_config(TrainConfig, file, words)
    assert (config.fit.epochs, config.model.settings["hidden"], config.name) == (3, 32, "other")
    assert config.inputs.dynamic == ("vpd", "lai")
    assert config.inputs.gaps == {"temperature_2m": GapRule(2), "vpd": GapRule(1)}
    assert config.sites.path == "towers.parquet"


def test_options_of_python_that_are_none_are_left_out():
    config = load_config(UpscaleConfig, None, {"region": "iowa", "tile": None, "start": "2019-01-01"})
    assert (config.region, config.tile, config.start) == ("iowa", 32, date(2019, 1, 1))


@pytest.mark.parametrize("word", ["epochs", "=3", "fit.epochs=[", "fit.epochs={a: 1, a: 2}"])
def test_an_override_that_cannot_be_read(word):
    with pytest.raises(ConfigError, match=r"The override '.*' cannot be read\. Write key=value or key\.sub=value"):
        load_config(UpscaleConfig, None, [word])


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (
            "regoin=iowa",
            r"regoin: There is no key named 'regoin'\. Did you mean 'region'\? Known: allow_mixed, calibration",
        ),
        ("sites.pth=x", r"sites\.pth: There is no key named 'pth'\. Did you mean 'path'"),
        ("fit.epoch=3", r"fit\.epoch: There is no key named 'epoch'\. Did you mean 'epochs'"),
        (
            "inputs.gaps.vpd={linear_steps: 1, harmonic: 2}",
            r"inputs\.gaps\.vpd\.harmonic: There is no key named 'harmonic'\. Did you mean 'harmonics'",
        ),
    ],
)
def test_an_unknown_key_gets_the_nearest_at_any_depth(file, word, text):
    kind, path = (UpscaleConfig, None) if word.startswith("reg") else (TrainConfig, file)
    with pytest.raises(ConfigError, match=text):
        load_config(kind, path, [word])


def test_all_problems_are_listed_at_once(file):
    words = ["step=weekly", "fit.epochs=0", "evaluation.folds=1", "model.kind=null", "colour=red", "name=a b"]
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, file, words)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"The configuration {file} is wrong:"
    assert [line.split(":")[0].strip(" -") for line in lines[1:]] == [
        "name", "step", "model.kind", "fit.epochs", "evaluation.folds", "colour",
    ]  # fmt: skip
    assert "(given 'weekly')" in str(caught.value)


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match="The configuration given is wrong") as caught:
        load_config(TrainConfig, None)
    assert {"- sites: field required", "- out: field required"} <= {
        x.split(" (")[0].strip() for x in str(caught.value).splitlines()
    }


@pytest.mark.parametrize("word", ["tile=48", "tile=0", "workers=0", "max_missing=2", "device=tpu", "start=tomorrow"])
def test_values_out_of_range(word):
    with pytest.raises(ConfigError, match=rf"- {word.split('=')[0]}: .* \(given"):
        load_config(UpscaleConfig, None, [word])


def test_the_environment_is_filled_in(monkeypatch):
    monkeypatch.setenv("FG_DATA", "/data")
    config = load_config(UpscaleConfig, None, ["cube=$FG_DATA/cube.nc", "out=${FG_DATA}/maps", "region='costs $5'"])
    assert (config.cube, config.out, config.region) == ("/data/cube.nc", "/data/maps", "costs $5")


def test_every_name_that_is_not_set_is_listed(monkeypatch, file):
    for name in ("FG_ONE", "FG_TWO"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="needs environment variables") as caught:
        load_config(TrainConfig, file, ["sites.path=$FG_ONE/a", "sites.options={list: ['${FG_TWO}']}"])
    assert "FG_ONE is not set: export FG_ONE=/path/to/folder" in str(caught.value)
    assert "FG_TWO is not set" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not readable YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not readable YAML"),
        ("region: iowa\nregion: ohio\n", "the key 'region' is given twice"),
        ("- region", "must hold keys and values, not list"),
        ("", "must hold keys and values, not NoneType"),
    ],
)
def test_what_is_no_configuration(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(UpscaleConfig, str(path))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00region")
    with pytest.raises(ConfigError, match="is not readable YAML"):
        load_config(UpscaleConfig, str(path))


def test_an_unknown_file_names_the_shipped_ones():
    with pytest.raises(UnknownName, match=r"named 'midwst'\. Did you mean 'midwest'") as caught:
        load_config(UpscaleConfig, "midwst")
    assert all(name in str(caught.value) for name in shipped_runs())


def test_a_shipped_run_is_found_by_name():
    config = load_config(UpscaleConfig, "midwest", ["resolution=0.25"])
    assert (config.region, config.resolution) == ("midwest", 0.25)


def test_a_configuration_extends_another_key_by_key(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXGRID_TEST_DATA", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("extends: towers_benchmark\nfit: {epochs: 3}\nout: elsewhere\n")
    mine = load_config(TrainConfig, str(tmp_path / "mine.yaml"))
    base = load_config(TrainConfig, "towers_benchmark")
    assert mine.fit == replace(base.fit, epochs=3)
    assert (mine.out, mine.models) == ("elsewhere", base.models)


def test_configurations_that_extend_each_other_are_an_error(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {tmp_path / other}.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(TrainConfig, str(tmp_path / "a.yaml"))


def test_what_is_extended_may_stand_beside_and_leaves_no_options_of_another_architecture(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(TRAIN))
    (folder / "trees.yaml").write_text("extends: base.yaml\nmodel: {kind: lightgbm}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(TrainConfig, "mine/trees.yaml")
    assert config.model.kind == "lightgbm"
    assert config.model.settings == {}
    assert config.inputs.dynamic == ("temperature_2m",)


def test_an_entry_keeps_the_terms_it_does_not_name():
    values = {
        **TRAIN,
        "fit": {"regime": "meta", "meta": {"tasks": 3}, "loss": {"classes": ["igbp"], "site_variance": 1.0}},
        "models": {
            "one": {"model": {"kind": "mlp"}, "fit": {"loss": {"carbon_balance": 0.5}}},
            "two": {"model": {"kind": "mlp"}, "fit": {"regime": "joint"}},
        },
    }
    one, two = load_config(TrainConfig, None, values).entries.values()
    assert (one.fit.loss.classes, one.fit.loss.site_variance, one.fit.loss.carbon_balance) == (("igbp",), 1.0, 0.5)
    assert one.fit.meta.tasks == 3
    assert two.fit.meta is None


def test_a_refresh_that_is_extended_keeps_what_it_does_not_say_otherwise(tmp_path):
    """Its `source` is a mapping: another place to look at is no other kind of refresh."""
    (tmp_path / "base.yaml").write_text(
        "region: iowa\nrefresh: {on_failure: [tell], guards: {totals_move: 0.1}, source: {location: /a, settle: 60}}\n"
    )
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nrefresh: {source: {location: /b}}\n")
    found = load_config(UpscaleConfig, str(tmp_path / "mine.yaml")).refresh
    assert (found.on_failure, found.guards.totals_move) == (("tell",), 0.1)
    assert found.source is not None
    assert (found.source.location, found.source.settle) == ("/b", 60)


def test_what_a_hook_says_is_its_own(tmp_path):
    hook = ["sh", "-c", 'mail me < "$FLUXGRID_REPORT"']
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"region": "iowa", "refresh": {"on_failure": hook}}))
    assert list(load_config(UpscaleConfig, str(tmp_path / "run.yaml")).refresh.on_failure) == hook
    assert written_config(str(tmp_path / "run.yaml"))[1] == frozenset()
