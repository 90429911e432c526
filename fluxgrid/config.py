"""Run configurations: strict, typed, every field documented; read from YAML, overridden as ``key.sub=value``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fluxgrid.data.gaps import GapRule
from fluxgrid.data.steps import Step
from fluxgrid.data.windows import WindowMode
from fluxgrid.errors import ConfigError, FluxgridError, itemise
from fluxgrid.files import configs_folder, parse_yaml
from fluxgrid.input_sets import extend_set
from fluxgrid.registry import unknown_name
from fluxgrid.training.search import SpaceName
from fluxgrid.training.settings import FitSettings

Calibration = Literal["none", "state", "neighbourhood"]
Device = Literal["auto", "cpu", "cuda"]


class Strict(BaseModel):
    """Base: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
                changes["fit"] = TypeAdapter(FitSettings).validate_python(_merged(self._fit_of(entry), entry.fit))
            except ValidationError as error:
                problems += [f"models.{name}.fit.{problem}" for problem in _problems(FitSettings, error)]
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
            _set(row, key, value)
        try:
            return TrainConfig.model_validate(row)
        except ValidationError as error:
            raise ConfigError(itemise("The changed settings are wrong", _problems(TrainConfig, error))) from error


class UpscaleConfig(Strict):
    """`fluxgrid upscale`."""

    region: str | None = None
    """Name, polygon file or ``W,S,E,N``."""
    cube: str | None = None
    """Store or file of covariates; left out, the built-in synthetic world is used."""
    mapping: str | None = None
    """Mapping YAML of the cube: a path, or a name in ``configs/mappings``."""
    model: str = "default"
    """Shipped checkpoint or folder."""
    start: date | None = None
    """First day; by default the first of the cube (synthetic: 1 January 2019)."""
    end: date | None = None
    """Last day, included; by default the last of the cube (synthetic: the end of the first day's year)."""
    calibration: Calibration = "none"
    """How a cell gets its head: ``none``, the global model; ``state``, that of its state; ``neighbourhood``, a blend of
    places near it on the ground and in climate."""
    resolution: float | None = Field(default=None, gt=0, le=5)
    """Cell size of the synthetic world, degrees (0.1); a cube brings its own."""
    tile: int = Field(default=32, ge=32, multiple_of=32)
    """Tile size in cells; does not change the map."""
    window_mode: WindowMode | None = None
    """How a network of windows cuts the record: ``exact``, a window for each step; ``stride``, one every few steps;
    ``stream``, a state that is carried. By default as it was trained."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products: ``bf16`` is for GRUs on a CPU with such instructions, faster and less exact."""
    device: Device = "auto"
    """``auto`` takes a GPU where there is one."""
    workers: int = Field(default=1, ge=1)
    """Processes; 1 means threads in this process."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each process; by default the cores over the processes."""
    scheduler: str | None = None
    """Address of a running dask scheduler."""
    allow_mixed: bool = False
    """Whether workers of a cluster may differ from this machine and its libraries; the last bits of the map are then
    open, and its manifest names the machines."""
    max_missing: float = Field(default=0.05, ge=0, le=1)
    """Largest share of land cells without a value before nothing is published."""
    compression: Literal["zlib", "zstd"] = "zlib"
    """Of the NetCDF files. ``zstd`` is written several times as fast, but not every program reads it
    (docs/decisions/017); a map that stands is not written again for it."""
    out: str | None = None
    """Run folder; by default ``maps/<region>``."""


C = TypeVar("C", bound=BaseModel)

_MOST_EXTENDED = 5
"""Configurations that may extend each other."""
_NAMES = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")


def load_config(kind: type[C], path: str | None, overrides: dict[str, Any] | list[str] | None = None) -> C:
    """Read, override and check a configuration.

    Parameters
    ----------
    kind : type
        `TrainConfig`, `UpscaleConfig` or `ExperimentConfig`.
    path : str, optional
        YAML file, or the name of a shipped one in ``configs/runs``; without it all is default. A key ``extends: NAME``
        in it takes over all keys of another that it does not say itself, mappings key by key.
    overrides : dict or list of str, optional
        Values that win over the file: a mapping (None is left out), or ``key.sub=value`` texts whose values are YAML.

    Returns
    -------
    config : `kind`

    Raises
    ------
    UnknownName
        If there is no such file.
    ConfigError
        If the file or an override is not YAML, or listing every ``$NAME`` that is not set, or every key that is
        unknown, missing or wrong.
    """
    values = _read(path) if path else {}
    for key, value in _pairs(overrides):
        _set(values, key, value)
    if unset := sorted(_names(values) - set(os.environ)):
        problems = [f"{name} is not set: export {name}=/path/to/folder" for name in unset]
        raise ConfigError(itemise(f"The configuration {path or 'given'} needs environment variables", problems))
    try:
        return kind.model_validate(_expand(values))
    except ValidationError as error:
        raise ConfigError(itemise(f"The configuration {path or 'given'} is wrong", _problems(kind, error))) from error


def written_config(path: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Return a configuration as it is written: nothing is checked, overridden or replaced by the environment.

    Parameters
    ----------
    path : str
        YAML file, or the name of a shipped one.

    Returns
    -------
    values : dict
        Its keys and those of what it extends.
    names : frozenset of str
        Environment variables it needs.

    Raises
    ------
    UnknownName
        If there is no such file.
    ConfigError
        If it is not YAML.
    """
    values = _read(path)
    return values, frozenset(_names(values))


def is_kgml(path: str | None) -> bool:
    """Return whether a training configuration is a `KGMLConfig`: it has a recipe; one that cannot be read is none."""
    try:
        return path is not None and "recipe" in _read(path)
    except FluxgridError:
        return False


def shipped_runs() -> dict[str, Path]:
    """Return the run configurations that come with fluxgrid, by name."""
    return {path.stem: path for path in sorted((configs_folder() / "runs").glob("*.yaml"))}


def _read(path: str, through: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the mapping in a YAML file or shipped configuration; ``extends`` names one whose keys it starts from."""
    shipped = shipped_runs()
    file = shipped[path] if path in shipped else Path(path).expanduser()
    if not file.is_file():
        error = unknown_name("configuration file or shipped configuration", path, shipped)
        raise error
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{file} is not readable YAML: {error}"
        raise ConfigError(message) from error
    if not isinstance(values, dict):
        message = f"{file} must hold keys and values, not {type(values).__name__}."
        raise ConfigError(message)
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = file.parent / str(base)
    base = str(beside) if beside.is_file() else base
    if len(through) >= _MOST_EXTENDED:
        message = f"{file}: extends goes in a circle, or too deep: {' -> '.join((*through, path, str(base)))}."
        raise ConfigError(message)
    return _merged(_read(str(base), (*through, path)), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return nested mappings in which `values` win; options of another architecture or source are not taken over."""
    if any(name in values and values[name] != base.get(name) for name in ("kind", "source")):
        return values
    both = {k: _merged(base[k], v) for k, v in values.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **values, **both}


def _pairs(overrides: dict[str, Any] | list[str] | None) -> list[tuple[str, Any]]:
    """Return overrides as keys and values."""
    if isinstance(overrides, dict):
        return [(key, value) for key, value in overrides.items() if value is not None]
    pairs = []
    for text in overrides or []:
        key, equals, value = text.partition("=")
        try:
            pairs.append((key, parse_yaml(value)))
        except yaml.YAMLError:
            equals = ""
        if not (key and equals):
            message = (
                f"The override {text!r} cannot be read. Write key=value or key.sub=value with a YAML value, such as "
                "fit.epochs=10 or region=iowa."
            )
            raise ConfigError(message)
    return pairs


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value


def _expand(value: Any) -> Any:
    """Replace ``$NAME`` in texts by the environment."""
    if isinstance(value, dict):
        return {key: _expand(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner) for inner in value]
    return os.path.expandvars(value) if isinstance(value, str) else value


def _names(values: Any) -> set[str]:
    """Return the environment variables that texts in nested mappings and lists name."""
    return {name for text in _texts(values) for name in _NAMES.findall(text)}


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in nested mappings and lists."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _problems(kind: Any, error: ValidationError) -> list[str]:
    """Return one line for each wrong key."""
    lines = []
    for found in error.errors():
        key = ".".join(str(part) for part in found["loc"])
        if found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *parents, last = found["loc"]
            lines.append(f"{key}: {unknown_name('key', str(last), _keys(kind, parents))}")
        elif found["type"] == "value_error":  # of several keys together
            lines.append(f"{key}: {found['ctx']['error']}")
        else:
            lines.append(f"{key}: {found['msg'][0].lower()}{found['msg'][1:]} (given {found['input']!r})")
    return lines


def _given(kind: Any) -> Any:
    """Return the kind of a value that may be left out."""
    return next(inner for inner in get_args(kind) if inner is not NoneType) if NoneType in get_args(kind) else kind


def _keys(kind: Any, parents: Iterable[str | int]) -> list[str]:
    """Return the keys that may stand below `parents` in a configuration."""
    for parent in parents:
        if isinstance(parent, int):  # of a tuple of one kind
            kind = get_args(kind)[0]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[-1]
        else:
            kind = _given(get_type_hints(kind)[parent])
    return [field.name for field in fields(kind)] if is_dataclass(kind) else list(kind.model_fields)
