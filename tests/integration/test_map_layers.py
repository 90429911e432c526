"""Maps that hold more than three fluxes: parts of respiration, sums over the year, calibrated places."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from fluxgrid.data.cube import open_cube
from fluxgrid.errors import ConfigError
from fluxgrid.geo.state_of import state_of
from fluxgrid.models import ModelSpec
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import Heads
from fluxgrid.models.checkpoint import save_checkpoint
from fluxgrid.models.places import Bandwidth, CalibratedPlaces
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import whole_year
from fluxgrid.prediction import Predictor
from fluxgrid.upscaling.normals import climate_normals

ANNUAL = ("corn_yield", "harvest_removal", "balance_after_harvest")
STATES = {"IL": (40.0, -89.2), "WI": (44.6, -90.0)}


@pytest.fixture
def rich_model(monkeypatch):
    """Let every model give parts of respiration and sums over the year."""
    predict = Predictor.predict

    def richer(self, places, state=None, blend=None):
        fluxes, after = predict(self, places, state, blend)
        daily = {**fluxes.daily, "ra": np.float32(0.25) * fluxes.reco, "rh": np.float32(0.75) * fluxes.reco}
        whole = whole_year(places.time, "daily")
        removal = places.latitude.astype(np.float32)
        total = np.nansum(fluxes.nee, axis=0) + removal
        annual = dict(zip(ANNUAL, (2 * removal, removal, total), strict=True))
        provisional = np.full(fluxes.missing.shape, not whole) & ~fluxes.missing
        return replace(fluxes, daily=daily, annual=annual, provisional=provisional), after

    monkeypatch.setattr(Predictor, "predict", richer)
    monkeypatch.setattr(ModelSpec, "map_fluxes", property(lambda _: ("nee", "gpp", "reco", "ra", "rh")))
    monkeypatch.setattr(ModelSpec, "map_annual", property(lambda _: ANNUAL))


def test_a_map_holds_what_its_model_gives(world, rich_model, tmp_path, digests_of):
    world.run(tmp_path / "map", start="2020-01-01")
    with open_netcdf(next(tmp_path.glob("map/*_2020.nc"))) as year:
        known = np.isfinite(year["nee"]).any("time")
        lat, _ = xr.broadcast(year["lat"], year["lon"])
        np.testing.assert_array_equal(year["harvest_removal"], lat.astype("float32").where(year["harvest_removal"] > 0))
        np.testing.assert_allclose(year["ra"] + year["rh"], year["reco"], rtol=1e-6)
        balance = year["nee"].sum("time") + year["harvest_removal"]
        np.testing.assert_allclose(
            balance.where(known), year["balance_after_harvest"].where(known), rtol=1e-3, atol=1e-2
        )
        assert not (year["quality_flag"] & Quality.PROVISIONAL).any()
    with open_netcdf(next(tmp_path.glob("map/*_2021.nc"))) as january:
        assert "rh" in january
        assert not {*ANNUAL, "year"} & {*january.variables}
        known = np.isfinite(january["nee"])
        assert ((january["quality_flag"] & Quality.PROVISIONAL).astype(bool) == known).all()
    totals = pd.read_csv(tmp_path / "map" / "totals.csv", dtype={"period": str})
    assert set(totals.loc[totals["flux"] == "harvest_removal", "period"]) == {"2020"}
    world.run(tmp_path / "other", start="2020-01-01", tile=64, threads=1)
    assert digests_of(tmp_path / "other") == digests_of(tmp_path / "map")


def calibrated_places(cube) -> CalibratedPlaces:
    """Return two states and two sites of the cube's world."""
    sites = {"US-A": (42.5, -88.9), "US-B": (41.8, -87.0)}
    latitude, longitude = np.array([*STATES.values(), *sites.values()]).T
    names = ("temperature_2m", "precipitation")
    everywhere = climate_normals(cube, names)
    climate = np.nanquantile(everywhere, [0.1, 0.4, 0.6, 0.9], axis=0)
    return CalibratedPlaces(
        (*STATES, *sites), latitude, longitude, climate, names, np.nanstd(everywhere, axis=0), (*STATES, "", ""),
        Bandwidth(60.0, 1.0, 0.2, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def calibrated(world, tmp_path_factory):
    """The small network with heads that change much."""
    path = tmp_path_factory.mktemp("calibrated") / "model"
    plain = world.checkpoint("ct_gru")
    places = calibrated_places(open_cube(str(world.cube)))
    torch.manual_seed(5)
    found = []
    for name in ("state", "neighbourhood"):
        heads = Heads(plain.model, "affine", len(places), 1)
        with torch.no_grad():
            for parameter in heads.phi.values():
                parameter.normal_(0, 0.5)
        found.append(Calibration(name, heads, places, "invented heads"))
    save_checkpoint(path, plain.spec, plain.scaler, plain.model, plain.domain, "made: for tests\n", {}, found)
    return path


@pytest.mark.parametrize("calibration", ["state", "neighbourhood"])
def test_a_calibrated_map_says_whose_heads_it_blends(world, calibrated, baseline, tmp_path, digests_of, calibration):
    outcome = world.run(tmp_path / "map", model=str(calibrated), calibration=calibration)
    assert outcome.manifest["calibration"] == calibration
    files, plain = (sorted(folder.glob("*.nc")) for folder in (tmp_path / "map", baseline["ct_gru"]))
    for path, other in zip(files, plain, strict=True):
        with open_netcdf(path) as found, open_netcdf(other) as without:
            check_blended(found, without)
            assert found.attrs["fluxgrid_calibration"] == f"{calibration}: invented heads"
            if calibration == "state":
                check_states(found)
            else:
                assert float(found["calibration_weight"].max()) > 0.5
                assert 0 < float(found["calibration_global_weight"].mean()) < 1
    world.run(tmp_path / "other", model=str(calibrated), calibration=calibration, tile=64, threads=1)
    assert digests_of(tmp_path / "other") == digests_of(tmp_path / "map")


def check_blended(found: xr.Dataset, without: xr.Dataset) -> None:
    """Check that cells without weight, and they alone, are those of the global model."""
    known = np.isfinite(without["nee"]).any("time").values
    weight = found["calibration_weight"].values
    assert np.isfinite(weight[known]).all()
    alone = known & (weight == 0)
    np.testing.assert_array_equal(np.isnan(found["calibration_id"].values[known]), alone[known])
    assert (found["calibration_global_weight"].values[alone] == 1).all()
    assert found["calibration_id"].attrs["flag_meanings"] == "IL WI US-A US-B"
    for flux in ("gpp", "reco"):
        same = (found[flux].values == without[flux].values) | np.isnan(without[flux].values)
        assert same[:, alone].all()
        assert not same[:, known & (weight > 0.01)].all(axis=0).any()


def check_states(found: xr.Dataset) -> None:
    """Check that cells of the calibrated states take these, and no others any."""
    known = np.isfinite(found["nee"]).any("time").values
    place = np.nan_to_num(found["calibration_id"].values, nan=-1).astype(int)
    lon, lat = np.meshgrid(found["lon"], found["lat"])
    state = state_of(lat, lon)
    assert {*np.unique(state[known])} > {*STATES}
    right = np.where(np.isin(state, [*STATES]), state, "")
    np.testing.assert_array_equal(np.array([*STATES, "", "", ""])[place][known], right[known])


def test_without_calibration_the_heads_change_nothing(world, calibrated, baseline, tmp_path, digests_of):
    world.run(tmp_path / "map", model=str(calibrated))
    assert digests_of(tmp_path / "map") == digests_of(baseline["ct_gru"])


def test_a_calibration_the_model_lacks_is_refused_before_anything_is_written(world, tmp_path):
    with pytest.raises(ConfigError, match="has no calibration 'state'"):
        world.run(tmp_path / "map", calibration="state")
    assert not list(tmp_path.glob("map/*.nc"))


def test_border_steps_and_carbon_are_in_the_manifest_and_printed(world, calibrated, baseline, tmp_path, manifest):
    done = world.call(tmp_path / "map", model=str(calibrated), calibration="state", end="2020-12-31")
    assert done.returncode == 0, done.stderr
    steps = manifest(tmp_path / "map")["border_step"]
    assert list(steps) == ["nee", "gpp", "reco"]
    line = next(line for line in done.stdout.splitlines() if line.startswith("Jumps across state borders"))
    assert f"GPP {steps['gpp']:.2f}" in line
    carbon = manifest(tmp_path / "map")["totals_TgC"]
    ((period, fluxes),) = carbon.items()
    assert period == "2020-12-01/2020-12-31"
    assert fluxes["nee"] == pytest.approx(fluxes["reco"] - fluxes["gpp"], rel=1e-5)
    assert f"Carbon in {period}: NEE {fluxes['nee']:,.4g}, GPP" in done.stdout
    plain = json.loads((baseline["ct_gru"] / "manifest.json").read_text(encoding="utf-8"))["border_step"]
    assert steps["gpp"] > 2 * plain["gpp"]  # heads of states alone


def test_a_dry_run_estimates_a_calibrated_map(world, calibrated, tmp_path):
    done = world.call(tmp_path / "map", "--dry-run", model=str(calibrated), calibration="neighbourhood")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "map").exists()
