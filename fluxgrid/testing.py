"""Small synthetic cubes and towers for tests and examples; nothing that ships imports this."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.data.cube.build import class_flags, coordinates
from fluxgrid.data.derived import derive
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.steps import Step, calendar
from fluxgrid.geo.grid import Grid
from fluxgrid.variables import CLIMATE_GROUPS, VARIABLES
from fluxgrid.variables_towers import ERA5_ROWS, MOD09GA_ROWS


def small_cube(
    step: Step = "daily",
    shape: tuple[int, int] = (5, 7),
    start: str = "2019-01-01",
    periods: int = 11,
    seed: int = 0,
    centre: tuple[float, float] = (-93.5, 41.5),
    resolution: float = 0.1,
    missing: float = 0.0,
) -> xr.Dataset:
    """Make a small cube over Iowa with plausible values.

    Parameters
    ----------
    step : Step
        Daily or monthly.
    shape : (ny, nx)
        Cells.
    start : str
        First step.
    periods : int
        Number of steps.
    seed : int
        Same seed, same values.
    centre : (x, y), degrees
        Somewhere near the middle.
    resolution : float, degrees
        Size of a cell.
    missing : float, 0-1
        Share of forcing values that are NaN.

    Returns
    -------
    cube : Dataset
        In memory, dims (time, y, x) and (y, x): temperature_2m, precipitation, shortwave, vpd, crop_fraction,
        forest_fraction, climate_group.

    Examples
    --------
    >>> cube = small_cube()
    >>> dict(cube.sizes), float(cube.y[0] - cube.y[1]) > 0
    ({'time': 11, 'y': 5, 'x': 7}, True)
    """
    rng = np.random.default_rng(seed)
    time = calendar(start, pd.Timestamp(start) + pd.Timedelta(days=31 * periods), step)[:periods]
    grid = _grid(shape, centre, resolution)
    latitude = np.repeat(grid.y, shape[1])
    sun = derive("toa_radiation", time, latitude, step).reshape(periods, *shape)
    noise = rng.normal(size=(periods, 1, 1)) + 0.3 * rng.normal(size=(periods, *shape))
    forcings = {
        "temperature_2m": 0.09 * (sun - 250) + 8 + 3 * noise,
        "precipitation": rng.gamma(0.4, 6.0, size=(periods, *shape)),
        "shortwave": sun * np.clip(0.5 + 0.1 * noise, 0.1, 0.75),
        "vpd": np.clip(0.03 * sun + 1.5 * noise, 0.1, None),
    }
    for values in forcings.values():
        values[rng.random(values.shape) < missing] = np.nan
    crop = rng.uniform(0.2, 0.9, shape)
    statics = {
        "crop_fraction": crop,
        "forest_fraction": (1 - crop) * rng.uniform(0, 1, shape),
        "climate_group": np.full(shape, CLIMATE_GROUPS.index("continental")),
    }
    return _dataset(forcings | statics, {"step": step}, time, grid)


def write_cube(ds: xr.Dataset, path: Path | str, chunks: tuple[int, int] = (3, 4), **options: object) -> Path:
    """Write a cube as a zarr store whose chunks hold all steps of a few cells.

    Parameters
    ----------
    ds : Dataset
        A cube, or a dataset that plays a foreign one.
    path : path
        Must not exist.
    chunks : (ny, nx)
        Cells of a chunk.
    **options
        For ``Dataset.to_zarr``, such as ``zarr_format=2``.

    Returns
    -------
    path : Path
    """
    path = Path(path)
    options = {"zarr_format": 3, "consolidated": False} | options
    ds = ds.drop_encoding().compute()
    for array in ds.data_vars.values():
        if "spatial_ref" in ds.coords:
            array.encoding["grid_mapping"] = "spatial_ref"
        sizes = [*array.shape[:-2], *chunks][-array.ndim :] if array.ndim >= 2 else array.shape
        array.encoding["chunks"] = tuple(min(*pair) for pair in zip(sizes, array.shape, strict=True))
    ds.to_zarr(path, mode="w-", **options)  # type: ignore[call-overload]
    return path


def small_sites(
    step: Step = "monthly",
    n: int = 6,
    start: str = "2001-01-01",
    periods: int = 36,
    seed: int = 0,
    missing: float = 0.0,
) -> Sites:
    """Make a few towers whose fluxes follow from their weather.

    Parameters
    ----------
    step : Step
        Daily or monthly.
    n : int
        Number of towers; each is a group of its own.
    start : str
        First step.
    periods : int
        Number of steps.
    seed : int
        Same seed, same values.
    missing : float, 0-1
        Share of forcing values that are NaN.

    Returns
    -------
    sites : Sites
        Series temperature_2m, shortwave, precipitation, gpp, reco, nee, nee_qc; statics crop_fraction, climate_group
        and igbp. GPP rises with shortwave and crop_fraction, RECO with temperature, nothing with precipitation.

    Examples
    --------
    >>> sites = small_sites(n=2)
    >>> sites.ids, sites["T-000"].series.shape
    (('T-000', 'T-001'), (36, 7))
    """
    rng = np.random.default_rng(seed)
    time = calendar(start, pd.Timestamp(start) + pd.Timedelta(days=31 * periods), step)[:periods]
    sites = tuple(_site(f"T-{number:03d}", time, step, missing, rng) for number in range(n))
    return Sites(step, sites, "fluxgrid.testing", "Made up for tests.")


def _site(name: str, time: pd.DatetimeIndex, step: Step, missing: float, rng: np.random.Generator) -> Site:
    """Return one tower."""
    latitude, crop, steps = rng.uniform(36, 48), rng.uniform(0.2, 0.9), len(time)
    sun = derive("toa_radiation", time, np.array([latitude]), step)[:, 0]
    forcings = {
        "temperature_2m": 0.09 * (sun - 250) + 8 + 2 * rng.normal(size=steps),
        "shortwave": sun * rng.uniform(0.3, 0.7, steps),
        "precipitation": rng.gamma(0.4, 6.0, steps),
    }
    gpp = 0.03 * forcings["shortwave"] * (0.5 + crop)
    reco = 1 + 0.1 * np.clip(forcings["temperature_2m"], 0, None)
    fluxes = {"gpp": gpp, "reco": reco, "nee": reco - gpp, "nee_qc": rng.uniform(0.5, 1, steps)}
    for values in forcings.values():
        values[rng.random(steps) < missing] = np.nan
    statics = {"crop_fraction": crop, "climate_group": float(CLIMATE_GROUPS.index("continental")), "igbp": 0.0}
    series = pd.DataFrame({**forcings, **fluxes}, index=time).astype(np.float32)
    return Site(name, latitude, -93.5, name, statics, series)


def carbonbench_files(
    folder: Path,
    igbp: Sequence[str] = ("CRO", "DBF", "GRA"),
    koppen: Sequence[str] = ("Dfa", "Dfb", "Cfa"),
    days: int = 90,
    seed: int = 0,
) -> Path:
    """Write files in the layout of CarbonBench: one tower for each class given.

    Parameters
    ----------
    folder : Path
        Exists, and is returned.
    igbp, koppen : sequence of str
        Vegetation class and Koeppen code of each tower, `T-000` and so on.
    days : int
        Of the targets, from 1 March 2001 on.
    seed : int
        Same seed, same values.

    Returns
    -------
    folder : Path
        All files, with the whole year 2001 of covariates, whose sites carry their network and `T-000` two of them. Of
        the targets the 86th of 90 days is missing, RECO of the 21st is -9999, and some GPP is negative; of MOD09GA
        every third day is missing. The standard set are the first 36 variables in alphabetical order.
    """
    rng = np.random.default_rng(seed)
    year = pd.date_range("2001-01-01", "2001-12-31")
    targets, weather, bands = [], [], []
    for number in range(len(igbp)):
        site = f"T-{number:03d}"
        here = pd.date_range("2001-03-01", periods=days)
        light = 1e7 * (1.2 - np.cos(2 * np.pi * year.day_of_year / 365)) + rng.normal(0, 5e5, len(year))
        table = {row.published: rng.uniform(*_inside(row.valid_range), len(year)) for row in ERA5_ROWS}
        table |= {"surface_net_solar_radiation_sum": light, "temperature_2m": 265 + light / 1e6}
        gpp = light[here.day_of_year - 1] / 3e6 - 2.5 + rng.normal(0, 0.3, days)
        reco = 1.0 + 0.1 * number + rng.normal(0, 0.1, days)
        rows = pd.DataFrame({"TIMESTAMP": here.strftime("%Y%m%d").astype(int), "site": site})
        rows = rows.assign(lat=10.0 + 2 * number, lon=-90.0 - 3 * number, IGBP=igbp[number])
        rows = rows.assign(GPP_NT_VUT_USTAR50=gpp, RECO_NT_VUT_USTAR50=reco, NEE_VUT_USTAR50=reco - gpp)
        rows["NEE_VUT_USTAR50_QC"] = np.where(np.arange(days) % 7 < 5, 1.0, 0.5)
        rows.loc[20::90, "RECO_NT_VUT_USTAR50"] = -9999.0
        targets.append(rows[np.arange(days) % 90 != 85])
        for network in ("FLX", "AMF")[: 2 if number == 0 else 1]:
            named = {"date": year.strftime("%Y-%m-%d"), "site": f"{network}_{site}"}
            weather.append(pd.DataFrame({**named, **table}))
            seen = {row.published: rng.uniform(*_inside(row.valid_range), len(year)) for row in MOD09GA_ROWS}
            bands.append(pd.DataFrame({**named, **seen})[np.arange(len(year)) % 3 != 2])
    sites = [f"T-{number:03d}" for number in range(len(igbp))]
    pd.concat(targets, ignore_index=True).to_parquet(folder / "target_fluxes_v2.parquet")
    pd.concat(weather, ignore_index=True).to_parquet(folder / "ERA5.parquet")
    pd.concat(bands, ignore_index=True).to_parquet(folder / "MOD09GA.parquet")
    names = [row.published for row in ERA5_ROWS]
    contents = {
        "koppen_sites": {site: code[0] for site, code in zip(sites, koppen, strict=True)},
        "koppen_sites_short": dict(zip(sites, koppen, strict=True)),
        "feature_sets": {"minimal": names[:6], "standard": sorted(names)[:36], "full": names},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _inside(limits: tuple[float, float]) -> tuple[float, float]:
    """Return the middle half of a range."""
    low, high = limits
    return low + (high - low) / 4, high - (high - low) / 4


def _grid(shape: tuple[int, int], centre: tuple[float, float], resolution: float) -> Grid:
    """Return the grid of that many cells around a point."""
    west, south = (np.floor(middle / resolution) - size // 2 for middle, size in zip(centre, shape[::-1], strict=True))
    x, y = (
        (first + np.arange(size) + 0.5) * resolution for first, size in zip((west, south), shape[::-1], strict=True)
    )
    return Grid.from_centres(x, y, "EPSG:4326")


def _dataset(values: dict[str, np.ndarray], attrs: dict[str, str], time: object, grid: Grid) -> xr.Dataset:
    """Return values as a cube."""
    ds = xr.Dataset(coords=coordinates(time, grid))  # type: ignore[arg-type]
    for name, array in values.items():
        variable = VARIABLES[name]
        flags = class_flags(variable.classes) if variable.role == "class" else {}
        about = {"units": variable.units, "long_name": variable.long_name} | flags
        ds[name] = (("time", "y", "x")[-array.ndim :], array.astype("float32"), about)
    ds.attrs = {"title": "Synthetic cube for tests", "source": "fluxgrid.testing", "day_definition": "UTC"} | attrs
    ds = ds.rio.write_crs("EPSG:4326")
    ds.attrs["crs"] = "EPSG:4326"
    return ds
