"""Picture of a search: how good the settings tried were, and what each value of a setting came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fluxgrid.output.panels import FAINT, GREY, INK, new_picture, plain_axes, save_picture

_BEST = "#b35806"
_LEFT, _TOP, _BOTTOM, _GAP = 0.05, 0.83, 0.12, 0.1
_COLUMNS = 3


def draw_search(
    trials: pd.DataFrame, grid: Mapping[str, Sequence[object]], about: str, path: Path | str, synthetic: bool
) -> Path:
    """Draw a search as PNG: the loss trial by trial, and for each setting the losses of its values.

    Parameters
    ----------
    trials : DataFrame
        Columns ``trial``, ``loss``, ``pruned`` and the settings; one row for each trial, in their order.
    grid : mapping of str to sequence
        Values of each setting.
    about : str
        What was searched on what; the footer.
    path : path
        The PNG to make.
    synthetic : bool
        Whether the towers are simulated.

    Returns
    -------
    path : Path

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    title = "Settings tried at sites held out"
    subtitle = "Loss: squared error of GPP, RECO and NEE over their variances at the training sites; mean of the folds"
    figure = new_picture(title, subtitle, about, synthetic=synthetic)
    whole = trials[~trials["pruned"] & np.isfinite(trials["loss"])]
    best = whole.loc[whole["loss"].idxmin()] if len(whole) else None
    limits = _limits(trials["loss"].to_numpy(np.float64))
    _draw_course(
        plain_axes(figure, (_LEFT, _BOTTOM, 0.4, _TOP - _BOTTOM), "loss, trial by trial; open: given up early"),
        trials,
        best,
        limits,
    )
    rows = math.ceil(len(grid) / _COLUMNS)
    width, height = 0.47 / min(len(grid), _COLUMNS), (_TOP - _BOTTOM - (rows - 1) * _GAP) / rows
    for number, (key, values) in enumerate(grid.items()):
        row, column = divmod(number, _COLUMNS)
        box = (0.5 + column * width, _TOP - row * (height + _GAP) - height, width - 0.02, height)
        _draw_setting(plain_axes(figure, box, key), trials, key, values, best, limits)
    return save_picture(figure, Path(path), title)


def _limits(losses: np.ndarray) -> tuple[float, float]:
    """Return the losses to show: the worst may be far off and would hide the rest, so they are drawn at the edge."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return 0.0, 1.0
    low, middle = float(finite.min()), float(np.median(finite))
    high = min(float(finite.max()), middle + 3 * max(middle - low, 0.02 * middle))
    room = 0.06 * max(high - low, 1e-3)
    return low - room, high + room


def _draw_course(axes: Axes, trials: pd.DataFrame, best: pd.Series | None, limits: tuple[float, float]) -> None:
    """Draw the loss of each trial and the lowest so far."""
    number, pruned = trials["trial"].to_numpy(), trials["pruned"].to_numpy(bool)
    loss = trials["loss"].to_numpy(np.float64)
    shown = np.clip(loss, *limits)
    reached = np.minimum.accumulate(np.where(pruned, np.inf, loss))
    axes.step(number, np.clip(reached, *limits), where="post", color=FAINT, lw=2.0)
    axes.plot(number[~pruned], shown[~pruned], "o", color=GREY, ms=5, clip_on=False)
    axes.plot(number[pruned], shown[pruned], "o", color=GREY, ms=5, clip_on=False, mfc="white")
    if best is not None:
        axes.plot(best["trial"], best["loss"], "o", color=_BEST, ms=9, clip_on=False)
        below = best["loss"] - 0.07 * (limits[1] - limits[0])
        axes.text(best["trial"], below, f"{best['loss']:.3f}", ha="center", va="top", size=10, color=INK)
    room = 0.12 * (limits[1] - limits[0])
    axes.set(ylim=(limits[0] - room, limits[1]), xlim=(0.3, max(len(trials), 2) + 0.7))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_setting(
    axes: Axes,
    trials: pd.DataFrame,
    key: str,
    values: Sequence[object],
    best: pd.Series | None,
    limits: tuple[float, float],
) -> None:
    """Draw the losses of the values of a setting; a line joins their medians."""
    medians = []
    for place, value in enumerate(values):
        loss = trials.loc[[found == value for found in trials[key]], "loss"].to_numpy(np.float64)
        shown = np.clip(loss, *limits)
        medians.append(float(np.median(shown)) if len(shown) else math.nan)
        axes.plot(np.full(len(shown), place), shown, "o", color=GREY, ms=4, clip_on=False, alpha=0.5)
        if best is not None and best[key] == value:
            axes.plot(place, best["loss"], "o", color=_BEST, ms=8, clip_on=False)
    axes.plot(range(len(values)), medians, color=INK, lw=1.2)
    axes.set(ylim=limits, xlim=(-0.5, len(values) - 0.5), xticks=range(len(values)))
    axes.set_xticklabels([_label(value) for value in values])
    axes.set_yticklabels([])


def _label(value: object) -> str:
    """Return a value as short as it can be said."""
    if isinstance(value, float):
        return f"{value:g}" if value >= 0.01 else np.format_float_scientific(value, trim="-", exp_digits=1)
    return str(value)
