"""Every differentiable architecture with every kind of phi_s: what calibrated heads of places promise."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import CheckpointError, ConfigError
from fluxgrid.models import MODELS, FluxModel, ModelSpec, calibration, load_checkpoint, save_checkpoint, zero_state
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import KINDS, ONE_PASS, Heads
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.places import CalibratedPlaces

BATCH, STEPS, PLACES, RANK = 5, 11, 3, 2
CUT = 4
"""The calendar of the inputs begins on 28 December: a run is cut at the end of the year."""
IDLE = {"kgml_ag": ("crop/nee",)}
"""Beginnings of the names of parameters that no flux hangs on; see DIAGNOSTIC of test_contract."""

# One pass or several, alone or added up: the same float32 products in another order of addition at worst.
ROUNDING = {"rtol": 2e-5, "atol": 2e-6}

differentiable = [kind for kind in MODELS if MODELS[kind].differentiable]
every_model = pytest.mark.parametrize("kind", differentiable)
every_head = pytest.mark.parametrize("head", KINDS)


@dataclass
class Case:
    """A network with heads and something to run them on."""

    spec: ModelSpec
    network: FluxModel
    heads: Heads
    dynamic: torch.Tensor
    static: torch.Tensor

    def state(self, slots: int) -> torch.Tensor:
        return torch.zeros(BATCH, self.heads.state_size(slots))

    def blend(self, slots, weights, state=None, steps=slice(None)):
        """Return fluxes and state of the rows with these slots and weights, (B, k) or one row for all."""
        slots, weights = torch.tensor(slots), torch.tensor(weights, dtype=torch.float32)
        if slots.dim() == 1:
            slots, weights = slots.expand(BATCH, -1), weights.expand(BATCH, -1)
        state = self.state(slots.shape[1]) if state is None else state
        return self.heads.blend(self.dynamic[:, steps], self.static, state, slots, weights)

    def alone(self, place: int) -> torch.Tensor:
        """Return the fluxes of one place's head at all rows."""
        return self.blend([place], [1.0])[0]

    def globally(self) -> torch.Tensor:
        return self.network.predict(self.dynamic, self.static, zero_state(self.network, BATCH))[0]

    def train_place(self, place: torch.Tensor) -> torch.Tensor:
        """Return fluxes with gradients, as training forms them; `place` (B,)."""
        if self.heads.kind in ONE_PASS:
            taps = self.network.run(self.dynamic, self.static, zero_state(self.network, BATCH))
            raw = self.heads.raw(taps.hidden, self.network.raw(taps.hidden), place)
            return self.network.finish(raw, taps.context)
        return self.heads.run_place(int(place[0]), self.dynamic, self.static, zero_state(self.network, BATCH))[0]


@pytest.fixture
def make_case(small_spec, ready, set_calendar):
    """Return a function that builds a case, its phi zero or random."""

    def make(kind: str, head: str, random: bool = True) -> Case:
        spec = small_spec(kind)
        network = ready(spec).eval()
        torch.manual_seed(8)
        heads = Heads(network, head, PLACES, RANK)
        if random:
            with torch.no_grad():
                for value in heads.phi.values():
                    value.normal_(0.0, 0.3)
        numbers = torch.Generator().manual_seed(7)
        dynamic = set_calendar(spec, torch.randn(BATCH, STEPS, spec.sizes.dynamic, generator=numbers))
        return Case(spec, network, heads, dynamic, torch.randn(BATCH, spec.sizes.static, generator=numbers))

    return make


@pytest.fixture
def case(make_case, kind, head) -> Case:
    return make_case(kind, head)


@every_model
@every_head
def test_fresh_heads_are_the_global_model(make_case, kind, head):
    case = make_case(kind, head, random=False)
    expected = case.globally()
    for place in range(PLACES):
        torch.testing.assert_close(case.alone(place), expected, **ROUNDING)
    assert not case.heads.penalty().any()


@every_model
@every_head
def test_heads_of_places_differ(case):
    expected = case.globally()
    outputs = [case.alone(place) for place in range(PLACES)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[one], outputs[other], atol=1e-3)
    assert all(not torch.allclose(output, expected, atol=1e-3) for output in outputs)


@every_model
@every_head
def test_gradients_are_finite_and_reach_phi_only(case, kind):
    case.network.requires_grad_(False)
    place = 1
    case.train_place(torch.full((BATCH,), place)).square().sum().backward()
    for name, phi in case.heads.phi.items():
        if name.startswith(IDLE.get(kind, "-")):
            continue
        assert torch.isfinite(phi.grad).all(), name
        assert phi.grad[place].any(), name
        assert not phi.grad[[0, 2]].any(), name
    assert all(parameter.grad is None for parameter in case.network.parameters())


@every_model
@every_head
def test_training_leaves_the_backbone_as_it_was(make_case, kind, head):
    case = make_case(kind, head, random=False)
    before = {name: value.clone() for name, value in case.network.state_dict().items()}
    expected, phi = case.globally(), {name: value.detach().clone() for name, value in case.heads.phi.items()}
    optimiser = torch.optim.Adam(case.heads.parameters(), lr=0.002 if head == "full" else 0.05)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = (case.train_place(torch.zeros(BATCH, dtype=torch.long)) - 0.5 * expected).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert any(not torch.equal(value, phi[name]) for name, value in case.heads.phi.items())
    assert all(torch.equal(value, before[name]) for name, value in case.network.state_dict().items())
    assert torch.equal(case.globally(), expected)
    torch.testing.assert_close(case.alone(1), expected, **ROUNDING)  # another place learnt nothing


@every_model
@every_head
def test_training_and_prediction_say_the_same(case):
    with torch.no_grad():
        trained = case.train_place(torch.full((BATCH,), 2))
    torch.testing.assert_close(case.alone(2), trained, **ROUNDING)


@every_model
@every_head
def test_no_flux_but_nee_is_negative_for_any_phi(case):
    for size in (1.0, 30.0):
        with torch.no_grad():
            for value in case.heads.phi.values():
                value.normal_(0.0, size)
        fluxes, _ = case.blend([0, 2], [0.5, 0.25])
        assert torch.isfinite(fluxes).all()
        assert (fluxes >= 0).all()


@every_model
@every_head
def test_without_weight_a_row_is_the_global_model(case):
    expected = case.globally()
    for slots in ([-1, -1], [0, 2]):
        torch.testing.assert_close(case.blend(slots, [0.0, 0.0])[0], expected, **ROUNDING)


@every_model
@pytest.mark.parametrize("head", ["linear", "adapter"])
def test_heads_of_many_places_say_what_those_of_few_do(case, monkeypatch):
    """A few are read all at once with the global model, of many those of each row."""
    slots, weights = [[0, 2], [1, -1], [2, 1], [0, 1], [-1, -1]], [[0.2, 0.5], [1, 0], [0, 0], [0.4, 0.6], [0, 0]]
    few, state = case.blend(slots, weights)
    monkeypatch.setattr(calibration, "MOST_COLUMNS", 0)
    many, after = case.blend(slots, weights)
    torch.testing.assert_close(many, few, equal_nan=True, **ROUNDING)
    assert torch.equal(after, state)
    assert torch.equal(case.blend([1, 2], [0.0, 0.0])[0].nan_to_num(-9), case.globally().nan_to_num(-9))


@every_model
@every_head
def test_weight_one_is_that_head_alone_in_any_slot(case):
    for place in range(PLACES):
        expected = case.alone(place)
        torch.testing.assert_close(case.blend([-1, place], [0.0, 1.0])[0], expected, **ROUNDING)
        torch.testing.assert_close(case.blend([place, (place + 1) % 3], [1.0, 0.0])[0], expected, **ROUNDING)


@every_model
@every_head
def test_a_blend_is_the_weighted_sum_of_outputs(case):
    parts = [case.alone(0), case.alone(2), case.globally()]
    blended = case.blend([2, 0], [0.3, 0.45])[0]
    torch.testing.assert_close(blended, 0.45 * parts[0] + 0.3 * parts[1] + 0.25 * parts[2], **ROUNDING)
    low, high = torch.stack(parts).amin(dim=0), torch.stack(parts).amax(dim=0)
    slack = 1e-5 * high.abs() + 1e-6
    assert ((blended >= low - slack) & (blended <= high + slack)).all()


@every_model
@every_head
def test_each_row_has_its_own_heads_and_the_order_does_not_matter(case):
    slots = [[0, -1], [2, 1], [-1, -1], [1, 0], [2, -1]]
    weights = [[0.7, 0.0], [0.5, 0.5], [0.0, 0.0], [0.2, 0.6], [1.0, 0.0]]
    state = torch.randn(BATCH, case.heads.state_size(2), generator=torch.Generator().manual_seed(2))
    fluxes, after = case.blend(slots, weights, state)
    for row in range(BATCH):
        own = case.blend(slots[row], weights[row], state)[0][row]
        torch.testing.assert_close(fluxes[row], own, **ROUNDING)
    order = [3, 0, 4, 2, 1]
    case.dynamic, case.static = case.dynamic[order], case.static[order]
    shuffled, after_shuffled = case.blend([slots[i] for i in order], [weights[i] for i in order], state[order])
    torch.testing.assert_close(shuffled, fluxes[order], **ROUNDING)
    torch.testing.assert_close(after_shuffled, after[order], **ROUNDING)


@every_model
@every_head
def test_two_years_are_one_run_with_a_state_for_every_slot(case):
    slots = [[0, -1], [2, 1], [-1, -1], [1, 0], [2, -1]]
    weights = [[0.7, 0.0], [0.5, 0.5], [0.0, 0.0], [0.2, 0.6], [1.0, 0.0]]
    whole, end = case.blend(slots, weights)
    early, between = case.blend(slots, weights, steps=slice(0, CUT))
    late, last = case.blend(slots, weights, between, steps=slice(CUT, STEPS))
    torch.testing.assert_close(torch.cat([early, late], dim=1), whole, **ROUNDING)
    torch.testing.assert_close(last, end, **ROUNDING)
    assert end.shape == (BATCH, case.heads.state_size(2))
    cold, _ = case.blend(slots, weights, steps=slice(CUT, STEPS))
    assert torch.allclose(cold, late, atol=1e-4) == (case.network.state_size == 0)


@every_model
@pytest.mark.parametrize("head", sorted(set(KINDS) - set(ONE_PASS)))
def test_the_state_of_a_slot_is_that_of_its_head(case):
    """The global model's first, then each slot's, which an empty slot leaves as it was."""
    size = case.network.state_size
    state = torch.randn(BATCH, 3 * size, generator=torch.Generator().manual_seed(2))
    _, after = case.blend([1, -1], [0.4, 0.0], state)
    own, whole = (case.blend([1], [w], state[:, : 2 * size])[1] for w in (1.0, 0.4))
    torch.testing.assert_close(after[:, size : 2 * size], own[:, size:], **ROUNDING)
    torch.testing.assert_close(after[:, : 2 * size], whole, **ROUNDING)
    assert torch.equal(after[:, 2 * size :], state[:, 2 * size :])


@every_model
@every_head
def test_saved_and_loaded_are_the_same_heads(case, tmp_path):
    case.heads.save(tmp_path / "heads.safetensors")
    torch.manual_seed(99)
    again = Heads(case.network, case.heads.kind, PLACES, RANK)
    again.load(tmp_path / "heads.safetensors")
    expected = case.blend([0, 2], [0.5, 0.25])[0]
    case.heads = again
    assert torch.equal(case.blend([0, 2], [0.5, 0.25])[0], expected)


@every_model
@every_head
def test_heads_of_another_shape_are_refused(case, tmp_path):
    case.heads.save(tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"heads\.safetensors holds .* these heads are"):
        Heads(case.network, case.heads.kind, PLACES + 1, RANK).load(tmp_path / "heads.safetensors")


@every_model
@every_head
def test_a_checkpoint_keeps_its_heads(case, tmp_path):
    spec, names = case.spec, (*case.spec.inputs.dynamic, *case.spec.inputs.static)
    width = spec.sizes.dynamic + spec.sizes.static
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    domain = TrainingDomain(np.zeros(width), np.ones(width), np.ones(width), np.eye(width), 1.0, 0.5)
    places = places_of(PLACES)
    calibrations = [Calibration(name, case.heads, places, "on towers") for name in ("state", "neighbourhood")]
    save_checkpoint(tmp_path / "model", spec, scaler, case.network, domain, "", {}, calibrations)
    loaded = load_checkpoint(tmp_path / "model")
    assert sorted(loaded.calibrations) == ["neighbourhood", "state"]
    found = loaded.calibrations["state"]
    assert (found.name, found.about, found.places.names) == ("state", "on towers", places.names)
    assert found.heads.network is loaded.model
    assert (found.heads.kind, found.heads.rank) == (case.heads.kind, RANK)
    expected = case.blend([1, 0], [0.5, 0.25])[0]
    case.heads = found.heads
    assert torch.equal(case.blend([1, 0], [0.5, 0.25])[0], expected)
    plain = save_without_heads(tmp_path / "plain", case, scaler, domain)
    assert plain.digest != loaded.digest
    assert not plain.calibrations
    change_a_byte(tmp_path / "model" / "calibration-state.safetensors")
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_checkpoint(tmp_path / "model")


def save_without_heads(path, case, scaler, domain):
    save_checkpoint(path, case.spec, scaler, case.network, domain, "", {})
    return load_checkpoint(path)


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def places_of(n: int) -> CalibratedPlaces:
    names, climate = tuple(f"place {i}" for i in range(n)), np.arange(2.0 * n).reshape(n, 2)
    variables = ("temperature_2m", "precipitation")
    return CalibratedPlaces(names, 40.0 + np.arange(n), -90.0 - np.arange(n), climate, variables, np.ones(2), ("",) * n)


@pytest.mark.parametrize(("head", "expected"), [("affine", 4), ("linear", 18), ("adapter", 34), ("lora", 84)])
def test_numbers_of_a_place_are_few(make_case, head, expected):
    """CT-GRU of H = 8 with two fluxes: 2 x 2; 2 x 8 + 2; 2 (8 + 8) + 2; 2 (24 + 8) on W_hh and 2 (2 + 8) on W."""
    assert make_case("ct_gru", head).heads.per_place == expected


@every_model
def test_a_whole_theta_has_every_weight_that_fluxes_hang_on(make_case, kind):
    """And no other: the network's own NEE is no flux of a map."""
    case = make_case(kind, "full")
    case.network.zero_grad()
    case.network(case.dynamic, case.static, zero_state(case.network, BATCH))[0].nan_to_num().sum().backward()
    reached = {name: weight for name, weight in case.network.named_parameters() if weight.grad is not None}
    assert case.network.tuned_names == reached.keys()
    assert case.heads.per_place == sum(weight.numel() for weight in reached.values())


def test_low_rank_leaves_the_diagnostic_nee_alone(make_case):
    names = {name.partition("|")[0] for name in make_case("kgml_ag", "lora").heads.phi}
    readouts = {"cover_head/weight", "crop/ra_head/weight", "crop/rh_head/weight"}
    recurrent = {f"crop/{gru}/weight_hh_l0" for gru in ("basis", "ra", "rh")} | {"cover/weight_hh_l0"}
    assert names == readouts | recurrent | {"crop/basis/weight_hh_l1", "crop/rh/weight_hh_l1"}


@every_model
@every_head
def test_the_penalty_is_each_places_own(make_case, kind, head):
    case = make_case(kind, head, random=False)
    name = next(name for name in case.heads.phi if not name.endswith(("_V", "|down")))
    with torch.no_grad():
        case.heads.phi[name][1].view(-1)[0] = 3.0
    np.testing.assert_allclose(case.heads.penalty().detach(), [0.0, 9.0, 0.0])


@pytest.mark.parametrize("head", KINDS)
def test_the_equations_of_the_heads(make_case, head):
    """By hand at one place of a CT-GRU: (1 + a)(Wh + b) + c, Wh + b + Ah + c, W(h + U relu(Vh + v)) + b."""
    case = make_case("ct_gru", head)
    readout = case.network.readouts["gru"]
    weight, bias = readout.weight.detach().numpy(), readout.bias.detach().numpy()
    phi = {name: value.detach().numpy()[1] for name, value in case.heads.phi.items()}
    hidden = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(3))
    h = hidden[0, 0].numpy()
    if head == "affine":
        expected = (1 + phi["gru_a"]) * (h @ weight.T + bias) + phi["gru_c"]
    elif head == "linear":
        expected = h @ weight.T + bias + h @ phi["gru_A"] + phi["gru_c"]
    elif head == "adapter":
        expected = (h + np.maximum(h @ phi["gru_V"] + phi["gru_v"], 0) @ phi["gru_U"]) @ weight.T + bias
    else:
        changed = case.heads.weights_of(1)["head.linear.weight"].detach().numpy()
        part = phi["head/linear/weight"] if head == "full" else None
        low_rank = part if part is not None else phi["head/linear/weight|up"] @ phi["head/linear/weight|down"]
        np.testing.assert_allclose(changed, weight + low_rank, rtol=1e-5, atol=1e-6)
        return
    place = torch.tensor([1])
    with torch.no_grad():
        raw = case.heads.raw({"gru": hidden}, case.network.raw({"gru": hidden}), place)["gru"][0, 0]
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
def test_a_blend_of_one_flux_lies_between_its_heads(make_blended, shares):
    case, parts = make_blended
    total = max(sum(shares), 1.0)
    weights = [share / total for share in shares]
    blended = case.blend([0, 1], weights)[0]
    low, high = parts.amin(dim=0), parts.amax(dim=0)
    slack = 1e-5 * high + 1e-6
    assert ((blended >= low - slack) & (blended <= high + slack)).all()


@pytest.fixture(scope="module")
def make_blended():
    """Return a CT-GRU with affine heads and the fluxes of two heads and the global model."""
    from fluxgrid.models import Sizes, model_config

    torch.manual_seed(3)
    network = model_config("ct_gru", {"hidden": 4}).build(Sizes(3, 2)).eval()
    heads = Heads(network, "affine", 2)
    with torch.no_grad():
        for value in heads.phi.values():
            value.normal_()
    case = Case(None, network, heads, torch.randn(BATCH, 6, 3), torch.randn(BATCH, 2))
    return case, torch.stack([case.alone(0), case.alone(1), case.globally()])


def test_a_model_without_hidden_states_has_no_heads(small_spec):
    trees = small_spec("lightgbm").build()
    for head in KINDS:
        with pytest.raises(ConfigError, match=r"has no hidden states.*Calibrate a network"):
            Heads(trees, head, PLACES)


def test_heads_beside_a_model_without_hidden_states_are_refused(small_spec, ready, tmp_path):
    spec = small_spec("lightgbm")
    names, width = (*spec.inputs.dynamic, *spec.inputs.static), spec.sizes.dynamic + spec.sizes.static
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    domain = TrainingDomain(np.zeros(width), np.ones(width), np.ones(width), np.eye(width), 1.0, 0.5)
    save_checkpoint(tmp_path / "model", spec, scaler, ready(spec), domain, "", {})
    row = {"kind": "affine", "rank": 4, "about": "", "places": json.loads(places_of(2).to_json())}
    (tmp_path / "model" / "calibration-state.json").write_text(json.dumps(row))
    with pytest.raises(CheckpointError, match=r"calibration-state\.json calibrates a model that has no hidden states"):
        load_checkpoint(tmp_path / "model")
