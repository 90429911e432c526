"""A reader in a process of its own: polls an archive and ``latest`` while refreshes run, and says what it saw.

    python archive_reader.py OUT

It polls until its standard input ends, once more after that, and prints its counts as JSON. A reader must never see a
version that is not whole, that changes, that is older or covers less than one seen before, or files that are not those
of a version.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxgrid.netcdf import open_netcdf
from fluxgrid.output.archive import Archive, Version
from fluxgrid.output.archive.layout import STORE
from fluxgrid.output.flags import NO_VALUE
from fluxgrid.output.store import tile_digest

PAUSE = 0.02
"""Seconds between polls."""


class Reader:
    """What was seen so far."""

    def __init__(self, out: Path):
        self.out = out
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.hashes: dict[int, str] = {}
        self.tables: dict[int, str] = {}
        self.newest = self.values = self.latest = 0
        self.covered = ""
        self.held: tuple[int, xr.Dataset] | None = None

    def poll(self) -> None:
        """Look once."""
        self.counts["polls"] += 1
        for look in (self._archive, self._latest):
            try:
                look()
            except Exception as error:  # noqa: BLE001  whatever a reader may meet is told
                self.problems.append(f"{look.__name__}: {type(error).__name__}: {error}")

    def _check(self, right: bool, text: str) -> None:
        """Keep what is wrong."""
        if not right:
            self.problems.append(text)

    def _archive(self) -> None:
        """Open the newest version and read every value and every byte of it."""
        if not (self.out / "archive" / "archive.json").exists():
            self._check(not self.newest, "the archive is gone")
            return
        archive = Archive.open(self.out / "archive")
        numbers = [version.id for version in archive.versions()]
        if not numbers:
            self._check(not self.newest, "all versions are gone")
            return
        self._check(numbers == list(range(1, numbers[-1] + 1)), f"versions are {numbers}")
        version = archive.find(numbers[-1])
        self._check(version.id >= self.newest, f"version {self.newest} was newest, now {version.id}")
        self._check(str(version.covered) >= self.covered, f"{self.covered} was covered, now {version.covered}")
        self._check(not (damages := archive.verify(version)), f"version {version.id}: {list(map(str, damages))}")
        self._read(archive, version)
        self.newest, self.covered = version.id, str(version.covered)

    def _read(self, archive: Archive, version: Version) -> None:
        """Read the values of a version, and again those of the version that was opened before it."""
        maps = archive.at(version)
        loaded = maps.compute()
        self._same(version.id, loaded)
        if self.held is not None:
            self._same(self.held[0], self.held[1].compute())  # whoever has it open reads on in it
        if self.held is None or self.held[0] != version.id:
            self.held = version.id, maps
        nee, known = loaded["nee"].values, np.isfinite(loaded["nee"].values)
        self._check(
            (nee[known] == (loaded["reco"] - loaded["gpp"]).values[known]).all(), f"{version.id} does not close"
        )
        reasons = (loaded["quality_flag"].values.astype(int) & int(NO_VALUE)) != 0
        self._check((known != reasons).all(), f"version {version.id}: flags and values disagree")
        cells = known.any(0)
        self._check(
            (known[:, cells] == known.any((1, 2))[:, None]).all(), f"version {version.id}: tiles of two refreshes"
        )
        self._check(
            int(known.sum()) >= self.values, f"version {version.id} has {known.sum()}, not {self.values} values"
        )
        self.values = int(known.sum())
        self.counts["values"] += loaded["nee"].size
        folders = archive.folders(version)
        for (tile, year), unit in archive.units(version).items():
            found = tile_digest(folders[year] / STORE, archive.design.tiles[tile])
            self._check(found == unit.digest, f"version {version.id}: {tile} of {year} has other values")

    def _same(self, number: int, maps: xr.Dataset) -> None:
        """See that a version has the values it had."""
        found = hashlib.sha256()
        for name in sorted(map(str, maps.data_vars)):
            found.update(np.ascontiguousarray(maps[name].values).tobytes())
        self._check(self.hashes.setdefault(number, found.hexdigest()) == found.hexdigest(), f"version {number} changed")

    def _latest(self) -> None:
        """Read the files that ``latest`` leads to: of one version, whole, and with its values."""
        if not (self.out / "latest").is_symlink():
            self._check(not self.latest, "latest is gone")
            return
        folder = (self.out / "latest").resolve()
        about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        number = int(about["version"])
        self._check(number >= self.latest, f"latest was {self.latest}, now it is {number}")
        self.latest = number
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "export.json"}
        self._check(sizes == about["files"], f"latest {number}: files {sizes}, not {about['files']}")
        tables = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*_totals.csv")))).hexdigest()
        self._check(self.tables.setdefault(number, tables) == tables, f"totals of version {number} changed")
        years = Archive.open(self.out / "archive").years(number)
        for path in sorted(folder.glob("*.nc")):
            with open_netcdf(path) as file:
                maps = years[int(str(file["time"].values[0])[:4])]
                for name in ("nee", "quality_flag"):
                    same = file[name].values.tobytes() == maps[name].values.astype(file[name].dtype).tobytes()
                    self._check(same, f"latest {number}: {name} in {path.name} is not that of the archive")
            self.counts["files"] += 1

    def told(self) -> dict[str, Any]:
        """Return what was seen."""
        seen = {"versions": sorted(self.hashes), "latest": sorted(self.tables), "problems": self.problems}
        return {**self.counts, **seen}


def main() -> None:
    """Poll until standard input ends."""
    reader = Reader(Path(sys.argv[1]))
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        reader.poll()
    reader.poll()
    print(json.dumps(reader.told()), flush=True)


if __name__ == "__main__":
    main()
