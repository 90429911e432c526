"""The physics audit runs what the training runs, and sees of a calibration what was done to it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.crop_inputs import CROP_FEATURES, CROP_TYPE, GPP
from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.audit import ALL, CONSISTENCY_LIMITS
from fluxgrid.evaluation.audit_tables import drift
from fluxgrid.models.base import Sizes
from fluxgrid.models.calibration import KINDS, Heads
from fluxgrid.models.crop_mosaic import DYNAMIC, STATIC, CropMosaic, CropMosaicConfig
from fluxgrid.models.ct_gru import CTGRUConfig
from fluxgrid.training.kgml.audit import audit_heads, audit_network, audit_places, head_readout, place_network
from fluxgrid.training.kgml.audit_runs import AuditSettings, global_readout, respond_fields, run_fields
from fluxgrid.training.kgml.fields import CropFields
from fluxgrid.training.kgml.responses import RARER, grid_of, respond
from fluxgrid.training.kgml.walk import emulate, fit_crop_scalers, make_track

NAMES = ("IA", "IL", "IN")
POSITION = np.array([2, 0, 1, 0, 2])
PLACES = [NAMES[i] for i in POSITION]
FEW = AuditSettings(spin_up_years=1, batch=64, response_fields=2, response_years=2)


@pytest.fixture(scope="module")
def fields() -> CropFields:
    """Return five fields of two whole years, one of them a leap year."""
    rng = np.random.default_rng(1)
    time = pd.date_range("2015-01-01", "2016-12-31")
    features = rng.normal(size=(5, len(time), len(CROP_FEATURES))).astype(np.float32)
    features[..., GPP] = np.abs(5 * features[..., GPP])
    features[..., CROP_TYPE] = np.where(time.year == 2015, 1.0, 5.0)
    ra, rh = (share * features[..., GPP] for share in (np.float32(0.4), np.float32(0.3)))
    grain = rng.uniform(100, 300, (5, 2)).astype(np.float32)
    where = np.linspace(40.0, 42.0, 5)
    return CropFields(time, features, ra, rh, grain, where, -where, np.arange(5))


@pytest.fixture(scope="module")
def mosaic(fields) -> CropMosaic:
    """Return a small random mosaic with the scalers of the fields."""
    torch.manual_seed(2)
    network = CropMosaicConfig(hidden=4, cover_hidden=4).build(Sizes(len(DYNAMIC), len(STATIC), 6))
    network.crop.set_scalers(fit_crop_scalers(fields))
    return network.eval()


def shifted(mosaic: CropMosaic, tap: str, place: int, shift: float) -> Heads:
    """Return affine heads that add so many standard deviations to one tap of one place."""
    heads = Heads(mosaic, "affine", 3)
    with torch.no_grad():
        heads.phi[f"{tap}_c"][place] = shift
    return heads


def moved(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the drift that are not 0; -9 to leave out the rounding of correlations."""
    found = drift(table)
    return found[found["drift"].abs() > 1e-9]


def test_a_run_is_what_the_emulator_says(fields, mosaic):
    run = run_fields(mosaic.crop, fields, np.array(PLACES), {"global": global_readout}, replace(FEW, batch=2))["global"]
    said = emulate(mosaic.crop, fields, spin_up=1)
    signs = {"ra": -1, "rh": -1, "nee": 1}
    for name, sign in signs.items():
        # products of two rows and of five add in another order
        np.testing.assert_allclose(getattr(run, name), sign * said[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run.grain, said["yield"], rtol=1e-5)
    np.testing.assert_array_equal(run.gpp, fields.features[..., GPP])


def test_response_curves_are_those_of_the_training(fields, mosaic):
    every = replace(FEW, response_fields=5)
    found = respond_fields(mosaic.crop, fields, np.array(["IA"] * 5), {"global": global_readout}, every)["global"]
    track = make_track(fields, mosaic.crop, 1, 0)
    for feature in CONSISTENCY_LIMITS:
        with torch.no_grad():
            curves = respond(mosaic.crop, track, feature, grid_of(feature, RARER), spin_up=1)
        for name in ("ra", "rh", "grain"):
            ours = getattr(found[feature], name).mean(axis=1)
            np.testing.assert_allclose(ours, getattr(curves, name).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_heads_drift_nowhere(fields, mosaic, kind):
    table = audit_heads(Heads(mosaic, kind, 3, 2), NAMES, fields, POSITION, FEW)
    assert table["place"].unique().tolist() == ["IN", "IA", "IL", ALL]
    # the batches of a place alone are others than those of all, so sums may round otherwise
    assert drift(table)["drift"].dropna().abs().max() < 1e-5


def test_a_head_changes_its_place_alone(fields, mosaic):
    table = audit_heads(shifted(mosaic, "rh", 1, -2.0), NAMES, fields, POSITION, FEW)
    rows = moved(table)
    assert set(rows["place"]) == {"IL", ALL}
    assert not rows["diagnostic"].str.contains("yield|residue|ra_negative").any(), "Rh does not feed yield and Ra"


def test_carbon_released_that_was_not_taken_up_is_found(fields, mosaic):
    table = audit_heads(shifted(mosaic, "ra", 0, -20.0), NAMES, fields, POSITION, FEW)
    short = table[table["diagnostic"] == "residue_short_share"].set_index(["model", "place"])["value"]
    assert short["global", "IA"] == 0
    assert short["calibrated", "IA"] == 1
    assert short["calibrated", "IL"] == 0


def test_respiration_turned_into_uptake_is_found(fields, mosaic):
    table = audit_heads(shifted(mosaic, "rh", 2, 50.0), NAMES, fields, POSITION, FEW)
    shares = table[table["diagnostic"] == "rh_negative_share"].set_index(["model", "place"])["value"]
    assert shares["calibrated", "IN"] == 1
    assert shares["global", "IN"] < 1
    exact = table[table["diagnostic"] == "written_balance_error"]
    assert (exact["value"] == 0).all()


def test_a_head_that_turns_a_response_round_is_inconsistent(fields, mosaic):
    heads = Heads(mosaic, "affine", 3)
    with torch.no_grad():
        heads.phi["ra_a"][0] = -2.0  # (1 + a) = -1
    rows = audit_heads(heads, NAMES, fields, POSITION, FEW).set_index(["model", "place", "diagnostic"])["value"]
    for feature in CONSISTENCY_LIMITS:
        assert rows["calibrated", "IA", f"consistency_ra_{feature}"] == pytest.approx(-1.0)
        assert rows["calibrated", "IL", f"consistency_ra_{feature}"] == pytest.approx(1.0)


def test_the_networks_nee_reads_what_the_head_says(fields, mosaic):
    readouts = {"global": global_readout, "head": head_readout(shifted(mosaic, "ra", 0, 3.0), POSITION)}
    runs = run_fields(mosaic.crop, fields, np.array(PLACES), readouts, FEW)
    change = np.abs(runs["head"].nee - runs["global"].nee).max(axis=1)
    assert (change[POSITION == 0] > 1e-4).all()
    np.testing.assert_array_equal(change[POSITION != 0], 0)


def test_a_fine_tuned_network_is_audited_at_its_place(fields, mosaic):
    other = deepcopy(mosaic.crop)
    with torch.no_grad():
        other.grain[-1].bias += 100.0
    tuned = {"IA": other, "IL": mosaic.crop, "IN": mosaic.crop}
    rows = audit_places(mosaic.crop, tuned, fields, PLACES, FEW).set_index(["model", "place", "diagnostic"])["value"]
    assert rows["calibrated", "IA", "yield_outside_share"] == 1
    assert rows["calibrated", "IN", "yield_outside_share"] == rows["global", "IN", "yield_outside_share"]
    share = rows["calibrated"].xs("yield_outside_share", level="diagnostic")
    assert share[ALL] == pytest.approx((2 * share["IA"] + share["IL"] + 2 * share["IN"]) / 5)


def test_the_weights_of_a_place_are_those_of_its_head(mosaic):
    heads = Heads(mosaic, "full", 2)
    with torch.no_grad():
        heads.phi["crop/ra_head/bias"][1] = 0.5
    before = mosaic.crop.ra_head.bias.clone()
    network = place_network(heads, 1)
    torch.testing.assert_close(network.ra_head.bias, before + 0.5)
    torch.testing.assert_close(mosaic.crop.ra_head.bias, before)
    torch.testing.assert_close(network.features, mosaic.crop.features)


def test_every_place_has_responses_of_its_own(fields, mosaic):
    few = replace(FEW, response_fields=1)
    found = respond_fields(mosaic.crop, fields, np.array(PLACES), {"global": global_readout}, few)["global"]
    assert found["GPP"].place.tolist() == ["IN", "IA", "IL"]
    assert found["GPP"].ra.shape == (len(grid_of("GPP", RARER)), 3)


def test_one_year_is_enough(fields, mosaic):
    table = audit_network(mosaic.crop, fields.between(2016, 2016), PLACES, settings=replace(FEW, spin_up_years=0))
    assert set(table["model"]) == {"global"}
    assert table["value"].notna().all()


def test_what_does_not_fit_is_refused(fields, mosaic):
    with pytest.raises(ConfigError, match="4 names of places for 5 fields"):
        audit_network(mosaic.crop, fields, PLACES[:4])
    with pytest.raises(ConfigError, match="no fine-tuned network for IL, IN; there are IA"):
        audit_places(mosaic.crop, {"IA": mosaic.crop}, fields, PLACES)
    with pytest.raises(ConfigError, match="heads of 3 places; got 2 names"):
        audit_heads(Heads(mosaic, "affine", 3), NAMES[:2], fields, POSITION)
    with pytest.raises(ConfigError, match="numb"):
        audit_heads(Heads(mosaic, "affine", 3), NAMES, fields, POSITION - 1)
    other = CTGRUConfig(hidden=4).build(Sizes(3, 2))
    with pytest.raises(ConfigError, match="belong to a CTGRU"):
        audit_heads(Heads(other, "affine", 3), NAMES, fields, POSITION)
