"""Small archives: a grid of four tiles, monthly, every cell of a tile of one value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fluxgrid.data.steps import calendar
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.output.archive import Archive, StagedUnit, StagedYear
from fluxgrid.output.layers import Layers
from fluxgrid.output.store import create_store, tile_digest, write_tile

GRID = Grid.from_bounds((-91.5, -90.8, 41.0, 41.5), 0.1)  # 5 x 7
TILES = {tile.name: tile for tile in make_tiles(GRID, 4)}
LAYERS = Layers(annual=("corn_yield",))


@dataclass(frozen=True)
class Maker:
    """Makes archives and what is published to them; a staged year is made once a session."""

    folder: Path
    tiles = tuple(TILES)
    layers = LAYERS

    def create(self, path: Path, **changes) -> Archive:
        return Archive.create(path, GRID, **({"layers": LAYERS, "step": "monthly", "tile": 4, "chunk": 2} | changes))

    def stage(
        self, year: int, value: int, tiles: Iterable[str] = tuple(TILES), filled: int = 12, layers: Layers = LAYERS
    ) -> StagedYear:
        """Return a year whose first months have a value, of which some tiles are to be published."""
        path = self.folder / f"{year}-{value}-{filled}-{len(layers.calibrated_places)}.zarr"
        names = path.with_suffix(".json")
        if not path.exists():
            self._write(path, year, value, filled, layers)
        digests = json.loads(names.read_text())
        return StagedYear(path, {name: StagedUnit(f"key {value} {filled}", digests[name]) for name in tiles})

    def _write(self, path: Path, year: int, value: int, filled: int, layers: Layers) -> None:
        create_store(path, GRID, calendar(f"{year}-01-01", f"{year}-12-31", "monthly"), layers, chunk=2)
        arrays = {}
        for layer, dtype in layers.dtypes.items():
            steps = (12,) if layers.dims(layer)[0] == "time" else ()
            arrays[layer] = np.full((*steps, *GRID.shape), value, dtype)
            if steps:
                arrays[layer][filled:] = layers.empty(layer)
        write_tile(path, make_tiles(GRID, 8)[0], arrays)  # all at once: it is many times faster
        digests = {name: tile_digest(path, tile) for name, tile in TILES.items()}
        path.with_suffix(".json").write_text(json.dumps(digests))

    def values(self, dataset: xr.Dataset, name: str = "nee") -> dict[str, float | None]:
        """Return the value of each tile at the first step; None where it has none. Each must be of one value."""
        found: dict[str, float | None] = {}
        values = dataset[name].values if "time" not in dataset[name].dims else dataset[name][0].values
        for tile_name, tile in TILES.items():
            (value,) = np.unique(values[..., tile.rows, tile.cols])
            found[tile_name] = None if np.isnan(value) else float(value)
        return found


@pytest.fixture(scope="session")
def maker(tmp_path_factory) -> Maker:
    return Maker(tmp_path_factory.mktemp("staged"))


@pytest.fixture
def archive(maker, tmp_path) -> Archive:
    return maker.create(tmp_path / "archive")


@pytest.fixture(scope="session")
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that reads every file below a folder: to tell that nothing changed."""

    def read(folder: Path) -> dict[str, bytes]:
        paths = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths if not path.is_dir()}

    return read
