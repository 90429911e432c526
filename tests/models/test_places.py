"""Calibrated places: a JSON round trip, and what is no list of places is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fluxgrid.models.places import Bandwidth, CalibratedPlaces, climate_scale

CLIMATE = np.array([[8.1, 2.5], [10.7, 2.9], [0.1 + 0.2, 1.0 / 3.0]])


@pytest.fixture
def places() -> CalibratedPlaces:
    return CalibratedPlaces(
        names=("Iowa", "US-Ne1", "Illinois"),
        latitude=np.array([42.0, 41.2, 40.0]),
        longitude=np.array([-93.5, -96.5, -89.0]),
        climate=CLIMATE,
        climate_names=("temperature_2m", "precipitation"),
        climate_scale=climate_scale(CLIMATE),
        states=("IA", "", "IL"),
        bandwidth=Bandwidth(200.0, 1.0, 0.3, 6),
    )


@pytest.mark.parametrize("bandwidth", [None, Bandwidth(123.4, 0.7, 0.05, 8)])
def test_json_brings_back_every_bit(places, bandwidth):
    places = replace(places, bandwidth=bandwidth)
    again = CalibratedPlaces.from_json(places.to_json())
    for name in ("latitude", "longitude", "climate", "climate_scale"):
        np.testing.assert_array_equal(getattr(again, name), getattr(places, name))
        assert getattr(again, name).dtype == np.float64
    for name in ("names", "climate_names", "states", "bandwidth"):
        assert getattr(again, name) == getattr(places, name)
    assert again.to_json() == places.to_json()


def changed(places, **changes):
    return json.dumps(json.loads(places.to_json()) | changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"names": "abc"}, TypeError),
        ({"names": ["a", "b", 3]}, TypeError),
        ({"latitude": ["42.0", "41.2", "40.0"]}, TypeError),
        ({"latitude": [42.0, None, 40.0]}, TypeError),
        ({"latitude": [42.0, 41.0]}, ValueError),
        ({"climate": CLIMATE.T.tolist()}, ValueError),
        ({"climate": [[1.0, 2.0], [1.0], [3.0, 4.0]]}, ValueError),
        ({"climate": [1.0, 2.0, 3.0]}, TypeError),
        ({"climate_scale": [1.0, 0.0]}, ValueError),
        ({"states": ["IA", "", "IA"]}, ValueError),
        ({"bandwidth": {"ground_km": 1.0}}, TypeError),
        ({"bandwidth": {"ground_km": 1.0, "climate": 1.0, "shrink": 0.0, "most": 1}}, ValueError),
        ({"radius": 3}, TypeError),
    ],
)
def test_text_that_does_not_fit_is_refused(places, changes, error):
    with pytest.raises(error):
        CalibratedPlaces.from_json(changed(places, **changes))


@pytest.mark.parametrize("name", ["names", "climate", "bandwidth"])
def test_a_part_that_is_missing_is_refused(places, name):
    row = json.loads(places.to_json())
    del row[name]
    with pytest.raises(KeyError):
        CalibratedPlaces.from_json(json.dumps(row))


def test_every_problem_is_listed(places):
    with pytest.raises(ValueError, match=r"states: 2 for 3 names(.|\n)*latitude: shape(.|\n)*'a' comes 2 times"):
        replace(places, names=("a", "a", "b"), states=("IA", ""), latitude=np.zeros(2))
    with pytest.raises(ValueError, match=r"latitude: all must be finite and within -90..90(.|\n)*climate: all must"):
        replace(places, latitude=np.array([99.0, 0.0, 0.0]), climate=np.full((3, 2), np.nan))


@pytest.mark.parametrize(
    "numbers", [(0.0, 1.0, 1.0, 3), (1.0, np.inf, 1.0, 3), (1.0, 1.0, np.nan, 3), (1.0, 1.0, 1.0, 2.5), (True, 1, 1, 0)]
)
def test_a_bandwidth_is_above_zero(numbers):
    with pytest.raises(ValueError, match="must be a"):
        Bandwidth(*numbers)


def test_states_are_found_by_their_codes(places):
    found = places.positions_of(np.array([["IL", "", "IA"], ["WI", "IL", "IL"]]))
    np.testing.assert_array_equal(found, [[2, -1, 0], [-1, 2, 2]])
    assert found.dtype == np.int16
