"""`fluxgrid train` of KGML-ag: what the checkpoint says, taking finished steps up, and refusing at the door."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fluxgrid.config import load_config
from fluxgrid.config_kgml import KGMLConfig
from fluxgrid.errors import ConfigError, OutputError, OutputExists
from fluxgrid.models import load_checkpoint
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, STATIC
from fluxgrid.simulation import world_digest
from fluxgrid.workflows import train_kgml as module
from fluxgrid.workflows.train_kgml import kgml_spec, train_kgml


@pytest.fixture
def never(monkeypatch):
    """Let no training begin."""

    def begin(*_):
        pytest.fail("the training began")

    monkeypatch.setattr(module, "train_mosaic", begin)


@pytest.fixture
def file(tiny_kgml_config, tmp_path) -> Path:
    """Return the configuration as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_kgml_config(tmp_path / "out").model_dump(mode="json")))
    return path


def test_the_checkpoint_says_what_it_is(tiny_kgml):
    spec = load_checkpoint(tiny_kgml).spec
    assert (spec.name, spec.kind, spec.step, spec.closure) == ("tiny", "kgml_ag", "daily", "derived")
    assert (spec.inputs.dynamic, spec.inputs.static) == (DYNAMIC, STATIC)
    assert (spec.fluxes, spec.annual) == (FLUXES, ANNUAL)
    assert spec.map_fluxes == ("nee", "gpp", "reco", "ra", "rh")
    assert spec.map_annual == (*ANNUAL, "balance_after_harvest")
    assert (spec.spin_up_years, spec.whole_year_from) == (1, 298)
    assert spec.synthetic
    assert not spec.gpp_is_driver
    assert any("10.1038/s41467-023-43860-5" in source for source in spec.sources)
    assert any(world_digest() in source for source in spec.sources)


def test_a_satellites_gpp_is_the_drivers(tiny_kgml_config, tmp_path):
    config = tiny_kgml_config(tmp_path / "x", **{"recipe.model.gpp": "satellite"})
    assert kgml_spec(config).gpp_is_driver


def test_its_provenance_tells_every_step_and_calibration(tiny_kgml):
    about = json.loads((tiny_kgml / "provenance.json").read_text())
    names = [step["name"] for step in about["steps"]]
    assert names == ["cover", "step 1", "step 2", "step 3", "step 4", "step 5"]
    assert all(np.isfinite(step["validation"]).all() for step in about["steps"])
    assert about["world"]["digest"] == world_digest()
    assert about["towers"]["count"] == 3
    assert [row["name"] for row in about["calibrations"]] == ["state", "neighbourhood"]
    state, places = about["calibrations"]
    assert (state["places"], state["bandwidth"]) == (2, None)
    assert places["places"] == 4
    assert set(places["bandwidth"]) == {"ground_km", "climate", "shrink", "most"}
    # adapters of rank 2 on three taps: 2 (8 + 8) + 2 each
    assert state["parameters_per_place"] == 3 * 34


def test_heads_come_with_their_places(tiny_kgml):
    found = load_checkpoint(tiny_kgml).calibrations
    assert set(found) == {"state", "neighbourhood"}
    assert found["state"].places.states == ("IA", "IL")
    assert found["neighbourhood"].places.climate_names == ("temperature_2m", "precipitation", "shortwave", "vpd")
    for calibration in found.values():
        assert len(calibration.places) == calibration.heads.places
        assert any(float(value.detach().abs().max()) > 0 for value in calibration.heads.phi.values())
    assert "fluxgrid synthetic world" in found["state"].about


def test_its_configuration_gives_the_same_run_again(tiny_kgml, tiny_kgml_config, tmp_path):
    stored = load_config(KGMLConfig, str(tiny_kgml / "config.yaml"))
    config = tiny_kgml_config(tiny_kgml, stages=str(tiny_kgml.parent / "stages"))
    assert stored == config
    lines = []
    again = train_kgml(stored.model_copy(update={"out": str(tmp_path / "again")}), lines.append)
    taken = [line.split(":")[0] for line in lines if "taken from" in line]
    assert taken == ["cover", "step-1", "step-2", "step-3", "step-4", "step-5"]
    one, two = load_checkpoint(tiny_kgml), load_checkpoint(again.checkpoint)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    for name, calibration in one.calibrations.items():
        for key, value in calibration.heads.phi.items():
            assert torch.equal(value, two.calibrations[name].heads.phi[key])
    assert again.sites == 3
    assert again.threshold == one.domain.threshold


def test_heads_and_towers_may_be_left_out(tiny_kgml_config, tiny_kgml, tmp_path):
    config = tiny_kgml_config(
        tmp_path / "plain", stages=str(tiny_kgml.parent / "stages"), towers=None, calibration_sites=None
    )
    outcome = train_kgml(config)
    checkpoint = load_checkpoint(outcome.checkpoint)
    assert checkpoint.calibrations == {}
    assert outcome.sites == 0
    about = json.loads((outcome.checkpoint / "provenance.json").read_text())
    assert about["towers"] is None
    assert [step["name"] for step in about["steps"]][-1] == "step 4"


def test_a_folder_that_stands_is_left_alone(tiny_kgml_config, tmp_path, never):
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputExists, match=r"model exists\. Name another folder"):
        train_kgml(tiny_kgml_config(tmp_path / "model"))


def test_a_place_that_cannot_be_written_is_found_first(tiny_kgml_config, tmp_path, never):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        train_kgml(tiny_kgml_config(tmp_path / "file" / "model"))


def test_sites_of_the_calibration_are_read_before_the_training(tiny_kgml_config, tmp_path, never):
    bad = {"source": "world_cells", "path": "built-in", "options": {"states": ["IA"]}}
    with pytest.raises(ConfigError, match="source 'world_cells' are wrong"):
        train_kgml(tiny_kgml_config(tmp_path / "model", calibration_sites=bad))
    assert not (tmp_path / "model").exists()


def test_the_command_line_tells_a_recipe_from_towers(run, file, tiny_kgml, tmp_path):
    code, out, err = run("train", str(file), f"stages={tiny_kgml.parent / 'stages'}", f"out={tmp_path / 'made'}")
    assert code == 0, err
    assert f"{tmp_path / 'made'}: trained on 3 sites; area of applicability" in out.replace("\n", "")
    assert "Calibrating 2 places (state, adapter) on 4 sites" in err
    assert load_checkpoint(tmp_path / "made").spec.name == "tiny"


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["recipe.feilds=3"], ["recipe.feilds: There is no key named 'feilds'. Did you mean 'fields'?"]),
        (
            ["recipe.fields=1", "recipe.steps.budget.bogus=1", "towers.pth=x", "name=a b"],
            ["recipe.fields:", "recipe.steps.budget.bogus: There is no key", "towers.pth: There is no key", "name: "],
        ),
        (["recipe.cells_from=2016"], ["recipe: cells_from must come before the end of last_year, 2016"]),
        (
            ["heads=[{name: state, fit: {rnk: 2}}]"],
            ["heads.0.fit.rnk: There is no key named 'rnk'. Did you mean 'rank'"],
        ),
        (["heads=[{name: county}]"], ["heads.0.name: input should be 'state' or 'neighbourhood' (given 'county')"]),
        (["heads=[{name: state}, {name: state}]"], ["heads: a name comes twice among state, state"]),
        (["recipe.model.hidden=7"], ["recipe.model.hidden: input should be a multiple of 2 (given 7)"]),
        (["sites.source=synthetic"], ["sites: There is no key named 'sites'"]),
        (["towers.source=nowhere"], ["There is no source named 'nowhere'"]),
        (["calibration_sites.options={n: 3}"], ["Options of the source 'world_cells' are wrong"]),
        (["towers.targets=[rh]"], ["observed rh"]),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(run, file, never, words, texts):
    code, out, err = run("train", str(file), *words)
    assert code == 2
    assert out == ""
    assert err.startswith("fluxgrid: ")
    assert "Traceback" not in err
    for text in texts:
        assert text in err
