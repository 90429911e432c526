"""Tiles: the pieces of a map that are predicted one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from fluxgrid.errors import GridError
from fluxgrid.geo.grid import Grid


@dataclass(frozen=True)
class Tile:
    """A piece of a map: its place in the map and its own grid.

    Parameters
    ----------
    row, col : int
        Place among the tiles.
    rows, cols : slice
        Cells of the map.
    grid : Grid
        Of the tile, of the same kind as the map's.
    """

    row: int
    col: int
    rows: slice = field(hash=False)  # Python 3.11 cannot hash slices
    cols: slice = field(hash=False)
    grid: Grid

    @property
    def name(self) -> str:
        """Name from the first row and column in the map: r0064c0128."""
        return f"r{self.rows.start:04d}c{self.cols.start:04d}"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.grid.shape


def make_tiles(grid: Grid, size: int | tuple[int, int]) -> tuple[Tile, ...]:
    """Return tiles that cover a grid exactly once, row by row from the upper left.

    Parameters
    ----------
    grid : Grid
        Of the map.
    size : int or (rows, columns)
        Cells along a side, >= 1; the last tile of a row or column may be smaller.

    Returns
    -------
    tiles : tuple of Tile

    Raises
    ------
    GridError
        If the size is not a whole number above 0.

    Examples
    --------
    >>> grid = Grid.from_bounds((0, 0.7, 0, 0.5), 0.1)
    >>> [tile.name for tile in make_tiles(grid, 4)]
    ['r0000c0000', 'r0000c0004', 'r0004c0000', 'r0004c0004']
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    if not all(isinstance(n, int) and n >= 1 for n in (height, width)):
        message = f"A tile of {height} x {width} cells cannot be cut: give whole numbers of at least 1 (--tile 64)."
        raise GridError(message)
    rows, cols = _cuts(grid.shape[0], height), _cuts(grid.shape[1], width)
    return tuple(
        Tile(row, col, rows[row], cols[col], grid.crop(rows[row], cols[col]))
        for row in range(len(rows))
        for col in range(len(cols))
    )


def _cuts(length: int, size: int) -> list[slice]:
    """Return slices of some size that cover a length; the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
