"""From finished tiles to the files people open; the manifest comes last and says the map is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fluxgrid.files import write_text
from fluxgrid.geo.region import Region
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import export_netcdf, plan_files
from fluxgrid.output.qgis import write_qlr
from fluxgrid.output.quicklook import draw_quicklook
from fluxgrid.output.totals import write_totals
from fluxgrid.upscaling.folder import MANIFEST, RunFolder, remove
from fluxgrid.upscaling.plan import Plan

REPLACED = "replaced"
"""Key of a manifest whose map has still to remove the files of the one before."""


@dataclass(frozen=True)
class Published:
    """The files of a map."""

    netcdf: tuple[Path, ...]
    quicklook: Path
    totals: Path
    layers: Path
    """Raster layers for QGIS; from 3.38 on the temporal controller moves them."""
    mesh: Path
    """Mesh layers, which the temporal controller of older versions moves too."""
    manifest: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file but the manifest."""
        return (*self.netcdf, self.quicklook, self.totals, self.layers, self.mesh)


def publish(plan: Plan, folder: RunFolder, region: Region, info: MapInfo, manifest: dict[str, Any]) -> Published:
    """Write NetCDF, totals, quicklook, QGIS layers and the manifest of a finished plan.

    Files appear one by one, each whole; the manifest is last. What an earlier map left in the folder under other names
    is removed only after that.

    Parameters
    ----------
    plan : Plan
        Every unit of it is done.
    folder : RunFolder
    region : Region
    info : MapInfo
    manifest : dict
        What is known of the run.

    Returns
    -------
    published : Published

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    standing = folder.manifest or {}
    before = {*standing.get("files", {}), *standing.get(REPLACED, [])}
    stores = [plan.store(folder.work, segment) for segment in plan.map_segments]
    netcdf = []
    for segment, store in zip(plan.map_segments, stores, strict=True):
        times = plan.time[segment.steps]
        for part in plan_files(pd.DatetimeIndex(times), plan.grid.shape):
            path = folder.path / f"{plan.region}_{part.period}.nc"
            netcdf.append(export_netcdf(store, plan.grid, info, path, plan.land_fraction, part.steps))
    published = Published(
        tuple(netcdf),
        draw_quicklook(stores, region, plan.grid, plan.land_fraction, info, folder.path / "quicklook.png"),
        write_totals(stores, region, plan.grid, plan.land_fraction, folder.path / "totals.csv", plan.step),
        write_qlr(folder.path / f"{plan.region}.qlr", netcdf, info),
        write_qlr(folder.path / f"{plan.region}_mesh.qlr", netcdf, info, kind="mesh"),
        folder.path / MANIFEST,
    )
    files = {path.name: path.stat().st_size for path in published.all}
    row = {"plan": plan.digest, **manifest, "files": files}
    # names the old files first: killed before they are gone, the next run removes them
    write_manifest(folder, {**row, REPLACED: sorted(before - set(files))})
    clear_replaced(folder)
    return published


def write_manifest(folder: RunFolder, row: dict[str, Any]) -> None:
    """Write the manifest, whole or not at all."""
    write_text(folder.path / MANIFEST, json.dumps(row, indent=2))


def clear_replaced(folder: RunFolder) -> None:
    """Remove files and work of the map that this one replaced, unless that is done already.

    Only files that the manifest of the old map listed are removed.

    Parameters
    ----------
    folder : RunFolder
        Holds a finished map.
    """
    manifest = dict(folder.manifest or {})
    if REPLACED not in manifest:
        return
    for name in manifest.pop(REPLACED):
        if Path(name).name == name:
            remove(folder.path / name)
    for other in folder.work.parent.iterdir():
        if other != folder.work and other.is_dir():
            remove(other)
    write_manifest(folder, manifest)
