"""`fluxgrid train`: from towers to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from fluxgrid.config import TrainConfig
from fluxgrid.files import new_folder
from fluxgrid.models import load_checkpoint, save_checkpoint
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.training.train import Trained, train_model, training_domain
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
    for note in sites.notes:
        report(note)
    report(f"Training {spec.name} ({spec.kind}) on {len(sites)} sites")
    trained = train_model(sites, spec, config.fit, report)
    domain = training_domain(trained, sites, spec, config.fit)
    provenance = _provenance(trained, describe(sites))
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    save_checkpoint(out, spec, trained.scaler, trained.model, domain, text, provenance)
    load_checkpoint(out)  # a checkpoint that cannot be read back must not look finished
    return TrainOutcome(out, len(trained.sites) + len(trained.validation), domain.threshold)


def _provenance(trained: Trained, sites: dict) -> dict:
    """Return where a checkpoint comes from."""
    return {
        "created": now(),
        "commit": git_commit(),
        "versions": versions(),
        "sites": sites,
        "validation_sites": list(trained.validation),
        "validation_loss": trained.validation_loss,
    }
