"""Calibration: heads found again that made the data, losses by hand, and one pass of the backbone for all of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.models import Sizes, load_checkpoint, model_config
from fluxgrid.models.calibration import KINDS, ONE_PASS, Heads
from fluxgrid.models.crop_mosaic import DYNAMIC, FLUXES
from fluxgrid.training import calibrate as module
from fluxgrid.training.calibrate import (
    CalibrationSettings,
    Evidence,
    _whole_years,
    calibrate,
    named,
    outputs_of,
    pass_all,
    pass_backbone,
    place_losses,
    reshaped,
    spreads,
)

OUTPUTS = ("gpp", "reco")
YEARS = (slice(0, 20), slice(20, 41))
PLACE = torch.tensor([0, 1, 2, 0, 1, 2, 2])
SETTINGS = CalibrationSettings("affine", penalty=0.0, steps=400, learning_rate=0.05, stride=1, spin_up_years=1)


@pytest.fixture
def network():
    torch.manual_seed(4)
    network = model_config("ct_gru", {"hidden": 8, "dropout": 0.3}).build(Sizes(3, 2, 2))
    network.set_scale(torch.tensor([6.0, 4.0]))
    return network.eval()


def inputs(rows: int, days: int = 41, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, days, 3, generator=random), torch.randn(rows, 2, generator=random)


@torch.no_grad()
def run_years(network, dynamic, static, years=YEARS, spin_up: int = 1) -> torch.Tensor:
    """Return the outputs of whole runs, year after year."""
    state, rows = torch.zeros(len(dynamic), network.state_size), []
    for days in years[:spin_up]:
        state = network(dynamic[:, days], static, state)[1]
    for days in years:
        fluxes, state = network(dynamic[:, days], static, state)
        rows.append(fluxes)
    return torch.cat(rows, dim=1)


@pytest.fixture
def made(network):
    """Return heads of three places that differ from the global model, and evidence that they made."""
    torch.manual_seed(6)
    heads = Heads(network, "affine", 3)
    with torch.no_grad():
        for value in heads.phi.values():
            value.normal_(0.0, 0.5)
    dynamic, static = inputs(len(PLACE))
    evidence = Evidence(dynamic, static, {"gpp": torch.zeros(7, 41)}, PLACE, YEARS)
    with torch.no_grad():
        fluxes = outputs_of(network, heads, pass_backbone(network, evidence, 1, 1))
    return heads, replace(evidence, fluxes={name: fluxes[..., i] for i, name in enumerate(OUTPUTS)})


def test_heads_that_made_the_data_are_found_again(network, made):
    heads, evidence = made
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lines = []
    found = calibrate(network, OUTPUTS, [evidence], SETTINGS, lines.append)
    for name, value in heads.phi.items():
        # of a readout that varies little, slope and offset stand in for each other
        torch.testing.assert_close(found.heads.phi[name], value, rtol=0, atol=0.15)
    assert found.loss[1] < 1e-4 < 0.1 < found.loss[0]
    assert found.seconds > 0
    assert [line.split(":")[0] for line in lines] == [f"affine step {i}/400" for i in range(0, 400, 50)]
    # the global model is not touched
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_explains_more_than_the_global_model(network, made, kind):
    rate = 1e-2 if kind in ONE_PASS else 5e-3
    settings = replace(SETTINGS, kind=kind, steps=100, learning_rate=rate, rank=2)
    found = calibrate(network, OUTPUTS, [made[1]], settings)
    assert found.loss[1] < 0.7 * found.loss[0]
    assert (found.heads.kind, found.heads.places, found.heads.rank) == (kind, 3, 2)
    assert not found.heads.training


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_follows_its_seed_alone(network, made, kind):
    settings = replace(SETTINGS, kind=kind, steps=3, rank=2)
    one, again = (calibrate(network, OUTPUTS, [made[1]], settings).heads for _ in range(2))
    assert all(torch.equal(value, again.phi[name]) for name, value in one.phi.items())


@pytest.mark.parametrize("kind", ["affine", "adapter", "lora"])
def test_a_place_learns_from_itself_alone(network, made, kind, monkeypatch):
    """Other fluxes elsewhere, the same head here: places share no more than the spread of the fluxes."""
    monkeypatch.setattr(module, "spreads", lambda _: {"gpp": 4.0, "reco": 4.0})
    evidence = made[1]
    elsewhere = (PLACE != 1)[:, None]
    fluxes = {name: torch.where(elsewhere, values + 3.0, values) for name, values in evidence.fluxes.items()}
    settings = replace(SETTINGS, kind=kind, steps=10, rank=2)
    one, other = (
        calibrate(network, OUTPUTS, [part], settings).heads.phi for part in (evidence, replace(evidence, fluxes=fluxes))
    )
    for name, value in one.items():
        torch.testing.assert_close(value[1], other[name][1], rtol=1e-4, atol=1e-6)
    assert not all(torch.allclose(value[0], other[name][0], atol=1e-3) for name, value in one.items())


def test_a_change_in_proportion_costs_nothing():
    """Affine heads keep the shape of every response; all else is measured by what a regression leaves."""
    random = torch.Generator().manual_seed(3)
    plain = torch.randn(4, 2, 30, 3, generator=random)
    ran = torch.arange(30) < torch.tensor([30, 30, 12, 7])[:, None]
    shares = reshaped(1.7 * plain - 2.0, plain, ran[:, None])
    assert shares.shape == (4, 2)
    assert float(shares.max()) < 1e-6

    changed = plain + torch.randn(plain.shape, generator=random)
    found = reshaped(changed, plain, ran[:, None]).numpy()
    every, size = ran.numpy(), np.empty(3)
    for output in range(3):
        known = np.concatenate([plain[i, :, every[i], output].numpy().ravel() for i in range(4)])
        size[output] = known.var()
    for i, run in np.ndindex(4, 2):
        wanted = 0.0
        for output in range(3):
            before, after = (values[i, run, every[i], output].numpy() for values in (plain, changed))
            line = np.polynomial.Polynomial.fit(before, after - before, 1)
            wanted += (after - before - line(before)).var() / size[output]
        assert found[i, run] == pytest.approx(wanted, rel=1e-4)


def test_days_without_a_value_do_not_count_as_reshaped():
    plain = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(0))
    changed = plain.square()
    gap = torch.where(torch.arange(20)[:, None] < 5, torch.nan, 1.0)
    torch.testing.assert_close(reshaped(changed * gap, plain * gap), reshaped(changed[:, 5:], plain[:, 5:]))


@pytest.mark.parametrize("kind", ["linear", "adapter", "full"])
def test_consistency_binds_a_head_to_the_shape_of_the_global_model(network, made, kind):
    settings = replace(SETTINGS, kind=kind, steps=60, rank=2)

    def parted(weight: float) -> float:
        heads = calibrate(network, OUTPUTS, [made[1]], replace(settings, consistency=weight)).heads
        with torch.no_grad():
            dynamic, static = inputs(3)
            slots, all_of_it = torch.arange(3)[:, None], torch.ones(3, 1)
            state = torch.zeros(3, heads.state_size(1))
            said, _ = heads.blend(dynamic, static, state, slots, all_of_it)
            return float(reshaped(said, network.predict(dynamic, static, state[:, : network.state_size])[0]).mean())

    assert parted(10.0) < 0.5 * parted(0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_year_without_fluxes_teaches_nothing_and_stops_nothing(network, made, kind):
    evidence = made[1]
    fluxes = {name: values.clone() for name, values in evidence.fluxes.items()}
    for values in fluxes.values():
        values[evidence.place == 1, 20:] = torch.nan
        values[-1] = torch.nan
    settings = replace(SETTINGS, kind=kind, steps=20, learning_rate=None)
    heads = calibrate(network, OUTPUTS, [replace(evidence, fluxes=fluxes)], settings).heads
    assert all(bool(torch.isfinite(value).all()) for value in heads.phi.values())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_place_that_knows_nothing_is_refused(network, made, kind):
    fluxes = {name: torch.full_like(values, torch.nan) for name, values in made[1].fluxes.items()}
    with pytest.raises(ConfigError, match="no flux known at the place"):
        calibrate(network, OUTPUTS, [replace(made[1], fluxes=fluxes)], replace(SETTINGS, kind=kind))


def test_a_heavy_penalty_keeps_the_global_model(network, made):
    heads = calibrate(network, OUTPUTS, [made[1]], replace(SETTINGS, penalty=1e6)).heads
    assert max(float(value.detach().abs().max()) for value in heads.phi.values()) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 5])
def test_a_pass_keeps_some_days_of_the_whole_run(network, monkeypatch, stride):
    monkeypatch.setattr(module, "_AT_ONCE", 3)  # rows run in three parts
    dynamic, static = inputs(7)
    evidence = Evidence(dynamic, static, {"gpp": torch.rand(7, 41)}, PLACE, YEARS)
    passed = pass_backbone(network, evidence, 1, stride)
    kept = np.arange(0, 41, stride)
    assert passed.days == len(kept)
    torch.testing.assert_close(outputs_of(network, None, passed), run_years(network, dynamic, static)[:, kept])
    assert torch.equal(passed.fluxes["gpp"], evidence.fluxes["gpp"][:, kept])


@torch.no_grad()
def test_a_pass_of_the_mosaic_is_its_run(tiny_kgml):
    """Two rotations, and a context with a day axis behind them."""
    checkpoint = load_checkpoint(tiny_kgml)
    random = torch.Generator().manual_seed(1)
    dynamic = torch.randn(3, 731, len(DYNAMIC), generator=random)
    year, day = DYNAMIC.index("calendar_year"), DYNAMIC.index("day_of_year")
    scale = checkpoint.model.dynamic_scale
    calendar = {year: np.repeat([2003, 2004], [365, 366]), day: np.concatenate([np.arange(365), np.arange(366)]) + 1}
    for column, values in calendar.items():
        dynamic[..., column] = (torch.from_numpy(values.astype(np.float32)) - scale[0, column]) / scale[1, column]
    static = torch.randn(3, checkpoint.spec.sizes.static, generator=random)
    years = slice(0, 365), slice(365, 731)
    evidence = Evidence(dynamic, static, {"gpp": torch.zeros(3, 731)}, torch.tensor([0, 1, 0]), years)
    passed = pass_backbone(checkpoint.model, evidence, 1, 7)
    expected = run_years(checkpoint.model, dynamic, static, years)[:, ::7]
    # the same products in another order; yields are hundreds
    torch.testing.assert_close(outputs_of(checkpoint.model, None, passed), expected, rtol=1e-4, atol=1e-3)
    heads = checkpoint.calibrations["state"].heads
    said = outputs_of(checkpoint.model, heads, passed)
    slots = evidence.place[:, None]
    state = torch.zeros(3, checkpoint.model.state_size)
    for days in (years[0], *years):
        blended, state = heads.blend(dynamic[:, days], static, state, slots, torch.ones(3, 1))
    torch.testing.assert_close(
        said[:, 53:, : len(FLUXES)],  # day 371 on
        blended[:, 6::7, : len(FLUXES)],
        rtol=1e-4,
        atol=1e-4,
    )


def test_records_of_other_lengths_are_one_pass_and_end_in_days_nothing_is_known_of(network):
    long, short = inputs(2), inputs(1, days=20, seed=3)
    parts = [
        Evidence(*long, {"gpp": torch.ones(2, 41)}, torch.tensor([0, 1]), YEARS),
        Evidence(*short, {"gpp": torch.ones(1, 20)}, torch.tensor([2]), YEARS[:1]),
    ]
    passed = pass_all(network, parts, 1, 2)
    assert passed.place.tolist() == [0, 1, 2]
    assert passed.days == 21
    assert torch.isfinite(passed.fluxes["gpp"]).sum(dim=1).tolist() == [21, 21, 10]
    expected = run_years(network, *short, YEARS[:1])[:, ::2]
    with torch.no_grad():
        torch.testing.assert_close(outputs_of(network, None, passed)[2:, :10], expected)
    assert passed.ran.sum(dim=1).tolist() == [21, 21, 10]
    assert passed.year.tolist() == [[0] * 10 + [1] * 11] * 2 + [[0] * 10 + [-1] * 11]


def test_years_cut_short_are_none():
    lengths = [100, 365, 366, 365, 30]
    cuts = np.cumsum([0, *lengths])
    years = _whole_years([slice(int(a), int(b)) for a, b in pairwise(cuts)])
    assert years.tolist() == [-1] * 100 + [1] * 365 + [2] * 366 + [3] * 365 + [-1] * 30


def test_reco_and_nee_follow_where_they_can():
    fluxes = torch.tensor([[[5.0, 2.0, 1.0]]])
    row = named(fluxes, ("gpp", "ra", "rh"))
    assert {name: float(value) for name, value in row.items()} == {"gpp": 5, "ra": 2, "rh": 1, "reco": 3, "nee": -2}
    assert set(named(fluxes[..., :2], ("gpp", "reco"))) == {"gpp", "reco", "nee"}
    assert set(named(fluxes[..., :2], ("ra", "gpp"))) == {"ra", "gpp"}


def test_the_loss_of_a_place_is_a_mean_over_what_is_known_of_it():
    nan = torch.nan
    known = {
        "gpp": torch.tensor([[1.0, nan], [4.0, 4.0], [nan, nan]]),
        "nee": torch.tensor([[nan, 2.0], [nan] * 2, [nan] * 2]),
    }
    guess = {
        "gpp": torch.tensor([[3.0, 9.0], [5.0, nan], [0.0, 0.0]]),
        "nee": torch.zeros(3, 2),
        "reco": torch.ones(3, 2),
    }
    losses = place_losses(guess, known, torch.tensor([1, 1, 0]), 3, {"gpp": 2.0, "nee": 4.0})
    # place 1: gpp errors 2 and 1 over 2, nee error 2 over 4; a day without a guess does not count
    np.testing.assert_allclose(losses, [0.0, (4 / 2 + 1 / 2 + 4 / 4) / 3, 0.0])


def test_days_without_a_value_do_not_spoil_gradients():
    value = torch.tensor(2.0, requires_grad=True)
    guess = {"gpp": torch.where(torch.tensor([[True, False]]), torch.nan, value * torch.ones(1, 2))}
    place_losses(guess, {"gpp": torch.ones(1, 2)}, torch.tensor([0]), 1, {"gpp": 1.0}).sum().backward()
    assert float(value.grad) == 2.0


def test_spreads_are_variances_of_what_is_known():
    rows = [{"gpp": torch.tensor([[1.0, torch.nan], [3.0, 5.0]])}, {"gpp": torch.tensor([[7.0]])}]
    assert spreads(rows)["gpp"] == pytest.approx(np.var([1, 3, 5, 7], ddof=1))
    assert spreads([{"gpp": torch.full((2, 2), 3.0)}])["gpp"] == 1e-6


def test_fluxes_that_the_model_does_not_give_cannot_calibrate_it(network, made):
    evidence = replace(made[1], fluxes={"rh": torch.ones(7, 41)})
    with pytest.raises(
        ConfigError, match=r"known at the places \(rh\) do not follow from those of the model \(gpp, reco, nee\)"
    ):
        calibrate(network, OUTPUTS, [evidence], SETTINGS)
