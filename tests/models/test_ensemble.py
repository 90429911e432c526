"""Several members that speak as one: their mean, their states, their weights on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import CheckpointError, ConfigError
from fluxgrid.models import Checkpoint, FluxModel, load_checkpoint, save_checkpoint, zero_state
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import Ensemble, mean_of, members_of

MEMBERS, BATCH, STEPS, CUT = 3, 5, 17, 6
WINDOW = {"hidden": 8, "window": 9, "stride": 4}
CASES = {
    "stream": ("ct_gru", {"hidden": 8}),
    "exact": ("ct_lstm", {**WINDOW, "window_mode": "exact"}),
    "stride": ("ct_gru", {**WINDOW, "window_mode": "stride"}),
    "record": ("tam_rl", {**WINDOW, "latent": 4, "window_mode": "stride", "stride": 6, "code_from": "record"}),
    "one day": ("mlp", {"hidden": 8}),
    "trees": ("lightgbm", {"rounds": 8}),
}


@pytest.fixture(params=list(CASES))
def spec(request, make_spec):
    return make_spec(*CASES[request.param], members=MEMBERS)


@pytest.fixture
def build(make_spec, ready):
    """Return a function that makes the ensemble of a spec with members that differ."""

    def make(spec) -> Ensemble:
        members = []
        for number in range(spec.members):
            member = ready(make_spec(spec.kind, spec.settings))
            if isinstance(member, torch.nn.Module):
                torch.manual_seed(number)
                for weights in member.parameters():
                    weights.data += 0.2 * torch.randn_like(weights)
            else:
                member.boosters = member.boosters[:: 1 if number % 2 else -1]
            members.append(member)
        return Ensemble(members)

    return make


@pytest.fixture
def ensemble(spec, build) -> Ensemble:
    return build(spec)


@pytest.fixture
def inputs(spec) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    shapes = (BATCH, STEPS, spec.sizes.dynamic), (BATCH, spec.sizes.static)
    return tuple(torch.randn(*shape, generator=random) for shape in shapes)


def save(path: Path, spec, model) -> Path:
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    domain = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    save_checkpoint(path, spec, scaler, model, domain, "name: small\n", {})
    return path


def test_it_says_the_mean_of_its_members(ensemble, inputs):
    state = zero_state(ensemble, BATCH)
    fluxes, _ = ensemble.predict(*inputs, state)
    members, _ = ensemble.predict_members(*inputs, state)
    alone = [m.predict(*inputs, zero_state(m, BATCH))[0] for m in ensemble.members]
    assert isinstance(ensemble, FluxModel)
    assert members.shape == (MEMBERS, BATCH, STEPS, 2)
    assert all(torch.equal(one, other) for one, other in zip(members, alone, strict=True))
    assert members.std(dim=0).max() > 1e-3
    expected = np.mean([m.numpy().astype(np.float64) for m in alone], axis=0)
    np.testing.assert_allclose(fluxes.numpy(), expected, rtol=1e-7)


def test_members_that_agree_say_what_one_says_bit_for_bit(ensemble, inputs):
    first = ensemble.members[0]
    alone, _ = first.predict(*inputs, zero_state(first, BATCH))
    for count in (2, 3, 5, 7):
        together = Ensemble([first] * count)
        assert torch.equal(together.predict(*inputs, zero_state(together, BATCH))[0], alone)


def test_a_run_in_two_pieces_carries_the_state_of_every_member(ensemble, inputs):
    dynamic, static = inputs
    _, between = ensemble.predict(dynamic[:, :CUT], static, zero_state(ensemble, BATCH))
    late, last = ensemble.predict(dynamic[:, CUT:], static, between)
    assert between.shape == (BATCH, ensemble.state_size)
    alone, ends = [], []
    for member in ensemble.members:
        _, own = member.predict(dynamic[:, :CUT], static, zero_state(member, BATCH))
        fluxes, end = member.predict(dynamic[:, CUT:], static, own)
        alone.append(fluxes)
        ends.append(end)
    assert torch.equal(late, mean_of(torch.stack(alone)))
    assert torch.equal(last, ends[0] if ensemble.shares_state else torch.cat(ends, dim=1))


def test_only_a_state_that_hangs_on_weights_is_kept_for_each_member(make_spec, build):
    sizes = {}
    for name, (kind, settings) in CASES.items():
        ensemble = build(make_spec(kind, settings, members=MEMBERS))
        sizes[name] = ensemble.state_size / max(ensemble.members[0].state_size, 1)
    assert sizes == {"stream": MEMBERS, "exact": 1, "stride": 1, "record": MEMBERS, "one day": 0, "trees": 0}


def test_advance_gives_the_state_alone(ensemble, inputs):
    state = torch.rand(BATCH, ensemble.state_size, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ensemble.advance(*inputs, state), ensemble.predict(*inputs, state)[1])


def test_saved_and_loaded_is_the_same_ensemble(spec, ensemble, inputs, tmp_path):
    folder = save(tmp_path / "model", spec, ensemble)
    loaded = load_checkpoint(folder)
    assert loaded.spec == spec
    state = zero_state(ensemble, BATCH)
    for one, other in zip(ensemble.predict(*inputs, state), loaded.model.predict(*inputs, state), strict=True):
        assert torch.equal(one, other)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["member-0", "member-1", "member-2"]


def test_members_cannot_be_changed_or_lost_unseen(spec, ensemble, tmp_path):
    folder = save(tmp_path / "model", spec, ensemble)
    swapped, lost = (shutil.copytree(folder, tmp_path / name) for name in ("swapped", "lost"))
    for old, new in (("member-0", "aside"), ("member-1", "member-0"), ("aside", "member-1")):
        (swapped / old).rename(swapped / new)
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_checkpoint(swapped)
    shutil.rmtree(lost / "member-2")
    with pytest.raises(CheckpointError, match="member-2"):
        load_checkpoint(lost)


def test_an_ensemble_of_windows_shares_its_weights_in_another_mode(make_spec, build):
    kind, settings = CASES["stride"]
    spec = make_spec(kind, settings, members=MEMBERS)
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    own = Checkpoint(Path(), spec, scaler, build(spec), TrainingDomain.unknown(10), "x")
    assert own.in_mode("stride") is own
    other = own.in_mode("stream")
    assert other.model.window_mode == "stream"
    assert other.model.state_size == MEMBERS * 8
    assert own.model.window_mode == "stride"
    assert other.digest != own.digest
    for one, two in zip(members_of(own.model), members_of(other.model), strict=True):
        assert one is not two
        assert one.head.linear.weight is two.head.linear.weight


def test_members_without_windows_have_no_mode(make_spec, build):
    spec = make_spec(*CASES["trees"], members=MEMBERS)
    own = Checkpoint(Path(), spec, Scaler((), (), ()), build(spec), TrainingDomain.unknown(10), "x")
    assert own.model.window_mode is None
    with pytest.raises(ConfigError, match="sees no windows"):
        own.in_mode("exact")
