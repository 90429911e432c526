"""Numbers of the tables from made-up runs, against what they come to by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from fluxgrid.training.kgml.regimes import SCORED, Run
from fluxgrid.workflows.experiment_pictures import draw_regimes
from fluxgrid.workflows.experiment_runs import Result
from fluxgrid.workflows.experiment_tables import (
    ALL,
    MEAN,
    PUBLISHED_GAIN,
    compared,
    difference_table,
    frame_of,
    heat_table,
    sensitivity_table,
    share_differences,
    share_table,
    skill_table,
)
from fluxgrid.workflows.experiment_text import markdown_of, regime_texts, sensitivity_text

STATES = ("IA", "IN", "IL")


def result(regime: str, train: tuple[str, ...], seed: int, mse: dict[str, float], **more: object) -> Result:
    """Return a run whose five errors are 0.8, 0.9, 1.0, 1.1 and 1.2 times a number for each state."""
    factors = dict(zip(SCORED, (0.8, 0.9, 1.0, 1.1, 1.2), strict=True))
    scores = {
        state: {name: {"mse_z": factor * mse[state], "rmse": 1.0, "r2": 0.5} for name, factor in factors.items()}
        for state in STATES
    }
    return Result(Run(regime, train, seed, **more), scores, 10, 1.0)


def at(value: float, **others: float) -> dict[str, float]:
    """Return the same error everywhere but where another is given."""
    return {**dict.fromkeys(STATES, value), **others}


@pytest.fixture(scope="module")
def frame():
    runs = []
    for seed, extra in ((0, 0.0), (1, 0.1)):
        runs += [result("global", STATES, seed, at(0.5 + extra)), result("sdsa", STATES, seed, at(0.45 + extra))]
        runs += [result("site-only", (s,), seed, at(1.0 + k + extra, **{s: 0.4 + extra})) for k, s in enumerate(STATES)]
        runs += [result("site-only", ("IN", "IA"), seed, at(0.7))]
        runs += [result("ftbsc", (s,), seed, at(0.9, **{s: 0.3})) for s in STATES]
        runs += [
            result("site-only", ("IA",), seed, at(0.8 + extra), share=0.25),
            result("global", STATES, seed, at(0.6), share=0.25),
            result("ftbsc", ("IA",), seed, at(0.4), share=0.25, tuned_from="x"),
            result("site-only", ("IA",), seed, at(9.0), setting="B"),
        ]
    return frame_of(runs)


def pick(table, **keys):
    """Return the only row with these values."""
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_mean_is_over_the_five_quantities(frame):
    row = pick(frame, regime="global", seed=0, share=1.0, state="IA", quantity=MEAN)
    assert row["mse"] == pytest.approx(0.5)  # the factors average to 1
    assert pick(frame, regime="global", seed=0, share=1.0, state="IA", quantity="ra")["mse"] == pytest.approx(0.4)


def test_skill_by_regime(frame):
    table = skill_table(compared(frame))
    assert pick(table, state="IA", quantity=MEAN, regime="site-only")["mean"] == pytest.approx(0.45)
    # in Iowa the models of Indiana (2.0) and Illinois (3.0), and 0.1 more with the second seed
    assert pick(table, state="IA", quantity=MEAN, regime="cross-regional")["mean"] == pytest.approx(2.55)
    assert pick(table, state="IL", quantity=MEAN, regime="cross-regional")["mean"] == pytest.approx(1.55)
    assert pick(table, state=ALL, quantity=MEAN, regime="cross-regional")["mean"] == pytest.approx(
        (2.55 + 2.05 + 1.55) / 3
    )
    row = pick(table, state="IN", quantity="yield", regime="global")
    assert (row["mean"], row["n"]) == (pytest.approx(1.2 * 0.55), 2)
    # two values 0.12 apart: half is t(0.975, 1) * 0.12 / sqrt(2) / sqrt(2)
    assert row["high"] - row["mean"] == pytest.approx(12.7062 * 0.06, rel=1e-5)


def test_differences_are_paired_by_seed(frame):
    table = difference_table(compared(frame))
    row = pick(table, state="IN", quantity=MEAN, other="site-only")  # -0.1 and -0.2
    assert row["mean"] == pytest.approx(-0.15)
    assert row["low"] == pytest.approx(-0.15 - 12.7062 * 0.05, rel=1e-5)
    assert row["improvement"] == pytest.approx(100 * 0.15 / 0.45)
    assert row["published"] == PUBLISHED_GAIN["IN"] == 43.6
    assert np.isnan(pick(table, state="IN", quantity=MEAN, other="global")["published"])
    assert np.isnan(pick(table, state="IN", quantity="ra", other="site-only")["published"])
    assert set(table["other"]) == {"global", "site-only", "cross-regional", "sdsa"}


def test_heat_map(frame):
    table = heat_table(frame)
    assert pick(table, regime="site-only", train="IN+IA", state="IL")["mean"] == pytest.approx(0.7)
    assert pick(table, regime="site-only", train="IL", state="IN")["mean"] == pytest.approx(3.05)
    assert pick(table, regime="ftbsc", train="IL", state="IL")["mean"] == pytest.approx(0.3)
    assert list(dict.fromkeys(table["regime"])) == ["site-only", "global", "sdsa", "ftbsc"]
    assert len(table) == 3 * (4 + 1 + 1 + 3)


def test_shares(frame):
    table = share_table(frame, "IA")
    assert pick(table, share=0.25, regime="global")["mean"] == pytest.approx(0.6)
    assert pick(table, share=1.0, regime="ftbsc")["mean"] == pytest.approx(0.3)
    assert set(table["regime"]) == {"global", "site-only", "ftbsc"}
    assert pick(share_differences(frame, "IA"), share=0.25)["mean"] == pytest.approx(-0.45)
    assert share_table(frame[frame["share"] == 1.0], "IA").empty


def test_texts(frame, tmp_path):
    tables = list(regime_texts(frame, "IA"))
    text = markdown_of(tables, "Synthetic data.")
    assert text.startswith("Synthetic data.\n\n**Error by regime**")
    assert "| IN: ftbsc - site-only | -0.1500 | [-0.7853, +0.4853] |" in text
    assert "| 33.3 % |" in text
    assert "43.6 % |" in text
    assert "| site-only IN+IA | 0.700 | 0.700 | 0.700 |" in text
    assert len(tables) == 4
    for table in tables:
        widths = {len(row) for row in (table.header, *table.rows)}
        assert widths == {len(table.header)}
    with Console(width=160, record=True, file=(tmp_path / "log").open("w")) as console:
        console.print(tables[1].rich())
    assert "Zeng et al. 2025" in (tmp_path / "log").read_text()


def test_what_was_left_out_leaves_no_hole(frame, tmp_path):
    some = frame[frame["regime"].isin(["global", "site-only"]) & (frame["share"] == 1.0)]
    tables = list(regime_texts(some, "IA"))
    assert [table.title for table in tables] == ["Error by regime", "Trained there, scored here"]
    assert draw_regimes(some, "IA", "Synthetic.", tmp_path / "a.png").stat().st_size > 10_000


def test_picture(frame, tmp_path):
    assert draw_regimes(frame, "IA", "Synthetic.", tmp_path / "a.png").stat().st_size > 10_000


def test_sensitivity():
    runs = []
    for seed in (0, 1):
        runs.append(result("global", STATES, seed, at(0.5)))
        for setting, site, tuned in (("baseline", 0.6, 0.5), ("published", 0.8, 0.4), ("A", 0.7, 0.3 + 0.1 * seed)):
            runs += [result("site-only", (s,), seed, at(5.0, **{s: site}), setting=setting) for s in STATES]
            runs += [result("ftbsc", (s,), seed, at(5.0, **{s: tuned}), setting=setting) for s in STATES]
    table = sensitivity_table(frame_of(runs))
    row = pick(table, setting="A", state="IL")
    assert (row["site_only"], row["ftbsc"]) == (pytest.approx(0.7), pytest.approx(0.35))
    assert row["difference"] == pytest.approx(-0.35)
    assert row["change"] == pytest.approx(12.5)  # 0.35 against 0.4 of the first variant
    assert row["published_change"] == 4.3
    assert pick(table, setting="baseline", state="IL")["change"] == pytest.approx(-25.0)
    text = sensitivity_text(table)
    assert ("A, IL", "0.700", "0.350") in [line[:3] for line in text.rows]
    assert len(text.rows) == 9
