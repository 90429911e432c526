"""Settings, schedules, the loop with its early stop, and stages that are taken up again."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from fluxgrid.errors import ConfigError
from fluxgrid.models.crop_mosaic import CropMosaicConfig
from fluxgrid.training.kgml.descent import Descent, StepHistory, descend, rate_of
from fluxgrid.training.kgml.settings import AS_PUBLISHED, IN_BUDGET, PRESETS, KGMLSettings, Pacing, StepSettings
from fluxgrid.training.kgml.stages import Stages


def test_presets_are_valid_settings():
    for settings in PRESETS.values():
        again = TypeAdapter(KGMLSettings).validate_python(TypeAdapter(KGMLSettings).dump_python(settings))
        assert again == settings
    assert IN_BUDGET.budget is not None


def test_published_settings_are_the_published_ones():
    """Table of steps of methods.md: epochs, patience, rate, schedule; whole response tests, 1 % of tolerance."""
    found = {
        name: (s.epochs, s.patience, s.learning_rate, s.schedule, s.every, s.decay)
        for name in ("emulate_ra", "emulate_rest", "yields", "emulate_again", "towers")
        if (s := getattr(AS_PUBLISHED, name))
    }
    assert found == {
        "emulate_ra": (1000, 100, 1e-3, "step", 100, 0.5),
        "emulate_rest": (80, 10, 1e-3, "step", 20, 0.6),
        "yields": (40, 10, 1e-3, "step", 10, 0.5),
        "emulate_again": (80, 10, 1e-3, "step", 20, 0.6),
        "towers": (120, 30, 5e-4, "step", 30, 0.6),
    }
    assert AS_PUBLISHED.spin_up_years == 2
    assert (CropMosaicConfig().hidden, CropMosaicConfig().dropout, CropMosaicConfig().year) == (64, 0.2, "calendar")
    assert (AS_PUBLISHED.tolerance, AS_PUBLISHED.held_years, AS_PUBLISHED.budget) == (0.01, 2, None)
    assert AS_PUBLISHED.basis_rate == pytest.approx(2e-4 / 1e-3)
    assert AS_PUBLISHED.rh_rate == pytest.approx(2e-4 / 5e-4)


@pytest.mark.parametrize(
    "wrong", [{"epochs": -1}, {"learning_rate": 0}, {"batch": 0}, {"schedule": "linear"}, {"decay": 1.5}, {"colour": 1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(StepSettings).validate_python(wrong)


def test_pacing_rises_and_ends():
    pacing = Pacing(1.0, 1.5, 3)
    assert [pacing.threshold(epoch) for epoch in range(5)] == [1.0, 1.5, 2.25, math.inf, math.inf]


def test_a_rate_that_falls_in_steps():
    settings = StepSettings(schedule="step", every=3, decay=0.5)
    assert [rate_of(epoch, settings) for epoch in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_rate_that_falls_like_a_cosine():
    settings = StepSettings(epochs=40, schedule="cosine")
    rates = [rate_of(epoch, settings) for epoch in range(41)]
    assert rates[0] == 1.0
    assert rates[20] == pytest.approx(0.02 + 0.98 / 2)
    assert rates[40] == pytest.approx(0.02)
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_warm_restarts_each_twice_as_long():
    settings = StepSettings(epochs=100, schedule="restarts", every=4)
    rates = [rate_of(epoch, settings) for epoch in range(60)]
    starts = [epoch for epoch, rate in enumerate(rates) if rate == 1.0]
    assert starts == [0, 4, 12, 28]
    assert rates[8] == pytest.approx(0.51)  # the middle of the second
    assert min(rates) > 0.02


def test_groups_go_down_at_their_own_rates():
    fast, slow, left = (nn.Parameter(torch.ones(1)) for _ in range(3))
    settings = StepSettings(learning_rate=0.1, schedule="step", every=1, decay=0.5)
    descent = Descent([([fast], 1.0), ([slow], 0.2)], settings)
    loss = descent.step((fast + slow + left).sum())
    assert loss == 3.0
    # Adam's first step is as long as the rate
    assert [float(p.detach()) for p in (fast, slow, left)] == [pytest.approx(0.9), pytest.approx(0.98), 1.0]
    descent.next_epoch()
    assert [group["lr"] for group in descent.optimiser.param_groups] == pytest.approx([0.05, 0.01])


def test_gradients_are_clipped_together():
    parameter = nn.Parameter(torch.zeros(2))
    Descent([([parameter], 1.0)], StepSettings(clip=0.5)).step((parameter * torch.tensor([300.0, 400.0])).sum())
    assert parameter.grad.norm() == pytest.approx(0.5, rel=1e-4)
    assert parameter.grad[0] / parameter.grad[1] == pytest.approx(0.75)


class Scripted:
    """A training whose weight is the number of the last epoch and whose held-out losses are given."""

    def __init__(self, held_out, untrained=math.nan, **settings):
        self.untrained = untrained
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, -1.0)
        self.settings = StepSettings(epochs=len(held_out), **settings)
        self.descent = Descent([(self.network.parameters(), 1.0)], self.settings)
        self.script, self.seen, self.modes, self.lines = held_out, [], [], []

    def epoch(self, epoch: int) -> float:
        self.modes.append(self.network.training)
        self.seen.append(epoch)
        self.descent.step(0.0 * self.network.weight.sum())
        with torch.no_grad():
            self.network.weight.fill_(float(epoch))
        return 10.0 + epoch

    def held_out(self) -> float:
        self.modes.append(self.network.training)
        return self.script[self.seen[-1]] if self.seen else self.untrained

    def run(self, **options) -> StepHistory:
        parts = self.network, self.settings, self.descent, self.epoch, self.held_out, "step x", self.lines.append
        return descend(*parts, **options)

    @property
    def weight(self) -> float:
        return float(self.network.weight.detach())


def test_it_stops_early_and_keeps_the_best():
    training = Scripted([3.0, 1.0, 2.0, 1.5, 1.2, 0.1], patience=3)
    history = training.run()
    assert training.seen == [0, 1, 2, 3, 4]  # three epochs without gain
    assert training.weight == 1.0
    assert history == StepHistory("step x", (10.0, 11.0, 12.0, 13.0, 14.0), (3.0, 1.0, 2.0, 1.5, 1.2), 1)
    assert not training.network.training
    assert training.modes == [True, False] * 5
    assert training.lines[1] == "step x epoch 2/6: training 11.0000, held-out years 1.0000"


def test_an_epoch_that_is_not_finite_is_never_the_best():
    training = Scripted([math.nan, 2.0, math.nan, math.inf], patience=9)
    assert training.run().best_epoch == 1
    assert training.weight == 1.0


def test_a_step_that_never_was_finite_says_what_to_do():
    with pytest.raises(
        ConfigError, match=r"held-out loss of step x was never finite\. Lower its learning_rate \(0\.5\)"
    ):
        Scripted([math.nan, math.inf], learning_rate=0.5).run()


def test_a_step_of_no_epochs_changes_nothing():
    training = Scripted([])
    assert training.run().train == ()
    assert training.weight == -1.0


@pytest.mark.parametrize(("untrained", "kept"), [(0.5, -1.0), (1.5, 1.0)])
def test_the_weights_it_starts_from_may_stay(untrained, kept):
    training = Scripted([3.0, 1.0, 2.0], untrained, patience=9)
    training.run(may_stay=True)
    assert training.weight == kept


def test_the_held_out_may_be_looked_at_more_rarely():
    training = Scripted([9.0, 4.0, 9.0, 5.0, 1.0], check=2, patience=9)
    history = training.run()
    assert history.validation == (4.0, 5.0, 1.0)  # epochs 2, 4 and the last
    assert history.best_epoch == 4
    assert training.weight == 4.0


def trainer(module: nn.Module, calls: list[str], name: str, by: float):
    """Return a training that adds to the weights and leaves a word."""

    def train() -> StepHistory:
        calls.append(name)
        with torch.no_grad():
            module.weight.add_(by / 3)
        return StepHistory(name, (2.0, 1.0), (3.0, 1.5), 1, 0.25)

    return train


def run_stages(folder, keys, lines=None) -> tuple[list[str], torch.Tensor, Stages]:
    """Run two stages and return which were trained, the weights and the stages."""
    torch.manual_seed(0)
    module, calls = nn.Linear(2, 2), []
    stages = Stages(folder, (lines if lines is not None else []).append)
    for name, key, by in zip(("first", "second"), keys, (1.0, 2.0), strict=True):
        stages.run(name, module, key, trainer(module, calls, name, by))
    return calls, module.weight.detach().clone(), stages


def test_finished_stages_are_taken_up_with_the_same_bits(tmp_path):
    keys, lines = ({"rate": 0.1}, {"rate": 0.2}), []
    calls, weights, stages = run_stages(tmp_path / "stages", keys)
    again, weights_again, stages_again = run_stages(tmp_path / "stages", keys, lines)
    assert calls == ["first", "second"]
    assert again == []
    assert torch.equal(weights, weights_again)
    assert stages.histories == stages_again.histories
    assert [line.split(":")[0] for line in lines] == ["first", "second"]


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        (({"rate": 0.1}, {"rate": 0.3}), ["second"]),
        (({"rate": 0.9}, {"rate": 0.2}), ["first", "second"]),  # what comes before counts
    ],
)
def test_another_key_is_trained_anew(tmp_path, keys, trained):
    before = ({"rate": 0.1}, {"rate": 0.2})
    run_stages(tmp_path, before)
    assert run_stages(tmp_path, keys)[0] == trained
    assert run_stages(tmp_path, before)[0] == []  # and the old ones are still there


def test_an_interrupted_stage_leaves_nothing_behind(tmp_path):
    module = nn.Linear(2, 2)

    def broken() -> StepHistory:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path / "stages").run("first", module, {}, broken)
    assert not (tmp_path / "stages").exists()


def test_without_a_folder_nothing_is_kept():
    assert run_stages(None, ({}, {}))[0] == ["first", "second"]
