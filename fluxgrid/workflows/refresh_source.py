"""From the source of a refresh to its cube: looking at deliveries, and growing the cube by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fluxgrid import clock
from fluxgrid.config_map import SourceConfig
from fluxgrid.data.cube.grow import delivery_status, grow, is_grown
from fluxgrid.data.cube.growth import CubePlan, Growth
from fluxgrid.data.cube.ledger import KNOWN, MISSING, PROVISIONAL
from fluxgrid.data.mapping import CubeMapping, load_mapping
from fluxgrid.errors import ConfigError
from fluxgrid.output.guards import Finding
from fluxgrid.sources.deliveries import DeliverySource, Look, StatusRule, Unusable, look

_NAMED = 5


def look_at_source(config: SourceConfig, state: Path, copies: Path) -> Look:
    """Find out what a source now has; as `fluxgrid.sources.deliveries.look`."""
    status = StatusRule(**config.status.model_dump())
    mapping = load_mapping(config.mapping) if config.mapping else CubeMapping()
    options: dict[str, Any] = {"settle": config.settle, "reopen": config.reopen_days, "copies": copies}
    return look(
        DeliverySource(_here(config.location), mapping, config.pattern, status, config.issued, **options), state
    )


def _here(place: str) -> str:
    """Return a path of this machine with the home folder written out, and a URL as it is."""
    return place if "://" in place else str(Path(place).expanduser())


def grow_cube(
    config: SourceConfig,
    cube: Path,
    found: Look,
    forcings: Iterable[str],
    start: date | None,
    spin_up_years: int,
    remember: Callable[[Growth], None] = lambda _: None,
) -> Growth:
    """Bring the cube up to what was found.

    Parameters
    ----------
    config : SourceConfig
    cube : Path
    found : Look
    forcings : iterable of str
        Variables the model needs that vary in time.
    start : date or None
        First day of the map.
    spin_up_years : int
        Years of spin-up the model asks for: those that the base has all forcings of come before the map.
    remember : callable
        As `fluxgrid.data.cube.grow.grow`.

    Returns
    -------
    growth : Growth

    Raises
    ------
    ConfigError
        If there is no first day.
    FluxgridError
        As `fluxgrid.data.cube.grow.grow`.
    """
    if start is None:
        message = "A cube that grows needs the first day of its map. Write start: YYYY-01-01 into the configuration."
        raise ConfigError(message)
    plan = CubePlan(
        variables=tuple(sorted(forcings)),
        start=str(start),
        mapping=load_mapping(config.mapping) if config.mapping else CubeMapping(),
        base=_here(config.base) if config.base else None,
        base_mapping=load_mapping(config.base_mapping) if config.base_mapping else None,
        spin_up_years=spin_up_years,
    )
    return grow(cube, found.deliveries, plan, remember)


def day_status(cube: Path | None, forcings: Iterable[str]) -> np.ndarray | None:
    """Return what is known of each day of a grown cube, (T,), int8: missing, provisional, known.

    None for a cube that was not grown from deliveries.
    """
    if cube is None or not is_grown(cube):
        return None
    return delivery_status(cube, tuple(sorted(forcings)))


def provisional_steps(time: pd.DatetimeIndex, status: np.ndarray, whole_year_from: int | None) -> np.ndarray | None:
    """Return the steps whose fluxes will change when what is lacking comes, as far as the step itself or its year say.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Whole calendar years.
    status : ndarray, (n,), int8
        What is known of each step; of steps beyond it nothing is.
    whole_year_from : int or None
        As `fluxgrid.models.ModelSpec` has it: from that day on, fluxes hang on the whole year, and a year of which a
        step is missing or provisional is not whole.

    Returns
    -------
    provisional : ndarray of bool, (T,), or None
        None where there are none.

    Examples
    --------
    >>> time = pd.date_range("2001-01-01", "2001-12-31")
    >>> status = np.repeat(np.int8([2, 1, 2]), [100, 1, 199])
    >>> np.flatnonzero(provisional_steps(time, status, None)), np.flatnonzero(provisional_steps(time, status, 363))
    (array([100]), array([100, 363, 364]))
    """
    codes = np.full(len(time), MISSING, np.int8)
    codes[: len(status)] = status[: len(time)]
    early = codes == PROVISIONAL
    if whole_year_from is not None:
        lacking = np.unique(time.year[codes != KNOWN])
        early |= np.isin(time.year, lacking) & np.asarray(time.day_of_year > whole_year_from)
    return early if early.any() else None


def drift_findings(growth: Growth) -> list[Finding]:
    """Return inputs that are described otherwise than before, or whose values leave their range."""
    found = []
    for drift in growth.drift:
        if drift.changes:
            before, after = (
                ", ".join(f"{key} {pair[place] or 'not given'}" for key, pair in drift.changes.items())
                for place in (0, 1)
            )
            text = f"{drift.after.name} in {drift.delivery} is described otherwise"
            found.append(Finding("inputs", text, before, after))
        if drift.outside:
            text = f"{drift.after.name} in {drift.delivery} leaves its valid range"
            before = (
                f"{drift.before.low:g} to {drift.before.high:g}"
                if drift.before and drift.before.low is not None
                else "unknown"
            )
            found.append(Finding("inputs", text, before, f"{drift.after.low:g} to {drift.after.high:g}"))
    return found


def described_by(found: Look, names: Iterable[str]) -> dict[str, str]:
    """Return how the newest delivery of each variable describes it, as text; others are left out."""
    texts = {}
    for delivery in sorted(found.deliveries, key=lambda each: (each.end, each.rank)):
        for name in names:
            variable = delivery.variable(name)
            if variable is not None:
                texts[name] = f"variable {variable.source}, units {variable.units}"
    return texts


def growth_row(growth: Growth, found: Look) -> dict[str, Any]:
    """Return what a growth changed, for a report."""
    spans = {
        kind: {
            name: f"{len(days)} days, {days[0]} to {days[-1]}" for name, days in getattr(growth, kind).items() if days
        }
        for kind in ("new", "revised", "confirmed", "missing", "provisional")
    }
    return {**spans, "files": growth.files, "deliveries": len(found.deliveries)}


def look_warnings(found: Look) -> list[str]:
    """Return what a person should know of the files of a source."""
    texts = [_waits(each) for each in found.waiting]
    texts += [f"{each.name} is damaged (since {each.since}): {', '.join(each.reasons)}" for each in found.damaged]
    texts += [f"{each.name} is refused: {', '.join(each.reasons)}" for each in found.refused]
    return texts + [f"{name} is gone from the source; its days stay" for name in found.gone]


def passing_warnings(found: Look) -> list[str]:
    """Return those of `look_warnings` that are no news yet: files that wait for less than a day."""
    yesterday = (clock.utc() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [_waits(each) for each in found.waiting if each.since > yesterday]


def _waits(each: Unusable) -> str:
    """Say what a file waits for."""
    return f"{each.name} waits: {', '.join(each.reasons)}"


def growth_warnings(growth: Growth) -> list[str]:
    """Return what a person should know of a growth; it is so until the source has something else."""
    texts = [f"{each.name} is refused: {', '.join(each.problems)}" for each in growth.refused]
    for name, days in growth.missing.items():
        more = f" and {len(days) - _NAMED} more" if len(days) > _NAMED else ""
        texts.append(f"{name} is missing on {', '.join(days[:_NAMED])}{more}")
    return texts
