"""The CT-GRU of the covers: its loss by hand, what it leaves alone, and the GPP it hands to KGML-ag."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_TYPE, GPP, YEAR
from fluxgrid.models import Sizes
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, PARTS, STATIC, CropMosaic, CropMosaicConfig
from fluxgrid.training.kgml.cells import fit_mosaic_scaler, observe_cells, set_mosaic_scales
from fluxgrid.training.kgml.cover import driver_gpp, train_cover, with_driver
from fluxgrid.training.kgml.fields import grow_fields
from fluxgrid.training.kgml.settings import StepSettings
from fluxgrid.training.kgml.walk import fit_crop_scalers

LATITUDE, LONGITUDE = np.array([42.05, 45.55, 41.05, 39.55, 38.05]), np.array([-93.55, -88.05, -90.55, -95.05, -91.05])
FEW = StepSettings(epochs=4, patience=4, learning_rate=1e-2, batch=2)
COVER_PARTS = ("cover_forcing", "cover_static", "cover", "cover_head")


@pytest.fixture(scope="module")
def cells():
    return observe_cells(LATITUDE, LONGITUDE, 2015, 2016)


@pytest.fixture(scope="module")
def scaler(cells):
    return fit_mosaic_scaler(cells)


@pytest.fixture
def make_mosaic(scaler, grown):
    def make(**options) -> CropMosaic:
        torch.manual_seed(1)
        config = CropMosaicConfig(**{"hidden": 4, "cover_hidden": 8} | options)
        mosaic = config.build(Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL)))
        set_mosaic_scales(mosaic, scaler)
        mosaic.crop.set_scalers(fit_crop_scalers(grown))
        return mosaic

    return make


@torch.no_grad()
def loss_by_hand(mosaic, cells, scaler, rows) -> float:
    """Return the mean over years after the first of the weighted squared errors over variances."""
    dynamic, static = cells.tensors(scaler)
    taps = mosaic.run(dynamic, static, torch.zeros(len(cells), mosaic.state_size))
    found = mosaic.components(mosaic.raw(taps.hidden), taps.context)
    years = []
    for days in cells.years[1:]:
        total = weights = 0.0
        for name in PARTS:
            truth, share = cells.parts[name], cells.shares[name.split("_")[1]]
            for row in rows:
                weight = np.sqrt(np.maximum(share[row, days], 0.02)) * (share[row, days] > 0)
                error = (found[name][row, days].numpy() - np.nan_to_num(truth[row, days])) / np.nanstd(truth)
                total += float((weight * error**2).sum())
                weights += float(weight.sum())
        years.append(total / weights)
    return float(np.mean(years))


def test_the_loss_falls_and_is_that_of_the_mosaic(make_mosaic, cells, scaler):
    mosaic, lines = make_mosaic(), []
    before = deepcopy(mosaic)
    history = train_cover(mosaic, cells, scaler, FEW, seed=0, report=lines.append)
    assert history.name == "cover"
    assert len(history.train) == len(lines) == FEW.epochs
    held = [int(torch.randperm(5, generator=torch.Generator().manual_seed(0))[0])]
    # the mosaic unscales its inputs and scales them again
    found = loss_by_hand(mosaic, cells, scaler, held)
    assert found == pytest.approx(min(history.validation), rel=1e-3)
    before.set_scale(mosaic.cover_scale)
    assert found < 0.9 * loss_by_hand(before, cells, scaler, held)


def test_each_part_has_its_spread_and_kgml_ag_is_left_alone(make_mosaic, cells, scaler):
    mosaic = make_mosaic()
    before = deepcopy(mosaic)
    train_cover(mosaic, cells, scaler, replace(FEW, epochs=1))
    spread = [float(np.nanstd(cells.parts[name])) for name in PARTS]
    np.testing.assert_allclose(mosaic.cover_scale, spread, rtol=1e-5)
    for name, value in mosaic.named_parameters():
        same = torch.equal(value, dict(before.named_parameters())[name])
        assert same != (name.split(".")[0] in COVER_PARTS), name
        assert value.requires_grad, name


def test_the_driver_is_what_kgml_ag_reads_on_a_map(make_mosaic, cells, scaler):
    """The first year is run twice; then both crops' GPP is that of the mosaic at the same cells."""
    mosaic = make_mosaic()
    dynamic, static = cells.tensors(scaler)
    with torch.no_grad():
        before = mosaic.run(dynamic[:, :365], static, torch.zeros(5, mosaic.state_size)).state
        taps = mosaic.run(dynamic, static, before)
        parts = mosaic.components(mosaic.raw(taps.hidden), taps.context)
    found = driver_gpp(mosaic, scaler, LATITUDE, LONGITUDE, cells.time)
    assert found.shape == (2, 5, 731)
    for gpp, crop in zip(found, ("corn", "soybean"), strict=True):
        np.testing.assert_allclose(gpp, parts[f"gpp_{crop}"], rtol=1e-4, atol=1e-5)


def test_a_satellite_is_read_as_it_is(make_mosaic, cells, scaler):
    found = driver_gpp(make_mosaic(gpp="satellite"), scaler, LATITUDE, LONGITUDE, cells.time)
    for gpp in found:
        np.testing.assert_array_equal(gpp, cells.inputs.dynamic["gpp_satellite"].T)


def test_fields_that_stand_nowhere_keep_their_own_gpp(scaler, make_mosaic, grown):
    nowhere = np.full(len(grown), np.nan)
    fields = replace(grown, latitude=nowhere, longitude=nowhere)
    driven = with_driver(fields, make_mosaic(year="held"), scaler)
    np.testing.assert_array_equal(driven.features[..., GPP], grown.features[..., GPP])
    assert np.unique(driven.features[..., YEAR]).size == 1


def test_fields_read_the_gpp_of_the_crop_that_stands_on_them(make_mosaic, scaler, monkeypatch):
    fields = grow_fields(LATITUDE[:2], LONGITUDE[:2], 2015, 2016)
    days = len(fields.time)
    gpp = np.arange(2 * 2 * days, dtype=np.float32).reshape(2, 2, days)
    asked = []

    def invented(_mosaic, _scaler, latitude, longitude, time):
        asked.append((latitude.tolist(), longitude.tolist(), len(time)))
        return gpp

    monkeypatch.setattr("fluxgrid.training.kgml.cover.driver_gpp", invented)
    driven = with_driver(fields.select([3, 0, 2]), make_mosaic(), scaler)  # places 1, 0, 0
    assert asked == [(LATITUDE[:2].tolist(), LONGITUDE[:2].tolist(), days)]
    for row, place in enumerate((1, 0, 0)):
        corn = driven.features[row, :, CROP_TYPE] == CORN_CODE
        assert 0 < corn.mean() < 1
        np.testing.assert_array_equal(driven.features[row, :, GPP], np.where(corn, gpp[0, place], gpp[1, place]))
    others = np.arange(19) != GPP
    np.testing.assert_array_equal(driven.features[..., others], fields.select([3, 0, 2]).features[..., others])
