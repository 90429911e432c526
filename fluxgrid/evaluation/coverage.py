"""Whether half-widths hold what they promise: coverage at sites nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Sites
from fluxgrid.models.uncertainty import LEVELS, Uncertainty
from fluxgrid.prediction.sites import spread_name
from fluxgrid.variables import MAP_FLUXES

COLUMNS = ("model", "flux", "level", "covered", "half_width", "sites", "groups", "steps")
"""Columns of a table of coverage."""


def half_column(flux: str, level: float) -> str:
    """Return the column of a flux's half-width at a level.

    Examples
    --------
    >>> half_column("nee", 0.9)
    'nee_half_0.9'
    """
    return f"{flux}_half_{level:g}"


def with_half_widths(predicted: pd.DataFrame, uncertainty: Uncertainty | None) -> pd.DataFrame:
    """Return predictions with half-widths in the place of the members' spread.

    Parameters
    ----------
    predicted : DataFrame, (time, flux), g m-2 d-1
        As `fluxgrid.prediction.sites.predict_site` returns.
    uncertainty : Uncertainty or None
        Of the model that predicted.

    Returns
    -------
    predicted : DataFrame, (time, flux), g m-2 d-1
        Columns nee, gpp, reco, and `half_column` of each flux and level that is known.
    """
    found = predicted[list(MAP_FLUXES)].copy()
    if uncertainty is None:
        return found
    for level in LEVELS:
        for flux in uncertainty.known(level):
            spread = predicted[spread_name(flux)].to_numpy()
            found[half_column(flux, level)] = uncertainty.fluxes[flux].half_width(level, spread)
    return found


def coverage_table(sites: Sites, predictions: Mapping[str, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """Return how often the observed fluxes of sites that a model has not seen lie within its half-widths.

    Parameters
    ----------
    sites : Sites
        Sites held out from training, with their observations.
    predictions : mapping of str to mapping of str to DataFrame, (time, flux), g m-2 d-1
        By model, then by site id; from `with_half_widths`.

    Returns
    -------
    table : DataFrame
        `COLUMNS`: nominal ``level``; ``covered``, the share of steps within the half-width, in the mean over the sites
        of a group and then over groups, each of which weighs the same; ``half_width``, median over sites of their
        medians; counts of sites, groups and steps. No row for a model, flux or level without half-widths.
    """
    rows = []
    for model, flux, level in product(predictions, MAP_FLUXES, LEVELS):
        each = _site_rows(sites, predictions[model], flux, half_column(flux, level))
        if len(each):
            covered = each.groupby("group")["covered"].mean()
            counts = {"sites": len(each), "groups": len(covered), "steps": int(each["steps"].sum())}
            shares = {"covered": float(covered.mean()), "half_width": float(each["half_width"].median())}
            rows.append({"model": model, "flux": flux, "level": level, **shares, **counts})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _site_rows(sites: Sites, predictions: Mapping[str, pd.DataFrame], flux: str, column: str) -> pd.DataFrame:
    """Return group, covered share, median half-width and number of steps of each site."""
    rows = []
    for site in sites:
        predicted = predictions.get(site.id)
        if predicted is None or column not in predicted or flux not in site.series:
            continue
        aligned = predicted[[flux, column]].reindex(site.series.index)
        error = np.abs(site.series[flux].to_numpy(np.float64) - aligned[flux].to_numpy(np.float64))
        half = aligned[column].to_numpy(np.float64)
        seen = np.isfinite(error) & np.isfinite(half)
        if seen.any():
            within = float(np.mean(error[seen] <= half[seen]))
            rows.append((site.group, within, float(np.median(half[seen])), int(seen.sum())))
    return pd.DataFrame(rows, columns=["group", "covered", "half_width", "steps"])
