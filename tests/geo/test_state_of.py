"""The state of a point: known towns, water, foreign ground, and every point by itself."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from fluxgrid.geo import boundaries
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.state_of import state_of


@pytest.mark.parametrize(
    ("latitude", "longitude", "postal"),
    [
        (41.59, -93.62, "IA"),  # Des Moines
        (39.77, -86.16, "IN"),  # Indianapolis
        (39.80, -89.65, "IL"),  # Springfield
        (38.90, -77.03, "DC"),  # Washington, inside neither Maryland nor Virginia
        (46.55, -87.40, "MI"),  # Marquette, in the part of Michigan that touches Wisconsin
        (61.22, -149.90, "AK"),
        (43.5, -87.0, ""),  # Lake Michigan
        (49.9, -97.1, ""),  # Winnipeg
        (np.nan, -93.0, ""),
    ],
)
def test_known_points(latitude, longitude, postal):
    assert state_of(latitude, longitude) == postal


def test_the_cells_of_a_grid_are_those_of_a_search_polygon_by_polygon():
    lon, lat = Grid.from_bounds((-91.6, -87.0, 40.0, 42.9), 0.31).lonlat()
    found = state_of(lat, lon)
    frame = boundaries.states()
    for row, column in np.ndindex(lon.shape):
        inside = frame.loc[frame.intersects(shapely.Point(lon[row, column], lat[row, column])), "postal"]
        assert found[row, column] == (inside.iloc[0] if len(inside) else "")
    assert {"IA", "IL", "WI", ""} <= set(found.ravel())


def test_a_point_on_a_border_belongs_to_the_first_state():
    frame = boundaries.states().set_index("postal")
    vertices = shapely.get_coordinates(shapely.intersection(frame.geometry["IL"], frame.geometry["IA"]))
    # Illinois (FIPS 17) stands before Iowa (19)
    assert set(state_of(vertices[1:-1, 1], vertices[1:-1, 0])) == {"IL"}
