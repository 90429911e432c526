"""`fluxgrid world score`: any map against the truth of the reference world, on the map's own cells and steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import IncompatibleCube, OutputExists, itemise
from fluxgrid.evaluation.map_places import COVERS, MapPlaces, map_places
from fluxgrid.evaluation.map_score import Cells, MapScore
from fluxgrid.evaluation.map_tables import border_table, coverage, score_table, seasonal_course, totals_table
from fluxgrid.files import check_replaceable, check_writable, write_text
from fluxgrid.geo.region import Region
from fluxgrid.output.panels import Sheet
from fluxgrid.output.stream import blocks, read_block
from fluxgrid.provenance import git_commit, now
from fluxgrid.simulation import WORLD_VERSION, world_digest
from fluxgrid.simulation.parameters import EXTENT
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.scored_map import ScoredMap, open_scored_map
from fluxgrid.workflows.world_pictures import draw_score
from fluxgrid.workflows.world_truth import busy_tiles, in_world, truth_tiles

_FILES = ("score.json", "score.csv", "totals.csv", "score.png")


@dataclass(frozen=True, eq=False)
class ScoreOutcome:
    """Scores of a map."""

    about: dict[str, Any]
    """World, map, region, period and what was and was not scored: stands with every table."""
    scores: pd.DataFrame
    """From `score_table`."""
    totals: pd.DataFrame
    """From `totals_table`."""
    borders: pd.DataFrame
    """From `border_table`."""
    seasons: pd.DataFrame
    """Columns flux, month, map, truth: mean course of the year over the region's land, g m-2 d-1."""
    folder: Path
    """Where tables and picture stand."""


def score_map(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    region: str | None = None,
    json_file: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: ProgressMaker = silent,
) -> ScoreOutcome:
    """Score a map against the truth of the reference world.

    Parameters
    ----------
    paths : sequence of path
        A run folder, a zarr store, or NetCDF files of daily or monthly NEE, GPP and RECO (or some of them).
    out : path, optional
        Folder for ``score.json``, ``score.csv``, ``totals.csv`` and ``score.png``; ``<map>-score`` by default.
    region : str, optional
        Score this region only; the map's own by default, else all of it.
    json_file : path, optional
        Where the JSON shall stand too.
    force : bool
        Score a map that was not made on this world; the tables say so.
    overwrite : bool
        Whether an earlier score may be replaced.
    progress : ProgressMaker

    Returns
    -------
    outcome : ScoreOutcome

    Raises
    ------
    IncompatibleCube
        If the map was not made on this world, or nothing of it lies there; all reasons at once.
    OutputExists
        If the folder holds an earlier score.
    FluxgridError
        If map or region cannot be read, or results cannot be written.
    """
    folder = Path(out).expanduser() if out is not None else _default_folder(Path(paths[0]).expanduser())
    _check_door(folder, json_file, overwrite)
    scored = open_scored_map(paths)
    foreign = _check_world(scored, force)
    area, region_land = scored.region(region)
    places = map_places(area, scored.grid, region_land)
    wanted = places.on_grid(places.weight > 0)
    reached = wanted & in_world(scored.grid)
    _check_reach(scored, area, reached)
    score = MapScore(scored.time, scored.step, wanted.size, places.states, COVERS, scored.fluxes)
    _gather(scored, places, reached, score, progress)
    about = _about(scored, area, foreign, score, int((wanted & ~reached).sum()))
    outcome = ScoreOutcome(
        about, score_table(score), totals_table(score, places), border_table(score, places), _seasons(score), folder
    )
    _write(outcome, json_file)
    draw_score(score, places, Sheet(places.grid, area), outcome.scores, about, folder / "score.png")
    return outcome


def _default_folder(path: Path) -> Path:
    """Return where scores stand if nothing is said: beside the map."""
    base = path.with_suffix("") if path.suffix in (".nc", ".zarr") else path.absolute() if path.name == "" else path
    name = "".join(letter for letter in base.name if letter not in "*?[]") or "map"
    return base.with_name(f"{name}-score")


def _check_door(folder: Path, json_file: str | Path | None, overwrite: bool) -> None:
    """Refuse what cannot be written, before the work."""
    check_replaceable(folder, _FILES, "an earlier score", overwrite)
    if json_file is not None and Path(json_file).exists() and not overwrite:
        message = f"{json_file} exists. Choose another file (--json), or say --overwrite to replace it."
        raise OutputExists(message)
    if json_file is not None:
        check_writable(Path(json_file).absolute().parent)


def _check_world(scored: ScoredMap, force: bool) -> bool:
    """Return whether a map was made elsewhere than on this world, which must be forced."""
    own = (WORLD_VERSION, world_digest())
    if scored.world == own:
        return False
    if force:
        return True
    made = (
        "names no synthetic world"
        if scored.world is None
        else "comes from synthetic world {}, parameters {}".format(*scored.world)
    )
    message = (
        f"{scored.name} was not made on this reference world (version {own[0]}, parameters {own[1]}): it {made}. Make "
        "it again with this version of fluxgrid, or say --force to score it all the same; the tables then say so."
    )
    raise IncompatibleCube(message)


def _check_reach(scored: ScoredMap, region: Region, reached: np.ndarray) -> None:
    """Refuse a map that the world has no truth for."""
    problems = []
    if not reached.any():
        west, east, south, north = EXTENT.bounds
        problems.append(
            f"none of its land in {region.title} lies in the world (longitudes {west}..{east}, latitudes "
            f"{south}..{north}); choose another region (--region)"
        )
    if scored.time[0].year < EXTENT.first_year:
        problems.append(
            f"it begins on {scored.time[0]:%Y-%m-%d}, the truth on {EXTENT.first_year}-01-01; cut what comes before"
        )
    if problems:
        raise IncompatibleCube(itemise(f"{scored.name} cannot be scored", problems))


def _gather(
    scored: ScoredMap, places: MapPlaces, reached: np.ndarray, score: MapScore, progress: ProgressMaker
) -> None:
    """Simulate the truth tile by tile, read the map block by block, and count the tiles in."""
    grid, time, step = scored.grid, scored.time, scored.step
    number = places.on_grid(np.arange(reached.size))
    parts = [(block, grid.crop(*block), reached[block]) for block in blocks((len(time), *grid.shape))]
    total = sum(len(busy_tiles(part, cells, time, step)) for _, part, cells in parts)
    with progress("Scoring", total, "tiles") as shown:
        for block, part, cells in parts:
            if not cells.any():
                continue
            values = {flux: read_block(scored.cube, flux, block) for flux in scored.fluxes}
            for tile, truth in truth_tiles(part, cells, time, step):
                index = number[block][tile.rows, tile.cols][truth.cells]
                predicted = {flux: each[:, tile.rows, tile.cols][:, truth.cells] for flux, each in values.items()}
                here = Cells(index, places.weight[index], places.state[index], truth.cover)
                score.add(here, predicted, truth.fluxes)
                shown.advance(1, amount=float(score.days.sum()) * len(index))


def _about(scored: ScoredMap, region: Region, foreign: bool, score: MapScore, outside: int) -> dict[str, Any]:
    """Return what stands with every table."""
    last = step_ends(scored.time[-1:], scored.step)[0] - pd.Timedelta(days=1)
    return {
        "world_version": WORLD_VERSION,
        "world_digest": world_digest(),
        "map": scored.name,
        "title": scored.title,
        "made_on_this_world": not foreign,
        "map_world": " ".join(scored.world) if scored.world else None,
        "region": region.title,
        "step": scored.step,
        "start": f"{scored.time[0]:%Y-%m-%d}",
        "end": f"{last:%Y-%m-%d}",
        "resolution": list(scored.grid.resolution),
        "fluxes": list(scored.fluxes),
        "days": int(score.days.sum()),
        **coverage(score),
        "cells_outside_the_world": outside,
        "weights": "land area of the region in each cell",
        "commit": git_commit(),
        "created": now(),
    }


def _seasons(score: MapScore) -> pd.DataFrame:
    """Return the course of the year of all fluxes."""
    courses = [seasonal_course(score, flux).reset_index().assign(flux=flux) for flux in score.fluxes]
    return pd.concat(courses, ignore_index=True)[["flux", "month", "map", "truth"]]


def _write(outcome: ScoreOutcome, json_file: str | Path | None) -> None:
    """Write the tables."""
    about = outcome.about
    stamp = {key: about[key] for key in ("world_version", "world_digest", "made_on_this_world", "map", "region")}
    for name, table in (("score.csv", outcome.scores), ("totals.csv", outcome.totals)):
        write_text(outcome.folder / name, table.assign(**stamp).to_csv(index=False, float_format="%.9g"))
    tables = {
        "scores": outcome.scores, "totals": outcome.totals, "border_step": outcome.borders, "seasons": outcome.seasons
    }  # fmt: skip
    rows = {name: json.loads(table.to_json(orient="records", double_precision=10)) for name, table in tables.items()}
    text = json.dumps({**about, **rows}, indent=1) + "\n"
    for path in (outcome.folder / "score.json", *([Path(json_file)] if json_file is not None else [])):
        write_text(path, text)
