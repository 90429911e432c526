"""Cubes: lazy gridded covariates with the names, units and axes of fluxgrid."""

from fluxgrid.data.cube.build import UNSTATED, grid_of, open_cube, step_of
from fluxgrid.data.cube.check import CubeReport, check_cube
from fluxgrid.data.cube.chunks import Reading, reading_of, rechunk_advice
from fluxgrid.data.cube.digest import input_digest

__all__ = [
    "UNSTATED",
    "CubeReport",
    "Reading",
    "check_cube",
    "grid_of",
    "input_digest",
    "open_cube",
    "reading_of",
    "rechunk_advice",
    "step_of",
]
