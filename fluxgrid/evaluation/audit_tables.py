"""Tables of the physics audit: the drift of calibrated models from the global one, and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.audit import ALL, DIAGNOSTICS, GLOBAL

_ROUNDING = 1e-9


def drift(table: pd.DataFrame) -> pd.DataFrame:
    """Return how far each model is from the global one, diagnostic by diagnostic.

    Parameters
    ----------
    table : DataFrame
        Columns `COLUMNS`, with rows of the model `GLOBAL` at every place.

    Returns
    -------
    drift : DataFrame
        Columns place, model, diagnostic, global, value, drift, unit; drift = value - global, in the unit. No rows of
        the global model itself.

    Raises
    ------
    ConfigError
        If a place or diagnostic has no value of the global model.
    """
    keys = ["place", "diagnostic"]
    base = table.loc[table["model"] == GLOBAL, [*keys, "value"]].rename(columns={"value": GLOBAL})
    joined = table[table["model"] != GLOBAL].merge(base, on=keys, how="left", indicator=True)
    if lost := joined.loc[joined["_merge"] == "left_only", "place"].unique().tolist():
        message = (
            f"Drift is counted from the model {GLOBAL!r}, which the audit lacks at {', '.join(lost)}. Audit it there."
        )
        raise ConfigError(message)
    joined["drift"] = joined["value"] - joined[GLOBAL]
    return joined[["place", "model", "diagnostic", GLOBAL, "value", "drift", "unit"]]


HEADLINES = (
    *("balance_residual", "ra_negative_share", "rh_negative_share", "yield_outside_share", "residue_short_share"),
    *("consistency_ra", "consistency_rh", "rh_slope_TSOC"),
)
"""What the table by place and the picture show."""


def audit_table(table: pd.DataFrame, headlines: Sequence[str] = HEADLINES) -> str:
    """Return the audit as Markdown: places in short, every diagnostic over all with its drift, some by place.

    Parameters
    ----------
    table : DataFrame
        Columns `COLUMNS` of `fluxgrid.evaluation.audit`.
    headlines : sequence of str
        Diagnostics of the tables by place.

    Returns
    -------
    text : str
        For each calibrated model three tables; one without drift where there is the global model alone.
    """
    models = [model for model in table["model"].unique() if model != GLOBAL]
    if not models:
        values = _values(table[table["place"] == ALL], "value")
        rows = ([*_label(name), _number(values[ALL, name])] for name in DIAGNOSTICS)
        return _markdown(["diagnostic", "unit", "wanted", GLOBAL], rows)
    drifts = drift(table)
    parts = []
    for model in models:
        own = drifts[drifts["model"] == model]
        parts += [audit_summary(table, model), _overall(own, model), _by_place(own, headlines)]
    return "\n".join(parts)


SUMMARY = (
    *("written_balance_error", "written_ra_minimum", "written_rh_minimum", "ra_negative_share", "rh_negative_share"),
    *("yield_outside_share", "residue_short_share", "balance_residual", "consistency_ra", "consistency_rh"),
    "rh_slope_TSOC",
)
"""What the table in short shows."""


def audit_summary(table: pd.DataFrame, model: str, diagnostics: Sequence[str] = SUMMARY) -> str:
    """Return what the places have in common: the median, and the tenth and the ninetieth percentile.

    Parameters
    ----------
    table : DataFrame
        Columns `COLUMNS` of `fluxgrid.evaluation.audit`.
    model : str
        Which calibrated model stands beside the global one.
    diagnostics : sequence of str
        Which rows.

    Returns
    -------
    text : str
        A Markdown table.
    """
    by_place = table[table["place"] != ALL]

    def spread(name: str, of: str) -> str:
        values = by_place.loc[(by_place["diagnostic"] == name) & (by_place["model"] == of), "value"]
        low, middle, high = (float(values.quantile(q)) for q in (0.1, 0.5, 0.9))
        return f"{_number(middle)} [{_number(low)}, {_number(high)}]"

    heads = ["diagnostic", "unit", "wanted", f"{GLOBAL}, median of places [10 %, 90 %]", model]
    return _markdown(heads, ([*_label(name), spread(name, GLOBAL), spread(name, model)] for name in diagnostics))


def _values(rows: pd.DataFrame, column: str) -> dict[tuple[str, str], float]:
    """Return a column by place and diagnostic."""
    return dict(zip(zip(rows["place"], rows["diagnostic"], strict=True), rows[column].astype(float), strict=True))


def _overall(drifts: pd.DataFrame, model: str) -> str:
    """Return the table of every diagnostic of one model over all places."""
    columns = [_values(drifts, name) for name in (GLOBAL, "value", "drift")]
    rows = (
        [*_label(name), *(_number(values[ALL, name]) for values in columns), _farthest(columns[-1], name)]
        for name in DIAGNOSTICS
    )
    return _markdown(["diagnostic", "unit", "wanted", GLOBAL, model, "drift", "largest drift"], rows)


def _by_place(drifts: pd.DataFrame, headlines: Sequence[str]) -> str:
    """Return the table of some diagnostics of one model at each place, from global to its own."""
    before, after = (_values(drifts, name) for name in (GLOBAL, "value"))
    rows = (
        [place, *(f"{_number(before[place, name])} → {_number(after[place, name])}" for name in headlines)]
        for place in drifts["place"].unique()
    )
    return _markdown(["place", *(f"{_label(name)[0]} ({_label(name)[1]})" for name in headlines)], rows)


def _label(name: str) -> tuple[str, str, str]:
    """Return title, unit and what is wanted of a diagnostic."""
    each = DIAGNOSTICS[name]
    return each.title.replace("|", "\\|"), each.unit, each.wanted


def _farthest(drifts: dict[tuple[str, str], float], name: str) -> str:
    """Return the largest drift of a place, with its name."""
    own = {place: value for (place, other), value in drifts.items() if (other, place == ALL) == (name, False)}
    known = {place: value for place, value in own.items() if not np.isnan(value)}
    if not any(known.values()):
        return "0" if known else "-"
    place = max(known, key=lambda each: abs(known[each]))
    return f"{_number(known[place])} ({place})"


def _number(value: float) -> str:
    """Return three digits; a dash for NaN, and 0 for what only rounding makes."""
    return "-" if np.isnan(value) else f"{0.0 if abs(value) < _ROUNDING else value:.3g}"


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
