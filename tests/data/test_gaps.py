"""Gap filling: exact where it must be, from the past only, and the same for a year, a record, one column or many."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.gaps import GapRule, History, fill_gaps
from fluxgrid.data.steps import Step, calendar


def season(time: pd.DatetimeIndex, mean=10.0, amplitude=8.0) -> np.ndarray:
    """Return one column with an annual cycle, (T, 1)."""
    share = (time.day_of_year - 1) / np.where(time.is_leap_year, 366, 365)
    return (mean - amplitude * np.cos(2 * np.pi * share)).to_numpy()[:, None].astype("float32")


def holey(seed: int, step: Step, share: float, years=(1999, 2002)) -> tuple[np.ndarray, pd.DatetimeIndex]:
    """Return a noisy record of 4 columns with single and long gaps, (T, 4)."""
    rng = np.random.default_rng(seed)
    time = calendar(f"{years[0]}-01-01", f"{years[1]}-12-31", step)
    values = season(time) + rng.normal(size=(len(time), 4)).astype("float32")
    values[rng.random(values.shape) < share] = np.nan
    for column in range(4):
        start = rng.integers(len(time))
        values[start : start + rng.integers(len(time) // 2), column] = np.nan
    return values, time


def plain(values, time, rule):
    """Fill one column the slow, obvious way."""
    out = values.astype("float64").copy()
    half = 6 if (time[1] - time[0]).days >= 28 else 183
    seen = np.flatnonzero(np.isfinite(values))
    share = ((time.day_of_year - 1) / np.where(time.is_leap_year, 366, 365)).to_numpy()
    terms = [np.ones(len(time))]
    for k in range(1, rule.harmonics + 1):
        terms += [np.cos(2 * np.pi * k * share), np.sin(2 * np.pi * k * share)]
    basis = np.stack(terms, axis=1)
    for i in np.flatnonzero(~np.isfinite(values)):
        left, right = seen[seen < i], seen[seen > i]
        past = seen[time.year[seen] < time.year[i]]
        if len(left) and len(right) and right[0] - left[-1] - 1 <= rule.linear_steps:
            out[i] = np.interp(i, [left[-1], right[0]], values[[left[-1], right[0]]])
        elif rule.harmonics and len(past) >= half:
            coefficients = np.linalg.lstsq(basis[past], values[past].astype("float64"))[0]
            out[i] = np.clip(basis[i] @ coefficients, values[past].min(), values[past].max())
    return out


def year_by_year(values, time, rule):
    """Fill each calendar year by itself, handing on the history."""
    history, parts = History.empty(values.shape[1], rule), []
    for year in time.year.unique():
        rows = np.flatnonzero(time.year == year)
        here, n = slice(rows[0], rows[-1] + 1), rule.linear_steps
        before, after = values[max(0, here.start - n) : here.start], values[here.stop : here.stop + n]
        parts.append(fill_gaps(values[here], time[here], rule, history, before, after))
        history = History.from_arrays(history.add(values[here], time[here]).arrays())
    return np.concatenate([part.values for part in parts]), np.concatenate([part.mask for part in parts])


def test_short_gaps_are_bridged_and_longer_ones_are_not():
    time = calendar("2001-01-01", "2001-01-11", "daily")
    values = np.array([0, np.nan, np.nan, 3, np.nan, np.nan, np.nan, 7, 8, 9, np.nan])[:, None]
    filled = fill_gaps(values, time, GapRule(2))
    np.testing.assert_array_equal(filled.values[:, 0], [0, 1, 2, 3, *[np.nan] * 3, 7, 8, 9, np.nan])
    np.testing.assert_array_equal(np.flatnonzero(filled.mask), [1, 2])
    assert np.isnan(values[1, 0])  # pure


def test_the_ends_of_a_record_get_the_nearest_value_where_asked():
    time = calendar("2001-01-01", "2001-01-11", "daily")
    nan = np.nan
    values = np.array([[nan, nan], [nan, 4], [2, nan], [nan, nan], [4, nan], [nan, nan], [nan, 5]] + [[nan, nan]] * 4)
    filled = fill_gaps(values, time, GapRule(2, ends=True))
    np.testing.assert_array_equal(filled.values[:, 0], [2, 2, 2, 3, 4, *[nan] * 6])
    np.testing.assert_array_equal(filled.values[:, 1], [4, 4, *[nan] * 4, 5, *[nan] * 4])
    everything = fill_gaps(values, time, GapRule(99, ends=True)).values
    assert np.isfinite(everything).all()
    expected = pd.DataFrame(values).interpolate(limit_direction="both")
    np.testing.assert_allclose(everything, expected)
    nothing = np.full((11, 1), nan)
    assert np.isnan(fill_gaps(nothing, time, GapRule(99, ends=True)).values).all()


@given(st.integers(0, 50), st.sampled_from([2, 9, 100, 5000]))
def test_years_by_themselves_see_where_a_record_ends(seed, steps):
    values, time = holey(seed, "daily", 0.3)
    rule = GapRule(steps, ends=True)
    whole = fill_gaps(values, time, rule)
    filled, mask = year_by_year(values, time, rule)
    np.testing.assert_array_equal(filled, whole.values)
    np.testing.assert_array_equal(mask, whole.mask)


def test_long_gap_is_filled_by_the_season_of_the_past():
    time = calendar("2000-01-01", "2001-12-31", "daily")
    truth = season(time)
    values = truth.copy()
    values[450:650] = np.nan
    filled = fill_gaps(values, time, GapRule(3, harmonics=1))
    np.testing.assert_allclose(filled.values, truth, atol=1e-4)
    assert filled.mask[450:650].all()
    assert filled.mask.sum() == 200


@pytest.mark.parametrize(("step", "steps", "enough"), [("daily", 182, False), ("daily", 183, True)])
def test_less_than_half_a_year_of_past_fills_nothing(step, steps, enough):
    time = calendar("2000-01-01", "2001-12-31", step)
    values = season(time)
    values[steps:] = np.nan
    filled = fill_gaps(values, time, GapRule(3, harmonics=1))
    assert not filled.mask[:366].any()
    assert filled.mask[366:].all() == enough


def test_six_months_are_half_a_year():
    time = calendar("2000-01-01", "2001-12-01", "monthly")
    values = season(time)
    values[6:] = np.nan
    assert fill_gaps(values, time, GapRule(1, harmonics=1)).mask[12:].all()
    values[5:] = np.nan
    assert not fill_gaps(values, time, GapRule(1, harmonics=1)).mask.any()


def test_one_month_alone_knows_its_step_from_the_past():
    time = calendar("2000-01-01", "2001-01-01", "monthly")
    rule = GapRule(1, harmonics=1)
    values = season(time)
    history = History.empty(1, rule).add(values[:12], time[:12])
    filled = fill_gaps(np.full((1, 1), np.nan, "float32"), time[12:], rule, history)
    np.testing.assert_allclose(filled.values, values[12:], atol=1e-4)


def test_a_past_that_does_not_determine_the_season_fills_nothing():
    time = calendar("2000-01-01", "2008-12-01", "monthly")
    values = np.where((time.month == 1)[:, None], season(time), np.nan).astype("float32")
    assert not fill_gaps(values, time, GapRule(0, harmonics=2)).mask.any()


def test_harmonic_never_leaves_the_range_seen():
    time = calendar("2000-01-01", "2001-12-31", "daily")
    rain = np.where(np.arange(len(time)) % 9 == 0, 20.0, 0.0)[:, None]
    rain[366:] = np.nan
    rain[200:366] = np.nan
    filled = fill_gaps(rain, time, GapRule(2, harmonics=3)).values[366:]
    assert np.all((filled >= 0) & (filled <= 20))


def test_the_future_does_not_matter():
    values, time = holey(3, "daily", 0.1)
    rule = GapRule(2, harmonics=2)
    changed = values.copy()
    changed[time.year >= 2001] *= -5
    earlier = time.year < 2000
    for a, b in zip((values, changed), (changed, values), strict=True):
        np.testing.assert_array_equal(
            fill_gaps(a, time, rule).values[earlier], fill_gaps(b, time, rule).values[earlier]
        )


@pytest.mark.parametrize("step", ["daily", "monthly"])
def test_agrees_with_the_slow_obvious_way(step):
    values, time = holey(11, step, 0.15)
    rule = GapRule(2, harmonics=2)
    expected = np.stack([plain(values[:, i], time, rule) for i in range(4)], axis=1)
    np.testing.assert_allclose(fill_gaps(values, time, rule).values, expected, rtol=1e-4, atol=1e-4)


@given(
    seed=st.integers(0, 10_000),
    step=st.sampled_from(["daily", "monthly"]),
    linear=st.integers(0, 5),
    harmonics=st.integers(0, 3),
    share=st.floats(0, 0.6),
)
def test_years_one_by_one_equal_the_record_and_columns_do_not_matter(seed, step, linear, harmonics, share):
    values, time = holey(seed, step, share, years=(1999, 2001))
    rule = GapRule(linear, harmonics)
    whole = fill_gaps(values, time, rule)
    parts, mask = year_by_year(values, time, rule)
    np.testing.assert_array_equal(parts, whole.values)
    np.testing.assert_array_equal(mask, whole.mask)
    one = fill_gaps(values[:, 2:3], time, rule)
    np.testing.assert_array_equal(one.values[:, 0], whole.values[:, 2])


def test_history_survives_zero_padding_and_cutting():
    values, time = holey(5, "monthly", 0.2)
    rule = GapRule(1, harmonics=1)
    history = History.empty(4, rule).add(values[:24], time[:24])
    padded = History.from_arrays(
        {k: np.pad(v, [(0, 3)] + [(0, 0)] * (v.ndim - 1)) for k, v in history.arrays().items()}
    )
    wide = np.pad(values[24:], ((0, 0), (0, 3)), constant_values=np.nan)
    np.testing.assert_array_equal(
        fill_gaps(wide, time[24:], rule, padded).values[:, :4], fill_gaps(values[24:], time[24:], rule, history).values
    )


def test_a_year_may_be_added_in_parts():
    values, time = holey(8, "daily", 0.2, years=(2000, 2001))
    rule = GapRule(1, harmonics=2)
    whole = History.empty(4, rule).add(values, time)
    parts = History.empty(4, rule).add(values[:100], time[:100]).add(values[100:], time[100:])
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)


def test_bad_input():
    time = calendar("2001-01-01", "2001-01-11", "daily")
    with pytest.raises(ValueError, match="do not fit 11 steps"):
        fill_gaps(np.zeros((3, 2)), time, GapRule(1))
    with pytest.raises(ValueError, match="not in order"):
        fill_gaps(np.zeros((11, 2)), time[::-1], GapRule(1))
    with pytest.raises(ValueError, match="linear_steps=-1"):
        GapRule(-1)
    history = History.empty(2, GapRule(1, 1)).add(np.zeros((11, 2)), time)
    with pytest.raises(ValueError, match="has reached 2001"):
        history.add(np.zeros((11, 2)), time - pd.DateOffset(years=1))
