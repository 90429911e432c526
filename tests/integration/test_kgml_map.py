"""A map of KGML-ag with calibrated heads, from the command line to each cell: what it holds, and how it was made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.data.records import plan_segments, site_places
from fluxgrid.errors import ConfigError, IncompleteMap
from fluxgrid.geo.state_of import state_of
from fluxgrid.models import load_checkpoint, save_checkpoint
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output.flags import Quality
from fluxgrid.prediction import BlockState, Predictor
from fluxgrid.upscaling.heads import map_blend
from fluxgrid.workflows.upscale import upscale

# 37 x 3 cells of a quarter degree along the south of Iowa and the north of Illinois: two tiles, three states
REGION = "-96.5,40.75,-87.25,41.5"
DAILY = ("nee", "gpp", "reco", "ra", "rh")
ANNUAL = ("corn_yield", "soybean_yield", "harvest_removal", "balance_after_harvest")
HEADS = ("calibration_id", "calibration_weight", "calibration_global_weight")
FINAL = 298
"""Days of the year before the residue enters, 26 October."""
# as for other maps, see test_site: kernels may round exp and tanh by position, and states hand it on through two years
RELATIVE, ABSOLUTE = 2e-5, 2e-5


def options(out: Path, model: Path, **changes) -> dict:
    """Return the configuration of the usual run."""
    period = {"start": "2019-01-01", "end": "2019-12-31", "resolution": 0.25}
    usual = {"region": REGION, "model": str(model), "calibration": "neighbourhood", "out": str(out), "threads": 1}
    return {**usual, **period, **changes}


def make(out: Path, model: Path, mode: str = "new", **changes) -> xr.Dataset:
    """Make a map in this process and return it."""
    outcome = upscale(load_config(UpscaleConfig, None, options(out, model, **changes)), mode)
    assert outcome.status == "done"
    return read(out)


def read(out: Path) -> xr.Dataset:
    (path,) = out.glob("*_2019.nc")
    with open_netcdf(path) as found:
        return found.load()


@pytest.fixture(scope="module")
def run(tiny_kgml, tmp_path_factory) -> Path:
    """Make the map by the command line."""
    out = tmp_path_factory.mktemp("kgml") / "map"
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options(out, tiny_kgml).items()]
    command = [sys.executable, "-m", "fluxgrid", "upscale", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Jumps across state borders over jumps inside states (1: no border shows): NEE" in done.stdout
    return out


@pytest.fixture(scope="module")
def whole(run) -> xr.Dataset:
    return read(run)


@pytest.fixture(scope="module")
def cube(run) -> xr.Dataset:
    return open_cube(run / "cube.zarr")


@pytest.fixture(scope="module")
def known(whole) -> np.ndarray:
    """Return the cells with values, (y, x)."""
    return np.isfinite(whole["nee"].values).any(axis=0)


def test_the_map_holds_all_that_the_model_gives(whole, known):
    assert whole["nee"].dims == ("time", "lat", "lon")
    assert whole["nee"].shape == (365, 3, 37)
    assert known.all()
    for name in DAILY:
        assert whole[name].dtype == np.float32
        assert np.isfinite(whole[name].values[:, known]).all(), name
        assert name == "nee" or (whole[name].values[:, known] >= 0).all(), name
    for name in (*ANNUAL, *HEADS[1:]):
        assert whole[name].squeeze().dims == ("lat", "lon"), name
        assert np.isfinite(whole[name].values[..., known]).all(), name
    assert not (whole["quality_flag"] & Quality.PROVISIONAL).any()


def test_its_fluxes_close(whole):
    f = {name: whole[name].values for name in DAILY}
    # float32
    np.testing.assert_allclose(f["nee"], f["reco"] - f["gpp"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(f["reco"], f["ra"] + f["rh"], rtol=1e-6, atol=1e-6)
    total = f["nee"].sum(axis=0, dtype=np.float64)
    removal, after = (whole[name].values.squeeze() for name in ("harvest_removal", "balance_after_harvest"))
    np.testing.assert_allclose(after, total + removal, rtol=1e-5, atol=1e-2)


def test_the_harvest_is_the_yields_by_the_crops_of_the_year(whole, cube):
    crops = cube.sel(time="2019-07-01")[["corn_fraction", "soybean_fraction"]].compute()
    corn, soybean = (crops[f"{name}_fraction"].values for name in ("corn", "soybean"))
    yields = [whole[f"{name}_yield"].values.squeeze() for name in ("corn", "soybean")]
    removal = whole["harvest_removal"].values.squeeze()
    # shares are scaled and scaled back in float32
    np.testing.assert_allclose(removal, corn * yields[0] + soybean * yields[1], rtol=1e-4, atol=1e-3)
    assert removal.max() > 10


def test_cells_say_whose_heads_they_blend(whole, tiny_kgml, cube):
    calibration = load_checkpoint(tiny_kgml).calibrations["neighbourhood"]
    blend = map_blend(calibration, grid_of(cube), (0, 0), cube)
    expected = {
        "calibration_id": np.where(blend.strongest < 0, np.nan, blend.strongest),
        "calibration_weight": blend.strongest_weight,
        "calibration_global_weight": blend.global_weight,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(whole[name].values.ravel(), values, rtol=1e-6, err_msg=name)
    share = whole["calibration_weight"].values + whole["calibration_global_weight"].values
    assert share.max() <= 1 + 1e-6
    assert whole["calibration_weight"].values.std() > 0.01
    assert len(set(whole["calibration_id"].values.ravel()[np.isfinite(whole["calibration_id"].values.ravel())])) > 1
    assert "4 places" in whole.attrs["fluxgrid_calibration"]
    assert whole.attrs["title"].endswith(", heads by neighbourhood")
    assert "-neighbourhood-daily-2019" in whole.attrs["id"]


def site_fluxes(predictor: Predictor, site, blend) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the fluxes of 2019 of a site by itself, the year before as spin-up, and the sums of the year."""
    spec, time = predictor.checkpoint.spec, pd.DatetimeIndex(site.series.index)
    state: BlockState | None = None
    for segment in plan_segments(time, spec.step, int(time.get_loc("2019-01-01")), spec.spin_up_years):
        assert not segment.recycled
        places = site_places(site, spec.step, spec.inputs, segment.steps)
        fluxes, state = predictor.predict(places, state, blend)
    daily = pd.DataFrame({name: values[:, 0] for name, values in fluxes.daily.items()}, index=time[segment.steps])
    return daily, {name: float(values[0]) for name, values in fluxes.annual.items()}


@pytest.mark.parametrize("cell", [(0, 0), (1, 19), (2, 33)])
def test_a_cell_is_a_site_with_the_same_weights(whole, cube, tiny_kgml, tools, cell):
    checkpoint = load_checkpoint(tiny_kgml)
    row, col = cell
    flat = np.array([row * 37 + col])
    blend = map_blend(checkpoint.calibrations["neighbourhood"], grid_of(cube), (0, 0), cube).select(flat)
    assert blend.weights.max() > 0.01
    predictor = Predictor(checkpoint, calibration="neighbourhood")
    site = tools["site_at"](cube, row, col)
    daily, annual = site_fluxes(predictor, site, blend)
    assert list(daily) == list(DAILY)
    for name in DAILY:
        np.testing.assert_allclose(whole[name].values[:, row, col], daily[name], rtol=RELATIVE, atol=ABSOLUTE)
    for name in ANNUAL:
        # sums of a year
        assert float(whole[name].values.squeeze()[row, col]) == pytest.approx(annual[name], rel=1e-5, abs=5e-3), name
    alone, _ = site_fluxes(Predictor(checkpoint), site, None)
    assert not np.allclose(alone["gpp"], daily["gpp"], rtol=1e-3)


def test_tile_size_does_not_change_a_bit(run, whole, tiny_kgml, tmp_path, digests_of):
    make(tmp_path / "map", tiny_kgml, tile=64, threads=2)
    assert digests_of(tmp_path / "map") == digests_of(run)


def test_a_resumed_map_is_the_same(run, tiny_kgml, tmp_path, digests_of, power_going_late):
    """The power goes while the last tile is in its scored year; its spin-up is read back with all states."""
    with power_going_late(), pytest.raises(IncompleteMap):
        make(tmp_path / "map", tiny_kgml)
    make(tmp_path / "map", tiny_kgml, mode="resume")
    assert digests_of(tmp_path / "map") == digests_of(run)


@pytest.mark.parametrize("end", ["2019-11-30", "2019-10-25"])
def test_a_year_cut_short_is_provisional_from_the_residue_on(whole, tiny_kgml, tmp_path, end):
    part = make(tmp_path / "map", tiny_kgml, end=end)
    days = part.sizes["time"]
    provisional = (part["quality_flag"].values & Quality.PROVISIONAL).astype(bool)
    assert not provisional[:FINAL].any()
    assert len(provisional[FINAL:]) == max(days - FINAL, 0)  # the later end is inside the season of the residue
    assert provisional[FINAL:].all()
    assert str(part["time"].values[min(FINAL, days - 1)])[:10] == ("2019-10-26" if days > FINAL else "2019-10-25")
    for name in DAILY:
        known = part[name].values[:FINAL]
        np.testing.assert_array_equal(known, whole[name].values[:FINAL], err_msg=name)
    if days > FINAL:
        assert np.abs(part["rh"].values[FINAL:] - whole["rh"].values[FINAL:days]).max() > 1e-4
        np.testing.assert_allclose(part["gpp"].values[FINAL:], whole["gpp"].values[FINAL:days], rtol=1e-5, atol=1e-5)
    for name in ANNUAL:
        assert name not in part or np.isnan(part[name].values).all(), name


def test_state_heads_follow_the_borders(run, whole, tiny_kgml, tmp_path):
    found = make(tmp_path / "map", tiny_kgml, calibration="state")
    lon, lat = np.meshgrid(found["lon"], found["lat"])
    state = state_of(lat, lon)
    assert {"IA", "IL"} < {*np.unique(state)}  # and others, whose cells take the global model
    place = found["calibration_id"].values.squeeze()
    for position, name in enumerate(("IA", "IL")):
        np.testing.assert_array_equal(place == position, state == name)
    alone = ~np.isin(state, ["IA", "IL"])
    np.testing.assert_array_equal(found["calibration_global_weight"].values.squeeze(), alone.astype(np.float32))
    plain = make(tmp_path / "plain", tiny_kgml, calibration="none")
    assert not {*HEADS} & {*plain.variables}
    for name in DAILY:
        same = np.isclose(found[name].values, plain[name].values, rtol=RELATIVE, atol=ABSOLUTE).all(axis=0)
        assert same[alone].all(), name
    # an adapter of rank 2 may rest at a cell or two
    assert (found["gpp"].values != plain["gpp"].values).any(axis=0)[~alone].mean() > 0.9
    # the yields feed the residue and stay global
    np.testing.assert_allclose(found["corn_yield"], plain["corn_yield"], rtol=1e-5)


def test_a_calibration_the_model_lacks_is_refused_before_a_cube_is_built(tiny_kgml, tmp_path):
    with pytest.raises(ConfigError, match="has no calibration 'state'"):
        make(tmp_path / "map", bare(tiny_kgml, tmp_path), calibration="state")
    assert not (tmp_path / "map" / "cube.zarr").exists()


def bare(model: Path, folder: Path) -> Path:
    """Return a copy of a checkpoint without its heads."""
    checkpoint = load_checkpoint(model)
    parts = checkpoint.spec, checkpoint.scaler, checkpoint.model, checkpoint.domain
    save_checkpoint(folder / "bare", *parts, "made: for tests\n", {})
    return folder / "bare"
