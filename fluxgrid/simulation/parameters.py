"""Every number of the reference world stands in `world.yaml`; here it is read, checked and hashed."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from fluxgrid.files import parse_yaml

strict_dataclass = dataclass(config=ConfigDict(extra="forbid"), frozen=True)
"""A frozen dataclass whose fields are checked and which takes no key it does not know."""

T = TypeVar("T")


@strict_dataclass
class Extent:
    """Where and when the world exists."""

    bounds: tuple[float, float, float, float]
    """West, east, south, north, degrees: outside, the formulas were never looked at."""
    first_year: int
    """The process model starts on its first day; weather exists in any year."""


@cache
def _document() -> dict[str, Any]:
    """Return the parsed file."""
    document: dict[str, Any] = parse_yaml(files("fluxgrid.simulation").joinpath("world.yaml").read_text("utf-8"))
    return document


def load_section(name: str, kind: type[T]) -> T:
    """Return a section of the file as a checked value.

    Parameters
    ----------
    name : str
        Key of the section.
    kind : type
        A `strict_dataclass`; keys ``source`` are citations and left out, at every depth.

    Returns
    -------
    section : kind
    """
    return TypeAdapter(kind).validate_python(_without_sources(_document()[name]))


def world_digest() -> str:
    """Return the hash of all parameters and of the version, to be stored with everything made from this world.

    Returns
    -------
    digest : str
        16 hexadecimal digits; comments and citations do not change it.

    Examples
    --------
    >>> len(world_digest())
    16
    """
    text = json.dumps(_without_sources(_document()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_sources(value: Any) -> Any:
    """Return nested mappings without the keys that hold citations."""
    if isinstance(value, dict):
        return {key: _without_sources(part) for key, part in value.items() if key != "source"}
    return value


WORLD_VERSION = str(_document()["version"])
WORLD_SOURCE = "fluxgrid synthetic world"
"""How the source of everything that is made of it begins."""
"""Raised when a formula changes; numbers are told apart by the digest."""
EXTENT = load_section("extent", Extent)
