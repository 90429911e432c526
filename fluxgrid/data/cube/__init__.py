"""Cubes: lazy gridded covariates with the names, units and axes of fluxgrid."""

from fluxgrid.data.cube.build import UNSTATED, grid_of, open_cube, step_of
from fluxgrid.data.cube.check import CubeReport, check_cube
from fluxgrid.data.cube.chunks import Reading, reading_of, rechunk_advice
from fluxgrid.data.cube.digest import InputDigests, input_digest
from fluxgrid.data.cube.stores import metadata_stamp
from fluxgrid.data.cube.window import CubeReader, open_reader

__all__ = [
    "UNSTATED",
    "CubeReader",
    "CubeReport",
    "InputDigests",
    "Reading",
    "check_cube",
    "grid_of",
    "input_digest",
    "metadata_stamp",
    "open_cube",
    "open_reader",
    "reading_of",
    "rechunk_advice",
    "step_of",
]
