"""Where a result comes from: hashes, versions, the commit of the code."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fluxgrid import clock

_LIBRARIES = (
    *("fluxgrid", "torch", "numpy", "xarray", "zarr", "netcdf4", "scipy", "pandas", "numba", "lightgbm"),
    *("xgboost", "xgboost-cpu"),  # two distributions of one library
)


def digest(*parts: Any) -> str:
    """Return a hash of texts, numbers, mappings and lists, the same on every machine.

    Parameters
    ----------
    *parts
        Anything JSON can hold.

    Returns
    -------
    digest : str
        32 hexadecimal digits.

    Examples
    --------
    >>> digest("a", {"b": 1}) == digest("a", {"b": 1}), digest("ab") == digest("a", "b")
    (True, False)
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files, in the order given."""
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of named arrays: names, types, shapes and bits."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total.update(f"{name}{value.dtype}{value.shape}".encode())
        total.update(value.data)
    return total.hexdigest()


def seal(content: Mapping[str, Any]) -> str:
    """Return a mapping as JSON with its own hash."""
    return json.dumps({"digest": digest(content), **content}, indent=1, sort_keys=True) + "\n"


def unseal(text: str) -> dict[str, Any]:
    """Return the mapping of which `seal` made a text.

    Parameters
    ----------
    text : str

    Returns
    -------
    content : dict

    Raises
    ------
    ValueError, KeyError, TypeError
        If a byte of it is not as it was written.
    """
    content = json.loads(text)
    del content["digest"]
    if seal(content) != text:  # not the parsed values alone: every byte counts
        message = "it does not have the hash it carries"
        raise ValueError(message)
    return dict(content)


def now() -> str:
    """Return the time in UTC, to the second, ISO 8601."""
    return clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache
def versions() -> dict[str, str]:
    """Return the versions of fluxgrid and of the libraries that decide the numbers, and the machine they ran on."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the model name of the processor, which decides which kernels a library picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


@lru_cache
def git_commit() -> str:
    """Return the commit of the checkout fluxgrid runs from, or ``unknown`` for an installed wheel."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        inside = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", "errors.py"],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found if inside.returncode == 0 else "unknown"
