"""Panels of maps for pictures that show several fields of one grid side by side, in the manner of the quicklook."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as MplPath
from shapely.geometry.base import BaseGeometry

from fluxgrid.files import atomic_path
from fluxgrid.output.ramps import Scale

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.geo.region import Region

INK, GREY, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
"""Colours of text, of lesser text, and of lines that guide the eye."""
FLUX_COLOURS = {"gpp": "#1b7837", "reco": "#b35806", "nee": INK}
"""Colours of curves, as in the quicklook."""

_NO_DATA, _WARN, _DPI, _WIDTH = "#c9c9c9", "#b3261e", 130, 13.333
_LEFT = 0.04

Box = tuple[float, float, float, float]
"""Left, bottom, width, height, as parts of the figure."""


@dataclass(frozen=True)
class Sheet:
    """What the maps of a picture have in common."""

    grid: Grid
    region: Region
    """Gives the borders."""


def new_picture(title: str, subtitle: str, footer: str, height: float = 7.5, synthetic: bool = True) -> Figure:
    """Return an empty slide with its texts, and the word synthetic where it belongs.

    Parameters
    ----------
    title, subtitle, footer : str
        The footer says where the numbers come from; it is wrapped.
    height : float
        Inches; the width is that of a slide.
    synthetic : bool
        Whether data of the reference world are shown.

    Returns
    -------
    figure : Figure
    """
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    inch = 1 / height
    figure.text(_LEFT, 1 - 0.5 * inch, title, size=19 * min(1, 62 / len(title)), weight="bold", color=INK)
    figure.text(_LEFT, 1 - 0.8 * inch, textwrap.shorten(subtitle, 165, placeholder=" …"), size=11.5, color=GREY)
    figure.text(_LEFT, 0.13 * inch, "\n".join(textwrap.wrap(footer, 172)), size=9.5, color=GREY, va="bottom")
    if synthetic:
        box = {"boxstyle": "round,pad=0.35", "facecolor": _WARN, "edgecolor": "none"}
        figure.text(
            0.955, 1 - 0.46 * inch, "SYNTHETIC DATA", size=12, weight="bold", color="white", ha="right", bbox=box
        )
    return figure


def draw_field(figure: Figure, box: Box, values: np.ndarray, scale: Scale, sheet: Sheet, label: str) -> Axes:
    """Draw a field of numbers with its colour bar below.

    Parameters
    ----------
    figure : Figure
    box : (left, bottom, width, height)
        Parts of the figure; the colour bar takes the lowest tenth.
    values : ndarray, (y, x)
        NaN where there is nothing.
    scale : Scale
    sheet : Sheet
    label : str
        What it is, with its unit.

    Returns
    -------
    axes : Axes
        Of the map.
    """
    left, bottom, width, height = box
    image = draw_map(figure, (left, bottom + 0.14 * height, width, 0.8 * height), values, scale, sheet, label)
    draw_bar(figure, (left + 0.15 * width, bottom + 0.07 * height, 0.7 * width, 0.025 * height), image, scale)
    return image.axes


def draw_map(figure: Figure, box: Box, values: np.ndarray, scale: Scale, sheet: Sheet, label: str) -> AxesImage:
    """Draw a field of numbers without a colour bar, for maps that share one; see `draw_field`.

    Parameters
    ----------
    figure : Figure
    box : (left, bottom, width, height)
        Parts of the figure.
    values : ndarray, (y, x)
        NaN where there is nothing.
    scale : Scale
    sheet : Sheet
    label : str
        What it is.

    Returns
    -------
    image : AxesImage
        For `draw_bar`.
    """
    axes = _map_axes(figure, box, sheet, label)
    image = axes.imshow(
        values, cmap=scale.ramp, vmin=scale.low, vmax=scale.high, extent=_extent(sheet.grid), interpolation="nearest"
    )
    image.set_clip_path(_outline(axes, sheet))
    _finish_map(axes, sheet)
    return image


def draw_bar(figure: Figure, box: Box, image: AxesImage, scale: Scale) -> Axes:
    """Draw the colour bar of a map, or of several on one scale.

    Parameters
    ----------
    figure : Figure
    box : (left, bottom, width, height)
        Parts of the figure.
    image : AxesImage
        From `draw_map`.
    scale : Scale

    Returns
    -------
    axes : Axes
        Of the bar.
    """
    bar = figure.add_axes(box)
    colours = figure.colorbar(image, cax=bar, orientation="horizontal", extend="both" if scale.low < 0 else "max")
    colours.outline.set_visible(False)
    colours.set_ticks(np.linspace(scale.low, scale.high, 5).tolist())
    bar.tick_params(labelsize=9.5, length=0, colors=INK)
    return bar


def draw_classes(
    figure: Figure,
    box: Box,
    codes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    sheet: Sheet,
    label: str,
) -> Axes:
    """Draw a field of classes with its key below.

    Parameters
    ----------
    figure : Figure
    box : (left, bottom, width, height)
        Parts of the figure.
    codes : ndarray, (y, x)
        Number of the class; NaN where there is none.
    names, colours : sequence of str
        Of the classes.
    sheet : Sheet
    label : str
        What it is.

    Returns
    -------
    axes : Axes
        Of the map.
    """
    left, bottom, width, height = box
    axes = _map_axes(figure, (left, bottom + 0.14 * height, width, 0.8 * height), sheet, label)
    image = axes.imshow(
        codes,
        cmap=ListedColormap(list(colours)),
        vmin=-0.5,
        vmax=len(names) - 0.5,
        extent=_extent(sheet.grid),
        interpolation="nearest",
    )
    image.set_clip_path(_outline(axes, sheet))
    present = [k for k in range(len(names)) if (codes == k).any()]
    axes.legend(
        handles=[Patch(facecolor=colours[k], label=names[k]) for k in present],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        frameon=False,
        fontsize=9.5,
        handlelength=1.0,
        columnspacing=1.0,
    )
    _finish_map(axes, sheet)
    return axes


def plain_axes(figure: Figure, box: Box, label: str) -> Axes:
    """Return axes for curves without what is not data.

    Parameters
    ----------
    figure : Figure
    box : (left, bottom, width, height)
        Parts of the figure.
    label : str
        What they show, with the unit.

    Returns
    -------
    axes : Axes
    """
    axes = figure.add_axes(box)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=10, colors=GREY)
    axes.set_title(label, loc="left", size=11.5, color=GREY)
    return axes


def save_picture(figure: Figure, path: Path | str, title: str) -> Path:
    """Write a picture as PNG; it appears whole or not at all.

    Parameters
    ----------
    figure : Figure
    path : path
    title : str
        For the file's metadata.

    Returns
    -------
    path : Path

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Title": title})
    return Path(path)


def _map_axes(figure: Figure, box: Box, sheet: Sheet, label: str) -> Axes:
    """Return axes for a map."""
    axes = figure.add_axes(box)
    axes.set_title(label, loc="left", size=11.5, color=GREY)
    middle = np.deg2rad(sum(sheet.grid.bounds[2:]) / 2)
    axes.set_aspect(1 / np.cos(middle) if sheet.grid.geographic else 1.0, anchor="C")
    return axes


def _finish_map(axes: Axes, sheet: Sheet) -> None:
    """Draw the borders of the states, or of the region where it has none, and take the frame away."""
    frame = sheet.region.states_frame()
    shapes = list(frame.geometry) if len(frame) else [sheet.region.polygon]
    axes.add_patch(PathPatch(_path(shapes, sheet.grid), facecolor="none", edgecolor=INK, linewidth=0.6))
    middle = np.deg2rad(sum(sheet.grid.bounds[2:]) / 2)
    axes.set_aspect(1 / np.cos(middle) if sheet.grid.geographic else 1.0, anchor="C")  # imshow has set its own
    axes.set_axis_off()


def _outline(axes: Axes, sheet: Sheet) -> PathPatch:
    """Draw the region in the colour of no data and return its outline: a cell's flux is that of its land."""
    outline = PathPatch(_path([sheet.region.polygon], sheet.grid), facecolor=_NO_DATA, edgecolor="none", zorder=-1)
    axes.add_patch(outline)
    return outline


def _extent(grid: Grid) -> tuple[float, float, float, float]:
    """Return west, east, south, north."""
    return grid.bounds


def _path(polygons: Sequence[BaseGeometry], grid: Grid) -> MplPath:
    """Return the rings of longitude-latitude polygons on the map's plane."""
    plane = gpd.GeoSeries(polygons, crs=4326).to_crs(grid.crs.to_wkt())
    parts = shapely.get_parts(plane.to_numpy())
    rings = [np.asarray(ring.coords)[:, :2] for part in parts for ring in (part.exterior, *part.interiors)]
    return MplPath.make_compound_path(*(MplPath(ring, closed=True) for ring in rings))
