"""Physics audit of a checkpoint: its global model and its calibrated heads, place by place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.audit_picture import draw_audit
from fluxgrid.evaluation.audit_tables import audit_table, drift
from fluxgrid.evaluation.tables import write_table
from fluxgrid.files import check_replaceable, write_text
from fluxgrid.models import Checkpoint
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.models.places import CalibratedPlaces
from fluxgrid.prediction.predictor import find_calibration
from fluxgrid.training.kgml.audit import audit_heads
from fluxgrid.training.kgml.audit_runs import DEFAULT_AUDIT, AuditSettings
from fluxgrid.training.kgml.cover import with_driver
from fluxgrid.training.kgml.fields import CropFields, grow_fields
from fluxgrid.training.kgml.sample import draw_cells


@dataclass(frozen=True)
class AuditFields:
    """Fields an audit is made on: of the process model of the reference world, both rotations in each cell."""

    first: int = 2012
    last: int = 2016
    """Calendar years, both included."""
    cells: Annotated[int, Field(ge=1)] = 16
    """Cells of each place that is a state; a place that is a point has one."""
    least_crop: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of a cell of a state that corn and soybean must have."""
    seed: Annotated[int, Field(ge=0)] = 0

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


DEFAULT_FIELDS = AuditFields()
"""The default: a few hundred fields, of places that are states as of places that are points."""


FILES = ("audit.csv", "audit-drift.csv", "audit.md", "audit.png")


@dataclass(frozen=True, eq=False)
class AuditOutcome:
    """What an audit found."""

    table: pd.DataFrame
    """Columns place, model, diagnostic, value, unit."""
    text: str
    """The same with drift, Markdown."""
    files: tuple[Path, ...]
    """``audit.csv``, ``audit-drift.csv``, ``audit.md`` and ``audit.png``."""


def audit(
    checkpoint: Checkpoint,
    calibration: str,
    folder: Path | str,
    wanted: AuditFields = DEFAULT_FIELDS,
    settings: AuditSettings = DEFAULT_AUDIT,
    report: Callable[[str], None] = lambda _: None,
    overwrite: bool = False,
) -> AuditOutcome:
    """Audit the physics of a calibration of a checkpoint and write table, text and picture.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of the architecture ``kgml_ag``.
    calibration : str
        Which of its calibrations.
    folder : path
        Where the files go.
    wanted : AuditFields
    settings : AuditSettings
    report : callable
        Takes one line of progress.
    overwrite : bool
        Whether the files of an earlier audit may be replaced.

    Returns
    -------
    outcome : AuditOutcome

    Raises
    ------
    OutputExists
        If there are some and they may not.
    ConfigError
        If the checkpoint is of another architecture or has no such calibration, or the fields cannot be had.
    OutputError
        If the files cannot be written.
    """
    if not isinstance(checkpoint.model, CropMosaic):
        message = (
            f"The physics audit is of KGML-ag; {checkpoint.spec.name!r} is a model of kind {checkpoint.spec.kind!r}. "
            "Give a checkpoint of kind 'kgml_ag'."
        )
        raise ConfigError(message)
    if calibration == "none":
        message = (
            "The audit shows heads of places beside the global model, which is always there: name the heads "
            f"(--calibration), {' or '.join(checkpoint.calibrations) or 'of which this model has none'}."
        )
        raise ConfigError(message)
    chosen = find_calibration(checkpoint, calibration)
    check_replaceable(Path(folder), FILES, "an earlier audit", overwrite)
    grown, position = fields_of_places(chosen.places, wanted)
    fields = with_driver(grown, checkpoint.model, checkpoint.scaler)
    report(f"{len(fields)} fields of {len(chosen.places)} places, {wanted.first} to {wanted.last}")
    table = audit_heads(chosen.heads, chosen.places.names, fields, position, settings)
    return write_audit(table, folder)


def fields_of_places(places: CalibratedPlaces, wanted: AuditFields = DEFAULT_FIELDS) -> tuple[CropFields, np.ndarray]:
    """Grow fields where heads were calibrated.

    Parameters
    ----------
    places : CalibratedPlaces
    wanted : AuditFields

    Returns
    -------
    fields : CropFields
        With the GPP of the process model.
    position : ndarray of int, (n,)
        Place of each field.

    Raises
    ------
    ConfigError
        If a state has too few cells, or the years are out of order.
    """
    cells = []
    for place, state in enumerate(places.states):
        latitude, longitude = places.latitude[[place]], places.longitude[[place]]
        if state:
            latitude, longitude = draw_cells([state], wanted.cells, wanted.seed, wanted.least_crop)
        cells.append((latitude, longitude, np.full(len(latitude), place)))
    latitude, longitude, owner = (np.concatenate(column) for column in zip(*cells, strict=True))
    fields = grow_fields(latitude, longitude, wanted.first, wanted.last)
    return fields, owner[fields.place]


def write_audit(table: pd.DataFrame, folder: Path | str) -> AuditOutcome:
    """Write an audit with calibrated models as CSV, Markdown and PNG.

    Parameters
    ----------
    table : DataFrame
        As `fluxgrid.training.kgml.audit.audit_network` returns.
    folder : path
        Files of an earlier audit are replaced.

    Returns
    -------
    outcome : AuditOutcome

    Raises
    ------
    ConfigError
        If the global model is missing at a place.
    OutputError
        If they cannot be written.
    """
    csv, drifts, text, picture = (Path(folder) / name for name in FILES)
    words, change = audit_table(table), drift(table)
    write_table(table, csv)
    write_table(change, drifts)
    write_text(text, words)
    draw_audit(table, picture)
    return AuditOutcome(table, words, (csv, drifts, text, picture))
