"""Cells of the reference world with what each of their covers does: what the parts of the mosaic learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.inputs import Inputs, InputSpec, design, prepare
from fluxgrid.data.inputs import Places as InputPlaces
from fluxgrid.data.scaler import Scaler
from fluxgrid.models.crop_mosaic import DYNAMIC, PARTS, STATIC, CropMosaic
from fluxgrid.simulation import Places, places_at
from fluxgrid.simulation.covariates import simulate_places
from fluxgrid.simulation.land import crop_shares
from fluxgrid.simulation.process import KIND_OF, KINDS, run_years

MOSAIC_INPUTS = InputSpec(DYNAMIC, STATIC)
"""Inputs of the mosaic."""
_CROPS = range(3)
"""Columns of the world under corn and soybean."""
_FLUXES = ("gpp", "ra", "rh")


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells over whole calendar years."""

    time: pd.DatetimeIndex
    """Days, (T,)."""
    latitude: np.ndarray
    """(n,), degrees."""
    longitude: np.ndarray
    """(n,), degrees."""
    inputs: Inputs
    """What a map's model reads, (T, n) and (n,)."""
    parts: dict[str, np.ndarray]
    """`PARTS`, (n, T), float32, g m-2 d-1 per unit area of the cover; NaN where a cell has none of it."""
    shares: dict[str, np.ndarray]
    """Share of the cell under ``corn``, ``soybean`` and ``other``, (n, T)."""
    total: dict[str, np.ndarray]
    """True ``gpp``, ``ra`` and ``rh`` of the whole cell, (n, T), float32."""

    def __len__(self) -> int:
        return len(self.latitude)

    @property
    def years(self) -> tuple[slice, ...]:
        """Days of each year."""
        edges = np.searchsorted(self.time.year, np.append(np.unique(self.time.year), 9999))
        return tuple(slice(int(a), int(b)) for a, b in pairwise(edges))

    def tensors(self, scaler: Scaler) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled inputs of the mosaic, (n, T, F) and (n, S)."""
        dynamic, static = design(self.inputs, MOSAIC_INPUTS, scaler)
        return torch.from_numpy(dynamic), torch.from_numpy(static)


def observe_cells(latitude: np.ndarray, longitude: np.ndarray, first: int, last: int) -> Cells:
    """Return cells with their covariates and the truth of each cover.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
    first, last : int
        Calendar years, both included.

    Returns
    -------
    cells : Cells
    """
    places = places_at(latitude, longitude)
    time = pd.date_range(f"{first}-01-01", f"{last}-12-31", name="time")
    columns = {index: _pure(places, index, first, last) for index in _CROPS}
    parts, shares = _crop_parts(places, columns, time)
    other = places.shares.copy()
    other[:, list(_CROPS)] = 0.0
    area = other.sum(axis=1)
    fluxes = _run(replace(places, shares=other), first, last)
    parts |= {f"{name}_other": _per_area(fluxes[name], area[:, None]) for name in _FLUXES}
    shares["other"] = np.broadcast_to(area[:, None], (len(places.latitude), len(time)))
    total = {name: fluxes[name] + sum(places.shares[:, [i]] * columns[i][name] for i in _CROPS) for name in _FLUXES}
    return Cells(
        time,
        places.latitude,
        places.longitude,
        cell_inputs(places, time),
        {name: parts[name].astype(np.float32) for name in PARTS},
        shares,
        {name: values.astype(np.float32) for name, values in total.items()},
    )


def cell_inputs(places: Places, time: pd.DatetimeIndex) -> Inputs:
    """Return what the mosaic reads at places of the world, (T, n) and (n,), as a map would."""
    names = MOSAIC_INPUTS.names
    known = simulate_places(places, time, names)
    forcings: Mapping[str, np.ndarray] = {name: known[name] for name in MOSAIC_INPUTS.forcings}
    statics = {name: known[name] for name in MOSAIC_INPUTS.static}
    return prepare(InputPlaces(time, "daily", places.latitude, forcings, statics), MOSAIC_INPUTS, {})[0]


def fit_mosaic_scaler(cells: Cells) -> Scaler:
    """Return the scaler of the mosaic's inputs, fitted on training cells."""
    return Scaler.fit({**cells.inputs.dynamic, **cells.inputs.static})


def set_mosaic_scales(mosaic: CropMosaic, scaler: Scaler) -> None:
    """Tell a mosaic the scaler its inputs come in."""
    moments = {name: (mean, std) for name, mean, std in zip(scaler.names, scaler.mean, scaler.std, strict=True)}
    mosaic.set_input_scales(*(torch.tensor([moments[name] for name in names]).t() for names in (DYNAMIC, STATIC)))


def _pure(places: Places, column: int, first: int, last: int) -> dict[str, np.ndarray]:
    """Return the fluxes of one column at all places, (n, T), per unit area of it."""
    shares = np.zeros_like(places.shares)
    shares[:, column] = 1.0
    return _run(replace(places, shares=shares), first, last)


def _run(places: Places, first: int, last: int) -> dict[str, np.ndarray]:
    """Run the process model, (n, T)."""
    years = [{name: year.daily[name] for name in _FLUXES} for year in run_years(places, first, last)]
    return {name: np.concatenate([year[name] for year in years], axis=1) for name in _FLUXES}


def _crop_parts(
    places: Places, columns: dict[int, dict[str, np.ndarray]], time: pd.DatetimeIndex
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return GPP of each crop per unit of its area, and its share of the cell, (n, T)."""
    year = time.year.to_numpy()
    years, position = np.unique(year, return_inverse=True)
    by_year = dict(zip(("corn", "soybean"), crop_shares(places, years), strict=True))
    parts, shares = {}, {}
    for crop, share in by_year.items():
        grown = np.zeros((len(places.latitude), len(time)))
        for column in _CROPS:
            grows = np.array([KINDS[KIND_OF[odd, column]] == crop for odd in (0, 1)])[year % 2]
            grown += grows * places.shares[:, [column]] * columns[column]["gpp"]
        shares[crop] = share[:, position]
        parts[f"gpp_{crop}"] = _per_area(grown, shares[crop])
    return parts, shares


def _per_area(flux: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return a flux per unit of its area, NaN where there is none."""
    return np.divide(flux, area, out=np.full_like(flux, np.nan), where=np.broadcast_to(area > 0, flux.shape))
