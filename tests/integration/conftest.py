"""A small world around the south of Lake Michigan: a cube with holes, a region, two models; made once, in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import xarray as xr

from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.data.gaps import GapRule
from fluxgrid.data.inputs import InputSpec, design
from fluxgrid.data.records import site_inputs
from fluxgrid.data.sites import Site
from fluxgrid.data.steps import Step
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint
from fluxgrid.models.checkpoint import save_checkpoint
from fluxgrid.models.trees import Trees
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.netcdf import netcdf_file
from fluxgrid.prediction.applicability import fit_domain, month_vectors
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.training.sequences import Sequence, fit_scaler, inputs_of, make_sequence
from fluxgrid.training.trees import fit_trees
from fluxgrid.upscaling.tile import _TileRun
from fluxgrid.workflows.upscale import Outcome, upscale

SHAPE, CENTRE = (47, 73), (-88.2, 42.2)
START, DAYS = "2019-12-01", 428  # the end of 2019, all of 2020 and January 2021
SCORED = {"start": "2020-12-01", "end": "2021-01-31"}  # a year of spin-up from the cube, then two files
INPUTS = {
    "dynamic": ("temperature_2m", "precipitation", "shortwave", "toa_radiation", "day_length"),
    "static": ("crop_fraction", "forest_fraction"),
    "classes": ("climate_group",),
}
GAPS = {"temperature_2m": GapRule(3, harmonics=1), "shortwave": GapRule(2)}


@dataclass(frozen=True)
class World:
    """Where the cube, the region and the models of the tests stand."""

    folder: Path
    cube: Path
    region: Path
    ct_gru: Path
    lightgbm: Path

    def options(self, out: Path, **changes: Any) -> dict[str, Any]:
        """Return the configuration of the usual run; a change to None takes a key out."""
        usual = {"region": str(self.region), "cube": str(self.cube), "model": str(self.ct_gru), "out": str(out)}
        values = {**usual, **SCORED, "threads": 2, **changes}
        return {key: value for key, value in values.items() if value is not None}

    def run(self, out: Path, mode: str = "new", **changes: Any) -> Outcome:
        """Make a map in this process."""
        return upscale(load_config(UpscaleConfig, None, self.options(out, **changes)), mode)

    def command(self, out: Path, *words: str, **changes: Any) -> list[str]:
        """Return the command line of the usual run."""
        options = [f"--{key.replace('_', '-')}={value}" for key, value in self.options(out, **changes).items()]
        return [sys.executable, "-m", "fluxgrid", "upscale", *options, *words]

    def call(self, out: Path, *words: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        command = self.command(out, *words, **changes)
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def checkpoint(self, kind: str) -> Checkpoint:
        """Return a model of the world."""
        return load_checkpoint(getattr(self, kind))


def spec_of(kind: str, step: Step = "daily", **changes: Any) -> ModelSpec:
    """Return the contract of a small model."""
    settings = {"hidden": 8, "dropout": 0.0} if kind == "ct_gru" else {"rounds": 12, "leaves": 7}
    inputs = InputSpec(**{**INPUTS, "gaps": GAPS} | changes)
    spin_up = 1 if kind == "ct_gru" else 0
    return ModelSpec(f"small-{kind}", kind, settings, step, inputs, spin_up, "UTC", description="made for tests")


def site_at(cube: xr.Dataset, row: int, col: int, steps: slice = slice(None)) -> Site:
    """Return a cell of a cube as a tower, without observations."""
    cell = cube.isel(y=row, x=col).compute()
    varying = [name for name in cell.data_vars if cell[name].ndim == 1]
    series = pd.DataFrame({name: cell[name].values for name in varying}, index=cell.indexes["time"])[steps]
    statics = {str(name): float(cell[name]) for name in cell.data_vars if name not in varying}
    latitude, longitude = (float(axis[row, col]) for axis in reversed(grid_of(cube).lonlat()))
    return Site(f"US-{row:02d}{col:02d}", latitude, longitude, f"{row}-{col}", statics, series)


def write_model(path: Path, cube: xr.Dataset, spec: ModelSpec) -> Path:
    """Write a checkpoint whose scaler, domain and trees come from cells of a cube; networks keep random weights."""
    sites = [site_at(cube, row, col) for row in (1, 22, 43) for col in (2, 20, 38, 56)]
    inputs = inputs_of(sites, spec.inputs, spec.step)
    scaler = fit_scaler(inputs.values(), spec.inputs)
    torch.manual_seed(7)
    model = spec.build()
    if isinstance(model, Trees):
        sequences = [_observed(make_sequence(s, inputs[s.id], spec.inputs, scaler, spec.step, 0)) for s in sites]
        fit_trees(model, sequences[::2], sequences[1::2], seed=3)
    vectors = [month_vectors(inputs[s.id], spec.inputs, pd.DatetimeIndex(s.series.index))[:, 0] for s in sites]
    rows = np.concatenate(vectors)
    owner = np.repeat(np.arange(len(sites)), [len(part) for part in vectors])
    known = np.isfinite(rows).all(axis=1)
    domain = fit_domain(rows[known], np.ones(rows.shape[1]), owner[known] % 4)
    save_checkpoint(path, spec, scaler, model, domain, "made: for tests\n", {})
    return path


def _observed(sequence: Sequence) -> Sequence:
    """Return a sequence with fluxes that follow temperature and sun."""
    targets = 4 + sequence.dynamic[:, :3] @ np.array([[2, 1, -1], [0.2, 0.4, 0.2], [2, 0.3, -1.7]], np.float32)
    return Sequence(**{**vars(sequence), "targets": targets.astype(np.float32)})


def holey_cube() -> xr.Dataset:
    """Return the cube with hand-made holes, named by what they do to the map."""
    cube = small_cube(shape=SHAPE, start=START, periods=DAYS, seed=4, centre=CENTRE)
    first = int(cube.indexes["time"].get_loc("2020-12-10"))
    cube["temperature_2m"][first : first + 2, 10, 20] = np.nan  # two days: bridged by a line
    cube["temperature_2m"][first : first + 9, 11, 21] = np.nan  # nine days: from the season of the past
    cube["precipitation"][first, 12, 22] = np.nan  # one day without a rule: missing
    cube["shortwave"][first + 3 :, 13, 23] = np.nan  # too long for a line, no season: missing to the end
    cube["shortwave"][:, 14, 24] = np.nan  # never known
    cube["crop_fraction"][15, 25] = np.nan  # a place that is not known
    cube["temperature_2m"][first - 200, 16, 26] = np.nan  # bridged, in spin-up
    cube["precipitation"][first - 200, 17, 27] = np.nan  # missing, in spin-up
    cube["precipitation"][first : first + 20, 20:24, 4:8] += 500  # rain never trained on
    return cube


def write_region(path: Path, cube: xr.Dataset) -> Path:
    """Write a region that leaves out a rim of the cube, a corner wider than a tile, and ends in the lake."""
    west, east, south, north = grid_of(cube).bounds
    corners = [(west + 0.21, north - 0.21), (east - 0.22, north - 0.21), (east - 0.22, north - 2.0)]
    corners += [(west + 3.9, south + 1.15), (west + 3.2, south + 0.11), (west + 0.21, south + 0.11)]
    gpd.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=4326).to_file(path, driver="GeoJSON")
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make the world."""
    folder = tmp_path_factory.mktemp("world")
    cube = write_cube(holey_cube(), folder / "cube.zarr", chunks=(20, 24))
    opened = open_cube(cube)
    models = {kind: write_model(folder / kind, opened, spec_of(kind)) for kind in ("ct_gru", "lightgbm")}
    return World(folder, cube, write_region(folder / "south_of_the_lake.geojson", opened), **models)


@pytest.fixture(scope="session")
def baseline(world: World) -> dict[str, Path]:
    """The usual run of each model, in one go, on two threads."""
    folders = {}
    for kind in ("ct_gru", "lightgbm"):
        folders[kind] = world.folder / f"baseline-{kind}"
        world.run(folders[kind], model=str(getattr(world, kind)))
    return folders


def digests(out: Path) -> dict[str, str]:
    """Return a hash of each array (variables and coordinates) of each map, and of the table of totals."""
    found = {}
    for path in sorted(out.glob("*.nc")):
        with netcdf_file(path) as file:
            file.set_auto_maskandscale(False)
            for name, variable in file.variables.items():
                values = np.ascontiguousarray(variable[...])
                about = f"{values.dtype}{values.shape}".encode()
                found[f"{path.name}:{name}"] = hashlib.sha256(about + values.tobytes()).hexdigest()
    found["totals.csv"] = hashlib.sha256((out / "totals.csv").read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="session")
def digests_of():
    """Return the function that hashes the arrays of a run folder."""
    return digests


def window_loop(cube: xr.Dataset, checkpoint: Checkpoint, lonlat: tuple[float, float], period: slice) -> pd.DataFrame:
    """Return GPP and RECO of a cell, one window after the other, in the mode of the checkpoint; slow and obvious.

    The record begins with the cube, which is where the spin-up of `period` must begin.
    """
    spec, network = checkpoint.spec, checkpoint.model
    assert isinstance(network, WindowNetwork)
    x, y = (int(np.abs(cube[axis].values - value).argmin()) for axis, value in zip("xy", lonlat, strict=True))
    site = site_at(cube, y, x)
    arrays = design(site_inputs(site, spec.step, spec.inputs), spec.inputs, checkpoint.scaler)
    record, place = (torch.from_numpy(array) for array in arrays)
    time = pd.DatetimeIndex(site.series.index)
    found = {}
    for _, steps in pd.Series(range(len(time)), index=time)[period].groupby(lambda start: start.year):
        for number, step in enumerate(steps):
            found[time[step]] = _one_window(network, record, place, steps.to_numpy(), number)
    return pd.DataFrame.from_dict(found, orient="index", columns=["gpp", "reco"])


def _one_window(network: WindowNetwork, record, place, steps: np.ndarray, number: int) -> np.ndarray:
    """Return the fluxes of one step of the steps of a year, (2,)."""
    step, stride = steps[number], network.stride
    if network.window_mode == "stream":
        state = torch.zeros(1, network.stream_size)
        hidden, which = network.stream(record[:, : step + 1], place, state)[0][:, -1], stride - 1
    else:
        exact = network.window_mode == "exact"
        end = step if exact else steps[min((number // stride + 1) * stride, len(steps)) - 1]
        which = stride - 1 - (end - step)
        hidden = network.encode(record[:, end - network.window + 1 : end + 1], place, stride)[:, which]
    raw = network.raw({network.tap: hidden[:, None, None]})
    return network.finish(raw, {"day": torch.tensor([[which]])})[0, 0].detach().numpy()


@pytest.fixture(scope="session")
def tools() -> dict[str, Any]:
    """Return the makers of the world, for tests that need another one."""
    made = {"spec_of": spec_of, "site_at": site_at, "write_model": write_model, "holey_cube": holey_cube}
    return {**made, "window_loop": window_loop}


def snapshot_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="session")
def snapshot():
    """Return the function that says what stands in a folder, and since when."""
    return snapshot_of


def litter_in(folder: Path) -> list[str]:
    """Return temporary files and folders that nobody will finish."""
    names = ("*.tmp", "*.tmp.*", "*.partial")
    return sorted(str(path.relative_to(folder)) for name in names for path in folder.rglob(name))


@pytest.fixture(scope="session")
def litter():
    """Return the function that looks for half-written files."""
    return litter_in


@pytest.fixture(scope="session")
def manifest():
    """Return the function that reads the manifest of a run folder."""
    return lambda out: json.loads((out / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True, scope="session")
def _one_machine():
    """Keep dask from looking for settings of the person who runs the tests."""
    os.environ.setdefault("DASK_CONFIG", os.devnull)


@pytest.fixture
def power_going_late(monkeypatch):
    """Return a context in which every tile but the first fails in its last year, with its spin-up kept."""
    compute = _TileRun._compute

    def fail_late(self, index, key, parts):
        if index == len(self.job.segments) - 1 and self.task.tile.name != "r0000c0000":
            message = "the power went"
            raise OSError(message)
        return compute(self, index, key, parts)

    @contextmanager
    def going():
        with monkeypatch.context() as patch:
            patch.setattr(_TileRun, "_compute", fail_late)
            yield

    return going
