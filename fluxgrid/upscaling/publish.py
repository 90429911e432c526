"""From finished tiles to the files people open; the manifest comes last and says the map is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from fluxgrid.errors import OutputError
from fluxgrid.files import output_error, write_text
from fluxgrid.geo.region import Region
from fluxgrid.output.export import export_all
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import Compression, plan_files
from fluxgrid.output.totals import region_land_share, region_totals, write_totals
from fluxgrid.upscaling.folder import MANIFEST, RunFolder, remove
from fluxgrid.upscaling.plan import Plan

_ASIDE = "files"

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

    def at(self, folder: Path) -> Published:
        """Return the same files in another folder."""
        one = {f.name: folder / getattr(self, f.name).name for f in fields(self) if f.name != "netcdf"}
        return Published(tuple(folder / path.name for path in self.netcdf), **one)


def publish(
    plan: Plan,
    folder: RunFolder,
    region: Region,
    info: MapInfo,
    manifest: dict[str, Any],
    lanes: int = 1,
    compression: Compression = "zlib",
) -> Published:
    """Write NetCDF, totals, quicklook, QGIS layers and the manifest of a finished plan.

    All files are made aside and moved into place together, the manifest last; until then the folder holds what it held
    before. What an earlier map left there under other names is removed only after that.

    Parameters
    ----------
    plan : Plan
        Every unit of it is done.
    folder : RunFolder
    region : Region
    info : MapInfo
    manifest : dict
        What is known of the run.
    lanes : int
        Most NetCDF files written at the same time, each in a process of its own: HDF5 lets one thread write.
    compression : {"zlib", "zstd"}
        Of the NetCDF files.

    Returns
    -------
    published : Published

    Raises
    ------
    OutputError
        If a file cannot be written; the run can be resumed.
    """
    standing = folder.manifest or {}
    before = {*standing.get("files", {}), *standing.get(REPLACED, [])}
    aside = folder.work / _ASIDE
    remove(aside)  # half of an earlier try
    try:
        made = _write_files(plan, folder, region, info, aside, lanes, compression)
        totals = region_totals(made.totals)
    except OutputError as error:
        remove(aside)
        message = f"{error} The map is predicted: --resume has only its files to write."
        raise OutputError(message) from error
    files = {path.name: path.stat().st_size for path in made.all}
    for path in made.all:
        path.replace(folder.path / path.name)
    row = {"plan": plan.digest, **manifest, "totals_TgC": totals, "files": files}
    # names the old files first: killed before they are gone, the next run removes them
    write_manifest(folder, {**row, REPLACED: sorted(before - set(files))})
    clear_replaced(folder)
    remove(aside)
    return made.at(folder.path)


def _write_files(
    plan: Plan, folder: RunFolder, region: Region, info: MapInfo, out: Path, lanes: int, compression: Compression
) -> Published:
    """Write every file of a map but the manifest into a new folder."""
    from fluxgrid.output.qgis import write_qlr  # these import matplotlib: half a second that no other command pays
    from fluxgrid.output.quicklook import draw_quicklook

    try:
        out.mkdir(parents=True)  # several threads begin in it
    except OSError as error:
        raise output_error(error, out) from error
    stores = [plan.store(folder.work, segment) for segment in plan.map_segments]
    region_land = region_land_share(region, plan.grid, plan.land_fraction)
    exports = []
    for segment, store in zip(plan.map_segments, stores, strict=True):
        times = plan.time[segment.steps]
        for part in plan_files(pd.DatetimeIndex(times), plan.grid.shape, plan.layers):
            exports.append((store, out / f"{plan.region}_{part.period}.nc", part.steps))
    frame = (plan.grid, info, plan.land_fraction, region_land, compression)
    with ThreadPoolExecutor(1) as beside:

        def start(make: Callable[..., Path], *about: Any) -> Future[Path]:
            """Make a file while NetCDF is written, or, where one thread was asked for, before."""
            made = beside.submit(make, stores, region, plan.grid, plan.land_fraction, *about)
            if lanes <= 1:
                made.exception()  # waits
            return made

        picture = start(draw_quicklook, info, out / "quicklook.png")
        totals = start(write_totals, out / "totals.csv", plan.step)
        netcdf = export_all(exports, frame, lanes)
    return Published(
        tuple(netcdf),
        picture.result(),
        totals.result(),
        write_qlr(out / f"{plan.region}.qlr", netcdf, info),
        write_qlr(out / f"{plan.region}_mesh.qlr", netcdf, info, kind="mesh"),
        out / MANIFEST,
    )


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
        # a manifest is a text that anybody may write: nothing outside the folder, and no folder, goes by its word
        if Path(name).name == name and (folder.path / name).is_file():
            (folder.path / name).unlink()
    for other in folder.work.parent.iterdir():
        if other != folder.work and other.is_dir():
            remove(other)
    write_manifest(folder, manifest)
