"""Calibrations as a checkpoint keeps them: heads of places beside the shared backbone."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

from fluxgrid.models.base import FluxModel
from fluxgrid.models.calibration import Heads
from fluxgrid.models.network import Network
from fluxgrid.models.places import CalibratedPlaces

_PREFIX = "calibration-"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Heads of places and where the places are."""

    name: str
    """How cells choose among them: ``state`` or ``neighbourhood``."""
    heads: Heads
    """Parameters, position by position those of `places`."""
    places: CalibratedPlaces
    """Where they were calibrated."""
    about: str = ""
    """One sentence for people: on what data."""

    def on(self, network: Network) -> Calibration:
        """Return the same heads on a network that shares the weights of theirs."""
        heads = copy.copy(self.heads)
        heads._network = (network,)
        return replace(self, heads=heads)

    def save(self, folder: Path) -> list[Path]:
        """Write it into a checkpoint folder and return the files."""
        table, weights = (folder / f"{_PREFIX}{self.name}{suffix}" for suffix in (".json", ".safetensors"))
        row = {"kind": self.heads.kind, "rank": self.heads.rank, "about": self.about}
        table.write_text(json.dumps({**row, "places": json.loads(self.places.to_json())}, indent=1), encoding="utf-8")
        self.heads.save(weights)
        return [table, weights]


def load_calibrations(folder: Path, model: FluxModel) -> dict[str, Calibration]:
    """Read the calibrations of a checkpoint folder, by name.

    Parameters
    ----------
    folder : Path
    model : FluxModel
        The checkpoint's, with its weights.

    Returns
    -------
    calibrations : dict of str to Calibration
        Empty where there are none.

    Raises
    ------
    ValueError, KeyError, OSError
        If a file does not fit.
    """
    found = {}
    for table in sorted(folder.glob(f"{_PREFIX}*.json")):
        if not isinstance(model, Network):
            message = f"{table.name} calibrates a model that has no hidden states."
            raise ValueError(message)
        row = json.loads(table.read_text(encoding="utf-8"))
        places = CalibratedPlaces.from_json(json.dumps(row["places"]))
        heads = Heads(model, row["kind"], len(places), row["rank"])
        heads.load(table.with_suffix(".safetensors"))
        name = table.stem.removeprefix(_PREFIX)
        found[name] = Calibration(name, heads.eval(), places, row["about"])
    return found
