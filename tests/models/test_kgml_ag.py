"""KGML-ag against a slow reference, its size as published, and where the residue of the harvest enters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.models import packed_product
from fluxgrid.models.kgml_ag import LAYERS, KGMLAg

BATCH, HIDDEN = 3, 6


@pytest.fixture
def network(crop_scalers) -> KGMLAg:
    """Return a small one whose attention and heads are far from flat."""
    torch.manual_seed(4)
    network = KGMLAg(HIDDEN)
    network.set_scalers(crop_scalers)
    with torch.no_grad():
        for part in (network.attention, network.grain):
            for parameter in part.parameters():
                parameter.normal_(0.0, 0.8)
        for head in (network.ra_head, network.rh_head, network.nee_head):
            head.weight.normal_()
    return network.eval()


def year_of(days: int, seed: int, batch: int = BATCH) -> torch.Tensor:
    """Return inputs of a year, z-scores (B, T, 19)."""
    return torch.randn(batch, days, 19, generator=torch.Generator().manual_seed(seed))


def zeros(network: KGMLAg, batch: int = BATCH) -> torch.Tensor:
    return torch.zeros(batch, network.state_size)


@torch.no_grad()
def test_it_is_the_slow_reference_over_two_years(network, kgml_reference):
    w = {name: value.double().numpy() for name, value in network.state_dict().items()}
    scalers = w["features"], w["outputs"], w["residue"]
    states = {name: [np.zeros((BATCH, HIDDEN))] * layers for name, layers in LAYERS.items()}
    state = zeros(network)
    for days, seed in ((366, 1), (365, 2)):  # a leap year runs 366 steps
        z = year_of(days, seed)
        year = network(z, state)
        slow = [z[:, day].double().numpy() for day in range(days)]
        ra, rh, nee, grain, residue, states = kgml_reference.kgml_year(w, scalers, slow, states)
        assert (residue > -scalers[2][0] / scalers[2][1]).any()  # or the ReLU alone would be compared
        # float32 against float64: a step rounds to some 1e-7, and the gates forget within tens of steps; the residue
        # is a sum of 365 numbers
        close = {"rtol": 1e-5, "atol": 2e-5}
        for fast, expected in ((year.ra, ra), (year.rh, rh), (year.nee, nee), (year.grain, grain)):
            np.testing.assert_allclose(fast, expected, **close)
        for name, layers in network.split(year.state).items():
            np.testing.assert_allclose(layers, np.stack(states[name]), **close)
        state = year.state
    assert np.std(ra) > 0.1
    assert np.std(grain) > 0.01


@pytest.mark.parametrize("days", [1, 90, 366])
@pytest.mark.parametrize("batch", [5, 300])
@torch.no_grad()
def test_the_compiled_attention_is_that_of_doubles(network, days, batch, monkeypatch):
    basis = torch.randn(batch, days, HIDDEN, generator=torch.Generator().manual_seed(3))
    quick = network.grain_of(basis)
    monkeypatch.setattr(packed_product, "AVAILABLE", False)
    plain, exact = network.grain_of(basis), network.double().grain_of(basis.double())
    for found in (quick, plain):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)  # sums of so many days


def test_its_size_is_the_published_one():
    network = KGMLAg()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count.pop("dropout") == 0
    heads = {"ra_head": 65, "rh_head": 65, "nee_head": 65}
    blocks = {"basis": 41_280, "ra": 28_608, "rh": 53_760, "nee": 16_704, "attention": 10_433, "grain": 10_433}
    assert count == blocks | heads
    assert sum(count.values()) == 161_413
    assert sum(count[name] for name in ("ra", "rh", "nee", *heads)) == 99_267  # trained in step 5


def test_fresh_heads_are_small_and_without_bias():
    network = KGMLAg()
    for part in (network.attention, network.grain, network.ra_head, network.rh_head, network.nee_head):
        for name, parameter in part.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            else:
                assert 0.05 < parameter.abs().max() <= 0.1


@torch.no_grad()
@pytest.mark.parametrize("days", [365, 366])
def test_residue_enters_on_two_days_only(network, days):
    z, ra = year_of(days, 5), torch.randn(BATCH, days)
    row = network.residue_of(z, ra, torch.zeros(BATCH))
    assert torch.nonzero(row[0, :, 0]).flatten().tolist() == [298, 299]
    assert torch.equal(row[:, 298], row[:, 299])


@torch.no_grad()
def test_residue_is_what_is_left_of_the_uptake_in_grams(network):
    gpp, ra = 6.0, -2.5  # g m-2 d-1 on each of 365 days: 1277.5 g m-2 stay in the plants
    features = torch.zeros(2, 365, 19)
    features[..., GPP] = gpp
    z = network.scale(features)
    ra_z = ((ra - network.outputs[0, 0]) / network.outputs[1, 0]).expand(2, 365)
    grain = (torch.tensor([400.0, 2000.0]) - network.outputs[0, 3]) / network.outputs[1, 3]
    row = network.residue_of(z, ra_z, grain)[:, 298, 0] * network.residue[1] + network.residue[0]
    # a sum of 365 float32 of about 4; more harvested than grown leaves nothing, not less than nothing
    np.testing.assert_allclose(row, [365 * (gpp + ra) - 400.0, 0.0], atol=0.01)


@torch.no_grad()
def test_a_part_of_a_year_puts_the_residue_on_the_same_days(network):
    z, ra, grain = year_of(50, 5), torch.zeros(BATCH, 50), torch.zeros(BATCH)
    for first_day, where in ((0, []), (280, [18, 19]), (299, [0]), (300, []), (248, []), (249, [49])):
        row = network.residue_of(z, ra, grain, first_day)
        assert torch.nonzero(row[0, :, 0]).flatten().tolist() == where, first_day


@torch.no_grad()
def test_before_the_residue_nothing_hangs_on_the_rest_of_the_year(network):
    whole = year_of(365, 6)
    changed = whole.clone()
    changed[:, 298:] += 1.0
    one, other = network(whole, zeros(network)), network(changed, zeros(network))
    for name in ("ra", "rh", "nee"):
        before, after = getattr(one, name), getattr(other, name)
        assert torch.equal(before[:, :298], after[:, :298]), name
    assert not torch.allclose(one.grain, other.grain)
    # but what grew in the year stands in the residue
    earlier = whole.clone()
    earlier[:, 40, GPP] += 400.0
    moved = network(earlier, zeros(network))
    assert (moved.rh[:, 298] - one.rh[:, 298]).abs().min() > 1e-3


@torch.no_grad()
def test_a_year_cut_short_is_the_same_before_the_residue(network):
    z = year_of(365, 6)
    whole = network(z, zeros(network))
    for days in (120, 298, 299, 330):
        part, known = network(z[:, :days], zeros(network)), min(days, 298)
        for name in ("ra", "rh", "nee"):
            # the products of all days at once have another number of rows, and may round otherwise
            torch.testing.assert_close(
                getattr(part, name)[:, :known], getattr(whole, name)[:, :known], rtol=0, atol=1e-5
            )
    assert (part.rh[:, 298] - whole.rh[:, 298]).abs().max() > 1e-3


def test_without_diagnosis_the_rest_is_the_same(network):
    z = year_of(30, 7)
    full, less = network(z, zeros(network)), network(z, zeros(network), diagnose=False)
    assert torch.equal(full.ra, less.ra)
    assert torch.equal(full.rh, less.rh)
    assert not less.nee.any()
    assert not network.split(less.state)["nee"].any()
    assert network.split(full.state)["nee"].any()


def test_states_split_and_join(network):
    z = year_of(20, 8)
    state = network(z, torch.randn(BATCH, network.state_size)).state
    parts = network.split(state)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        name: (layers, BATCH, HIDDEN) for name, layers in LAYERS.items()
    }
    assert torch.equal(torch.cat(list(parts.values())).transpose(0, 1).reshape(BATCH, -1), state)


def test_gradients_reach_every_part(network):
    year = network(year_of(365, 9), zeros(network))
    (year.ra.sum() + year.rh.sum() + year.nee.sum() + year.grain.sum()).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_respiration_of_the_soil_learns_from_the_yield_through_the_residue(network):
    year = network(year_of(365, 9), zeros(network))
    year.rh[:, :298].sum().backward(retain_graph=True)
    assert not network.grain[0].weight.grad.any()
    year.rh[:, 298].sum().backward()
    assert network.grain[0].weight.grad.any()
