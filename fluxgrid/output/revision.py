"""How a staged year differs from the state before it: totals by place, values lost, and what is wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import FluxgridError
from fluxgrid.geo.tiles import Tile
from fluxgrid.output.flags import NO_VALUE
from fluxgrid.output.store import open_store
from fluxgrid.output.totals import Units
from fluxgrid.variables import GRAMS_PER_TG, MAP_FLUXES, VARIABLES

_CLOSURE = 1e-3
"""Largest difference of NEE and RECO - GPP, g m-2 d-1 for each g m-2 d-1 of the larger one, and at least 1."""


@dataclass(frozen=True, eq=False)
class Missing:
    """Cell-steps of land within what is covered, and those of them without a value."""

    steps: int
    missing: int

    @property
    def share(self) -> float:
        """Share without a value, 0 to 1."""
        return self.missing / self.steps if self.steps else 0.0


@dataclass(frozen=True, eq=False)
class Revision:
    """A calendar year before and after."""

    year: int
    tiles: tuple[str, ...]
    """Tiles that are staged."""
    places: tuple[str, ...]
    """Region first, then its states."""
    before: Mapping[str, np.ndarray]
    """By flux: total of each place in the state before, Tg of carbon; all zero in a new year."""
    after: Mapping[str, np.ndarray]
    """The same in what is staged, with the tiles that stay."""
    common: Mapping[str, tuple[float, float]]
    """By flux: total of the region before and after, over cells and steps that have a value in both, Tg of carbon."""
    missing_before: Missing
    missing_after: Missing
    problems: tuple[str, ...]
    """What is wrong in the staged tiles."""

    @property
    def is_new(self) -> bool:
        """Whether there was no such year before."""
        return self.missing_before.steps == 0


@dataclass
class _Sums:
    """What is added up tile by tile."""

    places: int
    before: dict[str, np.ndarray] = field(default_factory=dict)
    after: dict[str, np.ndarray] = field(default_factory=dict)
    common: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = {flux: np.zeros(self.places) for flux in MAP_FLUXES}
        self.after = {flux: np.zeros(self.places) for flux in MAP_FLUXES}
        self.common = {flux: np.zeros(2) for flux in MAP_FLUXES}
        self.missing = {which: np.zeros(2, int) for which in ("before", "after")}


@dataclass(frozen=True, eq=False)
class Frame:
    """What all years of a region have in common."""

    tiles: Mapping[str, Tile]
    """All tiles of the map by name."""
    units: Units
    """Places and their land in each cell."""
    wanted: np.ndarray
    """Cells to predict, bool (y, x)."""
    step: str


def revise(
    frame: Frame, year: int, old: xr.Dataset | None, new: Path, staged: frozenset[str], covered: tuple[str | None, str]
) -> Revision:
    """Compare a staged year with the state before it, one tile at a time.

    Parameters
    ----------
    frame : Frame
    year : int
    old : Dataset or None
        As published; None if the year is new.
    new : Path
        Map store with the staged tiles.
    staged : frozenset of str
        Their names; all others stay as they are.
    covered : (str or None, str)
        End of what is covered before and after, ISO 8601: only steps before it count as missing.

    Returns
    -------
    revision : Revision
    """
    fresh = open_store(new, dask=False)
    time = pd.DatetimeIndex(fresh["time"].values)
    ends = step_ends(time, frame.step)
    days = ((ends - time) / pd.Timedelta(days=1)).to_numpy("float64")
    known = [0 if end is None else int((ends <= pd.Timestamp(end)).sum()) for end in covered]
    sums = _Sums(len(frame.units.table))
    for name, tile in frame.tiles.items():
        if not frame.wanted[tile.rows, tile.cols].any():
            continue
        before = _values(old, tile) if old is not None else None
        after = _values(fresh, tile) if name in staged else before
        if name in staged:
            sums.problems += [f"tile {name}: {text}" for text in _problems(fresh, tile, after or {}, frame.wanted)]
        _add(sums, frame, tile, (before, after), days, known if old is not None else [0, known[1]])
    places = tuple(frame.units.table["name"])
    counts = {which: Missing(int(found[0]), int(found[1])) for which, found in sums.missing.items()}
    common = {flux: (float(pair[0]), float(pair[1])) for flux, pair in sums.common.items()}
    problems = tuple(sums.problems)
    totals = sums.before, sums.after, common
    return Revision(year, tuple(sorted(staged)), places, *totals, counts["before"], counts["after"], problems)


def _values(dataset: xr.Dataset, tile: Tile) -> dict[str, np.ndarray] | None:
    """Return the fluxes of a tile, (T, h, w); None if they cannot be read, for then there is nothing to compare."""
    try:
        return {flux: np.asarray(dataset[flux][:, tile.rows, tile.cols].values) for flux in MAP_FLUXES}
    except (FluxgridError, OSError, RuntimeError, ValueError):
        return None


def _add(
    sums: _Sums,
    frame: Frame,
    tile: Tile,
    pair: tuple[dict[str, np.ndarray] | None, dict[str, np.ndarray] | None],
    days: np.ndarray,
    known: list[int],
) -> None:
    """Add a tile to the sums."""
    cells = np.arange(frame.wanted.size).reshape(frame.wanted.shape)[tile.rows, tile.cols].ravel()
    land, wanted = frame.units.land[:, cells], frame.wanted[tile.rows, tile.cols]
    for which, values, steps in zip(("before", "after"), pair, known, strict=True):
        if values is not None:
            lost = np.isnan(values["nee"][:steps, wanted])
            sums.missing[which] += (lost.size, int(lost.sum()))
    for flux in MAP_FLUXES:
        for target, values in zip((sums.before, sums.after), pair, strict=True):
            if values is not None:
                target[flux] += land @ _mass(values[flux], days) / GRAMS_PER_TG
        if pair[0] is not None and pair[1] is not None:
            both = np.isfinite(pair[0][flux]) & np.isfinite(pair[1][flux])
            masses = [_mass(np.where(both, values[flux], np.nan), days) for values in pair if values is not None]
            sums.common[flux] += [float((land[0] @ mass)[0]) / GRAMS_PER_TG for mass in masses]


def _mass(values: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return g m-2 of each cell over all steps, (h * w,), from g m-2 d-1, (T, h, w)."""
    flat = np.nan_to_num(values.reshape(len(values), -1).astype("float64"))
    return days @ flat


def _problems(dataset: xr.Dataset, tile: Tile, values: dict[str, np.ndarray], wanted: np.ndarray) -> list[str]:
    """Say what is wrong with the values of a staged tile."""
    if not values:
        return ["it cannot be read"]
    flags = np.asarray(dataset["quality_flag"][:, tile.rows, tile.cols].values).astype("int64")
    nee, gpp, reco = (values[flux] for flux in MAP_FLUXES)
    known, reasons = np.isfinite(nee), (flags & int(NO_VALUE)) != 0
    problems = []
    if (count := int((known == reasons).sum())) > 0:
        problems.append(f"{count} cell-steps have a value and a reason for none in quality_flag, or neither")
    if (count := int((known & ~wanted[tile.rows, tile.cols]).sum())) > 0:
        problems.append(f"{count} cell-steps outside the region or without land have a value")
    with np.errstate(invalid="ignore"):
        off = np.abs(nee - (reco - gpp)) > _CLOSURE * np.maximum(1, np.maximum(np.abs(reco), np.abs(gpp)))
    if (count := int(off.sum())) > 0:
        problems.append(f"NEE is not RECO - GPP at {count} cell-steps")
    for flux, array in values.items():
        low, high = VARIABLES[flux].valid_range or (-np.inf, np.inf)
        if (count := int(((array < low) | (array > high) | np.isinf(array)).sum())) > 0:
            problems.append(f"{flux} leaves {low:g} to {high:g} g m-2 d-1 at {count} cell-steps")
    return problems
