"""Named sets of inputs, which a configuration takes and extends: the files in ``configs/inputs``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fluxgrid.errors import ConfigError, itemise
from fluxgrid.files import configs_folder, parse_yaml
from fluxgrid.registry import unknown_name

_LISTS = ("dynamic", "static", "classes")
_KEYS = (*_LISTS, "gaps", "dynamic_from")


def input_sets() -> dict[str, Path]:
    """Return the sets of inputs that come with fluxgrid, by name."""
    return {path.stem: path for path in sorted((configs_folder() / "inputs").glob("*.yaml"))}


def read_input_set(name: str) -> dict[str, Any]:
    """Return the inputs of a set.

    Parameters
    ----------
    name : str
        Of a file in ``configs/inputs``. It holds ``dynamic``, ``static``, ``classes`` and ``gaps`` as a configuration
        does under ``inputs``. ``dynamic_from: {file, key, prefix}`` puts names before ``dynamic`` that a JSON file of
        the data lists under a key, each with the prefix; ``$NAME`` in its path is replaced by the environment.

    Returns
    -------
    inputs : dict
        The keys ``dynamic``, ``static`` and ``classes`` as lists, and ``gaps`` as a mapping.

    Raises
    ------
    UnknownName
        If there is no such set; the message gives the nearest spelling.
    ConfigError
        If its file, or the file that lists its names, cannot be read.
    """
    known = input_sets()
    if name not in known:
        error = unknown_name("set of inputs", name, known)
        raise error
    try:
        values = parse_yaml(known[name].read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"The set of inputs {known[name]} is not readable YAML: {error}"
        raise ConfigError(message) from error
    if wrong := [str(unknown_name("key", str(key), _KEYS)) for key in values if key not in _KEYS]:
        raise ConfigError(itemise(f"The set of inputs {known[name]} is wrong", wrong))
    listed = _listed(name, values["dynamic_from"]) if "dynamic_from" in values else []
    found = {key: [*(listed if key == "dynamic" else []), *values.get(key, ())] for key in _LISTS}
    return {**found, "gaps": dict(values.get("gaps", {}))}


def extend_set(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with the lists of the set that they name in the place of its name.

    Parameters
    ----------
    inputs : mapping
        As in a configuration, with the key ``set``.

    Returns
    -------
    inputs : dict
        Without ``set``; what the set lists stands before what is given beside it, and a gap rule that is given goes
        before that of the set.

    Raises
    ------
    UnknownName, ConfigError
        As `read_input_set`.
    """
    own = {key: value for key, value in inputs.items() if key != "set"}
    found = read_input_set(str(inputs["set"]))
    for key in _LISTS:
        given = own.get(key, ())
        # anything else than a list is left for the check of the configuration to tell of
        own[key] = [*found[key], *given] if isinstance(given, list | tuple) else given
    gaps = own.get("gaps", {})
    own["gaps"] = {**found["gaps"], **gaps} if isinstance(gaps, dict) else gaps
    return own


def _listed(name: str, where: Mapping[str, str]) -> list[str]:
    """Return the names that a JSON file lists under a key."""
    path = Path(os.path.expandvars(where["file"])).expanduser()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))[where["key"]]
        return [f"{where['prefix']}{each}" for each in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"The set of inputs {name!r} takes the names under {where['key']!r} in {where['file']}, which cannot be "
            f"read ({error!r} of {path}). Set the variable to the folder with the data, or take another set."
        )
        raise ConfigError(message) from error
