"""The published scores of CarbonBench's models, to stand beside ours.

Source: the scores by site that are published with CarbonBench (Rozanov et al.), 474-site revision, `published.csv`:
ensembles of ten seeds of the networks, one run of the trees, on days of best quality at the test sites of its two
splits. Quartiles are given for the minimal features; the trees were published with these alone.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import pandas as pd

from fluxgrid.evaluation.tables import as_text

ABOUT = "474 sites of CarbonBench; not the same data, not comparable row by row"
"""Stands wherever published scores are shown beside those of other towers."""
ABOUT_FILES = "474 sites of CarbonBench, trained as published; ensembles of ten seeds"
"""Stands there beside scores from CarbonBench's own files."""


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    """Return all of it."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def published_scores(
    models: Collection[str] | None = None,
    split: str | None = None,
    features: str | None = None,
    about: str = ABOUT,
) -> pd.DataFrame:
    """Return published scores.

    Parameters
    ----------
    models : collection of str, optional
        Architectures by the names of the registry; all by default.
    split : {"igbp", "koppen"}, optional
        Of one split alone.
    features : {"minimal", "standard", "full"}, optional
        Of one feature set alone.
    about : str
        What to say of them.

    Returns
    -------
    scores : DataFrame
        Columns features, split, model, flux, sites, then ``r2_q25, r2_q50, r2_q75`` and so on as
        `fluxgrid.evaluation.tables.summarise` has them, RMSE in g m-2 d-1; NaN where only the median is known. The last
        column is ``about``.

    Examples
    --------
    >>> found = published_scores(["tam_rl"], "igbp", "minimal").set_index("flux")
    >>> float(found["r2_q50"]["gpp"]), int(found["sites"]["gpp"])
    (0.574, 96)
    """
    table = _table()
    for column, wanted in (("model", models), ("split", split), ("features", features)):
        if wanted is not None:
            table = table[table[column].isin([wanted] if isinstance(wanted, str) else list(wanted))]
    return table.assign(about=about).reset_index(drop=True)


def published_text(scores: pd.DataFrame, split: str) -> str:
    """Return published scores as lines of text under a line that says what they are.

    Parameters
    ----------
    scores : DataFrame
        As `published_scores` returns.
    split : str
        ``koppen`` shows that split, anything else that by vegetation class.

    Returns
    -------
    text : str
        Of the minimal features; empty if there are none.
    """
    name = "koppen" if split == "koppen" else "igbp"
    chosen = scores[(scores["features"] == "minimal") & (scores["split"] == name)]
    if chosen.empty:
        return ""
    title = {"igbp": "IGBP", "koppen": "Koeppen"}[name]
    table = chosen.drop(columns=["features", "split", "about"]).assign(steps="")
    return f"Published ({chosen['about'].iloc[0]}), {title} split, minimal features:\n{as_text(table)}"
