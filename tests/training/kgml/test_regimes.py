"""Regimes: fields that never meet, the exact head of a place, the pull to the global weights, and scores by hand."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_TYPE, GPP
from fluxgrid.geo.state_of import state_of
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.training.kgml.regimes import (
    SCORED,
    RegimeSettings,
    Run,
    fit_head,
    held_of,
    join_fields,
    l2_sp,
    score,
    scored_fields,
    share_of,
    train_from_scratch,
    training_fields,
    tune,
)
from fluxgrid.training.kgml.walk import make_track, walk

SETTINGS = RegimeSettings(
    counts={"IA": 6, "IL": 4}, test_count=5, train_years=(2013, 2014), test_years=(2015, 2015), steps=4, tune_steps=2,
    batch=4, hidden=4, dropout=0.0, spin_up_years=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def iowa():
    return training_fields(SETTINGS, "IA", seed=3)


@pytest.fixture(scope="module")
def scored():
    return scored_fields(SETTINGS, "IA")


def where(fields) -> set[tuple[float, float]]:
    return set(zip(fields.latitude.tolist(), fields.longitude.tolist(), strict=True))


def test_counts_are_in_the_published_ratio():
    assert RegimeSettings().counts == {"IA": 41, "IN": 27, "IL": 22}


@pytest.mark.parametrize("state", ["IA", "IL"])
def test_a_state_gives_its_count_of_fields_the_rotations_in_turns(state):
    fields = training_fields(SETTINGS, state, seed=1)
    assert len(fields) == len(where(fields)) == SETTINGS.counts[state]
    assert set(state_of(fields.latitude, fields.longitude)) == {state}
    assert fields.years.tolist() == [2013, 2014]
    corn = fields.features[:, 0, CROP_TYPE] == CORN_CODE
    assert (corn[::2] == corn[0]).all()
    assert (corn[1::2] == ~corn[0]).all()


def test_scored_places_are_in_the_training_of_no_seed(monkeypatch, scored):
    """Few places are left, so that a draw would often hit those that are scored."""
    from fluxgrid.training.kgml import regimes

    latitude, longitude = regimes.draw_cells(("IA",), 12, 0, SETTINGS.least_crop)

    def few(_states, count, seed, *_):
        order = np.random.default_rng(seed).permutation(12)[:count]
        return latitude[order], longitude[order]

    monkeypatch.setattr(regimes, "draw_cells", few)
    tests = where(scored_fields(SETTINGS, "IA"))
    assert len(tests) == SETTINGS.test_count
    draws = [where(training_fields(SETTINGS, "IA", seed)) for seed in range(8)]
    assert all(len(draw) == SETTINGS.counts["IA"] and not draw & tests for draw in draws)
    assert len({frozenset(draw) for draw in draws}) > 1


def test_scored_fields_are_the_same_for_all_and_spin_up_before(scored):
    assert len(scored) == 2 * SETTINGS.test_count  # both rotations
    assert scored.years.tolist() == [2014, 2015]
    np.testing.assert_array_equal(scored.features, scored_fields(SETTINGS, "IA").features)


def test_joined_fields_and_shares_of_them(iowa):
    illinois = training_fields(SETTINGS, "IL", seed=1)
    both = join_fields([iowa, illinois])
    assert len(both) == 10
    np.testing.assert_array_equal(both.ra[6:], illinois.ra)
    np.testing.assert_array_equal(both.years, iowa.years)
    some = share_of(both, 0.5, seed=0)
    assert len(some) == len(where(some)) == 5
    assert where(some) < where(both)
    np.testing.assert_array_equal(share_of(both, 0.5, seed=0).ra, some.ra)
    assert len(share_of(both, 0.01, seed=0)) == 2


@pytest.mark.parametrize(("fields", "epochs"), [(6, 1), (40, 1), (16, 4)])
def test_all_regimes_get_as_many_optimiser_steps(fields, epochs):
    """Batches of 16 over six years: 6 for 16 fields or fewer, 18 for 40; 24 asked for."""
    settings = replace(RegimeSettings(), steps=24, tune_steps=12).kgml(fields, seed=5, tune=False)
    step = settings.emulate_ra
    if fields == 6:
        epochs = 4
    assert step.epochs == epochs
    assert step == settings.emulate_rest
    assert (step.batch, step.schedule, step.learning_rate, settings.seed) == (16, "cosine", 4e-3, 5)
    tuned = replace(RegimeSettings(), tune_steps=12).kgml(16, seed=5, tune=True)
    assert (tuned.emulate_ra.epochs, tuned.emulate_ra.learning_rate) == (2, 1e-3)


@torch.no_grad()
def rows_of(network, track, name: str, spin_up: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return hidden states with a column of ones (days, H + 1), and what is left of the error (days,), by field."""
    hidden, left = [], []
    for _, days, result in walk(network, track, spin_up):
        hidden.append(result.hidden[name].double())
        column = ("ra", "rh").index(name)
        left.append((track.targets[:, days, column] - getattr(result, name)).double())
    states = torch.cat(hidden, dim=1)
    states = torch.cat([states, torch.ones_like(states[..., :1])], dim=-1).numpy()
    return list(states), list(torch.cat(left, dim=1).numpy())


def ridge(states, left, rho: float) -> np.ndarray:
    """Minimise mean squared error + rho |phi|2 by least squares on rows put below each other."""
    x, y = np.concatenate(states), np.concatenate(left)
    design = np.concatenate([x / np.sqrt(len(x)), math.sqrt(rho) * np.eye(x.shape[1])])
    return np.linalg.lstsq(design, np.concatenate([y / np.sqrt(len(x)), np.zeros(x.shape[1])]))[0]


@pytest.mark.parametrize("name", ["ra", "rh"])
def test_the_head_of_a_place_is_a_ridge_regression(network, grown, name):
    track = make_track(grown, network, 1, seed=0)
    states, left = rows_of(network, track, name, spin_up=1)
    choices = (1e-4, 1e-2, 1.0)
    errors = {}
    for rho in choices:
        errors[rho] = 0.0
        for fold in range(5):  # field 5 joins field 0
            own = [i for i in range(6) if i % 5 != fold]
            head = ridge([states[i] for i in own], [left[i] for i in own], rho)
            for i in set(range(6)) - set(own):
                errors[rho] += float(np.mean((left[i] - states[i] @ head) ** 2 - left[i] ** 2))
    best = min(errors, key=errors.get)
    assert errors[best] < 0
    before = deepcopy(network)
    assert fit_head(network, track, name, choices, spin_up=1) == best
    head = ridge(states, left, best)
    readout, old = (getattr(net, f"{name}_head") for net in (network, before))
    # float32 weights of order 1
    np.testing.assert_allclose((readout.weight - old.weight).detach()[0], head[:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose((readout.bias - old.bias).detach(), head[-1:], rtol=1e-3, atol=1e-4)
    for key, value in network.named_parameters():
        if not key.startswith(f"{name}_head"):
            assert torch.equal(value, dict(before.named_parameters())[key]), key
    _, after = rows_of(network, track, name, spin_up=1)
    assert np.mean(np.square(after)) < np.mean(np.square(left))


def test_no_head_where_none_helps_at_fields_left_out(network, grown):
    """What is left of the error is each field's own: what some fields teach is wrong at the others."""
    track = make_track(grown, network, 1, seed=0)
    with torch.no_grad():
        for _, days, result in walk(network, track, 1):
            sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None]
            track.targets[:, days, 1] = result.rh + 3 * sign
    # a pair of alike signs in a fold would help itself: every fold here is one field, or two of unlike sign
    before = deepcopy(network)
    assert fit_head(network, track, "rh", (1e-3, 1.0), spin_up=1) == math.inf
    assert torch.equal(network.rh_head.weight, before.rh_head.weight)
    assert fit_head(network, track, "rh", (), spin_up=1) == math.inf


@pytest.mark.parametrize("name", ["ra", "rh"])
def test_one_field_cannot_judge_a_head(network, grown, name):
    track = make_track(grown.select([0]), network, 1, seed=0)
    before = deepcopy(network)
    assert fit_head(network, track, name, (1e-3, 1.0), spin_up=1) == math.inf
    assert torch.equal(getattr(network, f"{name}_head").weight, getattr(before, f"{name}_head").weight)


def test_a_perfect_model_gets_no_head(network, grown):
    track = make_track(grown, network, 1, seed=0)
    with torch.no_grad():
        for _, days, result in walk(network, track, 1):
            track.targets[:, days, 0] = result.ra
    assert fit_head(network, track, "ra", (1e-3,), spin_up=1) == math.inf


def test_the_pull_is_mu_times_the_squared_distance(network):
    pull = l2_sp(network, mu=0.5)
    assert float(pull().detach()) == 0.0
    with torch.no_grad():
        network.ra_head.weight[0, 2] += 3.0
        network.basis.bias_hh_l0[1] -= 4.0
    loss = pull()
    assert float(loss.detach()) == pytest.approx(0.5 * 25, rel=1e-5)
    loss.backward()
    expected = torch.zeros_like(network.ra_head.weight)
    expected[0, 2] = 3.0
    torch.testing.assert_close(network.ra_head.weight.grad, expected)
    # frozen parts do not count
    network.basis.requires_grad_(False)
    assert float(pull().detach()) == pytest.approx(0.5 * 9, rel=1e-5)


def test_fields_that_the_global_model_held_back_are_held_back_in_tuning(iowa):
    both = join_fields([iowa, training_fields(SETTINGS, "IL", seed=1)])
    settings = replace(SETTINGS, held_fields=0.5)
    for seed in range(5):
        kept = set(np.random.default_rng(seed).permutation(10)[:5].tolist())
        expected = [i in kept for i in range(6)]
        assert held_of(iowa, both, settings, seed).tolist() == expected
        track = make_track(both, KGMLAg(4), 2, seed, settings.held_fields)
        assert set((~track.counts.any(dim=1)).nonzero().flatten().tolist()) == kept


def test_some_field_is_held_back_even_if_the_global_model_held_none_of_the_state(iowa):
    elsewhere = training_fields(SETTINGS, "IL", seed=1)
    for seed in range(5):
        held = held_of(iowa, elsewhere, SETTINGS, seed)
        assert 0 < held.sum() < len(iowa)


@pytest.fixture(scope="module")
def globally(iowa):
    return train_from_scratch(iowa, iowa, SETTINGS, seed=0)


def distance(one, other) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))


def test_training_follows_its_seed_alone(iowa, globally):
    again, other = (train_from_scratch(iowa, iowa, SETTINGS, seed) for seed in (0, 1))
    assert distance(globally, again) == 0
    assert distance(globally, other) > 1
    assert globally.hidden == SETTINGS.hidden


def test_scalers_are_those_of_all_states(iowa):
    illinois = training_fields(SETTINGS, "IL", seed=1)
    network = train_from_scratch(illinois, join_fields([iowa, illinois]), SETTINGS, seed=0)
    flat = np.concatenate([iowa.features, illinois.features]).reshape(-1, 19)
    np.testing.assert_allclose(network.features[0], flat.mean(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4)


def test_tuning_stays_the_nearer_the_stronger_the_pull(globally, iowa):
    """Without heads, which have their own penalty; a rate high enough to leave."""
    far = replace(SETTINGS, tune_steps=12, tune_rate=5e-2, rho=(), held_fields=0.2)
    moved = []
    for mu in (0.0, 1.0, 1e4):
        tuned = tune(deepcopy(globally), iowa, iowa, replace(far, mu=mu), seed=0)
        moved.append(distance(tuned, globally))
    assert moved[0] > 0
    assert moved[0] >= moved[1] >= moved[2]
    assert moved[2] < 0.5 * moved[0]


def test_a_tuned_model_is_no_worse_on_the_fields_that_choose(globally, iowa):
    """It may stay where it was: the first look at what is held out counts too."""
    wild = replace(SETTINGS, tune_rate=10.0, mu=0.0, rho=())
    tuned = tune(deepcopy(globally), iowa, iowa, wild, seed=0)
    assert all(torch.isfinite(value).all() for value in tuned.parameters())
    with torch.no_grad():
        track = make_track(iowa, globally, 2, 0, held_of(iowa, iowa, wild, 0))
        held = track.rows((~track.counts[:, 0]).nonzero().flatten())
        errors = []
        for network in (globally, tuned):
            rows = [result.ra - held.targets[:, days, 0] for _, days, result in walk(network, held, 1)]
            grains = [result.grain - held.grain[:, year] for year, _, result in walk(network, held, 1)]
            errors.append(float(torch.cat(rows, 1).square().mean() + torch.stack(grains).square().mean()))
    assert errors[1] <= errors[0] * (1 + 1e-4)


def invented(scored, **errors: float) -> dict[str, np.ndarray]:
    """Return the truth of the scored fields with some errors."""
    truth = {"ra": scored.ra, "rh": scored.rh, "nee": scored.nee, "yield": scored.grain}
    return {name: values + np.float32(errors.get(name, 0)) for name, values in truth.items()}


def test_scores_by_hand(globally, scored, monkeypatch):
    said = invented(scored, ra=0.3, rh=0.4, nee=99.0)
    said["yield"][:, 0] += 1000  # a year of spin-up does not count
    said["ra"][:, :365] += 50
    monkeypatch.setattr("fluxgrid.training.kgml.regimes.emulate", lambda *_: said)
    found = score(globally, scored, SETTINGS)
    assert tuple(found) == SCORED
    rmse = {name: row["rmse"] for name, row in found.items()}
    # NEE is RECO - GPP: the network's own does not count; errors of the parts add up
    assert rmse == pytest.approx({"ra": 0.3, "rh": 0.4, "reco": 0.7, "nee": 0.7, "yield": 0.0}, abs=1e-4)
    spread = globally.outputs[1]
    assert found["ra"]["mse_z"] == pytest.approx(0.09 / float(spread[0]) ** 2, rel=1e-3)
    both = float(spread[0]) ** 2 + float(spread[1]) ** 2
    assert found["reco"]["mse_z"] == pytest.approx(0.49 / both, rel=1e-3)
    reco = (scored.ra + scored.rh)[:, 365:]
    assert found["reco"]["r2"] == pytest.approx(1 - 0.49 / float(np.var(reco)), rel=1e-3)
    assert found["yield"]["r2"] == 1.0


def test_respiration_below_zero_is_cut_as_on_a_map(globally, scored, monkeypatch):
    said = invented(scored, ra=-1000.0)
    monkeypatch.setattr("fluxgrid.training.kgml.regimes.emulate", lambda *_: said)
    found = score(globally, scored, SETTINGS)
    days = slice(365, None)
    assert found["ra"]["rmse"] == pytest.approx(float(np.sqrt(np.mean(scored.ra[:, days] ** 2))), rel=1e-4)
    nee = scored.rh[:, days] - scored.features[:, days, GPP] - scored.nee[:, days]
    assert found["nee"]["rmse"] == pytest.approx(float(np.sqrt(np.mean(nee**2))), rel=1e-4)


def test_names_of_runs_tell_them_apart():
    runs = [
        Run("global", ("IA", "IL"), 3),
        Run("site-only", ("IA",), 3),
        Run("site-only", ("IA",), 3, 0.25),
        Run("site-only", ("IA",), 3, setting="A"),
        Run("site-only", ("IA",), 4),
    ]
    assert runs[0].name == "global-IA+IL-seed3"
    assert runs[2].name == "site-only-IA-25pc-seed3"
    assert len({run.name for run in runs}) == 5


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("count", [4, 41, 90])
def test_every_sample_counts_in_the_second_half_of_the_epochs(count, tuned):
    """Else a regime with few data never sees the yields of a crop far from the mean: they start beyond the gate."""
    settings = RegimeSettings().kgml(count, 0, tuned)
    epochs = settings.emulate_ra.epochs
    assert all(math.isinf(settings.pacing.threshold(epoch)) for epoch in range(epochs // 2, epochs))
    assert not math.isinf(settings.pacing.threshold(0)) or epochs == 1


@pytest.mark.parametrize(
    ("years", "text"),
    [
        ({"train_years": (2018, 2013)}, "train_years is 2018 to 2013; give the first year first"),
        ({"test_years": (2018, 2021)}, "test_years 2018 to 2021 share years with train_years 2013 to 2018"),
    ],
)
def test_years_out_of_order_or_scored_and_trained_are_refused(years, text):
    with pytest.raises(ValueError, match=text):
        RegimeSettings(**years)
