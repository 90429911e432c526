"""Response curves: the published grids, and means by hand."""

from __future__ import annotations

import pytest
import torch

from fluxgrid.data.crop_inputs import CROP_FEATURES, TSOC
from fluxgrid.training.kgml.responses import (
    RARER,
    fields_for_responses,
    grid_of,
    respond,
    spin_up_of,
    thinned,
)
from fluxgrid.training.kgml.settings import Budget, KGMLSettings
from fluxgrid.training.kgml.walk import make_track, spun_up

# Ranges and steps of methods.md, section 1.5.
RANGES = {
    "RADN": (-2, 2, 0.2), "TMAX_AIR": (-3.5, 2.5, 0.3), "TDIF_AIR": (-2.5, 5, 0.5), "HMAX_AIR": (-1.5, 3.5, 0.25),
    "HDIF_AIR": (-1.5, 7, 0.5), "WIND": (-2, 5.5, 0.5), "PRECN": (-0.3889, 10, 0.5), "Crop_Type": (-1, 1, 2),
    "GPP": (-0.5, 5, 0.25), "Year": (-1.6384, 1.6384, 0.19275), "TBKDS": (-10, 2, 0.5), "TSAND": (-0.75, 4, 0.25),
    "TSILT": (-3.25, 1.25, 0.25), "TFC": (-4.5, 5, 0.5), "TWP": (-2.5, 3, 0.25), "TKSat": (-0.75, 7.75, 0.5),
    "TSOC": (-0.5, 5, 0.25), "TPH": (-3.25, 4.25, 0.5), "TCEC": (-1.75, 3.5, 0.25),
}  # fmt: skip


@pytest.mark.parametrize("rarer", [1, RARER])
@pytest.mark.parametrize("feature", CROP_FEATURES)
def test_grids_are_the_published_ones(feature, rarer):
    low, high, step = RANGES[feature]
    step *= 1 if feature == "Crop_Type" else rarer
    values = grid_of(feature, rarer)
    assert values.dtype == torch.float32
    assert float(values[0]) == pytest.approx(low)
    torch.testing.assert_close(values.diff(), torch.full((len(values) - 1,), float(step)), rtol=0, atol=1e-5)
    assert high - step < float(values[-1]) <= high + 1e-5  # up to the end of the range and not beyond


def test_lengths_of_some_grids():
    lengths = {name: len(grid_of(name)) for name in ("RADN", "Crop_Type", "GPP", "Year", "TSOC")}
    assert lengths == {"RADN": 21, "Crop_Type": 2, "GPP": 23, "Year": 18, "TSOC": 23}
    assert len(grid_of("TSOC", RARER)) == 8


def test_a_budget_thins_a_grid_and_keeps_its_order():
    values, random = grid_of("GPP"), torch.Generator().manual_seed(0)
    budget = Budget(values=6)
    drawn = [thinned(values, budget, random) for _ in range(4)]
    for some in drawn:
        assert len(some) == 6
        assert (some.diff() > 0).all()
        assert set(some.tolist()) <= set(values.tolist())
    assert len({tuple(some.tolist()) for some in drawn}) > 1  # drawn anew
    assert thinned(values, None, random) is values
    assert thinned(values, Budget(values=50), random) is values


def test_a_budget_takes_the_same_few_fields(grown, network):
    track = make_track(grown, network, 1, seed=0)
    some = fields_for_responses(track, Budget(sites=2, years=2), seed=3)
    again = fields_for_responses(track, Budget(sites=2, years=2), seed=3)
    assert len(some) == 2
    assert some.years == track.years[:2]
    assert torch.equal(some.z, again.z)
    whole = fields_for_responses(track, None, seed=3)
    assert len(whole) == min(Budget().sites, len(track))
    assert whole.years == track.years


@torch.no_grad()
def test_a_curve_is_the_mean_of_runs_with_one_input_held(grown, network):
    track = fields_for_responses(make_track(grown, network, 1, seed=0), Budget(sites=2, years=2), 0)
    before, values = track.z.clone(), torch.tensor([-1.0, 0.5, 3.0])
    curves = respond(network, track, "TSOC", values, spin_up=1)
    days = track.years[1]
    for i, value in enumerate(values):
        z = track.z.clone()
        z[..., TSOC] = value
        varied = type(track)(z, track.targets, track.grain, track.years, track.counts)
        year = network(z[:, days], spun_up(network, varied, 1))
        for name, curve in (("ra", curves.ra), ("rh", curves.rh)):
            expected = network.physical(name, getattr(year, name)).mean()
            torch.testing.assert_close(curve[i], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(curves.grain[i], year.grain.mean(), rtol=1e-5, atol=1e-5)
    assert torch.equal(curves.values, values)
    assert torch.equal(track.z, before)


@torch.no_grad()
def test_as_published_the_years_of_spin_up_run_again_and_count(grown, network):
    """Without a budget: two years from zero, then all three from the first, averaged over every day."""
    track, values = make_track(grown, network, 1, seed=0), torch.tensor([0.0, 2.0])
    spin_up, again = spin_up_of(KGMLSettings())
    assert (spin_up, again) == (2, True)
    curves = respond(network, track, "TSOC", values, spin_up, again=again)
    for i, value in enumerate(values):
        z = track.z.clone()
        z[..., TSOC] = value
        varied = type(track)(z, track.targets, track.grain, track.years, track.counts)
        state, years = spun_up(network, varied, 2), []
        for days in track.years:
            years.append(network(z[:, days], state))
            state = years[-1].state
        expected = network.physical("rh", torch.stack([year.rh.mean() for year in years]).mean())
        torch.testing.assert_close(curves.rh[i], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(curves.grain[i], torch.stack([year.grain for year in years]).mean())
    cut = respond(network, track, "TSOC", values, 2).rh
    assert not torch.allclose(curves.rh, cut, rtol=1e-4)


@pytest.mark.parametrize(("years", "expected"), [(1, (0, False)), (2, (1, False)), (5, (1, False))])
def test_within_a_budget_the_first_year_only_spins_up(years, expected):
    assert spin_up_of(KGMLSettings(budget=Budget(years=years))) == expected


def test_gradients_of_a_curve_reach_the_network(grown, network):
    track = fields_for_responses(make_track(grown, network, 1, seed=0), Budget(sites=1, years=2), 0)
    respond(network, track, "TSOC", torch.tensor([0.0, 1.0]), spin_up=1).rh.sum().backward()
    assert network.rh_head.weight.grad.any()
    assert network.basis.weight_ih_l0.grad.any()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
