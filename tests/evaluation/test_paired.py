"""Intervals against numbers worked out by hand, and what no shift or scale may change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.evaluation.paired import mean_interval, paired_difference

T_4 = 2.776445  # 0.975 quantile of Student's distribution with 4 degrees of freedom, from printed tables
ERRORS = st.lists(st.floats(0.01, 10), min_size=2, max_size=8)


def test_t_interval_by_hand():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 10.0])  # mean 4, s^2 = (9 + 4 + 1 + 0 + 36) / 4 = 12.5
    half = T_4 * math.sqrt(12.5 / 5)
    assert (found.n, found.mean) == (5, 4.0)
    assert found.low == pytest.approx(4.0 - half, abs=1e-5)  # six digits of the table
    assert found.high == pytest.approx(4.0 + half, abs=1e-5)


def test_one_value_has_no_interval():
    found = mean_interval([0.3])
    assert found.mean == 0.3
    assert np.isnan([found.low, found.high]).all()
    single = paired_difference([0.3], [0.6])
    assert (single.mean, single.improvement) == (-0.3, 50.0)
    assert np.isnan([single.low, single.high, single.improvement_high]).all()


def test_difference_by_hand():
    ours, other = [0.2, 0.3, 0.1, 0.3, 0.1], [0.4, 0.4, 0.4, 0.4, 0.4]  # d: -.2 -.1 -.3 -.1 -.3, mean -.2, s = .1
    found = paired_difference(ours, other)
    assert found.mean == pytest.approx(-0.2)
    assert found.low == pytest.approx(-0.2 - T_4 * 0.1 / math.sqrt(5), abs=1e-6)
    assert found.improvement == pytest.approx(50.0)
    assert found.improvement_low == pytest.approx(-100 * found.high / 0.4)
    assert found.improvement_high == pytest.approx(-100 * found.low / 0.4)


def test_pairs_matter():
    """A spread that both sides share drops out: the same numbers in another order say much less."""
    ours, other = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.2, 2.2, 3.2, 4.2])
    paired, mixed = paired_difference(ours, other), paired_difference(ours, other[::-1])
    assert paired.mean == pytest.approx(mixed.mean)
    assert paired.high < 0 < mixed.high
    assert paired.high - paired.low == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(errors=ERRORS, shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_the_interval_moves_and_stretches_with_the_values(errors, shift, scale):
    first, second = mean_interval(errors), mean_interval(scale * np.array(errors) + shift)
    for name in ("mean", "low", "high"):
        assert getattr(second, name) == pytest.approx(scale * getattr(first, name) + shift, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(errors=ERRORS)
def test_sides_exchanged_change_the_sign(errors):
    x, y = np.array(errors), np.array(errors)[::-1] + 0.5
    one, two = paired_difference(x, y), paired_difference(y, x)
    np.testing.assert_allclose([one.mean, one.low], [-two.mean, -two.high], atol=1e-9)


def test_coverage_of_the_t_interval():
    """Of 2000 samples of 5, 95 % hold the true mean; three standard errors of that share are 1.5 %."""
    samples = np.random.default_rng(4).normal(2.0, 3.0, (2000, 5))
    found = [mean_interval(sample) for sample in samples]
    assert np.mean([each.low <= 2.0 <= each.high for each in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("ours", "other", "text"),
    [([1, 2], [1], "got 2 and 1"), ([], [], r"got \[\]"), ([1, np.nan], [1, 2], "nan")],
)
def test_what_cannot_be_paired(ours, other, text):
    with pytest.raises(ConfigError, match=text):
        paired_difference(ours, other)
