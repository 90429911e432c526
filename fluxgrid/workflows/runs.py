"""`fluxgrid runs`: list, compare, take back and remove what refreshes published; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.data.steps import days_per_step
from fluxgrid.errors import ConfigError, OutputError
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output.archive import Archive, Version
from fluxgrid.output.exports import Exports
from fluxgrid.upscaling.lock import locked
from fluxgrid.variables import GRAMS_PER_TG, MAP_FLUXES
from fluxgrid.workflows.refresh_place import ARCHIVE, EXPORTS, LATEST, WORK, Place


def list_runs(where: str) -> list[dict[str, Any]]:
    """Return the versions of an archive, oldest first.

    Parameters
    ----------
    where : str
        Run configuration, or the folder of an archive.

    Returns
    -------
    rows : list of dict

    Raises
    ------
    DamagedMap
        If there is no archive, or it cannot be read.
    """
    archive = Archive.open(_place(where).archive)
    return [_row(version) for version in archive.versions()]


def runs_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return versions as lines."""
    if not rows:
        return "Nothing was published yet."
    lines = [
        f"{row['version']:6d}  {row['published'][:19]}Z  {row['tag'] or '-':12s}  {row['years']:9s}  to "
        f"{row['covered'] or '?'}  {row['changed']} units"
        + (f"  back to {row['rollback_to']}" if row["rollback_to"] else "")
        for row in rows
    ]
    return "\n".join(lines)


def diff_runs(where: str, before: str, after: str | None) -> dict[str, Any]:
    """Return how two versions differ: units, and the change of the region's carbon in each year.

    Parameters
    ----------
    where : str
    before, after : str or None
        Number, tag or date; None for the newest.

    Returns
    -------
    row : dict
        ``change_TgC`` is empty where no NetCDF file stands beside the archive: they hold the land of the region.

    Raises
    ------
    UnknownName
        If there is no such version.
    DamagedMap
        If one cannot be read.
    """
    place = _place(where)
    archive = Archive.open(place.archive)
    old, new = archive.find(_which(before)), archive.find(_which(after))
    found = archive.diff(old, new)
    land = _land(place, archive)
    totals = {} if land is None else {flux: _change(archive, land, (old, new), flux) for flux in MAP_FLUXES}
    return {
        "before": _row(old),
        "after": _row(new),
        "values": [list(unit) for unit in found.values],
        "keys": [list(unit) for unit in found.keys],
        "added": [list(unit) for unit in found.added],
        "removed": [list(unit) for unit in found.removed],
        "change_TgC": {flux: {str(year): round(tg, 6) for year, tg in years.items()} for flux, years in totals.items()},
    }


def diff_text(row: Mapping[str, Any]) -> str:
    """Return a difference as lines."""
    kinds = {"values": "other values", "keys": "other inputs, the same values", "added": "added", "removed": "removed"}
    lines = [f"version {row['before']['version']} to {row['after']['version']}"]
    for kind, text in kinds.items():
        years = sorted({year for _, year in row[kind]})
        counts = ", ".join(f"{sum(unit[1] == year for unit in row[kind])} tiles of {year}" for year in years)
        lines += [f"{text}: {counts}"] if counts else []
    for flux, years in row["change_TgC"].items():
        lines += [f"{flux.upper()} {year}: {change:+.4g} Tg C" for year, change in years.items()]
    if len(lines) > 1 and not row["change_TgC"]:
        lines.append("by how much carbon is not known: no NetCDF file with the land of the region stands beside it")
    return "\n".join(lines if len(lines) > 1 else [*lines, "no difference"])


def rollback_runs(where: str, to: str, tag: str | None) -> list[str]:
    """Publish an old state again, and let the files beside the archive follow.

    Parameters
    ----------
    where : str
    to : str
        Number, tag or date.
    tag : str or None
        Name of the new version.

    Returns
    -------
    lines : list of str
        What was done.

    Raises
    ------
    UnknownName
        If there is no such version.
    ConfigError
        If it is the newest.
    RunLocked
        If a refresh runs.
    """
    place = _whole_place(where)
    with locked(place.out, place.holder):
        archive = Archive.open(place.archive)
        old = archive.find(_which(to))
        newest = archive.newest()
        if newest is not None and old.id == newest.id:
            message = f"Version {old.id} is the newest: there is nothing to take back. See `fluxgrid runs list`."
            raise ConfigError(message)
        version = archive.rollback(old, tag)
        lines = [f"Version {version.id} is the state of version {old.id}."]
        exports = Exports(place.out / EXPORTS, place.out / LATEST)
        if exports.folder.is_dir() and not exports.whole(version.name):
            linked = exports.relink(version, old)
            lines.append("Its files stand too." if linked else "Its NetCDF files are not there: a refresh makes them.")
    lines.append("Refreshes stop from now on until one is run with --allow rollback.")
    return lines


def prune_runs(where: str, keep: int) -> list[str]:
    """Remove old versions and their files.

    Parameters
    ----------
    where : str
    keep : int
        How many of the newest stay; those with a tag stay too.

    Returns
    -------
    lines : list of str
        What was done.

    Raises
    ------
    RunLocked
        If a refresh runs.
    """
    place = _whole_place(where)
    with locked(place.out, place.holder):
        archive = Archive.open(place.archive)
        pruned = archive.prune(keep)
        exports = Exports(place.out / EXPORTS, place.out / LATEST)
        exports.prune({f"{number:06d}" for number in archive.numbers()})
    gone = ", ".join(map(str, pruned.versions)) or "none"
    return [f"Removed versions: {gone}; {pruned.freed / 1e6:.1f} MB freed in the archive."]


def _place(where: str) -> Place:
    """Return the places of a configuration, or of the folder of an archive."""
    folder = Path(where).expanduser()
    if not folder.is_dir():
        return Place.of(load_config(UpscaleConfig, where))
    archive = folder if (folder / "archive.json").is_file() else folder / "archive"
    if not (archive / "archive.json").is_file():
        message = f"{folder} is neither an archive nor a folder with one. Give the run configuration, or its out."
        raise OutputError(message)
    return Place(archive.parent, archive, None)


def _whole_place(where: str) -> Place:
    """Return the places of what is to change: not of an archive alone, whose lock and files are elsewhere."""
    place = _place(where)
    beside = place.archive.name == ARCHIVE and any((place.out / name).is_dir() for name in (WORK, EXPORTS))
    if Path(where).expanduser().is_dir() and not beside:
        message = f"Lock and files that belong to {place.archive} are not beside it. Give the run configuration."
        raise OutputError(message)
    return place


def _which(text: str | None) -> str | int | None:
    """Return a version as `Archive.find` takes it; digits are a number unless they are a date like 20261129."""
    return int(text) if text is not None and text.isdecimal() and len(text) < len("20261129") else text


def _row(version: Version) -> dict[str, Any]:
    """Return a version for JSON."""
    years = sorted(version.years)
    return {
        "version": version.id,
        "published": version.time,
        "tag": version.tag,
        "years": f"{years[0]}-{years[-1]}" if years else "",
        "covered": version.covered,
        "changed": version.changed,
        "rollback_to": version.message.get("rollback_to"),
        "message": dict(version.message),
    }


def _land(place: Place, archive: Archive) -> np.ndarray | None:
    """Return the land of the region in each cell, m2 (y, x), as it stands in files beside the archive."""
    for path in sorted((place.out / EXPORTS).glob("*/*.nc"), reverse=True):
        with suppress(OSError, ValueError, KeyError), open_netcdf(path) as file:
            share = file["region_land_area_fraction"].values
            if share.shape == archive.design.grid.shape:
                return share * archive.design.grid.cell_area()
    return None


def _change(archive: Archive, land: np.ndarray, versions: tuple[Version, Version], flux: str) -> dict[int, float]:
    """Return the change of a flux of the region by year, Tg of carbon per year; `land` is m2 (y, x)."""
    found = dict[int, float]()
    for (tile, year), before, after in archive.compare(*versions, flux):
        part, days = archive.design.tiles[tile], days_per_step(archive.design.times(year), archive.design.step)
        cells = land[part.rows, part.cols] / GRAMS_PER_TG
        sums = [
            0.0 if v is None else float(np.sum(np.tensordot(days, np.nan_to_num(v), 1) * cells))
            for v in (before, after)
        ]
        found[year] = found.get(year, 0.0) + sums[1] - sums[0]
    return found
