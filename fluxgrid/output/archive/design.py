"""What all versions of an archive have in common, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from affine import Affine
from odc.geo.geobox import GeoBox

from fluxgrid.data.steps import STEPS, Step, calendar
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import Tile, make_tiles
from fluxgrid.output.archive.layout import FORMAT, file_hash
from fluxgrid.output.layers import Layers

README_TEXT = """\
Maps of one region, in every state that was published. No program of ours is needed to read them.

versions/000012/        one published state; the highest number is the newest; nothing in it ever changes
  version.json          when it was published, its tag, its parent, where it comes from
  2019.zarr             a calendar year of it, plain zarr v3 (a link to a folder below years/)
years/2019/<folder>/    one state of one year
  map.zarr              the map, variables (time, y, x) and (y, x)
  checksums.txt         run  b2sum -c checksums.txt  in this folder to check every byte
  units.json            what each tile was computed from

In Python:  xarray.open_zarr("versions/000012/2019.zarr", consolidated=False)

Copy an archive with  cp -a  or  rsync -aH : files that did not change from one state to the next are stored
once and have several names (hard links). Change nothing by hand: a changed file changes in all states that share it.
"""


@dataclass(frozen=True)
class Design:
    """What all years of an archive have in common."""

    grid: Grid
    layers: Layers
    step: Step
    tile: int
    """Side of a tile in cells, a whole number of chunks."""
    chunk: int
    """Side of a chunk in cells."""

    @cached_property
    def tiles(self) -> dict[str, Tile]:
        """Tiles by name."""
        return {tile.name: tile for tile in make_tiles(self.grid, self.tile)}

    def times(self, year: int) -> pd.DatetimeIndex:
        """Return the steps of a calendar year, whole whatever is covered of it."""
        return calendar(f"{year}-01-01", f"{year}-12-31", self.step)

    @cached_property
    def tile_of(self) -> dict[str, str]:
        """Names of tiles by "row/column" of their chunks."""
        size = self.tile // self.chunk
        rows, cols = (-(-n // self.chunk) for n in self.grid.shape)
        names = {(tile.row, tile.col): name for name, tile in self.tiles.items()}
        return {f"{row}/{col}": names[row // size, col // size] for row in range(rows) for col in range(cols)}


def describe(design: Design) -> dict[str, Any]:
    """Return the description of an archive."""
    grid, layers = design.grid, design.layers
    return {
        "format": FORMAT,
        "readme": file_hash(README_TEXT.encode()),
        "step": design.step,
        "tile": design.tile,
        "chunk": design.chunk,
        "grid": {"shape": list(grid.shape), "affine": list(grid.affine)[:6], "crs": grid.crs.to_wkt()},
        "layers": {name: list(value) for name, value in vars(layers).items()},
    }


def designed(about: Mapping[str, Any]) -> Design:
    """Return what `describe` described."""
    layers = Layers(**{name: tuple(value) for name, value in about["layers"].items()})
    box = about["grid"]
    grid = Grid(GeoBox(tuple(box["shape"]), Affine(*box["affine"]), box["crs"]))
    step = next(step for step in STEPS if step == about["step"])
    return Design(grid, layers, step, about["tile"], about["chunk"])
