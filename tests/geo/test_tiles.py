"""Tiles partition a grid, whatever its shape and theirs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import GridError
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import make_tiles

SIZES = st.integers(1, 60)


def make_grid(ny: int, nx: int) -> Grid:
    return Grid.from_bounds((-100.0, -100.0 + 0.1 * nx, 49.0 - 0.1 * ny, 49.0), 0.1)


@given(ny=SIZES, nx=SIZES, height=SIZES, width=SIZES)
def test_tiles_cover_every_cell_once(ny, nx, height, width):
    grid = make_grid(ny, nx)
    count = np.zeros(grid.shape, int)
    for tile in make_tiles(grid, (height, width)):
        count[tile.rows, tile.cols] += 1
        assert tile.shape == count[tile.rows, tile.cols].shape
        assert max(tile.shape[0] - height, tile.shape[1] - width) <= 0
    assert grid.shape == (ny, nx)
    assert (count == 1).all()


@given(ny=SIZES, nx=SIZES, size=SIZES)
def test_a_tile_is_a_small_map(ny, nx, size):
    grid = make_grid(ny, nx)
    tiles = make_tiles(grid, size)
    for tile in tiles:
        assert (tile.grid.x == grid.x[tile.cols]).all()
        assert (tile.grid.y == grid.y[tile.rows]).all()
        assert grid.window(tile.grid) == (tile.rows, tile.cols)
    assert len({tile.name for tile in tiles}) == len(tiles)
    assert len(set(tiles)) == len(tiles)


def test_names_tell_the_first_row_and_column():
    assert [tile.name for tile in make_tiles(make_grid(5, 7), 4)] == [
        "r0000c0000", "r0000c0004", "r0004c0000", "r0004c0004"
    ]  # fmt: skip
    last = make_tiles(make_grid(5, 7), 4)[-1]
    assert (last.row, last.col, last.shape) == (1, 1, (1, 3))


@pytest.mark.parametrize("size", [0, -3, 2.5, (4, 0)])
def test_wrong_size(size):
    with pytest.raises(GridError, match="whole numbers of at least 1"):
        make_tiles(make_grid(5, 7), size)
