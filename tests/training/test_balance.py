"""Weights that make the towers stand for the land."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.sites import Site, Sites, class_index
from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.training.balance import Balance, Stratum, balance_classes, balance_sequences, balance_variances
from fluxgrid.training.sequences import Sequence

BALANCE = Balance("igbp", (Stratum(("CRO",), 0.5), Stratum(("DBF", "MF"), 0.25), Stratum(("WET",), 0.25)))


def site(name: str, igbp: str) -> Site:
    statics = {"igbp": class_index("igbp", igbp)}
    return Site(name, 40.0, -90.0, name, statics, pd.DataFrame(index=pd.date_range("2001-01-01", periods=4)))


def sequence(name: str, steps: int) -> Sequence:
    targets = np.full((steps + 1, 3), np.nan, np.float32)
    targets[1:, 0] = 1.0  # the first step is spin-up and not observed
    return Sequence(
        name,
        name,
        np.zeros((steps + 1, 2), np.float32),
        np.zeros(1, np.float32),
        targets,
        np.ones(steps + 1, np.float32),
        1,
    )


def weight(sequences: list[Sequence], *names: str) -> float:
    return sum(float(s.weights[np.isfinite(s.targets[:, 0])].sum()) for s in sequences if s.site in names)


def test_strata_weigh_as_the_land_does():
    sites = Sites("daily", (site("A", "CRO"), site("B", "DBF"), site("C", "MF"), site("D", "URB")), "test", "none")
    before = [sequence("A", 5), sequence("B", 20), sequence("C", 10), sequence("D", 7)]
    after = balance_sequences(before, sites, BALANCE)
    # no wetland site is there, so crops have 0.5 of 0.75 and forests the rest of the 35 steps
    assert weight(after, "A") == pytest.approx(35 * 2 / 3, rel=1e-5)
    assert weight(after, "B", "C") == pytest.approx(35 / 3, rel=1e-5)
    assert weight(after, "D") == 7  # in no stratum: as it was
    assert weight(after, "B") == pytest.approx(2 * weight(after, "C"), rel=1e-5)


def test_without_balance_nothing_changes():
    before = [sequence("A", 3)]
    assert balance_sequences(before, Sites("daily", (site("A", "CRO"),), "test", "none"), None) is before


def test_unknown_class_and_variable_are_named():
    with pytest.raises(UnknownName, match="class of igbp named 'CORN'"):
        Balance("igbp", (Stratum(("CORN",), 1.0),))
    with pytest.raises(ConfigError, match="'elevation' has no classes"):
        replace(BALANCE, variable="elevation")


def test_classes_weigh_alike_and_what_is_not_observed_counts_nothing():
    sites = Sites("daily", (site("A", "CRO"), site("B", "CRO"), site("C", "WET"), site("D", "ENF")), "table", "nobody")
    sequences = [sequence("A", 30), sequence("B", 10), sequence("C", 20), sequence("D", 0)]
    weighted = balance_classes(sequences, sites, ["igbp"])
    total = [float(s.weights[np.isfinite(s.targets).any(axis=1)].sum()) for s in weighted]
    assert total[0] + total[1] == pytest.approx(total[2])
    assert sum(total) == pytest.approx(60)  # the mean weight of an observed step stays
    assert balance_classes(sequences, sites, [])[0].weights.tolist() == sequences[0].weights.tolist()


def varying(name: str, *deviations: float) -> Sequence:
    wave = np.resize([-1.0, 1.0], 40)
    targets = np.stack([wave * deviation for deviation in deviations], axis=1).astype(np.float32)
    return replace(sequence(name, 39), targets=targets)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_a_quiet_site_counts_more_by_its_own_variance(exponent):
    loud, quiet, gpp_alone = varying("A", 3, 2, 1), varying("B", 1, 2, 0), varying("C", 2, np.nan, np.nan)
    a, b, c = (s.emphasis for s in balance_variances([loud, quiet, gpp_alone], exponent))
    common = np.array([(14 / 3) ** 0.5, 2.0, 0.5**0.5])
    for emphasis, own in ((a, [3, 2, 1]), (b, [1, 2, 0])):
        np.testing.assert_allclose(emphasis, (1.1 * common / (own + 0.1 * common)) ** (2 * exponent), rtol=1e-5)
    assert c[1:].tolist() == [1.0, 1.0]
    assert b[1] == pytest.approx(1.0)  # varies as all do
    assert b[2] == pytest.approx(11.0 ** (2 * exponent), rel=1e-5)  # the most there is


def test_without_an_exponent_nothing_is_emphasised():
    assert balance_variances([varying("A", 3, 2, 1)], 0.0)[0].emphasis.tolist() == [1.0, 1.0, 1.0]
