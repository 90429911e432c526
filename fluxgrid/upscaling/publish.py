"""From finished tiles to the files people open; the manifest comes last and says the map is whole."""

from __future__ import annotations

import json
import shutil
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
from fluxgrid.upscaling.folder import MANIFEST, RunFolder
from fluxgrid.upscaling.plan import Plan


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
    before = set((folder.manifest or {}).get("files", {}))
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
    write_text(published.manifest, json.dumps({"plan": plan.digest, **manifest, "files": files}, indent=2))
    _clear(folder, before - set(files))
    return published


def _clear(folder: RunFolder, stale: set[str]) -> None:
    """Remove files and work of the map that this one replaced; only names its own manifest listed."""
    for name in stale:
        if Path(name).name == name:
            (folder.path / name).unlink(missing_ok=True)
    for other in folder.work.parent.iterdir():
        if other != folder.work and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
