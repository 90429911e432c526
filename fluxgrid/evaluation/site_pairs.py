"""Two models compared site by site: sites differ more than models do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxgrid.registry import unknown_name

LEVEL = 0.95
"""Of the intervals."""


def compare_models(
    scores: pd.DataFrame, reference: str, metric: str = "r2", draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Compare every model with one of them at the sites where both are scored.

    Parameters
    ----------
    scores : DataFrame
        As `fluxgrid.evaluation.tables.site_scores` returns, models stacked.
    reference : str
        The model that others are compared with.
    metric : str
        Column of `scores`.
    draws : int
        Bootstrap draws of sites.
    seed : int
        Of the draws.

    Returns
    -------
    table : DataFrame
        Columns model, flux, sites, ``median`` and ``reference`` (medians of the two over these sites), ``difference``
        (median over sites of model - reference), ``low`` and ``high`` (percentile bootstrap over sites of that median,
        95 %), ``better`` (share of sites where the difference is above 0).

    Raises
    ------
    UnknownName
        If no model has the name of the reference.

    Notes
    -----
    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. Sites of one group are drawn one by one:
    where many stand close together the intervals are too narrow.
    """
    wide = scores.pivot_table(index="site", columns=["flux", "model"], values=metric, sort=False)
    names = list(dict.fromkeys(scores["model"]))
    if reference not in names:
        error = unknown_name("model among the scores", reference, names)
        raise error
    rows = []
    for flux in dict.fromkeys(scores["flux"]):
        for model in (name for name in names if name != reference):
            if (flux, model) not in wide or (flux, reference) not in wide:
                continue
            both = wide[[(flux, model), (flux, reference)]].replace([np.inf, -np.inf], np.nan).dropna().to_numpy()
            if len(both):
                rows.append({"model": model, "flux": flux, **_compare(both, draws, seed)})
    columns = ["model", "flux", "sites", "median", "reference", "difference", "low", "high", "better"]
    return pd.DataFrame(rows, columns=columns)


def _compare(both: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """Return the comparison of two columns, (sites, 2)."""
    difference = both[:, 0] - both[:, 1]
    drawn = np.random.default_rng(seed).integers(0, len(difference), (draws, len(difference)))
    low, high = np.quantile(np.median(difference[drawn], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    medians = np.median(both, axis=0)
    return {
        "sites": len(difference),
        "median": float(medians[0]),
        "reference": float(medians[1]),
        "difference": float(np.median(difference)),
        "low": float(low),
        "high": float(high),
        "better": float((difference > 0).mean()),
    }
