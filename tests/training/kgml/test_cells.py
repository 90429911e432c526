"""Cells with what each cover does: the parts add up to the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.models.base import Sizes
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, PARTS, STATIC, CropMosaicConfig
from fluxgrid.simulation import simulate, true_fluxes
from fluxgrid.training.kgml.cells import fit_mosaic_scaler, observe_cells, set_mosaic_scales

# a cell of corn and soybean, one of forest, one of both
LATITUDE, LONGITUDE = np.array([42.05, 45.55, 41.05]), np.array([-93.55, -88.05, -90.55])


@pytest.fixture(scope="module")
def cells():
    return observe_cells(LATITUDE, LONGITUDE, 2015, 2016)


@pytest.fixture(scope="module")
def truth(cells):
    return {name: values.T for name, values in true_fluxes(LATITUDE, LONGITUDE, cells.time).items()}


def test_parts_by_their_shares_are_the_flux_of_the_cell(cells, truth):
    assert tuple(cells.parts) == PARTS
    total = sum(cells.shares[cover] * np.nan_to_num(cells.parts[f"gpp_{cover}"]) for cover in cells.shares)
    # float32 of fluxes up to 30
    np.testing.assert_allclose(total, truth["gpp"], rtol=1e-5, atol=1e-4)
    for name in FLUXES:
        np.testing.assert_allclose(cells.total[name], truth[name], rtol=1e-5, atol=1e-4, err_msg=name)
    assert all((values[np.isfinite(values)] >= 0).all() for values in cells.parts.values())


def test_other_cover_is_a_part_of_the_whole_and_in_a_forest_nearly_all(cells):
    for name in FLUXES:
        other = cells.shares["other"] * np.nan_to_num(cells.parts[f"{name}_other"])
        assert (other <= cells.total[name] + 1e-4).all(), name
    crops = cells.shares["corn"] + cells.shares["soybean"]
    assert crops[0].min() > 0.5
    assert crops[1].max() < 0.1
    forest = cells.shares["other"][1] * cells.parts["ra_other"][1]
    assert forest.sum() > 0.9 * cells.total["ra"][1].sum()


def test_shares_are_those_that_the_model_reads(cells):
    for crop in ("corn", "soybean"):
        np.testing.assert_allclose(cells.shares[crop], cells.inputs.dynamic[f"{crop}_fraction"].T, rtol=0, atol=0.02)
    # rotations change the shares from year to year and not within one
    for days in cells.years:
        assert (cells.shares["corn"][:, days] == cells.shares["corn"][:, days.start][:, None]).all()
    assert (sum(cells.shares.values()) <= 1 + 1e-6).all()


def test_inputs_are_those_of_a_map(cells):
    known = simulate(LATITUDE, LONGITUDE, cells.time)
    for name in ("tmax", "lai", "corn_fraction"):
        np.testing.assert_array_equal(cells.inputs.dynamic[name], known[name])
    np.testing.assert_array_equal(cells.inputs.static["soc"], known["soc"])
    np.testing.assert_array_equal(cells.inputs.dynamic["day_of_year"][:, 0], cells.time.day_of_year)
    assert cells.years == (slice(0, 365), slice(365, 731))
    assert not cells.inputs.missing.any()


def test_the_mosaic_undoes_the_scaler(cells):
    scaler = fit_mosaic_scaler(cells)
    mosaic = CropMosaicConfig(hidden=2, cover_hidden=2).build(
        Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL))
    )
    set_mosaic_scales(mosaic, scaler)
    dynamic, static = cells.tensors(scaler)
    assert dynamic.shape == (3, 731, len(DYNAMIC))
    assert float(dynamic.mean(dim=(0, 1)).abs().max()) < 1e-3
    assert float((dynamic.std(dim=(0, 1)) - 1).abs().max()) < 0.01
    days = dynamic * mosaic.dynamic_scale[1] + mosaic.dynamic_scale[0]
    for i, name in enumerate(DYNAMIC):
        np.testing.assert_allclose(days[..., i], cells.inputs.dynamic[name].T, rtol=1e-5, atol=2e-4, err_msg=name)
    soil = static * mosaic.static_scale[1] + mosaic.static_scale[0]
    expected = torch.from_numpy(np.stack([cells.inputs.static[name] for name in STATIC], axis=1))
    torch.testing.assert_close(soil, expected, rtol=1e-5, atol=1e-4)
