"""The recipe: what it draws, that it can be taken up where it was left, and where its model may be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_TYPE, GPP
from fluxgrid.data.sites import Sites
from fluxgrid.geo import boundaries
from fluxgrid.models.crop_mosaic import DYNAMIC, STATIC
from fluxgrid.simulation import virtual_sites
from fluxgrid.training.kgml.cells import observe_cells
from fluxgrid.training.kgml.cover import driver_gpp
from fluxgrid.training.kgml.recipe import (
    Recipe,
    build_mosaic,
    crop_towers,
    draw_survey,
    mosaic_domain,
    site_gpp,
    train_mosaic,
)
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.stages import Stages


@pytest.fixture(scope="module")
def recipe(tiny_kgml_config) -> Recipe:
    return tiny_kgml_config(Path("never")).recipe


@pytest.fixture(scope="module")
def cells(recipe):
    return observe_cells(*draw_cells(recipe.states, 10, recipe.seed + 1), 2014, 2016)


@pytest.fixture
def built(recipe, cells):
    return build_mosaic(recipe, cells)


@pytest.fixture(scope="module")
def towers() -> Sites:
    return virtual_sites(n=3, start="2014-01-01", end="2016-12-31")


def test_a_county_has_a_field_of_each_rotation_inside_it(recipe, built):
    survey = draw_survey(recipe, *built)
    assert survey.yields.shape == (recipe.counties, 3, 2)
    assert np.bincount(survey.county).tolist() == [2] * recipe.counties
    known = boundaries.counties().set_index("fips").geometry
    points = shapely.points(survey.fields.longitude, survey.fields.latitude)
    inside = {fips for fips, shape in known.items() if shapely.contains(shape, points).any()}
    assert len(inside) == recipe.counties
    assert {fips[:2] for fips in inside} <= {"19", "17"}
    for county in range(recipe.counties):
        crops = survey.fields.features[survey.county == county][:, 0, CROP_TYPE]
        assert set(crops.tolist()) == {1.0, 5.0}
    assert np.isfinite(survey.yields).mean() > 0.5
    # grain of corn outweighs that of soybean
    assert np.nanmean(survey.yields[..., 0]) > 1.5 * np.nanmean(survey.yields[..., 1])


def test_fields_of_the_survey_are_driven_as_a_map_is(recipe, built):
    survey = draw_survey(recipe, *built)
    fields = survey.fields
    corn = fields.features[:1, :, CROP_TYPE] == CORN_CODE
    driver = driver_gpp(*built, fields.latitude[:1], fields.longitude[:1], fields.time)
    np.testing.assert_allclose(fields.features[:1, :, GPP], np.where(corn, *driver), rtol=1e-4, atol=1e-5)


def test_towers_on_other_cover_are_left_out(recipe, built, towers):
    share = {s.id: float((s.series["corn_fraction"] + s.series["soybean_fraction"]).mean()) for s in towers}
    on_crops = [site for site in share if share[site] >= 0.6]
    assert 0 < len(on_crops) < 3
    found = crop_towers(towers, *built, recipe.steps)
    assert found.ids == tuple(on_crops)
    site = towers[on_crops[0]]
    driver = site_gpp(*built, site)
    assert driver.shape == (2, len(site.series))
    corn = (site.series["corn_fraction"] >= site.series["soybean_fraction"]).to_numpy()
    expected = np.where(corn, *driver)[~((site.series.index.month == 12) & (site.series.index.day == 31))]
    read = found.features[0, :, GPP]
    ordinary = np.delete(np.arange(len(read)), [364, 729, 1094][: len(read) // 365])
    np.testing.assert_allclose(read[ordinary], expected[: len(ordinary)], rtol=1e-5)


def test_the_towers_own_gpp_is_a_switch(recipe, built, towers):
    published = crop_towers(towers, *built, replace(recipe.steps, tower_gpp=True))
    known = np.isfinite(published.reco - published.nee)
    np.testing.assert_allclose(
        published.features[..., GPP][known], (published.reco - published.nee)[known], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"other": "none"}, {"leap_day": "none"}])
def test_the_domain_weighs_what_matters_and_not_the_calendar(recipe, cells, options):
    """The last year is a leap year: its last day may have no value, and whole cells may have none."""
    mosaic, scaler = build_mosaic(replace(recipe, model=replace(recipe.model, **options)), cells)
    domain = mosaic_domain(mosaic, cells, scaler, points=200)
    weight = dict(zip((*DYNAMIC, *STATIC), domain.weight, strict=True))
    assert domain.points.shape == (200, len(weight))
    assert weight["calendar_year"] == weight["day_of_year"] == 0
    assert min(weight.values()) >= 0
    assert np.mean(list(weight.values())) == pytest.approx(1.0)
    assert np.isfinite(domain.threshold)
    assert domain.threshold > 0
    if options.get("other") == "none":
        assert mosaic.config.other == "none"
        plain = mosaic_domain(*build_mosaic(recipe, cells)[:1], cells, scaler, points=200)
        np.testing.assert_array_equal(domain.weight, plain.weight)


def test_fewer_years_than_the_domain_would_take_are_enough(recipe):
    few = observe_cells(*draw_cells(recipe.states, 10, 5), 2015, 2016)
    mosaic, scaler = build_mosaic(recipe, few)
    assert np.isfinite(mosaic_domain(mosaic, few, scaler, points=100).threshold)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cells_from": 2016}, "cells_from must come before the end of last_year, 2016; cells need two years"),
        ({"first_year": 2017, "survey_from": 2018}, "first_year, survey_from must come before"),
    ],
)
def test_years_that_leave_nothing_are_refused(recipe, change, text):
    with pytest.raises(ValueError, match=text):
        replace(recipe, **change)


def test_one_year_is_enough_for_fields(recipe):
    replace(recipe, first_year=2016, survey_from=2016, cells_from=2015)


def test_an_interrupted_training_goes_on(recipe, tmp_path):
    """Steps 1 and 2 by themselves, then again; another rate of step 2 trains that step alone anew."""
    one = train_mosaic(recipe, None, Stages(tmp_path), last_step=2)
    assert [history.name for history in one.stages.histories] == ["cover", "step 1", "step 2"]
    lines = []
    two = train_mosaic(recipe, None, Stages(tmp_path, lines.append), last_step=2)
    assert [line.split(":")[0] for line in lines] == ["cover", "step-1", "step-2"]
    for name, value in one.mosaic.state_dict().items():
        assert torch.equal(value, two.mosaic.state_dict()[name]), name
    assert [h.validation for h in one.stages.histories] == [h.validation for h in two.stages.histories]
    lines.clear()
    other = replace(recipe, steps=replace(recipe.steps, emulate_rest=replace(recipe.steps.emulate_rest, batch=2)))
    three = train_mosaic(other, None, Stages(tmp_path, lines.append), last_step=2)
    taken = [line.split(":")[0] for line in lines if "taken from" in line]
    assert taken == ["cover", "step-1"]
    assert not torch.equal(three.mosaic.crop.rh_head.weight, one.mosaic.crop.rh_head.weight)
    assert torch.equal(three.mosaic.crop.grain[0].weight, one.mosaic.crop.grain[0].weight)


def test_without_towers_step_5_is_left_out(recipe):
    trained = train_mosaic(recipe, None, Stages(), last_step=5)
    assert [history.name for history in trained.stages.histories] == ["cover", "step 1", "step 2", "step 3", "step 4"]
    assert not trained.mosaic.training
    assert all(torch.isfinite(value).all() for value in trained.mosaic.state_dict().values())


def test_towers_that_ran_for_other_years_are_other_towers(recipe, tmp_path):
    """Ids and source are the same; only step 5 is trained anew."""
    few = replace(recipe, steps=replace(recipe.steps, emulate_again=replace(recipe.steps.emulate_again, epochs=0)))
    losses = []
    for end in ("2016-12-31", "2015-12-31"):
        lines = []
        towers = virtual_sites(n=3, start="2014-01-01", end=end)
        losses.append(train_mosaic(few, towers, Stages(tmp_path, lines.append)).stages.histories[-1].train)
    assert [line.split(":")[0] for line in lines if "taken from" in line] == [
        *("cover", "step-1", "step-2", "step-3", "step-4")
    ]
    assert losses[0] != losses[1]
