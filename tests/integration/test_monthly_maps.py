"""Every architecture of CarbonBench, trained on monthly towers, maps Iowa on the real grid in each of its modes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.api import open_map
from fluxgrid.config import TrainConfig, UpscaleConfig, load_config
from fluxgrid.data.cube import open_cube
from fluxgrid.errors import ConfigError
from fluxgrid.models import MODELS, load_checkpoint, save_checkpoint
from fluxgrid.training.train import train_model, training_domain
from fluxgrid.workflows.sites import model_spec, read_sites
from fluxgrid.workflows.upscale import Outcome, upscale

pytestmark = pytest.mark.data

GRID = "conus_monthly_covariates_025.nc"
FIRST, LAST = "2001-01-01", "2002-12-01"  # the year before, the first of the cube, is spin-up
STREAMS = ("lstm", "ct_lstm", "gru", "ct_gru")
WINDOWED = (*STREAMS, "transformer", "patch_transformer", "tam_rl")
CUTS = [
    (kind, mode) for kind in WINDOWED for mode in ("exact", "stride", "stream") if mode != "stream" or kind in STREAMS
]
MAPS = [("mlp", None), ("xgboost", None), ("lightgbm", None), *CUTS]
TEXTS = {
    "exact": "exact: each month is predicted from its own window of 12 months",
    "stride": "stride: windows of 12 months every 6 months, each for its last 6 months",
    "stream": "stream: the state is carried from month to month",
}
# The loop runs windows one by one, the map many together: the same float32 products in another order at worst.
ROUNDING = {"rtol": 3e-5, "atol": 3e-6}
SMALL = {"hidden": 8, "latent": 4, "rounds": 5, "attention_heads": 2}


@pytest.fixture(scope="module")
def config(data_dir) -> TrainConfig:
    """Return the shipped configuration of the ten, its networks small, its trees few, one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUXGRID_TEST_DATA", str(data_dir))
        found = load_config(TrainConfig, "ten_towers_monthly", ["fit.epochs=1", "inputs.classes=[climate_group]"])
    models = {}
    for name, entry in found.models.items():
        own = {key: value for key, value in SMALL.items() if key in MODELS[name].__dataclass_fields__}
        models[name] = entry.model_copy(update={"model": entry.model.model_copy(update=own)})
    return found.model_copy(update={"models": models})


@pytest.fixture(scope="module")
def checkpoints(config, tmp_path_factory):
    """Train every model on some of the towers; return the checkpoints by kind."""
    folder, everything = tmp_path_factory.mktemp("ten"), read_sites(config)
    sites = everything.select(everything.ids[::20])
    made = {}
    for name, entry in config.entries.items():
        spec = model_spec(entry, sites)
        trained = train_model(sites, spec, entry.fit)
        domain = training_domain(trained, sites, spec, entry.fit)
        made[name] = folder / name
        save_checkpoint(made[name], spec, trained.scaler, trained.model, domain, "made: for tests\n", {})
    return made


@pytest.fixture(scope="module")
def make(data_dir, checkpoints, tmp_path_factory):
    """Return a function that maps Iowa with a model in a mode."""

    def run(kind: str, mode: str | None) -> Outcome:
        values = {
            "region": "iowa",
            "cube": str(data_dir / GRID),
            "mapping": "conus_monthly_025",
            "model": str(checkpoints[kind]),
            "window_mode": mode,
            "start": FIRST,
            "end": "2002-12-31",
            "out": str(tmp_path_factory.mktemp("map") / "map"),
            "threads": 1,
        }
        with pytest.MonkeyPatch.context() as patch:  # pictures and totals take half of the time, and are no model's own
            patch.setattr("fluxgrid.output.quicklook.draw_quicklook", lambda *args: blank(args[-1]))
            patch.setattr("fluxgrid.upscaling.publish.write_totals", lambda *args: blank(args[-2]))
            patch.setattr("fluxgrid.upscaling.publish.region_totals", lambda _: {})
            patch.setattr("fluxgrid.output.qgis.write_qlr", lambda path, *_, **__: blank(path))
            return upscale(load_config(UpscaleConfig, None, values))

    return run


def blank(path: Path) -> Path:
    """Write an empty file in the place of one that is not looked at."""
    path.touch()
    return path


def test_the_ten_are_all_there_are_but_for_crops(config):
    assert set(config.entries) == set(MODELS) - {"kgml_ag"}
    assert len(config.entries) == 10


@pytest.mark.parametrize(("kind", "mode"), MAPS)
def test_a_map_of_a_real_state(make, checkpoints, data_dir, tools, kind, mode):
    outcome = make(kind, mode)
    found = open_map(outcome.out).load()
    check_map(found, mode)
    coverage = json.loads((outcome.out / "manifest.json").read_text())["coverage"]
    assert (coverage["missing"], coverage["share"]) == (0, 1)
    if mode is None:
        return
    y, x = (size // 2 for size in found["nee"].shape[1:])
    lonlat = float(found["lon"][x]), float(found["lat"][y])
    cube, checkpoint = open_cube(data_dir / GRID, "conus_monthly_025"), load_checkpoint(checkpoints[kind]).in_mode(mode)
    expected = tools["window_loop"](cube, checkpoint, lonlat, slice(FIRST, LAST))
    for name in expected:
        np.testing.assert_allclose(found[name].values[:, y, x], expected[name], **ROUNDING, err_msg=name)


def check_map(found: xr.Dataset, mode: str | None) -> None:
    """Check cells, months, balance and what the map says of itself."""
    assert list(found.indexes["time"]) == list(pd.date_range(FIRST, LAST, freq="MS"))
    inside = found["region_land_area_fraction"].values > 0
    assert 230 < inside.sum() < 330  # 146,000 km2 in cells of 570
    nee, gpp, reco = (found[name].values[:, inside] for name in ("nee", "gpp", "reco"))
    assert np.isfinite(nee).all()
    assert np.array_equal(nee, reco - gpp)
    assert min(gpp.min(), reco.min()) >= 0
    assert nee.std() > 1e-3
    assert np.isnan(found["nee"].values[:, ~inside]).all()
    assert found["time_bnds"].values[1, 1] == np.datetime64("2001-03-01")
    assert found.attrs.get("fluxgrid_window_mode", "").startswith(TEXTS.get(mode, ""))
    assert ("fluxgrid_window_mode" in found.attrs) == (mode is not None)
    assert "Monthly net ecosystem exchange" in found.attrs["summary"]


def test_windows_longer_than_the_spin_up_are_refused(config):
    entry = config.entries["lstm"]
    model = entry.model.model_copy(update={"window": 30, "stride": 15})
    with pytest.raises(ConfigError, match=r"window of 30 months .* looks back on 29, but 1 year\(s\) .* hold 12"):
        model_spec(entry.model_copy(update={"model": model}), read_sites(config))
