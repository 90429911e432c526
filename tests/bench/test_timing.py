from __future__ import annotations

import math

import pytest

from fluxgrid.bench.timing import in_turns, speed_ratio, spread_of


def test_everything_runs_once_a_round_and_rounds_begin_elsewhere():
    order = []

    def run(name):
        return lambda: order.append(name) or float(len(order))

    seconds = in_turns({name: run(name) for name in "abcd"}, 2)
    assert order == [*"abcd", *"cdab"]
    assert seconds == {"a": [1.0, 7.0], "b": [2.0, 8.0], "c": [3.0, 5.0], "d": [4.0, 6.0]}


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
