"""Peers give what our network gives, whatever engine they run it in; one that is missing says so."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from fluxgrid.bench.cubes import middle
from fluxgrid.bench.maps import MapJob, plan_map, run_map
from fluxgrid.bench.peers import OUTPUTS, Peer, run_plain, tune
from fluxgrid.bench.peers_engines import JaxScan, OnnxRuntime, jax_function
from fluxgrid.bench.peers_trees import LightGBMDask, XGBoostDask
from fluxgrid.bench.peers_xarray import ApplyUfunc, MapBlocks, PerPixel, XBatcher
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.run import run_plan


@pytest.fixture(scope="module")
def truth(peer_data):
    """Return GPP of our network over the cube, worked out from scaled inputs, (y, x, T)."""
    cube = xr.open_zarr(peer_data.cube, consolidated=False)
    channels = []
    for name in peer_data.names:
        mean, span = middle(name)
        channels.append((cube[name].transpose("y", "x", "time").values - mean) / (span / 2))
    x = torch.from_numpy(np.stack(channels, axis=-1).astype(np.float32))
    flat = x.flatten(0, 1)
    network = peer_data.checkpoint.model
    fluxes, _ = network.predict(flat, flat[:, 0, :0], torch.zeros(len(flat), network.state_size))
    return fluxes[..., 0].reshape(x.shape[:3]).numpy()


def test_every_form_is_tried_and_the_best_kept(peer_data):
    peer = MapBlocks()
    tuned = tune(peer, replace(peer_data, settings=replace(peer_data.settings, sweep=True)))
    assert [{k: v for k, v in row.items() if k != "pixel_days_per_s"} for row in tuned.sweep] == list(
        peer.forms(peer_data.cores)
    )
    best = max(tuned.sweep, key=lambda row: row["pixel_days_per_s"])
    assert tuned.form.items() <= best.items()


@pytest.mark.parametrize(
    ("peer", "store"),
    [
        (MapBlocks(), "map_blocks"),
        (ApplyUfunc(), "ufunc"),
        (PerPixel(), "pixels"),
        (XBatcher(), "xbatcher"),
        (OnnxRuntime(), "onnx"),
        (JaxScan(), "jax"),
    ],
)
def test_a_peer_makes_the_map_of_our_network(peer, store, peer_data, truth):
    tuned = tune(peer, peer_data)
    assert tuned.run() > 0
    assert tuned.form == peer.forms(peer_data.cores)[0]
    found = zarr.open_group(peer_data.work / f"{store}.zarr", mode="r")
    gpp, reco, nee = (found[name][:] for name in ("gpp", "reco", "nee"))
    if store in ("onnx", "jax"):
        gpp, reco, nee = (values.transpose(1, 2, 0) for values in (gpp, reco, nee))
    rows, cols = gpp.shape[:2]
    assert peer.pixel_days(peer_data) == rows * cols * 20
    np.testing.assert_allclose(gpp, truth[:rows, :cols], atol=3e-6)
    np.testing.assert_allclose(nee, reco - gpp, atol=1e-6)


def test_our_map_is_that_of_the_same_network(peer_data, truth, tmp_path):
    path = str(peer_data.checkpoint.path)
    plan = plan_map(MapJob(str(peer_data.cube), path, (16, 48), "2019-01-01", "2019-01-20"))
    done = run_map(plan, tmp_path / "map", Executor(1, 2))
    assert (done.pixel_days, done.spin_up_pixel_days, done.missing) == (16 * 48 * 20, 0, 0)
    assert len(done.arrivals) == 2
    assert not (tmp_path / "map").exists()
    run_plan(plan, tmp_path / "kept", Executor(1, 1), "cpu")
    gpp = zarr.open_group(plan.store(tmp_path / "kept", plan.map_segments[0]), mode="r")["gpp"][:]
    np.testing.assert_allclose(gpp.transpose(1, 2, 0), truth, atol=3e-6)


@pytest.mark.parametrize("peer", [XGBoostDask(), LightGBMDask()])
def test_tree_peers_predict_every_row_on_the_threads_of_their_form(peer, peer_data):
    boosters = peer.boosters(peer_data)
    many, one = peer.forms(3)
    runs = [peer.start(peer_data, form) for form in (many, one)]
    assert all(run() > 0 for run in runs)
    days = peer.days(peer_data)
    assert peer.pixel_days(peer_data) == 16 * 48 * days
    if isinstance(peer, XGBoostDask):  # no form sets threads on the booster of another
        assert '"nthread":"1"' in boosters[0].save_config()
    cube = xr.open_zarr(peer_data.cube, consolidated=False)
    part = cube.isel(time=slice(0, days))
    rows = np.stack([peer_data.scaled(i, part[n].values).ravel() for i, n in enumerate(peer_data.names)], axis=-1)
    codec = zarr.open_array(peer_data.cube / peer_data.names[0], mode="r").compressors
    written = zarr.open_group(peer_data.work / f"{type(peer).__name__}-2.zarr", mode="r")
    gpp, reco = (peer.values(booster, 1)(rows) for booster in boosters)
    assert not np.allclose(gpp, reco, atol=1e-3)
    for name, expected in (("gpp", gpp), ("reco", reco), ("nee", reco - gpp)):
        assert written[name].compressors == codec
        np.testing.assert_allclose(written[name][:].ravel(), expected, atol=2e-6)
    assert peer.start_fluxes(peer_data, one, 1)() > 0
    alone = zarr.open_group(peer_data.work / f"{type(peer).__name__}-1.zarr", mode="r")
    assert {name for name in OUTPUTS if name in alone} == {"gpp"}
    np.testing.assert_array_equal(alone["gpp"][:], written["gpp"][:])


@pytest.mark.parametrize("form", JaxScan().forms(2)[:4])
def test_every_form_of_the_scan_says_the_same(form, peer_data):
    x = np.random.default_rng(0).normal(size=(20, 5, len(peer_data.names))).astype(np.float32)
    expected = run_plain(peer_data.net, x.swapaxes(0, 1).copy(), 5, 1).swapaxes(0, 1)
    np.testing.assert_allclose(jax_function(peer_data.net, form)(x), expected, atol=3e-6)


class _Absent(Peer):
    name: ClassVar[str] = "an engine nobody has"
    packages: ClassVar[tuple[str, ...]] = ("no_such_engine",)
    install: ClassVar[str] = "pip install no-such-engine"
    compares: ClassVar[str] = "same work"

    def forms(self, cores):
        raise AssertionError("a peer that is missing is not asked")

    pixel_days = start = forms


def test_a_missing_peer_says_how_to_get_it(peer_data):
    tuned = tune(_Absent(), peer_data)
    assert tuned.run is None
    assert tuned.missing == "not installed (no_such_engine): pip install no-such-engine"
