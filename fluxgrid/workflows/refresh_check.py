"""Which part of an archive a refresh reads to find damage, and what it finds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fluxgrid import clock
from fluxgrid.data.cube.grow import growth_folder
from fluxgrid.data.cube.kept import CubeDamage, cube_damages, cube_sizes, has_sums
from fluxgrid.errors import DamagedMap
from fluxgrid.output.archive import Archive, Damage
from fluxgrid.output.archive.layout import VERSIONS, read_units

_GB = 10**9


def damages_of(path: Path, most_gb: float, week: int | None = None) -> list[Damage]:
    """Verify the newest version of an archive, or as much of it as may be read.

    Parameters
    ----------
    path : Path
        Of the archive.
    most_gb : float
        GB to read. Of a larger archive as many years as fit are read, at least one, others each week.
    week : int, optional
        Counts weeks; by default by the clock.

    Returns
    -------
    damages : list of Damage

    Raises
    ------
    DamagedMap
        If the description of the version itself is damaged.
    """
    archive = Archive.open(path)
    sizes = {year: size_of(folder) for year, folder in archive.folders().items()}
    return archive.verify(years=in_turn(sizes, int(most_gb * _GB), _week(week)))


def cube_damages_of(cube: Path, most_gb: float, week: int | None = None) -> list[CubeDamage]:
    """Read as much of a cube that grew as may be read, other parts each week.

    Parameters
    ----------
    cube : Path
    most_gb : float
        GB to read.
    week : int, optional
        Counts weeks; by default by the clock.

    Returns
    -------
    damages : list of CubeDamage
        None of a cube that did not grow here.
    """
    aside = growth_folder(cube)
    if not has_sums(aside):
        return []
    sizes = cube_sizes(cube, aside)
    names = sorted(sizes)
    turn = in_turn({place: sizes[name] for place, name in enumerate(names)}, int(most_gb * _GB), _week(week))
    return cube_damages(cube, aside, [names[place] for place in turn])


def _week(week: int | None) -> int:
    """Return the number of a week; by default by the clock, on which nothing but the turn hangs."""
    return clock.utc().toordinal() // 7 if week is None else week


def size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder; of those that go meanwhile none."""
    size = 0
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for one in found:
            with suppress(FileNotFoundError):
                size += size_of(Path(one.path)) if one.is_dir() else one.stat().st_size
    return size


def in_turn(sizes: dict[int, int], most: int, week: int) -> list[int]:
    """Return the years, or other parts, to read in a week, so that each has its turn.

    Parameters
    ----------
    sizes : dict of int to int
        Bytes of each year.
    most : int
        Bytes to read.
    week : int

    Returns
    -------
    years : list of int

    Examples
    --------
    >>> sizes = {2018: 4, 2019: 4, 2020: 4}
    >>> in_turn(sizes, 99, 7), in_turn(sizes, 8, 0), in_turn(sizes, 8, 1)
    ([2018, 2019, 2020], [2018, 2019], [2020])
    """
    groups: list[list[int]] = []
    room = 0
    for year in sorted(sizes):
        if not groups or sizes[year] > room:
            groups.append([])
            room = most
        groups[-1].append(year)
        room -= sizes[year]
    return groups[week % len(groups)] if groups else []


def repairable(damage: Damage) -> bool:
    """Return whether publishing units again mends a damage: not of what describes versions, and not strange files."""
    return damage.year is not None and damage.problem != "not published" and damage.path.parts[-3] != VERSIONS


def lasting(damages: Iterable[Damage]) -> list[str]:
    """Say which damages a refresh cannot mend, and what to do."""
    found = [damage for damage in damages if not repairable(damage)]
    advice = {"not published": "remove it"}
    return [f"{one}; {advice.get(one.problem, 'restore it from a copy')}, a refresh cannot" for one in found]


def damaged_units(archive: Archive, damages: list[Damage]) -> frozenset[tuple[str, int]]:
    """Return the units to compute again; damage that belongs to no tile concerns all of its year."""
    found: set[tuple[str, int]] = set()
    for damage in damages:
        if damage.year is None or not repairable(damage):
            continue
        found |= {(name, damage.year) for name in ([damage.tile] if damage.tile else archive.design.tiles)}
    return frozenset(found)


def published_units(archive: Archive, damaged: frozenset[tuple[str, int]]) -> dict[tuple[str, int], tuple[str, str]]:
    """Return key and hash of the values of all units of the newest version that are not damaged."""
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for year, folder in archive.folders().items():
        try:
            units = read_units(folder)
        except DamagedMap:
            continue  # all of the year is computed again
        found |= {(tile, year): (unit.key, unit.digest) for tile, unit in units.items() if (tile, year) not in damaged}
    return found
