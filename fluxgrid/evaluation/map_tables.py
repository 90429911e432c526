"""Tables of a map's scores: by flux, length of time and group; carbon totals; steps at borders; course of the year."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.evaluation.borders import border_step
from fluxgrid.evaluation.map_places import MapPlaces
from fluxgrid.evaluation.map_score import LEAST_SHARE, SEASONS, MapScore
from fluxgrid.evaluation.moments import pool
from fluxgrid.variables import GRAMS_PER_TG

GROUPINGS = ("all", "season", "cover", "state")
"""What scores are given by."""


def score_table(score: MapScore) -> pd.DataFrame:
    """Return the scores of a map.

    Parameters
    ----------
    score : MapScore

    Returns
    -------
    table : DataFrame
        Columns flux, scale (day, month, year), quantity (flux, anomaly), by (`GROUPINGS`), group, and those of
        `Moments.scores`: n (cell-days, cell-months or cell-years), truth, r2, rmse, bias, nmae. Units are g m-2 d-1,
        for years g m-2 yr-1. Groups without a pair have no row.
    """
    number = np.indices(score.shape).reshape(3, -1)
    labels = {"all": np.zeros_like(number[0]), **dict(zip(("season", "state", "cover"), number, strict=True))}
    names = {"all": ("all",), "season": SEASONS, "state": score.states, "cover": score.covers}
    frames = []
    for (flux, scale, quantity), moments in score.moments.items():
        for by in GROUPINGS if scale != "year" else ("all", "cover", "state"):
            pooled = pool([moments], [labels[by]], len(names[by])).scores()
            about = {"flux": flux, "scale": scale, "quantity": quantity, "by": by, "group": names[by]}
            frames.append(pd.DataFrame(about | pooled))
    return pd.concat(frames, ignore_index=True).query("n > 0").reset_index(drop=True)


def totals_table(score: MapScore, places: MapPlaces) -> pd.DataFrame:
    """Return the carbon of map and truth in the region and its states, year by year.

    Parameters
    ----------
    score : MapScore
    places : MapPlaces
        Of the same map.

    Returns
    -------
    table : DataFrame
        Columns flux, level (region, state), name, year, map_TgC and truth_TgC (both summed over the same cells and
        steps: those where both have a value), share_covered (of land x time of what the map holds of the year),
        land_area_km2.
    """
    units, years = places.units, len(score.years)
    area = units.area
    whole = np.maximum(area[:, None] * score.year_days, 1e-9)  # a state that only touches the region has no land
    about = {
        "level": np.repeat(units.table["level"].to_numpy(), years),
        "name": np.repeat(units.table["name"].to_numpy(), years),
        "year": np.tile(score.years, len(area)),
    }
    frames = []
    for flux in score.fluxes:
        ours, truth, covered = (units.land @ each.T for each in (*score.mass[flux], score.covered[flux]))
        columns = {
            "map_TgC": ours / GRAMS_PER_TG,
            "truth_TgC": truth / GRAMS_PER_TG,
            "share_covered": covered / whole,
        }
        numbers = {name: values.ravel() for name, values in columns.items()}
        frames.append(pd.DataFrame({"flux": flux, **about, **numbers, "land_area_km2": np.repeat(area / 1e6, years)}))
    return pd.concat(frames, ignore_index=True)


def border_table(score: MapScore, places: MapPlaces) -> pd.DataFrame:
    """Return the steps at state borders of map and truth, on the mean fluxes of the period.

    Parameters
    ----------
    score : MapScore
    places : MapPlaces
        Of the same map.

    Returns
    -------
    table : DataFrame
        Columns flux, map, truth: `border_step` of each.
    """
    state = places.on_grid(places.state)
    steps = {
        flux: [border_step(each, state) for each in places.on_grid(mean_rates(score, flux))] for flux in score.fluxes
    }
    return pd.DataFrame([{"flux": flux, "map": ours, "truth": truth} for flux, (ours, truth) in steps.items()])


def mean_rates(score: MapScore, flux: str) -> np.ndarray:
    """Return the mean flux of map and truth over the whole period.

    Parameters
    ----------
    score : MapScore
    flux : str

    Returns
    -------
    rates : ndarray, (2, cells), g m-2 d-1
        Over the steps that both have; NaN where these are fewer than half of all.
    """
    covered = score.covered[flux].sum(axis=0)
    mass = score.mass[flux].sum(axis=1)
    enough = covered >= LEAST_SHARE * score.days.sum()
    return np.divide(mass, covered, out=np.full(mass.shape, np.nan), where=enough)


def seasonal_course(score: MapScore, flux: str) -> pd.DataFrame:
    """Return the mean course of the year of map and truth over the region's land.

    Parameters
    ----------
    score : MapScore
    flux : str

    Returns
    -------
    course : DataFrame
        Columns map and truth, g m-2 d-1; index the calendar months that the map holds, 1 to 12.
    """
    month = pd.Index([int(text[5:]) for text in score.months], name="month")
    sums = pd.DataFrame(score.curves[flux].sum(axis=2).T, month, ["map", "truth", "weight"])
    sums = sums.groupby(level="month").sum()
    return sums[["map", "truth"]].div(sums["weight"].where(sums["weight"] > 0), axis=0)


def coverage(score: MapScore) -> dict[str, int]:
    """Return what of the region's land was scored and what was not.

    Parameters
    ----------
    score : MapScore

    Returns
    -------
    counts : dict of int
        ``cells`` of the region's land, ``cells_scored`` with a score for at least one step, ``cells_missing`` without
        any; ``steps`` of the map; ``cell_steps`` of all these cells, ``cell_steps_scored`` and ``cell_steps_missing``.
        Of the flux with the fewest, where fluxes differ.
    """
    cells, steps = int(score.added.sum()), len(score.time)
    scored = min(int((score.covered[flux].sum(axis=0) > 0).sum()) for flux in score.fluxes)
    first = score.scales[0].name
    pairs = min(int(score.moments[flux, first, "flux"].n.sum()) for flux in score.fluxes)
    return {
        "cells": cells,
        "cells_scored": scored,
        "cells_missing": cells - scored,
        "steps": steps,
        "cell_steps": cells * steps,
        "cell_steps_scored": pairs,
        "cell_steps_missing": cells * steps - pairs,
    }
