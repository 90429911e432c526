"""Steps at state borders: seen where they are, absent where there is no border."""

from __future__ import annotations

import numpy as np
import pytest

from fluxgrid.evaluation.borders import border_steps
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.geo.state_of import state_of

BOX = find_region("-92.5,41,-89.5,42")
IOWA_AND_ILLINOIS = Grid.from_bounds((-92.5, -89.5, 41.0, 42.0), 0.1)


def test_a_map_drawn_state_by_state_jumps_and_a_smooth_one_does_not():
    lon, lat = IOWA_AND_ILLINOIS.lonlat()
    smooth = lon + 2 * lat
    iowa = state_of(lat, lon) == "IA"
    found = border_steps({"smooth": smooth, "jumps": smooth + 3 * iowa}, IOWA_AND_ILLINOIS, BOX)
    assert found["smooth"] == pytest.approx(1, abs=0.35)  # the river runs more along one axis than the other
    assert found["jumps"] > 10


def test_fewer_than_two_states_have_no_border():
    lon, lat = IOWA_AND_ILLINOIS.lonlat()
    iowa = np.where(state_of(lat, lon) == "IA", lon, np.nan)
    assert border_steps({"nee": iowa}, IOWA_AND_ILLINOIS, BOX) == {}
    lon, lat = (grid := Grid.from_bounds(find_region("iowa").bounds, 0.25)).lonlat()
    assert len(np.unique(state_of(lat, lon))) > 1  # of cells on the rim
    assert border_steps({"nee": lon}, grid, find_region("iowa")) == {}
    abroad = Grid.from_bounds((-96, -95, 50, 51), 0.25)
    assert border_steps({"nee": np.arange(16.0).reshape(4, 4)}, abroad, find_region("-96,50,-95,51")) == {}


def test_a_flat_map_has_no_ratio():
    assert border_steps({"nee": np.ones(IOWA_AND_ILLINOIS.shape)}, IOWA_AND_ILLINOIS, BOX) == {}
