"""Every architecture makes a map, and networks of windows make the maps that a loop over windows would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.api import open_map
from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.data.cube import open_cube
from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.records import plan_segments, site_places
from fluxgrid.errors import ConfigError
from fluxgrid.models import MODELS, ModelSpec, load_checkpoint
from fluxgrid.prediction import Predictor
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.workflows.upscale import upscale

WINDOW, STRIDE, HIDDEN = 12, 5, 8
FIRST, LAST = "2020-12-01", "2021-01-17"
INPUTS = InputSpec(
    ("temperature_2m", "precipitation", "shortwave", "day_length", "latitude", "longitude"),
    ("crop_fraction",),
    ("climate_group",),
)
OWN = {
    "transformer": {"attention_heads": 2},
    "patch_transformer": {"attention_heads": 2, "patch": 3},
    "tam_rl": {"latent": 4},
}
KINDS = [kind for kind in MODELS if kind != "kgml_ag"]  # it has inputs of its own, and test_kgml_map
WINDOWED = ["lstm", "ct_lstm", "gru", "ct_gru", "transformer", "patch_transformer", "tam_rl"]
MODES = [(kind, mode) for kind in WINDOWED for mode in ("exact", "stride")]
STREAMS = [(kind, "stream") for kind in WINDOWED[:4]]

# The loop runs windows one by one, the map many together: the same float32 products in another order at worst.
ROUNDING = {"rtol": 3e-5, "atol": 3e-6}


def settings_of(kind: str) -> dict:
    if not MODELS[kind].differentiable:
        return {"rounds": 5}
    if kind == "mlp":
        return {"hidden": HIDDEN}
    return {"hidden": HIDDEN, "window": WINDOW, "stride": STRIDE, "window_mode": "exact", **OWN.get(kind, {})}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tools) -> tuple[Path, dict[str, Path]]:
    """Return a small cube of two years, and a model of every architecture."""
    folder = tmp_path_factory.mktemp("windows")
    cube = small_cube(shape=(45, 58), start="2019-12-01", periods=428, seed=6)
    path = write_cube(cube, folder / "cube.zarr", chunks=(45, 58))
    opened, models = open_cube(path), {}
    for kind in KINDS:
        memory = 1 if MODELS[kind].differentiable else 0
        spec = ModelSpec(f"small-{kind}", kind, settings_of(kind), "daily", INPUTS, memory, "UTC", description="a test")
        models[kind] = tools["write_model"](folder / kind, opened, spec)
    return path, models


@pytest.fixture(scope="module")
def mapped(world, tmp_path_factory):
    """Return a function that gives the map of a kind in a mode, made once."""
    known: dict[tuple[str, str | None], xr.Dataset] = {}

    def get(kind: str, mode: str | None = None) -> xr.Dataset:
        mode = "exact" if mode is None and kind in WINDOWED else mode
        if (kind, mode) not in known:
            known[kind, mode] = make(world, tmp_path_factory.mktemp("map") / "map", kind, mode).load()
        return known[kind, mode]

    return get


def make(world, out: Path, kind: str, mode: str | None = None):
    """Return the map of 4 by 5 cells."""
    cube, models = world
    values = {
        "region": "-93.75,41.45,-93.25,41.85",
        "cube": str(cube),
        "model": str(models[kind]),
        "window_mode": mode,
        "start": FIRST,
        "end": LAST,
        "out": str(out),
        "threads": 1,
    }
    outcome = upscale(load_config(UpscaleConfig, None, values))
    return open_map(outcome.out)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_makes_a_map(mapped, kind):
    found = mapped(kind)
    inside = found["region_land_area_fraction"].values > 0
    for name in ("nee", "gpp", "reco"):
        assert np.isfinite(found[name].values[:, inside]).all()
    nee, gpp, reco = (found[name].values[:, inside] for name in ("nee", "gpp", "reco"))
    assert np.array_equal(nee, reco - gpp)
    assert min(gpp.min(), reco.min()) >= 0
    assert nee.std() > 1e-4
    assert ("fluxgrid_window_mode" in found.attrs) == (kind in WINDOWED)


@pytest.mark.parametrize(("kind", "mode"), MODES + STREAMS)
def test_a_map_is_a_loop_over_windows(world, mapped, tools, kind, mode):
    found = mapped(kind, mode)
    assert found.attrs["fluxgrid_window_mode"].startswith(f"{mode}: ")
    checkpoint = load_checkpoint(world[1][kind]).in_mode(mode)
    y, x = 2, 3
    lonlat = float(found["lon"][x]), float(found["lat"][y])
    expected = tools["window_loop"](open_cube(world[0]), checkpoint, lonlat, slice(FIRST, LAST))
    for name in expected:
        np.testing.assert_allclose(found[name].values[:, y, x], expected[name], **ROUNDING, err_msg=name)


def test_a_site_read_with_the_code_of_its_record_is_a_cell_of_the_map(world, tools, tmp_path):
    """The code is carried over the turn of the year, on a map as at a site."""
    cube = open_cube(world[0])
    settings = {**settings_of("tam_rl"), "code_from": "record"}
    spec = ModelSpec("record", "tam_rl", settings, "daily", INPUTS, 1, "UTC", description="a test", whole_year_from=0)
    model = tools["write_model"](tmp_path / "model", cube, spec)
    found = make((world[0], {"record": model}), tmp_path / "map", "record").load()
    assert "with a code of the place from its record" in found.attrs["fluxgrid_window_mode"]
    assert found.attrs["fluxgrid_spin_up"] == "1 year(s), before the period"
    check_a_cell(cube, found, Predictor(load_checkpoint(model)), tools["site_at"])


@pytest.mark.parametrize(("kind", "mode"), [("lstm", "stride"), ("transformer", "exact"), ("tam_rl", "stride")])
def test_spin_up_that_no_window_reaches_is_not_read_and_changes_no_bit(world, mapped, tools, kind, mode):
    found = mapped(kind, mode)
    assert found.attrs["fluxgrid_spin_up"] == f"{WINDOW - 1} steps, before the period"
    predictor = Predictor(load_checkpoint(world[1][kind]).in_mode(mode))
    check_a_cell(open_cube(world[0]), found, predictor, tools["site_at"])


def check_a_cell(cube: xr.Dataset, found: xr.Dataset, predictor: Predictor, site_at) -> None:
    """Check a cell of a map against the same cell as a site that runs through all of its spin-up year."""
    y, x = 2, 3
    row, col = (
        int(np.abs(cube[a].values - float(found[b][i])).argmin()) for a, b, i in (("y", "lat", y), ("x", "lon", x))
    )
    site = site_at(cube, row, col, slice(None, len(pd.date_range(cube.indexes["time"][0], LAST))))
    time, state = pd.DatetimeIndex(site.series.index), None
    parts, spin_up = [], 0
    for segment in plan_segments(time, "daily", int(time.searchsorted(pd.Timestamp(FIRST))), 1):
        fluxes, state = predictor.predict(site_places(site, "daily", INPUTS, segment.steps), state)
        if segment.scored:
            parts.append(fluxes.nee[:, 0])
        else:
            spin_up += fluxes.nee.shape[0]
    assert spin_up == 366
    assert len(parts) == 2
    assert np.array_equal(np.concatenate(parts), found.nee.values[:, y, x])


def test_modes_differ_and_a_network_without_a_state_cannot_stream(world, mapped, tmp_path):
    exact, stride, stream = (mapped("ct_lstm", mode).nee for mode in ("exact", "stride", "stream"))
    assert not np.allclose(exact, stride, atol=1e-4)
    assert not np.allclose(exact, stream, atol=1e-4)
    with pytest.raises(ConfigError, match=r"cannot stream; choose exact or stride \(--window-mode\)"):
        make(world, tmp_path / "none", "transformer", "stream")
    with pytest.raises(ConfigError, match="sees no windows"):
        make(world, tmp_path / "none", "lightgbm", "exact")
