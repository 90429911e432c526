"""Which calibrated heads the cells of a map take."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxgrid.data.cube import CubeReader
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.state_of import state_of
from fluxgrid.models.calibrated import Calibration
from fluxgrid.prediction.blend import Blend, neighbourhood_blend, state_blend
from fluxgrid.upscaling.normals import climate_normals

_TOLERATED = 0.01
"""Share of a map that the global model may speak for without a word."""


def uncalibrated_warning(blend: Blend, wanted: np.ndarray) -> tuple[str, ...]:
    """Warn where no calibrated place speaks.

    Parameters
    ----------
    blend : Blend, (cells, k)
    wanted : ndarray of bool, (y, x)
        Cells that are predicted.

    Returns
    -------
    warnings : tuple of str
        One, or none.
    """
    alone = float((blend.global_weight[wanted.ravel()] >= 1.0).mean()) if wanted.any() else 0.0
    if alone <= _TOLERATED:
        return ()
    return (
        f"{alone:.0%} of the cells have no calibrated place: the global model alone speaks there "
        "(calibration_global_weight 1).",
    )


def map_blend(
    calibration: Calibration,
    grid: Grid,
    origin: tuple[int, int],
    cube: xr.Dataset | None,
    reader: CubeReader | None = None,
) -> Blend:
    """Return the weights of calibrated places in every cell of a map.

    Parameters
    ----------
    calibration : Calibration
        Of the checkpoint. ``state``: a cell takes the head of the state its centre lies in; otherwise those of places
        near it on the ground and in climate.
    grid : Grid
        Of the map.
    origin : (row, column)
        Of the map's first cell in the cube.
    cube : Dataset, optional
        Covariates that climate is taken from; without it the ground alone counts, which is enough for an estimate.
    reader : CubeReader, optional
        Of the same cube, to read it faster.

    Returns
    -------
    blend : Blend, (cells, k)
        Cells run along rows from the upper left.

    Raises
    ------
    UnknownName
        If the cube lacks a variable the climate of the places was taken from.
    CubeError
        If a chunk of the cube cannot be read.
    """
    places = calibration.places
    lon, lat = (axis.ravel() for axis in grid.lonlat())
    if calibration.name == "state":
        return state_blend(places.positions_of(state_of(lat, lon)))
    if cube is None:
        climate = np.full((len(lat), len(places.climate_names)), np.nan)
    else:
        rows, cols = (slice(first, first + count) for first, count in zip(origin, grid.shape, strict=True))
        climate = climate_normals(cube, places.climate_names, rows, cols, reader=reader)
    return neighbourhood_blend(lat, lon, climate, places)
