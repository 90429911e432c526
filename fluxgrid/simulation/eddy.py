"""What eddy covariance makes of the true fluxes of a footprint: noise, biases, calm nights, gaps and their filling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtri

from fluxgrid.simulation.parameters import strict_dataclass

Draw = Callable[[int], np.ndarray]
"""Returns as many fresh numbers in (0, 1) as asked for."""


@strict_dataclass
class Eddy:
    """Errors of a tower's daily fluxes."""

    closure: float
    """Mean share of the turbulent flux that towers see."""
    closure_spread: float
    """Standard deviation of it between towers."""
    year_spread: float
    """Standard deviation of a relative error of all fluxes that is new every year."""
    threshold_spread: float
    """Standard deviation of a relative error of respiration that is new every year: the filter on friction velocity."""
    noise: float
    """Standard deviation of the random error of NEE at a flux of zero, g m-2 d-1."""
    noise_share: float
    """What it grows by per g m-2 d-1 of NEE."""
    noise_spread: float
    """Standard deviation of its logarithm between towers."""
    partition: float
    """Standard deviation, relative, of the error of partitioned RECO."""
    partition_days: float
    """Time in which this error fades."""
    calm_wind: float
    """Wind, m s-1, at which half of the night's turbulence is too weak."""
    calm_width: float
    drained: float
    """Share of the respiration of a calm night that the filter on friction velocity leaves unseen."""
    calm_loss: float
    """Quality lost in a night that is calm throughout."""
    day_loss: float
    """Largest quality lost to rain and short faults."""
    outages: float
    """Per year."""
    outage_days: float
    """Median length."""
    outage_spread: float
    """Standard deviation of its logarithm."""
    fill_days: int
    """Days from a measured one up to which a gap can be filled."""
    fill_scale: float
    """Width, days, of the mean that fills it."""


def observe(
    truth: Mapping[str, np.ndarray], wind: np.ndarray, year: np.ndarray, errors: Eddy, draw: Draw
) -> dict[str, np.ndarray]:
    """Return fluxes as a tower reports them.

    Parameters
    ----------
    truth : mapping of ndarray, (time,), g C m-2 d-1
        ``gpp`` and ``reco`` of the footprint, day after day.
    wind : ndarray, (time,), m s-1
    year : ndarray, (time,)
        Calendar year of each day.
    errors : Eddy
    draw : callable
        The tower's own stream of random numbers.

    Returns
    -------
    reported : dict of ndarray, (time,), float32
        ``gpp``, ``reco`` and ``nee = reco - gpp``, g C m-2 d-1, NaN where nothing is known; ``nee_qc``, the share of
        measured half-hours, near 0 in filled gaps and 0 where nothing is known.

    Notes
    -----
    In this order: a share of turbulence is missed, another in each year (Stoy et al. 2013,
    doi:10.1016/j.agrformet.2012.11.004); respired carbon drains away in calm nights (Aubinet 2008,
    doi:10.1890/06-1336.1); NEE has a double exponential error that grows with it (Richardson et al. 2006,
    doi:10.1016/j.agrformet.2006.01.007); partitioned RECO has one that lasts for days (Desai et al. 2008,
    doi:10.1016/j.agrformet.2007.11.012), which GPP = RECO - NEE takes on; what is not measured is filled from the days
    around (Moffat et al. 2007, doi:10.1016/j.agrformet.2007.08.011).
    """
    p, steps = errors, len(wind)
    calm = 1.0 / (1.0 + np.exp((wind - p.calm_wind) / p.calm_width))
    seen = (p.closure + p.closure_spread * _normal(draw(1))) * _each_year(p.year_spread, year, draw)
    respired = seen * truth["reco"] * (1.0 - p.drained * calm) * _each_year(p.threshold_spread, year, draw)
    exchange = respired - seen * truth["gpp"]
    scale = np.exp(p.noise_spread * _normal(draw(1))) * (p.noise + p.noise_share * np.abs(exchange))
    nee = exchange + scale * _laplace(draw(steps))
    reco = respired * (1.0 + p.partition * _lasting(draw(steps), p.partition_days))
    quality = 1.0 - p.calm_loss * calm - p.day_loss * draw(steps) ** 2
    out = _outages(p, steps, draw)
    quality[out] = 0.1 * quality[out] * draw(int(out.sum()))
    return _report(_fill(nee, out, quality, p), _fill(reco, out, quality, p), quality)


def _report(nee: np.ndarray, reco: np.ndarray, quality: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is published: GPP as the difference, and NEE so that the three close in single precision."""
    gpp, reco = (reco - nee).astype(np.float32), reco.astype(np.float32)
    quality = np.where(np.isnan(nee), 0.0, quality).astype(np.float32)
    return {"gpp": gpp, "reco": reco, "nee": reco - gpp, "nee_qc": quality}


def _each_year(spread: float, year: np.ndarray, draw: Draw) -> np.ndarray:
    """Return a factor of mean 1 that is new every calendar year, (time,)."""
    years, position = np.unique(year, return_inverse=True)
    return np.asarray(1.0 + spread * _normal(draw(len(years))))[position]


def _outages(p: Eddy, steps: int, draw: Draw) -> np.ndarray:
    """Return which days nothing was measured, (time,): outages at random, a few of them long."""
    starts = np.flatnonzero(draw(steps) < p.outages / 365.25)
    lengths = np.ceil(p.outage_days * np.exp(p.outage_spread * _normal(draw(len(starts))))).astype(int)
    out = np.zeros(steps, dtype=bool)
    for first, length in zip(starts, lengths, strict=True):
        out[first : first + length] = True
    return out


def _fill(values: np.ndarray, out: np.ndarray, quality: np.ndarray, p: Eddy) -> np.ndarray:
    """Return values with what was not measured replaced by the mean of the days around, (time,); NaN far from any."""
    reach = np.arange(-p.fill_days, p.fill_days + 1)
    weights = np.exp(-0.5 * (reach / p.fill_scale) ** 2)
    days = slice(p.fill_days, p.fill_days + len(values))  # "same" would be as long as the window for a short record
    total = np.convolve(np.where(out, 0.0, values), weights)[days]
    known = np.convolve(np.where(out, 0.0, 1.0), weights)[days]
    around = np.where(known >= weights[0], total / np.maximum(known, weights[0]), np.nan)
    return np.asarray(np.where(out, around, quality * values + (1.0 - quality) * around))


def _lasting(numbers: np.ndarray, days: float) -> np.ndarray:
    """Return an autoregressive series of mean 0 and variance 1, (time,)."""
    from scipy.signal import lfilter  # a second to import, and maps of the world have no towers

    memory = np.exp(-1.0 / days)
    shocks = np.sqrt(1.0 - memory**2) * _normal(numbers)
    shocks[0] /= np.sqrt(1.0 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], shocks))


def _normal(numbers: np.ndarray) -> np.ndarray:
    """Return normal numbers from even ones."""
    return np.asarray(ndtri(numbers))


def _laplace(numbers: np.ndarray) -> np.ndarray:
    """Return double exponential numbers of variance 1 from even ones."""
    centred = numbers - 0.5
    return -np.sign(centred) * np.log1p(-2.0 * np.abs(centred)) / np.sqrt(2.0)
