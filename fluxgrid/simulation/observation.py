"""What satellites see of the world: reflectances with clouds, leaf area and GPP from 8-day composites, all with errors.

Canopy, water and snow of the process model are seen; light-use efficiency, stress of the day and carbon are not. Every
value depends on its place and calendar year alone: composites begin anew on 1 January, and noise is hashed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import ndtri

from fluxgrid.simulation.compiled import kernel, part
from fluxgrid.simulation.land import Places, crop_shares
from fluxgrid.simulation.noise import Waves, days_since_epoch, hashed_uniforms, random_field
from fluxgrid.simulation.parameters import load_section, strict_dataclass
from fluxgrid.simulation.process import YearOfWorld

BANDS = ("red", "nir", "blue", "swir")
SATELLITE = ("lai", "gpp_satellite", *(f"reflectance_{band}" for band in BANDS))
"""Names of what `satellite` returns."""


@strict_dataclass
class Sky:
    """Whether a satellite that passes once a day sees the ground."""

    seed: int
    clear: float
    """Cloudiness of the day up to which every overpass sees the ground."""
    overcast: float
    """Cloudiness from which none does; in between the chance falls evenly."""
    missed: float
    """Share of the days taken for clear on which a thin cloud was missed."""
    thickest: float
    """Largest share of the view that a missed cloud hides."""


@strict_dataclass
class Spectrum:
    """Reflectances of what fills a view, in one band."""

    seed: int
    leaf: float
    needle: float
    litter: float
    dark_soil: float
    bright_soil: float
    water: float
    snow: float
    cloud: float


@strict_dataclass
class Ground:
    """The background of the leaves."""

    brightness: float
    """Of dry soil without sand and carbon: 0 is the dark soil of a `Spectrum`, 1 the bright one."""
    brightness_sand: float
    """Added by pure sand."""
    brightness_carbon: float
    """Relative fall per g kg-1 of organic carbon."""
    darkening: float
    """Relative fall from dry to wet soil."""
    snow_first: float
    """Snow, mm of water, at which the first ground is white."""
    snow_full: float
    """Snow that hides all ground."""
    masking: float
    """Share of the snow that forest hides."""
    needle_cover: float
    """Share of the ground of evergreen forest under needles."""


@strict_dataclass
class Errors:
    """Errors of reflectance, as standard deviations."""

    floor: float
    share: float
    """Of the reflectance, each band by itself."""
    view_seed: int
    view: float
    """Of the reflectance, all bands alike: sun and view angle."""


@strict_dataclass
class LeafArea:
    """The retrieval of leaf area from the cover of a composite by Beer's law."""

    seed: int
    error: float
    """Standard deviation of the cover."""
    extinction: float
    most_cover: float
    """Where the signal saturates."""


@strict_dataclass
class Uptake:
    """GPP from greenness and light alone."""

    seed: int
    slope_c3: float
    """g C per MJ of PAR on green leaves."""
    slope_c4: float
    corn_seed: int
    corn_error: float
    """Standard deviation of the share of corn that the retrieval assumes."""
    smooth: Waves
    smooth_error: float
    """Standard deviation, relative, of the part of the error that is smooth in space and time."""
    light_seed: int
    light_error: float
    """Of a day's PAR, relative."""
    composite_error: float
    """Of a composite's greenness, relative."""


@strict_dataclass
class Observation:
    """The section ``observation`` of `world.yaml`."""

    composite_days: int
    par_share: float
    sky: Sky
    bands: dict[str, Spectrum]
    ground: Ground
    errors: Errors
    leaf_area: LeafArea
    uptake: Uptake


OBSERVATION = load_section("observation", Observation)


def satellite(places: Places, year: YearOfWorld, names: Iterable[str] = SATELLITE) -> dict[str, np.ndarray]:
    """Return a calendar year as satellites report it.

    Parameters
    ----------
    places : Places
        n places.
    year : YearOfWorld
        From `run_years`; only weather, ``fpar``, ``soil_water`` and ``snow`` are looked at.
    names : iterable of str
        Which of `SATELLITE`; a subset has the same bits.

    Returns
    -------
    seen : dict of ndarray, (n, time), float64
        ``lai`` of 8-day composites, m2 m-2; ``gpp_satellite``, g C m-2 d-1, >= 0; ``reflectance_*``, NaN on the days
        on which the overpass saw cloud. The first two have no gaps.

    Notes
    -----
    ``lai`` stands for MOD15A2H, the reflectances for MOD09GA and ``gpp_satellite`` for SLOPE (Jiang et al. 2021,
    doi:10.5194/essd-13-281-2021): a slope, mixed from one for C3 and one for C4 plants by the share of corn, times
    greenness times PAR. Like SLOPE it sees neither dry air nor dry soil until they thin the canopy.
    """
    wanted = tuple(names)
    seen = {}
    if "lai" in wanted:
        seen["lai"] = _leaf_area(places, year)
    if "gpp_satellite" in wanted:
        seen["gpp_satellite"] = _uptake(places, year)
    bands = [band for band in BANDS if f"reflectance_{band}" in wanted]
    if bands:
        seen |= _reflectances(places, year, bands)
    return {name: seen[name] for name in wanted}


def _leaf_area(places: Places, year: YearOfWorld) -> np.ndarray:
    """Return leaf area of composites, each on all its days, (n, time)."""
    p = OBSERVATION.leaf_area
    noise = _noise(p.seed, places, _composite_starts(year))
    out = np.empty_like(year.daily["fpar"])
    _fill_leaf_area(year.daily["fpar"], noise, OBSERVATION.composite_days, p.error, p.extinction, p.most_cover, out)
    return out


def _uptake(places: Places, year: YearOfWorld) -> np.ndarray:
    """Return GPP from greenness and light, (n, time)."""
    p, starts, days = OBSERVATION.uptake, _composite_starts(year), days_since_epoch(year.time)
    error = 1.0 + p.smooth_error * random_field(p.smooth, places.latitude, places.longitude, starts)
    error *= 1.0 + p.composite_error * ndtri(_noise(p.seed, places, starts))
    par_per_watt = OBSERVATION.par_share * 0.0864
    slope = par_per_watt * _slopes(places, year, days[:1])
    light = _noise(p.light_seed, places, days)
    out = np.empty_like(light)
    shortwave, fpar = year.weather["shortwave"], year.daily["fpar"]
    _fill_uptake(fpar, shortwave, error, light, slope, p.light_error, OBSERVATION.composite_days, out)
    return out


def _slopes(places: Places, year: YearOfWorld, first_day: np.ndarray) -> np.ndarray:
    """Return g C per MJ of PAR on green leaves, (n,), from the share of corn in the vegetation as it was mapped."""
    p = OBSERVATION.uptake
    corn, _ = crop_shares(places, np.array([year.year]))
    true_share = corn[:, 0] / np.maximum(places.shares.sum(axis=1), 0.02)
    share = np.clip(true_share + p.corn_error * ndtri(_noise(p.corn_seed, places, first_day))[:, 0], 0.0, 1.0)
    # Where there is no corn, none is mapped by mistake: crop maps hardly confuse it with forest.
    share = np.where(corn[:, 0] > 0.0, share, 0.0)
    return np.asarray(p.slope_c3 + (p.slope_c4 - p.slope_c3) * share)


def _reflectances(places: Places, year: YearOfWorld, bands: list[str]) -> dict[str, np.ndarray]:
    """Return reflectances by variable name, (n, time)."""
    p, days, daily = OBSERVATION, days_since_epoch(year.time), year.daily
    constants = np.array(
        [
            *(p.sky.clear, p.sky.overcast, p.sky.missed, p.sky.thickest),
            *(p.ground.darkening, p.ground.snow_first, p.ground.snow_full),
            *(p.errors.floor, p.errors.share, p.errors.view),
        ]
    )
    views, cloud = _views(places), year.weather["cloud"]
    chance, angle = (_noise(seed, places, days) for seed in (p.sky.seed, p.errors.view_seed))
    seen = {}
    for band in bands:
        own, out = _noise(p.bands[band].seed, places, days), np.empty_like(chance)
        surface = daily["fpar"], daily["soil_water"], daily["snow"], cloud
        _fill_band(surface, chance, angle, own, views, _row(p.bands[band]), constants, out)
        seen[f"reflectance_{band}"] = out
    return seen


def _row(spectrum: Spectrum) -> np.ndarray:
    """Return the reflectances in the order `_fill_band` reads them, (8,)."""
    s = spectrum
    return np.array([s.leaf, s.needle, s.litter, s.dark_soil, s.bright_soil, s.water, s.snow, s.cloud])


def _views(places: Places) -> np.ndarray:
    """Return what stays the same in a view, (n, 5): brightness of dry soil, litter, needles, water, snow not hidden."""
    g, land = OBSERVATION.ground, places.statics
    brightness = g.brightness + g.brightness_sand * land["sand"] / 1000.0
    brightness = brightness / (1.0 + g.brightness_carbon * land["soc"])
    columns = (
        np.clip(brightness, 0.0, 1.0),
        1.0 - land["crop_fraction"],
        g.needle_cover * land["evergreen_fraction"],
        land["water_fraction"],
        1.0 - g.masking * land["forest_fraction"],
    )
    return np.stack(columns, axis=1)


def _composite_starts(year: YearOfWorld) -> np.ndarray:
    """Return the first days of the composites, days since 2000-01-01; the last composite is a short one."""
    return days_since_epoch(year.time)[:: OBSERVATION.composite_days]


def _noise(seed: int, places: Places, days: np.ndarray) -> np.ndarray:
    """Return white noise in (0, 1), (n, time)."""
    return hashed_uniforms(seed, places.latitude, places.longitude, days)


@part
def _normal(uniform):
    """Return a number of mean 0 and variance 1, nearly normal: the sum of four even ones, 13 bits each."""
    bits = np.int64(uniform * 4503599627370496.0)
    total = (bits & 8191) + ((bits >> 13) & 8191) + ((bits >> 26) & 8191) + (bits >> 39)
    return (total - 16382.0) * (np.sqrt(3.0) / 8192.0)


@kernel
def _fill_leaf_area(fpar, noise, width, error, extinction, most_cover, out):
    """Fill leaf area, (n, time): Beer's law on the mean cover of each composite."""
    for i in range(out.shape[0]):
        for step in range(noise.shape[1]):
            first, last = step * width, min(step * width + width, out.shape[1])
            cover = fpar[i, first:last].sum() / (last - first) + error * _normal(noise[i, step])
            out[i, first:last] = -np.log(1.0 - min(max(cover, 0.0), most_cover)) / extinction


@kernel
def _fill_uptake(fpar, shortwave, error, light, slope, light_error, width, out):
    """Fill GPP, (n, time): slope x greenness of the composite x the day's PAR."""
    for i in range(out.shape[0]):
        for step in range(error.shape[1]):
            first, last = step * width, min(step * width + width, out.shape[1])
            green = max(slope[i] * error[i, step] * (fpar[i, first:last].sum() / (last - first)), 0.0)
            for day in range(first, last):
                seen = 1.0 + light_error * _normal(light[i, day])
                out[i, day] = green * shortwave[i, day] * max(seen, 0.0)


@kernel
def _fill_band(surface, chance, angle, own, views, spectrum, constants, out):
    """Fill reflectances of a band, (n, time): a linear mixture with errors, NaN under cloud."""
    fpar, wetness, snow, cloud = surface
    leaf, needle, litter, dark, bright, water, white, cloudy = spectrum
    clear, overcast, missed, thickest, darkening, snow_first, snow_full, floor, share, view = constants
    for i in range(out.shape[0]):
        brightness, litter_share, needles, water_share, open_snow = views[i]
        for day in range(out.shape[1]):
            usable = min(max((overcast - cloud[i, day]) / (overcast - clear), 0.0), 1.0)
            if chance[i, day] >= usable:
                out[i, day] = np.nan
                continue
            green = fpar[i, day]
            needle_share = min(needles, green)
            soil = dark + (bright - dark) * brightness * (1.0 - darkening * wetness[i, day])
            ground = soil + (litter - soil) * litter_share
            bare = max(1.0 - green - water_share, 0.0)
            snowy = open_snow * min(max((snow[i, day] - snow_first) / (snow_full - snow_first), 0.0), 1.0)
            below = bare * ground + water_share * water
            value = leaf * (green - needle_share) + needle * needle_share
            value += below + snowy * (white * (bare + water_share) - below)
            # What is left of an even number below `usable`, spread to (0, 1), is an even number again.
            spare = chance[i, day] / usable
            if spare < missed:
                value += thickest * (spare / missed) * (cloudy - value)
            value *= 1.0 + view * _normal(angle[i, day]) + share * _normal(own[i, day])
            out[i, day] = value + floor * _normal(own[i, day])
