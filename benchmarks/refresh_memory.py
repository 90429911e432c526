"""What memory a refresh takes as its archive grows: the same small region with archives of 1, 5 and 20 years.

    python benchmarks/refresh_memory.py [--years 1 5 20] [--cells 32 64] [--folder DIR]

Each region has one year in course and so many years before it less one, a network that carries its state, and one
year of spin-up. Its cube grows from a base and from weeks that are delivered. Each row is one `fluxgrid refresh` in a
process of its own, on one thread: ``first`` makes the whole archive, ``week`` takes in one delivered week, ``revised``
a week of last year (where there is one), ``nothing`` finds nothing new. Peak is the largest resident memory of the
process, libraries included; CPU is its processor time; archive and cube are in MB, after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.cubes import box_of, grid_of_cells, write_bench_cube
from fluxgrid.bench.entries import Entry
from fluxgrid.netcdf import save_netcdf
from fluxgrid.output.archive import Archive

FORCINGS = ("temperature_2m", "precipitation", "shortwave", "vpd")
ENTRY = Entry("GRU-16", "gru", {"hidden": 16}, placed=False, forcings=FORCINGS)
LAST = 2019
"""The year in course."""
REACHED = pd.Timestamp(LAST, 5, 31)
"""Last day of the base."""


class Region:
    """A region, its base and the weeks delivered of it."""

    def __init__(self, folder: Path, years: int, cells: tuple[int, int]):
        self.folder, self.years, self.cells = folder, years, cells
        self.base, self.incoming, self.config = folder / "base.zarr", folder / "incoming", folder / "run.yaml"

    def write(self) -> None:
        """Write base, model and configuration."""
        names = ENTRY.spec().inputs.names
        first = pd.Timestamp(LAST - self.years, 1, 1)
        write_bench_cube(self.base, names, self.cells, str(first.date()), str(REACHED.date()))
        write_checkpoint(self.folder / "model", ENTRY)
        self.incoming.mkdir()
        source = {"location": str(self.incoming), "base": str(self.base), "settle": 0}
        values = {
            "region": box_of(grid_of_cells(self.cells), self.cells),
            "model": str(self.folder / "model"),
            "start": f"{LAST - self.years + 1}-01-01",
            "out": str(self.folder / "out"),
            "threads": 1,
            "max_missing": 1.0,
            "refresh": {"source": source, "guards": {"missing_jump": 1.0, "totals_move": 10.0}},
        }
        self.config.write_text(yaml.safe_dump(values), encoding="utf-8")

    def deliver(self, first: pd.Timestamp) -> None:
        """Drop a week: that of the base a little warmer where it is a revised one, else its last week, later."""
        days = pd.date_range(first, periods=7, name="time")
        last = pd.date_range(end=REACHED, periods=7)
        with xr.open_zarr(self.base, consolidated=False) as base:
            week = base.sel(time=days if first <= REACHED else last).load().drop_encoding()
        week = week.assign_coords(time=days)
        for array in week.data_vars.values():
            array.values += np.float32(1e-3) * np.abs(array.values)
            array.attrs.pop("grid_mapping", None)
            array.encoding["grid_mapping"] = "spatial_ref"
        week.attrs = {"status": "final", "date_created": f"{days[-1]:%Y-%m-%d}", "day_definition": "UTC"}
        save_netcdf(week, self.incoming / f"week_{first:%Y_%m_%d}.nc")


def measure(region: Region) -> tuple[float, float]:
    """Refresh and return the peak of its memory, MB, and its processor time, s."""
    words = [sys.executable, "-c", _MEASURED, "refresh", str(region.config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    row = json.loads(done.stdout.splitlines()[-1])
    return row["peak"], row["seconds"]


# the system's own count for a child begins with what its parent held
_MEASURED = """
import json, time
from pathlib import Path
from fluxgrid.cli import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "seconds": time.process_time()}))
"""


def size_of(folder: Path) -> float:
    """Return the MB of a folder, each file once however many names it has."""
    stats = {stat.st_ino: stat.st_size for path in folder.rglob("*") if path.is_file() for stat in [path.stat()]}
    return sum(stats.values()) / 1e6


def rows(region: Region) -> None:
    """Print the rows of one number of years."""
    region.write()
    for what, week in (
        ("first", None),
        ("week", REACHED + pd.Timedelta(days=1)),
        *([("revised", pd.Timestamp(LAST - 1, 6, 4))] if region.years > 1 else []),
        ("nothing", None),
    ):
        if week is not None:
            region.deliver(week)
        peak, seconds = measure(region)
        out = region.folder / "out"
        versions = len(Archive.open(out / "archive").versions())
        sizes = " ".join(f"{size_of(out / name):8.0f}" for name in ("archive", "cube.zarr"))
        print(f"{region.years:3d} years  {what:8s} {peak:8.0f} {seconds:8.2f} {versions:8d} {sizes}", flush=True)


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--cells", type=int, nargs=2, default=[32, 64], help="rows and columns; a tile has 32 x 32")
    parser.add_argument("--folder", type=Path, help="where to work")
    options = parser.parse_args()
    print("archive   refresh   peak MB    CPU s versions  archive     cube", flush=True)
    for years in options.years:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows(Region(Path(folder), years, tuple(options.cells)))


if __name__ == "__main__":
    main()
