from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fluxgrid.data.windows import Window
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.testing import small_sites
from fluxgrid.training.fit import fit, shuffle, spread, stack, stack_all, validation_loss
from fluxgrid.training.settings import FitSettings

QUICK = FitSettings(epochs=12, batch=4, learning_rate=0.02, window=12, patience=12)


@pytest.fixture
def spec(make_spec):
    return make_spec(settings={"hidden": 8, "dropout": 0.0})


@pytest.fixture
def split(spec, sequences_of):
    sequences = sequences_of(small_sites(n=7), spec)
    return sequences[:5], sequences[5:]


def build(spec, seed: int = 0):
    torch.manual_seed(seed)
    return spec.build()


def same_weights(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_windows_are_cut_and_padded_with_steps_that_do_not_count(split):
    train, _ = split
    batch = stack([Window(0, 0, 12, 24), Window(3, 36, 2, 42)], train)
    assert batch.dynamic.shape == (2, 24, 4)
    assert batch.static.shape == (2, 6)
    assert batch.targets.shape == (2, 24, 3)
    assert batch.sequence.tolist() == [0, 3]
    np.testing.assert_array_equal(batch.dynamic[0], train[0].dynamic[:24])
    assert torch.isnan(batch.targets[0, :12]).all()
    np.testing.assert_array_equal(batch.targets[0, 12:], train[0].targets[12:24])
    np.testing.assert_array_equal(batch.targets[1, 2:6], train[3].targets[38:42])
    np.testing.assert_array_equal(batch.weights[1, 2:6], np.repeat(train[3].weights[38:42, None], 3, axis=1))
    assert torch.isnan(batch.targets[1, :2]).all()
    assert not batch.dynamic[1, 6:].any()
    assert not batch.weights[1, 6:].any()
    assert torch.isnan(batch.targets[1, 6:]).all()


def test_every_observed_step_stands_in_one_window(spec, split):
    train, _ = split
    batch = stack_all(build(spec), train, 10)
    expected = sum(np.isfinite(sequence.targets).sum() for sequence in train)
    assert int(torch.isfinite(batch.targets).sum()) == expected == 5 * 36 * 3


@pytest.mark.parametrize("together", [1, 4])
def test_windows_of_a_sequence_are_shuffled_side_by_side(together):
    counts = (9, 1, 6)
    windows = [Window(n, 10 * i, 0, 10 * i + 10) for n, count in enumerate(counts) for i in range(count)]
    order = shuffle(windows, together, torch.Generator().manual_seed(1))
    assert sorted(order, key=lambda w: (w.sequence, w.start)) == windows
    assert order != shuffle(windows, together, torch.Generator().manual_seed(2))
    changes = sum(a.sequence != b.sequence for a, b in pairwise(order))
    assert changes <= 5 or together == 1  # runs of 4, 4 and 1; of 1; of 4 and 2


def test_spread_is_the_standard_deviation_over_all_sites(split):
    train, _ = split
    targets = np.concatenate([sequence.targets[12:] for sequence in train]).astype(np.float64)
    np.testing.assert_allclose(spread(train), targets.std(axis=0), rtol=1e-6)


def test_spread_of_what_never_varies_or_was_never_seen_is_1(split):
    targets = split[0][0].targets.copy()
    targets[:, 0], targets[:, 1] = 3.0, np.nan
    found = spread([replace(split[0][0], targets=targets)])
    assert found[:2].tolist() == [1.0, 1.0]
    assert found[2] > 0


def test_fit_learns_a_known_problem(spec, split):
    network, (train, validation) = build(spec), split
    history = fit(network, train, validation, QUICK)
    assert history.train[-1] < 0.5 * history.train[0]
    assert min(history.validation) < 0.25  # of the variance of each flux: the weather explains the rest
    assert history.best_epoch == int(np.argmin(history.validation))
    assert not network.training
    assert network.head.scale.tolist() == spread(train)[:2].tolist()


def test_a_linear_head_starts_from_the_mean_of_the_training_sites(spec, split):
    train, validation = split
    network = replace(spec, settings={**spec.settings, "head": "linear"}).build()
    fit(network, train, validation, replace(QUICK, epochs=1))
    expected = np.nanmean(np.concatenate([sequence.targets for sequence in train]), axis=0)[:2]
    np.testing.assert_allclose(network.head.centre, expected, rtol=1e-5)


def test_the_weights_of_the_best_epoch_are_kept(spec, split):
    train, validation = split
    wild = replace(QUICK, learning_rate=0.3, epochs=8)  # goes up and down
    network = build(spec)
    history = fit(network, train, validation, wild)
    assert history.best_epoch < len(history.validation) - 1
    found = validation_loss(network, stack_all(network, validation, wild.window), spread(train))
    assert found == history.validation[history.best_epoch] == min(history.validation)


def test_patience_ends_training(spec, split):
    history = fit(build(spec), *split, replace(QUICK, learning_rate=0.3, epochs=40, patience=2))
    assert len(history.validation) == history.best_epoch + 1 + 2 < 40


def test_same_seed_same_weights(make_spec, split):
    spec = make_spec(settings={"hidden": 8, "dropout": 0.3})
    settings = replace(QUICK, epochs=2)
    networks = [build(spec) for _ in range(3)]
    for network, seed in zip(networks, (20, 20, 21), strict=True):
        torch.manual_seed(5)
        fit(network, *split, replace(settings, seed=seed))
    assert same_weights(networks[0], networks[1])
    assert not same_weights(networks[0], networks[2])


def test_any_number_of_steps_can_be_scheduled(spec, split):
    for epochs in range(1, 13):  # of one step each
        fit(build(spec), *split, replace(QUICK, epochs=epochs, batch=64))


def test_tam_rl_with_one_code_for_a_place_is_trained_with_windows_of_a_site_side_by_side(make_spec, sequences_of):
    spec = make_spec("tam_rl", {"hidden": 8, "latent": 4, "window": 15, "stride": 3, "code_from": "record"})
    sequences = sequences_of(small_sites(n=6), spec)
    network, seen = build(spec), []
    network.register_forward_pre_hook(lambda _, given: seen.append(given[1][:, -4:]))
    history = fit(network, sequences[:4], sequences[4:], replace(QUICK, batch=8, epochs=4))
    assert history.train[-1] < history.train[0]
    assert all(len(codes.unique(dim=0)) <= 2 for codes in seen)  # eight windows, two runs of four of a site
    checks = stack_all(network, sequences[4:], QUICK.window)
    found = validation_loss(network, checks, spread(sequences[:4]))
    assert found == history.validation[history.best_epoch]
    alone = replace(checks, sequence=torch.arange(len(checks.sequence)))
    assert found != validation_loss(network, alone, spread(sequences[:4]))


def test_each_epoch_is_reported(spec, split):
    rows = []
    history = fit(build(spec), *split, replace(QUICK, epochs=3), lambda *row: rows.append(row))
    assert rows == list(zip(range(3), history.train, history.validation, strict=True))


def test_targets_of_the_validation_sites_do_not_teach(spec, split):
    """They choose the epoch, but with one epoch to choose from the weights are the same."""
    train, validation = split
    networks = [build(spec), build(spec)]
    fit(networks[0], train, validation, replace(QUICK, epochs=1))
    fit(networks[1], train, [replace(s, targets=s.targets * 3) for s in validation], replace(QUICK, epochs=1))
    assert same_weights(*networks)


def test_nothing_observed_is_refused(spec, split):
    train, validation = split
    blind = [replace(s, targets=np.full_like(s.targets, np.nan)) for s in train]
    with pytest.raises(TableError, match="None of the 5 training sites observed a flux"):
        fit(build(spec), blind, validation, QUICK)


def test_a_loss_that_is_never_finite_is_refused(spec, split):
    network = build(spec)
    with torch.no_grad():
        network.head.linear.bias.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"never finite \(nan\)\. Lower fit\.learning_rate"):
        fit(network, *split, replace(QUICK, epochs=1))
