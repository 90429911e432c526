"""Completion records: which unit of work is done, from what, and what came out.

A record is written after everything it speaks of is on disk, so a unit with a record is done and a unit without one is
not, wherever a run was killed.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fluxgrid.files import atomic_path, write_text
from fluxgrid.prediction.predictor import BlockState, join_states
from fluxgrid.provenance import digest_arrays


@dataclass(frozen=True)
class Record:
    """What is known of one finished unit."""

    key: str
    """Hash of all that went in."""
    state: str
    """Hash of the state handed on."""
    output: str
    """Hash of the tile as it stands in the map store; empty for spin-up."""
    expected: int
    """Cell-steps to predict."""
    missing: int
    """Of these, how many have no value."""
    seconds: float
    """Time it took."""
    machine: str
    """Where it was computed."""
    parts: tuple[str, ...] = ()
    """Hashes of what the key is made of: plan, inputs, state carried in, provisional steps."""


def read_record(path: Path) -> Record | None:
    """Return a record, or None if there is none or it was torn."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{**row, "parts": tuple(row.get("parts", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_text(path, json.dumps(asdict(record)))


def save_state(path: Path, states: list[BlockState]) -> str:
    """Write the state of a tile's blocks and return its hash.

    Parameters
    ----------
    path : Path
        An ``.npz`` file.
    states : list of BlockState
        In the order of the blocks.

    Returns
    -------
    digest : str
    """
    arrays = join_states(states)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return digest_arrays(arrays)


def load_state(path: Path, digest: str) -> dict[str, np.ndarray] | None:
    """Return a stored state, or None if it is missing, torn or not the one recorded."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
    return arrays if digest_arrays(arrays) == digest else None
