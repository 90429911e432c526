"""Small maps of Iowa with a plausible summer: daily on longitude and latitude, monthly on a projection.

Rich ones also hold the parts of respiration, annual variables and calibration.
"""

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
from fluxgrid.output.layers import PLAIN, Layers
from fluxgrid.output.netcdf import export_netcdf
from fluxgrid.output.store import create_store, write_tile

collect_ignore = ["qgis_client.py"]  # imports PyQGIS, which only the system Python has

CHUNK = 4
RICH = Layers(
    ("nee", "gpp", "reco", "ra", "rh"),
    ("corn_yield", "soybean_yield", "harvest_removal", "balance_after_harvest"),
    ("Iowa", "Saint Louis, MO", "US-Ne1"),
)
UNSURE = Layers(errors=("nee", "gpp", "reco"))
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


def enrich(arrays: dict[str, np.ndarray], times: pd.DatetimeIndex, seed: int = 0) -> dict[str, np.ndarray]:
    """Return a map of a whole year of months with everything a map can hold."""
    random = np.random.default_rng(seed)
    shape = arrays["nee"].shape[1:]
    known = np.isfinite(arrays["nee"]).any(axis=0)
    days = np.asarray(times.days_in_month, "float32")[:, None, None]
    removal = random.uniform(0, 300, shape)
    balance = np.nansum(arrays["nee"] * days, axis=0) + removal
    annual = (random.uniform(300, 500, shape), random.uniform(60, 120, shape), removal, balance)
    place = np.where(known, random.integers(-1, 3, shape), -1).astype("int16")
    weight = np.where(place < 0, 0, random.uniform(0.3, 0.6, shape))
    constant = dict(zip(RICH.annual, annual, strict=True))
    constant |= {"calibration_weight": weight, "calibration_global_weight": 1 - 1.2 * weight}
    masked = {name: np.where(known, values, np.nan).astype("float32") for name, values in constant.items()}
    parts = {"ra": 0.6 * arrays["reco"], "rh": 0.4 * arrays["reco"]}
    return {**arrays, **parts, **masked, "calibration_id": place}


def doubt(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a map with the half-width of every flux, missing where the flux is."""
    return arrays | {f"{name}_se": 0.3 + 0.2 * np.abs(arrays[name]) for name in ("nee", "gpp", "reco")}


def write_store(
    path: Path, grid: Grid, times: pd.DatetimeIndex, arrays: dict[str, np.ndarray], layers: Layers = PLAIN
) -> Path:
    create_store(path, grid, times, layers, CHUNK)
    for tile in make_tiles(grid, 2 * CHUNK):
        write_tile(path, tile, {name: values[..., tile.rows, tile.cols] for name, values in arrays.items()})
    return path


def inside_share(region: Region, grid: Grid) -> np.ndarray:
    return np.asarray(grid.coverage(gpd.GeoSeries([region.polygon], crs=4326)).sum(axis=0)).reshape(grid.shape)


def make_example(folder: Path, grid: Grid, times: pd.DatetimeIndex, step: str, layers: Layers = PLAIN) -> Example:
    region = find_region("iowa")
    inside = inside_share(region, grid)
    arrays = make_arrays(grid, inside, times)
    if layers is RICH:
        arrays = enrich(arrays, times)
    if layers is UNSURE:
        arrays = doubt(arrays)
    store = write_store(folder / "map.zarr", grid, times, arrays, layers)
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


@pytest.fixture(scope="session")
def rich(tmp_path_factory) -> Example:
    """One leap year of months, 0.5 degrees, with everything a map can hold."""
    grid = Grid.from_bounds(find_region("iowa").bounds, 0.5)
    times = pd.date_range("2020-01-01", periods=12, freq="MS")
    return make_example(tmp_path_factory.mktemp("rich"), grid, times, "monthly", RICH)


@pytest.fixture(scope="session")
def rich_albers(tmp_path_factory, monthly) -> Example:
    """The same on a projection."""
    return make_example(tmp_path_factory.mktemp("rich_albers"), monthly.grid, monthly.times, "monthly", RICH)


@pytest.fixture(scope="session")
def unsure(tmp_path_factory) -> Example:
    """The daily map with half-widths."""
    grid = Grid.from_bounds(find_region("iowa").bounds, 0.5)
    times = pd.date_range("2019-06-25", periods=11)
    return make_example(tmp_path_factory.mktemp("unsure"), grid, times, "daily", UNSURE)


@pytest.fixture(params=["rich", "rich_albers"])
def rich_example(request) -> Example:
    """Either of the two rich maps."""
    return request.getfixturevalue(request.param)


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
