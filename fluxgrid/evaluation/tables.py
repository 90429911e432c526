"""Tables of scores: one row per model, flux and site, and their quantiles over sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Sites
from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.metrics import METRICS, score
from fluxgrid.files import write_text
from fluxgrid.variables import MAP_FLUXES

QUANTILES = {"q25": 0.25, "q50": 0.5, "q75": 0.75}
"""Quantiles over sites that every summary gives."""

_FACTS = ("class", "climate")


def site_scores(
    model: str,
    sites: Sites,
    predictions: Mapping[str, pd.DataFrame],
    fluxes: Sequence[str] = MAP_FLUXES,
    minimum: int = 2,
) -> pd.DataFrame:
    """Score predictions of one model, site by site, on the steps where the flux was observed.

    Parameters
    ----------
    model : str
        Name for the table.
    sites : Sites
        Sites held out from training, with their observations.
    predictions : mapping of str to DataFrame, (time, flux), g m-2 d-1
        By site id; matched to the observations by time. Sites without a prediction get no row.
    fluxes : sequence of str
        Fluxes to score, where both sides have them.
    minimum : int
        Least number of steps for a score.

    Returns
    -------
    scores : DataFrame
        Columns model, flux, site, class, climate, n, r2, rmse, nmae, rae, bias. Fluxes never observed at a site get
        no row.
    """
    rows = []
    for site in sites:
        predicted = predictions.get(site.id)
        if predicted is None:
            continue
        facts = {
            "class": site.class_name("igbp") or "unknown",
            "climate": site.class_name("climate_group") or "unknown",
        }
        for flux in fluxes:
            if flux not in site.series or flux not in predicted or not site.series[flux].notna().any():
                continue
            aligned = predicted[flux].reindex(site.series.index).to_numpy(np.float64)
            values = asdict(score(site.series[flux].to_numpy(np.float64), aligned, minimum))
            rows.append({"model": model, "flux": flux, "site": site.id, **facts, **values})
    return pd.DataFrame(rows, columns=["model", "flux", "site", *_FACTS, "n", *METRICS])


def common_steps(predictions: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, dict[str, pd.DataFrame]]:
    """Keep of each model only what all models predict, so that their scores can be compared.

    Parameters
    ----------
    predictions : mapping of str to mapping of str to DataFrame, (time, flux)
        By model, then by site.

    Returns
    -------
    predictions : dict of str to dict of str to DataFrame, (time, flux)
        Sites, steps and fluxes that all models share; NaN where any model is NaN.
    """
    models = list(predictions.values())
    shared = [site for site in models[0] if all(site in model for model in models)] if models else []
    masks = {site: _all_known([model[site] for model in models]) for site in shared}
    return {
        name: {site: model[site].reindex_like(masks[site]).where(masks[site]) for site in shared}
        for name, model in predictions.items()
    }


def _all_known(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return where all tables have a value, on the steps and fluxes that all of them have."""
    known, *others = (table.notna() for table in tables)
    for other in others:
        index, columns = known.index.intersection(other.index), [name for name in known if name in other]
        known = known.loc[index, columns] & other.loc[index, columns]
    return known


def summarise(scores: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Return the quartiles of every score over sites.

    Parameters
    ----------
    scores : DataFrame
        As `site_scores` returns; those of several models or folds may be stacked.
    by : {"class", "climate"}, optional
        Also by vegetation class or climate group.

    Returns
    -------
    summary : DataFrame
        Columns model, flux, (`by`), sites, steps, then ``r2_q25, r2_q50, r2_q75`` and so on for every metric. ``sites``
        counts the sites that were scored and ``steps`` their days or months together. A NaN score (R2 of constant
        observations) is left out of its quantile.

    Raises
    ------
    ConfigError
        If `by` is neither.
    """
    if by is not None and by not in _FACTS:
        message = f"Scores can be given by {' or '.join(_FACTS)}, not by {by!r}."
        raise ConfigError(message)
    keys = ["model", "flux", *([by] if by else [])]
    scored = scores[scores["rmse"].notna()]
    rows = [dict(zip(keys, name, strict=True)) | _summary(part) for name, part in scored.groupby(keys, sort=False)]
    return pd.DataFrame(rows, columns=[*keys, "sites", "steps", *(f"{m}_{q}" for m in METRICS for q in QUANTILES)])


def _summary(part: pd.DataFrame) -> dict[str, float]:
    """Return counts and quantiles of one group of sites."""
    quantiles = {
        f"{metric}_{name}": quantile(part[metric].to_numpy(np.float64), share)
        for metric in METRICS
        for name, share in QUANTILES.items()
    }
    return {"sites": part["site"].nunique(), "steps": int(part["n"].sum()), **quantiles}


def quantile(values: np.ndarray, share: float) -> float:
    """Return a linear quantile of the values that are not NaN; infinite ones count as the largest.

    Parameters
    ----------
    values : ndarray, (n,)
    share : float
        0 to 1.

    Returns
    -------
    quantile : float
        NaN if there is no value.

    Examples
    --------
    >>> quantile(np.array([1.0, 2.0, np.nan, np.inf]), 0.5)
    2.0
    """
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return float("nan")
    position = share * (len(ordered) - 1)
    low, high = ordered[int(np.floor(position))], ordered[int(np.ceil(position))]
    # numpy's own quantile is NaN next to an infinity: 0 * inf.
    return float(low if low == high or position == int(position) else low + (high - low) * (position % 1))


def as_text(summary: pd.DataFrame, metrics: Sequence[str] = ("r2", "rmse", "nmae", "rae")) -> str:
    """Return a summary as lines of text: ``median [q25, q75]`` of each metric, with the number of sites and steps.

    Parameters
    ----------
    summary : DataFrame
        As `summarise` returns.
    metrics : sequence of str
        Which scores to show.

    Returns
    -------
    text : str
    """
    keys = list(summary.columns[: list(summary.columns).index("sites")])
    table = summary[[*keys, "sites", "steps"]].astype(str)
    for metric in metrics:
        columns = [summary[f"{metric}_{name}"] for name in ("q50", "q25", "q75")]
        table[metric] = [f"{mid:.2f} [{low:.2f}, {high:.2f}]" for mid, low, high in zip(*columns, strict=True)]
    return table.to_string(index=False)


def write_table(table: pd.DataFrame, path: Path | str) -> None:
    """Write scores or a summary as CSV or JSON, by the ending of the name; the file appears whole or not at all.

    Parameters
    ----------
    table : DataFrame
        Scores or summary.
    path : path
        Ends in ``.csv`` (empty cell for NaN, ``inf``) or ``.json`` (list of rows, null for both).

    Raises
    ------
    ConfigError
        If it ends in something else.
    OutputError
        If it cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".csv":
        text = table.to_csv(index=False)
    elif suffix == ".json":
        text = table.to_json(orient="records", indent=1, double_precision=10) + "\n"
    else:
        message = f"Scores are written as .csv or .json, not as {suffix or 'a file without ending'!r} ({path})."
        raise ConfigError(message)
    write_text(path, text)
