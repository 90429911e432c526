"""What a model must beat: the climatology of the vegetation class, and ridge regression on the same inputs.

Both are fitted on training sites only, as ``fit(train, inputs) -> Baseline``, and predict one site at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler

from fluxgrid.data.derived import derive
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.variables import MAP_FLUXES, VARIABLES, get_variable

ALPHAS = tuple(10.0**power for power in range(-1, 7))
"""Strengths of the ridge penalty that are tried, on standardised inputs."""

_SLOTS = {"daily": 365, "monthly": 12}
_HALF_WINDOW = {"daily": 7, "monthly": 0}
_EVERYTHING = None


class Baseline(Protocol):
    """A fitted baseline."""

    def predict(self, site: Site) -> pd.DataFrame:
        """Predict the fluxes of a site.

        Parameters
        ----------
        site : Site
            Of the time step the baseline was fitted on; its fluxes are not looked at.

        Returns
        -------
        fluxes : DataFrame, (time, flux), g m-2 d-1
            Columns gpp, reco, nee; float32, NaN where nothing can be said.
        """
        ...


@dataclass(frozen=True, eq=False)
class Climatology:
    """Mean seasonal cycle of each vegetation class."""

    step: Step
    cycles: Mapping[tuple[str | None, str], np.ndarray]
    """(slot,) g m-2 d-1 by class and flux; the class None is all classes together."""

    def predict(self, site: Site) -> pd.DataFrame:
        """Return the cycle of the site's class, or of all classes where the class was not in training.

        NEE has a cycle of its own, so that it need not be RECO - GPP: the three come from different sites.

        Parameters
        ----------
        site : Site

        Returns
        -------
        fluxes : DataFrame, (time, flux), g m-2 d-1
        """
        slots = season_slots(site, self.step)
        name = site.class_name("igbp")
        cycles = {flux: self.cycles.get((name, flux), self.cycles[_EVERYTHING, flux]) for flux in MAP_FLUXES}
        columns = {flux: cycles[flux][slots].astype(np.float32) for flux in ("gpp", "reco", "nee")}
        return pd.DataFrame(columns, index=site.series.index)


def fit_climatology(train: Sites, inputs: Sequence[str] = (), half_window: int | None = None) -> Climatology:
    """Fit the mean seasonal cycle of every vegetation class.

    Every site counts alike, however long its record. Days of the year (or months) are smoothed by a circular window.
    South of the equator the year is shifted by half, so that summers meet summers.

    Parameters
    ----------
    train : Sites
        Training sites only.
    inputs : sequence of str
        Not used: a climatology knows the season and the class alone. Here so that all baselines are fitted alike.
    half_window : int, optional
        Slots to each side that are averaged in; 7 days, or no other month, by default.

    Returns
    -------
    climatology : Climatology
    """
    del inputs
    cycles: dict[tuple[str | None, str], np.ndarray] = {}
    for flux in MAP_FLUXES:
        everything = season_cycle(list(train), flux, train.step, half_window)
        cycles[_EVERYTHING, flux] = everything
        for name in {site.class_name("igbp") for site in train} - {None}:
            members = [site for site in train if site.class_name("igbp") == name]
            own = season_cycle(members, flux, train.step, half_window)
            cycles[name, flux] = np.where(np.isfinite(own), own, everything)
    return Climatology(train.step, cycles)


def season_slots(site: Site, step: Step) -> np.ndarray:
    """Return the slot of the year of every step.

    Parameters
    ----------
    site : Site
        South of the equator the year is shifted by half.
    step : Step

    Returns
    -------
    slots : ndarray of int, (time,)
        From 0; the last day of a leap year shares the slot before it.
    """
    time = pd.DatetimeIndex(site.series.index)
    slots = time.month.to_numpy() - 1 if step == "monthly" else np.minimum(time.day_of_year.to_numpy() - 1, 364)
    shift = _SLOTS[step] // 2 if site.latitude < 0 else 0
    return (slots + shift) % _SLOTS[step]


def season_cycle(sites: Sequence[Site], flux: str, step: Step, half_window: int | None = None) -> np.ndarray:
    """Return the mean seasonal cycle of one flux over sites of equal weight.

    Parameters
    ----------
    sites : sequence of Site
    flux : str
    step : Step
    half_window : int, optional
        Slots to each side that are averaged in; 7 days, or no other month, by default.

    Returns
    -------
    cycle : ndarray, (slot,), g m-2 d-1
        NaN where nothing was observed.
    """
    half = _HALF_WINDOW[step] if half_window is None else half_window
    sums, weights = np.zeros(_SLOTS[step]), np.zeros(_SLOTS[step])
    for site in sites:
        values = site.series[flux].to_numpy(np.float64) if flux in site.series else np.empty(0)
        seen = np.isfinite(values)
        if not seen.any():
            continue
        slots, weight = season_slots(site, step)[seen], 1 / seen.sum()
        np.add.at(sums, slots, weight * values[seen])
        np.add.at(weights, slots, weight)
    reach = range(-half, half + 1)
    total, weight_sum = (np.sum([np.roll(each, k) for k in reach], axis=0) for each in (sums, weights))
    # A window that no site looked into has weight exactly 0: it is a sum of zeros.
    return np.divide(total, weight_sum, out=np.full(_SLOTS[step], np.nan), where=weight_sum > 0)


@dataclass(frozen=True, eq=False)
class RidgeRegression:
    """Linear regression of GPP and RECO on standardised inputs and one-hot classes."""

    step: Step
    inputs: tuple[str, ...]
    scaler: StandardScaler
    models: Mapping[str, Ridge]

    def predict(self, site: Site) -> pd.DataFrame:
        """Predict GPP and RECO, not below 0, and NEE = RECO - GPP.

        Parameters
        ----------
        site : Site

        Returns
        -------
        fluxes : DataFrame, (time, flux), g m-2 d-1
            NaN where a forcing is missing, and of a flux that training never observed; a missing static counts as
            its training mean, an unknown class as none.
        """
        design = _standardised(self.scaler, _design(site, self.inputs, self.step), self.inputs)
        known = np.isfinite(design).all(axis=1)
        fluxes = pd.DataFrame(np.nan, index=site.series.index, columns=["gpp", "reco", "nee"], dtype=np.float32)
        if known.any():
            for flux, model in self.models.items():
                fluxes.loc[known, flux] = np.maximum(model.predict(design[known]), 0).astype(np.float32)
        fluxes["nee"] = fluxes["reco"] - fluxes["gpp"]
        return fluxes


def fit_ridge(train: Sites, inputs: Sequence[str], alphas: Sequence[float] = ALPHAS) -> RidgeRegression:
    """Fit ridge regressions of GPP and RECO, with the penalty chosen on held-out groups of training sites.

    Parameters
    ----------
    train : Sites
        Training sites only.
    inputs : sequence of str
        Names of VARIABLES: forcings, derived variables, statics, classes.
    alphas : sequence of float
        Strengths of the penalty to choose from.

    Returns
    -------
    ridge : RidgeRegression

    Raises
    ------
    ConfigError
        If there are no inputs, or one is a flux.
    TableError
        If no step of the training sites has a flux and all inputs.
    """
    inputs = _checked_inputs(inputs)
    design = np.concatenate([_design(site, inputs, train.step) for site in train])
    with np.errstate(invalid="ignore"):
        scaler = StandardScaler().fit(design)
    design = _standardised(scaler, design, inputs)
    groups = np.repeat(np.array(train.groups, object), [len(site.series) for site in train])
    models = {}
    for flux in ("gpp", "reco"):
        target = np.concatenate([_column(site, flux) for site in train])
        if not np.isfinite(target).any():
            continue  # a table of GPP alone still has a baseline for GPP
        usable = np.isfinite(target) & np.isfinite(design).all(axis=1)
        if not usable.any():
            message = (
                f"No step of the {len(train)} training sites has {flux} and all of {', '.join(inputs)}; "
                "take an input out or fill its gaps."
            )
            raise TableError(message)
        models[flux] = _best_ridge(design[usable].astype(np.float64), target[usable], groups[usable], alphas)
    return RidgeRegression(train.step, inputs, scaler, models)


def _checked_inputs(inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs if all are known and none is what shall be predicted."""
    wrong = [name for name in inputs if get_variable(name).role in ("flux", "annual", "quality")]
    if wrong or not inputs:
        message = f"Ridge regression needs forcings, statics or classes as inputs, not {', '.join(wrong) or 'none'}."
        raise ConfigError(message)
    return tuple(inputs)


def _best_ridge(design: np.ndarray, target: np.ndarray, groups: np.ndarray, alphas: Sequence[float]) -> Ridge:
    """Return the regression whose penalty did best on groups of sites left out."""
    n_groups = len(set(groups))
    if n_groups < 2:
        return Ridge(alpha=1.0).fit(design, target)
    search = GridSearchCV(
        Ridge(), {"alpha": list(alphas)}, scoring="neg_mean_squared_error", cv=GroupKFold(min(5, n_groups))
    )
    return search.fit(design, target, groups=groups).best_estimator_


def _design(site: Site, inputs: Sequence[str], step: Step) -> np.ndarray:
    """Return the inputs of a site as (time, column) float32; a class takes as many columns as it has classes."""
    columns: list[np.ndarray] = []
    for name in inputs:
        n_classes = len(VARIABLES[name].classes)
        if n_classes:
            one_hot = np.arange(n_classes) == site.statics.get(name, np.nan)
            columns.append(np.tile(one_hot, (len(site.series), 1)))
        else:
            columns.append(_values(site, name, step)[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")


def _values(site: Site, name: str, step: Step) -> np.ndarray:
    """Return one numeric input of a site, (time,), NaN where missing."""
    role = VARIABLES[name].role
    if role == "derived":
        place = np.array([site.latitude]), np.array([site.longitude])
        return derive(name, pd.DatetimeIndex(site.series.index), place[0], step, place[1])[:, 0]
    if role == "static":
        return np.full(len(site.series), site.statics.get(name, np.nan))
    return _column(site, name)


def _column(site: Site, name: str) -> np.ndarray:
    """Return a column of the series, (time,), NaN throughout where the site has none."""
    if name in site.series:
        return site.series[name].to_numpy(np.float64)
    return np.full(len(site.series), np.nan)


def _standardised(scaler: StandardScaler, design: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """Return the scaled design; statics that are not known become the training mean, which is 0."""
    scaled = scaler.transform(design)
    static = np.repeat(
        [VARIABLES[name].role == "static" for name in inputs],
        [max(1, len(VARIABLES[name].classes)) for name in inputs],
    )
    return np.where(static & np.isnan(scaled), np.float32(0), scaled)


BASELINES: dict[str, Callable[[Sites, Sequence[str]], Baseline]] = {
    "climatology": fit_climatology,
    "ridge": fit_ridge,
}
"""Every baseline by its name: how it is fitted on training sites and inputs."""
