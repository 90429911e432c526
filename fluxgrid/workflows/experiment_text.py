"""Tables of an experiment as texts, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from fluxgrid.evaluation.paired import LEVEL
from fluxgrid.training.kgml.regimes import SCORED
from fluxgrid.workflows.experiment_tables import (
    ALL,
    MEAN,
    OURS,
    REGIMES,
    compared,
    difference_table,
    heat_table,
    share_differences,
    share_table,
    skill_table,
)


@dataclass(frozen=True)
class Shown:
    """A table as texts, for a terminal and for Markdown."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        """Return it for a terminal."""
        table = Table(title=Text(self.title), caption=Text(self.note), title_justify="left", caption_justify="left")
        for k, name in enumerate(self.header):
            table.add_column(name, justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [self.header, ("---", *("---:" for _ in self.header[1:])), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines), "", self.note])


def regime_texts(frame: pd.DataFrame, state: str) -> Iterator[Shown]:
    """Yield the tables of the comparison of regimes.

    Parameters
    ----------
    frame : DataFrame
        From `frame_of`.
    state : str
        The one whose data are cut.

    Yields
    ------
    table : Shown
    """
    errors = compared(frame)
    yield _skill_text(skill_table(errors))
    differences = difference_table(errors)
    if len(differences):
        yield _difference_text(differences)
    yield _heat_text(heat_table(frame))
    shares = share_table(frame, state)
    if len(shares):
        yield _share_text(shares, share_differences(frame, state), state)


def _skill_text(table: pd.DataFrame) -> Shown:
    """Return skill by regime."""
    present = [name for name in REGIMES if name in set(table["regime"])]
    cells = {(row["state"], row["quantity"], row["regime"]): _interval(row) for row in table.to_dict("records")}
    places = [*(name for name in dict.fromkeys(table["state"]) if name != ALL), ALL]
    rows = [
        (place, quantity, *(cells.get((place, quantity, regime), "-") for regime in present))
        for quantity in (MEAN, *SCORED)
        for place in places
    ]
    note = (
        f"Mean squared error in variances of the synthetic set, mean over {table['n'].max()} seeds ± half of the "
        f"{LEVEL:.0%} t interval. Cross-regional: the site-only models of the other states. GPP is an input here, the "
        "process model's own, so that the error of NEE is that of RECO."
    )
    return Shown("Error by regime", note, ("scored in", "quantity", *present), tuple(rows))


def _difference_text(table: pd.DataFrame) -> Shown:
    """Return paired differences of the mean error."""
    rows = [
        (
            f"{row['state']}: ftbsc - {row['other']}",
            f"{row['mean']:+.4f}",
            _range(row["low"], row["high"], "+.4f"),
            f"{row['improvement']:.1f} %",
            _range(row["improvement_low"], row["improvement_high"], ".1f"),
            "" if np.isnan(row["published"]) else f"{row['published']:.1f} %",
        )
        for row in table[table["quantity"] == MEAN].to_dict("records")
    ]
    note = (
        f"Mean of the five errors, paired by seed ({table['n'].max()} pairs), {LEVEL:.0%} t intervals; negative: FTBSC "
        "is better. The scored fields are the same for all seeds: the spread is that of training places and weights. "
        "Paper: Zeng et al. 2025 (arXiv:2512.16013, Fig. 5), against site-only training on its own data."
    )
    header = ("", "difference", "interval", "lower by", "interval", "paper")
    return Shown("FTBSC against the other regimes", note, header, tuple(rows))


def _heat_text(table: pd.DataFrame) -> Shown:
    """Return train x test."""
    states = list(dict.fromkeys(table["state"]))
    means = table.pivot_table(index=["regime", "train"], columns="state", values="mean", sort=False)[states]
    rows = [
        (f"{regime} {train}", *(f"{value:.3f}" for value in values))
        for (regime, train), values in zip(means.index, means.to_numpy(), strict=True)
    ]
    note = "Mean of the five errors in variances of the synthetic set, mean over seeds; columns: where it is scored."
    return Shown("Trained there, scored here", note, ("trained on", *states), tuple(rows))


def _share_text(table: pd.DataFrame, differences: pd.DataFrame, state: str) -> Shown:
    """Return data size."""
    regimes = [name for name in REGIMES if name in set(table["regime"])]
    cells = {(row["share"], row["regime"]): _interval(row) for row in table.to_dict("records")}
    gains = {row["share"]: row for row in differences.to_dict("records")}
    rows = []
    for share in sorted(set(table["share"])):
        own = [cells.get((share, name), "-") for name in regimes]
        gain = gains.get(share)
        last = ["-", "-"] if gain is None else [f"{gain['mean']:+.4f}", _range(gain["low"], gain["high"], "+.4f")]
        rows.append((f"{share:.0%}", *own, *last))
    note = (
        f"Mean of the five errors in {state} when every model sees this share of {state}'s training fields; the global "
        "model, also the one that is tuned, sees the same share and all fields of the other states."
    )
    header = (f"of {state}", *regimes, "ftbsc - site-only", "t interval")
    return Shown(f"Size of the data of {state}", note, header, tuple(rows))


def sensitivity_text(table: pd.DataFrame) -> Shown:
    """Return the table of the sensitivity experiment.

    Parameters
    ----------
    table : DataFrame
        From `sensitivity_table`.

    Returns
    -------
    table : Shown
    """
    rows = []
    for row in table.to_dict("records"):
        paper = "" if np.isnan(row["published_change"]) else f"{row['published_change']:.1f} %"
        change = f"{row['change']:+.1f} % {_range(row['change_low'], row['change_high'], '+.1f')}"
        sides = [f"{value:.3f}" for value in (row["site_only"], row["ftbsc"])]
        gain = f"{row['difference']:+.4f} {_range(row['low'], row['high'], '+.4f')}"
        rows.append((f"{row['setting']}, {row['state']}", *sides, gain, change, paper))
    first = next((name for name in table["setting"] if name != OURS), OURS)
    note = (
        f"Mean of the five errors over {table['n'].max()} seeds, {LEVEL:.0%} t intervals of paired "
        f"differences. {OURS}: the settings of the regimes. Change: by how much the error of FTBSC is below that under "
        f"{first!r}; paper: the same of Zeng et al. 2025 (arXiv:2512.16013) on its own data. The tuned global model is "
        f"that of {OURS} throughout."
    )
    header = ("setting, state", "site-only", "ftbsc", "ftbsc - site-only", "lower by", "paper")
    return Shown("Sensitivity to hyperparameters", note, header, tuple(rows))


def _interval(row: Mapping[Any, Any]) -> str:
    """Return a mean with half its interval."""
    mean, high = row["mean"], row["high"]
    return f"{mean:.3f}" if np.isnan(high) else f"{mean:.3f} ± {high - mean:.3f}"


def _range(low: float, high: float, form: str) -> str:
    """Return an interval as text."""
    return "-" if np.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def markdown_of(tables: Sequence[Shown], about: str) -> str:
    """Return tables as one Markdown text.

    Parameters
    ----------
    tables : sequence of Shown
    about : str
        What the data are; stands first.

    Returns
    -------
    text : str
    """
    return "\n\n".join([about, *(table.markdown() for table in tables)]) + "\n"
