"""The world is frozen: the same places and days give the same values, until its version says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fluxgrid.simulation import WORLD_VERSION, simulate, true_fluxes, world_digest

STORED = Path(__file__).with_name("frozen_world.json")
LATITUDE, LONGITUDE = np.array([42.2, 47.3, 41.0, 39.9, 37.2]), np.array([-93.8, -91.5, -102.5, -88.8, -90.1])
DAYS = pd.date_range("2010-01-01", "2011-12-31", freq="13D")


def values() -> dict[str, list[float]]:
    """Return the mean of each variable at each place."""
    world = simulate(LATITUDE, LONGITUDE, DAYS) | true_fluxes(LATITUDE, LONGITUDE, DAYS)
    return {
        name: [float(np.nanmean(array[..., place], dtype=np.float64)) for place in range(len(LATITUDE))]
        for name, array in world.items()
    }


def test_values_are_those_stored_for_this_version():
    """A formula that changes values needs a new `version` in world.yaml, and every table made anew."""
    if not STORED.exists():
        found = {"version": WORLD_VERSION, "digest": world_digest(), "values": values()}
        STORED.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{STORED.name} was missing and has been written; look at it and commit it.")
    stored = json.loads(STORED.read_text())
    assert (stored["version"], stored["digest"]) == (WORLD_VERSION, world_digest())
    found = values()
    assert found.keys() == stored["values"].keys()
    for name, expected in stored["values"].items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
