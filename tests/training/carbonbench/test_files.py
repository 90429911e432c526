"""Records and samples from CarbonBench's files, beside the published steps done one by one on tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.samples import SampleRule
from fluxgrid.errors import TableError
from fluxgrid.sources.carbonbench import MINIMAL
from fluxgrid.testing import carbonbench_files
from fluxgrid.training.carbonbench.records import BANDS, KOPPEN, KOPPEN_SHORT, carbonbench_records
from fluxgrid.training.carbonbench.samples import fit_moments, scored_samples, training_rows, training_samples
from fluxgrid.variables import CLIMATE_GROUPS, IGBP_CLASSES, KOPPEN_CLASSES

TARGETS = ["GPP_NT_VUT_USTAR50", "RECO_NT_VUT_USTAR50", "NEE_VUT_USTAR50"]
QUALITY = "NEE_VUT_USTAR50_QC"
COLUMNS = [*MINIMAL, *BANDS, "lat", "lon"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return carbonbench_files(tmp_path_factory.mktemp("carbonbench"), days=200)


def joined(folder):
    """Return the targets with covariates beside them, and all covariates: what is published, table by table."""
    targets = pd.read_parquet(folder / "target_fluxes_v2.parquet").replace(-9999, np.nan).dropna()
    targets["date"] = pd.to_datetime(targets.pop("TIMESTAMP").astype(str))
    covariates = []
    for name, columns in {"ERA5": list(MINIMAL), "MOD09GA": list(BANDS)}.items():
        table = pd.read_parquet(folder / f"{name}.parquet", columns=["date", "site", *columns])
        table["date"], table["site"] = pd.to_datetime(table["date"]), table["site"].str.split("_").str[1]
        covariates.append(table.drop_duplicates(["date", "site"]))
    for table in reversed(covariates):
        targets = targets.merge(table, how="left", on=["date", "site"])
    return targets, covariates


def windows(part, covariates, mean, deviation, stride, threshold):
    """Return first days, inputs and z-less targets of one part of a site's rows, window by window."""
    site, first = part["site"].iloc[0], part["date"].min()
    early = [
        c[(c["site"] == site) & (c["date"] < first) & (c["date"] >= first - pd.Timedelta(days=29))] for c in covariates
    ]
    before = early[0].merge(early[1], how="outer", on=["site", "date"])
    before = before.assign(lat=part["lat"].iloc[0], lon=part["lon"].iloc[0])
    table = pd.concat([before, part]).set_index("date").sort_index().resample("D").asfreq()
    x = (table[COLUMNS] - mean) / deviation
    x[list(BANDS)] = x[list(BANDS)].interpolate(limit_direction="both")
    found = []
    for start in range(0, len(x) - 29, stride):
        rows, last = slice(start, start + 30), slice(start + 30 - stride, start + 30)
        y = table[[*TARGETS, QUALITY]].iloc[last]
        if x.iloc[rows].isna().any(axis=None) or y.isna().any(axis=None) or (y[QUALITY] < threshold).any():
            continue
        found.append((x.index[start], x.iloc[rows].to_numpy(), y[TARGETS].to_numpy(), y[QUALITY].to_numpy()))
    return found


def test_samples_are_the_published_ones(folder):
    records = carbonbench_records(folder)
    moments = fit_moments(records)
    targets, covariates = joined(folder)
    parts = {site: rows.sort_values("date") for site, rows in targets.groupby("site")}
    assert [record.site for record in records] == list(parts)
    trained = pd.concat([rows.iloc[: int(len(rows) * 0.8)] for rows in parts.values()])
    mean, deviation = trained[COLUMNS].mean(), trained[COLUMNS].std(ddof=0)
    deviation = deviation.mask(deviation == 0, 1.0)
    np.testing.assert_allclose(moments.x_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.y_std, trained[TARGETS].std(ddof=0), rtol=1e-12)
    assert list(records[0].covariates) == COLUMNS
    train, validation = training_samples(records, moments)
    cut = {record.site: training_rows(record).stop for record in records}
    for found in (train, validation):
        expected = []
        for site, table in parts.items():
            part = table.iloc[: cut[site]] if found is train else table.iloc[cut[site] :]
            expected += windows(part, covariates, mean, deviation, 15, 0)
        assert len(found) == len(expected) > 0
        assert list(found.first) == [each[0] for each in expected]
        np.testing.assert_allclose(found.x, np.stack([each[1] for each in expected]), rtol=1e-5, atol=1e-6)
        y = (np.stack([each[2] for each in expected]) - moments.y_mean) / moments.y_std
        np.testing.assert_allclose(found.y, y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.quality, np.stack([each[3] for each in expected]), rtol=1e-6)
    scored = scored_samples(records[1], moments)
    expected = windows(parts[records[1].site], covariates, mean, deviation, 1, 1)
    assert list(scored.first) == [each[0] for each in expected]
    assert len(expected) > 20


def test_bands_that_are_never_seen_leave_no_sample(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = pd.read_parquet(tmp_path / "MOD09GA.parquet")
    table["clouds"] = table["clouds"].mask(table["site"] == "FLX_T-001")
    table.to_parquet(tmp_path / "MOD09GA.parquet")
    records = carbonbench_records(tmp_path)
    train, _ = training_samples(records, fit_moments(records))
    assert set(train.site) == {0, 2}


def test_records_say_class_and_place(folder):
    record = carbonbench_records(folder, "standard")[2]
    assert (record.site, record.igbp, record.koppen, record.koppen_short) == ("T-002", "GRA", "C", "Cfa")
    assert record.covariates.shape[1] == 36 + 12 + 2
    assert record.place.sum() == 3
    assert record.covariates.index[0] == pd.Timestamp("2001-01-31")


def test_a_site_without_a_class_is_left_out_and_a_folder_without_sites_is_an_error(tmp_path):
    folder = carbonbench_files(tmp_path, days=40)
    (folder / "koppen_sites.json").write_text(json.dumps({"T-001": "D"}))
    assert [record.site for record in carbonbench_records(folder)] == ["T-001"]
    (folder / "koppen_sites.json").write_text("{}")
    with pytest.raises(TableError, match=r"No tower of .* has a day with gpp, reco, nee"):
        carbonbench_records(folder)


def test_classes_are_one_table_where_they_can_be():
    """The order of Koeppen's thirty classes in the table of variables is frozen with the reference world."""
    assert len(IGBP_CLASSES) == 16
    assert len(KOPPEN) == len(CLIMATE_GROUPS) == 5
    assert set(KOPPEN_SHORT) == set(KOPPEN_CLASSES) - {"As"}
    assert len(KOPPEN_SHORT) == 30


def test_a_rule_of_our_own_keeps_days_without_targets(folder):
    from fluxgrid.training.carbonbench.samples import cut

    record = carbonbench_records(folder)[0]
    moments = fit_moments([record])
    rules = [SampleRule(as_published=published) for published in (True, False)]
    published, ours = (cut(record, slice(None), moments, rule) for rule in rules)
    assert set(published.first) < set(ours.first)
