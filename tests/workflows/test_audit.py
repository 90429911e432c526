"""The physics audit of a checkpoint stands in its files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import ConfigError, OutputExists
from fluxgrid.evaluation.audit_tables import drift
from fluxgrid.geo.state_of import state_of
from fluxgrid.models import Checkpoint
from fluxgrid.models.base import Sizes
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import Heads
from fluxgrid.models.crop_mosaic import DYNAMIC, STATIC, CropMosaicConfig
from fluxgrid.models.ct_gru import CTGRUConfig
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.places import CalibratedPlaces
from fluxgrid.training.kgml.audit_runs import AuditSettings
from fluxgrid.workflows.audit import AuditFields, audit, fields_of_places

WANTED = AuditFields(first=2015, last=2015, cells=2)
FEW = AuditSettings(spin_up_years=0, response_fields=1, response_years=1)


@pytest.fixture
def checkpoint(make_spec) -> Checkpoint:
    """Return a small mosaic with heads of a state and of a point."""
    torch.manual_seed(4)
    model = CropMosaicConfig(hidden=4, cover_hidden=4).build(Sizes(len(DYNAMIC), len(STATIC), 6))
    places = CalibratedPlaces(
        names=("Iowa", "US-X"),
        latitude=np.array([42.0, 40.1]),
        longitude=np.array([-93.5, -88.2]),
        climate=np.zeros((2, 1)),
        climate_names=("temperature_2m",),
        climate_scale=np.ones(1),
        states=("IA", ""),
    )
    heads = Heads(model, "linear", 2)
    with torch.no_grad():
        heads.phi["ra_c"][1] = 0.5
    ones = np.ones(1)
    domain = TrainingDomain(0 * ones, ones, ones, np.zeros((1, 1)), 1.0, np.inf)
    spec = replace(make_spec("ct_gru", {}), kind="kgml_ag")
    names = (*DYNAMIC, *STATIC)
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    return Checkpoint(Path(), spec, scaler, model, domain, "", {"state": Calibration("state", heads, places)})


def test_fields_stand_where_the_heads_do(checkpoint):
    fields, position = fields_of_places(checkpoint.calibrations["state"].places, WANTED)
    assert sorted(position.tolist()) == [0, 0, 0, 0, 1, 1], "both rotations in two cells of the state, one of the point"
    assert set(state_of(fields.latitude[position == 0], fields.longitude[position == 0]).tolist()) == {"IA"}
    np.testing.assert_allclose(fields.latitude[position == 1], 40.1)


def test_an_audit_leaves_table_drift_text_and_picture(checkpoint, tmp_path):
    lines: list[str] = []
    outcome = audit(checkpoint, "state", tmp_path, WANTED, FEW, lines.append)
    assert sorted(path.name for path in outcome.files) == ["audit-drift.csv", "audit.csv", "audit.md", "audit.png"]
    assert all(path.stat().st_size > 0 for path in outcome.files)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "audit.csv"), outcome.table)
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == outcome.text
    found = drift(outcome.table)
    assert set(found.loc[found["drift"].abs() > 1e-9, "place"]) == {"US-X", "all"}
    assert lines == ["6 fields of 2 places, 2015 to 2015"]
    with pytest.raises(OutputExists, match=r"holds an earlier audit \(audit\.csv.*--overwrite"):
        audit(checkpoint, "state", tmp_path, WANTED, FEW)
    again = audit(checkpoint, "state", tmp_path, WANTED, FEW, overwrite=True)
    pd.testing.assert_frame_equal(again.table, outcome.table)


def test_a_held_year_is_held_in_the_audit_and_has_no_response(checkpoint, tmp_path):
    held = copy.deepcopy(checkpoint.model)
    held.config = replace(held.config, year="held")
    heads = Heads(held, "linear", 2)
    heads.phi = checkpoint.calibrations["state"].heads.phi
    model = replace(checkpoint, model=held)
    model.calibrations["state"] = replace(checkpoint.calibrations["state"], heads=heads)
    table = audit(model, "state", tmp_path, WANTED, FEW).table.set_index(["model", "place", "diagnostic"])["value"]
    assert np.isnan(table["calibrated", "US-X", "consistency_rh_Year"])
    assert np.isfinite(table["calibrated", "US-X", "consistency_rh_TSOC"])
    assert table["global", "all", "yield_slope_Year"] == 0.0


def test_other_models_have_no_audit(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="Give a checkpoint of kind 'kgml_ag'"):
        audit(replace(checkpoint, model=CTGRUConfig(hidden=4).build(Sizes(3, 2))), "state", tmp_path)
    with pytest.raises(ConfigError, match="no calibration 'neighbourhood'"):
        audit(checkpoint, "neighbourhood", tmp_path)
    with pytest.raises(ConfigError, match=r"the global model, which is always there: name the heads .* state"):
        audit(checkpoint, "none", tmp_path)
    assert not list(tmp_path.iterdir())
