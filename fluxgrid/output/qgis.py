"""A QGIS layer definition beside the NetCDF files: styled, timed, with relative paths.

Each flux of each file is a raster layer whose bands have their own time range, which QGIS animates from version 3.38
on. Older ones animate the same files as mesh layers, in a layer definition of their own. The XML was learnt from what
QGIS 3.22 writes and, for ranges per band, from how ``QgsRasterLayerTemporalProperties`` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
from pyproj import CRS

from fluxgrid.errors import OutputError
from fluxgrid.files import write_text
from fluxgrid.netcdf import NetCDF, netcdf_file
from fluxgrid.output.layers import error_name
from fluxgrid.output.qgis_style import ANNUAL_SUFFIX, add_mesh_style, add_raster_style
from fluxgrid.output.ramps import Scale, flux_scale
from fluxgrid.output.store import readable
from fluxgrid.variables import VARIABLES

if TYPE_CHECKING:
    from fluxgrid.output.info import MapInfo

_RANGE_PER_BAND = "3"  # Qgis::RasterTemporalMode::FixedRangePerBand, QGIS 3.38
_HOURS = "3"  # the unit MDAL counts time in
_SAMPLED_STEPS, _SAMPLED_CELLS = 24, 250_000
_SHOWN_SHARE = 0.998
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


_MOST_SAMPLED = 2**20
"""Values of a variable, of all files, that its range is found from: an archive of many years has many files."""


@dataclass(frozen=True)
class _File:
    """What the layers need to know of one NetCDF file."""

    source: str
    period: str
    wkt: str
    extent: tuple[float, float, float, float]
    starts: pd.DatetimeIndex
    ends: pd.DatetimeIndex
    groups: tuple[str, ...]
    samples: dict[str, np.ndarray]
    """Some values of each flux, half-width and annual variable."""
    still: int

    @property
    def fluxes(self) -> list[str]:
        """Names of its fluxes."""
        return [name for name in self.samples if name in VARIABLES and VARIABLES[name].role == "flux"]

    @property
    def annual(self) -> list[str]:
        """Names of its annual variables."""
        return [name for name in self.samples if name in VARIABLES and VARIABLES[name].role == "annual"]

    @property
    def errors(self) -> list[str]:
        """Names of the half-widths of its fluxes."""
        return [error_name(flux) for flux in self.fluxes if error_name(flux) in self.samples]

    @classmethod
    def read(cls, path: Path, folder: Path, most: int) -> _File:
        """Read axes and a sample of the values, of each variable so many at most."""
        with readable(f"the map {path}"), netcdf_file(path) as file:
            y, x = file["nee"].dimensions[1:]
            bounds = pd.Timestamp(0) + pd.to_timedelta(file["time_bnds"][:].ravel(), unit="D")
            picks, samples = _sample(file)
            return cls(
                "./" + Path(os.path.relpath(path, folder)).as_posix(),
                path.stem.rsplit("_", 1)[-1],
                file["crs"].crs_wkt,
                _extent(file[f"{x}_bnds"][:], file[f"{y}_bnds"][:]),
                pd.DatetimeIndex(bounds[0::2]),
                pd.DatetimeIndex(bounds[1::2]),
                _mesh_groups(file),
                {name: _thinned(values, most) for name, values in samples.items()},
                int(picks[np.argmin(np.nan_to_num(_step_means(samples["nee"])))]),
            )


def write_qlr(
    path: Path | str, netcdf_files: Sequence[Path | str], info: MapInfo, kind: Literal["raster", "mesh"] = "raster"
) -> Path:
    """Write a layer definition that QGIS loads by dragging it into its window.

    NEE is shown with green for uptake and brown for release; the others are there to be switched on. Without the
    temporal controller a raster layer shows the sampled step of strongest uptake, which its name gives.

    Parameters
    ----------
    path : path
        The ``.qlr`` file to make.
    netcdf_files : sequence of path
        Maps from `fluxgrid.output.netcdf.export_netcdf`, in order of time; paths are stored relative to ``path``.
    info : MapInfo
        Title and summary.
    kind : {"raster", "mesh"}
        ``raster``: crisp cells, animated by QGIS 3.38 and later, one layer for each flux and file, each half-width and
        each annual variable. ``mesh``: animated by older QGIS too, one layer for each file, in which the flux can be
        chosen.

    Returns
    -------
    path : Path

    Raises
    ------
    DamagedMap
        If a NetCDF file cannot be read.
    OutputError
        If there is no file, or the layer definition cannot be written.
    """
    if not netcdf_files:
        message = f"There is no NetCDF file to make {path} of. Export the map first."
        raise OutputError(message)
    most = _MOST_SAMPLED // len(netcdf_files)
    files = [_File.read(Path(name), Path(path).parent, most) for name in netcdf_files]
    scales = {name: _scale(files, name) for name in dict.fromkeys(name for file in files for name in file.samples)}
    document = _Document(info)
    if kind == "raster":
        _add_rasters(document, files, scales)
    else:
        for file in files:
            _add_mesh(document, file, scales)
    write_text(path, document.text())
    return Path(path)


def _thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Return a number of values at most, (n,), spread evenly: what a range needs, however many years there are."""
    flat = values.ravel()
    return flat[:: max(1, -(-flat.size // max(most, 1)))].copy()


def _scale(files: Sequence[_File], flux: str) -> Scale:
    """Return one range for all steps: of a whole year, so that summer must not saturate."""
    samples = [file.samples[flux].ravel() for file in files if flux in file.samples]
    return flux_scale(flux, np.concatenate(samples), _SHOWN_SHARE)


class _Document:
    """The two halves of a layer definition: the tree of layers and the layers themselves."""

    def __init__(self, info: MapInfo):
        self.info = info
        self.root = ET.Element("qlr")
        top = _group(self.root, "", True)
        self.tree = _group(top, info.full_title, True)
        self.layers = ET.SubElement(self.root, "maplayers")

    def text(self) -> str:
        """Return the document."""
        ET.indent(self.root)
        return "<!DOCTYPE qgis-layer-definition>\n" + ET.tostring(self.root, encoding="unicode") + "\n"

    def add(self, folder: ET.Element, file: _File, name: str, source: str, kind: str, visible: bool) -> ET.Element:
        """Add a layer to both halves, with what all kinds have in common."""
        identifier = "".join(c if c.isalnum() else "_" for c in f"{self.info.region_name}_{kind}_{name}")
        state = {"checked": "Qt::Checked" if visible else "Qt::Unchecked", "expanded": "0"}
        provider = {"raster": "gdal", "mesh": "mdal"}[kind]
        leaf = {"id": identifier, "name": name, "source": source, "providerKey": provider, **state}
        ET.SubElement(folder, "layer-tree-layer", leaf)
        layer = ET.SubElement(self.layers, "maplayer", type=kind, styleCategories="AllStyleCategories")
        extent = ET.SubElement(layer, "extent")
        for tag, value in zip(("xmin", "xmax", "ymin", "ymax"), file.extent, strict=True):
            _text(extent, tag, repr(value))
        _text(layer, "id", identifier)
        _text(layer, "datasource", source)
        _text(layer, "layername", name)
        _add_crs(ET.SubElement(layer, "srs"), file.wkt)
        metadata = ET.SubElement(layer, "resourceMetadata")
        _text(metadata, "title", self.info.full_title)
        _text(metadata, "abstract", " ".join([self.info.summary, *self.info.caveats]))
        return layer


def _sample(file: NetCDF) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return some steps and the values of some cells in them: enough for the range of colours."""
    steps, ny, nx = file["nee"].shape
    picks = np.unique(np.linspace(0, steps - 1, min(steps, _SAMPLED_STEPS)).round().astype(int))
    every = max(1, int(np.ceil(np.sqrt(ny * nx / _SAMPLED_CELLS))))
    fluxes, annual = (
        [name for name in VARIABLES if VARIABLES[name].role == role and name in file.variables]
        for role in ("flux", "annual")
    )
    fluxes += [error_name(flux) for flux in fluxes if error_name(flux) in file.variables]
    values = {flux: [file[flux][step, ::every, ::every] for step in picks] for flux in fluxes}
    values |= {name: [file[name][::every, ::every]] for name in annual}
    return picks, {name: np.ma.filled(np.ma.array(maps), np.nan) for name, maps in values.items()}


def _step_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each step, NaN where it is empty."""
    count = np.isfinite(values).sum(axis=(1, 2))
    return np.divide(np.nansum(values, axis=(1, 2)), count, out=np.full(len(values), np.nan), where=count > 0)


def _extent(x_bounds: np.ndarray, y_bounds: np.ndarray) -> tuple[float, float, float, float]:
    """Return west, east, south, north."""
    return float(x_bounds.min()), float(x_bounds.max()), float(y_bounds.min()), float(y_bounds.max())


def _mesh_groups(file: NetCDF) -> tuple[str, ...]:
    """Return the names MDAL gives the variables of the map, in its order: sorted by long name."""
    cells = file["nee"].dimensions[1:]
    on_cells = [v for v in file.variables.values() if v.dimensions[-2:] == cells and v.name not in ("lat", "lon")]
    return tuple(sorted(variable.long_name for variable in on_cells))


def _group(parent: ET.Element, name: str, checked: bool) -> ET.Element:
    """Add a group to the layer tree."""
    state = "Qt::Checked" if checked else "Qt::Unchecked"
    return ET.SubElement(parent, "layer-tree-group", name=name, checked=state, expanded=str(int(checked)))


def _add_rasters(document: _Document, files: Sequence[_File], scales: dict[str, Scale]) -> None:
    """Add all fluxes of all files, in a group for each flux if there are several files."""
    for flux in files[0].fluxes:
        folder = _group(document.tree, flux.upper(), flux == "nee") if len(files) > 1 else document.tree
        for file in files:
            visible = flux == "nee" or folder is not document.tree
            _add_raster(document, folder, file, flux, scales[flux], visible)
    if any(file.errors for file in files):
        folder = _group(document.tree, "Half-widths of single steps", False)
        for file in files:
            for name in file.errors:
                _add_raster(document, folder, file, name, scales[name], False)
    if any(file.annual for file in files):
        folder = _group(document.tree, "Sums over the calendar year", False)
        for file in files:
            for name in file.annual:
                _add_annual(document, folder, file, name, scales[name])


def _add_annual(document: _Document, folder: ET.Element, file: _File, name: str, scale: Scale) -> None:
    """Add one annual variable of one file as a raster layer without time."""
    title = f"{name.replace('_', ' ').capitalize()} {file.ends[-1].year - 1}"
    layer = document.add(folder, file, title, f'NETCDF:"{file.source}":{name}', "raster", False)
    _text(layer, "provider", "gdal")
    add_raster_style(layer, scale, 1, ANNUAL_SUFFIX)


def _add_raster(document: _Document, folder: ET.Element, file: _File, flux: str, scale: Scale, visible: bool) -> None:
    """Add one flux of one file as a raster layer with a time range for each band."""
    title = flux.upper().replace("_SE", " half-width")
    name = f"{title} {file.period} (still: {file.starts[file.still]:%d %b %Y})"
    layer = document.add(folder, file, name, f'NETCDF:"{file.source}":{flux}', "raster", visible)
    _text(layer, "provider", "gdal")
    temporal = ET.SubElement(layer, "temporal", enabled="1", mode=_RANGE_PER_BAND, fetchMode="0")
    ranges = ET.SubElement(temporal, "ranges")
    for band, (start, end) in enumerate(zip(file.starts, file.ends, strict=True), start=1):
        span = {"band": str(band), "begin": start.strftime(_STAMP), "end": end.strftime(_STAMP)}
        ET.SubElement(ranges, "range", {**span, "includeBeginning": "1", "includeEnd": "0"})
    add_raster_style(layer, scale, file.still + 1)


def _add_mesh(document: _Document, file: _File, scales: dict[str, Scale]) -> None:
    """Add one file as a mesh layer."""
    names = ", ".join(flux.upper() for flux in file.fluxes)
    layer = document.add(document.tree, file, f"{names} {file.period}", file.source, "mesh", True)
    ET.SubElement(layer, "provider", {"time-unit": _HOURS}).text = "mdal"
    index = {flux: file.groups.index(VARIABLES[flux].long_name) for flux in file.fluxes}
    ET.SubElement(layer, "static-active-dataset", scalar=str(index["nee"]), vector="-1")
    times = {
        "start-time-extent": file.starts[0].strftime(_STAMP),
        "end-time-extent": file.starts[-1].strftime(_STAMP),
        "reference-time": "1970-01-01T00:00:00Z",
        "temporal-active": "1",
        "matching-method": "0",
    }
    ET.SubElement(layer, "temporal", times)
    add_mesh_style(layer, {index[flux]: scales[flux] for flux in file.fluxes}, index["nee"])


def _add_crs(parent: ET.Element, wkt: str) -> None:
    """Name the coordinate reference system, by its code where it has one."""
    crs = CRS.from_wkt(wkt)
    authority = crs.to_authority()
    element = ET.SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    _text(element, "wkt", wkt)
    _text(element, "authid", ":".join(authority) if authority else "")
    _text(element, "description", crs.name)
    _text(element, "geographicflag", "true" if crs.is_geographic else "false")


def _text(parent: ET.Element, tag: str, text: str) -> None:
    """Add an element that holds only text."""
    ET.SubElement(parent, tag).text = text
