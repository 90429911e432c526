"""One worker process against two, of the compute-bound models that `fluxgrid bench` leaves out: about six minutes.

    python benchmarks/workers.py

Four tiles of made-up covariates a run, three runs of each in turns. Prints tiles a second in steady running, of two
workers over one; 1.85 is asked for on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.cubes import write_bench_cube
from fluxgrid.bench.entries import CUBE_VARIABLES, model_entries
from fluxgrid.bench.maps import MapJob
from fluxgrid.bench.workers import compare_workers

CELLS = (64, 64)
LAST_DAY = {"LSTM-128": "2019-12-31", "KGML-ag": "2019-12-31", "CT-LSTM 2 x 256": "2019-07-19"}
"""Of a map that begins with 2019; the cube begins a year before, which KGML-ag runs over twice."""
RUNS = 3


def main() -> None:
    """Measure and print."""
    entries = {entry.name: entry for entry in model_entries()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bench_cube(folder / "cube.zarr", CUBE_VARIABLES, CELLS, "2018-01-01", "2019-12-31")
        for number, (model, last) in enumerate(LAST_DAY.items()):
            checkpoint = folder / f"model-{number}"
            write_checkpoint(checkpoint, entries[model])
            job = MapJob(str(folder / "cube.zarr"), str(checkpoint), CELLS, "2019-01-01", last)
            one, two = compare_workers(job, folder / "map", RUNS)
            runs = ", ".join(f"{b / a:.2f}" for a, b in zip(one["runs"], two["runs"], strict=True))
            print(f"{model}: {two['tiles_per_s'] / one['tiles_per_s']:.2f} (runs {runs})", flush=True)


if __name__ == "__main__":
    main()
