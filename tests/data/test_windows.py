from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.windows import Window, plan_windows


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 12), st.integers(1, 20))
def test_every_step_after_the_first_spin_up_is_scored_exactly_once(lengths, spin_up, window):
    windows = plan_windows(lengths, spin_up, window)
    for sequence, length in enumerate(lengths):
        own = [w for w in windows if w.sequence == sequence]
        scored = [step for w in own for step in range(w.scored.start, w.scored.stop)]
        assert scored == list(range(spin_up, length))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 12), st.integers(1, 20))
def test_every_window_has_its_spin_up_and_stays_inside(lengths, spin_up, window):
    for w in plan_windows(lengths, spin_up, window):
        assert w.spin_up == spin_up
        assert 0 <= w.start < w.stop <= lengths[w.sequence]
        assert 0 < w.scored.stop - w.scored.start <= window


def test_a_sequence_that_is_all_spin_up_gives_no_window():
    assert plan_windows([5, 8], spin_up=5, window=4) == (Window(1, 0, 5, 8),)
