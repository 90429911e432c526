from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.tables import as_text, common_steps, quantile, site_scores, summarise, write_table

TIME = pd.date_range("2001-01-01", periods=11)


def make_site(name, igbp, **series) -> Site:
    frame = pd.DataFrame(series, index=TIME, dtype=np.float32)
    return Site(name, 40.0, -90.0, name, {"igbp": igbp, "climate_group": 3.0}, frame)


@pytest.fixture
def sites() -> Sites:
    wave = np.sin(np.arange(11.0))
    gappy = np.where(np.arange(11) < 4, np.nan, wave)
    made = (
        make_site("A", 0.0, gpp=wave, nee=np.full(11, np.nan)),
        make_site("B", 0.0, gpp=gappy, nee=wave),
        make_site("C", 3.0, gpp=np.ones(11), nee=wave),
    )
    return Sites("daily", made, "made", "none")


@pytest.fixture
def predictions(sites) -> dict[str, pd.DataFrame]:
    return {
        site.id: pd.DataFrame({"gpp": site.series["gpp"].fillna(0) + k, "nee": 0.5}, index=TIME)
        for k, site in enumerate(sites)
    }


def test_one_row_per_observed_flux_and_site(sites, predictions):
    scores = site_scores("model", sites, predictions)
    assert list(scores) == ["model", "flux", "site", "class", "climate", "n", "r2", "rmse", "nmae", "rae", "bias"]
    assert [tuple(row) for row in scores[["flux", "site", "n"]].to_numpy()] == [
        ("gpp", "A", 11), ("nee", "B", 11), ("gpp", "B", 7), ("nee", "C", 11), ("gpp", "C", 11),
    ]  # fmt: skip
    assert scores["class"].tolist() == ["CRO", "CRO", "CRO", "DBF", "DBF"]
    assert scores["bias"][[0, 2, 4]].tolist() == pytest.approx([0, 1, 2])
    assert len(site_scores("model", sites, {"A": predictions["A"]})) == 1
    assert site_scores("model", sites, {}).empty


def test_predictions_are_matched_by_time(sites):
    shifted = pd.DataFrame({"gpp": sites["A"].series["gpp"].iloc[3:]}).iloc[::-1]
    scores = site_scores("model", sites, {"A": shifted})
    assert (scores["n"].item(), scores["rmse"].item()) == (8, 0)


def test_quartiles_over_sites_with_numbers_beside_them(sites, predictions):
    scores = site_scores("model", sites, predictions)
    summary = summarise(scores).set_index("flux")
    assert summary.loc["gpp", ["sites", "steps"]].tolist() == [3, 29]
    assert summary.loc["gpp", "bias_q50"] == pytest.approx(1)
    assert summary.loc["gpp", "rae_q25"] < 1e9
    assert summary.loc["gpp", "rae_q75"] == np.inf  # site C is constant
    by_class = summarise(scores, "class")
    assert [tuple(row) for row in by_class[["flux", "class", "sites"]].to_numpy()] == [
        ("gpp", "CRO", 2), ("nee", "CRO", 1), ("nee", "DBF", 1), ("gpp", "DBF", 1),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="by class or climate, not by 'colour'"):
        summarise(scores, "colour")


def test_sites_with_too_few_steps_are_not_counted(sites, predictions):
    scores = site_scores("model", sites, predictions, minimum=8)
    assert summarise(scores).set_index("flux").loc["gpp", ["sites", "steps"]].tolist() == [2, 22]


def test_quantiles_are_linear_and_bear_infinities():
    values = np.array([3.0, np.nan, 1.0, 10.0, 4.0])
    for share in (0, 0.25, 0.5, 0.9, 1):
        assert quantile(values, share) == pytest.approx(np.nanquantile(values, share))
    assert quantile(np.array([1.0, np.inf, np.inf]), 0.75) == np.inf
    assert np.isnan(quantile(np.array([np.nan]), 0.5))


def test_text_shows_median_quartiles_and_numbers(sites, predictions):
    lines = as_text(summarise(site_scores("model", sites, predictions), "class")).splitlines()
    assert lines[0].split() == ["model", "flux", "class", "sites", "steps", "r2", "rmse", "nmae", "rae"]
    assert lines[4].split()[:6] == ["model", "gpp", "DBF", "1", "11", "nan"]
    assert "2.00 [2.00, 2.00]" in lines[4]


def test_tables_are_written_and_read_back_equal(sites, predictions, tmp_path):
    scores = site_scores("model", sites, predictions)
    write_table(scores, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scores.csv"), scores)
    write_table(scores, tmp_path / "scores.json")
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert [row["rmse"] for row in rows] == pytest.approx(scores["rmse"].tolist())
    assert rows[4]["rae"] is None
    with pytest.raises(ConfigError, match=r"written as \.csv or \.json, not as '\.xlsx'"):
        write_table(scores, tmp_path / "scores.xlsx")


def test_models_are_compared_where_all_predict(sites, predictions):
    sparse = {"A": predictions["A"][["gpp"]].iloc[2:].copy(), "C": predictions["C"].copy()}
    sparse["A"].iloc[0] = np.nan
    common = common_steps({"full": predictions, "sparse": sparse})
    scores = [site_scores(name, sites, each) for name, each in common.items()]
    assert [each["n"].tolist() for each in scores] == [[8, 11, 11], [8, 11, 11]]
    assert common_steps({}) == {}
