"""Step 3: which field stands for which county, the loss by hand, and what it may change."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_TYPE, GPP
from fluxgrid.data.kgml import feature_index
from fluxgrid.errors import TableError
from fluxgrid.training.kgml.responses import grid_of
from fluxgrid.training.kgml.settings import Budget, KGMLSettings, Pacing, StepSettings
from fluxgrid.training.kgml.survey import Survey, _slopes, learn_yields, match_survey
from fluxgrid.training.kgml.walk import make_track, walk

FIPS = np.array(["19153", "17031", "17001"])
FEW = StepSettings(epochs=6, patience=6, learning_rate=5e-3, batch=2)
SETTINGS = KGMLSettings(spin_up_years=1, yields=FEW, pacing=Pacing(100.0), budget=Budget(sites=1, years=2, values=4))


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["fips", "year", "crop", "yield_g_m2"])


@pytest.fixture
def survey(grown) -> Survey:
    """Return three counties of two fields each that publish most of their yields."""
    random = np.random.default_rng(4)
    rows = [
        (fips, year, crop, random.uniform(150, 500))
        for fips in FIPS
        for year in (2003, 2004, 2005)
        for crop in ("corn", "soybean")
        if (fips, year, crop) not in {("17031", 2004, "corn"), ("17001", 2005, "soybean")}
    ]
    return match_survey(table(*rows), grown, FIPS[grown.place])


def test_yields_find_their_county_year_and_crop(grown):
    found = match_survey(
        table(
            (17001, 2004, "corn", 400.0),  # codes may come as numbers
            (17001, 2005, "soybean", 150.0),
            (17031, 2003, "corn", 420.0),
            (17031, 2001, "corn", 1.0),  # before the fields
            (55555, 2003, "corn", 2.0),  # a county without fields
        ),
        grown,
        FIPS[grown.place],
    )
    counties = sorted(FIPS)
    assert [counties[row] for row in found.county] == FIPS[grown.place].tolist()
    expected = np.full((3, 3, 2), np.nan, np.float32)
    expected[0, 1, 0], expected[0, 2, 1], expected[1, 0, 0] = 400, 150, 420
    np.testing.assert_array_equal(found.yields, expected)


def test_fields_without_any_yield_are_refused(grown):
    with pytest.raises(TableError, match="None of the 3 counties of the fields reports a yield in 2003 to 2005"):
        match_survey(table(("17001", 1999, "corn", 400.0)), grown, FIPS[grown.place])


def held_out(network, survey: Survey, counties: list[int]) -> float:
    """Return the loss at some counties, county by county and year by year."""
    track = make_track(survey.fields, network, 1, seed=0)
    losses = []
    for year, days, result in walk(network, track, SETTINGS.spin_up_years):
        errors, grains, limits = [], [], []
        for county in counties:
            rows = np.flatnonzero(survey.county == county)
            corn = survey.fields.features[rows, days.start, CROP_TYPE] == CORN_CODE
            for crop, grows in enumerate((corn, ~corn)):
                observed = (survey.yields[county, year, crop] - network.outputs[0, 3]) / network.outputs[1, 3]
                if np.isfinite(survey.yields[county, year, crop]):
                    errors.append(float((result.grain[rows[grows]].mean() - observed) ** 2))
            grains += network.physical("yield", result.grain[rows]).tolist()
            limits += (0.5 * survey.fields.features[rows][:, days, GPP].sum(axis=1)).tolist()
        bounds = [max(g - top, 0) for g, top in zip(grains, limits, strict=True)], [max(-g, 0) for g in grains]
        losses.append(np.mean(errors) + np.mean(bounds[0]) + np.mean(bounds[1]))
    return float(np.mean(losses))


@torch.no_grad()
def test_the_held_out_loss_is_that_of_whole_runs(network, survey):
    """One county in five, here the first, chooses the epoch."""
    network.outputs[0, 3] = 150.0  # so that some yields leave their bounds
    before, lines = deepcopy(network), []
    with torch.enable_grad():
        history = learn_yields(network, survey, SETTINGS, lines.append)
    assert len(history.train) == len(history.validation) == len(lines) == FEW.epochs
    assert history.name == "step 3"
    assert history.seconds > 0
    found = held_out(network, survey, [0])
    # the same loss in another order of addition
    assert found == pytest.approx(min(history.validation), rel=1e-4)
    assert found < held_out(before, survey, [0])
    assert not network.training


def test_only_basis_and_yield_learn_and_the_basis_more_slowly(network, survey):
    before = deepcopy(network)
    learn_yields(network, survey, replace(SETTINGS, yields=replace(FEW, epochs=1)))
    old = dict(before.named_parameters())
    moved = {name: float((v.detach() - old[name].detach()).abs().max()) for name, v in network.named_parameters()}
    for name, step in moved.items():
        assert (step > 0) == (name.split(".")[0] in ("basis", "attention", "grain")), name
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, dict(before.named_buffers())[name]), name
    fast = max(step for name, step in moved.items() if name.startswith("grain"))
    slow = max(step for name, step in moved.items() if name.startswith("basis"))
    # steps of Adam are as long as its rate
    assert slow == pytest.approx(SETTINGS.basis_rate * fast, rel=0.1)


def test_counties_that_publish_nothing_neither_teach_nor_choose(network, survey):
    """The first county, which would choose the epoch, is silent: the second takes its place."""
    silent = replace(survey, yields=survey.yields.copy())
    silent.yields[0] = np.nan
    history = learn_yields(network, silent, replace(SETTINGS, yields=replace(FEW, epochs=2)))
    with torch.no_grad():
        assert held_out(network, silent, [1]) == pytest.approx(min(history.validation), rel=1e-4)


def test_hard_counties_wait(network, survey):
    """With a threshold below all errors nothing is learnt from yields; bounds and slopes hold already."""
    before = deepcopy(network)
    waiting = replace(SETTINGS, yield_pacing=Pacing(1e-9), yields=replace(FEW, epochs=1))
    history = learn_yields(network, survey, waiting)
    assert history.train == pytest.approx((0.0,), abs=1e-6)
    learn_yields(before, survey, replace(SETTINGS, yields=replace(FEW, epochs=1)))
    assert not torch.equal(before.grain[0].weight, network.grain[0].weight)


@torch.no_grad()
def test_without_a_budget_the_yield_may_not_fall_with_gpp_year_or_soil_carbon(network, grown):
    settings = replace(SETTINGS, budget=None, spin_up_years=2)
    tested = make_track(grown, network, 1, seed=0).rows(torch.arange(2))
    expected = 0.0
    for name in ("GPP", "Year", "TSOC"):
        values, curve = grid_of(name), []
        for value in values:
            z = tested.z.clone()
            z[..., feature_index(name)] = value
            grains = [result.grain for _, _, result in walk(network, replace(tested, z=z), 2)]
            curve.append(float(torch.stack(grains).mean()))
        slopes = np.diff(curve) / np.diff(values.numpy())
        expected += float(np.maximum(-slopes, 0).sum())
    found = float(_slopes(network, tested, settings, torch.Generator().manual_seed(0)))
    assert expected > 0
    # slopes are differences of float32 over steps of a quarter
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_within_a_budget_one_slope_is_tested_at_a_time(network, grown, monkeypatch):
    asked = []
    monkeypatch.setattr("fluxgrid.training.kgml.survey.grid_of", lambda name: asked.append(name) or grid_of(name))
    tested = make_track(grown, network, 1, seed=0).rows(torch.arange(1))
    random = torch.Generator().manual_seed(1)
    for _ in range(12):
        loss = _slopes(network, tested, SETTINGS, random)
        assert loss >= 0
    assert len(asked) == 12
    assert set(asked) == {"GPP", "Year", "TSOC"}
