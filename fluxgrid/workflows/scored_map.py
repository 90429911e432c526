"""Maps of fluxes from anywhere, opened to be scored: which world they were made on, which region they cover."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.cube import grid_of, open_cube, step_of
from fluxgrid.data.cube.axes import column_order, looks_geographic, row_order
from fluxgrid.data.cube.layout import survey
from fluxgrid.data.cube.stores import open_raw, zarr_folder
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.data.steps import Step
from fluxgrid.errors import CubeError, OutputError, RegionNotFound, itemise
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region, find_region
from fluxgrid.upscaling.folder import MANIFEST
from fluxgrid.variables import MAP_FLUXES

_WORLD = re.compile(r"fluxgrid synthetic world (\S+), parameters ([0-9a-f]{16})")
_ID = re.compile(r"fluxgrid-(.+)-(?:daily|monthly)-\d{8}-\d{8}")
_REGION_LAND = "region_land_area_fraction"
_RESOLUTIONS = {"P1D": "daily", "P1M": "monthly"}


@dataclass(frozen=True, eq=False)
class ScoredMap:
    """A map of fluxes, opened."""

    name: str
    """As the user gave it."""
    title: str
    """As its files say."""
    cube: xr.Dataset
    """Lazy, dims (time, y, x), g m-2 d-1: those of nee, gpp and reco that it holds."""
    world: tuple[str, str] | None
    """Version and digest of the synthetic world its covariates come from; None if it names none."""
    region_name: str | None
    """Region it was made for, if it says so."""
    region_land: np.ndarray | None
    """Share of each cell that is land of its region, (y, x), if it says so."""

    @property
    def fluxes(self) -> tuple[str, ...]:
        """Fluxes it holds, in the order of `MAP_FLUXES`."""
        return tuple(flux for flux in MAP_FLUXES if flux in self.cube)

    @property
    def grid(self) -> Grid:
        """Its grid."""
        return grid_of(self.cube)

    @property
    def step(self) -> Step:
        """Length of its steps."""
        return step_of(self.cube)

    @property
    def time(self) -> pd.DatetimeIndex:
        """Starts of its steps."""
        return pd.DatetimeIndex(self.cube.indexes["time"])

    def region(self, wanted: str | None = None) -> tuple[Region, np.ndarray | None]:
        """Return the region to score.

        Parameters
        ----------
        wanted : str, optional
            What the user asks for; else the map's own region, else the whole map.

        Returns
        -------
        region : Region
        region_land : ndarray, (y, x), or None
            The map's own statement of its region's land, where no polygon could be found for it.

        Raises
        ------
        RegionNotFound
            If there is no region of the name wanted.
        """
        if wanted is not None:
            return find_region(wanted), None
        if self.region_name is not None:
            try:
                return find_region(self.region_name), None
            except RegionNotFound:
                pass  # a polygon file that is no longer there: the map carries the shares of its cells
        lon, lat = self.grid.lonlat()
        half = 0.5 * max(self.grid.resolution) if self.grid.geographic else 0.0
        sides = (lon.min() - half, lat.min() - half, lon.max() + half, lat.max() + half)
        box = find_region(",".join(repr(float(np.round(side, 9))) for side in sides))
        return replace(box, name="whole_map", title="the whole map"), self.region_land


def open_scored_map(paths: Sequence[str | Path]) -> ScoredMap:
    """Open a map that shall be scored.

    Parameters
    ----------
    paths : sequence of path
        A run folder, a zarr store, or NetCDF files (or a pattern) that follow each other in time.

    Returns
    -------
    scored : ScoredMap

    Raises
    ------
    OutputError
        If a folder holds no finished map.
    CubeError
        If the files cannot be opened, hold no flux, or not on a regular grid in a unit that converts; all at once.
    """
    files, manifest = _files_of([Path(path).expanduser() for path in paths])
    source: Any = files if len(files) > 1 else files[0]
    raw, name = open_raw(source), ", ".join(map(str, paths))
    found = [flux for flux in MAP_FLUXES if flux in raw.variables]
    if not found:
        message = (
            f"{name} holds none of {', '.join(MAP_FLUXES)}, so there is nothing to score; its variables are "
            f"{', '.join(map(str, raw.data_vars)) or 'none'}."
        )
        raise CubeError(message)
    mapping = _mapping(raw, found)
    return ScoredMap(
        name=name,
        title=str(raw.attrs.get("title", "untitled")),
        cube=open_cube(source, mapping),
        world=_world_of(raw.attrs),
        region_name=_region_name(raw.attrs, manifest),
        region_land=_region_land(raw, mapping),
    )


def _files_of(paths: list[Path]) -> tuple[list[Path], dict[str, Any]]:
    """Return the files of a map and, of a run folder or a file in one, the manifest."""
    first = paths[0]
    folder = first if first.is_dir() and zarr_folder(first) is None else None
    manifest = _manifest(folder or first.parent)
    if folder is None:
        return paths, manifest
    files = sorted(folder / name for name in manifest.get("files", {}) if name.endswith(".nc"))
    if not files:
        message = (
            f"There is no finished map in {folder}: no {MANIFEST} lists one. Make it with `fluxgrid upscale`, or give "
            "NetCDF files or a zarr store."
        )
        raise OutputError(message)
    if missing := [file.name for file in files if not file.is_file()]:
        raise OutputError(itemise(f"Files of the map in {folder} are gone; put them back or make it again", missing))
    return files, manifest


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, empty if there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest


def _mapping(raw: xr.Dataset, fluxes: Sequence[str]) -> CubeMapping:
    """Return the mapping of a map: its fluxes only, on longitude and latitude where no grid mapping says other."""
    content: dict[str, Any] = {"variables": {flux: {"from": flux} for flux in fluxes}}
    step = _RESOLUTIONS.get(str(raw.attrs.get("time_coverage_resolution", "")))
    content |= {"step": step} if step else {}
    layout = survey(raw, CubeMapping.model_validate(content))
    if layout.crs is None and looks_geographic(raw, layout.dims):
        content["crs"] = "EPSG:4326"
    return CubeMapping.model_validate(content)


def _world_of(attrs: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Return version and digest of the world that a file names in any of its attributes."""
    found = _WORLD.search("\n".join(str(value) for value in attrs.values()))
    return (found[1], found[2]) if found else None


def _region_name(attrs: Mapping[Any, Any], manifest: Mapping[str, Any]) -> str | None:
    """Return the region a map was made for: as it was asked for, or its name."""
    asked = manifest.get("config", {}).get("region")
    found = _ID.fullmatch(str(attrs.get("id", "")))
    return str(asked) if asked else found[1] if found else None


def _region_land(raw: xr.Dataset, mapping: CubeMapping) -> np.ndarray | None:
    """Return the share of each cell that is land of the map's region, (y, x) north up, if it is stated."""
    if _REGION_LAND not in raw.variables:
        return None
    layout = survey(raw, mapping)
    y, x = (layout.dims[axis] for axis in ("y", "x"))
    rows = row_order(raw.indexes[y].to_numpy())
    cols = column_order(raw.indexes[x].to_numpy(), layout.crs is not None and bool(layout.crs.geographic))
    return np.asarray(raw[_REGION_LAND].transpose(y, x).values, np.float64)[rows][:, cols]
