"""Picture of an evaluation: the skill of every model, flux by flux, as quartiles over sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.output.panels import FAINT, FLUX_COLOURS, INK, new_picture, plain_axes, save_picture

_FLOOR = -1.0
"""R2 below it are drawn at the edge: how far below says nothing more."""


def draw_skill(summary: pd.DataFrame, about: str, path: Path | str, synthetic: bool) -> Path:
    """Draw R2 of all models as PNG: the median over sites as a dot, the quartiles as a bar.

    Parameters
    ----------
    summary : DataFrame
        As `fluxgrid.evaluation.tables.summarise` returns, of all sites together.
    about : str
        What was trained on what; the footer.
    path : path
        The PNG to make.
    synthetic : bool
        Whether the towers are simulated, which the picture says then.

    Returns
    -------
    path : Path

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    fluxes, models = list(dict.fromkeys(summary["flux"])), list(dict.fromkeys(summary["model"]))
    height = 2.2 + 0.32 * len(models)
    title = "Skill at sites that nobody trained on"
    figure = new_picture(
        title, "R2 over days or months of each site: median [quartiles] over sites", about, height, synthetic
    )
    width = 0.78 / max(len(fluxes), 1)
    for number, flux in enumerate(fluxes):
        rows = summary[summary["flux"] == flux].set_index("model").reindex(models)
        sites = int(np.nanmax(rows["sites"].to_numpy(np.float64)))
        box = (0.17 + (width + 0.012) * number, 0.85 / height, width - 0.012, (height - 2.15) / height)
        axes = plain_axes(figure, box, f"{flux.upper()}, {sites} sites")
        low, middle, high = (rows[f"r2_{name}"].to_numpy(np.float64).clip(_FLOOR) for name in ("q25", "q50", "q75"))
        y = np.arange(len(models))[::-1]
        axes.axvline(0.0, color=FAINT, lw=1.0)
        axes.hlines(y, low, high, color=FLUX_COLOURS.get(flux, INK), lw=4.0, alpha=0.35)
        axes.plot(middle, y, "o", color=FLUX_COLOURS.get(flux, INK), ms=6)
        axes.set(xlim=(_FLOOR, 1.0), ylim=(-0.6, len(models) - 0.4), yticks=y)
        axes.set_yticklabels(models if number == 0 else [""] * len(models))
    return save_picture(figure, Path(path), title)
