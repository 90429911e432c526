"""Settings of the five training steps of KGML-ag: as published, and within a budget of minutes on two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

_STRICT = ConfigDict(extra="forbid")
Schedule = Literal["step", "cosine", "restarts"]


@dataclass(frozen=True)
class StepSettings:
    """How one step is fitted."""

    epochs: Annotated[int, Field(ge=0)] = 40
    """Most passes; 0 leaves the step out."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without gain on the held-out years before it stops."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of Adam, at first."""
    batch: Annotated[int, Field(ge=1)] = 50
    """Fields (steps 1, 2, 4), counties (3) or sites (5) per optimiser step."""
    schedule: Schedule = "step"
    """``step``: times `decay` every `every` epochs; ``cosine``: down to 2 % over all epochs; ``restarts``: cosines of
    `every` epochs, each twice as long as the one before (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    every: Annotated[int, Field(ge=1)] = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    check: Annotated[int, Field(ge=1)] = 1
    """Epochs between two looks at what is held out; the last epoch is always looked at."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class Pacing:
    """Self-paced learning (Kumar et al. 2010): samples whose squared error exceeds a rising threshold wait."""

    start: Annotated[float, Field(gt=0)] = 1.0
    growth: Annotated[float, Field(ge=1)] = 1.02
    """Factor of each epoch."""
    epochs: Annotated[int, Field(ge=0)] = 500
    """After these all samples count."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def threshold(self, epoch: int) -> float:
        """Return the threshold of an epoch."""
        return self.start * self.growth**epoch if epoch < self.epochs else float("inf")


@dataclass(frozen=True)
class Budget:
    """How much of the response tests is run; ours, for the whole of them takes days on two cores."""

    sites: Annotated[int, Field(ge=1)] = 4
    """Fields whose inputs are varied."""
    years: Annotated[int, Field(ge=1)] = 2
    """Years run of each, the first of them as spin-up if there are two or more."""
    values: Annotated[int, Field(ge=2)] = 6
    """Values of the grid, drawn anew for each test."""
    features: Annotated[int, Field(ge=0)] = 2
    """Features tested per epoch in step 5."""
    every: Annotated[int, Field(ge=1)] = 12
    """Batches between two tests of soil carbon in steps 2 and 4."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class KGMLSettings:
    """Settings of all steps."""

    spin_up_years: Annotated[int, Field(ge=0)] = 2
    """Years run from zero before the first, which is then run again."""
    emulate_ra: StepSettings = StepSettings(1000, 100, 1e-3, 50, "step", 100, 0.5)
    """Step 1: Basis, yield and Ra on the process model."""
    emulate_rest: StepSettings = StepSettings(80, 10, 1e-3, 50, "step", 20, 0.6)
    """Step 2: Ra, Rh and NEE on it."""
    yields: StepSettings = StepSettings(40, 10, 1e-3, 21, "step", 10, 0.5)
    """Step 3: Basis and yield on the survey of counties."""
    emulate_again: StepSettings = StepSettings(80, 10, 1e-3, 50, "step", 20, 0.6)
    """Step 4: Ra, Rh and NEE on the process model once more."""
    towers: StepSettings = StepSettings(120, 30, 5e-4, 1000, "step", 30, 0.6)
    """Step 5: Ra, Rh and NEE at towers."""
    pacing: Pacing = Pacing()
    """Of step 1."""
    yield_pacing: Pacing = Pacing(growth=1.3)
    """Of step 3."""
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    """Share of Ra + Rh by which the mass balance may be open."""
    balance_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the mass balance, lambda 2."""
    basis_rate: Annotated[float, Field(gt=0)] = 0.2
    """Learning rate of the Basis in step 3, relative."""
    rh_rate: Annotated[float, Field(gt=0)] = 0.4
    """Learning rate of Rh in step 5, relative."""
    held_years: Annotated[int, Field(ge=1)] = 2
    """Years of each field drawn, with replacement, for validation."""
    tower_gpp: bool = False
    """Step 5 reads the tower's own GPP (RECO - NEE) where it is observed, as published; a map never can."""
    budget: Budget | None = None
    """Cuts the response tests; none runs them on all years and values of a few fields."""
    seed: Annotated[int, Field(ge=0)] = 0

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


AS_PUBLISHED = KGMLSettings(tower_gpp=True)
"""Epochs, rates, batches and schedules of the published demonstration, and all response tests."""

IN_BUDGET = replace(
    AS_PUBLISHED,
    tower_gpp=False,
    emulate_ra=StepSettings(24, 24, 4e-3, 32, "cosine"),
    emulate_rest=StepSettings(24, 24, 3e-3, 32, "cosine"),
    yields=StepSettings(6, 6, 5e-4, 20, "cosine"),
    emulate_again=StepSettings(6, 6, 1e-3, 32, "cosine"),
    towers=StepSettings(30, 30, 3e-4, 1000, "cosine"),
    budget=Budget(),
)
"""Ours: the same five steps within an hour on two cores."""

PRESETS = {"as_published": AS_PUBLISHED, "budget": IN_BUDGET}
