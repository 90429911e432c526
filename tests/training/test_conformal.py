"""Half-widths: the quantile against a slow one, coverage of groups that are alike, and what a training gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.models import Checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.uncertainty import LEVELS
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.testing import small_sites
from fluxgrid.training.conformal import FLOOR_SHARE, OutOfFold, conformal_factor, fit_flux
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.train import train_model
from fluxgrid.variables import STANDARD_ERROR_COVERAGE as STANDARD

QUICK = FitSettings(epochs=2, batch=8, window=12, members=5)

score_groups = st.lists(st.lists(st.integers(0, 9), min_size=0, max_size=6), min_size=0, max_size=12)


def slow_factor(groups, level):
    """Return the least score that groups of a mass of 1 / (K + 1) each reach the level with, tried one by one."""
    groups = [group for group in groups if group]
    for candidate in sorted({score for group in groups for score in group}):
        shares = [sum(score <= candidate for score in group) / len(group) for group in groups]
        if sum(shares) / (len(groups) + 1) >= level - 1e-9:
            return candidate
    return None


@given(score_groups, st.sampled_from([0.1, 0.5, STANDARD, 0.75, 0.9]))
def test_the_factor_is_the_quantile_over_groups(groups, level):
    found = conformal_factor([np.array(group, float) for group in groups], level)
    assert found == slow_factor(groups, level)


@pytest.mark.parametrize(("level", "fewest"), [(STANDARD, 3), (0.9, 9)])
def test_too_few_groups_say_nothing(level, fewest):
    groups = [np.arange(50.0)] * fewest
    assert conformal_factor(groups, level) is not None
    assert conformal_factor(groups[1:], level) is None
    assert conformal_factor([*groups[1:], np.array([])], level) is None  # a group without a day is none
    assert conformal_factor([], level) is None


def test_long_records_weigh_as_much_as_short_ones():
    long, short = np.full(1000, 9.0), np.full(10, 1.0)
    assert conformal_factor([long, short, short, short, short], 0.6) == 1.0
    assert conformal_factor([long, long, long, short, short], 0.6) == 9.0


def made_up(groups: int, seed: int) -> list[OutOfFold]:
    """Return sites whose errors share a size of their own, follow the spread, and are of unequal number."""
    rng = np.random.default_rng(seed)
    sites = []
    for number in range(groups):
        spread = rng.gamma(2, 0.4, int(rng.integers(5, 80)))
        bias = rng.normal(0, 0.5)
        error = np.abs(bias + rng.lognormal(0, 0.4) * np.hypot(spread, 0.5) * rng.normal(size=len(spread)))
        sites.append(OutOfFold(f"G{number}", error, spread))
    return sites


def covered(new: list[OutOfFold], fitted, level: float, shrink: float = 1.0) -> float:
    """Return the mean over new groups of the share of their days within the half-width."""
    return float(np.mean([np.mean(s.error <= shrink * fitted.half_width(level, s.spread)) for s in new]))


@pytest.mark.parametrize("level", LEVELS)
def test_new_groups_are_covered_as_often_as_promised_and_not_by_luck(level):
    """The mean coverage of K = 40 exchangeable groups is between the level and the level + 1 / (K + 1), plus the
    rounding of days; 200 draws of 20 new groups leave a standard error of about 0.004."""
    draws = [(fit_flux(made_up(40, seed)), made_up(20, 10_000 + seed)) for seed in range(200)]
    mean = np.mean([covered(new, fitted, level) for fitted, new in draws])
    assert level - 0.012 <= mean <= level + 1 / 41 + 0.012
    shrunk = np.mean([covered(new, fitted, level, 0.8) for fitted, new in draws])
    assert shrunk < level - 0.03


def test_days_taken_as_exchangeable_would_promise_too_much():
    """The reason for groups: few of them, long records. A plain quantile over days falls short of the level."""
    rng, level, plain, grouped = np.random.default_rng(1), 0.9, [], []
    for _ in range(300):
        sizes = rng.lognormal(0, 1, 12)
        scores = [size * np.abs(rng.normal(size=60)) for size in sizes[:-1]]
        new = sizes[-1] * np.abs(rng.normal(size=60))
        plain.append(np.mean(new <= np.quantile(np.concatenate(scores), level)))
        grouped.append(np.mean(new <= conformal_factor(scores, level)))
    assert np.mean(grouped) >= level - 0.02 > np.mean(plain) + 0.005


def test_the_floor_is_of_a_middling_group_and_groups_are_joined():
    one = OutOfFold("A", np.full(4, 1.0), np.zeros(4))
    two, three = OutOfFold("A", np.full(6, 3.0), np.zeros(6)), OutOfFold("B", np.full(2, 5.0), np.ones(2))
    broken = OutOfFold("C", np.full(9, 1e6), np.ones(9))
    fitted = fit_flux([one, two, three, broken, OutOfFold("D", np.array([]), np.array([]))])
    assert fitted.floor == FLOOR_SHARE * 5.0
    assert (fitted.groups, fitted.steps) == (3, 21)
    assert fit_flux([]) is None


def test_half_widths_grow_with_the_spread_and_the_level():
    fitted = fit_flux(made_up(40, 3))
    spread = np.linspace(0, 5, 50)
    narrow, wide = (fitted.half_width(level, spread) for level in LEVELS)
    assert (np.diff(narrow) > 0).all()
    assert (wide > narrow).all()
    assert narrow[0] == pytest.approx(fitted.factors[STANDARD] * fitted.floor)
    assert narrow.dtype == np.float32
    with pytest.raises(KeyError):
        fitted.half_width(0.5, spread)


def test_a_training_with_members_says_how_far_it_is_off(make_spec):
    """The factor is found again by hand: errors of the members that did not see a site."""
    spec, sites = make_spec("mlp", {"hidden": 4}, spin_up_years=0), small_sites(n=10, periods=24)
    lines = []
    trained = train_model(sites, spec, QUICK, lines.append)
    assert lines[-2:] == [f"half-widths that hold {n}% of the steps of a new site: nee, gpp, reco" for n in (68, 90)]
    nothing = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    scores = []
    fitted = trained.uncertainty.fluxes["gpp"]
    for site in sites:
        members = [
            predict_site(Predictor(Checkpoint(None, spec, trained.scaler, member, nothing, ""), block=1), site)["gpp"]
            for member in trained.model.members
        ]
        unseen = [m for m, held in zip(members, trained.held_out, strict=True) if site.id in held]
        assert len(unseen) == 1
        scores.append(np.abs(site.series["gpp"] - unseen[0]) / np.hypot(np.std(members, axis=0), fitted.floor))
    assert fitted.groups == 10
    assert fitted.steps == 10 * 24
    for level in LEVELS:
        assert fitted.factors[level] == pytest.approx(slow_factor([list(s) for s in scores], level), rel=1e-5)


def test_one_model_says_nothing_and_few_groups_say_so(make_spec):
    spec, sites = make_spec("mlp", {"hidden": 4}, spin_up_years=0), small_sites(n=4)
    assert train_model(sites, spec, replace(QUICK, members=1, validation=0.3)).uncertainty is None
    lines = []
    trained = train_model(sites, spec, replace(QUICK, members=2), lines.append)
    assert trained.uncertainty.known(STANDARD) == ("nee", "gpp", "reco")
    assert trained.uncertainty.known(0.9) == ()
    assert lines[-1].endswith("90% of the steps of a new site: no flux: too few site groups")


def test_a_flux_nobody_observed_has_no_half_width(make_spec):
    spec, sites = make_spec("mlp", {"hidden": 4}, spin_up_years=0), small_sites(n=6)
    without = [replace(site, series=site.series.drop(columns="nee")) for site in sites]
    trained = train_model(replace(sites, sites=tuple(without)), spec, replace(QUICK, members=2))
    assert trained.uncertainty.known() == ("gpp", "reco")
