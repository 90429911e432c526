"""Virtual flux towers: the synthetic world as a clustered, noisy, gappy network would see it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Site, Sites, class_index
from fluxgrid.errors import ConfigError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.simulation.carbon import true_fluxes
from fluxgrid.simulation.parameters import WORLD, WORLD_VERSION, world_digest
from fluxgrid.simulation.weather import FORCINGS, STATICS, simulate

_CELL_DEGREES = 0.1
_KM_PER_DEGREE = 111.2
_NORTHERN_FOREST = 45.0  # degrees north; conifers mix in from about here


def virtual_sites(
    n: int = 60, start: str | pd.Timestamp = "2003-01-01", end: str | pd.Timestamp = "2018-12-31", seed: int = 1
) -> Sites:
    """Return virtual towers: covariates as they are, fluxes with errors and gaps.

    Parameters
    ----------
    n : int
        Number of towers, >= 1.
    start, end : str or Timestamp
        First and last day of the network; each tower runs 3 to 8 calendar years of it, or all of a shorter one.
    seed : int
        Of places, years, errors and gaps; the world itself does not change with it.

    Returns
    -------
    sites : Sites
        Daily, at cell centres of the 0.1 degree lattice. Series: the forcings of the world, ``gpp``, ``reco``, ``nee``
        (g C m-2 d-1, ``nee = reco - gpp`` to rounding, NaN in gaps) and ``nee_qc`` (0 in gaps). Towers of one cluster
        share a group.

    Raises
    ------
    ConfigError
        If the period is empty or no tower is asked for.

    Notes
    -----
    The random error of NEE is double exponential and grows with the flux (Richardson et al. 2006,
    doi:10.1016/j.agrformet.2006.01.007); partitioning adds a relative error to RECO, and GPP = RECO - NEE takes it on.
    """
    time = pd.date_range(start, end, freq="D", name="time")
    if n < 1 or time.empty:
        message = f"Virtual towers need n >= 1 and a start before the end, got n={n}, {start} to {end}."
        raise ConfigError(message)
    random = np.random.default_rng(seed)
    latitude, longitude, cluster = _place(n, random)
    covariates, truth = simulate(latitude, longitude, time), true_fluxes(latitude, longitude, time)
    sites = []
    for i in range(n):
        days = _operating(time, random)
        series = {name: covariates[name][days, i] for name in FORCINGS}
        series |= _observe({name: values[days, i] for name, values in truth.items()}, random)
        statics = {name: float(covariates[name][i]) for name in STATICS}
        statics["igbp"] = _vegetation(statics, latitude[i])
        where = float(latitude[i]), float(longitude[i]), f"C{cluster[i]:02d}"
        sites.append(Site(f"XS-{i:03d}", *where, statics, pd.DataFrame(series, index=time[days], dtype=np.float32)))
    source = f"fluxgrid synthetic world {WORLD_VERSION}, parameters {world_digest()}, towers drawn with seed {seed}"
    return Sites("daily", tuple(sites), source, "Synthetic: virtual towers of the fluxgrid world, not observations.")


def _place(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latitude, longitude and cluster of each tower: land cells, near the centres of clusters."""
    p = WORLD.towers
    grid = Grid.from_bounds(p.bounds, _CELL_DEGREES)
    on_land = land_fraction(grid) > 0.99
    longitude, latitude = (values[on_land] for values in grid.lonlat())
    centres = _centres(latitude, longitude, max(1, round(n / p.per_cluster)), random)
    cluster = np.sort(np.concatenate([np.arange(len(centres)), random.integers(len(centres), size=n)])[:n])
    chosen = np.empty(n, dtype=int)
    for number, centre in enumerate(centres):
        members = np.flatnonzero(cluster == number)
        far = _distance_km(latitude, longitude, latitude[centre], longitude[centre]) / p.cluster_km
        nearness = np.exp(-0.5 * far * far) * (far < 4.0)
        chosen[members] = random.choice(len(far), len(members), replace=False, p=nearness / nearness.sum())
    return latitude[chosen], longitude[chosen], cluster


def _centres(latitude: np.ndarray, longitude: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Return the cells of cluster centres, drawn so that clusters do not overlap while there is room."""
    centres: list[int] = []
    free = np.ones(len(latitude), dtype=bool)
    for _ in range(count):
        candidates = np.flatnonzero(free) if free.any() else np.arange(len(free))
        centre = int(random.choice(candidates))
        centres.append(centre)
        free &= _distance_km(latitude, longitude, latitude[centre], longitude[centre]) > 5.0 * WORLD.towers.cluster_km
    return centres


def _distance_km(latitude: np.ndarray, longitude: np.ndarray, south_north: float, west_east: float) -> np.ndarray:
    """Return distances to a point, km, on a plane good enough for a few hundred km."""
    east = (longitude - west_east) * np.cos(np.deg2rad(south_north))
    return _KM_PER_DEGREE * np.hypot(latitude - south_north, east)


def _operating(time: pd.DatetimeIndex, random: np.random.Generator) -> slice:
    """Return the days a tower runs: whole calendar years where there are enough."""
    years = np.unique(time.year)
    length = min(int(random.integers(WORLD.towers.shortest_years, WORLD.towers.longest_years + 1)), len(years))
    first = years[random.integers(len(years) - length + 1)]
    return slice(*np.searchsorted(time.year, [first, first + length]).tolist())


def _observe(truth: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return fluxes as a tower reports them, (time,), and the share of good half-hours."""
    p, steps = WORLD.towers, len(truth["nee"])
    spread = p.error_base + p.error_slope * truth["gpp"]
    nee = truth["nee"] + random.laplace(0.0, spread / np.sqrt(2.0))
    reco = truth["reco"] * (1.0 + p.partition_error * random.standard_normal(steps))
    quality = random.beta(9.0, 1.5, steps)
    gap = _gaps(steps, random)
    fluxes = {"gpp": reco - nee, "reco": reco, "nee": nee}
    return {name: np.where(gap, np.nan, flux) for name, flux in fluxes.items()} | {
        "nee_qc": np.where(gap, 0.0, quality)
    }


def _gaps(steps: int, random: np.random.Generator) -> np.ndarray:
    """Return which days are missing, (time,): outages of geometric length at random starts."""
    starts = np.flatnonzero(random.random(steps) < WORLD.towers.gap_start)
    lengths = random.geometric(1.0 / WORLD.towers.gap_days, len(starts))
    gap = np.zeros(steps, dtype=bool)
    for first, length in zip(starts, lengths, strict=True):
        gap[first : first + length] = True
    return gap


def _vegetation(statics: dict[str, float], latitude: float) -> float:
    """Return the IGBP class, as an index, of the cover with the largest share."""
    forest = "MF" if latitude > _NORTHERN_FOREST else "DBF"
    names = {"crop_fraction": "CRO", "forest_fraction": forest, "grass_fraction": "GRA"}
    return class_index("igbp", names[max(names, key=lambda name: statics[name])])
