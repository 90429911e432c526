"""The cube of a run without data: the synthetic world, built into the run folder."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import xarray as xr

from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.errors import ConfigError, FluxgridError, OutputExists
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region
from fluxgrid.models import ModelSpec
from fluxgrid.simulation import FORCINGS, STATICS, build_world, world_template
from fluxgrid.simulation.covariates import check_period
from fluxgrid.simulation.parameters import EXTENT
from fluxgrid.upscaling.cover import region_share
from fluxgrid.upscaling.folder import Mode, check_foreign, remove
from fluxgrid.upscaling.plan import CubeSource
from fluxgrid.workflows.progress import ProgressMaker

DEMO_YEAR = 2019
"""The year of a synthetic map when none is given."""
DEMO_RESOLUTION = 0.1
"""Its cell size in degrees."""
CUBE = "cube.zarr"
"""Name of the synthetic cube in the run folder."""


def demo_period(start: date | None, end: date | None) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last day of a synthetic map.

    Raises
    ------
    ConfigError
        If it ends before it begins.
    """
    first = pd.Timestamp(start) if start else pd.Timestamp(DEMO_YEAR, 1, 1)
    last = pd.Timestamp(end) if end else pd.Timestamp(first.year, 12, 31)
    if last < first:
        message = f"The period ends on {last:%Y-%m-%d}, before it begins on {first:%Y-%m-%d} (--start, --end)."
        raise ConfigError(message)
    return first, last


def synthetic_source(out: Path) -> CubeSource:
    """Return where the synthetic cube of a run folder stands."""
    return CubeSource.of(str(out / CUBE))


def synthetic_template(
    spec: ModelSpec, region: Region, resolution: float | None, start: pd.Timestamp, end: pd.Timestamp
) -> xr.Dataset:
    """Return the synthetic cube of a region without its values, spin-up included.

    Parameters
    ----------
    spec : ModelSpec
        Says how many years of spin-up.
    region : Region
    resolution : float, optional
        Cell size, degrees.
    start, end : Timestamp
        First and last day of the map.

    Returns
    -------
    template : Dataset

    Raises
    ------
    ConfigError
        If the model was not trained in the synthetic world, or the region leaves that world.
    """
    if not spec.synthetic:
        message = (
            f"The model {spec.name!r} needs a cube of covariates: give one with --cube. Only the built-in synthetic "
            "world (--model default) comes with its own."
        )
        raise ConfigError(message)
    grid = _world_grid(region, resolution or DEMO_RESOLUTION)
    first = start - pd.DateOffset(years=spec.spin_up_years)
    wanted = {*spec.inputs.dynamic, *spec.inputs.static, *spec.inputs.classes}
    names = [name for name in (*FORCINGS, *STATICS) if name in wanted]
    if check_period(first, names):
        message = (
            f"The built-in world has satellites and fluxes from {EXTENT.first_year} on, and {spec.name!r} takes "
            f"{spec.spin_up_years} year(s) of spin-up before the period: begin on "
            f"{EXTENT.first_year + spec.spin_up_years}-01-01 or later (--start; {start:%Y-%m-%d} was given)."
        )
        raise ConfigError(message)
    return world_template(grid, first, end, names, region_share(region, grid) > 0)


def build_synthetic(template: xr.Dataset, region: Region, out: Path, mode: Mode, progress: ProgressMaker) -> xr.Dataset:
    """Build a synthetic cube into the run folder, unless it stands there, and open it.

    Parameters
    ----------
    template : Dataset
        From `synthetic_template`.
    region : Region
        Of the template; other cells are not built.
    out : Path
        Run folder.
    mode : {"new", "resume", "overwrite"}
        A cube of another synthetic map is replaced only with "overwrite"; any other cube never.
    progress : ProgressMaker

    Returns
    -------
    cube : Dataset

    Raises
    ------
    OutputExists
        If something else stands there.
    """
    check_foreign(out, mode)
    path, time = out / CUBE, template.indexes["time"]
    if path.exists() and not _is_same(path, template):
        if mode != "overwrite" or not _is_world(path):
            message = f"{path} holds other covariates. Choose another folder (--out)" + (
                ", or say --overwrite to replace them." if _is_world(path) else "; they are not fluxgrid's own."
            )
            raise OutputExists(message)
        remove(path)
    if not path.exists():
        with progress("Building the synthetic world", None, "tiles") as shown:
            grid, names = grid_of(template), map(str, template.data_vars)
            build_world(grid, time[0], time[-1], path, names, shown.set, region_share(region, grid) > 0)
    return open_cube(path)


def _world_grid(region: Region, resolution: float) -> Grid:
    """Return the grid of a region's synthetic cube: never one cell alone, whose size no file would tell."""
    grid = Grid.from_bounds(region.bounds, resolution)
    if grid.shape != (1, 1):
        return grid
    west, east, south, north = grid.bounds
    aside = (west - resolution, east) if east + resolution > 180 else (west, east + resolution)
    return Grid.from_bounds((*aside, south, north), resolution)


def _is_world(path: Path) -> bool:
    """Return whether a store is a synthetic world of any version, grid and period."""
    try:
        return str(open_cube(path).attrs.get("source", "")).startswith("fluxgrid synthetic world")
    except FluxgridError:
        return False


def _is_same(path: Path, template: xr.Dataset) -> bool:
    """Return whether a store holds just the world, grid and period of a template."""
    try:
        cube = open_cube(path)
        same = cube.attrs.get("source") == template.attrs["source"] and grid_of(cube) == grid_of(template)
    except FluxgridError:
        return False
    ours, wanted = cube.indexes["time"], template.indexes["time"]
    cells = xr.open_zarr(path, chunks=None).attrs.get("cells")  # a cube carries no attribute that all do not have
    same = same and cells == template.attrs["cells"] and set(cube.data_vars) == set(template.data_vars)
    return same and (ours[0], ours[-1]) == (wanted[0], wanted[-1])
