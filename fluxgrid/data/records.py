"""Long records cut into the years that predictors and gap filling work in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from fluxgrid.data.inputs import Histories, Inputs, InputSpec, Places, prepare
from fluxgrid.data.sites import Site
from fluxgrid.data.steps import STEPS_PER_YEAR, Step


@dataclass(frozen=True)
class Segment:
    """A run of steps of a record that is predicted in one go."""

    steps: slice
    """Steps of the record."""
    scored: bool
    """Whether its predictions count; spin-up only builds the state."""
    recycled: bool = False
    """Spin-up on the record's own first year, because there is none before it."""


def plan_segments(
    time: pd.DatetimeIndex, step: Step, first: int, spin_up_years: int, kept: int | None = None
) -> tuple[Segment, ...]:
    """Return the segments of a record: spin-up first, then one for each calendar year.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Steps of the whole record.
    step : Step
        Daily or monthly.
    first : int
        First step that counts; what stands before it may serve as spin-up.
    spin_up_years : int
        Years of spin-up the model asks for.
    kept : int, optional
        Steps before `first` that count, as `ModelSpec.steps_kept` says: no more are run, whatever the years.

    Returns
    -------
    segments : tuple of Segment
        Where the record has fewer years before `first` than asked for, or fewer steps than count, its first twelve
        months from `first` on are run once more for each missing year, or as much of their end as counts.

    Examples
    --------
    >>> from fluxgrid.data.steps import calendar
    >>> time = calendar("2000-01-01", "2002-12-01", "monthly")
    >>> [(s.steps.start, s.steps.stop, s.scored) for s in plan_segments(time, "monthly", 12, 1)]
    [(0, 12, False), (12, 24, True), (24, 36, True)]
    """
    if kept is None or not spin_up_years:
        spin_up = _spin_up(time, step, first, spin_up_years)
    elif kept <= first:
        spin_up = [Segment(part, scored=False) for part in _calendar_years(time, first - kept, first)]
    else:
        spin_up = _last_of(_spin_up(time, step, first, spin_up_years), kept)
    return (*spin_up, *(Segment(part, scored=True) for part in _calendar_years(time, first, len(time))))


def _spin_up(time: pd.DatetimeIndex, step: Step, first: int, wanted: int) -> list[Segment]:
    """Return so many years of spin-up, those that are missing first."""
    begin = time[first] - pd.DateOffset(years=wanted)
    before = int(time.searchsorted(begin)) if wanted else first
    # a record that begins in the first half of a spin-up year carries it; one that begins later does not
    years = min(wanted, round((first - before) / STEPS_PER_YEAR[step]))
    own_year = slice(first, min(first + STEPS_PER_YEAR[step], len(time)))
    recycled = [Segment(own_year, scored=False, recycled=True)] * (wanted - years)
    start = first if not years else before
    return [*recycled, *(Segment(part, scored=False) for part in _calendar_years(time, start, first))]


def _last_of(segments: list[Segment], count: int) -> list[Segment]:
    """Return the last `count` steps of consecutive segments."""
    found: list[Segment] = []
    for segment in reversed(segments):
        begin = max(segment.steps.start, segment.steps.stop - count)
        if begin < segment.steps.stop:
            found.append(replace(segment, steps=slice(begin, segment.steps.stop)))
            count -= segment.steps.stop - begin
    return found[::-1]


def _calendar_years(time: pd.DatetimeIndex, start: int, stop: int) -> list[slice]:
    """Return one slice for each calendar year of the steps start to stop."""
    if start >= stop:
        return []
    years = time.year.to_numpy()[start:stop]
    cuts = [start, *(np.flatnonzero(np.diff(years)) + 1 + start), stop]
    return [slice(int(a), int(b)) for a, b in pairwise(cuts)]


def halo_of(steps: slice, halo: int, length: int) -> tuple[int, int]:
    """Return how many of `halo` steps exist before and after a run of steps in a record of `length`."""
    return min(halo, steps.start), min(halo, length - steps.stop)


def site_places(site: Site, step: Step, spec: InputSpec, steps: slice) -> Places:
    """Return a run of steps of a site as the 1-place form of a map block.

    Parameters
    ----------
    site : Site
    step : Step
    spec : InputSpec
        Which variables are wanted; one the site lacks is all NaN.
    steps : slice
        Steps of the site's series.

    Returns
    -------
    places : Places
        n = 1, with the halo the record has.
    """
    before, after = halo_of(steps, spec.halo, len(site.series))
    window = site.series.iloc[steps.start - before : steps.stop + after]
    nothing = pd.Series(np.nan, index=window.index)
    forcings = {n: window.get(n, nothing).to_numpy(np.float32)[:, None] for n in spec.forcings}
    statics = {n: np.array([site.statics.get(n, np.nan)], np.float32) for n in (*spec.static, *spec.classes)}
    time = pd.DatetimeIndex(site.series.index[steps])
    latitude, longitude = np.array([site.latitude]), np.array([site.longitude])
    return Places(time, step, latitude, forcings, statics, before, after, longitude)


def site_inputs(site: Site, step: Step, spec: InputSpec) -> Inputs:
    """Return the gap-filled inputs of a site's whole record, filled year by year as on a map.

    Returns
    -------
    inputs : Inputs
        (T, 1) and (1,).
    """
    histories: Histories = {}
    parts: list[Inputs] = []
    for steps in _calendar_years(pd.DatetimeIndex(site.series.index), 0, len(site.series)):
        inputs, histories = prepare(site_places(site, step, spec, steps), spec, histories)
        parts.append(inputs)
    return concatenate(parts)


def filled_site(site: Site, step: Step, spec: InputSpec) -> Site:
    """Return a site whose forcings are filled by the rules of a spec; its fluxes stay as observed."""
    inputs = site_inputs(site, step, spec)
    filled = {name: inputs.dynamic[name][:, 0] for name in spec.forcings if name in spec.gaps}
    return replace(site, series=site.series.assign(**filled))


def concatenate(parts: list[Inputs]) -> Inputs:
    """Return consecutive inputs of the same places as one."""
    dynamic = {name: np.concatenate([p.dynamic[name] for p in parts]) for name in parts[0].dynamic}
    missing, filled = (np.concatenate([getattr(p, k) for p in parts]) for k in ("missing", "filled"))
    return Inputs(dynamic, parts[0].static, missing, filled)
