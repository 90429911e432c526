"""Sites as arrays for training: scaled inputs, targets and weights, spin-up in front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fluxgrid.data.inputs import Inputs, InputSpec, design
from fluxgrid.data.records import site_inputs
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Site
from fluxgrid.data.steps import STEPS_PER_YEAR, Step

TARGETS = ("gpp", "reco", "nee")
"""Order of the target columns."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """One site ready for training.

    Parameters
    ----------
    site : str
    group : str
    dynamic : ndarray, (S + T, F), float32
        The first S steps are not scored: the site's own first year once more, or what a window looks back on.
    static : ndarray, (n_static,), float32
    targets : ndarray, (S + T, 3), float32, g m-2 d-1
        GPP, RECO, NEE; NaN where not observed, in spin-up and where an input is missing.
    weights : ndarray, (S + T,), float32
        Quality of the step's observation, 0 to 1.
    spin_up : int
        S.
    emphasis : ndarray, (3,), optional
        Factor of the weight of each flux; 1 by default.
    """

    site: str
    group: str
    dynamic: np.ndarray
    static: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    spin_up: int
    emphasis: np.ndarray = field(default_factory=lambda: np.ones(len(TARGETS), np.float32))


def fit_scaler(inputs: Iterable[Inputs], spec: InputSpec) -> Scaler:
    """Fit the scaler of the numeric inputs on training sites.

    Parameters
    ----------
    inputs : iterable of Inputs
        One per training site.
    spec : InputSpec

    Returns
    -------
    scaler : Scaler
    """
    sites = list(inputs)
    varying = {name: np.concatenate([i.dynamic[name].ravel() for i in sites]) for name in spec.dynamic}
    fixed = {name: np.concatenate([i.static[name].ravel() for i in sites]) for name in spec.static}
    return Scaler.fit({**varying, **fixed})


def make_sequence(
    site: Site,
    inputs: Inputs,
    spec: InputSpec,
    scaler: Scaler,
    step: Step,
    spin_up_years: int,
    lookback: int | None = None,
) -> Sequence:
    """Return a site as arrays.

    Parameters
    ----------
    site : Site
    inputs : Inputs
        Of its whole record, from `site_inputs`.
    spec : InputSpec
    scaler : Scaler
    step : Step
    spin_up_years : int
        Years run first.
    lookback : int, optional
        Steps that a training window looks back on instead.

    Returns
    -------
    sequence : Sequence
    """
    dynamic, static = design(inputs, spec, scaler)
    steps = len(site.series)
    year = np.arange(min(STEPS_PER_YEAR[step], steps))
    order = np.concatenate([*[year] * (spin_up_years if lookback is None else 0), np.arange(steps)])
    before = len(order) - steps
    targets = np.full((len(order), len(TARGETS)), np.nan, dtype=np.float32)
    for column, name in enumerate(TARGETS):
        if name in site.series:
            targets[before:, column] = site.series[name].to_numpy(np.float32)
    targets[before:][inputs.missing[:, 0]] = np.nan
    weights = np.ones(len(order), dtype=np.float32)
    if "nee_qc" in site.series:
        weights[before:] = site.series["nee_qc"].fillna(1.0).to_numpy(np.float32)
    return Sequence(site.id, site.group, dynamic[0][order], static[0], targets, weights, before or lookback or 0)


def inputs_of(sites: Iterable[Site], spec: InputSpec, step: Step) -> dict[str, Inputs]:
    """Return the gap-filled inputs of each site by its id."""
    return {site.id: site_inputs(site, step, spec) for site in sites}
