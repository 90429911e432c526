"""ModelSpec: what a model eats and gives, enough to check a cube against it without loading weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd

from fluxgrid.data.gaps import GapRule
from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.records import Segment, plan_segments
from fluxgrid.data.steps import Step
from fluxgrid.models.base import PREDICTED_FLUXES, FluxModel, Sizes, model_config
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.variables import MAP_FLUXES

Closure = Literal["derived", "projected", "free"]

NUMERICS_VERSION = 7
"""Raised when a regression test shows that the same weights and inputs give other bits."""


@dataclass(frozen=True)
class ModelSpec:
    """Contract of one trained model."""

    name: str
    """Name of the model, not of its architecture."""
    kind: str
    """Architecture, a name of the registry."""
    settings: dict[str, Any]
    """Options of the architecture."""
    step: Step
    """Time step of inputs and outputs."""
    inputs: InputSpec
    """Variables, their order and the filling of their gaps."""
    spin_up_years: int
    """Years before the period that only build up the state; 0 for a model without memory."""
    day_definition: str
    """When a day begins: ``UTC`` or ``local standard time``."""
    synthetic: bool = False
    """Trained on simulated towers: every product of it says so."""
    description: str = ""
    """One sentence for people: what it was trained on."""
    limits: str = ""
    """What its maps are not good for in a few words, for titles."""
    caveats: tuple[str, ...] = ()
    """The same in sentences, for metadata and captions."""
    sources: tuple[str, ...] = ()
    """Citations of the training data."""
    fluxes: tuple[str, ...] = PREDICTED_FLUXES
    """What the head predicts each step, the first columns of the model's output."""
    annual: tuple[str, ...] = ()
    """What it says of a whole calendar year: the columns after, the same on every day."""
    closure: Closure = "derived"
    """How NEE follows; see `fluxgrid.prediction.closure`."""
    error_variances: dict[str, float] = field(default_factory=dict)
    """Variance of the errors of gpp, reco and nee at held-out sites, (g m-2 d-1)2; closure ``projected`` needs them."""
    gpp_is_driver: bool = False
    """GPP is an input handed through: its error is the driver's, not the model's skill."""
    whole_year_from: int | None = None
    """Day of the year, counted from 0, from which fluxes hang on the whole year and are provisional until it ends."""
    mode_differences: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of a network of windows: by how much other window modes differ from the one it was trained with, as root mean
    square over the days of sites it was not fitted to, g m-2 d-1, by mode and flux."""
    members: int = 1
    """Models of that architecture that speak as one; several are an `Ensemble`."""
    numerics_version: int = field(default=NUMERICS_VERSION)
    """See `NUMERICS_VERSION`."""

    @property
    def sizes(self) -> Sizes:
        """Widths of the tensors."""
        outputs = len(self.fluxes) + len(self.annual)
        return Sizes(self.inputs.n_dynamic, len(self.inputs.static_columns), outputs, self.inputs.class_columns)

    @property
    def map_fluxes(self) -> tuple[str, ...]:
        """What a map of it holds each step."""
        return (*MAP_FLUXES, *(name for name in ("ra", "rh") if name in self.fluxes))

    @property
    def map_annual(self) -> tuple[str, ...]:
        """What a map of it holds of each calendar year."""
        return (*self.annual, *(("balance_after_harvest",) if "harvest_removal" in self.annual else ()))

    def build(self) -> FluxModel:
        """Return the architecture, or an ensemble of its members, with fresh weights.

        Raises
        ------
        UnknownName, ConfigError
            If the architecture or one of its options is not known.
        """
        config = model_config(self.kind, self.settings)
        if self.members < 2:
            return config.build(self.sizes)
        return Ensemble([config.build(self.sizes) for _ in range(self.members)])

    @property
    def differentiable(self) -> bool:
        """Whether it is trained by gradients."""
        return model_config(self.kind, self.settings).differentiable

    @property
    def lookback(self) -> int | None:
        """Steps that a training window looks back on; None for a model that carries a state or has no memory."""
        return getattr(model_config(self.kind, self.settings), "lookback", None)

    @property
    def steps_kept(self) -> int | None:
        """Steps of the past that later fluxes hang on; None where all of it counts, as where gaps are filled by it."""
        return None if self.inputs.gaps else getattr(model_config(self.kind, self.settings), "steps_kept", None)

    def segments(self, time: pd.DatetimeIndex, first: int) -> tuple[Segment, ...]:
        """Return the segments of a record, as `plan_segments` cuts them for this model.

        Parameters
        ----------
        time : DatetimeIndex, (T,)
            Steps of the whole record.
        first : int
            First step that counts.

        Returns
        -------
        segments : tuple of Segment
            Spin-up first, then one for each calendar year.
        """
        return plan_segments(time, self.step, first, self.spin_up_years, self.steps_kept)

    def to_json(self) -> str:
        """Return the text stored in a checkpoint."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Return the spec stored by `to_json`; KeyError or TypeError where it does not fit."""
        row = json.loads(text)
        inputs = row.pop("inputs")
        gaps = {name: GapRule(**rule) for name, rule in inputs["gaps"].items()}
        dynamic, static, classes = (tuple(inputs[key]) for key in ("dynamic", "static", "classes"))
        row |= {key: tuple(row[key]) for key in ("caveats", "sources", "fluxes", "annual") if key in row}
        return cls(inputs=InputSpec(dynamic, static, classes, gaps), **row)
