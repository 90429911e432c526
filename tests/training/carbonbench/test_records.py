"""The published run's scaler, class weights and samples, found again on the same towers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fluxgrid.training.balance import class_weights
from fluxgrid.training.carbonbench.records import BANDS, TOWER_COVARIATES, tower_records
from fluxgrid.training.carbonbench.samples import fit_moments, scored_samples, training_rows, training_samples

FOLDS = ("main", "cv0")


@pytest.fixture(scope="module")
def records(data_dir, published_code):
    windows = pd.read_parquet(published_code / "windows.parquet", columns=["site"])
    table = pd.read_parquet(Path(data_dir) / "towers_daily.parquet")
    return tower_records(table, sorted(windows["site"].unique()), {"US-xRN": "DBF"})


@pytest.mark.data
def test_moments_are_those_of_the_published_scaler(records, published_code):
    scaler = json.loads((published_code / "scaler.json").read_text())
    moments = fit_moments(records)
    names = scaler["tensor_columns"]
    assert names == [*TOWER_COVARIATES, *BANDS, "lat", "lon"] == list(records[0].covariates)
    expected = np.array([scaler["x"][name] for name in names])
    # their radiation was formed with coordinates of more digits
    np.testing.assert_allclose(moments.x_mean, expected[:, 0], rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(moments.x_std, expected[:, 1], rtol=2e-6)
    targets = np.array(list(scaler["y"].values()))
    np.testing.assert_allclose(moments.y_mean, targets[:, 0], rtol=1e-9)
    np.testing.assert_allclose(moments.y_std, targets[:, 1], rtol=1e-9)


@pytest.mark.data
def test_class_weights_are_the_published_ones(records, published_code):
    expected = json.loads((published_code / "scaler.json").read_text())["class_weights"]
    days = [len(record.days[training_rows(record)]) for record in records]
    assert class_weights([record.igbp for record in records], days) == pytest.approx(expected["IGBP"])
    assert class_weights([record.koppen for record in records], days) == pytest.approx(expected["Koppen"])


@pytest.mark.data
@pytest.mark.parametrize("fold", FOLDS)
def test_arrays_are_the_windows_listed(records, published_code, fold):
    listed = pd.read_parquet(published_code / "windows.parquet")
    listed = listed[listed["fold"] == fold]
    held = set(listed.loc[listed["split"] == "test", "site"])
    train = [record for record in records if record.site not in held]
    moments = fit_moments(train)
    for split, found in zip(("train", "val"), training_samples(train, moments), strict=True):
        wanted = listed[listed["split"] == split]
        names = np.array([record.site for record in train])[found.site]
        assert sorted(zip(names, found.first, strict=True)) == sorted(
            zip(wanted["site"], pd.to_datetime(wanted["window_start"]), strict=True)
        )
        assert np.isfinite(found.x).all()
        assert np.isfinite(found.y).all()
        quality = dict(
            zip(
                zip(wanted["site"], pd.to_datetime(wanted["window_start"]), strict=True), wanted["qc_last"], strict=True
            )
        )
        expected = [quality[key] for key in zip(names, found.first, strict=True)]
        np.testing.assert_allclose(found.quality[:, -1], expected, rtol=1e-6)
    for record in records:
        if record.site in held:
            samples = scored_samples(record, moments)
            assert len(samples) == int(((listed["site"] == record.site) & (listed["split"] == "test")).sum())
            assert samples.y.shape[1] == 1
            assert (samples.quality == 1).all()


@pytest.mark.data
def test_a_window_holds_the_days_it_says(records):
    record = records[0]
    moments = fit_moments(records)
    samples = scored_samples(record, moments)
    for number in (0, len(samples) // 2, len(samples) - 1):
        days = pd.date_range(samples.first[number], periods=30)
        expected = (record.covariates.loc[days].to_numpy() - moments.x_mean) / moments.x_std
        np.testing.assert_allclose(samples.x[number], expected, rtol=1e-5, atol=1e-6)
        row = record.days.get_loc(days[-1])
        z = (record.targets[row] - moments.y_mean) / moments.y_std
        np.testing.assert_allclose(samples.y[number, 0], z, rtol=1e-5, atol=1e-6)


@pytest.mark.data
def test_a_place_is_three_classes(records):
    assert {record.place.sum() for record in records} == {3.0}
    assert records[0].place.shape == (51,)
