"""Run configurations: strict, typed, every field documented; read from YAML, overridden as ``key.sub=value``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fluxgrid.config_map import (
    Calibration,
    Device,
    Strict,
    UpscaleConfig,
    config_problems,
    load_config,
    merged,
    set_key,
    shipped_runs,
    written_config,
)
from fluxgrid.data.gaps import GapRule
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, FluxgridError, itemise
from fluxgrid.input_sets import extend_set
from fluxgrid.training.search import SpaceName
from fluxgrid.training.settings import FitSettings

__all__ = [
    "Calibration",
    "Device",
    "EntryConfig",
    "EvaluationConfig",
    "InputsConfig",
    "ModelConfig",
    "SearchConfig",
    "SitesConfig",
    "Strict",
    "TrainConfig",
    "UpscaleConfig",
    "is_kgml",
    "load_config",
    "shipped_runs",
    "written_config",
]


class SitesConfig(Strict):
    """Where the towers come from."""

    source: str
    """Reader: a name that `fluxgrid sources` lists."""
    path: str
    """File or folder; ``$NAME`` is replaced by the environment."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reader."""
    citation: str | None = None
    """How to cite the towers; by default what the reader says."""
    classes: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Classes of sites that the source leaves out, such as ``{US-xRN: {igbp: DBF}}``."""
    targets: tuple[str, ...] = ("gpp", "reco", "nee")
    """A site counts if it observed each of these fluxes..."""
    minimum: int = 1
    """...at this many steps."""


class InputsConfig(Strict):
    """What the model eats."""

    set: str | None = Field(default=None, exclude=True)
    """A named set (a file in ``configs/inputs``) that the lists below extend; the lists alone are kept."""
    dynamic: tuple[str, ...]
    """Forcings and derived variables."""
    static: tuple[str, ...] = ()
    """Numbers of the place."""
    classes: tuple[str, ...] = ()
    """Classes of the place, one-hot."""
    gaps: dict[str, GapRule] = Field(default_factory=dict)
    """Filling of gaps per forcing; sites, training and maps follow the same rule."""

    @model_validator(mode="before")
    @classmethod
    def _with_set(cls, values: Any) -> Any:
        """Put the lists of the set in the place of its name."""
        return extend_set(values) if isinstance(values, dict) and values.get("set") is not None else values


class ModelConfig(BaseModel):
    """Which architecture; the other keys are its own options, checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    """A name that `fluxgrid models` lists."""
    spin_up_years: int = Field(default=1, ge=0)
    """Years before the period that only build up the state."""
    closure: Literal["derived", "projected", "free"] = "derived"
    """How NEE comes about: ``derived``, as RECO - GPP; ``projected``, predicted by itself and then moved with the other
    two to where they add up; ``free``, predicted by itself as published: scores only, no maps."""

    @property
    def settings(self) -> dict[str, Any]:
        """Options of the architecture."""
        return dict(self.model_extra or {})


class EntryConfig(Strict):
    """One model of a comparison; what it does not say is that of the configuration."""

    model: ModelConfig
    """Architecture."""
    inputs: InputsConfig | None = None
    """What it eats."""
    fit: dict[str, Any] = Field(default_factory=dict)
    """Settings of training that differ."""


class EvaluationConfig(Strict):
    """How skill is measured."""

    split: Literal["folds", "igbp", "koppen"] = "folds"
    """``folds``: every site is held out once; ``igbp`` or ``koppen``: CarbonBench's one split into training and test,
    stratified by vegetation class or Koeppen's main letter."""
    as_published: bool = False
    """Keep the training sites of CarbonBench's split that are of one group with a test site."""
    folds: int = Field(default=5, ge=2)
    """Site-group folds."""
    stratify: Literal["igbp", "climate_group", "koppen"] = "igbp"
    """Class that is spread evenly over the folds."""
    minimum: int = Field(default=12, ge=2)
    """Fewest observed steps for a site to be scored."""
    minimum_qc: float = Field(default=0.0, ge=0, le=1)
    """Lowest share of good half-hours for a step to be scored."""
    seed: int = 56
    """Of the folds or the split."""

    @model_validator(mode="after")
    def _fitting(self) -> EvaluationConfig:
        if self.as_published and self.split == "folds":
            message = "as_published belongs to CarbonBench's split; give split: igbp or koppen, or leave it out"
            raise ValueError(message)
        return self


class SearchConfig(Strict):
    """How `fluxgrid train --search` looks for settings."""

    trials: int = Field(default=20, ge=1)
    """Settings tried; where the grid has no more points than this, all of them."""
    folds: int = Field(default=3, ge=2)
    """Site-group folds that each is scored on; with a split of CarbonBench of its training sites alone."""
    space: SpaceName | None = None
    """CarbonBench's grid for the architecture: that of its ``code`` (the default), or the larger of its ``paper``."""
    grid: dict[str, tuple[bool | int | float | str | None, ...]] | None = None
    """Instead of it: values to try by key, such as ``{model.hidden: [64, 128], fit.learning_rate: [0.001, 0.01]}``."""
    prune: bool = False
    """Give up settings that are worse than the median of those before after as many folds."""
    seed: int = Field(default=56, ge=0)
    """Of the folds (of a split of CarbonBench ``evaluation.seed`` is) and of what is tried next."""

    @model_validator(mode="after")
    def _one_grid(self) -> SearchConfig:
        """Refuse two grids."""
        if self.space is not None and self.grid is not None:
            message = f"space: {self.space} and grid are two grids; give one of them"
            raise ValueError(message)
        return self


class TrainConfig(Strict):
    """`fluxgrid train` and `fluxgrid evaluate`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    """Name of the model."""
    description: str
    """One sentence for people: what it is trained on."""
    step: Step
    """Time step."""
    day_definition: str = "local standard time"
    """When a day begins."""
    synthetic: bool = False
    """Trained on simulated towers."""
    limits: str = ""
    """What its maps are not good for in a few words; stands in every title."""
    caveats: tuple[str, ...] = ()
    """The same in sentences; written into every product."""
    sites: SitesConfig
    """Towers."""
    inputs: InputsConfig
    """Inputs."""
    model: ModelConfig
    """Architecture."""
    fit: FitSettings = FitSettings()
    """Training."""
    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]+$")], EntryConfig] = Field(default_factory=dict)
    """Models that `fluxgrid evaluate` compares at the same sites, by name; without any, that of `model` alone."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Scores."""
    search: SearchConfig = SearchConfig()
    """Search of settings for `model`, where it is asked for; its trials go into ``<out>-search``."""
    out: str
    """Checkpoint folder; the scores of `evaluate` go into ``<out>-evaluation``."""

    @property
    def entries(self) -> dict[str, TrainConfig]:
        """Configurations of the models to compare, by name.

        Raises
        ------
        ConfigError
            Listing what is wrong with the training of each.
        """
        if not self.models:
            return {self.model.kind: self}
        found, problems = {}, []
        for name, entry in self.models.items():
            changes: dict[str, Any] = {"name": name, "model": entry.model, "models": {}}
            if entry.inputs is not None:
                changes["inputs"] = entry.inputs
            try:
                changes["fit"] = TypeAdapter(FitSettings).validate_python(merged(self._fit_of(entry), entry.fit))
            except ValidationError as error:
                problems += [f"models.{name}.fit.{problem}" for problem in config_problems(FitSettings, error)]
                continue
            found[name] = self.model_copy(update=changes)
        if problems:
            raise ConfigError(itemise("The models to compare are wrong", problems))
        return found

    def _fit_of(self, entry: EntryConfig) -> dict[str, Any]:
        """Return the settings of training that an entry starts from: those of another regime say nothing of its own."""
        row = asdict(self.fit)
        return row | {"meta": None} if entry.fit.get("regime", self.fit.regime) != self.fit.regime else row

    def changed(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration with other values of some keys, such as ``fit.learning_rate``.

        Raises
        ------
        ConfigError
            Listing every value that is wrong.
        """
        row = self.model_dump(mode="json")
        for key, value in values.items():
            set_key(row, key, value)
        try:
            return TrainConfig.model_validate(row)
        except ValidationError as error:
            raise ConfigError(itemise("The changed settings are wrong", config_problems(TrainConfig, error))) from error


def is_kgml(path: str | None) -> bool:
    """Return whether a training configuration is a `KGMLConfig`: it has a recipe; one that cannot be read is none."""
    try:
        return path is not None and "recipe" in written_config(path)[0]
    except FluxgridError:
        return False
