"""`fluxgrid world build`: the covariates of the reference world for a region, and beside them, if wanted, the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fluxgrid.errors import ConfigError, OutputExists
from fluxgrid.files import check_writable
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.simulation import TRUTH, build_truth, build_world, check_world
from fluxgrid.upscaling.cover import region_share
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.world import DEMO_RESOLUTION, demo_period


@dataclass(frozen=True)
class BuildOutcome:
    """What was built."""

    cube: Path
    """Store of the covariates."""
    truth: Path | None
    """Store of the true fluxes, if they were asked for."""
    days: int
    shape: tuple[int, int]
    """Rows and columns."""


def build(
    region: str,
    out: str | Path,
    start: date | None = None,
    end: date | None = None,
    resolution: float = DEMO_RESOLUTION,
    variables: Sequence[str] | None = None,
    truth: bool = False,
    progress: ProgressMaker = silent,
) -> BuildOutcome:
    """Build the reference world for a region.

    Parameters
    ----------
    region : str
        Name, polygon file or box.
    out : path
        Where the cube shall be, such as ``cube.zarr``; the truth then stands in ``cube_truth.zarr``.
    start, end : date, optional
        First and last day; one demo year by default.
    resolution : float
        Cell size, degrees.
    variables : sequence of str, optional
        Covariates; all by default.
    truth : bool
        Whether to write the true fluxes too.
    progress : ProgressMaker

    Returns
    -------
    outcome : BuildOutcome

    Raises
    ------
    OutputExists
        If there is something where a store shall be.
    ConfigError
        If a variable is unknown, or region or period leave the world.
    FluxgridError
        If the region is unknown or a store cannot be written.
    """
    cube = Path(out).expanduser()
    hidden = truth_path(cube) if truth else None
    _check_door(cube, hidden, variables)
    first, last = demo_period(start, end)
    place = find_region(region)
    grid = Grid.from_bounds(place.bounds, resolution)
    if grid.shape == (1, 1):
        message = (
            f"{region} fits into one cell of {resolution} degrees. Give a smaller --resolution or a larger region."
        )
        raise ConfigError(message)  # a file of one cell does not tell how large the cell is
    cells = region_share(place, grid) > 0
    check_world(grid, first, last, variables, cells)
    if truth:
        check_world(grid, first, last, TRUTH, cells)
    with progress("Building the covariates", None, "tiles") as shown:
        build_world(grid, first, last, cube, variables, shown.set, cells)
    if hidden is not None:
        with progress("Building the truth", None, "tiles") as shown:
            build_truth(grid, first, last, hidden, shown.set, cells)
    return BuildOutcome(cube, hidden, (last - first).days + 1, grid.shape)


def truth_path(cube: Path) -> Path:
    """Return where the truth of a cube stands: beside it.

    Examples
    --------
    >>> truth_path(Path("maps/cube.zarr")).name
    'cube_truth.zarr'
    """
    return cube.with_name(f"{cube.stem}_truth{cube.suffix}")


def _check_door(cube: Path, hidden: Path | None, variables: Sequence[str] | None) -> None:
    """Refuse what cannot be written or is nothing, before the work."""
    for path in (cube, *([hidden] if hidden else [])):
        if path.exists():
            message = f"{path} exists already. Choose another path (--out), or remove it if it is no longer needed."
            raise OutputExists(message)
        check_writable(path)
    if variables is not None and not variables:
        message = "No variable is named. Give some of them (--variables tmax,tmin), or leave the option out for all."
        raise ConfigError(message)
