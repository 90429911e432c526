"""`fluxgrid world describe`: maps, seasonal curves and a table of the truth of the reference world for a year."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.map_places import COVERS, MapPlaces, map_places
from fluxgrid.evaluation.map_score import Cells, MapScore
from fluxgrid.evaluation.map_tables import border_table, totals_table
from fluxgrid.files import check_replaceable, write_text
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region, find_region
from fluxgrid.output.panels import Sheet
from fluxgrid.provenance import git_commit, now
from fluxgrid.simulation import TRUTH, WORLD_VERSION, check_world, places_at, simulate, world_digest
from fluxgrid.variables import MAP_FLUXES
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.world import DEMO_YEAR
from fluxgrid.workflows.world_pictures import draw_world_fluxes, draw_world_land, draw_world_seasons
from fluxgrid.workflows.world_truth import busy_tiles, truth_tiles

DESCRIBE_RESOLUTION = 0.25
"""Cell size of the pictures, degrees."""

_FILES = ("world.json", "covers.csv", "states.csv", "fluxes.png", "land.png", "seasons.png")
_FIELDS = ("cover", "soc", "precipitation")


@dataclass(frozen=True, eq=False)
class DescribeOutcome:
    """A year of the world in numbers."""

    about: dict[str, Any]
    """World, region, year, resolution."""
    covers: pd.DataFrame
    """Columns cover, cells, land_area_km2, gpp, reco, nee (g m-2 yr-1) and gpp_TgC, reco_TgC, nee_TgC."""
    states: pd.DataFrame
    """The same by state and for the region (first)."""
    seasons: pd.DataFrame
    """Columns cover, month, gpp, reco, nee: monthly means, g m-2 d-1."""
    borders: pd.DataFrame
    """Columns flux, truth: step at state borders."""
    folder: Path
    """Where pictures and tables stand."""


def describe(
    region: str = "midwest",
    year: int = DEMO_YEAR,
    out: str | Path | None = None,
    resolution: float = DESCRIBE_RESOLUTION,
    overwrite: bool = False,
    progress: ProgressMaker = silent,
) -> DescribeOutcome:
    """Describe a year of the reference world.

    Parameters
    ----------
    region : str
        Name, polygon file or box.
    year : int
    out : path, optional
        Folder of pictures and tables; ``world/<region>_<year>`` by default.
    resolution : float
        Cell size, degrees.
    overwrite : bool
        Whether an earlier description may be replaced.
    progress : ProgressMaker

    Returns
    -------
    outcome : DescribeOutcome

    Raises
    ------
    OutputExists
        If the folder holds an earlier description.
    ConfigError
        If region or year leave the world.
    FluxgridError
        If the region is unknown or results cannot be written.
    """
    area = find_region(region)
    folder = Path(out or f"world/{area.name}_{year}").expanduser()
    check_replaceable(folder, _FILES, "an earlier description", overwrite)
    grid = Grid.from_bounds(area.bounds, resolution)
    time = _days_of(year)
    check_world(grid, time[0], time[-1], TRUTH)
    places = map_places(area, grid)
    score, fields = _gather(grid, places, time, progress)
    sheet = Sheet(grid, area)
    outcome = DescribeOutcome(
        about=_about(area, year, resolution, int(score.added.sum())),
        covers=_cover_table(score, places, fields["cover"]),
        states=_state_table(score, places),
        seasons=_season_table(score),
        borders=border_table(score, places)[["flux", "truth"]],
        folder=folder,
    )
    _write(outcome)
    annual = {flux: places.on_grid(_annual(score, flux)) for flux in MAP_FLUXES}
    maps = {name: places.on_grid(values) for name, values in fields.items()}
    draw_world_fluxes(annual, sheet, year, folder / "fluxes.png")
    draw_world_land(maps, sheet, year, folder / "land.png")
    draw_world_seasons(outcome.seasons, sheet, year, folder / "seasons.png")
    return outcome


def _days_of(year: int) -> pd.DatetimeIndex:
    """Return the days of a year."""
    try:
        return pd.date_range(f"{year:04d}-01-01", f"{year:04d}-12-31", name="time")
    except (ValueError, OverflowError) as error:
        message = f"There is no year {year} in the world. Give one such as --year {DEMO_YEAR}."
        raise ConfigError(message) from error


def _gather(
    grid: Grid, places: MapPlaces, time: pd.DatetimeIndex, progress: ProgressMaker
) -> tuple[MapScore, dict[str, np.ndarray]]:
    """Simulate the year tile by tile; return the truth as a perfect map, and the other fields, (cells,)."""
    wanted = places.on_grid(places.weight > 0)
    number = places.on_grid(np.arange(wanted.size))
    score = MapScore(time, "daily", wanted.size, places.states, COVERS)
    fields = {name: np.full(wanted.size, np.nan) for name in _FIELDS}
    longitude, latitude = (degrees.ravel() for degrees in grid.lonlat())
    with progress("Simulating the year", len(busy_tiles(grid, wanted, time, "daily")), "tiles") as shown:
        for tile, truth in truth_tiles(grid, wanted, time, "daily"):
            index = number[tile.rows, tile.cols][truth.cells]
            score.add(Cells(index, places.weight[index], places.state[index], truth.cover), truth.fluxes, truth.fluxes)
            where = latitude[index], longitude[index]
            fields["cover"][index] = truth.cover
            fields["soc"][index] = places_at(*where).statics["soc"]
            fields["precipitation"][index] = simulate(*where, time, ["precipitation"])["precipitation"].sum(axis=0)
            shown.advance(1, amount=float(len(time) * len(index)))
    return score, fields


def _annual(score: MapScore, flux: str) -> np.ndarray:
    """Return the sum of the year in each cell, g m-2, NaN where there is no land."""
    return np.where(score.added, score.mass[flux][1].sum(axis=0), np.nan)


def _cover_table(score: MapScore, places: MapPlaces, cover: np.ndarray) -> pd.DataFrame:
    """Return land, means and totals by main cover."""
    rows = []
    for k, name in enumerate(COVERS):
        here = cover == k
        if here.any():
            rows.append({"cover": name, "cells": int(here.sum()), **_fluxes(score, np.where(here, places.weight, 0.0))})
    return pd.DataFrame(rows)


def _fluxes(score: MapScore, land: np.ndarray) -> dict[str, float]:
    """Return area, mean and total of the fluxes over some land, (cells,), m2."""
    grams = {flux: float(np.nan_to_num(_annual(score, flux)) @ land) for flux in ("gpp", "reco", "nee")}
    area = float(land.sum())
    means = {flux: total / area for flux, total in grams.items()}
    return {"land_area_km2": area / 1e6, **means, **{f"{flux}_TgC": total / 1e12 for flux, total in grams.items()}}


def _state_table(score: MapScore, places: MapPlaces) -> pd.DataFrame:
    """Return land, means and totals of the region and its states."""
    totals = totals_table(score, places)
    table = totals.query("flux == 'nee'")[["level", "name", "land_area_km2"]].reset_index(drop=True)
    for flux in ("gpp", "reco", "nee"):
        mass = totals.query("flux == @flux")["truth_TgC"].to_numpy()
        table[flux], table[f"{flux}_TgC"] = mass * 1e6 / table["land_area_km2"], mass
    return table[table["land_area_km2"] > 0].reset_index(drop=True)


def _season_table(score: MapScore) -> pd.DataFrame:
    """Return the monthly means of each main cover."""
    frames = []
    for k, name in enumerate(score.covers):
        sums = {flux: score.curves[flux][:, :, k] for flux in ("gpp", "reco", "nee")}  # of map, of truth, of weight
        if not sums["nee"][2].all():
            continue  # no cell of this cover
        means = {flux: truth / weight for flux, (_, truth, weight) in sums.items()}
        frames.append(pd.DataFrame({"cover": name, "month": range(1, 13), **means}))
    return pd.concat(frames, ignore_index=True)


def _about(region: Region, year: int, resolution: float, cells: int) -> dict[str, Any]:
    """Return what stands with every table."""
    return {
        "world_version": WORLD_VERSION,
        "world_digest": world_digest(),
        "region": region.title,
        "year": year,
        "resolution": resolution,
        "cells": cells,
        "synthetic": True,
        "commit": git_commit(),
        "created": now(),
    }


def _write(outcome: DescribeOutcome) -> None:
    """Write the tables."""
    stamp = {key: outcome.about[key] for key in ("world_version", "world_digest", "region", "year")}
    for name, table in (("covers.csv", outcome.covers), ("states.csv", outcome.states)):
        write_text(outcome.folder / name, table.assign(**stamp).to_csv(index=False, float_format="%.9g"))
    tables = {
        "covers": outcome.covers, "states": outcome.states, "seasons": outcome.seasons, "border_step": outcome.borders
    }  # fmt: skip
    rows = {name: json.loads(table.to_json(orient="records", double_precision=10)) for name, table in tables.items()}
    write_text(outcome.folder / "world.json", json.dumps({**outcome.about, **rows}, indent=1) + "\n")
