"""One picture of a map, for a talk: where carbon goes in and out over a year, and when."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import DateFormatter, MonthLocator
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import Normal, Stroke
from shapely.geometry.base import BaseGeometry

from fluxgrid.files import atomic_path
from fluxgrid.output.ramps import flux_scale
from fluxgrid.output.stream import MapSource
from fluxgrid.output.summary import MapSummary, summarise
from fluxgrid.output.totals import land_units

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.geo.region import Region
    from fluxgrid.output.info import MapInfo

_INK, _GREY, _FAINT, _NO_DATA, _WARN = "#222222", "#6b6b6b", "#d9d9d9", "#c9c9c9", "#b3261e"
_CAPTION_LETTERS, _CAPTION_LINES = 198, 4
_CURVES = {"gpp": ("GPP", "#1b7837"), "reco": ("RECO", "#b35806"), "nee": ("NEE", _INK)}
_SIZE, _DPI = (13.333, 7.5), 150  # a slide
_LEFT = 0.04
_HATCH = "//////"
_SMOOTH_DAYS = 7


def draw_quicklook(
    sources: Sequence[MapSource],
    region: Region,
    grid: Grid,
    land_fraction: np.ndarray,
    info: MapInfo,
    path: Path | str,
) -> Path:
    """Draw annual NEE beside the seasonal curves of the region, as a PNG of 2000 x 1125 pixels.

    Maps of several years show the mean annual NEE, and the mean seasonal cycle within the range of the years. Maps of
    part of a year show the mean rate over that part. A year whose values end early is summed up to the last step that
    has one, and the picture names these days where it would say annual.

    Parameters
    ----------
    sources : sequence of path or Dataset
        Map stores or NetCDF maps, in order of time.
    region : Region
        Where; gives the borders.
    grid : Grid
        The map's grid.
    land_fraction : array (y, x)
        Share of each cell that is land, 0 to 1.
    info : MapInfo
        Title, caveats, and whether the picture must say synthetic.
    path : path
        The PNG to make.

    Returns
    -------
    path : Path

    Raises
    ------
    DamagedMap
        If a map cannot be read.
    OutputError
        If the grids differ or the picture cannot be written.
    """
    land = land_units(region, grid, land_fraction, levels=("state",)).land[0].toarray().reshape(grid.shape)
    summary = summarise(sources, grid, land, info.step)
    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write_titles(figure, summary, info)
    _draw_map(figure, summary, region, grid)
    _draw_curves(figure, summary, info.step)
    _write_totals(figure, summary, info)
    _write_caption(figure, info)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Title": info.full_title, "Description": info.summary})
    return Path(path)


def _write_titles(figure: Figure, summary: MapSummary, info: MapInfo) -> None:
    """Write what it is and, where so, that it is invented."""
    first, last = summary.years
    mean = "Mean annual net" if last > first and summary.whole_years else "Net"
    title = f"{mean} ecosystem exchange of carbon, {info.region_title}, {_period(summary)}"
    widest = 55 if info.synthetic else 67  # characters that fit the slide at full size
    figure.text(_LEFT, 0.925, title, size=21 * min(1, widest / len(title)), weight="bold", color=_INK)
    steps = "daily steps" if info.step == "daily" else "monthly steps"
    subtitle = textwrap.shorten(f"{info.model_name}, {steps}. {info.model_text}", 165, placeholder=" …")
    figure.text(_LEFT, 0.883, subtitle, size=11.5, color=_GREY)
    if info.synthetic:
        box = {"boxstyle": "round,pad=0.35", "facecolor": _WARN, "edgecolor": "none"}
        figure.text(0.955, 0.931, "SYNTHETIC DATA", size=13, weight="bold", color="white", ha="right", bbox=box)


def _period(summary: MapSummary) -> str:
    """Name the period: 2019, 2000–2020, May–Jul 2019 or, where the values end early, 1 Jan to 14 Jul 2019."""
    first, last = summary.years
    if summary.ended_early:
        return _days_named(summary)
    if summary.whole_years:
        return str(first) if first == last else f"{first}–{last}"
    times = summary.curves.index
    start, end = times[0], times[-1]
    if (start.year, start.month) == (end.year, end.month):
        return f"{start:%b %Y}"
    return f"{start:%b}–{end:%b %Y}" if first == last else f"{start:%b %Y}–{end:%b %Y}"


def _days_named(summary: MapSummary) -> str:
    """Name the first and last day that have values."""
    days = summary.days
    start, end = days.index[0], days.index[-1] + pd.Timedelta(days=days.iloc[-1] - 1)
    year = "" if start.year == end.year else f" {start.year}"
    return f"{start.day} {start:%b}{year} to {end.day} {end:%b} {end.year}"


def _draw_map(figure: Figure, summary: MapSummary, region: Region, grid: Grid) -> None:
    """Draw NEE, hatching and borders."""
    axes = figure.add_axes((_LEFT - 0.01, 0.215, 0.55, 0.605))
    values = summary.rate * summary.days_in_year if summary.summed else summary.rate
    scale = flux_scale("nee", values)
    extent = _extent(grid, summary)
    image = axes.imshow(
        values, cmap=scale.ramp, vmin=scale.low, vmax=scale.high, extent=extent, interpolation="nearest"
    )
    outline = PathPatch(_path([region.polygon], grid), facecolor=_NO_DATA, edgecolor="none", zorder=-1)
    axes.add_patch(outline)
    image.set_clip_path(outline)  # a cell's flux is that of its land
    _hatch(figure, axes, summary, extent, outline)
    _borders(axes, region, grid)
    middle = np.deg2rad(sum(extent[2:]) / 2)
    axes.set_aspect(1 / np.cos(middle) if grid.geographic else 1.0, anchor="C")
    axes.set_axis_off()
    _draw_colour_bar(figure, image, scale.high, _map_title(summary))


def _draw_colour_bar(figure: Figure, image: AxesImage, limit: float, title: str) -> None:
    """Draw the colour bar with unit and meaning of the sign."""
    bar = figure.add_axes((0.165, 0.178, 0.29, 0.02))
    colours = figure.colorbar(image, cax=bar, orientation="horizontal", extend="both")
    colours.outline.set_visible(False)
    colours.set_ticks(np.linspace(-limit, limit, 5).tolist())
    bar.tick_params(labelsize=11, length=0, colors=_INK)
    figure.text(0.155, 0.18, "uptake by land", size=11.5, ha="right", color="#01665e", weight="bold")
    figure.text(0.465, 0.18, "release to air", size=11.5, ha="left", color="#8c510a", weight="bold")
    figure.text(_LEFT, 0.835, title, size=11.5, color=_GREY)


def _map_title(summary: MapSummary) -> str:
    """Say what the map shows: NEE of a year, of a year to date, or its mean rate."""
    if summary.whole_years:
        return "Annual NEE, g C m$^{-2}$ of land yr$^{-1}$"
    if summary.summed:
        return f"NEE of {_days_named(summary)}, g C m$^{{-2}}$ of land"
    return "Mean NEE, g C m$^{-2}$ of land d$^{-1}$"


def _extent(grid: Grid, summary: MapSummary) -> tuple[float, float, float, float]:
    """Return west, east, south, north of the picture, whose last thinned cells may reach over the grid's edge."""
    west, _, _, north = grid.bounds
    dx, dy = (size * summary.thinning for size in grid.resolution)
    ny, nx = summary.rate.shape
    return west, west + nx * dx, north - ny * dy, north


def _hatch(
    figure: Figure, axes: Axes, summary: MapSummary, extent: tuple[float, float, float, float], outline: PathPatch
) -> None:
    """Hatch the cells where the model extrapolates, and say so."""
    if not summary.doubtful.any():
        return
    fine = max(1, 600 // max(summary.doubtful.shape))  # contours cut corners of cells: make the cells smaller
    mask = np.pad(np.kron(summary.doubtful, np.ones((fine, fine))), 1)
    west, east, south, north = extent
    ny, nx = mask.shape
    x = west + (np.arange(nx) - 0.5) * (east - west) / (nx - 2)
    y = north - (np.arange(ny) - 0.5) * (north - south) / (ny - 2)
    marks = axes.contourf(x, y, mask, levels=[0.5, 1.5], colors="none", hatches=[_HATCH])
    marks.set(edgecolor="#3a3a3a", linewidth=0, clip_path=outline)
    marks.set_hatch_linewidth(0.45)
    share = summary.doubtful.sum() / np.isfinite(summary.rate).sum()
    key = Rectangle((0.165, 0.108), 0.018, 0.022, transform=figure.transFigure, fill=False, hatch=_HATCH, lw=0.5)
    figure.add_artist(key)
    text = f"outside the area of applicability most of the time ({share:.0%} of cells)"
    figure.text(0.19, 0.112, text, size=10.5, color=_GREY)


def _borders(axes: Axes, region: Region, grid: Grid) -> None:
    """Draw the borders of the states, or of the region where it has none."""
    frame = region.states_frame()
    shapes = list(frame.geometry) if len(frame) else [region.polygon]
    axes.add_patch(PathPatch(_path(shapes, grid), facecolor="none", edgecolor=_INK, linewidth=0.7, joinstyle="round"))


def _path(polygons: Sequence[BaseGeometry], grid: Grid) -> MplPath:
    """Return the rings of longitude-latitude polygons on the map's plane."""
    plane = gpd.GeoSeries(polygons, crs=4326).to_crs(grid.crs.to_wkt())
    parts = shapely.get_parts(plane.to_numpy())
    rings = [np.asarray(ring.coords)[:, :2] for part in parts for ring in (part.exterior, *part.interiors)]
    return MplPath.make_compound_path(*(MplPath(ring, closed=True) for ring in rings))


def _draw_curves(figure: Figure, summary: MapSummary, step: str) -> None:
    """Draw the seasonal curves of the region's mean fluxes."""
    axes = figure.add_axes((0.645, 0.385, 0.315, 0.405))
    season = _smooth(summary.seasonal()) if step == "daily" else summary.seasonal()
    shift = pd.Timedelta(days=14 if step == "monthly" else 0)  # the middle of the month
    times = pd.DatetimeIndex(season.index) + shift
    several = summary.years[0] < summary.years[1]
    nee = season["nee", "mean"].to_numpy()
    axes.fill_between(times, nee, 0, where=nee < 0, color="#80cdc1", alpha=0.55, lw=0, interpolate=True)
    axes.fill_between(times, nee, 0, where=nee > 0, color="#dfc27d", alpha=0.55, lw=0, interpolate=True)
    for flux, (label, colour) in _CURVES.items():
        axes.plot(
            times,
            season[flux, "mean"],
            color=colour,
            lw=2.4 if flux == "nee" else 1.9,
            solid_capstyle="round",
            label=label,
        )
        if several:
            axes.fill_between(times, season[flux, "min"], season[flux, "max"], color=colour, alpha=0.16, lw=0)
    _label_curves(axes, times, season)
    _style_curves(axes, several, step)


def _smooth(season: pd.DataFrame) -> pd.DataFrame:
    """Take the running mean over a week: day-to-day weather hides the season."""
    return season.rolling(_SMOOTH_DAYS, center=True, min_periods=1).mean()


def _label_curves(axes: Axes, times: pd.DatetimeIndex, season: pd.DataFrame) -> None:
    """Write each curve's name at its peak instead of in a legend."""
    for flux, (label, colour) in _CURVES.items():
        values = season[flux, "mean"].to_numpy()
        if not np.isfinite(values).any():
            continue  # the region holds no value at all
        at = int(np.nanargmin(values) if flux == "nee" else np.nanargmax(values))
        # above RECO runs the curve of GPP; under its peak there is room
        under = flux == "nee" or (flux == "reco" and season["gpp", "mean"].to_numpy()[at] > values[at])
        offset = (0, -15 if flux == "nee" else -38) if under else (0, 6)
        text = axes.annotate(
            label,
            (times[at], values[at]),
            offset,
            textcoords="offset points",
            ha="center",
            color=colour,
            size=13,
            weight="bold",
        )
        text.set_path_effects([Stroke(linewidth=3, foreground="white"), Normal()])


def _style_curves(axes: Axes, several: bool, step: str) -> None:
    """Take away what is not data."""
    axes.axhline(0, color=_INK, lw=0.8)
    axes.grid(axis="y", color=_FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.xaxis.set_major_locator(MonthLocator((1, 3, 5, 7, 9, 11), bymonthday=15))
    axes.xaxis.set_major_formatter(DateFormatter("%b"))
    axes.tick_params(length=0, labelsize=11, colors=_GREY)
    axes.margins(x=0.01, y=0.1)
    what = "Mean seasonal cycle (shaded: range of the years)" if several else "Seasonal course"
    smooth = f"{_SMOOTH_DAYS}-day running mean" if step == "daily" else "monthly mean"
    axes.set_title(f"{what}\nRegion, {smooth}, g C m$^{{-2}}$ of land d$^{{-1}}$", loc="left", size=11.5, color=_GREY)


def _teragrams(value: float) -> str:
    """Return a total with three digits or, from a thousand on, all before the point.

    Examples
    --------
    >>> _teragrams(2195.4), _teragrams(-33.72), _teragrams(-0.0049)
    ('2,195', '-33.7', '-0.0049')
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - int(np.floor(np.log10(abs(value))))}f}".rstrip("0").rstrip(".")


def _write_totals(figure: Figure, summary: MapSummary, info: MapInfo) -> None:
    """Write the region's fluxes of a year, or of a year to date, in large figures."""
    if not summary.summed:
        return
    annual = summary.annual_mean()
    if annual.isna().any():
        return  # the region holds no value at all
    unit = "g C m$^{-2}$ of land"
    whole, part = f"Annual sum, {unit} (NEE = RECO − GPP)", f"Sum of {_days_named(summary)}, {unit}"
    figure.text(0.645, 0.3, whole if summary.whole_years else part, size=11.5, color=_GREY)
    for i, flux in enumerate(("gpp", "reco", "nee")):
        label, colour = _CURVES[flux]
        x = 0.645 + 0.112 * i
        told = f"{label} (input)" if flux == "gpp" and info.gpp_is_driver else label
        figure.text(x, 0.262, told, size=12.5, weight="bold", color=colour)
        figure.text(x, 0.21, f"{annual[flux]:,.0f}".replace("-", "−"), size=25, weight="bold", color=_INK)
        teragrams = annual[flux] * summary.land_area / 1e12
        figure.text(x, 0.177, f"{_teragrams(teragrams)} Tg C".replace("-", "−"), size=11.5, color=_GREY)
    for i, line in enumerate(_further_lines(summary)):
        figure.text(0.645, 0.143 - 0.026 * i, line, size=10.5, color=_GREY)


def _further_lines(summary: MapSummary) -> list[str]:
    """Say what leaves as harvest, and how much of the map is calibrated."""
    lines = []
    if summary.annual.notna().get("balance_after_harvest", False):
        removal, balance = summary.annual[["harvest_removal", "balance_after_harvest"]]
        lines.append(f"Harvest removes {removal:,.0f}; NEE + harvest {balance:,.0f}".replace("-", "−"))
    if summary.calibrated > 0:
        lines.append(f"{summary.calibrated:.0%} heads of places, {1 - summary.calibrated:.0%} global model")
    return lines


def _write_caption(figure: Figure, info: MapInfo) -> None:
    """Write what the map is not good for, and its origin."""
    made = ". ".join([f"Made with fluxgrid, {info.created[:10]}", *info.sources])
    text = figure.text(_LEFT, 0.014, "", size=8.8, color=_GREY, va="bottom", linespacing=1.35)
    for letters in range(_CAPTION_LETTERS, 0, -4):  # capitals and digits are wide: lines are measured
        origin = textwrap.wrap(made, letters, max_lines=2, placeholder=" …")
        room = _CAPTION_LINES - len(origin)
        caveats = textwrap.wrap(" ".join(info.caveats), letters, max_lines=room, placeholder=" …")
        text.set_text("\n".join([*caveats, *origin]))
        if text.get_window_extent().x1 <= (1 - _LEFT) * figure.bbox.width:
            break
