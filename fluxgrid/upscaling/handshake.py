"""The handshake: whether a cube gives a model what it needs, here and then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.cube import grid_of, reading_of, rechunk_advice, step_of
from fluxgrid.data.records import Segment
from fluxgrid.data.steps import Step, step_ends
from fluxgrid.errors import GridError, IncompatibleCube, itemise
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region
from fluxgrid.models import ModelSpec, model_config
from fluxgrid.models.windowed import WindowConfig


@dataclass(frozen=True, eq=False)
class Agreement:
    """What cube, model, region and period have agreed on."""

    grid: Grid
    """Of the map."""
    origin: tuple[int, int]
    """Its first row and column in the cube."""
    time: pd.DatetimeIndex
    """Steps of the cube."""
    segments: tuple[Segment, ...]
    """Spin-up and years."""
    warnings: tuple[str, ...]
    """What a user should know and may accept."""


def shake_hands(
    cube: xr.Dataset,
    spec: ModelSpec,
    region: Region,
    start: pd.Timestamp | None,
    end: pd.Timestamp | None,
    tile: int | None = None,
) -> Agreement:
    """Check a cube against a model, a region and a period.

    Parameters
    ----------
    cube : Dataset
    spec : ModelSpec
    region : Region
    start, end : Timestamp, optional
        First and last day wanted, both included; all the cube has by default. Steps that lie in the period only in
        part are left out.
    tile : int, optional
        Side of the tiles the cube will be read by, cells; left out, what reading costs is not looked at.

    Returns
    -------
    agreement : Agreement

    Raises
    ------
    IncompatibleCube
        Listing every disagreement at once.
    """
    time = pd.DatetimeIndex(cube.indexes["time"])
    step = step_of(cube)
    problems = [*_variable_problems(cube, spec), *_step_problems(step, spec), *_closure_problems(spec)]
    first, last = start or time[0], end or _last_day(time, step)
    problems += _period_problems(time, first, last, step)
    grid = _cut(cube, region, problems)
    wanted = np.flatnonzero((time >= first) & (step_ends(time, step) <= last + pd.Timedelta(days=1)))
    if not problems and not len(wanted):
        problems.append(
            f"period: {first:%Y-%m-%d} to {last:%Y-%m-%d} holds no whole {step} step; give a longer one (--start, "
            "--end)"
        )
    if problems or grid is None:
        raise IncompatibleCube(itemise(f"The cube and the model {spec.name!r} do not fit", problems))
    segments = spec.segments(time[: wanted[-1] + 1], int(wanted[0]))
    rows, cols = grid_of(cube).window(grid)
    warnings = _warnings(cube, spec, segments, time, int(wanted[0]))
    if tile is not None:
        years = [segment.steps for segment in segments]
        reading = reading_of(cube, spec.inputs.names, years, _cuts(rows, tile), _cuts(cols, tile))
        warnings = (*warnings, *rechunk_advice(cube, reading))
    return Agreement(grid, (rows.start, cols.start), time, segments, warnings)


def _cuts(whole: slice, size: int) -> list[slice]:
    """Cut rows or columns of the cube as the map's tiles do."""
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _closure_problems(spec: ModelSpec) -> list[str]:
    """Say that fluxes which do not add up make no map."""
    if spec.closure != "free":
        return []
    return ["closure: the model leaves NEE free of RECO - GPP; train it with model.closure: derived or projected"]


def _variable_problems(cube: xr.Dataset, spec: ModelSpec) -> list[str]:
    """Say which inputs the cube lacks."""
    have = ", ".join(sorted(map(str, cube.data_vars)))
    return [
        f"variable {name!r}: the model needs it, the cube has {have}. Add it to the cube or its mapping"
        for name in spec.inputs.names
        if name not in cube.data_vars
    ]


def _step_problems(step: Step, spec: ModelSpec) -> list[str]:
    """Say whether the time steps differ, or the spin-up is too short for the windows."""
    problems = []
    if step != spec.step:
        problems.append(
            f"time step: the cube is {step}, the model {spec.step}. Choose another model (--model) or cube (--cube)"
        )
    config = model_config(spec.kind, spec.settings)
    if isinstance(config, WindowConfig) and (problem := config.too_far_back(spec.step, spec.spin_up_years)):
        problems.append(
            f"window: {problem}. Choose --window-mode stream where the model has it, or train with a shorter window"
        )
    return problems


def _period_problems(time: pd.DatetimeIndex, first: pd.Timestamp, last: pd.Timestamp, step: Step) -> list[str]:
    """Say whether the cube covers the period."""
    if last < first:
        return [f"period: it ends on {last:%Y-%m-%d}, before it begins on {first:%Y-%m-%d} (--start, --end)"]
    have = f"the cube covers {time[0]:%Y-%m-%d} to {_last_day(time, step):%Y-%m-%d}"
    problems = []
    if first < time[0]:
        problems.append(f"period: {have} and so begins after {first:%Y-%m-%d}. Give a later --start")
    if last > _last_day(time, step):
        problems.append(f"period: {have} and so ends before {last:%Y-%m-%d}. Give an earlier --end")
    return problems


def _last_day(time: pd.DatetimeIndex, step: Step) -> pd.Timestamp:
    """Return the last day the steps cover."""
    return time[-1] + (pd.offsets.MonthEnd(0) if step == "monthly" else pd.Timedelta(0))


def _cut(cube: xr.Dataset, region: Region, problems: list[str]) -> Grid | None:
    """Return the part of the cube's grid that holds the region, noting where it cannot."""
    grid = grid_of(cube)
    try:
        return grid.covering(region.bounds)
    except GridError as error:
        problems.append(f"region {region.name!r}: {error} Choose a region inside it (--region)")
        return None


def _warnings(
    cube: xr.Dataset, spec: ModelSpec, segments: tuple[Segment, ...], time: pd.DatetimeIndex, begin: int
) -> tuple[str, ...]:
    """Return what is allowed but should be known, of a period that begins with so many steps before it."""
    warnings, first = [], time[begin]
    day = cube.attrs.get("day_definition")
    if spec.step == "daily" and day and day != spec.day_definition:
        warnings.append(f"A day of the cube is in {day}, of the model in {spec.day_definition}: days differ by hours.")
    recycled = [segment.steps for segment in segments if segment.recycled]
    if recycled:
        low, high = (min(steps.start for steps in recycled) - begin, recycled[0].stop - begin)
        which = f"steps {low + 1} to {high} of the period" if low else f"the first {high} steps of the period"
        length = f"{spec.spin_up_years} year(s)" if spec.steps_kept is None else f"{spec.steps_kept} steps"
        warnings.append(
            f"The cube does not hold the {length} of spin-up before the period: {which} are run "
            "once more, and its first year carries the flag 'filled'."
        )
    if spec.whole_year_from is not None and first.day_of_year != 1:
        warnings.append(
            f"The period begins on {first:%Y-%m-%d}, inside a year. What the model takes from whole years (residue "
            "after the harvest, yield, code of a place) knows this year from that day on only: what it holds from "
            f"day {spec.whole_year_from + 1} on stays provisional, and is off by more the later the period begins; "
            "the next year starts from it. Begin on 1 January (--start)."
        )
    return tuple(warnings)
