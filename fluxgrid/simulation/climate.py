"""Normals of the reference world: mean temperature and precipitation of each place and time of year."""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation.arithmetic import rounded
from fluxgrid.simulation.parameters import load_section, strict_dataclass
from fluxgrid.variables import KOPPEN_CLASSES

DAYS_PER_YEAR = 365.2425
_MONTH_DAYS = np.array([31, 28.2425, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@strict_dataclass
class Harmonics:
    """The year as a mean and two harmonics, each a polynomial of longitude and latitude (see `polynomial`)."""

    mean: tuple[float, ...]
    cosine: tuple[float, ...]
    sine: tuple[float, ...]
    second_cosine: tuple[float, ...]
    second_sine: tuple[float, ...]


@strict_dataclass
class ClimateParameters:
    """Normals."""

    temperature: Harmonics
    """degC at sea level."""
    lapse_degc_km: float
    rain: Harmonics
    """Logarithm of mm d-1."""


CLIMATE = load_section("climate", ClimateParameters)


def polynomial(coefficients: tuple[float, ...], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return a polynomial of place.

    Parameters
    ----------
    coefficients : tuple of float
        Of 1, x, y, x2, xy, y2, with x and y tens of degrees east of 92 W and north of 41 N; the last may be left out.
    latitude, longitude : ndarray, (n,), degrees
        Places.

    Returns
    -------
    values : ndarray, (n,)

    Examples
    --------
    >>> polynomial((1.0, 2.0), np.array([41.0]), np.array([-87.0]))
    array([2.])
    """
    x, y = (longitude + 92.0) / 10.0, (latitude - 41.0) / 10.0
    total = np.zeros_like(x)
    for coefficient, term in zip(coefficients, (np.ones_like(x), x, y, x * x, x * y, y * y), strict=False):
        total += coefficient * term
    return total


def harmonics(form: Harmonics, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the five factors of `waves_of_year` at places, (n, 5).

    Parameters
    ----------
    form : Harmonics
        Polynomials.
    latitude, longitude : ndarray, (n,), degrees
        Places.

    Returns
    -------
    factors : ndarray, (n, 5)
    """
    parts = (form.mean, form.cosine, form.sine, form.second_cosine, form.second_sine)
    return np.stack([polynomial(part, latitude, longitude) for part in parts], axis=1)


def waves_of_year(days: np.ndarray) -> np.ndarray:
    """Return the annual and semi-annual waves that `harmonics` are the factors of.

    Parameters
    ----------
    days : ndarray, (time,), days since 2000-01-01
        Days.

    Returns
    -------
    waves : ndarray, (5, time)
        One, cosine and sine of the year, cosine and sine of the half-year.
    """
    angle = (days + 0.5) * (2.0 * np.pi / DAYS_PER_YEAR)
    waves = [np.ones_like(angle), np.cos(angle), np.sin(angle), np.cos(2.0 * angle), np.sin(2.0 * angle)]
    return rounded(np.stack(waves))


def temperature_factors(latitude: np.ndarray, longitude: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Return mean and harmonics of the normal temperature.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places.
    elevation : ndarray, (n,), m
        Height.

    Returns
    -------
    factors : ndarray, (n, 5), degC
    """
    factors = harmonics(CLIMATE.temperature, latitude, longitude)
    factors[:, 0] += CLIMATE.lapse_degc_km * 1e-3 * elevation
    return factors


def monthly_normals(
    latitude: np.ndarray, longitude: np.ndarray, elevation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return normal temperature and precipitation of the twelve months.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,), degrees
        Places.
    elevation : ndarray, (n,), m
        Height.

    Returns
    -------
    temperature : ndarray, (n, 12), degC
    precipitation : ndarray, (n, 12), mm month-1
    """
    waves = waves_of_year(np.cumsum(_MONTH_DAYS) - 0.5 * _MONTH_DAYS - 0.5)
    temperature = _products(temperature_factors(latitude, longitude, elevation), waves)
    rain = np.exp(_products(harmonics(CLIMATE.rain, latitude, longitude), waves))
    return temperature, rain * _MONTH_DAYS


def koppen(temperature: np.ndarray, precipitation: np.ndarray) -> np.ndarray:
    """Return the climate class of Koeppen and Geiger.

    Parameters
    ----------
    temperature : ndarray, (n, 12), degC
        Monthly normals, January first, north of the equator.
    precipitation : ndarray, (n, 12), mm month-1
        Monthly normals.

    Returns
    -------
    index : ndarray, (n,), float64
        Into `fluxgrid.variables.KOPPEN_CLASSES`.

    Notes
    -----
    Kottek et al. 2006, doi:10.1127/0941-2948/2006/0130, tables 1 and 2; without the polar and tropical classes, which
    are far from the central US.

    Examples
    --------
    >>> chicago = -4.0 + 14.0 * (1.0 - np.cos(2.0 * np.pi * np.arange(12) / 12.0))
    >>> KOPPEN_CLASSES[int(koppen(chicago[None], np.full((1, 12), 80.0))[0])]
    'Dfa'
    """
    coldest, mean = temperature.min(axis=1), temperature.mean(axis=1)
    summer, winter = precipitation[:, 3:9], precipitation[:, [0, 1, 2, 9, 10, 11]]
    annual = precipitation.sum(axis=1)
    extra = np.where(summer.sum(axis=1) >= 2 / 3 * annual, 28.0, 14.0)
    dryness = 2.0 * mean + np.where(winter.sum(axis=1) >= 2 / 3 * annual, 0.0, extra)
    arid = np.where(annual > 5.0 * dryness, "BS", "BW")
    arid = np.char.add(arid, np.where(mean >= 18.0, "h", "k"))
    dry_summer = summer.min(axis=1) < np.minimum(winter.min(axis=1), 40.0)
    dry_summer &= winter.max(axis=1) > 3.0 * summer.min(axis=1)
    dry_winter = (winter.min(axis=1) < summer.min(axis=1)) & (summer.max(axis=1) > 10.0 * winter.min(axis=1))
    letters = np.where(coldest > -3.0, "C", "D")
    letters = np.char.add(letters, np.where(dry_summer, "s", np.where(dry_winter, "w", "f")))
    letters = np.char.add(letters, _warmth(temperature))
    classes = np.where(annual < 10.0 * dryness, arid, letters)
    return np.array([float(KOPPEN_CLASSES.index(name)) for name in classes])


def climate_group(index: np.ndarray) -> np.ndarray:
    """Return the main group that Koeppen classes belong to.

    Parameters
    ----------
    index : ndarray, (n,)
        Into `fluxgrid.variables.KOPPEN_CLASSES`.

    Returns
    -------
    group : ndarray, (n,), float64
        Index into `fluxgrid.variables.CLIMATE_GROUPS`.

    Examples
    --------
    >>> from fluxgrid.variables import CLIMATE_GROUPS
    >>> CLIMATE_GROUPS[int(climate_group(np.array([KOPPEN_CLASSES.index("Dfb")]))[0])]
    'continental'
    """
    letters = [KOPPEN_CLASSES[int(i)][0] for i in index]
    return np.array([float("ABCDE".index(letter)) for letter in letters])


def _warmth(temperature: np.ndarray) -> np.ndarray:
    """Return the third letter: hot, warm, cool or very cold, (n,)."""
    mild = (temperature >= 10.0).sum(axis=1) >= 4
    cool = np.where(temperature.min(axis=1) > -38.0, "c", "d")
    return np.where(temperature.max(axis=1) >= 22.0, "a", np.where(mild, "b", cool))


def _products(factors: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Return the sum over harmonics, (n, time), in a fixed order."""
    total = np.zeros((len(factors), waves.shape[1]))
    for k in range(waves.shape[0]):
        total += factors[:, k : k + 1] * waves[k]
    return total
