"""`fluxgrid train` of an ensemble: what its checkpoint holds."""

from __future__ import annotations

import json

import pytest

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.models import load_checkpoint
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.testing import small_sites
from fluxgrid.workflows import train as module
from fluxgrid.workflows.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the checkpoint of three small networks of windows."""
    out = tmp_path_factory.mktemp("several") / "model"
    values = {
        "name": "several",
        "description": "a model",
        "step": "daily",
        "sites": {"source": "tower_table", "path": "made up"},
        "inputs": {"dynamic": ["temperature_2m", "shortwave"], "static": ["crop_fraction"]},
        "model": {"kind": "ct_lstm", "window_mode": "exact", "hidden": 4, "window": 10, "stride": 5},
        "fit": {"epochs": 1, "batch": 8, "members": 3},
        "out": str(out),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_sites", lambda _: small_sites("daily", n=5, periods=40))
        assert train(load_config(TrainConfig, None, values)).sites == 5
    return out


def test_the_checkpoint_is_an_ensemble_with_half_widths(folder):
    loaded = load_checkpoint(folder)
    assert isinstance(loaded.model, Ensemble)
    assert len(loaded.model.members) == loaded.spec.members == 3
    assert loaded.uncertainty.known() == ("nee", "gpp", "reco")
    assert loaded.uncertainty.fluxes["nee"].groups == 5


def test_every_site_is_held_out_from_one_member_where_modes_are_compared(folder):
    held = json.loads((folder / "provenance.json").read_text())["held_out_sites"]
    assert sorted(i for ids in held for i in ids) == [f"T-{number:03d}" for number in range(5)]
    differences = load_checkpoint(folder).spec.mode_differences
    assert list(differences) == ["stream", "stride"]
    assert all(row.keys() == {"nee", "gpp", "reco"} and min(row.values()) > 0 for row in differences.values())
