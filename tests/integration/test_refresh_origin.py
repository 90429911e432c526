"""A cube that grew from deliveries is as one made at once for all who ask where it comes from and what is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.data.cube import check_cube, open_cube
from fluxgrid.errors import ConfigError
from fluxgrid.netcdf import open_netcdf, save_netcdf
from fluxgrid.output import quicklook
from fluxgrid.simulation import WORLD_SOURCE
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.workflows.about import is_simulated
from fluxgrid.workflows.refresh import refresh

DAYS = 20


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


def deliver(folder: Path, source: str) -> xr.Dataset:
    """Write deliveries of a cube, a base with its land, and the cube made at once; return it."""
    cube = small_cube(start="2019-01-01", periods=DAYS).assign_attrs(source=source)
    varying = [name for name, values in cube.data_vars.items() if values.ndim == 3]
    (folder / "incoming").mkdir(parents=True)
    for number, days in enumerate((slice(0, 12), slice(12, DAYS))):
        part = cube[varying].isel(time=days).assign_attrs(status="final")
        save_netcdf(part, folder / "incoming" / f"week_{number}.nc")
    write_cube(cube.drop_vars([name for name in varying if name != "vpd"]).isel(time=[0, 1]), folder / "base.zarr")
    write_cube(cube, folder / "once.zarr")
    return cube


def values(folder: Path, model: Path, **changes: Any) -> UpscaleConfig:
    source = {"location": str(folder / "incoming"), "base": str(folder / "base.zarr"), "settle": 0}
    found = {"region": "-94,41.2,-93,41.8", "model": str(model), "threads": 1, "start": "2019-01-01"}
    found |= {"out": str(folder / "out"), "max_missing": 1.0, "refresh": {"source": source}}
    return load_config(UpscaleConfig, None, found | changes)


@pytest.fixture(scope="module")
def simulated(world, tools, tmp_path_factory) -> Path:
    """Trees trained on simulated towers."""
    spec = replace(tools["spec_of"]("lightgbm"), synthetic=True)
    return tools["write_model"](tmp_path_factory.mktemp("models") / "simulated", open_cube(world.cube), spec)


def test_simulated_towers_are_not_for_deliveries_of_the_real_world(simulated, tmp_path):
    deliver(tmp_path, "ERA5-Land")
    with pytest.raises(ConfigError, match="trained on simulated towers"):
        refresh(values(tmp_path, simulated))


def test_cells_are_those_of_the_deliveries(world, tmp_path):
    deliver(tmp_path, "ERA5-Land")
    with pytest.raises(ConfigError, match=r"resolution: 0\.5 is for the synthetic world"):
        refresh(values(tmp_path, world.lightgbm, resolution=0.5))


def test_a_grown_cube_of_the_reference_world_is_known_as_one(simulated, tmp_path):
    deliver(tmp_path, f"{WORLD_SOURCE} 1")
    assert refresh(values(tmp_path, simulated)).status == "published"
    grown, once = (open_cube(tmp_path / name) for name in ("out/cube.zarr", "once.zarr"))
    assert is_simulated(grown)
    with open_netcdf(next((tmp_path / "out" / "latest").glob("*.nc"))) as file:
        assert file.attrs["title"].startswith("Synthetic carbon fluxes")
    assert grown.attrs == once.attrs
    used = [name for name in once.data_vars if name in grown.data_vars]
    assert {"temperature_2m", "shortwave", "crop_fraction", "climate_group"} <= set(used)
    for name in used:
        np.testing.assert_equal(grown[name].attrs, once[name].attrs)
        part = grown[name][:DAYS] if grown[name].ndim == 3 else grown[name]
        np.testing.assert_array_equal(part, once[name])
    assert check_cube(tmp_path / "out" / "cube.zarr").problems == ()
