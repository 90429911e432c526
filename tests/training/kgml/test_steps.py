"""Steps 1, 2 and 4 on a handful of fields: what is trained, what is frozen, what is kept."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.training.kgml.losses import balance, falling
from fluxgrid.training.kgml.responses import fields_for_responses, grid_of, respond
from fluxgrid.training.kgml.settings import Budget, KGMLSettings, Pacing, StepSettings
from fluxgrid.training.kgml.steps import emulate_ra, emulate_rest, soil_carbon
from fluxgrid.training.kgml.walk import make_track, walk

FEW = StepSettings(epochs=5, patience=5, learning_rate=2e-2, batch=3, schedule="cosine")
SETTINGS = KGMLSettings(
    spin_up_years=1,
    emulate_ra=FEW,
    emulate_rest=FEW,
    pacing=Pacing(100.0),
    budget=Budget(sites=1, years=2, values=23, every=2),  # the whole grid of soil carbon, at one field
)
FIRST = ("basis", "attention", "grain", "ra", "ra_head")
REST = ("ra", "ra_head", "rh", "rh_head", "nee", "nee_head")
STEPS = pytest.mark.parametrize(("train", "trained"), [(emulate_ra, FIRST), (emulate_rest, REST)])


@pytest.fixture
def track(grown, network):
    return make_track(grown, network, 1, seed=0)


def short(epochs: int, **changes) -> KGMLSettings:
    step = replace(FEW, epochs=epochs, **changes)
    return replace(SETTINGS, emulate_ra=step, emulate_rest=step)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@torch.no_grad()
def held_out_of_step_1(network, track) -> float:
    """Return the loss by a whole pass: mean over held years of the squared errors of Ra and yield."""
    errors = []
    for year, days, result in walk(network, track, SETTINGS.spin_up_years):
        held = ~track.counts[:, year]
        ra = (result.ra - track.targets[:, days, 0])[held].square().mean(dim=1)
        errors.append(ra + (result.grain - track.grain[:, year])[held].square())
    return float(torch.cat(errors).mean())


@torch.no_grad()
def held_out_of_step_2(network, track) -> float:
    """Return the same of step 2: Ra, Rh, NEE, the balance, and the response to soil carbon."""
    total, count = 0.0, 0
    for year, days, result in walk(network, track, SETTINGS.spin_up_years):
        for row in torch.nonzero(~track.counts[:, year]).flatten():
            guess = torch.stack([result.ra[row], result.rh[row], result.nee[row]], dim=-1)
            errors = (guess - track.targets[row, days]).square().mean(dim=0).sum()
            flux = [network.physical(name, guess[:, i]) for i, name in enumerate(("ra", "rh", "nee"))]
            gpp = track.z[row, days, GPP] * network.features[1, GPP] + network.features[0, GPP]
            total, count = total + float(errors + balance(gpp, *flux, SETTINGS.tolerance)), count + 1
    tested, values = fields_for_responses(track, SETTINGS.budget, SETTINGS.seed), grid_of("TSOC")
    return total / count + float(falling(-respond(network, tested, "TSOC", values, 1).rh, values))


@STEPS
def test_the_loss_falls_and_the_best_epoch_is_kept(network, track, train, trained):
    before = deepcopy(network)
    lines = []
    # 18 yields teach a network of this size little: a high rate would soon learn them by heart
    history = train(network, track, short(8, patience=8, learning_rate=5e-3), lines.append)
    assert len(history.train) == len(history.validation) == len(lines) == 8
    assert history.validation[-1] < 0.8 * history.validation[0]
    assert history.train[-1] < 0.8 * history.train[0]
    assert history.seconds > 0
    loss = held_out_of_step_1 if train is emulate_ra else held_out_of_step_2
    found = loss(network, track)
    assert found < loss(before, track)
    # the same loss by a whole pass of the network, in another order of addition
    assert found == pytest.approx(min(history.validation), rel=1e-4)
    assert history.validation[history.best_epoch] == min(history.validation)
    assert not network.training


@STEPS
def test_frozen_parts_do_not_change_a_bit(network, track, train, trained):
    before = deepcopy(network)
    train(network, track, short(1))
    for name, part in network.named_children():
        if name in trained:
            assert not same(part, getattr(before, name)), name
        else:
            assert same(part, getattr(before, name)), name
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, dict(before.named_buffers())[name]), name


@STEPS
def test_a_rate_too_high_does_not_leave_the_last_weights(network, track, train, trained):
    """A rate that throws the weights about: whatever the last epoch was, the best one is kept."""
    # of so many epochs the last is not the best by chance
    history = train(network, track, short(7, learning_rate=0.3, schedule="step"))
    loss = held_out_of_step_1 if train is emulate_ra else held_out_of_step_2
    assert history.best_epoch < 6
    assert loss(network, track) == pytest.approx(min(history.validation), rel=1e-3)


@STEPS
def test_held_out_years_teach_nothing(network, track, train, trained):
    other = deepcopy(network)
    targets, grain = track.targets.clone(), track.grain.clone()
    for year, days in enumerate(track.years):
        held = torch.nonzero(~track.counts[:, year]).flatten()
        targets[held, days] += 3.0
        grain[held, year] -= 2.0
    train(network, track, short(1))
    train(other, replace(track, targets=targets, grain=grain), short(1))
    assert same(network, other)
    counted = deepcopy(other)
    targets = track.targets + 3.0
    train(counted, replace(track, targets=targets), short(1))
    assert not same(counted, other)


@STEPS
def test_the_same_seed_gives_the_same_weights(network, track, train, trained):
    other, third = deepcopy(network), deepcopy(network)
    train(network, track, short(1))
    train(other, track, short(1))
    train(third, track, replace(short(1), seed=1))
    assert same(network, other)
    assert not same(network, third)


@STEPS
def test_an_anchor_is_added_to_every_step(network, track, train, trained):
    start, pulls = deepcopy(network), []

    def anchor() -> torch.Tensor:
        moved = zip(network.parameters(), start.parameters(), strict=True)
        pulls.append(sum((one - other.detach()).square().sum() for one, other in moved))
        return 1e4 * pulls[-1]

    free = deepcopy(network)
    train(network, track, short(2), anchor=anchor)
    train(free, track, short(2))
    assert len(pulls) == 2 * 2 * 3  # epochs, batches and years

    def distance(other) -> float:
        pairs = zip(other.parameters(), start.parameters(), strict=True)
        return float(sum((one - two).detach().square().sum() for one, two in pairs))

    assert distance(network) < 0.5 * distance(free)


def test_easy_fields_come_first(network, track):
    """Nothing is below a threshold of zero, so nothing is learnt while it lasts."""
    before = deepcopy(network)
    emulate_ra(network, track, replace(short(1), pacing=Pacing(1e-9, 1.0, epochs=10)))
    assert same(network, before)
    emulate_ra(network, track, replace(short(1), pacing=Pacing(1e-9, 1.0, epochs=0)))
    assert not same(network, before)


def test_step_4_goes_by_its_own_settings(network, track):
    lines = []
    history = emulate_rest(network, track, SETTINGS, lines.append, step=replace(FEW, epochs=2), name="step 4")
    assert history.name == "step 4"
    assert len(history.train) == 2
    assert lines[0].startswith("step 4 epoch 1/2")


def test_soil_carbon_counts_where_respiration_falls_with_it(network, track):
    """Native Rh is negative: more respiration is a lower curve, and the loss is on its reverse."""
    tested, random = fields_for_responses(track, SETTINGS.budget, 0), torch.Generator()
    with torch.no_grad():
        once = float(soil_carbon(network, tested, SETTINGS, random))
        network.rh_head.weight.neg_()
        other = float(soil_carbon(network, tested, SETTINGS, random))
        values = grid_of("TSOC")
        rh = -respond(network, tested, "TSOC", values, 1).rh  # > 0
    slopes = rh.diff() / values.diff()
    assert other == pytest.approx(float(torch.relu(-slopes).sum()), rel=1e-5)
    # what one falls the other rises
    assert once == pytest.approx(float(torch.relu(slopes).sum()), rel=1e-3, abs=1e-6)
    assert max(once, other) > 0
