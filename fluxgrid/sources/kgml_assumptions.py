"""Named assumptions that complete the drivers of KGML-ag, each with alternatives and where they come from.

They are ours, not part of the published method. A default is an untuned rule of the literature where there is one, and
else the mean of the published inputs, which a standardised network takes as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import numpy as np

from fluxgrid.data.kgml import KGML_FEATURES, feature_index
from fluxgrid.errors import ConfigError, itemise

MJ_PER_W = 0.0864
"""MJ m-2 d-1 in 1 W m-2 kept up for a day."""

Known = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Alternative:
    """One way to complete a quantity."""

    rule: Callable[[Known], np.ndarray | float]
    """What it makes of the quantities known so far, (days,) each: the columns of `CountyDrivers`, ``toa_radiation``
    (W m-2), ``calendar_year``, and what the assumptions before it gave."""
    source: str
    """Why one may think so."""


@dataclass(frozen=True)
class Assumptions:
    """Names of alternatives of `ALTERNATIVES`.

    Raises
    ------
    ConfigError
        If a name is not one; all wrong ones are listed.
    """

    temperature_range: str = "hargreaves"
    """Highest less lowest temperature of the day, K."""
    above_mean: str = "half"
    """Share of that range above the mean of the day."""
    vapour_pressure: str = "mean_temperature"
    """Mean vapour pressure of the day from relative humidity, kPa."""
    vapour_range: str = "published_share"
    """Highest less lowest vapour pressure of the day, kPa, half of it above the mean."""
    wind: str = "ten_metres"
    """Run of wind, km d-1."""
    ph: str = "published_mean"
    """pH of the topsoil."""
    cec: str = "helling"
    """Exchange capacity of the topsoil, cmol kg-1."""
    year: str = "calendar"
    """The input Year."""
    gpp: str = "as_given"
    """What the satellite's GPP is multiplied with."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {getattr(self, name)!r} is none of {', '.join(alternatives)}"
            for name, alternatives in ALTERNATIVES.items()
            if getattr(self, name) not in alternatives
        ]
        if problems:
            raise ConfigError(itemise("The assumptions cannot be used", problems))


def completed(known: Known, assumptions: Assumptions) -> dict[str, np.ndarray]:
    """Return every quantity that is assumed.

    Parameters
    ----------
    known : mapping of ndarray, (days,)
        See `Alternative`.
    assumptions : Assumptions

    Returns
    -------
    quantities : dict of ndarray, (days,) or ()
        By the fields of `Assumptions`, in its units.
    """
    everything = dict(known)
    for name, alternatives in ALTERNATIVES.items():
        everything[name] = np.asarray(alternatives[getattr(assumptions, name)].rule(everything))
    return {name: everything[name] for name in ALTERNATIVES}


def one_at_a_time() -> Iterator[tuple[str, str, Assumptions]]:
    """Yield every alternative to the defaults, one changed at a time.

    Yields
    ------
    field, name : str
        What was changed, and to what.
    assumptions : Assumptions

    Examples
    --------
    >>> [name for field, name, _ in one_at_a_time() if field == "ph"]
    ['lime_target', 'lime_due']
    """
    default = Assumptions()
    for field in fields(Assumptions):
        for name in ALTERNATIVES[field.name]:
            if name != getattr(default, field.name):
                yield field.name, name, replace(default, **{field.name: name})


def saturation_pressure(temperature: np.ndarray) -> np.ndarray:
    """Return the saturation vapour pressure over water.

    Parameters
    ----------
    temperature : ndarray, degC

    Returns
    -------
    pressure : ndarray, kPa

    References
    ----------
    Allen et al. (1998), FAO Irrigation and Drainage Paper 56, eq. 11.

    Examples
    --------
    >>> saturation_pressure(np.array([0.0, 20.0])).round(3)
    array([0.611, 2.338])
    """
    return 0.6108 * np.exp(17.27 * temperature / (temperature + 237.3))


def _published(name: str) -> float:
    """Return the mean of an input in the published data."""
    return KGML_FEATURES[feature_index(name)].mean


_HARGREAVES = 0.16  # K-0.5, inland
_CLEAR, _STEEPNESS = 0.7, 2.4
_CURVATURE = 0.036 * np.exp(-0.154 * _published("TDIF_AIR"))
_MOST_CLEAR = 0.97  # of the clear-sky transmissivity: at it the inverse is infinite
_OM_PER_CARBON = 1.724  # van Bemmelen: organic matter holds 58 % carbon


def _transmissivity(known: Known) -> np.ndarray:
    """Return the share of the radiation at the top of the atmosphere that arrives."""
    return known["shortwave"] / np.maximum(known["toa_radiation"], 1.0)


def _hargreaves(known: Known) -> np.ndarray:
    """Invert Rs = k Ra sqrt(range)."""
    return (_transmissivity(known) / _HARGREAVES) ** 2


def _bristow_campbell(known: Known) -> np.ndarray:
    """Invert Rs = A Ra (1 - exp(-B range^C))."""
    share = np.clip(_transmissivity(known) / _CLEAR, 0.0, _MOST_CLEAR)
    return (-np.log1p(-share) / _CURVATURE) ** (1.0 / _STEEPNESS)


def _extremes(known: Known) -> tuple[np.ndarray, np.ndarray]:
    """Return saturation pressures at the lowest and highest temperature, kPa."""
    mean, above, swing = known["temperature_2m"], known["above_mean"], known["temperature_range"]
    return saturation_pressure(mean - (1.0 - above) * swing), saturation_pressure(mean + above * swing)


def _at_mean_temperature(known: Known) -> np.ndarray:
    """Relative humidity holds at the mean temperature."""
    return 0.01 * known["relative_humidity"] * saturation_pressure(known["temperature_2m"])


def _at_mean_saturation(known: Known) -> np.ndarray:
    """Relative humidity holds at the mean of the saturation pressures."""
    return 0.01 * known["relative_humidity"] * np.mean(_extremes(known), axis=0)


def _at_constant_dewpoint(known: Known) -> np.ndarray:
    """Relative humidity is the mean of e / es over the day with e constant: the harmonic mean of es."""
    low, high = _extremes(known)
    return 0.01 * known["relative_humidity"] * 2.0 * low * high / (low + high)


def _helling(known: Known) -> np.ndarray:
    """Capacity of clay and of organic matter, both growing with pH."""
    clay = 1.0 - 0.001 * (known["sand"] + known["silt"])
    organic = 0.001 * _OM_PER_CARBON * known["soc"]
    return clay * (30.0 + 4.4 * known["ph"]) + organic * (-59.0 + 51.0 * known["ph"])


_SHARE = _published("HDIF_AIR") / _published("HMAX_AIR")
_MEAN_OF_SET = "mean of the published inputs (Illinois, Indiana, Iowa)"
_FAO = "Allen et al. 1998, FAO Irrigation and Drainage Paper 56"
_BOUND = "a bound of ours"
_HANDBOOK = "Fernandez and Hoeft 2009, Illinois Agronomy Handbook, chapter 8"

ALTERNATIVES: Mapping[str, Mapping[str, Alternative]] = MappingProxyType(
    {
        "temperature_range": {
            "hargreaves": Alternative(_hargreaves, f"{_FAO}, eq. 50 with 0.16 K-0.5 for the interior, inverted"),
            "bristow_campbell": Alternative(
                _bristow_campbell,
                "Bristow and Campbell 1984, doi:10.1016/0168-1923(84)90017-0, inverted; A 0.7, C 2.4, B of the "
                "published mean range",
            ),
            "published_mean": Alternative(
                lambda known: np.full_like(known["shortwave"], _published("TDIF_AIR")), _MEAN_OF_SET
            ),
        },
        "above_mean": {
            "half": Alternative(lambda _: 0.5, f"{_FAO}, eq. 9: the mean is midway"),
            "less": Alternative(lambda _: 0.45, f"long warm afternoons; {_BOUND}"),
            "more": Alternative(lambda _: 0.55, f"long cool nights; {_BOUND}"),
        },
        "vapour_pressure": {
            "mean_temperature": Alternative(
                _at_mean_temperature, "relative humidity of the day at its mean temperature"
            ),
            "mean_saturation": Alternative(_at_mean_saturation, f"{_FAO}, eq. 19"),
            "constant_dewpoint": Alternative(_at_constant_dewpoint, "mean of e / es with e constant through the day"),
            "dewpoint_at_lowest": Alternative(lambda known: _extremes(known)[0], f"{_FAO}, eq. 48; no use of humidity"),
        },
        "vapour_range": {
            "published_share": Alternative(
                lambda known: known["vapour_pressure"] * _SHARE / (1.0 - 0.5 * _SHARE),
                "mean HDIF / mean HMAX as published",
            ),
            "constant_dewpoint": Alternative(
                lambda known: np.zeros_like(known["vapour_pressure"]),
                f"{_FAO}, eq. 14: the dew point tells the day's pressure",
            ),
            "published_mean": Alternative(
                lambda known: np.minimum(_published("HDIF_AIR"), 2.0 * known["vapour_pressure"]), _MEAN_OF_SET
            ),
        },
        "wind": {
            "ten_metres": Alternative(lambda known: 86.4 * known["wind_speed"], "wind of NLDAS-2 is that at 10 m"),
            "two_metres": Alternative(lambda known: 0.748 * 86.4 * known["wind_speed"], f"{_FAO}, eq. 47"),
            "published_mean": Alternative(
                lambda known: np.full_like(known["wind_speed"], _published("WIND")), _MEAN_OF_SET
            ),
        },
        "ph": {
            "published_mean": Alternative(lambda _: _published("TPH"), _MEAN_OF_SET),
            "lime_target": Alternative(lambda _: 6.5, f"kept where alfalfa or clover is grown too; {_HANDBOOK}"),
            "lime_due": Alternative(lambda _: 6.0, f"the least kept where grain is grown; {_HANDBOOK}"),
        },
        "cec": {
            "helling": Alternative(
                _helling, "Helling et al. 1964, doi:10.2136/sssaj1964.03615995002800040020x: clay, organic matter, pH"
            ),
            "published_mean": Alternative(lambda _: _published("TCEC"), _MEAN_OF_SET),
            "superactive": Alternative(
                lambda known: 60.0 * (1.0 - 0.001 * (known["sand"] + known["silt"])),
                "Soil Survey Staff 1999, Soil Taxonomy: the least of superactive soils, 0.60 times per cent clay",
            ),
        },
        "year": {
            "calendar": Alternative(lambda known: known["calendar_year"], "as published"),
            "within_training": Alternative(lambda known: np.clip(known["calendar_year"], 2001, 2018), "no year unseen"),
            "middle": Alternative(lambda known: np.full_like(known["calendar_year"], 2009.5), _MEAN_OF_SET),
        },
        "gpp": {
            "as_given": Alternative(lambda _: 1.0, "SLOPE, Jiang et al. 2021, doi:10.5194/essd-13-281-2021"),
            "tenth_less": Alternative(lambda _: 0.9, _BOUND),
            "tenth_more": Alternative(lambda _: 1.1, _BOUND),
        },
    }
)
"""The alternatives of each field of `Assumptions`; a rule may use what stands before it."""
