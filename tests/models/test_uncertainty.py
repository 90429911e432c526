"""Half-widths as a checkpoint keeps them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import CheckpointError
from fluxgrid.models import load_checkpoint, save_checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.uncertainty import LEVELS, FluxUncertainty, Uncertainty
from fluxgrid.provenance import digest_files
from fluxgrid.variables import STANDARD_ERROR_COVERAGE as STANDARD

FITTED = Uncertainty(
    {
        "nee": FluxUncertainty(0.4, {STANDARD: 1.25, 0.9: 2.5}, 30, 900),
        "gpp": FluxUncertainty(0.5, {STANDARD: 1 / 3, 0.9: None}, 5, 70),
    }
)


@pytest.fixture
def folder(make_spec, tmp_path):
    """Return the checkpoint of an ensemble with half-widths."""
    spec = make_spec("ct_gru", {"hidden": 4, "window_mode": "stride"}, members=2)
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    scaler, domain = Scaler(names, (0.0,) * 5, (1.0,) * 5), TrainingDomain.unknown(10)
    model = spec.build()
    assert isinstance(model, Ensemble)
    save_checkpoint(tmp_path / "model", spec, scaler, model, domain, "name: small\n", {}, uncertainty=FITTED)
    return tmp_path / "model"


def test_it_is_a_part_of_the_checkpoint(folder):
    loaded = load_checkpoint(folder)
    assert loaded.uncertainty == FITTED
    assert "must not be averaged down" in json.loads((folder / "uncertainty.json").read_text())["meaning"]
    file = folder / "uncertainty.json"
    file.write_text(file.read_text().replace("1.25", "1.26"))
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "rows", [{"nee": {}}, [], {"nee": {"floor": -1, "factors": {}, "groups": 1, "steps": 1}}, None]
)
def test_another_form_is_a_checkpoint_error(folder, rows):
    (folder / "uncertainty.json").write_text(json.dumps({"fluxes": rows}))
    file = folder / "provenance.json"
    row = json.loads(file.read_text())
    row["digest"] = digest_files([folder / part for part in row["parts"]])
    file.write_text(json.dumps(row))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


def test_it_holds_for_the_trained_mode_alone(folder):
    loaded = load_checkpoint(folder)
    assert loaded.in_mode("stride").uncertainty == FITTED
    assert loaded.in_mode("exact").uncertainty is None


def test_only_known_levels_are_given():
    assert FITTED.known() == ("nee", "gpp")
    assert FITTED.known(0.9) == ("nee",)
    assert "0.9" in FITTED.text(0.9)
    assert "nee 30 site groups and 900 steps" in FITTED.text(0.9)
    assert "gpp" not in FITTED.text(0.9)
    with pytest.raises(KeyError):
        FITTED.fluxes["gpp"].half_width(0.9, np.zeros(3))
    for level in LEVELS:
        assert FITTED.fluxes["nee"].half_width(level, np.full(3, np.nan)).shape == (3,)
