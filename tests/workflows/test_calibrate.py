"""`fluxgrid calibrate`: heads beside the weights of a model, what a place is, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from fluxgrid.config import load_config
from fluxgrid.config_kgml import CalibrateConfig, HeadsConfig
from fluxgrid.data.inputs import design
from fluxgrid.data.records import site_inputs
from fluxgrid.data.sites import Sites
from fluxgrid.errors import ConfigError, OutputError, OutputExists, TableError
from fluxgrid.models import load_checkpoint, model_config
from fluxgrid.models.base import Sizes
from fluxgrid.models.crop_mosaic import FLUXES
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.training.calibrate import CalibrationSettings
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.workflows import calibrate as module
from fluxgrid.workflows.calibrate import bandwidth_text, evidence_at, make_calibration, run_calibrate, usable_sites

FEW = CalibrationSettings(steps=3, stride=20, rank=1)
CELLS = {"states": ["IA", "IL"], "n": 3, "first": 2015, "last": 2016, "seed": 9}


@pytest.fixture(scope="module")
def checkpoint(tiny_kgml):
    return load_checkpoint(tiny_kgml)


@pytest.fixture(scope="module")
def sites() -> Sites:
    return world_cells(**CELLS)


@pytest.fixture
def make_config(tiny_kgml, tmp_path):
    """Return a function that gives the configuration of a short calibration of the tiny model."""

    def make(**changes) -> CalibrateConfig:
        values = {
            "model": str(tiny_kgml),
            "sites": {"source": "world_cells", "path": "built-in", "options": CELLS},
            "heads": [{"name": "neighbourhood", "fit": {"kind": "affine", "steps": 3, "stride": 20}}],
            "out": str(tmp_path / "out"),
        }
        return load_config(CalibrateConfig, None, values | changes)

    return make


def changed(sites: Sites, *changes: dict) -> Sites:
    """Return sites with some of their properties replaced, one by one."""
    return replace(sites, sites=tuple(replace(s, **c) for s, c in zip(sites, changes, strict=True)))


def test_a_calibrated_copy_keeps_the_model_and_the_heads_it_had(make_config, checkpoint, sites):
    outcome = run_calibrate(make_config())
    found = load_checkpoint(outcome.checkpoint)
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name]), name
    assert found.spec == checkpoint.spec
    assert found.domain.threshold == checkpoint.domain.threshold
    assert set(found.calibrations) == {"state", "neighbourhood"}
    # that of another name is kept, that of the same is replaced
    old, new = (c.calibrations["state"].heads.phi for c in (checkpoint, found))
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    heads = found.calibrations["neighbourhood"]
    assert (heads.heads.kind, heads.places.names) == ("affine", sites.ids)
    assert heads.places.bandwidth is not None
    about = json.loads((outcome.checkpoint / "provenance.json").read_text())
    assert about["calibrated_from"] == {"model": "tiny", "digest": checkpoint.digest}
    assert about["sites"]["ids"] == list(sites.ids)
    assert [row["name"] for row in about["calibrations"]] == ["neighbourhood"]
    # the whole run can be repeated from its own folder
    assert load_config(CalibrateConfig, str(outcome.checkpoint / "config.yaml")) == make_config()


def test_the_backbone_of_the_checkpoint_is_not_changed(checkpoint, sites):
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    made = make_calibration(checkpoint, sites, HeadsConfig(name="state", fit=FEW))
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())
    assert made.calibration.heads.kind == "adapter"
    assert made.bandwidths is None


def test_a_state_is_a_place_and_sites_outside_of_all_are_left_out(checkpoint, sites):
    canada = {"latitude": 49.5, "longitude": -90.0}
    moved = changed(sites, {"latitude": 42.0, "longitude": -93.0}, {"latitude": 40.0, "longitude": -89.0}, canada)
    places = make_calibration(checkpoint, moved, HeadsConfig(name="state", fit=FEW)).calibration.places
    assert places.names == places.states == ("IA", "IL")
    np.testing.assert_allclose(places.latitude, [42.0, 40.0])
    assert places.bandwidth is None
    abroad = changed(sites, canada, canada, canada)
    with pytest.raises(TableError, match=r"None of the 3 sites of .* stands in a US state"):
        make_calibration(checkpoint, abroad, HeadsConfig(name="state", fit=FEW))


def test_towers_of_one_group_are_one_place(checkpoint, sites):
    ids = sites.ids
    grouped = changed(sites, {"group": "a"}, {"group": "b"}, {"group": "a"})
    made = make_calibration(checkpoint, grouped, HeadsConfig(name="neighbourhood", fit=FEW))
    places = made.calibration.places
    assert places.names == (ids[0], ids[1])
    middle = np.mean([sites[ids[0]].latitude, sites[ids[2]].latitude])
    assert places.latitude[0] == pytest.approx(middle)
    first = np.mean([float(sites[ids[i]].series["vpd"].mean()) for i in (0, 2)])
    assert places.climate[0, places.climate_names.index("vpd")] == pytest.approx(first, rel=1e-5)
    # two places cannot say how far each carries
    assert made.bandwidths is None
    assert places.bandwidth == module._FAR


def test_a_bandwidth_is_chosen_by_leaving_places_out_and_said(checkpoint, sites):
    lines = []
    made = make_calibration(checkpoint, sites, HeadsConfig(name="neighbourhood", fit=FEW), lines.append)
    assert lines[0].startswith("Calibrating 3 places (neighbourhood, adapter) on 3 sites")
    assert int(made.bandwidths["chosen"].sum()) == 1
    chosen = made.calibration.places.bandwidth
    assert lines[-1].startswith(f"{chosen}: error 0.")
    text = bandwidth_text([made])
    assert text.startswith(f"neighbourhood: {chosen.ground_km:g} km on the ground, {chosen.climate:g} in climate")
    state = make_calibration(checkpoint, sites, HeadsConfig(name="state", fit=FEW))
    assert bandwidth_text([state]) == ""


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_kinds_with_a_pass_of_their_own_get_a_bandwidth_that_is_not_compared(checkpoint, sites, kind):
    fit = replace(FEW, kind=kind, steps=1)
    made = make_calibration(checkpoint, sites, HeadsConfig(name="neighbourhood", fit=fit))
    assert made.calibration.places.bandwidth == module._FAR
    assert made.bandwidths is None
    assert not any(name.startswith("crop/nee") for name in made.calibration.heads.phi)


def test_evidence_is_what_the_network_reads_and_the_sites_saw(checkpoint, sites):
    """Two records of two years, one of the second alone; a hole in an input hides the fluxes of its day."""
    spec, scaler = checkpoint.spec.inputs, checkpoint.scaler
    holes = sites.sites[0].series.copy()
    holes.loc["2015-05-03", "shortwave"] = np.nan
    holes.loc["2016-08-01":"2016-08-04", "rh"] = np.nan
    mixed = changed(sites, {"series": holes}, {"series": sites.sites[1].series.loc["2016":]}, {})
    evidence = evidence_at(mixed, spec, scaler, "daily", np.array([1, 0, -1]))
    assert [part.place.tolist() for part in evidence] == [[1], [0]]
    long, short = evidence
    assert long.years == (slice(0, 365), slice(365, 731))
    assert short.years == (slice(0, 366),)
    assert set(long.fluxes) == set(FLUXES)  # RECO and NEE follow
    series, day = holes, holes.index.get_loc("2015-05-03")
    expected = series["rh"].to_numpy(np.float32).copy()
    expected[day] = np.nan
    np.testing.assert_array_equal(long.fluxes["rh"][0], expected)
    assert bool(torch.isnan(long.fluxes["gpp"][0, day]))
    assert int(torch.isnan(long.fluxes["gpp"]).sum()) == 1
    inputs = site_inputs(mixed.sites[1], "daily", spec)
    dynamic, static = design(inputs, spec, scaler)
    np.testing.assert_array_equal(short.dynamic, dynamic)
    np.testing.assert_array_equal(short.static, static)
    assert torch.isfinite(long.dynamic).all()


def test_towers_without_ra_and_rh_bring_what_they_have(checkpoint, sites):
    towers = changed(sites, *({"series": site.series.drop(columns=["ra", "rh"])} for site in sites))
    evidence = evidence_at(towers, checkpoint.spec.inputs, checkpoint.scaler, "daily", np.arange(3))
    assert set(evidence[0].fluxes) == {"gpp", "reco", "nee"}
    made = make_calibration(checkpoint, towers, HeadsConfig(name="neighbourhood", fit=FEW))
    assert made.loss[1] <= made.loss[0] * 1.1


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_records_that_know_other_fluxes_are_fitted_together(checkpoint, sites, kind):
    """One site brings Ra and Rh, one empty columns of them, and one of another length RECO and NEE alone."""
    empty = sites.sites[1].series.assign(ra=np.nan, rh=np.nan)
    short = sites.sites[2].series.loc["2016":].drop(columns=["ra", "rh", "gpp"])
    mixed = changed(sites, {}, {"series": empty}, {"series": short})
    evidence = evidence_at(mixed, checkpoint.spec.inputs, checkpoint.scaler, "daily", np.arange(3))
    assert [set(part.fluxes) for part in evidence] == [{"gpp", "ra", "rh", "reco", "nee"}, {"reco", "nee"}]
    made = make_calibration(checkpoint, mixed, HeadsConfig(name="neighbourhood", fit=replace(FEW, kind=kind)))
    moved = sum(value.detach().abs().flatten(1).sum(dim=1) for value in made.calibration.heads.phi.values())
    assert (moved > 0).all(), "every place has learnt from what it knows"


def test_sites_with_names_of_two_letters_are_no_states(checkpoint, sites):
    named = changed(sites, *({"id": name, "group": name} for name in ("IA", "ZZ", "QQ")))
    made = make_calibration(checkpoint, named, HeadsConfig(name="neighbourhood", fit=FEW))
    assert made.calibration.places.states == ("", "", "")


def test_sites_that_lack_an_input_or_every_flux_cannot_be_used(checkpoint, sites):
    blind, dry = sites.sites[0].series.copy(), sites.sites[1].series.copy()
    blind[["gpp", "ra", "rh", "reco", "nee"]] = np.nan
    dry["vpd"] = np.nan
    spec = checkpoint.spec.inputs
    mixed = changed(sites, {"series": blind}, {"series": dry}, {})
    assert usable_sites(mixed, spec).ids == sites.ids[2:]
    bare = {"statics": {**sites.sites[2].statics, "ph": np.nan}}
    with pytest.raises(TableError, match=r"No site of .* brings all inputs \(.*ph.*\) and a flux"):
        usable_sites(changed(sites, {"series": blind}, {"series": dry}, bare), spec)


def test_normals_are_means_over_whole_years(sites):
    series = sites.sites[0].series
    one = replace(sites.sites[0], series=series.loc["2015-06-01":])
    assert module._normal(one, "temperature_2m") == pytest.approx(float(series.loc["2016", "temperature_2m"].mean()))
    assert module._normal(sites.sites[0], "vpd") == pytest.approx(float(series["vpd"].mean()))


def test_trees_have_nothing_to_calibrate(checkpoint, sites):
    trees = model_config("lightgbm", {"rounds": 2}).build(Sizes(3, 2))
    spec = replace(checkpoint.spec, kind="lightgbm", name="trees")
    with pytest.raises(ConfigError, match=r"'trees' \(lightgbm\) has no hidden states.*ct_gru or kgml_ag"):
        make_calibration(replace(checkpoint, model=trees, spec=spec), sites, HeadsConfig(name="state"))


def test_heads_belong_to_one_network(checkpoint, sites):
    several = replace(checkpoint, model=Ensemble([checkpoint.model] * 2))
    with pytest.raises(ConfigError, match=r"an ensemble of 2 members.*fit\.members=1"):
        make_calibration(several, sites, HeadsConfig(name="state", fit=FEW))


def test_heads_do_not_fit_an_nee_of_the_networks_own(checkpoint, sites):
    own = replace(checkpoint, spec=replace(checkpoint.spec, fluxes=("gpp", "reco", "nee"), closure="projected"))
    with pytest.raises(ConfigError, match=r"NEE of its own \(closure 'projected'\).*closure=derived"):
        make_calibration(own, sites, HeadsConfig(name="state", fit=FEW))


def test_a_folder_that_stands_or_cannot_be_made_is_found_first(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_site_config", lambda *_: pytest.fail("sites were read"))
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExists, match=r"there exists\. Name another folder"):
        run_calibrate(make_config(out=str(tmp_path / "there")))
    with pytest.raises(OutputError, match="Cannot write"):
        run_calibrate(make_config(out=str(tmp_path / "file" / "model")))


def test_the_command_line_says_what_was_fitted(run, make_config, tmp_path):
    file = tmp_path / "calibrate.yaml"
    file.write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    code, out, err = run("calibrate", str(file), "heads=[{name: neighbourhood, fit: {steps: 2, stride: 30, rank: 1}}]")
    assert code == 0, err
    assert "neighbourhood: 3 places, 3 sites of fluxgrid synthetic world" in out
    # adapters of rank 1 on three taps: 8 + 1 + 8 each
    assert "51 numbers each, error" in out
    assert "km on the ground" in out
    assert (
        f"{tmp_path / 'out'}: choose with `fluxgrid upscale --model {tmp_path / 'out'} --calibration neighbourhood`"
        in out
    )
    assert set(load_checkpoint(tmp_path / "out").calibrations) == {"state", "neighbourhood"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["modle=default"], "modle: There is no key named 'modle'. Did you mean 'model'?"),
        (["heads=[{name: state, fit: {kind: adaptor}}]"], "heads.0.fit.kind: input should be 'affine', 'linear'"),
        (["heads=[{name: state}, {name: state}]"], "heads: a name comes twice"),
        (["model=no_such_model"], "no_such_model"),
        (["sites.source=world_cell"], "world_cell"),
        (["sites.options={states: [IA]}"], "Options of the source 'world_cells' are wrong"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(run, make_config, tmp_path, words, text):
    file = tmp_path / "calibrate.yaml"
    file.write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    code, out, err = run("calibrate", str(file), *words)
    assert (code, out) == (2, "")
    assert err.startswith("fluxgrid: ")
    assert text in err
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_step_is_refused(make_config, monkeypatch, checkpoint):
    monthly = replace(checkpoint, spec=replace(checkpoint.spec, step="monthly"))
    monkeypatch.setattr(module, "load_checkpoint", lambda _: monthly)
    with pytest.raises(ConfigError, match="is daily, but the configuration says step: monthly"):
        run_calibrate(make_config())


@pytest.mark.parametrize("kind", ["adapter", "linear", "lora", "full"])
def test_days_of_leap_years_that_have_no_value_do_not_spoil_the_fit(checkpoint, sites, kind):
    """As published, 31 December 2016 has no value; the heads are fitted to all other days."""
    config = replace(checkpoint.model.config, leap_day="none")
    spec = replace(checkpoint.spec, settings={**checkpoint.spec.settings, "leap_day": "none"})
    model = config.build(spec.sizes)
    model.load_state_dict(checkpoint.model.state_dict())
    fit = replace(FEW, stride=1, kind=kind)
    made = make_calibration(replace(checkpoint, model=model, spec=spec), sites, HeadsConfig(name="state", fit=fit))
    assert np.isfinite(made.loss).all()
    assert all(torch.isfinite(value).all() for value in made.calibration.heads.phi.values())


def test_paths_may_be_relative_to_home(make_config, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    outcome = run_calibrate(make_config(out="~/model"))
    assert outcome.checkpoint == Path(tmp_path) / "model"
    assert pd.Timestamp(json.loads((tmp_path / "model" / "provenance.json").read_text())["created"])
