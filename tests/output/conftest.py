"""Small maps of Iowa with a plausible summer: daily on longitude and latitude, monthly on a projection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region, find_region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.output.flags import Quality
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import export_netcdf
from fluxgrid.output.store import create_store, write_tile

collect_ignore = ["qgis_client.py"]  # imports PyQGIS, which only the system Python has

CHUNK = 4
THRESHOLD = 0.4


@dataclass(frozen=True)
class Example:
    """A finished map, its store and its file."""

    region: Region
    grid: Grid
    times: pd.DatetimeIndex
    info: MapInfo
    land: np.ndarray
    arrays: dict[str, np.ndarray]
    store: Path
    netcdf: Path


def make_info(step: str, **changes) -> MapInfo:
    values = {
        "title": "Carbon fluxes of Iowa",
        "summary": "Invented fluxes to test the files.",
        "region_name": "iowa",
        "region_title": "Iowa",
        "step": step,
        "synthetic": True,
        "model_name": "CT-GRU",
        "model_text": "A gated recurrent network trained on virtual towers.",
        "day_definition": "UTC",
        "applicability_threshold": THRESHOLD,
        "caveats": ("No number here is an estimate of a real flux.", "Harvested carbon is not part of NEE."),
        "sources": ("Nobody (2026), invented.",),
        "attributes": {"git_commit": "0123abc"},
        "created": "2026-01-05T10:00:00Z",
    }
    return MapInfo(**(values | changes))


def make_arrays(grid: Grid, inside: np.ndarray, times: pd.DatetimeIndex, seed: int = 0) -> dict[str, np.ndarray]:
    """Return fluxes with a season, a gradient and weather, missing where they should be."""
    random = np.random.default_rng(seed)
    shape = (len(times), *grid.shape)
    season = np.exp(-0.5 * ((np.asarray(times.day_of_year) - 200) / 35.0) ** 2)[:, None, None]
    weather = random.standard_normal(shape)
    gpp = np.maximum(0.2 + (9 + np.linspace(-3, 3, shape[2])) * season + 0.5 * weather, 0).astype("float32")
    reco = (0.8 + 3.5 * season + np.linspace(0, 1, shape[1])[:, None] + 0.1 * weather).astype("float32")
    index = np.broadcast_to(0.2 + 0.3 * np.linspace(0, 1, shape[2]), shape).astype("float32")
    flag = np.zeros(shape, "int8")
    flag[index > THRESHOLD] |= Quality.OUTSIDE_APPLICABILITY
    flag[:, inside == 0] = Quality.OUTSIDE_REGION
    flag[2:4, 3, 3] = Quality.INPUT_MISSING  # a gap in time
    empty = (flag & (Quality.OUTSIDE_REGION | Quality.INPUT_MISSING)) > 0
    fluxes = {"nee": reco - gpp, "gpp": gpp, "reco": reco, "applicability": index}
    return {name: np.where(empty, np.float32(np.nan), v) for name, v in fluxes.items()} | {"quality_flag": flag}


def write_store(path: Path, grid: Grid, times: pd.DatetimeIndex, arrays: dict[str, np.ndarray]) -> Path:
    create_store(path, grid, times, CHUNK)
    for tile in make_tiles(grid, 2 * CHUNK):
        write_tile(path, tile, {name: values[:, tile.rows, tile.cols] for name, values in arrays.items()})
    return path


def inside_share(region: Region, grid: Grid) -> np.ndarray:
    return np.asarray(grid.coverage(gpd.GeoSeries([region.polygon], crs=4326)).sum(axis=0)).reshape(grid.shape)


def make_example(folder: Path, grid: Grid, times: pd.DatetimeIndex, step: str) -> Example:
    region = find_region("iowa")
    inside = inside_share(region, grid)
    arrays = make_arrays(grid, inside, times)
    store = write_store(folder / "map.zarr", grid, times, arrays)
    info, land = make_info(step), np.clip(inside, 0, 1).astype("float32")
    file = export_netcdf(store, grid, info, folder / f"iowa_{times[0].year}.nc", land)
    return Example(region, grid, times, info, land, arrays, store, file)


@pytest.fixture(scope="session")
def daily(tmp_path_factory) -> Example:
    """11 days over the end of June, 0.5 degrees."""
    grid = Grid.from_bounds(find_region("iowa").bounds, 0.5)
    return make_example(tmp_path_factory.mktemp("daily"), grid, pd.date_range("2019-06-25", periods=11), "daily")


@pytest.fixture(scope="session")
def monthly(tmp_path_factory) -> Example:
    """One leap year of months, 50 km, on the Albers projection of the United States."""
    grid = Grid.from_bounds(find_region("iowa").bounds, 50_000.0, "EPSG:5070", bounds_crs="EPSG:4326")
    times = pd.date_range("2020-01-01", periods=12, freq="MS")
    return make_example(tmp_path_factory.mktemp("monthly"), grid, times, "monthly")


@pytest.fixture(params=["daily", "monthly"])
def example(request) -> Example:
    """Either of the two maps."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def write_years():
    """Return a function that writes a store of months for each of some years."""

    def write(example: Example, folder: Path, years: tuple[int, ...]) -> list[Path]:
        inside = inside_share(example.region, example.grid)
        stores = []
        for year in years:
            times = pd.date_range(f"{year}-01-01", periods=12, freq="MS")
            arrays = make_arrays(example.grid, inside, times, seed=year)
            stores.append(write_store(folder / f"{year}.zarr", example.grid, times, arrays))
        return stores

    return write
