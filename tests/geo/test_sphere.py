"""Distances on the sphere, beside the haversine formula and distances known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.geo.sphere import EARTH_RADIUS_KM, great_circle_km

degrees = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


def haversine(one, other):
    (a, b), (c, d) = np.radians(one), np.radians(other)
    half = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(half, 1.0)))


@given(degrees, degrees)
def test_it_is_the_haversine_distance(one, other):
    found = great_circle_km(*([v] for v in one), *([v] for v in other))[0, 0]
    # both formulae lose digits at antipodes alone, where a rounding of 1e-16 is some 0.2 m
    assert found == pytest.approx(haversine(one, other), rel=1e-9, abs=1e-3)


def test_a_quarter_of_a_meridian_is_a_quarter_of_the_circle():
    assert great_circle_km([0.0], [12.0], [90.0], [-50.0])[0, 0] == pytest.approx(np.pi / 2 * EARTH_RADIUS_KM)


def test_a_metre_is_told_from_none():
    metre = np.degrees(1e-3 / EARTH_RADIUS_KM)
    assert great_circle_km([42.0], [-93.0], [42.0 + metre], [-93.0])[0, 0] == pytest.approx(1e-3, rel=1e-6)
    assert great_circle_km([42.0], [-93.0], [42.0], [-93.0])[0, 0] == 0.0


def test_a_pair_does_not_depend_on_the_others():
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(25, 50, 37), rng.uniform(-120, -70, 37)
    every = great_circle_km(latitude, longitude, latitude[:11], longitude[:11])
    one = great_circle_km(latitude[5:6], longitude[5:6], latitude[3:4], longitude[3:4])
    assert one[0, 0] == every[5, 3]
