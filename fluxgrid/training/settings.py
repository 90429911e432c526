"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from fluxgrid.training.balance import Balance
from fluxgrid.training.losses import LossSettings

Regime = Literal["joint", "meta"]


@dataclass(frozen=True)
class MetaSettings:
    """How a network is meta-trained; see `fluxgrid.training.meta`."""

    inner_rate: Annotated[float, Field(ge=0)] = 1e-2
    """Rate of the plain gradient steps that adapt a copy of the network to a site."""
    inner_steps: Annotated[int, Field(ge=0)] = 2
    """Such steps for each site; none is ordinary training with every site counting alike."""
    tasks: Annotated[int, Field(ge=1)] = 8
    """Sites per optimiser step; they share its windows."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class FitSettings:
    """How a model is fitted; the fields say what each one does."""

    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the training windows."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Windows per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Of AdamW at its highest: it rises over the first tenth of the steps and falls by a cosine after."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Of AdamW."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    window: Annotated[int, Field(ge=1)] = 365
    """Scored steps per window."""
    patience: Annotated[int, Field(ge=1)] = 15
    """Epochs without gain on the validation sites before training stops."""
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    """Share of site groups held back to choose the best epoch; with several members each has its own part instead."""
    loss: LossSettings = field(default_factory=LossSettings)
    """Terms of the loss."""
    balance: Balance | None = None
    """Weights that make the towers stand for the land; none counts every observed step alike."""
    regime: Regime = "joint"
    """How a network is trained: ``joint``, on windows of all sites alike; ``meta``, so that it adapts well to each."""
    meta: MetaSettings | None = None
    """Of regime ``meta``; its defaults where nothing is said."""
    tries: Annotated[int, Field(ge=1)] = 1
    """Seeds tried; the one that does best on its validation sites is kept."""
    members: Annotated[int, Field(ge=1)] = 1
    """Members of an ensemble. With several, the site groups are dealt into five parts (or as many as there are
    members), each member is trained without one of them, and maps and scores have half-widths."""
    seed: Annotated[int, Field(ge=0)] = 20
    """Of weights, order of windows and choice of validation sites."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if self.members > 1 and self.tries > 1:
            message = (
                f"tries: {self.tries} choose the luckiest seed at the sites at which the half-widths of {self.members} "
                "members are fitted; give tries or members"
            )
            raise ValueError(message)
        if self.meta is not None and self.regime != "meta":
            message = f"meta says how regime meta trains, but regime is {self.regime!r}; give regime: meta, or no meta"
            raise ValueError(message)  # pydantic names the key and lists it with the others
