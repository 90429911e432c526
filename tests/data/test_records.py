from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.gaps import GapRule
from fluxgrid.data.inputs import InputSpec, prepare
from fluxgrid.data.records import filled_site, halo_of, plan_segments, site_inputs, site_places
from fluxgrid.data.steps import STEPS, STEPS_PER_YEAR, calendar
from fluxgrid.testing import small_sites


@st.composite
def records(draw):
    """Draw a calendar, its step and a first step that counts."""
    step = draw(st.sampled_from(STEPS))
    start = pd.Timestamp(draw(st.dates(pd.Timestamp("1999-01-01").date(), pd.Timestamp("2002-12-31").date())))
    time = calendar(start, start + pd.Timedelta(days=draw(st.integers(40, 1900))), step)
    return time, step, draw(st.integers(0, len(time) - 1))


@given(records(), st.integers(0, 3))
def test_scored_steps_cover_the_period_once_in_order_one_year_at_a_time(record, spin_up_years):
    time, step, first = record
    segments = plan_segments(time, step, first, spin_up_years)
    scored = [segment for segment in segments if segment.scored]
    assert [i for segment in scored for i in range(segment.steps.start, segment.steps.stop)] == [
        *range(first, len(time))
    ]
    assert all(len(set(time[segment.steps].year)) == 1 for segment in scored)
    assert segments[-len(scored) :] == tuple(scored)  # spin-up comes before


@given(records(), st.integers(0, 3))
def test_spin_up_is_the_years_before_and_is_recycled_only_for_years_that_are_missing(record, spin_up_years):
    time, step, first = record
    segments = plan_segments(time, step, first, spin_up_years)
    recycled = [segment for segment in segments if segment.recycled]
    real = [segment for segment in segments if not segment.scored and not segment.recycled]
    own_year = slice(first, min(first + STEPS_PER_YEAR[step], len(time)))
    assert all(segment.steps == own_year and not segment.scored for segment in recycled)
    covered = [i for segment in real for i in range(segment.steps.start, segment.steps.stop)]
    assert covered == list(range(first - len(covered), first))
    assert len(recycled) + round(len(covered) / STEPS_PER_YEAR[step]) == spin_up_years
    begin = time[first] - pd.DateOffset(years=spin_up_years)
    if time[0] <= begin:
        assert not recycled
        assert len(covered) == int(((time >= begin) & (time < time[first])).sum())


@given(records(), st.integers(0, 3), st.integers(1, 800))
def test_of_a_short_memory_only_the_last_steps_of_spin_up_are_run(record, spin_up_years, kept):
    time, step, first = record
    whole, short = (plan_segments(time, step, first, spin_up_years, steps) for steps in (None, kept))
    assert [s for s in short if s.scored] == [s for s in whole if s.scored]

    def run(segments):
        spin_up = [segment for segment in segments if not segment.scored]
        return [(i, s.recycled) for s in spin_up for i in range(s.steps.start, s.steps.stop)]

    real = [(i, False) for i in range(first - kept, first)]
    expected = run(whole) if not spin_up_years else real if kept <= first else run(whole)[-kept:]
    assert run(short) == expected
    assert all(s.steps.start < s.steps.stop for s in short)


def spans(segments):
    return [(s.steps.start, s.steps.stop, "scored" if s.scored else "own" if s.recycled else "past") for s in segments]


@pytest.mark.parametrize(
    ("first", "years", "expected"),
    [
        (0, 0, [(0, 12, "scored"), (12, 24, "scored"), (24, 30, "scored")]),
        (0, 1, [(0, 12, "own"), (0, 12, "scored"), (12, 24, "scored"), (24, 30, "scored")]),
        (12, 1, [(0, 12, "past"), (12, 24, "scored"), (24, 30, "scored")]),
        (12, 2, [(12, 24, "own"), (0, 12, "past"), (12, 24, "scored"), (24, 30, "scored")]),
        (18, 1, [(6, 12, "past"), (12, 18, "past"), (18, 24, "scored"), (24, 30, "scored")]),
        (24, 2, [(0, 12, "past"), (12, 24, "past"), (24, 30, "scored")]),
        (11, 1, [(0, 11, "past"), (11, 12, "scored"), (12, 24, "scored"), (24, 30, "scored")]),
        (5, 1, [(5, 17, "own"), (5, 12, "scored"), (12, 24, "scored"), (24, 30, "scored")]),
        (26, 1, [(14, 24, "past"), (24, 26, "past"), (26, 30, "scored")]),
    ],
)
def test_segments_by_hand(first, years, expected):
    time = calendar("2001-01-01", "2003-06-01", "monthly")
    assert spans(plan_segments(time, "monthly", first, years)) == expected


@pytest.mark.parametrize(
    ("first", "years", "expected"),
    [
        (12, 1, [(5, 12, "past")]),  # seven months of the year before
        (12, 2, [(5, 12, "past")]),  # the year that the record lacks is not needed
        (7, 1, [(0, 7, "past")]),  # nor all of the one before
        (18, 1, [(11, 12, "past"), (12, 18, "past")]),
        (5, 1, [(10, 17, "own")]),  # two months are lacking
        (0, 1, [(5, 12, "own")]),
        (0, 0, []),
    ],
)
def test_segments_of_a_memory_of_seven_months_by_hand(first, years, expected):
    time = calendar("2001-01-01", "2003-06-01", "monthly")
    found = spans(plan_segments(time, "monthly", first, years, 7))
    assert [span for span in found if span[2] != "scored"] == expected
    assert [i for low, high, kind in found if kind == "scored" for i in range(low, high)] == list(range(first, 30))


@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 12))
def test_the_halo_stays_inside_the_record(start, length, halo):
    stop = min(start + length, 61)
    before, after = halo_of(slice(start, stop), halo, 61)
    assert 0 <= before <= halo
    assert 0 <= after <= halo
    assert start - before >= 0
    assert stop + after <= 61
    assert before == halo or start - before == 0
    assert after == halo or stop + after == 61


def test_a_site_is_a_block_of_one_place(make_spec):
    spec, site = make_spec().inputs, small_sites(n=1).sites[0]
    places = site_places(site, "monthly", spec, slice(12, 24))
    assert (places.before, places.after) == (2, 2)
    assert {name: values.shape for name, values in places.forcings.items()} == dict.fromkeys(spec.forcings, (16, 1))
    np.testing.assert_array_equal(places.forcings["shortwave"][:, 0], site.series["shortwave"].iloc[10:26])
    assert places.statics["climate_group"].tolist() == [3.0]
    assert places.time.equals(site.series.index[12:24])
    ends = site_places(site, "monthly", spec, slice(30, 36))
    assert (ends.before, ends.after) == (2, 0)


def test_a_record_by_years_is_filled_as_the_record_at_once(make_spec):
    spec, site = make_spec().inputs, small_sites(n=1, periods=60, missing=0.15, seed=2).sites[0]
    by_years = site_inputs(site, "monthly", spec)
    at_once, _ = prepare(site_places(site, "monthly", spec, slice(0, 60)), spec, {})
    assert by_years.filled.sum() > 5
    np.testing.assert_array_equal(by_years.filled, at_once.filled)
    np.testing.assert_array_equal(by_years.missing, at_once.missing)
    for name in spec.dynamic:
        np.testing.assert_array_equal(by_years.dynamic[name], at_once.dynamic[name], err_msg=name)


def test_a_filled_site_has_the_inputs_of_the_models_and_its_own_fluxes():
    site = small_sites("daily", n=1, periods=60, missing=0.3).sites[0]
    spec = InputSpec(("temperature_2m", "shortwave"), gaps={"temperature_2m": GapRule(60, ends=True)})
    filled = filled_site(site, "daily", spec).series
    expected = site.series["temperature_2m"].interpolate(limit_direction="both")
    np.testing.assert_allclose(filled["temperature_2m"], expected, rtol=1e-6)
    unchanged = filled.columns.difference(["temperature_2m"])
    pd.testing.assert_frame_equal(filled[unchanged], site.series[unchanged])
