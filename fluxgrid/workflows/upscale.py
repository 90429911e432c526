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

from fluxgrid import compiling
from fluxgrid.config import UpscaleConfig
from fluxgrid.data.cube import open_cube, open_reader, reading_of
from fluxgrid.errors import ConfigError, IncompleteMap, OutputExists
from fluxgrid.evaluation.borders import border_steps
from fluxgrid.geo.region import Region, find_region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint
from fluxgrid.models.calibrated import Calibration
from fluxgrid.output.info import MapInfo
from fluxgrid.output.layers import Layers
from fluxgrid.output.summary import period_means
from fluxgrid.prediction import BLOCK
from fluxgrid.prediction.predictor import find_calibration
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.upscaling.cluster import check_cluster
from fluxgrid.upscaling.cover import cut_warning, land_share, land_warning, region_share
from fluxgrid.upscaling.estimate import Estimate, size_of
from fluxgrid.upscaling.executor import Executor, default_threads
from fluxgrid.upscaling.folder import Mode, RunFolder
from fluxgrid.upscaling.handshake import shake_hands
from fluxgrid.upscaling.heads import map_blend, uncalibrated_warning
from fluxgrid.upscaling.lock import locked
from fluxgrid.upscaling.plan import CubeSource, Plan
from fluxgrid.upscaling.publish import Published, clear_replaced, publish
from fluxgrid.upscaling.run import RunResult, digest_inputs, run_plan
from fluxgrid.upscaling.tile import Job, TileReport
from fluxgrid.workflows.about import is_simulated, map_info, map_period
from fluxgrid.workflows.estimates import measured_estimate
from fluxgrid.workflows.progress import ProgressMaker, silent
from fluxgrid.workflows.world import build_synthetic, demo_period, synthetic_source, synthetic_template


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
    checkpoint = load_checkpoint(config.model, config.window_mode, config.precision)
    if config.calibration != "none":
        find_calibration(checkpoint, config.calibration)  # before a cube is built for nothing
    pick_device(config.device)
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
        start, end = demo_period(config.start, config.end)
        template = synthetic_template(checkpoint.spec, region, config.resolution, start, end)
        cube = template if dry_run else build_synthetic(template, region, out, mode, progress)
        source = synthetic_source(out)
    else:
        source = CubeSource.of(config.cube, config.mapping)
        cube = open_cube(source.path, source.mapping)  # first, for a path that is wrong is the nearer mistake
        check_own_cube(config, checkpoint.spec, cube)
    device = pick_device(config.device)
    days = (config.start, config.end)
    begin, finish = (pd.Timestamp(day) if day else None for day in days)
    period = demo_period(*days) if config.cube is None else (begin, finish)
    plan, warnings, cover = plan_map(config, checkpoint, region, cube, source, device, period, dry_run)
    warnings = (*warnings, *cover)
    executor = Executor(config.workers, config.threads or default_threads(config.workers), config.scheduler)
    if dry_run:
        guess = _estimate(config, checkpoint, plan, cube, device, executor)
        return Outcome(out, "planned", estimate=guess, warnings=warnings)
    return _Run(
        config, plan, region, checkpoint, cube, RunFolder(out, plan.digest), executor, device, warnings, cover
    ).go(mode, progress)


def _estimate(
    config: UpscaleConfig, checkpoint: Checkpoint, plan: Plan, cube: xr.Dataset, device: str, executor: Executor
) -> Estimate:
    """Return what a plan will take."""
    row, col = plan.origin
    rows = sorted({t.rows.start: slice(t.rows.start + row, t.rows.stop + row) for t in plan.tiles}.items())
    cols = sorted({t.cols.start: slice(t.cols.start + col, t.cols.stop + col) for t in plan.tiles}.items())
    spans = [[span for _, span in cuts] for cuts in (rows, cols)]
    reading = reading_of(cube, checkpoint.spec.inputs.names, [s.steps for s in plan.segments], *spans)
    # the built-in world is not built yet: it will have chunks of our own
    size = size_of(plan, reading.least if config.cube is None else reading.factor)
    cells = np.resize(np.flatnonzero(plan.wanted), BLOCK)
    blend = None if plan.blend is None else plan.blend.select(cells)
    return measured_estimate(checkpoint, size, plan.time, device, executor, plan.calibration, blend)


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
    cover: tuple[str, ...]

    def go(self, mode: Mode, progress: ProgressMaker) -> Outcome:
        """Carry it out, unless the map stands already."""
        if self._up_to_date(mode):
            clear_replaced(self.folder)
            return Outcome(self.folder.path, "up to date", manifest=self.folder.manifest, warnings=self.warnings)
        if self.executor.scheduler:
            from fluxgrid.upscaling.workers import connect  # and dask with it, which threads need not

            with connect(self.executor) as client:
                check_cluster(client, self.plan, self.cube, self.device, self.folder.path)
        about = {"region": self.region.name, "model": self.checkpoint.spec.name, "period": map_period(self.plan)}
        about["calibration"] = self.plan.calibration
        self.folder.claim(mode, about)
        begun, started = time.perf_counter(), now()
        result = self._predict(progress)
        self._check_missing(result)
        stores = [self.plan.store(self.folder.work, segment) for segment in self.plan.map_segments]
        steps = border_steps(period_means(stores, self.plan.step), self.plan.grid, self.region)
        manifest = {**self._manifest(result, started, time.perf_counter() - begun), "border_step": steps}
        # files are written here, wherever the tiles ran
        lanes = min(self.executor.lanes, default_threads(1))
        info, packing = self._info(started), self.config.compression
        published = publish(self.plan, self.folder, self.region, info, manifest, lanes, packing)
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
            "calibration": plan.calibration,
            "uncertainty": self.checkpoint.uncertainty.text() if self.checkpoint.uncertainty else "none",
            "period": map_period(plan),
            "step": plan.step,
            "synthetic": self.checkpoint.spec.synthetic or is_simulated(self.cube),
            "inputs": result.inputs,
            "cube": {"path": plan.cube.path, "mapping": plan.cube.mapping, "title": self.cube.attrs.get("title", "")},
            "coverage": {"cell_steps": result.expected, "missing": result.missing, "share": 1 - result.missing_share},
            "units": {"computed": result.computed, "kept": result.kept},
            "tiles": {r.tile: {"seconds": round(r.seconds, 3), "computed": r.done} for r in result.reports},
            "seconds": round(seconds, 2),
            "pixel_days_per_s": round(computed / seconds) if computed else 0,
            "executor": asdict(self.executor),
            "device": self.device,
            "machines": result.machines,
            "mixed": plan.mixed,
            "started": started,
            "finished": now(),
            "warnings": list(self.warnings),
            "config": self.config.model_dump(mode="json"),
            "commit": git_commit(),
            "versions": versions(),
        }

    def _info(self, created: str) -> MapInfo:
        """Return what the files say about themselves."""
        return map_info(self.plan, self.region, self.checkpoint, self.cube, self.warnings, self.cover, created)


_HALF_PRECISION = (
    "Matrix products are of bfloat16 numbers (--precision bf16): single days differ from single precision by up "
    "to 2 % of the largest flux, as measured with the default model; half-widths do not know of it."
)

_NO_KERNELS = (
    "numba cannot be imported (`python -c 'import numba'` says why), so that plain torch and numpy make this map: "
    "several times slower than compiled kernels, and the same to rounding."
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


def device_name(device: str) -> str:
    """Return what decides the last bits: the model of a GPU, or plain ``cpu``."""
    return f"cuda {torch.cuda.get_device_name()}" if device == "cuda" else device


def _region_missing() -> str:
    """Raise the error for a run without a region."""
    message = "No region is given. Say --region NAME (see `fluxgrid regions`), a polygon file, or W,S,E,N."
    raise ConfigError(message)


def check_own_cube(config: UpscaleConfig, spec: ModelSpec, cube: xr.Dataset) -> None:
    """Refuse options and models that do not belong to a user's cube, given as such or grown from deliveries."""
    if config.resolution is not None:
        message = (
            f"--resolution {config.resolution} is for the synthetic world; a map has the cells of its cube. Leave it "
            "out, or regrid the cube first."
        )
        raise ConfigError(message)
    if spec.synthetic and not is_simulated(cube):
        message = (
            f"The model {spec.name!r} was trained on simulated towers and is not to be used on a cube of your own. "
            "Give a model trained on real towers (--model; see `fluxgrid train`)."
        )
        raise ConfigError(message)


def _calibrated(plan: Plan, calibration: Calibration, cube: xr.Dataset | None) -> Plan:
    """Return the plan with the weights of calibrated places; without a cube roughly, for an estimate."""
    reader = None if cube is None else open_reader(plan.cube.path, plan.cube.mapping)
    return replace(
        plan,
        layers=replace(plan.layers, calibrated_places=calibration.places.names),
        calibration=calibration.name,
        blend=map_blend(calibration, plan.grid, plan.origin, cube, reader),
    )


def _errors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the fluxes whose half-width a map of the model holds."""
    return checkpoint.uncertainty.known() if checkpoint.uncertainty else ()


def map_layers(checkpoint: Checkpoint) -> Layers:
    """Return what a map of a model holds, without calibrated heads."""
    spec = checkpoint.spec
    return Layers(spec.map_fluxes, spec.map_annual, errors=_errors(checkpoint))


def plan_map(
    config: UpscaleConfig,
    checkpoint: Checkpoint,
    region: Region,
    cube: xr.Dataset,
    source: CubeSource,
    device: str,
    period: tuple[pd.Timestamp | None, pd.Timestamp | None],
    dry_run: bool = False,
) -> tuple[Plan, tuple[str, ...], tuple[str, ...]]:
    """Shake hands and lay out the work; also return what should be known, and what of the region is left out."""
    # the built-in world is cut for tiles, and its template is not cut at all
    tile = None if config.cube is None else config.tile
    agreed = shake_hands(cube, checkpoint.spec, region, period[0], period[1], tile)
    grid = agreed.grid
    share, land = region_share(region, grid), land_share(grid)
    plan = Plan(
        region=region.name,
        cube=source,
        checkpoint=checkpoint.path,
        model_digest=checkpoint.digest,
        step=checkpoint.spec.step,
        window_mode=config.window_mode,
        precision=config.precision,
        mixed=config.allow_mixed,
        time=agreed.time,
        segments=agreed.segments,
        grid=grid,
        origin=agreed.origin,
        land_fraction=land,
        region_share=share,
        tiles=make_tiles(grid, config.tile),
        device=device_name(device),
        layers=map_layers(checkpoint),
    )
    if config.calibration != "none":
        plan = _calibrated(plan, find_calibration(checkpoint, config.calibration), None if dry_run else cube)
    if not plan.wanted.any():
        message = f"No cell of {region.title} holds land on this grid. Choose a larger region or a finer cube."
        raise ConfigError(message)
    warnings = agreed.warnings
    if config.precision == "bf16":
        warnings = (*warnings, _HALF_PRECISION)
    if not compiling.AVAILABLE:
        warnings = (*warnings, _NO_KERNELS)
    if plan.blend is not None:
        warnings = (*warnings, *uncalibrated_warning(plan.blend, plan.wanted))
    return plan, warnings, (*cut_warning(region, grid, share), *land_warning(region, grid, share, land))
