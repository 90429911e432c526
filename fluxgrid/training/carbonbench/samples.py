"""From records to the arrays that CarbonBench's networks are trained on and scored with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from fluxgrid.data.samples import TEST, TRAIN, SampleRule, plan_samples, time_tail
from fluxgrid.training.carbonbench.records import BANDS, Record


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of covariates (F,) and targets (3,), over training days."""

    x_mean: np.ndarray
    x_std: np.ndarray
    y_mean: np.ndarray
    y_std: np.ndarray


@dataclass(frozen=True, eq=False)
class Samples:
    """Windows, standardised."""

    x: np.ndarray
    """(n, W, F), float32."""
    y: np.ndarray
    """(n, S, 3), float32."""
    quality: np.ndarray
    """(n, S), float32."""
    site: np.ndarray
    """Position of each window's record, (n,)."""
    first: pd.DatetimeIndex
    """First day of each window, (n,)."""

    def __len__(self) -> int:
        return len(self.site)


def training_rows(record: Record) -> slice:
    """Return the days of a training site before its tail, which is validated on."""
    return slice(0, time_tail(len(record.days)))


def validation_rows(record: Record) -> slice:
    """Return the last fifth of the days of a training site."""
    return slice(time_tail(len(record.days)), None)


def fit_moments(records: Sequence[Record]) -> Moments:
    """Return moments over the training days of training sites; a column that never varies gets a deviation of 1."""
    rows = [record.covariates.reindex(record.days[training_rows(record)]).to_numpy() for record in records]
    targets = [record.targets[training_rows(record)] for record in records]
    found = []
    for parts in (rows, targets):
        values = np.concatenate(parts)
        deviation = np.nanstd(values, axis=0)
        found += [np.nanmean(values, axis=0), np.where(deviation > 0, deviation, 1.0)]
    return Moments(*found)


def cut(record: Record, rows: slice, moments: Moments, rule: SampleRule, position: int = 0) -> Samples:
    """Return the windows of some days of a record.

    Parameters
    ----------
    record : Record
    rows : slice
        Of its days.
    moments : Moments
    rule : SampleRule
        As published, covariates stand on days with a target and on the days before the first only.
    position : int
        What `Samples.site` says of them.

    Returns
    -------
    samples : Samples
        Bands are drawn straight over the days without covariates, from the first to the last day of the part and held
        beyond; all else must be known.
    """
    days, quality = record.days[rows], record.quality[rows]
    calendar = pd.date_range(days[0] - pd.Timedelta(days=rule.window - 1), days[-1])
    table = record.covariates.reindex(calendar)
    if rule.as_published:
        table[~calendar.isin(days) & (calendar >= days[0])] = np.nan
    values = pd.DataFrame((table.to_numpy() - moments.x_mean) / moments.x_std, calendar, table.columns)
    bands = [name for name in BANDS if name in values]
    values[bands] = values[bands].interpolate(limit_direction="both")
    first = plan_samples(days, calendar[values.notna().all(axis=1)], quality, rule)
    targets = (pd.DataFrame(record.targets[rows], days).reindex(calendar).to_numpy() - moments.y_mean) / moments.y_std
    at = calendar.get_indexer(first)
    last = at + rule.window - rule.stride
    x = sliding_window_view(values.to_numpy(np.float32), rule.window, axis=0)[at].transpose(0, 2, 1)
    y = sliding_window_view(targets.astype(np.float32), rule.stride, axis=0)[last].transpose(0, 2, 1)
    good = pd.Series(quality, days).reindex(calendar).to_numpy(np.float32)
    q = sliding_window_view(good, rule.stride, axis=0)[last]
    return Samples(np.ascontiguousarray(x), np.ascontiguousarray(y), q.copy(), np.full(len(at), position), first)


def training_samples(records: Sequence[Record], moments: Moments, rule: SampleRule = TRAIN) -> tuple[Samples, Samples]:
    """Return the windows of training sites to train on, and those of their tails to validate on."""
    rule = replace(rule, as_published=True)
    parts = [
        [cut(record, rows(record), moments, rule, i) for i, record in enumerate(records)]
        for rows in (training_rows, validation_rows)
    ]
    train, validation = (join(part) for part in parts)
    return train, validation


def scored_samples(record: Record, moments: Moments, rule: SampleRule = TEST) -> Samples:
    """Return the windows that a site held out is scored with: one for each day of best quality."""
    return cut(record, slice(None), moments, replace(rule, as_published=True))


def join(parts: Sequence[Samples]) -> Samples:
    """Return samples one after the other."""
    x, y, quality, site = (np.concatenate([getattr(p, k) for p in parts]) for k in ("x", "y", "quality", "site"))
    return Samples(x, y, quality, site, pd.DatetimeIndex(np.concatenate([p.first.to_numpy() for p in parts])))
