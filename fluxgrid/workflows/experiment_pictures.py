"""Pictures of an experiment: heat map, errors by regime and data size; or errors by setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fluxgrid.evaluation.paired import LEVEL
from fluxgrid.output.panels import GREY, INK, Box, new_picture, plain_axes, save_picture
from fluxgrid.workflows.experiment_tables import ALL, MEAN, REGIMES, compared, heat_table, share_table, skill_table

COLOURS = {
    **{"global": "#8c8c8c", "site-only": "#d95f02", "cross-regional": "#f1b788"},
    **{"sdsa": "#7570b3", "ftbsc": "#1b9e77"},
}
"""Of the regimes, ColorBrewer's Dark2; what is moved is paler than what stays."""

_ERROR = "mean squared error, in variances"


def draw_regimes(frame: pd.DataFrame, state: str, about: str, path: Path) -> Path:
    """Draw train x test, errors by regime with intervals, and, where data were cut, error against their size.

    Parameters
    ----------
    frame : DataFrame
        From `fluxgrid.workflows.experiment_tables.frame_of`.
    state : str
        The one whose data are cut.
    about : str
        What the data are; the footer.
    path : Path
        The PNG to make.

    Returns
    -------
    path : Path
    """
    skill = skill_table(compared(frame))
    title = "One model for all states, one for each, and one tuned to each"
    subtitle = _subtitle(skill)
    figure = new_picture(title, subtitle, about, height=6.6)
    _draw_heat(figure, (0.115, 0.15, 0.2, 0.62), heat_table(frame))
    cut = bool((frame["share"] < 1).any())
    _draw_bars(figure, (0.375, 0.15, 0.335 if cut else 0.595, 0.62), skill[skill["quantity"] == MEAN])
    if cut:
        _draw_shares(figure, (0.765, 0.15, 0.205, 0.62), share_table(frame, state), state)
    return save_picture(figure, path, title)


def draw_sensitivity(table: pd.DataFrame, about: str, path: Path) -> Path:
    """Draw site-only training and FTBSC under each setting, state by state.

    Parameters
    ----------
    table : DataFrame
        From `fluxgrid.workflows.experiment_tables.sensitivity_table`.
    about, path
        As in `draw_regimes`.

    Returns
    -------
    path : Path
    """
    title = "Sensitivity to learning rate, batch and schedule"
    subtitle = _subtitle(table)
    figure = new_picture(title, subtitle, about, height=6.0)
    states = list(dict.fromkeys(table["state"]))
    wide = 0.93 / len(states)
    for k, state in enumerate(states):
        axes = plain_axes(figure, (0.05 + k * wide, 0.17, wide - 0.05, 0.6), f"{state}: {_ERROR}")
        _draw_settings(axes, table[table["state"] == state], legend=k == 0)
    return save_picture(figure, path, title)


def _subtitle(table: pd.DataFrame) -> str:
    """Say what all panels show."""
    what = "Mean over Ra, Rh, RECO, NEE and yield at fields and in years not trained on"
    return f"{what}; {table['n'].max()} seeds, {LEVEL:.0%} intervals"


def _draw_heat(figure: Figure, box: Box, table: pd.DataFrame) -> None:
    """Draw the mean error of each training set in each state."""
    states = list(dict.fromkeys(table["state"]))
    means = table.pivot_table(index=["regime", "train"], columns="state", values="mean", sort=False)[states]
    values = means.to_numpy()
    axes = plain_axes(figure, box, "Trained on (rows), scored in (columns)")
    axes.grid(visible=False)
    axes.imshow(values, cmap="YlOrBr", vmin=0, vmax=float(values.max()) * 1.15, aspect="auto")
    axes.set_xticks(range(len(states)), states)
    axes.set_yticks(range(len(means)), [_label(*key) for key in means.index])
    for (row, column), value in np.ndenumerate(values):
        dark = value > 0.75 * values.max()
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", size=10, color="white" if dark else INK)


def _label(regime: str, train: str) -> str:
    """Return the name of a row of the heat map; what is trained on all states needs no list of them."""
    return regime if regime in ("global", "sdsa") else f"{regime} {train}"


def _draw_bars(figure: Figure, box: Box, skill: pd.DataFrame) -> None:
    """Draw the error of each regime in each state, with its interval."""
    axes = plain_axes(figure, box, f"By regime: {_ERROR}")
    axes.grid(visible=False, axis="x")
    states = [*(name for name in dict.fromkeys(skill["state"]) if name != ALL), ALL]
    present = [name for name in REGIMES if name in set(skill["regime"])]
    width = 0.8 / len(present)
    for k, regime in enumerate(present):
        own = skill[skill["regime"] == regime].set_index("state").reindex(states)
        place = np.arange(len(states)) - 0.4 + (k + 0.5) * width
        axes.bar(place, own["mean"], 0.9 * width, color=COLOURS[regime], label=regime)
        _draw_intervals(axes, place, own["mean"], own["low"], own["high"])
    axes.set_xticks(range(len(states)), states)
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10, ncols=3, loc="upper left")


def _draw_intervals(axes: Axes, place: np.ndarray, mean: pd.Series, low: pd.Series, high: pd.Series) -> None:
    """Draw intervals, where there are any."""
    spread = np.stack([mean - low, high - mean])
    axes.errorbar(place, mean, np.nan_to_num(spread), fmt="none", ecolor=INK, elinewidth=1.0, capsize=2.5)


def _draw_shares(figure: Figure, box: Box, table: pd.DataFrame, state: str) -> None:
    """Draw error against the share of a state's data."""
    axes = plain_axes(figure, box, f"{state} by the share of its data seen")
    if table.empty:
        axes.set_axis_off()
        return
    for regime in (name for name in REGIMES if name in set(table["regime"])):
        own = table[table["regime"] == regime].sort_values("share")
        axes.plot(own["share"], own["mean"], color=COLOURS[regime], lw=2, marker="o", ms=5, label=regime)
        axes.fill_between(own["share"], own["low"], own["high"], color=COLOURS[regime], alpha=0.15, lw=0)
    shares = sorted(set(table["share"]))
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)


def _draw_settings(axes: Axes, table: pd.DataFrame, *, legend: bool) -> None:
    """Draw one state's errors by setting."""
    axes.grid(visible=False, axis="x")
    place = np.arange(len(table))
    for k, (column, regime) in enumerate((("site_only", "site-only"), ("ftbsc", "ftbsc"))):
        axes.bar(place - 0.2 + 0.4 * k, table[column], 0.36, color=COLOURS[regime], label=regime)
        _draw_intervals(axes, place - 0.2 + 0.4 * k, table[column], table[f"{column}_low"], table[f"{column}_high"])
    axes.set_xticks(place, table["setting"], rotation=20, color=GREY)
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    if legend:
        axes.legend(frameon=False, fontsize=10, ncols=2, loc="upper left")
