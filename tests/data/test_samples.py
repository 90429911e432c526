"""Windows of towers: the published ones to the day, and ours against a slow search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.data.samples import TEST, TRAIN, SampleRule, plan_samples, time_tail
from fluxgrid.errors import ConfigError

DAYS = pd.date_range("2003-12-20", periods=40)


def slow(targets, covariates, quality, rule):
    """Return first days by trying every window by itself."""
    known, quality_of = set(covariates), dict(zip(targets, quality, strict=True))
    begin, found = targets[0] - pd.Timedelta(days=rule.window - 1), []
    if rule.as_published:
        known = {day for day in known if day in quality_of or day < targets[0]}
    first = begin
    while first + pd.Timedelta(days=rule.window - 1) <= targets[-1]:
        days = pd.date_range(first, periods=rule.window)
        if all(day in known for day in days) and all(
            quality_of.get(day, -1.0) >= rule.minimum_qc for day in days[-rule.stride :]
        ):
            found.append(first)
        first += pd.Timedelta(days=rule.stride)
    return pd.DatetimeIndex(found)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_a_slow_search(data):
    window = data.draw(st.integers(1, 8))
    rule = SampleRule(
        window,
        data.draw(st.integers(1, window)),
        data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        data.draw(st.booleans()),
    )
    target = np.array(data.draw(st.lists(st.booleans(), min_size=40, max_size=40)))
    covariate = np.array(data.draw(st.lists(st.integers(0, 5), min_size=40, max_size=40))) > 0
    if not target.any():
        return
    quality = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, np.nan]), min_size=40, max_size=40)))[target]
    found = plan_samples(DAYS[target], DAYS[covariate], quality, rule)
    assert list(found) == list(slow(DAYS[target], DAYS[covariate], quality, rule))


def test_the_calendar_keeps_windows_that_the_published_join_loses():
    """One missing target in ninety days: the published join loses every window that holds the day."""
    days = pd.date_range("2005-01-01", periods=119)
    targets = days[29:].delete(45)
    ours = plan_samples(targets, days, np.ones(89), SampleRule(stride=1))
    published = plan_samples(targets, days, np.ones(89), SampleRule(stride=1, as_published=True))
    assert len(ours) == 89
    assert len(published) == 89 - 29
    assert set(published) < set(ours)


def test_a_record_without_targets_has_no_windows():
    assert len(plan_samples(DAYS[:0], DAYS, np.empty(0))) == 0


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ConfigError) as caught:
        SampleRule(window=0, stride=3, minimum_qc=2.0)
    assert all(text in str(caught.value) for text in ("window: 0", "stride: 3", "minimum_qc: 2.0"))
    with pytest.raises(ValueError, match="40 days with targets and 39 qualities"):
        plan_samples(DAYS, DAYS, np.ones(39))
    with pytest.raises(ValueError, match="in order, each once"):
        plan_samples(DAYS[::-1], DAYS, np.ones(40))


@pytest.mark.data
def test_the_published_samples_are_found_to_the_day(data_dir, published_code):
    """Samples of the published code on the real towers: all four folds, 23 sites, 46 106 windows."""
    published = pd.read_parquet(published_code / "windows.parquet")
    published["first"] = pd.to_datetime(published["window_start"])
    towers = pd.read_parquet(Path(data_dir) / "towers_daily.parquet")
    inputs = ["temperature_2m", "precipitation", "shortwave", "vpd", "wind_speed"]
    count = 0
    for site, wanted in published.groupby("site"):
        table = towers[towers["site"] == site].set_index("date").sort_index().loc["2000-02-24":]
        before = towers[towers["site"] == site].set_index("date").sort_index()
        quality = table["nee_qc"].where(table["flux_source"] != "NEON_NCAR", 1.0)
        known = table[["gpp", "reco", "nee"]].notna().all(axis=1) & quality.notna()
        days, quality = table.index[known], quality[known].to_numpy()
        covariates = before.index[before[inputs].notna().all(axis=1)]
        cut = time_tail(len(days))
        parts = {"train": (slice(0, cut), TRAIN), "val": (slice(cut, None), TRAIN), "test": (slice(None), TEST)}
        for (_, split), rows in wanted.groupby(["fold", "split"]):
            part, rule = parts[split]
            rule = SampleRule(rule.window, rule.stride, rule.minimum_qc, as_published=True)
            found = plan_samples(days[part], covariates, quality[part], rule)
            assert list(found) == sorted(rows["first"]), (site, split)
            count += len(found)
    assert count == len(published)
