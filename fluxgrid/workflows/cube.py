"""`fluxgrid cube`: whether a file is a sound cube that a model can use, and one in chunks that maps read fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.cube import CubeReport, Reading, check_cube, open_cube, reading_of, step_of
from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.data.cube.rechunk import BUDGET_BYTES, Rechunked
from fluxgrid.data.cube.rechunk import rechunk as copy
from fluxgrid.data.cube.stores import zarr_folder
from fluxgrid.errors import ConfigError, CubeError, OutputExists
from fluxgrid.files import check_writable
from fluxgrid.models import ModelSpec, load_checkpoint
from fluxgrid.workflows.about import is_simulated
from fluxgrid.workflows.progress import ProgressMaker, silent


def check(path: str, mapping: str | None = None, model: str | None = None) -> CubeReport:
    """Return every problem of a cube, also for a model if one is named.

    Parameters
    ----------
    path : str
        Zarr store or NetCDF.
    mapping : str, optional
        Mapping YAML or the name of a shipped one.
    model : str, optional
        Shipped checkpoint or folder.

    Returns
    -------
    report : CubeReport

    Raises
    ------
    CubeError, ConfigError, UnknownName, CheckpointError
        If cube, mapping or model cannot be read at all.
    """
    if model is None:
        return check_cube(path, mapping)
    spec = load_checkpoint(model).spec
    report = check_cube(path, mapping, wanted=spec.inputs.names)
    return replace(report, problems=(*report.problems, *_model_problems(path, mapping, spec)))


def _model_problems(path: str, mapping: str | None, spec: ModelSpec) -> list[str]:
    """Return what keeps a model from a cube beside its variables."""
    problems = []
    try:
        cube = open_cube(path, mapping)
    except CubeError:  # the report has said why it does not open
        cube = None
    if spec.synthetic and (cube is None or not is_simulated(cube)):
        problems.append(f"the model {spec.name!r} was trained on simulated towers: it is not for cubes of your own")
    if cube is None:
        return problems
    step = step_of(cube)
    if step != spec.step:
        problems.append(f"time step: the cube is {step}, the model {spec.step}; choose another model or cube")
    return problems


def tile_reading(cube: xr.Dataset) -> Reading:
    """Return how many bytes a map of the cube decodes for each it needs: tiles of 32 cells, calendar years.

    Parameters
    ----------
    cube : Dataset

    Returns
    -------
    reading : Reading
    """
    years = pd.DatetimeIndex(cube.indexes["time"]).year
    found = (np.flatnonzero(years == year) for year in years.unique())
    steps = [slice(int(days[0]), int(days[-1]) + 1) for days in found]
    side = TILE_CHUNK[1]
    cuts = {axis: [slice(a, min(a + side, n)) for a in range(0, n, side)] for axis, n in cube.sizes.items()}
    return reading_of(cube, map(str, cube.data_vars), steps, cuts["y"], cuts["x"])


def rechunk(
    source: str,
    target: str | Path,
    mapping: str | None = None,
    overwrite: bool = False,
    budget: int = BUDGET_BYTES,
    progress: ProgressMaker = silent,
) -> Rechunked:
    """Copy a cube to a zarr store in chunks that maps read fast; see `fluxgrid.data.cube.rechunk`.

    Parameters
    ----------
    source : str
        Zarr store or NetCDF.
    target : path
        The zarr store to make.
    mapping : str, optional
        Mapping YAML or the name of a shipped one, where the file does not name its axes.
    overwrite : bool
        Whether a zarr store at `target` may be replaced, when the new one is ready.
    budget : int
        Most bytes of the arrays held at a time.
    progress : ProgressMaker

    Returns
    -------
    rechunked : Rechunked

    Raises
    ------
    OutputExists
        If there is something at `target` that may not be replaced.
    ConfigError
        If source and target are one folder, or one is inside the other.
    CubeError, OutputError
        If it cannot be read or written.
    """
    place = Path(target).expanduser()
    _check_target(source, place, overwrite)
    with progress("Copying", None, "MB") as shown:
        return copy(source, place, mapping, budget, shown.set, replace=overwrite)


def _check_target(source: str, target: Path, overwrite: bool) -> None:
    """Refuse a target that would harm something, before the work."""
    if "://" not in source:
        ends = Path(source).expanduser().resolve(), target.resolve()
        if ends[0] == ends[1] or ends[0] in ends[1].parents or ends[1] in ends[0].parents:
            message = f"{target} and the source {source} lie in one another; give the copy a place of its own."
            raise ConfigError(message)
    if target.exists() and not (overwrite and zarr_folder(target)):
        hint = "say --overwrite to replace it when the copy is ready" if zarr_folder(target) else "it is no zarr store"
        message = f"{target} exists already. Choose another path; {hint}."
        raise OutputExists(message)
    check_writable(target)
