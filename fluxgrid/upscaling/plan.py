"""The plan of a map: grid, tiles, years, and the hash that says which map it is. Slices only, no data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.mapping import load_mapping
from fluxgrid.data.records import Segment
from fluxgrid.data.steps import Step
from fluxgrid.data.windows import WindowMode
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.tiles import Tile
from fluxgrid.models import Precision
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import PLAIN, Layers
from fluxgrid.prediction.blend import Blend
from fluxgrid.provenance import digest, digest_arrays
from fluxgrid.upscaling.machine import Machine

CHUNK = 32
"""Side of a chunk of the map store, and the least tile, in cells."""


@dataclass(frozen=True)
class CubeSource:
    """Where a cube is opened from, in any process."""

    path: str
    mapping: str | None = None
    state: str = ""
    """Changes when the cube does, where one process opens it again after it has grown."""

    @classmethod
    def of(cls, path: str, mapping: str | None = None) -> CubeSource:
        """Return the source of paths as a user gives them; workers may run in another folder."""
        return cls(_absolute(path), _absolute(mapping) if mapping and Path(mapping).is_file() else mapping)


def _absolute(path: str) -> str:
    """Return a path that means the same in every folder; an address (``s3://...``) does already."""
    return path if "://" in path else str(Path(path).expanduser().resolve())


@dataclass(frozen=True, eq=False)
class Plan:
    """All that decides a map, and how it is cut into units of work.

    A unit is one tile and one segment of time (a calendar year, or a year of spin-up).
    """

    region: str
    """Name of the region, for file names."""
    cube: CubeSource
    """Covariates."""
    checkpoint: Path
    """Folder of the model."""
    model_digest: str
    """Hash of the model."""
    step: Step
    """Time step."""
    time: pd.DatetimeIndex
    """Steps of the cube; those of the last calendar year beyond its end, if any, are without inputs."""
    segments: tuple[Segment, ...]
    """Spin-up and years, as slices of `time`, in order."""
    grid: Grid
    """Of the map."""
    origin: tuple[int, int]
    """Row and column of the map's first cell in the cube."""
    land_fraction: np.ndarray
    """Share of land in each cell, (y, x)."""
    region_share: np.ndarray
    """Share of each cell inside the region, (y, x)."""
    tiles: tuple[Tile, ...]
    """Tiles that cover the map exactly."""
    device: str = "cpu"
    """What predicts: ``cpu``, or the model of the GPU."""
    layers: Layers = PLAIN
    """What the map holds."""
    window_mode: WindowMode | None = None
    """How a network of windows cuts a record; None for what it was trained with."""
    precision: Precision = "fp32"
    """Of matrix products; the model's digest counts it."""
    calibration: str = "none"
    """Which of the model's calibrations `blend` speaks of."""
    blend: Blend | None = None
    """Weights of calibrated places in every cell of the map, row by row; None where the global model stands alone."""
    mixed: bool = False
    """Whether machines that differ from this one may predict tiles; the last bits of the map are then open."""
    provisional: np.ndarray | None = None
    """Steps of `time` that will change when what their inputs lack comes, bool (T,); None where nobody says so."""

    @property
    def machine(self) -> Machine:
        """Where the map is planned, and, unless `mixed`, where all of it is made."""
        return Machine.here(self.device)

    @property
    def busy_tiles(self) -> tuple[Tile, ...]:
        """Tiles that hold at least one cell to predict."""
        wanted = self.wanted
        return tuple(t for t in self.tiles if wanted[t.rows, t.cols].any())

    @property
    def idle_tiles(self) -> tuple[Tile, ...]:
        """Tiles without a cell to predict; they hold only reasons."""
        wanted = self.wanted
        return tuple(t for t in self.tiles if not wanted[t.rows, t.cols].any())

    @property
    def wanted(self) -> np.ndarray:
        """Cells to predict: some land, some of it inside the region; bool (y, x)."""
        return (self.land_fraction > 0) & (self.region_share > 0)

    @property
    def fixed_flags(self) -> np.ndarray:
        """Bits of `quality_flag` that do not depend on time, int8 (y, x)."""
        outside = np.where(self.region_share > 0, 0, Quality.OUTSIDE_REGION.value)
        return (outside | np.where(self.land_fraction > 0, 0, Quality.WATER.value)).astype(np.int8)

    @property
    def map_segments(self) -> tuple[Segment, ...]:
        """Segments whose predictions are written."""
        return tuple(segment for segment in self.segments if segment.scored)

    @property
    def digest(self) -> str:
        """Hash of what the map is: two runs with the same hash make the same map from the same inputs."""
        return digest([self._span(segment) for segment in self.segments], self._frame)

    def unit_digests(self) -> tuple[str, ...]:
        """Return, for each segment, the hash of all that decides its units but inputs and the state carried in.

        Years that come later do not matter: a record that grows leaves the hashes of its years alone.
        """
        frame, first = self._frame, next((s for s in self.segments if s.scored), None)
        recycled = any(segment.recycled for segment in self.segments)
        return tuple(digest(frame, self._span(s), recycled and s == first) for s in self.segments)

    def _span(self, segment: Segment) -> tuple[str, str, bool, bool]:
        """Return what a segment is."""
        time = self.time[segment.steps]
        return str(time[0]), str(time[-1]), segment.scored, segment.recycled

    @cached_property
    def _frame(self) -> str:
        """Hash of what all segments have in common."""
        wkt = self.grid.crs.to_wkt()
        place = [list(self.grid.shape), list(self.grid.affine)[:6], wkt, list(self.origin)]
        cells = [self.region, digest_arrays({"share": self.region_share, "land": self.land_fraction})]
        # the cube counts by its content, in the keys of the units; here only how it is read
        mapping = load_mapping(self.cube.mapping).model_dump_json() if self.cube.mapping else None
        held = [asdict(self.layers), self.calibration]
        weights = {"places": self.blend.places, "weights": self.blend.weights} if self.blend is not None else {}
        machine = {"device": self.device, "mixed": self.mixed, **asdict(self.machine)}
        return digest(self.model_digest, place, cells, mapping, machine, held, digest_arrays(weights))

    def store(self, work: Path, segment: Segment) -> Path:
        """Return the map store of a segment."""
        return work / f"{self.label(segment)}.zarr"

    def label(self, segment: Segment) -> str:
        """Return the name of a segment: its year, with its place in the order for spin-up."""
        year = self.time[segment.steps.start].year
        return str(year) if segment.scored else f"spin-up-{self.segments.index(segment)}-{year}"
