"""Files of several years are written side by side as one after the other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from joblib.externals.loky import get_reusable_executor

from fluxgrid.errors import FluxgridError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output import export
from fluxgrid.output.export import export_all
from fluxgrid.output.info import MapInfo
from fluxgrid.output.layers import PLAIN
from fluxgrid.output.store import create_store, write_tile
from fluxgrid.upscaling.tile import empty_arrays

GRID = Grid.from_bounds((-94, -93, 41, 42), 0.1)


@pytest.fixture
def stores(tmp_path):
    """Three monthly maps."""
    made = []
    for year in (2019, 2020, 2021):
        times = pd.date_range(f"{year}-01-01", periods=12, freq="MS")
        create_store(tmp_path / f"{year}.zarr", GRID, times, PLAIN)
        arrays = empty_arrays(12, np.zeros(GRID.shape, np.int8), PLAIN)
        arrays["nee"][...] = np.float32(year)
        write_tile(tmp_path / f"{year}.zarr", make_tiles(GRID, 32)[0], arrays)
        made.append(tmp_path / f"{year}.zarr")
    return made


@pytest.fixture
def frame():
    info = MapInfo("t", "s", "r", "R", "monthly", True, "m", "m", "UTC", 1.0)
    land = np.ones(GRID.shape, np.float32)
    return GRID, info, land, land, "zlib"


def test_processes_write_what_one_does(stores, frame, tmp_path, monkeypatch):
    exports = {
        lanes: [(store, tmp_path / str(lanes) / f"{store.stem}.nc", slice(None)) for store in stores]
        for lanes in (1, 2)
    }
    one = export_all(exports[1], frame, 1)
    monkeypatch.setattr(export, "_SMALL_BYTES", 0)
    pool = get_reusable_executor(max_workers=1)
    two = export_all(exports[2], frame, 2)
    assert pool.submit(len, "abc").result() == 3  # a user's own pool goes on
    assert [path.name for path in two] == [path.name for path in one] == ["2019.nc", "2020.nc", "2021.nc"]
    for a, b in zip(one, two, strict=True):
        with open_netcdf(a) as first, open_netcdf(b) as second:
            xr.testing.assert_equal(first, second)


def test_a_failed_year_is_the_error_of_all(stores, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_SMALL_BYTES", 0)
    chunk = next(path for path in (stores[0] / "nee").rglob("0") if path.is_file())
    chunk.write_bytes(b"torn")
    exports = [(store, tmp_path / "out" / f"{store.stem}.nc", slice(None)) for store in stores]
    with pytest.raises(FluxgridError, match=r"Cannot read nee .*run again with --resume"):
        export_all(exports, frame, 2)
    # the others were waited for, and nothing half-written is left
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2020.nc", "2021.nc"]
