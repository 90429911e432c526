"""Sets of inputs by name: extended, spelt, resolved before anything is stored."""

from __future__ import annotations

import pytest
import yaml

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.gaps import GapRule
from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.input_sets import input_sets, read_input_set
from fluxgrid.sources.carbonbench import MINIMAL
from fluxgrid.testing import carbonbench_files
from fluxgrid.variables_towers import ERA5_ROWS, MOD09GA_ROWS

TRAIN = {
    "name": "towers",
    "description": "a model",
    "step": "daily",
    "sites": {"source": "tower_table", "path": "towers.parquet"},
    "inputs": {"set": "meteo"},
    "model": {"kind": "ct_gru"},
    "out": "checkpoints/towers",
}


def test_a_set_is_extended_by_what_stands_beside_it():
    inputs = {"set": "meteo", "dynamic": ["lai"], "static": ["sand"], "gaps": {"vpd": {"linear_steps": 1}}}
    found = load_config(TrainConfig, None, {**TRAIN, "inputs": inputs}).inputs
    meteo = read_input_set("meteo")
    assert found.dynamic == (*meteo["dynamic"], "lai")
    assert (found.static, found.classes) == (("sand",), ("igbp", "climate_group"))
    assert found.gaps["vpd"] == GapRule(1)
    assert found.gaps["shortwave"] == GapRule(5, harmonics=2)
    alone = load_config(TrainConfig, None, {**TRAIN, "inputs": {"dynamic": ["lai"]}}).inputs
    assert alone.dynamic == ("lai",)


def test_lists_are_stored_and_not_the_name_of_the_set(tmp_path):
    config = load_config(TrainConfig, None, TRAIN)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert "meteo" not in text
    assert "temperature_2m" in text
    (tmp_path / "stored.yaml").write_text(text)
    assert load_config(TrainConfig, str(tmp_path / "stored.yaml")) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_models_of_a_comparison_may_name_sets_too():
    models = {"one": {"model": {"kind": "mlp"}, "inputs": {"set": "world"}}, "two": {"model": {"kind": "mlp"}}}
    entries = load_config(TrainConfig, None, {**TRAIN, "models": models}).entries
    assert "soc" in entries["one"].inputs.static
    assert entries["two"].inputs.static == ()


def test_an_unknown_set_gets_the_nearest_spelling():
    with pytest.raises(UnknownName, match=r"no set of inputs named 'metoe'\. Did you mean 'meteo'"):
        load_config(TrainConfig, None, {**TRAIN, "inputs": {"set": "metoe"}})


@pytest.mark.parametrize("inputs", [{"set": "meteo", "dynamic": "lai"}, {"set": "meteo", "gaps": [1]}, {"sets": "a"}])
def test_other_mistakes_are_told_as_ever(inputs):
    with pytest.raises(ConfigError, match=r"- inputs\."):
        load_config(TrainConfig, None, {**TRAIN, "inputs": inputs})


def test_the_sets_of_carbonbench_are_those_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBONBENCH_DATA", str(carbonbench_files(tmp_path, days=40)))
    bands = [row.name for row in MOD09GA_ROWS]
    for name, era5 in {
        "minimal": [f"era5_{published}" for published in MINIMAL],
        "standard": sorted(f"era5_{row.published}" for row in ERA5_ROWS)[:36],
        "full": [row.name for row in ERA5_ROWS],
    }.items():
        found = read_input_set(f"carbonbench_{name}")
        assert found["dynamic"] == [*era5, *bands, "latitude", "longitude"]
        assert found["classes"] == ["igbp", "climate_group", "koppen"]
        assert list(found["gaps"]) == bands


def test_a_list_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CARBONBENCH_DATA", "/nowhere")
    with pytest.raises(ConfigError, match=r"\$CARBONBENCH_DATA/feature_sets\.json, which cannot be read"):
        read_input_set("carbonbench_standard")


def test_files_of_sets_are_checked(tmp_path, monkeypatch):
    (tmp_path / "inputs").mkdir()
    monkeypatch.setattr("fluxgrid.input_sets.configs_folder", lambda: tmp_path)
    (tmp_path / "inputs" / "mine.yaml").write_text("dynamic: [vpd]\nstatics: [sand]\n")
    with pytest.raises(ConfigError, match=r"no key named 'statics'\. Did you mean 'static'"):
        read_input_set("mine")
    (tmp_path / "inputs" / "mine.yaml").write_text("dynamic: [")
    with pytest.raises(ConfigError, match="is not readable YAML"):
        read_input_set("mine")
    assert list(input_sets()) == ["mine"]
