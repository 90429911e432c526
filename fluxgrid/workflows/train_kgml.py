"""`fluxgrid train` of KGML-ag with all other cover: the recipe, heads of places, and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from fluxgrid.config_kgml import KGMLConfig
from fluxgrid.files import new_folder
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint, save_checkpoint
from fluxgrid.models.crop_mosaic import ANNUAL, FLUXES
from fluxgrid.models.kgml_ag import RESIDUE_DAYS
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.simulation import WORLD_VERSION, world_digest
from fluxgrid.training.kgml.cells import MOSAIC_INPUTS
from fluxgrid.training.kgml.recipe import Trained, train_mosaic
from fluxgrid.training.kgml.stages import Stages
from fluxgrid.workflows.calibrate import Made, made_row, make_calibration
from fluxgrid.workflows.sites import describe, read_site_config
from fluxgrid.workflows.train import TrainOutcome

Report = Callable[[str], None]


def train_kgml(config: KGMLConfig, report: Report = lambda _: None) -> TrainOutcome:
    """Train the covers and the five steps of KGML-ag, calibrate heads, and write the checkpoint.

    Parameters
    ----------
    config : KGMLConfig
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
    """
    out = new_folder(config.out)
    towers = read_site_config(config.towers, "daily") if config.towers else None
    # read before the training, so that what is wrong with them is not found after an hour
    cells = read_site_config(config.calibration_sites, "daily") if config.calibration_sites else None
    stages = Stages(Path(config.stages).expanduser() if config.stages else None, report)
    trained = train_mosaic(config.recipe, towers, stages)
    checkpoint = _checkpoint(config, trained)
    made: tuple[Made, ...] = ()
    if cells is not None:
        made = tuple(make_calibration(checkpoint, cells, heads, report) for heads in config.heads)
    provenance = {
        "created": now(),
        "commit": git_commit(),
        "versions": versions(),
        "world": {"version": WORLD_VERSION, "digest": world_digest()},
        "seconds": round(sum(h.seconds for h in stages.histories) + sum(m.seconds for m in made), 1),
        "steps": [asdict(history) for history in stages.histories],
        "towers": describe(towers) if towers else None,
        "calibrations": [made_row(row) for row in made],
    }
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    parts = checkpoint.spec, trained.scaler, trained.mosaic, trained.domain
    save_checkpoint(out, *parts, text, provenance, [row.calibration for row in made])
    load_checkpoint(out)
    return TrainOutcome(out, len(towers) if towers else 0, trained.domain.threshold)


def _checkpoint(config: KGMLConfig, trained: Trained) -> Checkpoint:
    """Return the checkpoint before it has a folder."""
    spec = kgml_spec(config)
    return Checkpoint(Path(config.out), spec, trained.scaler, trained.mosaic, trained.domain, "")


def kgml_spec(config: KGMLConfig) -> ModelSpec:
    """Return the contract of the model a configuration asks for.

    Parameters
    ----------
    config : KGMLConfig

    Returns
    -------
    spec : ModelSpec
    """
    recipe = config.recipe
    return ModelSpec(
        name=config.name,
        kind="kgml_ag",
        settings=asdict(recipe.model),
        step="daily",
        inputs=MOSAIC_INPUTS,
        spin_up_years=recipe.steps.spin_up_years,
        day_definition="local standard time",
        synthetic=True,
        description=config.description,
        limits=config.limits,
        caveats=config.caveats,
        sources=(
            "KGML-ag: Liu et al. 2024, doi:10.1038/s41467-023-43860-5",
            "FTBSC-KGML: Zeng et al. 2025, arXiv:2512.16013",
            f"fluxgrid synthetic world {WORLD_VERSION}, parameters {world_digest()}",
        ),
        fluxes=FLUXES,
        annual=ANNUAL,
        gpp_is_driver=recipe.model.gpp == "satellite",
        whole_year_from=RESIDUE_DAYS.start,
    )
