"""The mapping file: what a covariate file does not say about itself, in a few lines of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from odc.geo.crs import CRS
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyproj.exceptions import CRSError

from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, UnitError, UnknownName, itemise
from fluxgrid.files import configs_folder, parse_yaml
from fluxgrid.registry import unknown_name
from fluxgrid.units import check_units
from fluxgrid.variables import PLACE, VARIABLES, get_variable

UNKNOWN_CLASS = "unknown"
"""Class name of codes that stand for no class, such as ocean."""


class _Strict(BaseModel):
    """Unknown keys are errors; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Dims(_Strict):
    """Names of the dimensions in the file; those left out are recognised by their attributes or usual names."""

    time: str | None = None
    """Dimension of time."""
    y: str | None = None
    """Dimension that runs north-south."""
    x: str | None = None
    """Dimension that runs west-east."""


class VariableMapping(_Strict):
    """Where one of our variables comes from."""

    source: str = Field(alias="from")
    """Name in the file."""
    units: str | None = None
    """Unit of the values, in CF spelling; overrides what the file says."""
    classes: dict[int, str] | None = None
    """For class variables: codes of the file and the names of our classes, or "unknown"."""


class CubeMapping(_Strict):
    """How a file becomes a cube; every key may be left out where the file speaks for itself."""

    title: str | None = None
    """What the data are, in one line."""
    source: str | None = None
    """Who made them, how."""
    citation: str | None = None
    """How to cite them."""
    crs: str | None = None
    """Coordinate reference system, such as EPSG:4326; overrides what the file says."""
    step: Step | None = None
    """Length of a time step; recognised by the spacing if left out."""
    day_definition: str | None = None
    """When a day begins: "UTC", "local standard time" or in words."""
    dims: Dims = Dims()
    """Names of the dimensions in the file."""
    variables: dict[str, VariableMapping] = {}
    """Our variables; if any is given, only those given are read, else those that bear our names."""


def load_mapping(path: Path | str) -> CubeMapping:
    """Read a mapping file.

    Parameters
    ----------
    path : path or str
        A YAML file, or the name of a mapping that comes with fluxgrid.

    Returns
    -------
    mapping : CubeMapping

    Raises
    ------
    ConfigError
        If the file is missing or is not YAML, or its content is wrong; the message lists every problem.
    """
    file = _find(path)
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"The mapping {file} cannot be read as YAML: {error}. Correct the file."
        raise ConfigError(message) from error
    return parse_mapping(content, name=str(file))


def parse_mapping(content: Any, name: str = "the mapping") -> CubeMapping:
    """Check the content of a mapping file.

    Parameters
    ----------
    content : dict
        As read from YAML.
    name : str
        What to call it in messages.

    Returns
    -------
    mapping : CubeMapping

    Raises
    ------
    ConfigError
        Listing every problem: unknown keys and variables, units that cannot be converted, unknown classes, a bad CRS.

    Examples
    --------
    >>> mapping = parse_mapping({"crs": "EPSG:4326", "variables": {"temperature_2m": {"from": "t2m", "units": "K"}}})
    >>> mapping.variables["temperature_2m"].source
    't2m'
    """
    problems = _content_problems(content)
    try:
        mapping = CubeMapping.model_validate(content)
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()] + problems
    if problems:
        raise ConfigError(itemise(f"{name} is not a valid mapping", problems))
    return mapping


def mapping_names() -> tuple[str, ...]:
    """Return the names of the mappings that come with fluxgrid."""
    return tuple(sorted(path.stem for path in (configs_folder() / "mappings").glob("*.yaml")))


def _find(path: Path | str) -> Path:
    """Return the file a path or the name of a shipped mapping leads to."""
    if Path(path).is_file():
        return Path(path)
    names = mapping_names()
    if str(path) in names:
        return configs_folder() / "mappings" / f"{path}.yaml"
    message = (
        f"There is no mapping file {path}, and none of that name comes with fluxgrid ({', '.join(names)}). "
        "Check the path; `fluxgrid cube check STORE` suggests a mapping."
    )
    raise ConfigError(message)


def _describe(item: Any) -> str:
    """Say in one line what pydantic found."""
    where = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "extra_forbidden":
        fields = VariableMapping if item["loc"][0] == "variables" else Dims if item["loc"][0] == "dims" else CubeMapping
        known = [field.alias or name for name, field in fields.model_fields.items()]
        return f"{where}: {unknown_name('key', str(item['loc'][-1]), known)}"
    given = "" if item["type"] == "missing" else f", got {item['input']!r}"
    return f"{where}: {item['msg']}{given}"


def _content_problems(content: Any) -> list[str]:
    """Return what pydantic cannot know: names, units, classes and CRS that mean nothing."""
    if not isinstance(content, dict):
        return []
    problems = _crs_problems(content.get("crs"))
    variables = content.get("variables")
    for name, entry in variables.items() if isinstance(variables, dict) else ():
        try:
            variable = get_variable(str(name))
        except UnknownName as error:
            problems.append(f"variables.{name}: {error}")
            continue
        if variable.role == "tower" or variable.name in PLACE:
            known = "is known at towers only" if variable.role == "tower" else "is that of the cells"
            problems.append(f"variables.{name}: the {variable.long_name} {known}; take it out")
            continue
        if isinstance(entry, dict):
            problems += [f"variables.{name}.{problem}" for problem in _variable_problems(str(name), entry)]
    return problems


def _crs_problems(crs: Any) -> list[str]:
    """Return what is wrong with the name of a CRS."""
    if not isinstance(crs, str):
        return []
    try:
        CRS(crs)
    except (CRSError, ValueError):
        return [f"crs: {crs!r} is no coordinate reference system; give one such as 'EPSG:4326' or its WKT"]
    return []


def _variable_problems(name: str, entry: dict[str, Any]) -> list[str]:
    """Return what is wrong with units and classes of one entry."""
    variable, problems = VARIABLES[name], []
    units, classes = entry.get("units"), entry.get("classes")
    if isinstance(units, str):
        try:
            check_units(units, variable.units)
        except UnitError as error:
            problems.append(f"units: {error}")
    if isinstance(classes, dict):
        if variable.role != "class":
            problems.append(f"classes: {name} has no classes; remove them")
        known = (*variable.classes, UNKNOWN_CLASS)
        wrong = sorted({str(label) for label in classes.values()} - set(known)) if variable.classes else []
        problems += [f"classes: {unknown_name('class', label, known)}" for label in wrong]
    return problems
