"""Maps of ensembles: half-widths beside the fluxes, the same whatever the tiles, and the same as at a site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.api import open_map
from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.data.cube import open_cube
from fluxgrid.errors import IncompleteMap
from fluxgrid.models import load_checkpoint
from fluxgrid.models.checkpoint import save_checkpoint
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.uncertainty import FluxUncertainty, Uncertainty
from fluxgrid.netcdf import open_netcdf
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.variables import MAP_FLUXES, STANDARD_ERROR_COVERAGE
from fluxgrid.workflows.upscale import upscale

REGION = "-91.0,40.6,-87.2,44.0"  # 34 by 38 cells: four tiles of 32
MEMBERS, FACTOR, FLOOR = 3, 1.5, 0.2
FITTED = Uncertainty(
    {name: FluxUncertainty(FLOOR, {STANDARD_ERROR_COVERAGE: FACTOR, 0.9: None}, 6, 99) for name in MAP_FLUXES}
)


@pytest.fixture(scope="module")
def ensembles(world):
    """Return the folders of an ensemble that carries a state of each member and of one of trees."""
    folders = {}
    for kind in ("ct_gru", "lightgbm"):
        base = world.checkpoint(kind)
        torch.manual_seed(11)
        members = [base.spec.build() for _ in range(MEMBERS)]
        for number, member in enumerate(members):
            if kind == "lightgbm":
                member.boosters = base.model.boosters[:: 1 if number else -1]
        spec = replace(base.spec, name=f"small-{kind}-ensemble", members=MEMBERS)
        folders[kind] = world.folder / f"ensemble-{kind}"
        parts = spec, base.scaler, Ensemble(members), base.domain, "made: for tests\n", {}
        save_checkpoint(folders[kind], *parts, uncertainty=FITTED)
    return folders


@pytest.fixture(scope="module")
def mapped(world, ensembles):
    """Return the run folder of each."""
    for kind, model in ensembles.items():
        world.run(world.folder / f"map-{kind}", model=str(model), region=REGION)
    return {kind: world.folder / f"map-{kind}" for kind in ensembles}


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_tiles_and_threads_change_no_bit(world, ensembles, mapped, digests_of, tmp_path, kind):
    world.run(tmp_path / "map", model=str(ensembles[kind]), region=REGION, tile=64, threads=1)
    found = digests_of(tmp_path / "map")
    assert sum("_se" in name for name in found) == 3 * 2
    assert found == digests_of(mapped[kind])


def test_a_resumed_run_reads_the_state_of_every_member(
    world, ensembles, mapped, digests_of, tmp_path, power_going_late, manifest
):
    options = {"model": str(ensembles["ct_gru"]), "region": REGION}
    with power_going_late(), pytest.raises(IncompleteMap, match="the power went"):
        world.run(tmp_path / "map", **options)
    world.run(tmp_path / "map", "resume", **options)
    assert digests_of(tmp_path / "map") == digests_of(mapped["ct_gru"])
    assert manifest(tmp_path / "map")["units"]["kept"] > 0


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_a_cell_is_a_site(world, ensembles, mapped, tools, kind):
    """Same tolerance as `test_site`: the kernels of torch may round the last bit by the row of a block."""
    found, cube = open_map(mapped[kind]), open_cube(world.cube)
    predictor = Predictor(load_checkpoint(ensembles[kind]))
    spread = []
    for row, col in ((12, 22), (20, 15), (30, 30)):
        site = tools["site_at"](cube, row, col)
        expected = predict_site(predictor, site).loc["2020-12-01":]
        cell = found.sel(lat=site.latitude, lon=site.longitude, method="nearest").load()
        for name in MAP_FLUXES:
            half = FACTOR * np.hypot(expected[f"{name}_spread"], FLOOR)
            spread += list(expected[f"{name}_spread"].dropna())
            for given, wanted in ((cell[name], expected[name]), (cell[f"{name}_se"], half)):
                np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5, err_msg=f"{name} {row} {col}")
    assert np.ptp(spread) > 0.05


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_half_widths_stand_where_fluxes_stand_and_nothing_else_hangs_on_them(mapped, manifest, kind):
    with open_netcdf(next(mapped[kind].glob("*_2021.nc"))) as january:
        for name in MAP_FLUXES:
            np.testing.assert_array_equal(np.isnan(january[name]), np.isnan(january[f"{name}_se"]))
            assert january[f"{name}_se"].min() >= np.float32(FACTOR * FLOOR)
        assert np.array_equal(january["nee"], january["reco"] - january["gpp"], equal_nan=True)
        said = january.attrs["fluxgrid_uncertainty"]
    assert said == manifest(mapped[kind])["uncertainty"] == FITTED.text()
    assert "nee 6 site groups" in said
    totals = pd.read_csv(mapped[kind] / "totals.csv")
    assert set(totals["flux"]) == set(MAP_FLUXES)


def test_a_dry_run_counts_members_one_after_another(world, ensembles, tmp_path):
    def held(model):
        config = load_config(UpscaleConfig, None, world.options(tmp_path / "none", model=str(model), region=REGION))
        return upscale(config, dry_run=True).estimate

    alone, together = held(world.ct_gru), held(ensembles["ct_gru"])
    assert together.memory_bytes < 1.2 * alone.memory_bytes
    assert together.disk_bytes > alone.disk_bytes


def test_a_model_without_half_widths_has_none(baseline):
    with open_netcdf(next(baseline["ct_gru"].glob("*_2021.nc"))) as january:
        assert not [name for name in january.variables if name.endswith("_se")]
        assert "fluxgrid_uncertainty" not in january.attrs
