"""NetCDF files, totals and picture of a published version, beside the archive; files of years that stay are linked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fluxgrid.data.steps import calendar
from fluxgrid.files import atomic_folder, write_text
from fluxgrid.geo.region import Region
from fluxgrid.output.archive import Archive, Version
from fluxgrid.output.archive.layout import STORE
from fluxgrid.output.export import export_all
from fluxgrid.output.exports import ABOUT, QUICKLOOK, Exports, link_file
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import Compression, plan_files
from fluxgrid.output.totals import region_land_share, write_totals
from fluxgrid.upscaling.plan import Plan


@dataclass(frozen=True, eq=False)
class ExportFrame:
    """What all years of an export share."""

    plan: Plan
    region: Region
    info: Callable[[int], MapInfo]
    """What the file of a year says about itself."""
    lanes: int
    compression: Compression


def export_version(archive: Archive, version: Version, exports: Exports, frame: ExportFrame) -> tuple[str, ...]:
    """Write the files of a version: years that changed anew, others by links; ``latest`` moves last.

    Parameters
    ----------
    archive : Archive
    version : Version
    exports : Exports
    frame : ExportFrame

    Returns
    -------
    written : tuple of str
        Names of files that were not linked.

    Raises
    ------
    OutputError, DamagedMap
        If a file cannot be written or a map cannot be read; the version is published all the same.
    """
    written: list[str] = []
    with atomic_folder(exports.of(version.name), replace=True) as temporary:  # of a damaged one readers keep the rest
        years = {}
        for year, folder in archive.folders(version).items():
            known = exports.files_of(year, folder.name)
            names = [path.name for path in known]
            for path in known:
                link_file(path, temporary / path.name)
            if not known:
                names = _write_year(year, folder / STORE, temporary, frame)
                written += names
            years[str(year)] = {"folder": folder.name, "files": names}
        _write_frame(archive, version, temporary, frame)
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        row = {"version": version.id, "published": version.time, "years": years, "files": files}
        write_text(temporary / ABOUT, json.dumps(row, indent=1))
    exports.point(version.name)
    return tuple(written)


def _write_year(year: int, store: Path, out: Path, frame: ExportFrame) -> list[str]:
    """Write the NetCDF files and totals of a year."""
    plan = frame.plan
    region_land = region_land_share(frame.region, plan.grid, plan.land_fraction)
    whole = calendar(f"{year}-01-01", f"{year}-12-31", plan.step)
    parts = plan_files(whole, plan.grid.shape, plan.layers)
    exports = [(store, out / f"{plan.region}_{part.period}.nc", part.steps) for part in parts]
    shared = (plan.grid, frame.info(year), plan.land_fraction, region_land, frame.compression)
    paths = export_all(exports, shared, frame.lanes)
    totals = out / f"{plan.region}_{year}_totals.csv"
    paths.append(write_totals([store], frame.region, plan.grid, plan.land_fraction, totals, plan.step))
    return [path.name for path in paths]


def _write_frame(archive: Archive, version: Version, out: Path, frame: ExportFrame) -> None:
    """Draw the newest year that has values, and write the layers of all for QGIS."""
    from fluxgrid.output.qgis import write_qlr  # these import matplotlib: half a second that no other command pays
    from fluxgrid.output.quicklook import draw_quicklook

    plan, netcdf = frame.plan, sorted(out.glob("*.nc"))
    year, folder = max(archive.folders(version).items())
    info = frame.info(year)
    draw_quicklook([folder / STORE], frame.region, plan.grid, plan.land_fraction, info, out / QUICKLOOK)
    write_qlr(out / f"{plan.region}.qlr", netcdf, info)
