"""The configuration of a map and of its refresh, and how configurations are read; imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxgrid.data.windows import WindowMode
from fluxgrid.errors import ConfigError, itemise
from fluxgrid.files import configs_folder, parse_yaml
from fluxgrid.registry import unknown_name

Calibration = Literal["none", "state", "neighbourhood"]
Device = Literal["auto", "cpu", "cuda"]


class Strict(BaseModel):
    """Base: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StatusConfig(Strict):
    """How a delivered file says whether its values are preliminary or final."""

    attribute: str = "status"
    """Global attribute whose first word says so."""
    in_name: bool = False
    """Whether the name of the file says so instead; the words below are then parts of it."""
    provisional: tuple[str, ...] = ("provisional", "preliminary")
    """Words for preliminary streams."""
    final: tuple[str, ...] = ("final",)
    """Words for final ones."""
    otherwise: Literal["provisional", "final"] | None = None
    """What files are that do not say; left out, they are refused."""


class SourceConfig(Strict):
    """Where somebody drops CF NetCDF files of covariates."""

    location: str
    """Folder, or http(s) prefix with an index."""
    pattern: str = "*.nc"
    """Names of the files."""
    mapping: str | None = None
    """Mapping YAML of the files: a path, or a name in ``configs/mappings``."""
    status: StatusConfig = StatusConfig()
    """Preliminary or final."""
    issued: str = "date_created"
    """Global attribute that says when a file came to be; the file's own time where it is missing."""
    settle: float = Field(default=5.0, ge=0)
    """Seconds for which a file must not have changed before it is read."""
    reopen_days: int = Field(default=90, ge=0)
    """Days before the newest one for which a server is asked file by file whether they changed. A change that is seen
    counts however old its days are."""
    base: str | None = None
    """Cube that gives land and soil, and days before the first delivery; read when the growing cube is made."""
    base_mapping: str | None = None
    """Its mapping."""


class GuardsConfig(Strict):
    """How much may change before a publication is stopped; a guard is overridden by name with ``--allow``."""

    missing_jump: float = Field(default=0.02, ge=0, le=1)
    """Guard ``missing``: rise of the share of land cells' steps without a value, within what is covered, of a year."""
    totals_move: float = Field(default=0.25, ge=0)
    """Guard ``totals``: change of a flux of the whole region over the steps that both states have, as a share of the
    largest flux of the region before."""


class RefreshConfig(Strict):
    """`fluxgrid refresh`, `fluxgrid runs`; all other keys are those of the map."""

    source: SourceConfig | None = None
    """What ``cube`` is grown from; left out, somebody else extends it."""
    archive: str | None = None
    """Folder of all published states; by default ``<out>/archive``."""
    verify_gb: float = Field(default=4.0, ge=0)
    """Most of the archive that each refresh reads to find damage, GB; of a larger one some years, in turn by week. As
    much again of a cube that grew; 0 reads neither. A growth reads the whole cube all the same."""
    guards: GuardsConfig = GuardsConfig()
    """Bounds."""
    stale_days: int | None = Field(default=None, ge=1)
    """Days of age at which the end of what is covered is something to look after; left out, none is too old."""
    on_success: tuple[str, ...] = ()
    """Program and arguments to run after a publication, without a shell; ``FLUXGRID_REPORT`` names the report. They are
    taken as they are written: no ``$NAME`` in them is replaced."""
    on_failure: tuple[str, ...] = ()
    """The same after a refresh that failed or that a guard stopped, and after one that found nothing new to publish but
    something new to look after, such as a damaged delivery."""
    hook_seconds: float = Field(default=60.0, gt=0)
    """After which such a program is ended."""


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
    refresh: RefreshConfig = RefreshConfig()
    """How `fluxgrid refresh` keeps the map up to date."""


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
        set_key(values, key, value)
    if unset := sorted(_names(values) - set(os.environ)):
        problems = [f"{name} is not set: export {name}=/path/to/folder" for name in unset]
        raise ConfigError(itemise(f"The configuration {path or 'given'} needs environment variables", problems))
    try:
        return kind.model_validate(_expand(values))
    except ValidationError as error:
        raise ConfigError(
            itemise(f"The configuration {path or 'given'} is wrong", config_problems(kind, error))
        ) from error


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
    return merged(_read(str(base), (*through, path)), values)


def merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return nested mappings in which `values` win; options of another architecture or source are not taken over."""
    named = {name: values.get(name) for name in ("kind", "source")}  # of a refresh, `source` is no name but a mapping
    if any(isinstance(name, str) and name != base.get(key) for key, name in named.items()):
        return values
    both = {k: merged(base[k], v) for k, v in values.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
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


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value


_HOOKS = ("on_success", "on_failure")
"""Keys of programs, whose arguments are theirs: what ``$FLUXGRID_REPORT`` is they know when they run."""


def _expand(value: Any) -> Any:
    """Replace ``$NAME`` in texts by the environment, but not in what is a program's."""
    if isinstance(value, dict):
        return {key: inner if key in _HOOKS else _expand(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner) for inner in value]
    return os.path.expandvars(value) if isinstance(value, str) else value


def _names(values: Any) -> set[str]:
    """Return the environment variables that texts in nested mappings and lists name, other than a program's."""
    own = (text for key, text in config_texts(values) if not any(part in _HOOKS for part in key.split(".")))
    return {name for text in own for name in _NAMES.findall(text)}


def config_texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested mappings and lists with its place.

    Examples
    --------
    >>> list(config_texts({"region": "iowa", "refresh": {"on_failure": ["/bin/tell", "me"]}}))
    [('region', 'iowa'), ('refresh.on_failure.0', '/bin/tell'), ('refresh.on_failure.1', 'me')]
    """
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from config_texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        yield key, value


def config_problems(kind: Any, error: ValidationError) -> list[str]:
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
