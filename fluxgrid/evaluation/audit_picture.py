"""Picture of the physics audit: some diagnostics place by place, from the global model to the calibrated one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluxgrid.errors import ConfigError, itemise
from fluxgrid.evaluation.audit import ALL, COLUMNS, DIAGNOSTICS, GLOBAL
from fluxgrid.evaluation.audit_tables import HEADLINES
from fluxgrid.output.panels import FAINT, GREY, INK, new_picture, plain_axes, save_picture

_CALIBRATED, _MOST_NAMES, _IN_ROW = "#1b7837", 30, 4


def draw_audit(
    table: pd.DataFrame, path: Path | str, model: str | None = None, headlines: Sequence[str] = HEADLINES
) -> Path:
    """Draw an audit as PNG: a panel for each diagnostic, a line from global to calibrated for each place.

    Parameters
    ----------
    table : DataFrame
        Columns `COLUMNS` of `fluxgrid.evaluation.audit`.
    path : path
        The PNG to make.
    model : str, optional
        The calibrated model; the first that is not global by default. The global one alone where there is no other.
    headlines : sequence of str
        Diagnostics to draw.

    Returns
    -------
    path : Path

    Raises
    ------
    ConfigError
        If the table has no such model, or lacks a diagnostic.
    OutputError
        If it cannot be written.
    """
    model = _check(table, model, headlines)
    places = [*(place for place in table["place"].unique() if place != ALL), ALL]
    rows = -(-len(headlines) // _IN_ROW)
    panel = float(np.clip(0.24 * len(places) + 0.9, 2.0, 8.0))
    height = 1.9 + rows * panel
    title = "Physics audit of KGML-ag: " + (f"global and {model}" if model != GLOBAL else "the global model")
    figure = new_picture(title, "Each diagnostic at each place; grey line: what is wanted", _footer(), height=height)
    for number, name in enumerate(headlines):
        row, column = divmod(number, _IN_ROW)
        bottom = (0.75 + (rows - 1 - row) * panel + 0.35) / height
        axes = plain_axes(figure, (0.07 + 0.235 * column, bottom, 0.19, (panel - 0.95) / height), _title(name))
        _draw_places(axes, table[table["diagnostic"] == name], model, places)
        _draw_wanted(axes, name)
        if column:
            axes.set_yticklabels([])
    _draw_key(figure, model)
    return save_picture(figure, path, title)


def _check(table: pd.DataFrame, model: str | None, headlines: Sequence[str]) -> str:
    """Return the model to draw beside the global one."""
    if lost := [name for name in COLUMNS if name not in table]:
        message = f"A picture of an audit needs the columns {', '.join(COLUMNS)}; {', '.join(lost)} are missing."
        raise ConfigError(message)
    models = table["model"].unique().tolist()
    chosen = model if model is not None else next((name for name in models if name != GLOBAL), GLOBAL)
    unknown = [name for name in headlines if not (table["diagnostic"] == name).any()]
    problems = [f"it is of the models {', '.join(models)}, not of {chosen!r}"] if chosen not in models else []
    problems += [f"it has no {name!r}; there are {', '.join(DIAGNOSTICS)}" for name in unknown]
    if problems:
        raise ConfigError(itemise("This audit cannot be drawn so", problems))
    return chosen


def _title(name: str) -> str:
    """Return the heading of a panel in two lines."""
    each = DIAGNOSTICS[name]
    unit = "" if each.unit == "1" else f", {each.unit}"
    return textwrap.fill(each.title + unit, 34)


def _draw_places(axes: Axes, rows: pd.DataFrame, model: str, places: Sequence[str]) -> None:
    """Draw a line for each place, the first on top."""
    height = -np.arange(len(places), dtype=float)
    before, after = (
        rows[rows["model"] == name].set_index("place")["value"].reindex(list(places)).to_numpy(np.float64)
        for name in (GLOBAL, model)
    )
    axes.hlines(height, before, after, color=FAINT, lw=2.5, zorder=1)
    axes.plot(before, height, "o", mfc="none", mec=INK, ms=8, zorder=3)
    if model != GLOBAL:
        axes.plot(after, height, "o", color=_CALIBRATED, ms=5, zorder=2)
    shown = places if len(places) <= _MOST_NAMES else [*[""] * (len(places) - 1), ALL]
    axes.set_yticks(height, shown)
    axes.set_ylim(height[-1] - 0.6, 0.6)
    axes.margins(x=0.1)
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.title.set_fontsize(10)


def _draw_wanted(axes: Axes, name: str) -> None:
    """Draw the bound that a diagnostic should keep to."""
    bound = float(DIAGNOSTICS[name].wanted.split()[-1])
    axes.axvline(bound, color=GREY, lw=1.2, zorder=0)


def _draw_key(figure: Figure, model: str) -> None:
    """Draw the key above the panels."""
    marks = [Line2D([], [], ls="", marker="o", mfc="none", mec=INK, ms=8, label=GLOBAL)]
    if model != GLOBAL:
        marks.append(Line2D([], [], ls="", marker="o", color=_CALIBRATED, ms=5, label=model))
    top = 1 - 0.62 / figure.get_figheight()
    figure.legend(handles=marks, loc="upper right", bbox_to_anchor=(0.965, top), ncols=2, frameon=False, fontsize=10.5)


def _footer() -> str:
    """Return what stands below the picture."""
    return (
        "Raw outputs of the network on fields of corn and soybean, before the clamp and the closure of a map, which "
        "make RA, RH >= 0 and NEE = RECO - GPP exact. Drift: calibrated minus global."
    )
