"""Numbers of an experiment: skill by regime, paired differences, heat map, data size, sensitivity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd

from fluxgrid.evaluation.paired import mean_interval, paired_difference
from fluxgrid.training.kgml.regimes import SCORED
from fluxgrid.workflows.experiment_runs import Result

MEAN = "mean"
"""The quantity that is the mean over `SCORED`."""
ALL = "all"
"""The place that is the mean over all states."""
REGIMES = ("global", "site-only", "cross-regional", "sdsa", "ftbsc")
"""In the order of tables and pictures."""
OURS = "baseline"
"""The setting of a run that no variant has changed."""
PUBLISHED_GAIN = {"IA": 17.0, "IL": 31.2, "IN": 43.6}
"""Percent by which the paper's FTBSC-KGML is below site-only training (Zeng et al. 2025, Fig. 5, arXiv:2512.16013)."""
PUBLISHED_CHANGE = {"A": {"IA": 6.8, "IL": 4.3, "IN": 3.1}}
"""By how many percent its setting A lowers the error of FTBSC-KGML against its baseline (the same)."""

_KEYS = ["regime", "seed", "state", "quantity"]


def frame_of(results: Iterable[Result]) -> pd.DataFrame:
    """Return the scores of all runs.

    Parameters
    ----------
    results : iterable of Result

    Returns
    -------
    frame : DataFrame
        Columns regime, train (states joined by +), seed, share, setting, fields, state (scored), quantity (`SCORED` and
        `MEAN`), mse (variances of the synthetic set), rmse (g m-2 d-1, yield g m-2; NaN for the mean), r2 (the same).
    """
    rows = []
    for result in results:
        run = result.run
        facts = {"regime": run.regime, "train": "+".join(run.train), "seed": run.seed, "share": run.share}
        facts |= {"setting": run.setting, "fields": result.fields}
        for state, scores in result.scores.items():
            mean = float(np.mean([scores[name]["mse_z"] for name in SCORED]))
            each = {MEAN: {"mse_z": mean, "rmse": np.nan, "r2": np.nan}, **{name: scores[name] for name in SCORED}}
            rows += [{**facts, "state": state, "quantity": name, **row} for name, row in each.items()]
    return pd.DataFrame(rows).rename(columns={"mse_z": "mse"})


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of the regimes where each is asked: a state's own model at home, a moved one elsewhere.

    Parameters
    ----------
    frame : DataFrame
        From `frame_of`; only whole data and unchanged settings count.

    Returns
    -------
    errors : DataFrame
        Columns regime (of `REGIMES`), seed, state (and `ALL`), quantity, mse. Cross-regional is the mean over the
        site-only models of the other states.
    """
    whole = frame[(frame["share"] == 1.0) & (frame["setting"] == OURS)]
    home = whole["train"] == whole["state"]
    single = (whole["regime"] == "site-only") & ~whole["train"].str.contains("+", regex=False)
    moved = whole[single & ~home].assign(regime="cross-regional")
    kept = whole[whole["regime"].isin(["global", "sdsa"]) | (whole["regime"].isin(["site-only", "ftbsc"]) & home)]
    each = pd.concat([kept, moved]).groupby(_KEYS, as_index=False)["mse"].mean()
    return pd.concat(
        [each, each.groupby(["regime", "seed", "quantity"], as_index=False)["mse"].mean().assign(state=ALL)]
    )


def skill_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the mean error over seeds of each regime, state and quantity, with its t interval.

    Parameters
    ----------
    errors : DataFrame
        From `compared`.

    Returns
    -------
    table : DataFrame
        Columns state, quantity, regime, n, mean, low, high.
    """
    return _means(errors, ["state", "quantity", "regime"])


def difference_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return ftbsc - other, paired by seed, for each other regime, state and quantity.

    Parameters
    ----------
    errors : DataFrame
        From `compared`.

    Returns
    -------
    table : DataFrame
        Columns state, quantity, other, those of `PairedDifference`, and published: the paper's improvement over
        site-only training in percent, NaN elsewhere. Empty without ftbsc.
    """
    rows = []
    for (state, quantity), part in errors.groupby(["state", "quantity"], sort=False):
        sides = part.pivot_table(index="seed", columns="regime", values="mse")
        for other in (name for name in REGIMES[:-1] if {name, "ftbsc"} <= set(sides)):
            pairs = sides[["ftbsc", other]].dropna()
            told = PUBLISHED_GAIN.get(str(state), np.nan) if (other, quantity) == ("site-only", MEAN) else np.nan
            found = asdict(paired_difference(pairs["ftbsc"], pairs[other]))
            rows.append({"state": state, "quantity": quantity, "other": other, **found, "published": told})
    return pd.DataFrame(rows)


def heat_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what is trained where and scored where: mean error over quantities and seeds.

    Parameters
    ----------
    frame : DataFrame
        From `frame_of`.

    Returns
    -------
    table : DataFrame
        Columns regime, train, state, n, mean, low, high; rows of site-only training first.
    """
    whole = frame[(frame["share"] == 1.0) & (frame["setting"] == OURS) & (frame["quantity"] == MEAN)]
    table = _means(whole, ["regime", "train", "state"])
    rank = {name: k for k, name in enumerate(("site-only", "global", "sdsa", "ftbsc"))}
    return table.sort_values("regime", key=lambda names: names.map(rank), kind="stable").reset_index(drop=True)


def share_table(frame: pd.DataFrame, state: str) -> pd.DataFrame:
    """Return the mean error in a state by how much of its data was seen.

    Parameters
    ----------
    frame : DataFrame
        From `frame_of`.
    state : str
        The one whose data are cut.

    Returns
    -------
    table : DataFrame
        Columns share, regime, n, mean, low, high; empty if nothing was cut.
    """
    cut = _cut(frame, state)
    return _means(cut, ["share", "regime"]) if (cut["share"] < 1.0).any() else cut.iloc[:0]


def share_differences(frame: pd.DataFrame, state: str) -> pd.DataFrame:
    """Return ftbsc - site-only in a state, paired by seed, by how much of its data was seen.

    Parameters
    ----------
    frame, state
        As in `share_table`.

    Returns
    -------
    table : DataFrame
        Columns share, those of `PairedDifference`.
    """
    rows = []
    for share, part in _cut(frame, state).groupby("share"):
        sides = part.pivot_table(index="seed", columns="regime", values="mse")
        if {"ftbsc", "site-only"} <= set(sides):
            pairs = sides[["ftbsc", "site-only"]].dropna()
            rows.append({"share": share, **asdict(paired_difference(pairs["ftbsc"], pairs["site-only"]))})
    return pd.DataFrame(rows)


def _cut(frame: pd.DataFrame, state: str) -> pd.DataFrame:
    """Return the mean errors in a state of its own models and the global ones, at all shares."""
    own = (frame["train"] == state) | (frame["regime"] == "global")
    return frame[own & (frame["state"] == state) & (frame["quantity"] == MEAN) & (frame["setting"] == OURS)]


def sensitivity_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return site-only training and FTBSC under each setting.

    Parameters
    ----------
    frame : DataFrame
        From `frame_of`.

    Returns
    -------
    table : DataFrame
        Columns setting, state, site_only, site_only_low, site_only_high, ftbsc, ftbsc_low, ftbsc_high, difference, low,
        high (ftbsc - site-only, paired), change, change_low, change_high (percent by which FTBSC's error is below that
        of the first variant) and published_change.
    """
    home = frame[(frame["quantity"] == MEAN) & (frame["train"] == frame["state"]) & (frame["share"] == 1.0)]
    settings = list(dict.fromkeys(home["setting"]))
    first = next((name for name in settings if name != OURS), OURS)
    rows = []
    for state in dict.fromkeys(home["state"]):
        sides = home[home["state"] == state].pivot_table(index="seed", columns=["setting", "regime"], values="mse")
        rows += [_sensitivity_row(sides, state, name, first) for name in settings]
    return pd.DataFrame(rows)


def _sensitivity_row(sides: pd.DataFrame, state: str, setting: str, first: str) -> dict[str, object]:
    """Return one setting in one state; `sides` holds errors, (seed, (setting, regime))."""
    pairs = sides[setting][["ftbsc", "site-only"]].dropna()
    changes = pd.concat([sides[setting]["ftbsc"], sides[first]["ftbsc"]], axis=1, keys=["own", "first"]).dropna()
    row: dict[str, object] = {"setting": setting, "state": state}
    for column, regime in (("site_only", "site-only"), ("ftbsc", "ftbsc")):
        mean = mean_interval(pairs[regime])
        row |= {column: mean.mean, f"{column}_low": mean.low, f"{column}_high": mean.high}
    difference = paired_difference(pairs["ftbsc"], pairs["site-only"])
    change = paired_difference(changes["own"], changes["first"])
    row |= {"n": difference.n, "difference": difference.mean, "low": difference.low, "high": difference.high}
    row |= {"change": change.improvement, "change_low": change.improvement_low, "change_high": change.improvement_high}
    return {**row, "published_change": PUBLISHED_CHANGE.get(setting, {}).get(state, np.nan)}


def _means(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return mean and interval of ``mse`` over seeds for each group, in the order in which groups appear."""
    groups = frame.groupby(keys, sort=False)["mse"]
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | asdict(mean_interval(part)) for key, part in groups])
