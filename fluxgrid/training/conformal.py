"""Half-widths of an ensemble, from the errors of its members at sites they were not trained on.

Every training site is predicted by the members that did not see it (as in jackknife+-after-bootstrap, Kim, Xu & Barber
2020, arXiv:2002.09025). Days of one site are alike and sites of one group too, so groups, not days, are taken as
exchangeable: hierarchical conformal prediction (Lee, Barber & Willett 2023, arXiv:2306.06342; Dunn, Wasserman & Ramdas
2022, doi 10.1080/01621459.2022.2060112). What is promised is a mean over new sites and their days, for one day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Site, Sites
from fluxgrid.models import Checkpoint, FluxModel, ModelSpec
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.uncertainty import LEVELS, FluxUncertainty, Uncertainty
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site, spread_name
from fluxgrid.variables import MAP_FLUXES

FLOOR_SHARE = 0.5
"""Floor of the spread over the median error of a site group. With a lower one days on which the members agree by chance
are covered too seldom, with a higher one the spread says nothing; docs/decisions/015 has the figures."""


def conformal_factor(scores: Sequence[np.ndarray], level: float) -> float | None:
    """Return the least factor that covers a share of the days of a new group.

    Parameters
    ----------
    scores : sequence of ndarray, (days,), >= 0
        Error over scale of each day, group by group.
    level : float
        Share, 0 to 1.

    Returns
    -------
    factor : float or None
        Quantile of the scores at `level`, where each of K groups has mass 1 / (K + 1), spread evenly over its days, and
        the new group's 1 / (K + 1) stands at infinity. None if it falls there: K groups say nothing above K / (K + 1).

    Examples
    --------
    >>> groups = [np.array([1.0, 2.0]), np.array([3.0]), np.array([4.0])]
    >>> conformal_factor(groups, 0.5), conformal_factor(groups, 0.9)
    (3.0, None)
    """
    groups = [group for group in scores if len(group)]
    if not groups:
        return None
    values = np.concatenate(groups)
    mass = np.concatenate([np.full(len(group), 1 / ((len(groups) + 1) * len(group))) for group in groups])
    order = np.argsort(values, kind="stable")
    # rounding of the sum must not push a level that is just reached to the next day
    place = int(np.searchsorted(np.cumsum(mass[order]), level - 1e-9))
    return float(values[order[place]]) if place < len(values) else None


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What members that did not see a site make of it, on the steps at which one flux was observed."""

    group: str
    error: np.ndarray
    """Absolute error of their mean, (n,), g m-2 d-1."""
    spread: np.ndarray
    """Standard deviation of all members, (n,), g m-2 d-1."""


def fit_flux(sites: Sequence[OutOfFold], levels: Sequence[float] = LEVELS) -> FluxUncertainty | None:
    """Return the half-widths of one flux.

    Parameters
    ----------
    sites : sequence of OutOfFold
    levels : sequence of float
        Coverages.

    Returns
    -------
    uncertainty : FluxUncertainty or None
        None where no site observed the flux.
    """
    groups: dict[str, list[OutOfFold]] = {}
    for site in sites:
        if len(site.error):
            groups.setdefault(site.group, []).append(site)
    if not groups:
        return None
    errors, spreads = (
        [np.concatenate([getattr(site, what) for site in own]) for own in groups.values()]
        for what in ("error", "spread")
    )
    # the error of a middling group: neither long records nor a few broken towers decide it
    floor = FLOOR_SHARE * float(np.median([np.median(error) for error in errors]))
    scale = [np.maximum(np.hypot(spread, floor), np.finfo(np.float32).tiny) for spread in spreads]
    scores = [error / own for error, own in zip(errors, scale, strict=True)]
    factors = {level: conformal_factor(scores, level) for level in levels}
    return FluxUncertainty(floor, factors, len(groups), sum(map(len, errors)))


def fit_uncertainty(
    ensemble: Ensemble, held_out: Sequence[Sequence[str]], sites: Sites, spec: ModelSpec, scaler: Scaler
) -> Uncertainty:
    """Return the half-widths of an ensemble.

    Parameters
    ----------
    ensemble : Ensemble
    held_out : sequence of sequence of str
        Of each member, the ids of the sites it was not trained on. Every site is among them.
    sites : Sites
        All training sites.
    spec : ModelSpec
    scaler : Scaler

    Returns
    -------
    uncertainty : Uncertainty
        Of the fluxes that a site observed.
    """
    predictor = _predictors(spec, scaler)
    everyone = predictor(ensemble)
    found: dict[str, list[OutOfFold]] = {flux: [] for flux in MAP_FLUXES}
    unseen: dict[tuple[int, ...], Predictor] = {}
    for site in sites:
        who = tuple(number for number, ids in enumerate(held_out) if site.id in ids)
        if who not in unseen:
            members = [ensemble.members[number] for number in who]
            unseen[who] = predictor(members[0] if len(members) == 1 else Ensemble(members))
        for flux, row in _out_of_fold(site, everyone, unseen[who]).items():
            found[flux].append(row)
    fitted = {flux: fit_flux(rows) for flux, rows in found.items()}
    return Uncertainty({flux: row for flux, row in fitted.items() if row is not None})


def _predictors(spec: ModelSpec, scaler: Scaler) -> Callable[[FluxModel], Predictor]:
    """Return a function that makes a model ready to predict sites, as maps do."""
    nothing = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    return lambda model: Predictor(Checkpoint(Path(), spec, scaler, model, nothing, ""), block=1)


def _out_of_fold(site: Site, everyone: Predictor, unseen: Predictor) -> dict[str, OutOfFold]:
    """Return the errors at one site by flux."""
    spread, predicted = predict_site(everyone, site), predict_site(unseen, site)
    rows = {}
    for flux in MAP_FLUXES:
        if flux in site.series:
            error = np.abs(site.series[flux].to_numpy(np.float64) - predicted[flux].to_numpy(np.float64))
            seen = np.isfinite(error)
            rows[flux] = OutOfFold(site.group, error[seen], spread[spread_name(flux)].to_numpy(np.float64)[seen])
    return rows
