"""What a grown cube was when it was written: a hash of each file, copies of the small ones, and what has changed since.

Beside the ledger stand ``sums``, one list for each step of chunks along time and one for all other files, and
``copies`` of all files but the chunks of variables that vary in time, which deliveries can give again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from fluxgrid.data.cube.ledger import ledger_copy, ledger_damage
from fluxgrid.errors import CubeError, itemise
from fluxgrid.files import atomic_path, output_error, write_text
from fluxgrid.provenance import seal, unseal

LEDGER, SUMS, COPIES = "ledger.json", "sums", "copies"
STILL = "still"
"""The list of the files that are no chunks of a variable along time."""
_PLACES = 5  # parts of the name of a chunk of three dimensions: variable, "c" and three numbers
_LANES = 4
_LITTER = ".*.tmp*"  # what a process leaves that is killed while it writes


@dataclass(frozen=True)
class CubeDamage:
    """A file of a grown cube that is not what was written."""

    path: Path
    problem: str
    """``missing``, ``cannot be read``, ``changed`` or ``never written``."""
    key: str = ""
    """Name in the cube; empty for what stands beside it."""

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.path}: {self.problem}"

    @property
    def chunk(self) -> tuple[str, int, tuple[int, int]] | None:
        """Variable, step and place of a chunk along time; None for other files."""
        parts = self.key.split("/")
        if group_of(self.key) == STILL:
            return None
        return parts[0], int(parts[2]), (int(parts[3]), int(parts[4]))


def group_of(key: str) -> str:
    """Return the list a file of a cube is in.

    Examples
    --------
    >>> group_of("vpd/c/3/0/1"), group_of("time/c/3"), group_of("zarr.json")
    ('3', 'still', 'still')
    """
    parts = key.split("/")
    return parts[2] if len(parts) == _PLACES and parts[1] == "c" and "".join(parts[2:]).isdecimal() else STILL


def cube_sizes(cube: Path, aside: Path) -> dict[str, int]:
    """Return, for each list, the bytes of its files.

    Parameters
    ----------
    cube : Path
    aside : Path
        Folder of its growth.
    """
    found = dict.fromkeys(_listed(aside), 0)
    for key, path in _files(cube):
        group = group_of(key)
        with suppress(FileNotFoundError):  # a growth of somebody else has just moved it away
            found[group] = found.get(group, 0) + path.stat().st_size
    return found


def cube_damages(cube: Path, aside: Path, groups: Iterable[str] | None = None) -> list[CubeDamage]:
    """Read files of a grown cube and name those that are not what was written.

    Parameters
    ----------
    cube : Path
        A store that `grow` made.
    aside : Path
        Folder of its growth.
    groups : iterable of str, optional
        Lists to go through, of those `cube_sizes` knows; all by default. What stands beside the cube is always read.

    Returns
    -------
    damages : list of CubeDamage
        Of a list that is damaged itself nothing can be said but that.
    """
    ledgers = aside / LEDGER, ledger_copy(aside / LEDGER)
    found = [CubeDamage(path, "changed" if path.exists() else "missing") for path in ledgers if ledger_damage(path)]
    standing: dict[str, list[str]] = {}
    for key, _ in _files(cube):
        standing.setdefault(group_of(key), []).append(key)
    known = _listed(aside) | standing.keys()  # what stands and is in no list has lost it
    for group in sorted(known if groups is None else known & set(groups)):
        sums, path = _read_sums(aside, group), _sums_path(aside, group)
        if sums is None:
            found.append(CubeDamage(path, "changed" if path.exists() else "missing"))
            continue
        found += _differences(cube, sums, set(standing.get(group, ())) - sums.keys() if group != STILL else set())
        if group == STILL:
            copies = _differences(aside / COPIES / "cube", sums, set())
            found += [CubeDamage(damage.path, damage.problem) for damage in copies]
    return found


def _differences(folder: Path, sums: Mapping[str, str], strange: set[str]) -> list[CubeDamage]:
    """Name files that differ from a list, or that it does not have."""
    with ThreadPoolExecutor(_LANES) as pool:
        hashes = dict(zip(sums, pool.map(lambda key: _hash(folder / key), sums), strict=True))
    wrong = {key: _problem(folder / key, hashes[key]) for key in sums if hashes[key] != sums[key]}
    wrong |= dict.fromkeys(strange, "never written")
    return [CubeDamage(folder / key, problem, key) for key, problem in sorted(wrong.items())]


def _problem(path: Path, found: str | None) -> str:
    """Say what is wrong with a file that has another hash, or none."""
    if found is not None:
        return "changed"
    try:
        path.stat()
    except FileNotFoundError:
        return "missing"
    except OSError:
        pass
    return "cannot be read"


def restore(cube: Path, aside: Path, damages: Iterable[CubeDamage]) -> None:
    """Mend all but chunks along time and lists, from the copies; and the copies from what is sound.

    Parameters
    ----------
    cube, aside : Path
    damages : iterable of CubeDamage

    Raises
    ------
    CubeError
        If a file and its copy are damaged both.
    OutputError
        If the cube cannot be written.
    """
    sums, lost = _read_sums(aside, STILL) or {}, []
    for damage in damages:
        if damage.chunk is not None or damage.path.parent == aside / SUMS:
            continue
        if damage.path in (aside / LEDGER, ledger_copy(aside / LEDGER)):
            _mend_ledger(aside)
            continue
        copy, own = aside / COPIES / "cube", cube
        key = damage.key or str(damage.path.relative_to(copy))
        source = own / key if not damage.key else copy / key
        if _hash(source) != sums.get(key):
            lost.append(str(damage))
        else:
            _copy(source, damage.path)
    if lost:
        header = f"{cube} is damaged, and so is the copy in {aside / COPIES}; restore it, or grow a new cube elsewhere"
        raise CubeError(itemise(header, lost))


def _mend_ledger(aside: Path) -> None:
    """Put the sound one of ledger and copy in the place of the other; where none is, reading it will say so."""
    own = aside / LEDGER
    for source, target in ((own, ledger_copy(own)), (ledger_copy(own), own)):
        if source.exists() and not ledger_damage(source):
            _copy(source, target)
            return


def keep(cube: Path, aside: Path, changed: Mapping[str, str | None]) -> None:
    """Remember what was written: the hashes, and copies of small files; may be done again.

    Parameters
    ----------
    cube, aside : Path
    changed : mapping of str to str or None
        By name in the cube: BLAKE3 of the file, None for one that was removed.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    groups: dict[str, dict[str, str | None]] = {}
    for key, value in changed.items():
        groups.setdefault(group_of(key), {})[key] = value
    for group, values in groups.items():
        listed = _read_sums(aside, group)
        if listed is None:  # new or lost; what else stands there was written too
            listed = _standing(cube, aside, group, values.keys())
        sums = {**listed, **values}
        _write_sums(aside, group, {key: value for key, value in sums.items() if value is not None})
    _keep_copies(cube, aside, groups.get(STILL, {}))


def adopt(cube: Path, aside: Path, groups: Iterable[str] | None = None) -> None:
    """Write lists anew from the cube as it stands: those that are damaged, or all of a cube that has none.

    Parameters
    ----------
    cube, aside : Path
    groups : iterable of str, optional

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    for group in sorted({group_of(key) for key, _ in _files(cube)} if groups is None else set(groups)):
        sums = _standing(cube, aside, group)
        _write_sums(aside, group, sums)
        if group == STILL:
            _keep_copies(cube, aside, sums)


def _standing(cube: Path, aside: Path, group: str, but: Collection[str] = ()) -> dict[str, str]:
    """Return the hashes of what stands of a group in a cube, but of some files."""
    found = {}
    for key, path in _files(cube):
        if group_of(key) == group and key not in but and (value := _hash(path)) is not None:
            found[key] = value
    return found if group != STILL else _agreed(cube, aside, found, but)


def _agreed(cube: Path, aside: Path, found: Mapping[str, str], but: Collection[str]) -> dict[str, str]:
    """Return hashes of small files by cube and copies together; refuse those of which nothing says which is right."""
    copies = {key: value for key, path in _files(aside / COPIES / "cube") if (value := _hash(path)) is not None}
    copies = {key: value for key, value in copies.items() if key not in but}
    if differing := sorted(key for key in copies.keys() & found.keys() if copies[key] != found[key]):
        header = (
            f"{cube} is damaged: the list {_sums_path(aside, STILL)} is lost, and these files differ from their copies "
            f"in {aside / COPIES}, so nothing says which are right. Restore the list or these files"
        )
        raise CubeError(itemise(header, differing))
    return copies | dict(found)


def _keep_copies(cube: Path, aside: Path, sums: Mapping[str, str | None]) -> None:
    """Copy small files of a cube whose copies are others."""
    for key, value in sums.items():
        if value is not None and _hash(aside / COPIES / "cube" / key) != value:
            _copy(cube / key, aside / COPIES / "cube" / key)


def has_sums(aside: Path) -> bool:
    """Return whether it is known what a cube was."""
    return (aside / SUMS).is_dir()


def listed_sums(aside: Path, group: str) -> dict[str, str]:
    """Return the hash of each file of a group as it was written; none if the list is lost."""
    return _read_sums(aside, group) or {}


def sum_of(data: bytes) -> str:
    """Return the hash of a file, BLAKE3."""
    return blake3(data).hexdigest()


def _hash(path: Path) -> str | None:
    """Return the hash of a file; None if it is not there or cannot be read."""
    try:
        return sum_of(path.read_bytes())
    except OSError:
        return None


def _files(cube: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a cube by name."""
    for path in sorted(cube.rglob("*")):
        if path.is_file() and not path.match(_LITTER):
            yield str(path.relative_to(cube)), path


def _listed(aside: Path) -> set[str]:
    """Return the groups of files that have a list, whatever it is worth."""
    return {path.stem for path in (aside / SUMS).glob("*.json")}


def _sums_path(aside: Path, group: str) -> Path:
    """Return where a list stands."""
    return aside / SUMS / f"{group}.json"


def _read_sums(aside: Path, group: str) -> dict[str, str] | None:
    """Return a list of hashes; None if there is none, or it is damaged."""
    try:
        return dict(unseal(_sums_path(aside, group).read_text(encoding="utf-8"))["sums"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_sums(aside: Path, group: str, sums: Mapping[str, str]) -> None:
    """Write a list of hashes."""
    write_text(_sums_path(aside, group), seal({"sums": dict(sums)}))


def clear_litter(cube: Path) -> None:
    """Remove what a process left in a cube that was killed while it put a small file back.

    Parameters
    ----------
    cube : Path
    """
    for path in cube.rglob(_LITTER):
        remove_file(path)


def remove_file(path: Path) -> None:
    """Remove a file of a cube, if it is there.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, path) from error


def _copy(source: Path, target: Path) -> None:
    """Put a file in the place of another, whole."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise output_error(error, target) from error
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
