"""What a publication costs as an archive grows: our folders of plain zarr against icechunk.

    python benchmarks/archive.py [--cells 64] [--years 1 5 20] [--folder DIR] [--flips]

A region of ``cells`` x ``cells`` in tiles of 32 x 32, daily, the variables of every map, is archived year by year. At
each number of years the current year is published anew: all its tiles (a weekly refresh), or one tile (a revision).
Both stores are given the same staged chunks, byte for byte, and copy them without decoding; ours also reads each tile
back, holds it against its record, and waits until the disk has it all. Each row is a fresh process: least wall time and
processor time of three publications, by how much its peak memory rose above what it held before, and the files and
bytes that one publication added. ``open`` is the time to open the newest version and read one cell of the last year.
``--flips`` flips one bit of four bytes in every file of a small archive, one at a time, and counts what reading
everything (and, for ours, ``verify``) notices. icechunk is no dependency of fluxgrid: install it to have its rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxgrid.data.steps import calendar
from fluxgrid.errors import FluxgridError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.output.archive import Archive, StagedUnit, StagedYear
from fluxgrid.output.layers import PLAIN
from fluxgrid.output.store import create_store, tile_digest, write_tile

YEARS = tuple(year for year in range(1990, 2020) if year % 4)  # of one length, so that chunks can be staged once


class Plain:
    """The archive of fluxgrid."""

    def __init__(self, folder: Path, cells: int) -> None:
        path = folder / "plain"
        self.archive = Archive.open(path) if path.exists() else Archive.create(path, grid_of(cells), PLAIN, "daily")

    def publish(self, staged: StagedYear) -> None:
        """Make the named tiles part of a new version."""
        self.archive.publish([staged])

    def open(self) -> dict[int, xr.Dataset]:
        """Open the years of the newest version."""
        return self.archive.years()

    def check(self) -> None:
        """Compare every byte with what was published."""
        if any(self.archive.verify(version) for version in self.archive.versions()):
            message = "damaged"
            raise ValueError(message)


class Icechunk:
    """The same with one group for each year in an icechunk repository on the same disk."""

    def __init__(self, folder: Path, cells: int) -> None:
        import icechunk

        storage = icechunk.local_filesystem_storage(str(folder / "icechunk"))
        self.repo = icechunk.Repository.open_or_create(storage)
        self.tiles = {tile.name: tile for tile in make_tiles(grid_of(cells), 32)}

    def publish(self, staged: StagedYear) -> None:
        """Make the named tiles part of a new version."""
        from zarr.core.buffer import cpu
        from zarr.core.sync import sync

        year = int(xr.open_zarr(staged.path, consolidated=False)["time"].dt.year[0])
        session = self.repo.writable_session("main")
        there = sync(session.store.exists(f"{year}/zarr.json"))
        wanted = {f"{tile.row}/{tile.col}" for name, tile in self.tiles.items() if name in staged.units}
        if not there:
            sync(session.store.set("zarr.json", cpu.Buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group"}')))
        files = sorted(path for path in staged.path.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: (path.name != "zarr.json", len(path.parts))):
            name = path.relative_to(staged.path)
            of_map = name.parts[0] in PLAIN.dtypes and path.name != "zarr.json"
            if "/".join(name.parts[-2:]) in wanted if of_map else not there:
                sync(session.store.set(f"{year}/{name.as_posix()}", cpu.Buffer.from_bytes(path.read_bytes())))
        session.commit("publish", metadata={"tiles": len(staged.units)})

    def open(self) -> dict[int, xr.Dataset]:
        """Open the years of the newest version."""
        import zarr

        store = self.repo.readonly_session("main").store
        years = sorted(int(name) for name in zarr.open_group(store, mode="r").group_keys())
        return {year: xr.open_zarr(store, group=str(year), consolidated=False, chunks={}) for year in years}

    def check(self) -> None:
        """Do nothing: there is no command for it, only reading everything."""


STORES: dict[str, Callable[[Path, int], Any]] = {"plain": Plain, "icechunk": Icechunk}


def grid_of(cells: int) -> Grid:
    """Return a square region."""
    return Grid.from_bounds((-95, -95 + cells / 100, 40, 40 + cells / 100), 0.01)


def values_of(tile: Tile, seed: int, steps: int) -> dict[str, np.ndarray]:
    """Return fluxes with a season and some noise, rounded so that they compress about as maps do."""
    random = np.random.default_rng([seed, tile.row, tile.col])
    season = np.sin(np.linspace(0, np.pi, steps))[:, None, None]
    shape = (steps, *tile.shape)
    arrays = {name: (season + 0.1 * random.standard_normal(shape)).round(2).astype("float32") for name in PLAIN.dtypes}
    return arrays | {"quality_flag": np.zeros(shape, "int8")}


def stage(folder: Path, year: int, seed: int, cells: int) -> StagedYear:
    """Return a staged year; the chunks of a seed are computed once and copied to other years."""
    path, first = folder / f"staged-{year}-{seed}.zarr", folder / f"chunks-{seed}.zarr"
    grid = grid_of(cells)
    if not first.exists():
        times = calendar("2001-01-01", "2001-12-31", "daily")
        create_store(first, grid, times)
        digests = {}
        for tile in make_tiles(grid, 32):
            write_tile(first, tile, values_of(tile, seed, len(times)))
            digests[tile.name] = tile_digest(first, tile)
        first.with_suffix(".json").write_text(json.dumps(digests))
    if not path.exists():
        create_store(path, grid, calendar(f"{year}-01-01", f"{year}-12-31", "daily"))
        for name in PLAIN.dtypes:
            shutil.copytree(first / name / "c", path / name / "c")
    digests = json.loads(first.with_suffix(".json").read_text())
    return StagedYear(path, {name: StagedUnit(f"key {seed}", digest) for name, digest in digests.items()})


def one_tile(staged: StagedYear) -> StagedYear:
    """Return the first tile of a staged year."""
    return StagedYear(staged.path, dict(list(staged.units.items())[:1]))


def size_of(folder: Path) -> tuple[int, int]:
    """Return files and bytes of a folder, each file once however many names it has."""
    stats = {stat.st_ino: stat.st_size for path in folder.rglob("*") if path.is_file() for stat in [path.stat()]}
    return len(stats), sum(stats.values())


def measure(kind: str, folder: Path, cells: int, year: int, tiles: str) -> dict[str, float]:
    """Publish the current year three times, in a process of its own, and return what it took."""
    store = STORES[kind](folder, cells)
    seconds, processor = [], []
    files, size = size_of(folder / kind)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    before = memory("VmRSS")
    for seed in (1, 2, 1) if tiles == "all" else (2, 1, 2):  # never what is there already
        staged = stage(folder, year, seed, cells)
        start, start_cpu = time.perf_counter(), time.process_time()
        store.publish(one_tile(staged) if tiles == "one" else staged)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    peak = memory("VmHWM")
    more_files, more = size_of(folder / kind)
    start = time.perf_counter()
    float(STORES[kind](folder, cells).open()[year]["nee"][0, 0, 0])
    return {
        "seconds": min(seconds),
        "processor": min(processor),
        "peak_MB": peak - before,
        "files": (more_files - files) / 3,
        "MB": (more - size) / 3e6,
        "open": time.perf_counter() - start,
    }


def memory(name: str) -> float:
    """Return an entry of what Linux says of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def grow(kind: str, folder: Path, cells: int, counts: list[int]) -> None:
    """Print the rows of one store."""
    store = STORES[kind](folder, cells)
    for count, year in enumerate(YEARS[: max(counts)], 1):
        store.publish(stage(folder, year, 0, cells))
        if count not in counts:
            shutil.rmtree(folder / f"staged-{year}-0.zarr")
            continue
        for seed in (1, 2):
            stage(folder, year, seed, cells)
        for tiles in ("all", "one"):
            words = [sys.executable, __file__, "--measure", kind, str(year), tiles, "--cells", str(cells)]
            done = subprocess.run([*words, "--folder", str(folder)], capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            figures = "  ".join(f"{value:8.3f}" for value in row.values())
            print(f"{kind:9s} {count:3d} years, {tiles:3s} {figures}", flush=True)
        store = STORES[kind](folder, cells)


def flips(kind: str, folder: Path) -> None:
    """Print what is noticed of one flipped byte, in each file of a small archive in turn."""
    store = STORES[kind](folder, 64)
    for year in YEARS[:2]:
        store.publish(stage(folder, year, 0, 64))
    right = {year: dataset.load() for year, dataset in store.open().items()}
    found: Counter[str] = Counter()
    for path in sorted(path for path in (folder / kind).rglob("*") if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            spoiled = bytearray(content)
            spoiled[place] ^= 1
            path.write_bytes(spoiled)
            found[noticed(kind, folder, right)] += 1
        path.write_bytes(content)
    print(f"{kind:9s} {dict(found)}", flush=True)


def noticed(kind: str, folder: Path, right: dict[int, xr.Dataset]) -> str:
    """Return what comes of reading everything."""
    try:
        store = STORES[kind](folder, 64)
        store.check()
        same = all(dataset.load().identical(right[year]) for year, dataset in store.open().items())
    except (FluxgridError, Exception):  # noqa: BLE001  (icechunk and zarr raise many)
        return "an error"
    except BaseException as error:  # noqa: BLE001  (a panic of a compiled library)
        return f"a panic ({type(error).__name__})"
    return "not noticed, values right" if same else "not noticed, VALUES WRONG"


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--years", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--folder", type=Path, help="where to work; on the disk that is to be measured")
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, year, tiles = options.measure
        print(json.dumps(measure(kind, options.folder, options.cells, int(year), tiles)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("store                          seconds  processor peak_MB     files        MB      open")
        for kind in options.stores:
            try:
                flips(kind, Path(folder)) if options.flips else grow(kind, Path(folder), options.cells, options.years)
            except ModuleNotFoundError as error:
                print(f"{kind:9s} left out: {error}")


if __name__ == "__main__":
    main()
