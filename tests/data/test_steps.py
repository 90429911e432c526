from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.steps import STEPS, calendar, days_per_step, step_ends

steps = st.sampled_from(STEPS)
starts = st.dates(pd.Timestamp("1990-01-01").date(), pd.Timestamp("2030-12-31").date())


@given(steps, starts, st.integers(31, 900))
def test_the_steps_of_a_calendar_join_without_gaps(step, start, days):
    time = calendar(pd.Timestamp(start), pd.Timestamp(start) + pd.Timedelta(days=days), step)
    ends = step_ends(time, step)
    assert ends[:-1].equals(time[1:])
    np.testing.assert_array_equal((ends - time) / pd.Timedelta(days=1), days_per_step(time, step))


@pytest.mark.parametrize(("year", "days"), [(1900, 365), (2000, 366), (2019, 365), (2020, 366)])
def test_a_year_is_as_long_as_its_steps(year, days):
    for step in STEPS:
        assert days_per_step(calendar(f"{year}-01-01", f"{year}-12-31", step), step).sum() == days


def test_both_ends_are_included_and_months_start_on_the_first():
    assert len(calendar("2020-02-28", "2020-03-01", "daily")) == 3
    assert list(calendar("2020-01-15", "2020-03-01", "monthly").day) == [1, 1]
