"""Scalers with native signs, years held back, and the walk of a network through years by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxgrid.data.crop_inputs import CROP_FEATURES, CROP_TYPE, GPP
from fluxgrid.models.kgml_ag import OUTPUTS
from fluxgrid.training.kgml.walk import emulate, fit_crop_scalers, make_track, spun_up, walk


def test_scalers_are_moments_of_the_fields_with_native_signs(grown):
    scalers = fit_crop_scalers(grown)
    flat = grown.features.reshape(-1, 19).astype(np.float64)
    np.testing.assert_allclose(scalers.features[0], flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scalers.features[1], flat.std(axis=0), rtol=1e-4)  # the population's
    assert scalers.outputs.shape == (2, len(OUTPUTS))
    row = dict(zip(OUTPUTS, scalers.outputs.T.tolist(), strict=True))
    for name, values in (("ra", -grown.ra), ("rh", -grown.rh), ("nee", grown.nee), ("yield", grown.grain)):
        expected = [values.mean(dtype=np.float64), values.std(dtype=np.float64)]
        np.testing.assert_allclose(row[name], expected, rtol=1e-5)
    assert row["ra"][0] < 0
    assert row["rh"][0] < 0
    gpp = float(scalers.features[0, GPP])
    assert gpp + row["ra"][0] + row["rh"][0] + row["nee"][0] == pytest.approx(0.0, abs=1e-4)


def test_the_residue_scaler_is_of_what_the_harvest_leaves(grown):
    left = []
    for row in range(len(grown)):
        for i, year in enumerate(grown.years):
            days = grown.days(year)
            gain = (grown.features[row, days, GPP].astype(float) - grown.ra[row, days]).sum()
            left.append(max(gain - grown.grain[row, i], 0.0))
    found = fit_crop_scalers(grown).residue
    np.testing.assert_allclose(found, [np.mean(left), np.std(left)], rtol=1e-5)


def test_an_input_that_never_changes_is_only_shifted(grown):
    features = grown.features.copy()
    features[..., CROP_FEATURES.index("TPH")] = 6.5
    scalers = fit_crop_scalers(replace(grown, features=features))
    assert scalers.features[:, CROP_FEATURES.index("TPH")].tolist() == [6.5, 1.0]


def test_a_track_is_the_fields_in_z_scores(grown, network):
    track = make_track(grown, network, 1, seed=0)
    assert len(track) == 6
    assert track.years == (slice(0, 365), slice(365, 731), slice(731, 1096))
    assert sorted({round(float(z)) for z in track.z[..., CROP_TYPE].unique()}) == [-1, 1]
    flat = track.z.reshape(-1, 19).double()
    np.testing.assert_allclose(flat.mean(dim=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(flat.std(dim=0, correction=0), 1.0, atol=1e-3)
    for i, (name, values) in enumerate((("ra", -grown.ra), ("rh", -grown.rh), ("nee", grown.nee))):
        back = network.physical(name, track.targets[..., i])
        np.testing.assert_allclose(back, values, atol=1e-5)  # float32 of numbers up to 30
    np.testing.assert_allclose(network.physical("yield", track.grain), grown.grain, rtol=1e-5)
    some = track.rows(torch.tensor([5, 1]))
    assert torch.equal(some.z, track.z[[5, 1]])
    assert torch.equal(some.counts, track.counts[[5, 1]])


def test_years_are_held_back_from_each_field(grown, network):
    counts = make_track(grown, network, 1, seed=0).counts
    assert (~counts).sum(dim=1).tolist() == [1] * 6
    assert torch.equal(counts, make_track(grown, network, 1, seed=0).counts)
    several = [make_track(grown, network, 2, seed=seed).counts for seed in range(8)]
    held = torch.cat([(~counts).sum(dim=1) for counts in several])
    assert set(held.tolist()) == {1, 2}  # drawn with replacement: the two may be one
    assert len({tuple(counts.flatten().tolist()) for counts in several}) > 1


def test_whole_fields_may_be_held_back_instead(grown, network):
    for share, expected in ((0.5, 3), (0.01, 1), (1.0, 6)):
        counts = make_track(grown, network, 1, seed=0, held_fields=share).counts
        assert (~counts).all(dim=1).sum() == expected
        assert counts.all(dim=1).sum() == 6 - expected


@torch.no_grad()
def test_a_walk_spins_up_and_begins_again(grown, network):
    track = make_track(grown, network, 1, seed=0)
    state = torch.zeros(6, network.state_size)
    for days in track.years[:2]:
        state = network(track.z[:, days], state).state
    assert torch.equal(spun_up(network, track, 2), state)
    for number, (year, days, result) in enumerate(walk(network, track, 2)):
        assert (year, days) == (number, track.years[number])
        expected = network(track.z[:, days], state)
        assert torch.equal(result.rh, expected.rh)
        assert torch.equal(result.grain, expected.grain)
        state = expected.state
    assert number == 2


def test_gradients_do_not_pass_from_year_to_year(grown, network):
    track = make_track(grown, network, 1, seed=0)
    z = track.z.clone().requires_grad_()
    for year, days, result in walk(network, replace(track, z=z), 1):
        grad = torch.autograd.grad(result.ra.sum(), z)[0]
        touched = grad.abs().sum(dim=(0, 2)) > 0
        assert touched[days].any()
        assert not touched[: days.start].any(), year


def test_emulation_speaks_with_our_signs(grown, network):
    network.train()
    found = emulate(network, grown, spin_up=1, batch=4)
    assert not network.training
    assert {name: values.shape for name, values in found.items()} == {
        "ra": (6, 1096), "rh": (6, 1096), "nee": (6, 1096), "yield": (6, 3)
    }  # fmt: skip
    track = make_track(grown, network, 1, seed=0)
    with torch.no_grad():
        for year, days, result in walk(network, track, 1):
            for name, z, sign in (("ra", result.ra, -1), ("rh", result.rh, -1), ("nee", result.nee, 1)):
                expected = sign * network.physical(name, z)
                # batches of 4 and 2 instead of 6 rows may round otherwise
                np.testing.assert_allclose(found[name][:, days], expected, rtol=1e-5, atol=1e-5)
            expected = network.physical("yield", result.grain)
            np.testing.assert_allclose(found["yield"][:, year], expected, rtol=1e-5)
    assert found["ra"].mean() > 0
    assert found["rh"].mean() > 0
