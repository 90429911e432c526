"""`fluxgrid train`: from towers to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fluxgrid.config import TrainConfig
from fluxgrid.data.sites import Sites
from fluxgrid.files import new_folder
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint, save_checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import members_of
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.training.train import Trained, train_model, training_domain, usable_sites
from fluxgrid.workflows.sites import describe, model_spec, read_sites


@dataclass(frozen=True)
class TrainOutcome:
    """What `fluxgrid train` made."""

    checkpoint: Path
    """The folder."""
    sites: int
    """Sites trained on, those held back for the choice of the epoch included."""
    threshold: float
    """Of the area of applicability."""


def train(config: TrainConfig, report: Callable[[str], None] = lambda _: None) -> TrainOutcome:
    """Train a model on all sites of a configuration and write its checkpoint.

    Parameters
    ----------
    config : TrainConfig
    report : callable
        Takes one line of progress.

    Returns
    -------
    outcome : TrainOutcome

    Raises
    ------
    OutputExists
        If the checkpoint folder exists.
    OutputError
        If it cannot be written.
    FluxgridError
        If configuration or table are wrong.
    """
    out = new_folder(config.out)
    sites = read_sites(config)
    spec = model_spec(config, sites)
    sites = usable_sites(sites, spec)
    for note in sites.notes:
        report(note)
    report(f"Training {spec.name} ({spec.kind}) on {len(sites)} sites")
    trained = train_model(sites, spec, config.fit, report)
    spec = replace(trained.spec, mode_differences=_mode_differences(trained, trained.spec, sites))
    domain = training_domain(trained, sites, spec, config.fit)
    provenance = _provenance(trained, describe(sites))
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    parts = trained.scaler, trained.model, domain
    save_checkpoint(out, spec, *parts, text, provenance, uncertainty=trained.uncertainty)
    load_checkpoint(out)  # a checkpoint that cannot be read back must not look finished
    return TrainOutcome(out, len(trained.sites) + len(trained.validation), domain.threshold)


def _mode_differences(trained: Trained, spec: ModelSpec, sites: Sites) -> dict[str, dict[str, float]]:
    """Return by how much other window modes differ from the trained one at the sites that chose a member's epoch."""
    domain = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    changes: dict[str, list[pd.DataFrame]] = {}
    for member, held in zip(members_of(trained.model), trained.held_out, strict=True):
        if not isinstance(member, WindowNetwork):
            return {}
        own = Checkpoint(Path(), spec, trained.scaler, member, domain, "")
        others = {mode: Predictor(own.in_mode(mode), block=1) for mode in member.window_modes}
        for site in sites.select(held):
            before = predict_site(others[member.window_mode], site)
            for mode in others.keys() - {member.window_mode}:
                changes.setdefault(mode, []).append(predict_site(others[mode], site) - before)
    found = {mode: pd.concat(changes[mode]) for mode in sorted(changes)}
    return {
        mode: {str(flux): float(np.sqrt(np.nanmean(table[flux] ** 2))) for flux in table}
        for mode, table in found.items()
    }


def _provenance(trained: Trained, sites: dict) -> dict:
    """Return where a checkpoint comes from."""
    return {
        "created": now(),
        "commit": git_commit(),
        "versions": versions(),
        "sites": sites,
        "held_out_sites": [list(held) for held in trained.held_out],
        "validation_loss": trained.validation_loss,
    }
