"""What a model may know of the world, and what is true in it, at any places: the doors to the simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from fluxgrid.errors import ConfigError
from fluxgrid.simulation.land import Places, crop_shares, places_at
from fluxgrid.simulation.observation import SATELLITE, satellite
from fluxgrid.simulation.parameters import EXTENT
from fluxgrid.simulation.process import YearOfWorld, run_years
from fluxgrid.simulation.weather import Outlook

WEATHER = (
    "temperature_2m",
    "tmin",
    "tmax",
    "precipitation",
    "shortwave",
    "vpd",
    "vapour_pressure",
    "vapour_pressure_range",
    "wind_speed",
)
CROPS = ("corn_fraction", "soybean_fraction")
FORCINGS = (*WEATHER, *SATELLITE, *CROPS)
"""Daily covariates; the crops of a year stand on each of its days."""
STATICS = (
    *("elevation", "sand", "silt", "soc", "bulk_density", "ph", "cec"),
    *("field_capacity", "wilting_point", "saturated_hydraulic_conductivity"),
    *("crop_fraction", "small_grain_fraction", "grass_fraction", "forest_fraction", "evergreen_fraction"),
    *("wetland_fraction", "water_fraction"),
    *("igbp", "climate_group", "koppen"),
)
TRUTH = ("gpp", "reco", "nee", "ra", "rh")


def simulate(
    latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Return covariates of places: bit for bit the same whatever else is asked for with them.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places of the central US; elsewhere the numbers mean nothing.
    time : DatetimeIndex, (time,)
        Days, in any order and with any gaps; weather exists in any year, what a satellite sees from the world's first.
    names : iterable of str, optional
        Which of `FORCINGS` and `STATICS`; all by default. Weather alone is much quicker.

    Returns
    -------
    variables : dict of ndarray, float32
        Forcings (time, n) and statics (n,), in the units of the variable table.

    Raises
    ------
    ConfigError
        If a variable is unknown, no day is asked for, or satellite variables before the world begins.

    Examples
    --------
    >>> days = pd.date_range("2010-07-01", periods=3)
    >>> simulate(np.array([42.0]), np.array([-93.5]), days, ["tmax"])["tmax"].shape
    (3, 1)
    """
    return simulate_places(places_at(latitude, longitude), time, names)


def simulate_places(
    places: Places, time: pd.DatetimeIndex, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Return covariates of places whose land is given, such as the footprints of towers; see `simulate`."""
    wanted = tuple(names) if names is not None else (*FORCINGS, *STATICS)
    unknown = sorted(set(wanted) - {*FORCINGS, *STATICS})
    if unknown or time.empty:
        what = f"variables {', '.join(unknown)}" if unknown else "any days"
        message = f"The world cannot give {what}. Ask for days, and for some of {', '.join((*FORCINGS, *STATICS))}."
        raise ConfigError(message)
    varying = [name for name in wanted if name in FORCINGS]
    variables = _gather(places, time, varying) if varying else {}
    return {name: variables[name] if name in variables else _static(places, name) for name in wanted}


def true_fluxes(latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return the fluxes that are true in this world.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places.
    time : DatetimeIndex, (time,)
        Days, in any order and with any gaps, not before the world's first year. Each call runs the process model from
        there: ask for all days at once, and for about a thousand places at a time.

    Returns
    -------
    fluxes : dict of ndarray, (time, n), float32, g C m-2 d-1
        ``gpp``, ``ra`` and ``rh``, all >= 0, ``reco = ra + rh``, and ``nee``, which is ``reco - gpp`` exactly.

    Raises
    ------
    ConfigError
        If a day comes before the world begins.
    """
    return true_fluxes_of(places_at(latitude, longitude), time)


def true_fluxes_of(places: Places, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return the true fluxes of places whose land is given; see `true_fluxes`."""
    return _gather(places, time, TRUTH)


def years_of(places: Places, first_year: int, last_year: int, names: Iterable[str]) -> Iterator[YearOfWorld]:
    """Yield what the names need and no more: weather alone, canopy and water, or carbon as well.

    Parameters
    ----------
    places : Places
    first_year, last_year : int
        Both included.
    names : iterable of str
        Of `FORCINGS` or `TRUTH`.

    Yields
    ------
    year : YearOfWorld
    """
    wanted = set(names)
    if wanted & {*TRUTH, *SATELLITE}:
        yield from run_years(places, first_year, last_year, with_carbon=bool(wanted & set(TRUTH)))
        return
    outlook = Outlook(places)
    for year in range(first_year, last_year + 1):
        time = pd.date_range(f"{year}-01-01", f"{year}-12-31", name="time")
        yield YearOfWorld(year, time, outlook.weather(time), {}, {})


def variables_of_year(places: Places, year: YearOfWorld, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return variables of a year as they are stored.

    Parameters
    ----------
    places : Places
    year : YearOfWorld
        From `years_of` with at least these names.
    names : iterable of str
        Of `FORCINGS` or `TRUTH`.

    Returns
    -------
    variables : dict of ndarray, (n, time), float32
    """
    wanted = tuple(names)
    known: dict[str, np.ndarray] = dict(year.weather)
    if set(wanted) & set(SATELLITE):
        known |= satellite(places, year, [name for name in wanted if name in SATELLITE])
    if set(wanted) & set(CROPS):
        shape = len(places.latitude), len(year.time)
        shares = crop_shares(places, np.array([year.year]))
        known |= {name: np.broadcast_to(share, shape) for name, share in zip(CROPS, shares, strict=True)}
    if set(wanted) & set(TRUTH):
        known |= _truth(year.daily)
    return {name: known[name].astype(np.float32, copy=False) for name in wanted}


def _truth(daily: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the fluxes in single precision, rounded first and added then, so that they close as a map's do."""
    gpp, ra, rh = (daily[name].astype(np.float32) for name in ("gpp", "ra", "rh"))
    reco = ra + rh
    return {"gpp": gpp, "ra": ra, "rh": rh, "reco": reco, "nee": reco - gpp}


def check_period(first: pd.Timestamp, names: Iterable[str]) -> list[str]:
    """Return what speaks against asking for variables from a day on.

    Examples
    --------
    >>> check_period(pd.Timestamp("1990-01-01"), ["tmax"])
    []
    """
    bound = sorted(set(names) & {*TRUTH, *SATELLITE})
    if bound and first.year < EXTENT.first_year:
        return [
            f"{', '.join(bound)} exist from {EXTENT.first_year}-01-01 on, asked for from {first.date()}: begin later"
        ]
    return []


def _gather(places: Places, time: pd.DatetimeIndex, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return variables on the days asked for, (time, n)."""
    wanted, days = tuple(names), time.normalize()
    problems = check_period(days.min(), wanted)
    if problems:
        raise ConfigError(problems[0][0].upper() + problems[0][1:] + ".")
    out = {name: np.empty((len(days), len(places.latitude)), dtype=np.float32) for name in wanted}
    asked = set(days.year)
    for year in years_of(places, min(asked), max(asked), wanted):
        if year.year in asked:
            rows = np.flatnonzero(days.year == year.year)
            columns = year.time.get_indexer(days[rows])
            for name, values in variables_of_year(places, year, wanted).items():
                out[name][rows] = values[:, columns].T
    return out


def _static(places: Places, name: str) -> np.ndarray:
    """Return a static, (n,), float32."""
    return np.asarray(places.statics[name], dtype=np.float32)
