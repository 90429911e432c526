"""`fluxgrid cube check`: whether a file is a sound cube, and one that a model can use."""

from __future__ import annotations

from dataclasses import replace

from fluxgrid.data.cube import CubeReport, check_cube, open_cube, step_of
from fluxgrid.errors import CubeError
from fluxgrid.models import ModelSpec, load_checkpoint


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
    if spec.synthetic:
        problems.append(f"the model {spec.name!r} was trained on simulated towers: it is not for cubes of your own")
    try:
        step = step_of(open_cube(path, mapping))
    except CubeError:
        return problems  # the report has said why it does not open
    if step != spec.step:
        problems.append(f"time step: the cube is {step}, the model {spec.step}; choose another model or cube")
    return problems
