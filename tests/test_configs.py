"""Every YAML that ships is read here, so that none of them rots."""

from __future__ import annotations

import json

import pytest
import yaml

from fluxgrid.config import TrainConfig, UpscaleConfig, load_config, shipped_runs
from fluxgrid.config_kgml import ExperimentConfig, KGMLConfig
from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.mapping import load_mapping
from fluxgrid.data.sites import Sites
from fluxgrid.files import configs_folder
from fluxgrid.geo.region import find_region, region_catalogue
from fluxgrid.input_sets import input_sets, read_input_set
from fluxgrid.sources import SOURCES
from fluxgrid.workflows.experiment import plan
from fluxgrid.workflows.sites import SYNTHETIC, model_spec

FILES = sorted(configs_folder().rglob("*.y*ml"))


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUXGRID_TEST_DATA", "/data")
    monkeypatch.setenv("CARBONBENCH_DATA", str(tmp_path))
    (tmp_path / "feature_sets.json").write_text(json.dumps({"standard": ["temperature_2m"]}))


@pytest.mark.parametrize("name", sorted(shipped_runs()))
def test_runs(name):
    file = shipped_runs()[name]
    keys = yaml.safe_load(file.read_text())
    keys |= yaml.safe_load(shipped_runs()[keys["extends"]].read_text()) if "extends" in keys else {}
    if "seeds" in keys:
        assert plan(load_config(ExperimentConfig, name), "sensitivity" if "variants" in keys else "regimes")
        return
    if "recipe" in keys:
        config = load_config(KGMLConfig, name)
        sources = [sites.source for sites in (config.towers, config.calibration_sites) if sites]
        assert all(source in SYNTHETIC or SOURCES[source] for source in sources)
        return
    if "sites" not in keys:
        config = load_config(UpscaleConfig, name)
        find_region(config.region)
        assert config.mapping is None or load_mapping(config.mapping)
        return
    config = load_config(TrainConfig, name)
    for entry in {"train": config, **config.entries}.values():
        assert model_spec(entry, Sites(entry.step, (), "", "")).kind == entry.model.kind
    assert config.sites.source == "synthetic" or SOURCES[config.sites.source]


@pytest.mark.parametrize("name", sorted(input_sets()))
def test_input_sets(name):
    assert InputSpec(**read_input_set(name)).names


@pytest.mark.parametrize("name", sorted(region_catalogue()))
def test_regions(name):
    region = find_region(name)
    assert region.title
    assert region.source
    assert region.polygon.is_valid


@pytest.mark.parametrize("file", sorted((configs_folder() / "mappings").iterdir()), ids=lambda file: file.stem)
def test_mappings(file):
    assert load_mapping(file).variables


def test_no_file_is_left_out():
    assert {file.parent.name for file in FILES} == {"runs", "regions", "mappings", "inputs"}
    assert {file.stem for file in FILES if file.parent.name == "runs"} == set(shipped_runs())
    assert {file.stem for file in FILES if file.parent.name == "inputs"} == set(input_sets())
    assert {file.stem for file in FILES if file.parent.name == "regions"} <= set(region_catalogue())
