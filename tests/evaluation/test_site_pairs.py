"""Models compared at the same sites."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import UnknownName
from fluxgrid.evaluation.site_pairs import compare_models


def scores(**models) -> pd.DataFrame:
    """Return R2 of models at sites S0, S1..."""
    rows = [
        {"model": name, "flux": "gpp", "site": f"S{i}", "r2": value}
        for name, values in models.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_sites_that_differ_widely_do_not_hide_a_small_gain():
    rng = np.random.default_rng(1)
    base = rng.normal(0.0, 2.0, 40)
    table = compare_models(scores(old=base, new=base + 0.05 + rng.normal(0, 0.01, 40)), "old").iloc[0]
    assert (table["model"], table["sites"], table["better"]) == ("new", 40, 1.0)
    assert 0.04 < table["low"] < table["difference"] < table["high"] < 0.06
    assert table["reference"] == pytest.approx(np.median(base))


def test_two_models_alike_do_not_differ():
    rng = np.random.default_rng(2)
    table = compare_models(scores(a=rng.normal(size=60), b=rng.normal(size=60)), "a").iloc[0]
    assert table["low"] < 0 < table["high"]


def test_only_sites_that_both_have_count():
    table = compare_models(scores(a=[0.1, 0.2, 0.3, 0.4], b=[0.2, np.nan, 0.4, -np.inf], c=[np.nan] * 4), "a")
    assert list(table["model"]) == ["b"]
    assert table.loc[0, "sites"] == 2
    assert table.loc[0, "difference"] == pytest.approx(0.1)


def test_an_unknown_reference_gets_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'lstm'"):
        compare_models(scores(lstm=[1.0]), "lsmt")
