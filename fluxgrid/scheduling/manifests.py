"""YAML for machines that people read too."""

from __future__ import annotations

import re
from typing import Any

import yaml

_DOUBTFUL = re.compile(r"[-+.]?\d[-+.:\w]*|[yn]|[=~]|<<", re.IGNORECASE)
"""Texts that one YAML or another takes for something else: 1e3, 0o17, y; what this one does it quotes by itself."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Return the node of a text."""
        style = "|" if "\n" in text else "'" if _DOUBTFUL.fullmatch(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def yaml_text(value: Any) -> str:
    """Return a value as YAML in the order of its keys, one line for each text without a line end.

    Parameters
    ----------
    value : dict, list, str, number
        Plain data.

    Returns
    -------
    text : str
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
