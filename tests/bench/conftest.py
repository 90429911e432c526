from __future__ import annotations

import pytest

from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.cubes import write_bench_cube
from fluxgrid.bench.entries import FORCINGS, peer_entry
from fluxgrid.bench.peers import PeerData
from fluxgrid.bench.settings import TINY


@pytest.fixture(scope="session")
def peer_data(tmp_path_factory):
    """Return a cube of 16 x 48 cells and 20 days and a small GRU, as peers are given them."""
    folder = tmp_path_factory.mktemp("bench")
    write_bench_cube(folder / "cube.zarr", FORCINGS, TINY.peer_cells, "2019-01-01", "2019-01-20")
    write_checkpoint(folder / "model", peer_entry(TINY.hidden))
    return PeerData(folder / "cube.zarr", FORCINGS, folder / "model", folder, slice(0, 20), TINY, 2)
