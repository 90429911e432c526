"""Stages of a training that can be taken up where it was left: each leaves its weights and what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fluxgrid.files import atomic_folder
from fluxgrid.models.spec import NUMERICS_VERSION
from fluxgrid.provenance import digest
from fluxgrid.simulation import world_digest
from fluxgrid.training.kgml.descent import Report, StepHistory


class Stages:
    """A folder of finished stages, each under the hash of all that went into it.

    Parameters
    ----------
    folder : Path, optional
        Where to keep them; without one nothing is kept.
    report : callable
        Takes one line of progress.
    """

    def __init__(self, folder: Path | None = None, report: Report = lambda _: None):
        self.folder, self.report = folder, report
        self.histories: list[StepHistory] = []
        # weights of another world, or of other arithmetic, are other weights
        self._before = digest(world_digest(), str(NUMERICS_VERSION))

    def run(self, name: str, module: nn.Module, key: object, train: Callable[[], StepHistory]) -> StepHistory:
        """Train a module, or give it the weights it was trained to before.

        Parameters
        ----------
        name : str
            Of the stage, a folder's name.
        module : Module
            Changed in place.
        key : object
            JSON values: data and settings. The stages before count too.
        train : callable
            Trains the module.

        Returns
        -------
        history : StepHistory
        """
        self._before = digest(self._before, name, json.dumps(key, sort_keys=True, default=str))
        path = self.folder / f"{name}-{self._before[:12]}" if self.folder else None
        if path and path.is_dir():
            module.load_state_dict(load_file(path / "weights.safetensors"))
            module.eval()
            row = json.loads((path / "history.json").read_text(encoding="utf-8"))
            history = StepHistory(**row | {"train": tuple(row["train"]), "validation": tuple(row["validation"])})
            self.report(f"{name}: taken from {path}")
        else:
            torch.manual_seed(int(self._before[:8], 16))  # a training that was stopped goes on as if it had not been
            history = train()
            if path:
                self._keep(path, module, history)
        self.histories.append(history)
        return history

    def _keep(self, path: Path, module: nn.Module, history: StepHistory) -> None:
        """Write a finished stage."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as folder, torch.no_grad():
            save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "weights.safetensors")
            (folder / "history.json").write_text(json.dumps(asdict(history)), encoding="utf-8")
