"""Meta-training against an obvious reference, and on a family of sites that answer to light differently."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.windows import Window
from fluxgrid.errors import ConfigError
from fluxgrid.models import zero_state
from fluxgrid.testing import small_sites
from fluxgrid.training.fit import fit, flux_moments, plan, stack, training_loss
from fluxgrid.training.losses import LossSettings
from fluxgrid.training.meta import meta_lessons, plan_tasks
from fluxgrid.training.settings import FitSettings, MetaSettings
from fluxgrid.training.train import train_model

META = FitSettings(
    epochs=3,
    batch=4,
    learning_rate=0.02,
    window=12,
    patience=12,
    regime="meta",
    meta=MetaSettings(inner_rate=0.05, inner_steps=2, tasks=3),
)


@pytest.fixture
def spec(make_spec):
    return make_spec(settings={"hidden": 8, "dropout": 0.0})


@pytest.fixture
def sequences(spec, sequences_of):
    """Return towers whose GPP answers to light with a strength of their own, which no input tells."""
    sites = small_sites(n=7)
    strength = (0.5, 1.5, 1.0, 0.7, 1.3, 1.1, 0.9)
    own = [replace(s, series=s.series.assign(gpp=k * s.series["gpp"])) for s, k in zip(sites, strength, strict=True)]
    return sequences_of(replace(sites, sites=tuple(own)), spec)


def build(spec):
    torch.manual_seed(0)
    return spec.build()


def gradients(network) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters()]


def lesson(network, sequences, settings, generator_seed: int = 3) -> tuple[float, list[torch.Tensor]]:
    """Return loss and gradients of the first step of an epoch."""
    generator = torch.Generator().manual_seed(generator_seed)
    windows = plan(network, sequences, settings.window)
    loss = next(meta_lessons(network, windows, sequences, flux_moments(sequences), settings, generator))
    return loss, gradients(network)


def tasks_of(network, sequences, settings, generator_seed: int = 3):
    generator = torch.Generator().manual_seed(generator_seed)
    windows = plan(network, sequences, settings.window)
    return next(plan_tasks(windows, settings.batch, settings.meta.tasks, generator))


def reference(network, tasks, sequences, meta) -> tuple[float, list[torch.Tensor]]:
    """Return loss and gradients as the definition has them: a copy for each task, plain steps, clipped at 1."""
    moments, losses, found = flux_moments(sequences), [], []
    for task in tasks:
        own = copy.deepcopy(network)
        for _ in range(meta.inner_steps):
            loss = training_loss(own, stack(list(task.inner), sequences), moments, LossSettings())
            steps = torch.autograd.grad(loss, list(own.parameters()))
            norm = torch.sqrt(sum(step.square().sum() for step in steps))
            with torch.no_grad():
                for parameter, step in zip(own.parameters(), steps, strict=True):
                    parameter -= meta.inner_rate * step * min(1.0, 1.0 / float(norm))
        loss = training_loss(own, stack(list(task.outer), sequences), moments, LossSettings())
        losses.append(float(loss.detach()))
        found.append(torch.autograd.grad(loss, list(own.parameters())))
    return float(np.mean(losses)), [torch.stack(each).mean(dim=0) for each in zip(*found, strict=True)]


def test_the_gradient_is_that_of_the_definition(spec, sequences):
    network = build(spec)
    before = copy.deepcopy(network.state_dict())
    expected = reference(network, tasks_of(network, sequences, META), sequences, META.meta)
    found = lesson(network, sequences, META)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name  # the copy was adapted, not the network


@pytest.mark.parametrize("meta", [MetaSettings(0.05, 0, 3), MetaSettings(0.0, 2, 3)])
def test_without_inner_steps_it_is_plain_training_on_the_outer_windows(spec, sequences, meta):
    """Plain AdamW on the mean loss of the tasks' outer windows, all in one graph, for a whole epoch."""
    settings = replace(META, epochs=1, meta=meta)
    network, plain = build(spec), build(spec)
    fit(network, sequences[:5], sequences[5:], settings, lessons=meta_lessons)
    train, moments = sequences[:5], flux_moments(sequences[:5])
    plain.set_scale(moments.std)
    windows = plan(plain, train, settings.window)
    generator = torch.Generator().manual_seed(settings.seed)
    steps = list(plan_tasks(windows, settings.batch, meta.tasks, generator))
    optimiser = torch.optim.AdamW(plain.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=len(steps), pct_start=0.1, final_div_factor=4
    )
    for tasks in steps:
        batches = [stack(list(task.outer), train) for task in tasks]
        optimiser.zero_grad()
        torch.stack([training_loss(plain, batch, moments, LossSettings()) for batch in batches]).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.clip)
        optimiser.step()
        schedule.step()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_inner_steps_change_what_is_learnt(spec, sequences):
    network = build(spec)
    adapted, plain = (lesson(network, sequences, replace(META, meta=replace(META.meta, inner_steps=n))) for n in (2, 0))
    assert adapted[0] < plain[0]  # after a step on its own windows a site is predicted better
    assert not torch.allclose(adapted[1][0], plain[1][0])


def test_it_learns_a_family_of_sites_and_says_what_an_ordinary_network_says(spec, sequences):
    network = build(spec)
    history = fit(network, sequences[:5], sequences[5:], replace(META, epochs=15), lessons=meta_lessons)
    assert history.train[-1] < 0.5 * history.train[0]
    assert min(history.validation) < 0.35  # without adapting to the sites held out
    assert not network.training
    batch = stack(plan(network, sequences[5:], 12), sequences[5:])
    fluxes, _ = network.predict(batch.dynamic, batch.static, zero_state(network, len(batch.dynamic)))
    assert (fluxes >= 0).all()


def test_a_network_adapts_faster_once_it_was_taught_to(spec, sequences):
    """The point of it: after the same steps on one year of a site never seen, its other years are predicted better."""

    def left(settings, lessons) -> float:
        network = build(spec)
        fit(network, sequences[:5], sequences[5:6], settings, lessons=lessons)
        windows = plan(network, sequences[6:], 12)
        years, moments = [stack([window], sequences[6:]) for window in windows], flux_moments(sequences)
        for _ in range(2):
            network.zero_grad()
            training_loss(network, years[0], moments, LossSettings()).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.1 * parameter.grad
        return float(training_loss(network, stack(windows[1:], sequences[6:]), moments, LossSettings()).detach())

    settings = replace(META, epochs=20, patience=20, meta=MetaSettings(inner_rate=0.1, inner_steps=2, tasks=3))
    plain = replace(settings, meta=replace(settings.meta, inner_steps=0))
    assert left(settings, meta_lessons) < left(plain, meta_lessons)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda n: max(n) > 1),
    batch=st.integers(1, 12),
    tasks=st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_every_site_comes_as_often_as_any_other_and_no_window_is_judged_by_what_adapted_to_it(
    lengths, batch, tasks, seed
):
    windows = [Window(site, 12 * k, 0, 12 * k + 12) for site, n in enumerate(lengths) for k in range(n)]
    generator = torch.Generator().manual_seed(seed)
    steps = list(plan_tasks(windows, batch, tasks, generator))
    assert len(steps) == -(-len(windows) // batch)
    drawn = Counter()
    for step in steps:
        assert len(step) == min(tasks, len(lengths))
        for task in step:
            site = {window.sequence for window in (*task.inner, *task.outer)}
            assert len(site) == 1
            drawn[site.pop()] += 1
            assert task.outer
            assert not set(task.inner) & set(task.outer)
            assert len(task.inner) <= len(task.outer) <= max(1, batch // len(step))
            assert task.inner or lengths[task.outer[0].sequence] == 1
    counts = [drawn[site] for site in range(len(lengths))]
    assert max(counts) - min(counts) <= 1


def test_sites_of_one_window_are_refused(spec, sequences):
    with pytest.raises(ConfigError, match=r"none of the 7 training sites has two\. Lower fit\.window"):
        lesson(build(spec), sequences, replace(META, window=365))


def test_the_regime_is_chosen_by_the_settings(make_spec):
    spec, sites = make_spec(settings={"hidden": 4}), small_sites(n=8)
    settings = replace(META, epochs=2, validation=0.3)
    meta, again = (train_model(sites, spec, settings).model.state_dict() for _ in range(2))
    joint = train_model(sites, spec, replace(settings, regime="joint", meta=None)).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in meta.items())
    assert any(not torch.equal(value, joint[name]) for name, value in meta.items())


def test_trees_cannot_be_meta_trained(make_spec):
    with pytest.raises(ConfigError, match=r"fit\.regime: meta trains by gradients, which 'lightgbm' is not"):
        train_model(small_sites(n=6), make_spec("lightgbm", {"rounds": 3}), META)


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="regime is 'joint'; give regime: meta"):
        FitSettings(meta=MetaSettings())
