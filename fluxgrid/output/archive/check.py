"""Every byte of a version against what was published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fluxgrid.errors import DamagedMap
from fluxgrid.output.archive.layout import CHECKSUMS, STORE, UNITS, YearFolder, file_hash, read_checksums


@dataclass(frozen=True)
class Damage:
    """A file of an archive that is not what was published."""

    path: Path
    problem: str
    """``missing``, ``changed`` or ``not published``."""
    year: int | None = None
    tile: str | None = None
    """None if all tiles of the year, or the archive, are concerned."""
    variable: str | None = None

    def __str__(self) -> str:
        """Say what is damaged in one line."""
        parts = [self.tile and f"tile {self.tile}", self.year and str(self.year), self.variable]
        where = ", ".join(part for part in parts if part)
        return f"{where}: {self.path} is {self.problem}" if where else f"{self.path} is {self.problem}"


def check_year(folder: Path, year: int, stored: YearFolder, tile_of: dict[str, str]) -> Iterator[Damage]:
    """Yield every damage of one year, reading one file at a time.

    Parameters
    ----------
    folder : Path
    year : int
    stored : YearFolder
    tile_of : dict of str to str
        Name of the tile by "row/column" of its chunk.
    """
    try:
        files = read_checksums(folder, stored.checksums)
    except DamagedMap:
        path = folder / CHECKSUMS
        yield Damage(path, "changed" if path.exists() else "missing", year)
        return
    for name, value in files.items():
        problem = compare(folder / name, value)
        if problem:
            yield _damage(folder / name, name, problem, year, tile_of)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in files and name != CHECKSUMS:
            yield _damage(path, name, "not published", year, tile_of)


def compare(path: Path, value: str) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        return None if file_hash(path.read_bytes()) == value else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _damage(path: Path, name: str, problem: str, year: int, tile_of: dict[str, str]) -> Damage:
    """Name the tile and variable of a file."""
    parts = name.split("/")
    if name == UNITS or parts[0] != STORE or len(parts) < 3:
        return Damage(path, problem, year)
    return Damage(path, problem, year, tile_of.get("/".join(parts[-2:])), parts[1])
