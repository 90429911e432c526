"""`fluxgrid upscale`: from a region's name to maps that open."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from fluxgrid.config import UpscaleConfig
from fluxgrid.data.cube import UNSTATED, grid_of, open_cube
from fluxgrid.errors import ConfigError, CubeError, IncompleteMap, OutputExists
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import Region, find_region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint
from fluxgrid.output.info import MapInfo
from fluxgrid.prediction import Predictor
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.simulation import build_world, world_template
from fluxgrid.upscaling.execute import Executor, check_executor, default_threads
from fluxgrid.upscaling.folder import Mode, RunFolder, check_foreign, remove
from fluxgrid.upscaling.handshake import cut_warning, shake_hands
from fluxgrid.upscaling.lock import locked
from fluxgrid.upscaling.plan import CubeSource, Estimate, Plan, estimate
from fluxgrid.upscaling.publish import Published, clear_replaced, publish
from fluxgrid.upscaling.run import RunResult, digest_inputs, run_plan
from fluxgrid.upscaling.speed import measure_rate
from fluxgrid.upscaling.tile import Job, TileReport
from fluxgrid.workflows.progress import ProgressMaker, silent

DEMO_YEAR = 2019
DEMO_RESOLUTION = 0.1


@dataclass(frozen=True)
class Outcome:
    """What `fluxgrid upscale` did, or would do."""

    out: Path
    """Run folder."""
    status: str
    """``planned``, ``up to date`` or ``done``."""
    estimate: Estimate | None = None
    """Of a dry run."""
    published: Published | None = None
    """Files of a finished run."""
    manifest: dict[str, Any] | None = None
    """What the manifest says."""
    warnings: tuple[str, ...] = ()
    """What a user should know."""


def upscale(
    config: UpscaleConfig, mode: Mode = "new", dry_run: bool = False, progress: ProgressMaker = silent
) -> Outcome:
    """Make the map a configuration asks for.

    Parameters
    ----------
    config : UpscaleConfig
    mode : {"new", "resume", "overwrite"}
        What may be done with results that stand in the run folder.
    dry_run : bool
        Check everything and say what a run will take, writing nothing.
    progress : callable
        Makes a progress display of a title and a number of steps.

    Returns
    -------
    outcome : Outcome

    Raises
    ------
    FluxgridError
        See the table of exit codes in the README.
    """
    region = find_region(config.region or _region_missing())
    checkpoint = load_checkpoint(config.model)
    out = Path(config.out or f"maps/{region.name}").expanduser()
    with nullcontext() if dry_run else locked(out):
        return _upscale(config, region, checkpoint, out, mode, dry_run, progress)


def _upscale(
    config: UpscaleConfig,
    region: Region,
    checkpoint: Checkpoint,
    out: Path,
    mode: Mode,
    dry_run: bool,
    progress: ProgressMaker,
) -> Outcome:
    """Find or build the cube, plan, and carry out or estimate; the folder is locked."""
    if config.cube is None:
        cube, source = _synthetic_cube(config, checkpoint.spec, region, out, mode, dry_run, progress)
    else:
        _check_own_cube(config, checkpoint.spec)
        source = CubeSource.of(config.cube, config.mapping)
        cube = open_cube(source.path, source.mapping)
    plan, warnings = _plan(config, checkpoint, region, cube, source)
    executor = Executor(config.workers, config.threads or default_threads(config.workers), config.scheduler)
    device = pick_device(config.device)
    if dry_run:
        predictor = Predictor(checkpoint, device)
        names, state = len(checkpoint.spec.inputs.names), checkpoint.model.state_size
        guess = estimate(plan, measure_rate(predictor, plan), executor.lanes, names, state)
        return Outcome(out, "planned", estimate=guess, warnings=warnings)
    return _Run(config, plan, region, checkpoint, cube, RunFolder(out, plan.digest), executor, device, warnings).go(
        mode, progress
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """A checked plan with all that carrying it out needs."""

    config: UpscaleConfig
    plan: Plan
    region: Region
    checkpoint: Checkpoint
    cube: xr.Dataset
    folder: RunFolder
    executor: Executor
    device: str
    warnings: tuple[str, ...]

    def go(self, mode: Mode, progress: ProgressMaker) -> Outcome:
        """Carry it out, unless the map stands already."""
        if self._up_to_date(mode):
            clear_replaced(self.folder)
            return Outcome(self.folder.path, "up to date", manifest=self.folder.manifest, warnings=self.warnings)
        check_executor(self.executor)
        about = {"region": self.region.name, "model": self.checkpoint.spec.name, "period": _period(self.plan)}
        self.folder.claim(mode, about)
        begun, started = time.perf_counter(), now()
        result = self._predict(progress)
        self._check_missing(result)
        manifest = self._manifest(result, started, time.perf_counter() - begun)
        published = publish(self.plan, self.folder, self.region, self._info(started), manifest)
        return Outcome(self.folder.path, "done", None, published, self.folder.manifest, self.warnings)

    def _up_to_date(self, mode: Mode) -> bool:
        """Return whether the finished map stands and its inputs have not changed."""
        if self.folder.status != "finished":
            return False
        manifest = self.folder.manifest or {}
        # inputs were hashed tile by tile: ask with the tiles of that run, whatever --tile says now
        plan = replace(self.plan, tiles=make_tiles(self.plan.grid, manifest["config"]["tile"]))
        job = Job.of(plan, self.folder.work, self.device)
        same = digest_inputs(plan, job, self.executor.threads) == manifest.get("inputs")
        if same and self.folder.intact():
            return True
        if mode == "new" or (mode == "resume" and not self.folder.replacing):
            what = "its inputs have changed since" if not same else "a file of it is missing or was changed"
            message = (
                f"{self.folder.path} holds this map, but {what}. Say --overwrite to bring it up to date: only what "
                "changed is computed again."
            )
            raise OutputExists(message)
        return False

    def _predict(self, progress: ProgressMaker) -> RunResult:
        """Run all tiles with a progress display in pixel-days."""
        plan = self.plan
        days = 1.0 if plan.step == "daily" else 30.4375
        with progress("Predicting", len(plan.busy_tiles), "tiles") as shown:

            def on_done(report: TileReport) -> None:
                shown.advance(1, amount=report.expected * days if report.done else 0.0)

            result = run_plan(plan, self.folder.work, self.executor, self.device, on_done)
        return result

    def _check_missing(self, result: RunResult) -> None:
        """Refuse to publish a map with too many holes."""
        if result.missing_share > self.config.max_missing:
            message = (
                f"{result.missing_share:.1%} of the land cells' steps have no value because an input is missing; "
                f"{self.config.max_missing:.0%} are allowed, so no map was written. See which with `fluxgrid cube "
                f"check {self.plan.cube.path}`; mend the cube, declare gap filling, or accept the holes with "
                "--max-missing 1 --resume."
            )
            raise IncompleteMap(message)

    def _manifest(self, result: RunResult, started: str, seconds: float) -> dict[str, Any]:
        """Return what is known of the run."""
        plan, days = self.plan, 1.0 if self.plan.step == "daily" else 30.4375
        computed = sum(r.expected for r in result.reports if r.done) * days
        return {
            "region": self.region.name,
            "model": self.checkpoint.spec.name,
            "model_digest": self.checkpoint.digest,
            "period": _period(plan),
            "step": plan.step,
            "synthetic": self.checkpoint.spec.synthetic,
            "inputs": result.inputs,
            "cube": {"path": plan.cube.path, "mapping": plan.cube.mapping, "title": self.cube.attrs.get("title", "")},
            "coverage": {"cell_steps": result.expected, "missing": result.missing, "share": 1 - result.missing_share},
            "units": {"computed": result.computed, "kept": result.kept},
            "tiles": {r.tile: {"seconds": round(r.seconds, 3), "computed": r.done} for r in result.reports},
            "seconds": round(seconds, 2),
            "pixel_days_per_s": round(computed / seconds) if computed else 0,
            "executor": asdict(self.executor),
            "device": self.device,
            "started": started,
            "finished": now(),
            "warnings": list(self.warnings),
            "config": self.config.model_dump(mode="json"),
            "commit": git_commit(),
            "versions": versions(),
        }

    def _info(self, created: str) -> MapInfo:
        """Return what the files say about themselves."""
        return map_info(self.plan, self.region, self.checkpoint, self.cube, self.warnings, created)


def map_info(
    plan: Plan, region: Region, checkpoint: Checkpoint, cube: xr.Dataset, warnings: tuple[str, ...], created: str
) -> MapInfo:
    """Return title, caveats and provenance of a map."""
    spec = checkpoint.spec
    kind = "Synthetic carbon fluxes" if spec.synthetic else "Carbon fluxes"
    recycled = any(s.recycled for s in plan.segments)
    spin_up = f"{spec.spin_up_years} year(s), {'first year run once more' if recycled else 'before the period'}"
    attributes = {
        "fluxgrid_commit": git_commit(),
        "fluxgrid_versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
        "fluxgrid_model_digest": checkpoint.digest,
        "fluxgrid_plan_digest": plan.digest,
        "fluxgrid_inputs": ", ".join(spec.inputs.dynamic + spec.inputs.static + spec.inputs.classes),
        "fluxgrid_spin_up": spin_up if spec.spin_up_years else "none needed",
        "fluxgrid_covariates": str(cube.attrs.get("title", "")),
        "fluxgrid_warnings": " ".join(warnings) or "none",
    }
    caveats = spec.caveats
    if spec.synthetic:
        caveats = ("Weather, land and fluxes are simulated: these are not observations.", *caveats)
    stated = (str(cube.attrs.get(key, "")).strip(". ") for key in ("citation", "source"))
    covariates = tuple(text for text in stated if text and text != UNSTATED)
    return MapInfo(
        title=f"{kind} (NEE, GPP, RECO) of {region.title}, {_period(plan)}{f'; {spec.limits}' if spec.limits else ''}",
        summary=(
            f"{plan.step.capitalize()} net ecosystem exchange, gross primary production and ecosystem respiration "
            f"predicted by {spec.name}: {spec.description}"
        ),
        region_name=region.name,
        region_title=region.title,
        step=plan.step,
        synthetic=spec.synthetic,
        model_name=spec.name,
        model_text=spec.description,
        day_definition=str(cube.attrs.get("day_definition") or spec.day_definition),
        applicability_threshold=checkpoint.domain.threshold,
        caveats=caveats,
        sources=(*(text.strip(". ") for text in spec.sources), *covariates),
        attributes=attributes,
        created=created,
    )


def pick_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        message = "--device cuda was asked for, but torch sees no GPU. Use --device auto or cpu."
        raise ConfigError(message)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _region_missing() -> str:
    """Raise the error for a run without a region."""
    message = "No region is given. Say --region NAME (see `fluxgrid regions`), a polygon file, or W,S,E,N."
    raise ConfigError(message)


def _check_own_cube(config: UpscaleConfig, spec: ModelSpec) -> None:
    """Refuse options and models that do not belong to a user's cube."""
    if config.resolution is not None:
        message = (
            f"--resolution {config.resolution} is for the synthetic world; a map has the cells of its cube. Leave it "
            "out, or regrid the cube first."
        )
        raise ConfigError(message)
    if spec.synthetic:
        message = (
            f"The model {spec.name!r} was trained on simulated towers and is not to be used on a cube of your own. "
            "Give a model trained on real towers (--model; see `fluxgrid train`)."
        )
        raise ConfigError(message)


def _synthetic_cube(
    config: UpscaleConfig,
    spec: ModelSpec,
    region: Region,
    out: Path,
    mode: Mode,
    dry_run: bool,
    progress: ProgressMaker,
) -> tuple[xr.Dataset, CubeSource]:
    """Return the synthetic cube of a region, built into the run folder unless it stands there."""
    if not spec.synthetic:
        message = (
            f"The model {spec.name!r} needs a cube of covariates: give one with --cube. Only the built-in synthetic "
            "world (--model default) comes with its own."
        )
        raise ConfigError(message)
    start = pd.Timestamp(config.start) if config.start else pd.Timestamp(DEMO_YEAR, 1, 1)
    end = pd.Timestamp(config.end) if config.end else pd.Timestamp(start.year, 12, 31)
    if end < start:
        message = f"The period ends on {end:%Y-%m-%d}, before it begins on {start:%Y-%m-%d} (--start, --end)."
        raise ConfigError(message)
    grid = _world_grid(region, config.resolution or DEMO_RESOLUTION)
    first = start - pd.DateOffset(years=spec.spin_up_years)
    path = out / "cube.zarr"
    if dry_run:
        return world_template(grid, first, end), CubeSource.of(str(path))
    check_foreign(out, mode)
    if path.exists() and not _holds_world(path, grid, first, end):
        if mode != "overwrite":
            message = (
                f"{path} holds covariates of another map. Choose another folder (--out), or say --overwrite to "
                "replace them."
            )
            raise OutputExists(message)
        remove(path)
    if not path.exists():
        with progress("Building the synthetic world", None, "blocks") as shown:
            build_world(grid, first, end, path, shown.set)
    return open_cube(path), CubeSource.of(str(path))


def _world_grid(region: Region, resolution: float) -> Grid:
    """Return the grid of a region's synthetic cube: never one cell alone, whose size no file would tell."""
    grid = Grid.from_bounds(region.bounds, resolution)
    if grid.shape != (1, 1):
        return grid
    west, east, south, north = grid.bounds
    aside = (west - resolution, east) if east + resolution > 180 else (west, east + resolution)
    return Grid.from_bounds((*aside, south, north), resolution)


def _holds_world(path: Path, grid: Grid, first: pd.Timestamp, end: pd.Timestamp) -> bool:
    """Return whether a store holds just this world, grid and period."""
    try:
        cube = open_cube(path)
    except CubeError:
        return False
    time = cube.indexes["time"]
    same_world = cube.attrs.get("source") == world_template(grid, first, first).attrs["source"]
    return same_world and grid_of(cube) == grid and time[0] == first and time[-1] == end


def _plan(
    config: UpscaleConfig, checkpoint: Checkpoint, region: Region, cube: xr.Dataset, source: CubeSource
) -> tuple[Plan, tuple[str, ...]]:
    """Shake hands and lay out the work."""
    start = pd.Timestamp(config.start) if config.start else None
    if start is None and config.cube is None:
        start = pd.Timestamp(DEMO_YEAR, 1, 1)
    end = pd.Timestamp(config.end) if config.end else None
    agreed = shake_hands(cube, checkpoint.spec, region, start, end)
    grid = agreed.grid
    share = np.asarray(grid.coverage(_series(region)).toarray(), np.float64).reshape(grid.shape)
    plan = Plan(
        region=region.name,
        cube=source,
        checkpoint=checkpoint.path,
        model_digest=checkpoint.digest,
        step=checkpoint.spec.step,
        time=agreed.time,
        segments=agreed.segments,
        grid=grid,
        origin=agreed.origin,
        land_fraction=_land(grid, share),
        region_share=share,
        tiles=make_tiles(grid, config.tile),
    )
    if not plan.wanted.any():
        message = f"No cell of {region.title} holds land on this grid. Choose a larger region or a finer cube."
        raise ConfigError(message)
    return plan, (*agreed.warnings, *cut_warning(region, grid, share))


def _series(region: Region) -> Any:
    """Return the region as a GeoSeries."""
    import geopandas

    return geopandas.GeoSeries([region.polygon], crs="EPSG:4326")


def _land(grid: Grid, share: np.ndarray) -> np.ndarray:
    """Return the share of land in each cell.

    Inside the US the Census boundaries know; a region beyond them counts as land as it is drawn.
    """
    land = land_fraction(grid)
    return land if land.any() else share.astype(np.float32)


def _period(plan: Plan) -> str:
    """Return the years of a map: ``2019`` or ``2000-2020``."""
    first, last = (plan.time[plan.map_segments[i].steps.start].year for i in (0, -1))
    return str(first) if first == last else f"{first}-{last}"
