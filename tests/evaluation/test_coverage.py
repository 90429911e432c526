"""Coverage counted by hand, and seen to fail where half-widths are too narrow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.evaluation.coverage import COLUMNS, coverage_table, half_column, with_half_widths
from fluxgrid.models.uncertainty import LEVELS, FluxUncertainty, Uncertainty
from fluxgrid.testing import small_sites

ONE, NINETY = LEVELS


@pytest.fixture
def sites():
    """Four towers, the first two of one group."""
    made = small_sites(n=4, periods=10)
    groups = ("pair", "pair", "alone", "blind")
    return replace(made, sites=tuple(replace(s, group=g) for s, g in zip(made, groups, strict=True)))


def predictions(sites, errors) -> dict[str, pd.DataFrame]:
    """Return predictions whose GPP is off by so much at each site, with half-widths of 1 and 2."""
    found = {}
    for site, error in zip(sites, errors, strict=True):
        table = pd.DataFrame({name: site.series[name] for name in ("nee", "gpp", "reco")})
        halves = {half_column("gpp", ONE): 1.0, half_column("gpp", NINETY): 2.0}
        found[site.id] = table.assign(gpp=table["gpp"] + error, **halves)
    return found


def test_groups_weigh_the_same_whatever_their_sites_and_steps(sites):
    blind = replace(sites.sites[3], series=sites.sites[3].series.assign(gpp=np.float32(np.nan)))
    sites = replace(sites, sites=(*sites.sites[:3], blind))
    some = np.where(np.arange(10) < 4, 1.5, 0.5)  # 6 of 10 within 1, all within 2
    short = np.where(np.arange(10) < 5, 0.1, np.nan)
    found = predictions(sites, [some, np.full(10, 3.0), short, short])
    table = coverage_table(sites, {"m": found})
    assert list(table.columns) == list(COLUMNS)
    assert table["level"].tolist() == [ONE, NINETY]
    assert set(table["flux"]) == {"gpp"}
    # the pair: (0.6 + 0) / 2 and (1 + 0) / 2; the third site alone: 1
    assert table["covered"].tolist() == pytest.approx([(0.3 + 1) / 2, (0.5 + 1) / 2])
    assert table["half_width"].tolist() == [1.0, 2.0]
    assert table[["sites", "groups", "steps"]].to_numpy().tolist() == [[3, 2, 25]] * 2


def test_narrower_half_widths_cover_less(sites):
    rng = np.random.default_rng(0)
    found = predictions(sites, rng.normal(0, 0.8, (4, 10)))
    wide = coverage_table(sites, {"m": found})["covered"]
    for table in found.values():
        table[[half_column("gpp", level) for level in LEVELS]] *= 0.3
    assert (coverage_table(sites, {"m": found})["covered"] < wide - 0.2).all()


def test_a_model_without_half_widths_has_no_row(sites):
    bare = {name: table[["nee", "gpp", "reco"]] for name, table in predictions(sites, np.zeros((4, 10))).items()}
    assert coverage_table(sites, {"m": bare}).empty
    assert list(coverage_table(sites, {"m": bare}).columns) == list(COLUMNS)


def test_half_widths_take_the_place_of_the_spread():
    time = pd.date_range("2020-01-01", periods=2)
    given = pd.DataFrame({"nee": [1.0, 2.0], "gpp": [0.0, 0.0], "reco": [1.0, 2.0], "nee_spread": [0.0, 4.0]}, time)
    fitted = Uncertainty({"nee": FluxUncertainty(3.0, {ONE: 1.0, NINETY: None}, 4, 9)})
    found = with_half_widths(given, fitted)
    assert list(found.columns) == ["nee", "gpp", "reco", half_column("nee", ONE)]
    assert found.iloc[:, -1].tolist() == [3.0, 5.0]
    assert list(with_half_widths(given, None).columns) == ["nee", "gpp", "reco"]
