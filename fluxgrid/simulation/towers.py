"""Virtual flux towers: the world as a clustered, noisy, gappy network would see it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.special import ndtri

from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import ConfigError
from fluxgrid.simulation.covariates import FORCINGS, STATICS, TRUTH, variables_of_year, years_of
from fluxgrid.simulation.eddy import Draw, Eddy, observe
from fluxgrid.simulation.land import Places
from fluxgrid.simulation.network import Network, draw, draw_footprints
from fluxgrid.simulation.parameters import (
    EXTENT,
    WORLD_SOURCE,
    WORLD_VERSION,
    load_section,
    strict_dataclass,
    world_digest,
)

START, END = "2004-01-01", "2018-12-31"
"""Period of the network."""
_LENGTH, _FIRST, _ERRORS = 10, 11, 12  # streams of random numbers, apart from those of `network`


@strict_dataclass
class Service:
    """How many years towers run."""

    shortest: int
    longest: int
    median: float
    spread: float
    """Standard deviation of the logarithm."""


@strict_dataclass
class Towers:
    """The section ``towers`` of `world.yaml`."""

    network: Network
    service: Service
    eddy: Eddy


TOWERS = load_section("towers", Towers)


def virtual_sites(
    n: int = 60, start: str | pd.Timestamp = START, end: str | pd.Timestamp = END, seed: int = 1
) -> Sites:
    """Return virtual towers: covariates of their footprints as a cube would give them, fluxes with errors and gaps.

    Parameters
    ----------
    n : int
        Number of towers, 1 to 60.
    start, end : str or Timestamp
        First and last day of the network; each tower runs 3 to 15 calendar years of it, or all of a shorter one.
    seed : int
        Of places, years, errors and gaps, >= 0; the world itself does not change with it.

    Returns
    -------
    sites : Sites
        Daily, at cell centres of the 0.1 degree lattice, none in the state that has no towers. Series: the forcings of
        the world, ``gpp``, ``reco``, ``nee`` (g C m-2 d-1, ``nee = reco - gpp`` to rounding, NaN where nothing is
        known) and ``nee_qc``. Statics are those of the footprint, most of which is one cover. Towers of one cluster
        share a group.

    Raises
    ------
    ConfigError
        If the period is empty or begins before the world, or the number or the seed is out of range.

    Notes
    -----
    See `fluxgrid.simulation.eddy.observe` for the errors, and `tower_truth` for what they hide.
    """
    days, places, clusters = _set_up(n, start, end, seed)
    world = _world_at(places, days, (*FORCINGS, "gpp", "reco"))
    sites = []
    for i, part in enumerate(_operating(days, n, seed)):
        time = days[part]
        series = {name: world[name][i, part] for name in FORCINGS}
        truth = {name: world[name][i, part].astype(np.float64) for name in ("gpp", "reco")}
        wind = world["wind_speed"][i, part].astype(np.float64)
        stream = _stream(draw(seed, _ERRORS, i, 8 * len(days) + 64))
        series |= observe(truth, wind, time.year.to_numpy(), TOWERS.eddy, stream)
        statics = {name: float(np.float32(places.statics[name][i])) for name in STATICS}
        where = float(places.latitude[i]), float(places.longitude[i]), f"C{clusters[i]:02d}"
        sites.append(Site(_name(i), *where, statics, pd.DataFrame(series, index=time, dtype=np.float32)))
    source = f"{WORLD_SOURCE} {WORLD_VERSION}, parameters {world_digest()}, towers drawn with seed {seed}"
    return Sites("daily", tuple(sites), source, "Synthetic: virtual towers of the fluxgrid world, not observations.")


def tower_truth(
    n: int = 60, start: str | pd.Timestamp = START, end: str | pd.Timestamp = END, seed: int = 1
) -> dict[str, pd.DataFrame]:
    """Return the true fluxes of the footprints of `virtual_sites` with the same arguments.

    Parameters
    ----------
    n, start, end, seed
        See `virtual_sites`.

    Returns
    -------
    truth : dict of DataFrame
        By site id, on the days of the site's series: ``gpp``, ``reco``, ``nee``, ``ra`` and ``rh``, g C m-2 d-1.

    Raises
    ------
    ConfigError
        As `virtual_sites` does.
    """
    days, places, _ = _set_up(n, start, end, seed)
    world = _world_at(places, days, TRUTH)
    return {
        _name(i): pd.DataFrame({name: world[name][i, part] for name in TRUTH}, index=days[part])
        for i, part in enumerate(_operating(days, n, seed))
    }


def _set_up(
    n: int, start: str | pd.Timestamp, end: str | pd.Timestamp, seed: int
) -> tuple[pd.DatetimeIndex, Places, np.ndarray]:
    """Return the days of the network, the land of its footprints and their clusters."""
    days, most = pd.date_range(start, end, freq="D", name="time"), TOWERS.network.most
    if not 1 <= n <= most or days.empty or seed < 0:
        message = (
            f"Virtual towers need n of 1 to {most}, a seed >= 0 and a start before the end, "
            f"got n={n}, seed={seed}, {start} to {end}."
        )
        raise ConfigError(message)
    if days[0].year < EXTENT.first_year:
        message = f"The world's fluxes begin in {EXTENT.first_year}, towers were asked for from {start}: start later."
        raise ConfigError(message)
    footprints = draw_footprints(TOWERS.network, n, seed)
    return days, footprints.places, footprints.clusters


def _world_at(places: Places, days: pd.DatetimeIndex, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return variables of places on consecutive days, (n, time), float32."""
    wanted = tuple(names)
    years = years_of(places, days[0].year, days[-1].year, wanted)
    parts = [variables_of_year(places, year, wanted) for year in years]
    first = days[0].day_of_year - 1
    return {name: np.concatenate([part[name] for part in parts], axis=1)[:, first:][:, : len(days)] for name in wanted}


def _operating(days: pd.DatetimeIndex, n: int, seed: int) -> list[slice]:
    """Return the days each tower runs: whole calendar years, of log-normal number, at a random time."""
    p, years = TOWERS.service, np.unique(days.year)
    parts = []
    for i in range(n):
        wanted = round(p.median * np.exp(p.spread * ndtri(draw(seed, _LENGTH, i, 1)[0])))
        length = min(max(wanted, p.shortest), p.longest, len(years))
        first = years[int(draw(seed, _FIRST, i, 1)[0] * (len(years) - length + 1))]
        parts.append(slice(*np.searchsorted(days.year, [first, first + length]).tolist()))
    return parts


def _stream(numbers: np.ndarray) -> Draw:
    """Return a function that gives away numbers in order."""
    left = iter(numbers)
    return lambda count: np.fromiter(left, float, count)


def _name(number: int) -> str:
    """Return the id of a tower."""
    return f"XS-{number:03d}"
