from __future__ import annotations

import math
from itertools import pairwise

import pytest

from fluxgrid.bench.timing import fastest, in_turns, speed_ratio, spread_of


def test_everything_runs_once_a_round_and_in_another_order():
    order = []

    def run(name):
        return lambda: order.append(name) or float(len(order))

    names = "abcdefgh"
    seconds = in_turns({name: run(name) for name in names}, 7)
    rounds = [order[i : i + len(names)] for i in range(0, len(order), len(names))]
    assert all(sorted(each) == list(names) for each in rounds)
    for name in names:
        assert [order[int(at) - 1] for at in seconds[name]] == [name] * 7
        before = {each[each.index(name) - 1] for each in rounds if each[0] != name}
        assert len(before) > 2  # what stands before a run changes from round to round


def test_forms_are_compared_warm_and_one_is_ready_at_a_time():
    ready = []

    def made(name, *seconds):
        ready.append(name)
        turns = iter(seconds)
        return lambda: next(turns)

    forms = ("a", 2.0, 2.0), ("b", 9.0, 1.0), ("c", 0.5, 3.0)  # b compiles at first
    best, found = fastest((name, made(name, *seconds)) for name, *seconds in forms)
    assert (best, found) == ("b", {"a": 2.0, "b": 1.0, "c": 3.0})
    assert ready == ["a", "b", "c"]


def test_what_is_compared_runs_together():
    order = []
    names = ("a1x", "b1x", "a2x", "c1x", "a1y", "b2x", "a3x", "a1z")
    runs = {name: (lambda name=name: order.append(name) or 1.0) for name in names}
    in_turns(runs, 5, groups_of=lambda name: (name[0], name[1]))
    rounds = [order[i : i + len(runs)] for i in range(0, len(order), len(runs))]
    for each in rounds:
        assert sorted(each) == sorted(runs)
        for length, pieces in ((1, 3), (2, 6)):  # each group in one piece
            groups = [name[:length] for name in each]
            assert sum(one != other for one, other in pairwise(groups)) == pieces - 1
    assert len({tuple(each) for each in rounds}) > 2


def test_a_ratio_is_of_pairs_and_counts_the_work():
    found = speed_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])  # a machine that slows down does so for both
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))
    assert speed_ratio([1.0, 1.0], [1.0, 1.0], work=10).ratio == pytest.approx(10)
    inverse = speed_ratio([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    forth = speed_ratio([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert inverse.ratio * forth.ratio == pytest.approx(1)
    assert inverse.low * forth.high == pytest.approx(1)
    assert math.isnan(speed_ratio([1.0], [1.0]).low)


def test_the_spread_is_median_and_range():
    found = spread_of([4.0, 1.0, 2.0, 8.0])
    assert (found.n, found.median, found.low, found.high) == (4, 3.0, 1.0, 8.0)
