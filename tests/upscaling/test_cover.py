"""What is land, what lies in the region, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import shapely

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import Region, find_region
from fluxgrid.upscaling.cover import cut_warning, land_share, land_warning, region_share

GRID = Grid.from_bounds((-93.0, -91.6, 41.0, 42.0), 0.2)


def box(west: float, east: float, south: float, north: float, title: str = "The box") -> Region:
    return Region("box", title, shapely.box(west, south, east, north), (), "test")


def test_a_region_cut_by_the_cube_is_told_with_its_share():
    inside, half = box(-93.0, -91.6, 41.0, 42.0), box(-92.3, -90.9, 41.0, 42.0, "The east")
    assert cut_warning(inside, GRID, region_share(inside, GRID)) == ()
    said = cut_warning(half, GRID, region_share(half, GRID))
    assert said[0].startswith("The cube holds only 50.0% of The east: ")


def test_ground_beyond_the_border_is_told():
    """A box across the border with Manitoba: its north is no US land."""
    region = box(-99.0, -97.0, 48.2, 49.8)
    grid = Grid.from_bounds((-99.0, -97.0, 48.2, 49.8), 0.1)
    share, land = region_share(region, grid), land_share(grid)
    (said,) = land_warning(region, grid, share, land)
    # the border runs along 49 degrees north; the row of cells on it holds a sliver of land, so 7 of 16 rows hold none
    assert 42 < float(said.split("%")[0]) < 46
    assert "cannot tell apart" in said
    assert not land[grid.y > 49.1].any()


def test_named_regions_and_boxes_on_land_need_no_word():
    assert land_warning(box(-93.0, -91.6, 41.0, 42.0), GRID, np.ones(GRID.shape), land_share(GRID)) == ()
    michigan = find_region("michigan")
    grid = Grid.from_bounds(michigan.bounds, 0.5)
    assert land_warning(michigan, grid, region_share(michigan, grid), land_share(grid)) == ()


def test_outside_the_united_states_every_cell_counts_as_land():
    region = box(10.0, 11.0, 50.0, 51.0, "Thuringia")
    grid = Grid.from_bounds((10.0, 11.0, 50.0, 51.0), 0.25)
    land = land_share(grid)
    assert land.dtype == np.float32
    assert (land == 1).all()
    (said,) = land_warning(region, grid, region_share(region, grid), land)
    assert said.startswith("Thuringia lies outside the United States")
