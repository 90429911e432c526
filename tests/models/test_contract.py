"""What every registered architecture promises; a new one is tested here without a line of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.models import MODELS, FluxModel, load_checkpoint, model_config, save_checkpoint, zero_state
from fluxgrid.models.domain import TrainingDomain

BATCH, STEPS = 5, 11
CUT = 4
"""Where a run is cut in two: at the end of a year, for the calendar of the inputs begins on 28 December."""
DIAGNOSTIC = {"kgml_ag": ("crop.nee.", "crop.nee_head.")}
"""Parameters from which no flux of a map is made: NEE follows from the closure."""

# One step at a time and all at once are the same products in float32, in another order of addition at worst.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}

RECORD = {"code_from": "record"}
CASES = [*(pytest.param((kind, {}), id=kind) for kind in MODELS), pytest.param(("tam_rl", RECORD), id="tam_rl-record")]

pytestmark = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def kind(case) -> str:
    return case[0]


@pytest.fixture
def spec(case, kind, small_spec):
    spec = small_spec(kind)
    return replace(spec, settings={**spec.settings, **case[1]})


@pytest.fixture
def model(spec, ready) -> FluxModel:
    return ready(spec)


@pytest.fixture
def inputs(spec, set_calendar) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    dynamic = set_calendar(spec, 3 * torch.randn(BATCH, STEPS, spec.sizes.dynamic, generator=random))
    return dynamic, 3 * torch.randn(BATCH, spec.sizes.static, generator=random)


def test_shapes_and_names_match_the_spec(spec, model, inputs):
    fluxes, state = model.predict(*inputs, zero_state(model, BATCH))
    assert isinstance(model, FluxModel)
    assert spec.fluxes in (("gpp", "reco"), ("gpp", "ra", "rh"))
    assert spec.closure == "derived"
    assert fluxes.shape == (BATCH, STEPS, len(spec.fluxes) + len(spec.annual))
    assert fluxes.dtype == torch.float32
    assert state.shape == (BATCH, model.state_size)


def test_zero_state(model):
    state = zero_state(model, BATCH)
    assert state.shape == (BATCH, model.state_size)
    assert not state.any()


def test_fluxes_but_nee_are_never_negative(spec, model, inputs, set_calendar):
    dynamic, static = inputs
    for scale in (0.0, 1.0, 1e3):  # the last lies far outside of anything seen
        fluxes, _ = model.predict(set_calendar(spec, dynamic * scale), static * scale, zero_state(model, BATCH))
        assert torch.isfinite(fluxes).all()
        assert (fluxes >= 0).all()


def test_gradients_are_finite(kind, spec, model, inputs):
    if not spec.differentiable:
        assert not isinstance(model, torch.nn.Module)  # nothing here could be trained by gradients by mistake
        return
    model.train()
    fluxes, state = model(*inputs, zero_state(model, BATCH))
    (fluxes.square().sum() + state.sum()).backward()
    unused = DIAGNOSTIC.get(kind, ())
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith(unused))
    gradients = [p.grad for name, p in model.named_parameters() if not name.startswith(unused)]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert all(gradient.any() for gradient in gradients)


def test_order_in_the_batch_does_not_matter(model, inputs):
    dynamic, static = inputs
    state = torch.randn(BATCH, model.state_size, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 0, 4, 2, 1])
    fluxes, after = model.predict(dynamic, static, state)
    shuffled, after_shuffled = model.predict(dynamic[order], static[order], state[order])
    torch.testing.assert_close(shuffled, fluxes[order], **ROUNDING)
    torch.testing.assert_close(after_shuffled, after[order], **ROUNDING)


def test_evaluation_is_deterministic(spec, model, inputs):
    if spec.differentiable:
        model.train()  # predict must leave training, dropout and all, by itself
    first, second = (model.predict(*inputs, zero_state(model, BATCH)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not first[0].requires_grad


def test_a_run_in_two_pieces_is_one_run(spec, model, inputs):
    dynamic, static = inputs
    whole, end = model.predict(dynamic, static, zero_state(model, BATCH))
    early, between = model.predict(dynamic[:, :CUT], static, zero_state(model, BATCH))
    late, last = model.predict(dynamic[:, CUT:], static, between)
    tolerance = ROUNDING if spec.differentiable else {"rtol": 0, "atol": 0}
    known = CUT if spec.settings.get("code_from") == "record" else 0  # its first piece knows nothing of the second
    torch.testing.assert_close(torch.cat([early, late], dim=1)[:, known:], whole[:, known:], **tolerance)
    torch.testing.assert_close(last, end, **tolerance)


def test_memory_is_used_where_there_is_one(model, inputs):
    if not model.state_size:
        _, state = model.predict(*inputs, zero_state(model, BATCH))
        assert state.shape == (BATCH, 0)  # nothing is handed on that a next period could use
        return
    cold, _ = model.predict(*inputs, zero_state(model, BATCH))
    warm, _ = model.predict(*inputs, torch.ones(BATCH, model.state_size))
    assert not torch.allclose(cold, warm)


def test_saved_and_loaded_is_the_same_model_without_pickle(spec, model, inputs, tmp_path):
    width = spec.sizes.dynamic + spec.sizes.static
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    scaler = Scaler(names, tuple(np.arange(len(names)) / 3), tuple(1 + np.arange(len(names)) / 7))
    domain = TrainingDomain(np.arange(width) / 3, np.ones(width), np.ones(width), np.eye(width), 1.25, 0.7)
    folder = tmp_path / "model"
    save_checkpoint(folder, spec, scaler, model, domain, "name: small\n", {"sites": ["A"]})
    loaded = load_checkpoint(folder)
    before, after = (m.predict(*inputs, zero_state(m, BATCH)) for m in (model, loaded.model))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert (loaded.spec, loaded.scaler, loaded.path) == (spec, scaler, folder)
    assert (loaded.domain.mean_distance, loaded.domain.threshold) == (1.25, 0.7)
    for part in ("mean", "std", "weight", "points"):
        assert np.array_equal(getattr(loaded.domain, part), getattr(domain, part))
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".yaml", ".safetensors", ".txt"}
    assert all(not _is_pickle(path) for path in folder.iterdir())


def test_unknown_options_are_listed(kind):
    with pytest.raises(ConfigError, match=f"Options of the model '{kind}' are wrong") as caught:
        model_config(kind, {"hiden": 3, "colour": "red"})
    assert "- hiden: There is no option named 'hiden'." in str(caught.value)
    assert "- colour: There is no option named 'colour'." in str(caught.value)


def test_a_misspelt_kind_gets_the_nearest(kind):
    with pytest.raises(UnknownName, match=rf"no model named '{kind}x'\. Did you mean '{kind}'"):
        model_config(f"{kind}x", {})


def _is_pickle(path: Path) -> bool:
    """Return whether a file begins like a pickle, or like the zip that torch puts one in."""
    return path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
