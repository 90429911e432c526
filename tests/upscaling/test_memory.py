"""The allocator may be told to keep memory or to give it back, arrays stay what they are, and a map's peak is flat."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.cubes import box_of, grid_of_cells, write_bench_cube
from fluxgrid.bench.entries import SCALING_FORCINGS, scaling_entry
from fluxgrid.upscaling.memory import keep_memory, release_memory

PEAK = """
import json, sys
from fluxgrid.bench.child import peak_memory
from fluxgrid.config import UpscaleConfig
from fluxgrid.workflows.upscale import upscale
upscale(UpscaleConfig(**json.loads(sys.argv[1])))
print(peak_memory())
"""


def test_asking_twice_is_asking_once_and_arrays_survive():
    before = np.arange(5_000_000)
    assert keep_memory() in (True, False)
    assert keep_memory() == keep_memory()
    after = np.arange(5_000_000)
    assert (before == after).all()
    assert release_memory() == keep_memory()
    assert (before == after).all()
    release_memory()


@pytest.mark.slow
def test_the_peak_of_a_map_with_all_its_files_is_flat_in_region_and_years(tmp_path):
    whole = {"wide.zarr": (128, 128), "long.zarr": (32, 32)}
    for name, first in (("wide.zarr", "2018-01-01"), ("long.zarr", "2003-01-01")):
        write_bench_cube(tmp_path / name, SCALING_FORCINGS, whole[name], first, "2019-12-31")
    write_checkpoint(tmp_path / "model", scaling_entry(0.0625))

    def peak(cube, cells, start):
        """Return the largest memory of a whole run in a process of its own, 10^6 B."""
        words = {"model": str(tmp_path / "model"), "cube": str(tmp_path / cube)}
        words |= {
            "region": box_of(grid_of_cells(whole[cube]), cells),
            "start": start,
            "end": "2019-12-31",
            "threads": 1,
        }
        words["out"] = f"{tmp_path}/{cube}-{cells[0]}-{start}"
        done = subprocess.run([sys.executable, "-c", PEAK, json.dumps(words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout.split()[-1])

    most = 1.1 * peak("wide.zarr", (32, 32), "2019-01-01")
    assert peak("wide.zarr", (128, 128), "2019-01-01") < most
    assert peak("long.zarr", (32, 32), "2004-01-01") < most
