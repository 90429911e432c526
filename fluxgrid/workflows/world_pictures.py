"""Pictures of the reference world, and of maps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fluxgrid.evaluation.map_places import COVERS, MapPlaces
from fluxgrid.evaluation.map_score import MapScore
from fluxgrid.evaluation.map_tables import mean_rates, seasonal_course
from fluxgrid.output.panels import (
    FLUX_COLOURS,
    GREY,
    INK,
    Box,
    Sheet,
    draw_classes,
    draw_field,
    new_picture,
    plain_axes,
    save_picture,
)
from fluxgrid.output.ramps import Scale, flux_scale, round_limit
from fluxgrid.workflows.world_truth import world_text

COVER_COLOURS = ("#e6b422", "#c98a4b", "#b7cf7a", "#4c9a52", "#1f5f3f", "#5aa7c7", "#b9b4ae")
"""Of `COVERS`, in their order."""

_MONTHS = "JFMAMJJASOND"
_MASS = "g C m$^{-2}$"


def draw_score(
    score: MapScore, places: MapPlaces, sheet: Sheet, scores: pd.DataFrame, about: Mapping[str, Any], path: Path
) -> Path:
    """Draw map and truth side by side with their difference, the course of the year, and cell against cell.

    Parameters
    ----------
    score : MapScore
    places : MapPlaces
        Of the same map.
    sheet : Sheet
    scores : DataFrame
        From `score_table`.
    about : mapping
        What the tables say of the map.
    path : Path
        The PNG to make.

    Returns
    -------
    path : Path
    """
    flux = score.fluxes[0]
    annual = bool(score.whole_years.all())
    factor, unit = (score.days.sum() / len(score.years), "yr$^{-1}$") if annual else (1.0, "d$^{-1}$")
    ours, truth = places.on_grid(mean_rates(score, flux)) * factor
    title = f"{flux.upper()} of a map and of the truth, {about['region']}, {about['start']} to {about['end']}"
    figure = new_picture(title, f"{about['map']}: {about['title']}", _score_footer(about), height=8.6)
    label = f"{'Annual' if annual else 'Mean'} {flux.upper()}, {_MASS} {unit}"
    scale = flux_scale(flux, np.concatenate([ours.ravel(), truth.ravel()]))
    limit = round_limit(ours - truth)
    panels = (
        (ours, scale, f"Map: {label}"),
        (truth, scale, "Truth, the same"),
        (ours - truth, Scale("RdBu_r", -limit, limit), "Map - truth"),
    )
    for k, (values, colours, text) in enumerate(panels):
        draw_field(figure, (0.03 + 0.32 * k, 0.46, 0.3, 0.42), values, colours, sheet, text)
    _draw_courses(figure, (0.05, 0.12, 0.36, 0.27), score)
    for k, name in enumerate(name for name in ("nee", "gpp") if name in score.fluxes):
        _draw_scatter(figure, (0.47 + 0.27 * k, 0.12, 0.21, 0.27), mean_rates(score, name) * factor, name, unit, scores)
    return save_picture(figure, path, title)


def _score_footer(about: Mapping[str, Any]) -> str:
    """Return what stands below the picture of a score."""
    foreign = "" if about["made_on_this_world"] else " The map was NOT made on this world: the score was forced."
    return (
        f"Truth: fluxgrid {world_text()}. {about['cells_scored']:,} of {about['cells']:,} cells scored, "
        f"{about['cells_missing']:,} without any value; {about['cell_steps_missing']:,} of {about['cell_steps']:,} "
        f"cell-steps missing, {about['cells_outside_the_world']:,} cells beyond the world.{foreign}"
    )


def _draw_courses(figure: Figure, box: Box, score: MapScore) -> None:
    """Draw the course of the year of all fluxes: map full, truth dashed."""
    axes = plain_axes(figure, box, f"Mean of the region, {_MASS} d$^{{-1}}$; dashed: truth")
    for flux in score.fluxes:
        course = seasonal_course(score, flux)
        axes.plot(course.index, course["map"], color=FLUX_COLOURS[flux], lw=2.2, label=flux.upper())
        axes.plot(course.index, course["truth"], color=FLUX_COLOURS[flux], lw=1.6, ls="--")
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xticks(range(1, 13), list(_MONTHS))
    axes.set_xlim(0.7, 12.3)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=10, loc="upper left")


def _draw_scatter(figure: Figure, box: Box, rates: np.ndarray, flux: str, unit: str, scores: pd.DataFrame) -> None:
    """Draw cell against cell."""
    axes = plain_axes(figure, box, f"{flux.upper()} of cells, {_MASS} {unit}")
    ours, truth = rates[:, np.isfinite(rates).all(axis=0)]
    if len(ours) == 0:
        return
    low, high = (float(np.quantile(rates[np.isfinite(rates)], share)) for share in (0.001, 0.999))
    pad = 0.1 * (high - low) or 1.0
    span = (low - 3 * pad, high + pad)  # room for the text
    axes.hexbin(truth, ours, gridsize=45, extent=(*span, *span), bins="log", mincnt=1, cmap="viridis", linewidths=0)
    axes.plot(span, span, color=INK, lw=0.9)
    axes.set(xlim=span, ylim=span)
    axes.set_xlabel("truth", size=10, color=GREY)
    axes.set_ylabel("map", size=10, color=GREY)
    box_style = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    text = _skill(scores, flux)
    axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", size=9, color=INK, bbox=box_style)


def _skill(scores: pd.DataFrame, flux: str) -> str:
    """Return the scores of a flux over all cells in lines of text."""
    rows = scores[(scores["flux"] == flux) & (scores["quantity"] == "flux") & (scores["by"] == "all")]
    return "\n".join(f"{row.scale}s R$^2$ {row.r2:.2f}, RMSE {row.rmse:.3g}" for row in rows.itertuples())


def draw_world_fluxes(fields: Mapping[str, np.ndarray], sheet: Sheet, year: int, path: Path) -> Path:
    """Draw the true annual fluxes.

    Parameters
    ----------
    fields : mapping of str to ndarray, (y, x), g m-2 yr-1
        gpp, reco, nee.
    sheet : Sheet
    year : int
    path : Path
        The PNG to make.

    Returns
    -------
    path : Path
    """
    title = f"True carbon fluxes of the reference world, {sheet.region.title}, {year}"
    figure = new_picture(title, "Sums of the year per area of land; NEE = RECO - GPP", _world_footer(), height=5.6)
    limit = round_limit(np.concatenate([fields["gpp"].ravel(), fields["reco"].ravel()]))
    for k, flux in enumerate(("gpp", "reco", "nee")):
        scale = flux_scale(flux, fields[flux])
        scale = scale if flux == "nee" else Scale(scale.ramp, 0.0, limit)
        draw_field(
            figure, (0.03 + 0.32 * k, 0.1, 0.3, 0.7), fields[flux], scale, sheet, f"{flux.upper()}, {_MASS} yr$^{{-1}}$"
        )
    return save_picture(figure, path, title)


def draw_world_land(fields: Mapping[str, np.ndarray], sheet: Sheet, year: int, path: Path) -> Path:
    """Draw main cover, soil carbon and the rain of the year.

    Parameters
    ----------
    fields : mapping of str to ndarray, (y, x)
        cover (number in `COVERS`), soc g kg-1, precipitation mm yr-1; NaN where there is no land.
    sheet : Sheet
    year : int
    path : Path
        The PNG to make.

    Returns
    -------
    path : Path
    """
    title = f"Land and rain of the reference world, {sheet.region.title}, {year}"
    figure = new_picture(title, "What a map may know: cover, soil, weather", _world_footer(), height=5.6)
    draw_classes(figure, (0.03, 0.1, 0.3, 0.7), fields["cover"], COVERS, COVER_COLOURS, sheet, "Main cover")
    soc = Scale("copper_r", 0.0, round_limit(fields["soc"], 0.97))
    draw_field(figure, (0.35, 0.1, 0.3, 0.7), fields["soc"], soc, sheet, "Organic carbon of the topsoil, g kg$^{-1}$")
    rain = Scale("GnBu", 0.0, round_limit(fields["precipitation"], 0.99))
    draw_field(figure, (0.67, 0.1, 0.3, 0.7), fields["precipitation"], rain, sheet, f"Precipitation of {year}, mm")
    return save_picture(figure, path, title)


def draw_world_seasons(seasons: pd.DataFrame, sheet: Sheet, year: int, path: Path) -> Path:
    """Draw the monthly means of the true fluxes by main cover.

    Parameters
    ----------
    seasons : DataFrame
        Columns cover, month, gpp, reco, nee, g m-2 d-1; a cover may be missing.
    sheet : Sheet
    year : int
    path : Path
        The PNG to make.

    Returns
    -------
    path : Path
    """
    title = f"Course of the year by main cover, reference world, {sheet.region.title}, {year}"
    figure = new_picture(title, "Monthly means over the cells of each main cover", _world_footer(), height=5.2)
    for k, flux in enumerate(("gpp", "reco", "nee")):
        axes = plain_axes(figure, (0.05 + 0.32 * k, 0.2, 0.27, 0.52), f"{flux.upper()}, {_MASS} d$^{{-1}}$")
        for cover, rows in seasons.groupby("cover", sort=False):
            colour = COVER_COLOURS[COVERS.index(str(cover))]
            axes.plot(rows["month"], rows[flux], color=colour, lw=2.2, label=str(cover))
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(range(1, 13), list(_MONTHS))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 0.07), ncols=7, frameon=False, fontsize=10.5)
    return save_picture(figure, path, title)


def _world_footer() -> str:
    """Return what stands below pictures of the world."""
    return f"Simulated by fluxgrid, {world_text()}; no number here is an observation."
