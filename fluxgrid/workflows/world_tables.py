"""Tables of the reference world for a terminal; every one names the world it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from fluxgrid.evaluation.map_tables import GROUPINGS
from fluxgrid.workflows.world_truth import world_text

if TYPE_CHECKING:
    from fluxgrid.workflows.world_describe import DescribeOutcome
    from fluxgrid.workflows.world_score import ScoreOutcome

_SHOWN = ("r2", "rmse", "bias")
_LEAST_LAND = 1e-3  # of the region's: a neighbour's sliver in a box is not worth a row
_TITLES = {"r2": "R2", "rmse": "RMSE", "bias": "bias"}


def score_tables(outcome: ScoreOutcome) -> Iterator[Table]:
    """Return the scores of a map, and its carbon beside that of the truth.

    Parameters
    ----------
    outcome : ScoreOutcome

    Yields
    ------
    table : Table
    """
    about = outcome.about
    table = Table(
        title=_score_title(about), caption=_score_caption(about), title_justify="left", caption_justify="left"
    )
    table.add_column("")
    table.add_column("n", justify="right")
    for flux in about["fluxes"]:
        for name in _SHOWN:
            table.add_column(f"{flux.upper()} {_TITLES[name]}", justify="right")
    for rows in _sections(outcome.scores):
        table.add_section()
        for label, part in rows:
            by_flux = part.set_index("flux")
            numbers = [_number(by_flux, flux, name) for flux in about["fluxes"] for name in _SHOWN]
            table.add_row(label, f"{part['n'].max():,}", *numbers)
    yield table
    yield _totals(outcome)


def _table(title: str, caption: str = "") -> Table:
    """Return an empty table; its texts are not read as markup, for they hold paths."""
    return Table(
        title=Text(title), caption=Text(caption) if caption else None, title_justify="left", caption_justify="left"
    )


def _score_title(about: dict[str, Any]) -> str:
    """Say what was scored, and on what."""
    foreign = "" if about["made_on_this_world"] else "\nFOREIGN MAP, not made on this world: the score was forced."
    return (
        f"{about['map']} against the truth of the {world_text()}\n{about['region']}, {about['start']} to "
        f"{about['end']}, {about['step']} steps, {about['resolution'][0]:g} degrees{foreign}"
    )


def _score_caption(about: dict[str, Any]) -> str:
    """Say units, and what was scored and what was not."""
    outside, step = about["cells_outside_the_world"], "days" if about["step"] == "daily" else "months"
    beyond = f" {outside:,} cells beyond the world were not scored." if outside else ""
    return (
        f"g m-2 d-1, years g m-2 yr-1; cells weighted by land; bias is map - truth; seasons, covers, states: {step}.\n"
        f"Scored: {about['cells_scored']:,} of {about['cells']:,} cells, {about['days']:,} days. Missing, not scored: "
        f"{about['cells_missing']:,} cells; {about['cell_steps_missing']:,} of {about['cell_steps']:,} cell-steps."
        f"{beyond}"
    )


def _sections(scores: pd.DataFrame) -> Iterator[list[tuple[str, pd.DataFrame]]]:
    """Yield labelled rows: all lengths of time first, then the groups at the map's own steps."""
    everything = scores[scores["by"] == "all"]
    by_kind = everything.groupby(["quantity", "scale"], sort=False)
    yield [(f"{scale}s", part) for (quantity, scale), part in by_kind if quantity == "flux"]
    if (everything["quantity"] == "anomaly").any():
        yield [(f"{scale} anomalies", part) for (quantity, scale), part in by_kind if quantity == "anomaly"]
    own = scores[(scores["scale"] == scores["scale"].iloc[0]) & (scores["quantity"] == "flux")]
    for by in GROUPINGS[1:]:
        yield [(str(name), part) for name, part in own[own["by"] == by].groupby("group", sort=False)]


def _number(rows: pd.DataFrame, flux: str, name: str) -> str:
    """Return a score as text, a dash where there is none."""
    value = float(rows[name].get(flux, np.nan))
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _totals(outcome: ScoreOutcome) -> Table:
    """Return the carbon of region and states, mean of the years, with the steps at borders below."""
    fluxes = outcome.about["fluxes"]
    title = f"Carbon of map and truth, Tg C a calendar year, of the days held\n{world_text()}"
    table = _table(title, _borders_text(outcome.borders))
    table.add_column("")
    for flux in fluxes:
        table.add_column(f"{flux.upper()} map", justify="right")
        table.add_column("truth", justify="right")
    table.add_column("scored", justify="right")
    area = outcome.totals["land_area_km2"]
    land = outcome.totals[area > _LEAST_LAND * area.max()]
    for (level, name), part in land.groupby(["level", "name"], sort=False):
        means = part.groupby("flux")[["map_TgC", "truth_TgC", "share_covered"]].mean()
        numbers = [f"{means.loc[flux, side]:.2f}" for flux in fluxes for side in ("map_TgC", "truth_TgC")]
        table.add_row(str(name), *numbers, f"{means['share_covered'].min():.1%}", end_section=level == "region")
    return table


def _borders_text(borders: pd.DataFrame) -> str:
    """Return the steps at borders in one line."""
    if borders["truth"].isna().all():
        return "No state border between scored cells, so no step at borders."
    rows = borders.to_dict("records")
    steps = [f"{row['flux'].upper()} {row['map']:.2f} (truth {row['truth']:.2f})" for row in rows]
    return f"Step at state borders (mean jump across / inside): {', '.join(steps)}"


def describe_tables(outcome: DescribeOutcome) -> Iterator[Table]:
    """Return the true fluxes of a year by main cover and by state.

    Parameters
    ----------
    outcome : DescribeOutcome

    Yields
    ------
    table : Table
    """
    about = outcome.about
    place = f"{about['region']}, {about['year']}, {about['resolution']:g} degrees\n{world_text()}"
    steps = ", ".join(f"{row['flux'].upper()} {row['truth']:.2f}" for row in outcome.borders.to_dict("records"))
    captions = ("", f"Step at state borders (mean jump across / inside): {steps}")
    for title, table, caption in zip(("main cover", "state"), (outcome.covers, outcome.states), captions, strict=True):
        shown = _table(f"True fluxes by {title}: {place}", caption)
        shown.add_column("")
        for name in ("land, km2", "GPP g m-2", "RECO", "NEE", "GPP Tg C", "RECO", "NEE"):
            shown.add_column(name, justify="right")
        for row in table.to_dict("records"):
            means = [f"{row[flux]:,.0f}" for flux in ("gpp", "reco", "nee")]
            totals = [f"{row[f'{flux}_TgC']:,.1f}" for flux in ("gpp", "reco", "nee")]
            name = str(row["cover"] if "cover" in row else row["name"])
            last = row.get("level") == "region"
            shown.add_row(name, f"{row['land_area_km2']:,.0f}", *means, *totals, end_section=last)
        yield shown
