"""`fluxgrid plan`: what a map of a region, resolution and period would take, before there is any data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fluxgrid.config import UpscaleConfig
from fluxgrid.data.steps import calendar
from fluxgrid.errors import ConfigError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region, find_region
from fluxgrid.models import Checkpoint, load_checkpoint
from fluxgrid.prediction.blend import Blend
from fluxgrid.prediction.predictor import find_calibration
from fluxgrid.upscaling.estimate import size_of_region
from fluxgrid.upscaling.executor import Executor, default_threads
from fluxgrid.upscaling.heads import map_blend
from fluxgrid.workflows.estimates import measured_estimate
from fluxgrid.workflows.upscale import Outcome, map_layers, pick_device, upscale
from fluxgrid.workflows.world import DEMO_RESOLUTION, demo_period

_LENGTH = re.compile(r"\s*([0-9.eE+-]+)\s*(m|km|deg|degrees)?\s*")
_METRES = {"m": 1.0, "km": 1000.0}


def plan(config: UpscaleConfig, resolution: str | None = None) -> Outcome:
    """Return what a map would take; nothing is written and no cell of a large region is held.

    Parameters
    ----------
    config : UpscaleConfig
        With a cube, the map of that cube is planned as `upscale --dry-run` does; without one, any region, resolution
        and period.
    resolution : str, optional
        ``0.05`` in degrees, or ``250m`` or ``1km`` on an equal-area projection; `config.resolution` by default.

    Returns
    -------
    outcome : Outcome
        With an estimate.

    Raises
    ------
    FluxgridError
        If the region, the model or the resolution is unknown.
    """
    if config.cube is not None:
        if resolution is not None:
            message = f"--resolution {resolution}: a map has the cells of its cube. Leave one of the two out."
            raise ConfigError(message)
        return upscale(config, dry_run=True)
    side, metres = read_resolution(resolution) if resolution is not None else (config.resolution, False)
    if config.region is None:
        message = "No region is given. Say --region NAME (see `fluxgrid regions`), a polygon file, or W,S,E,N."
        raise ConfigError(message)
    region, checkpoint = find_region(config.region), load_checkpoint(config.model, config.window_mode, config.precision)
    spec = checkpoint.spec
    start, end = demo_period(config.start, config.end)
    time = calendar(start - pd.DateOffset(years=spec.spin_up_years), end, spec.step)
    segments = spec.segments(time, int(time.searchsorted(start)))
    layers = map_layers(checkpoint)
    blend = None
    if config.calibration != "none":
        blend = _block_of(region, checkpoint, config.calibration)
        layers = replace(layers, calibrated_places=find_calibration(checkpoint, config.calibration).places.names)
    size = size_of_region(region, side or DEMO_RESOLUTION, metres, config.tile, spec.step, segments, layers)
    executor = Executor(config.workers, config.threads or default_threads(config.workers), config.scheduler)
    device = pick_device(config.device)
    guess = measured_estimate(checkpoint, size, time, device, executor, config.calibration, blend)
    out = Path(config.out or f"maps/{region.name}").expanduser()
    return Outcome(out, "planned", estimate=guess, warnings=size.notes)


def _block_of(region: Region, checkpoint: Checkpoint, calibration: str) -> Blend:
    """Return the weights of calibrated places in a block of cells inside a region."""
    point = region.polygon.representative_point()
    west, south = (round(v, 1) for v in (point.x, point.y))
    grid = Grid.from_bounds((west, west + 1.6, south, south + 1.6), 0.1)
    return map_blend(find_calibration(checkpoint, calibration), grid, (0, 0), None)


_WIDEST = 10.0
"""Degrees; more were meant to be metres."""


def read_resolution(text: str) -> tuple[float, bool]:
    """Return the side of a cell, and whether it is in metres.

    Parameters
    ----------
    text : str
        Such as ``0.05``, ``250m`` or ``1 km``.

    Returns
    -------
    side, metres : float, bool

    Raises
    ------
    ConfigError
        If it is none of these.

    Examples
    --------
    >>> read_resolution("0.05"), read_resolution("250m"), read_resolution("1 km")
    ((0.05, False), (250.0, True), (1000.0, True))
    """
    match = _LENGTH.fullmatch(text)
    try:
        number, unit = float(match[1]), match[2] if match else ""  # type: ignore[index]
        if number > 0 and (unit in _METRES or number <= _WIDEST):
            return number * _METRES.get(unit, 1.0), unit in _METRES
    except (TypeError, ValueError):
        pass
    message = (
        f"--resolution {text!r} is no size of a cell. Give degrees (0.05, at most {_WIDEST:g}), or metres with their "
        "unit (250m, 1km)."
    )
    raise ConfigError(message)
