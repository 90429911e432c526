"""The part of a refresh that computes: plan, survey, staging, guards, one commit, files beside the archive."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.config_map import UpscaleConfig
from fluxgrid.data.cube import open_cube, open_reader
from fluxgrid.data.cube.growth import Growth
from fluxgrid.data.cube.ledger import KNOWN, MISSING
from fluxgrid.data.steps import calendar, step_ends
from fluxgrid.errors import ConfigError, DamagedMap, PublicationStopped, itemise
from fluxgrid.geo.region import find_region
from fluxgrid.geo.tiles import make_tiles
from fluxgrid.models import Checkpoint, load_checkpoint
from fluxgrid.output.archive import Archive, ArchiveWouldShrink, StagedUnit, StagedYear, UnitName, Version
from fluxgrid.output.archive.reading import open_year
from fluxgrid.output.exports import Exports
from fluxgrid.output.guards import (
    Finding,
    check_findings,
    check_problems,
    coverage_findings,
    input_findings,
    missing_findings,
    totals_findings,
)
from fluxgrid.output.info import MapInfo
from fluxgrid.output.revision import Frame, Revision, revise
from fluxgrid.output.totals import land_units
from fluxgrid.provenance import digest, digest_arrays, git_commit, now
from fluxgrid.upscaling.changes import Survey, stage, staged_units, survey
from fluxgrid.upscaling.cluster import check_cluster
from fluxgrid.upscaling.executor import Executor, default_threads
from fluxgrid.upscaling.export import ExportFrame, export_version
from fluxgrid.upscaling.folder import clear_litter, remove
from fluxgrid.upscaling.plan import CHUNK, CubeSource, Plan
from fluxgrid.upscaling.tile import TileReport
from fluxgrid.workflows.about import map_info
from fluxgrid.workflows.progress import ProgressMaker
from fluxgrid.workflows.refresh_check import damaged_units, damages_of, lasting, published_units, repairable
from fluxgrid.workflows.refresh_place import (
    EXPORTS,
    LATEST,
    REPORTS,
    Place,
    Refreshed,
    Request,
    cube_state,
    read_state,
    write_state,
)
from fluxgrid.workflows.refresh_report import guard_rows, success_row, write_reports
from fluxgrid.workflows.refresh_source import (
    day_status,
    described_by,
    drift_findings,
    grow_cube,
    growth_row,
    growth_warnings,
    look_warnings,
    provisional_steps,
)
from fluxgrid.workflows.upscale import check_own_cube, pick_device, plan_map
from fluxgrid.workflows.world import build_synthetic, demo_period, synthetic_source, synthetic_template

if TYPE_CHECKING:
    from fluxgrid.sources.deliveries import Look

_PENDING, _DESCRIBED = "pending", ("long_name", "standard_name", "cell_methods")


@dataclass(frozen=True)
class Done:
    """What came of it, and how the cube stood when it was read."""

    refreshed: Refreshed
    cube_state: str
    warnings: tuple[str, ...]
    """What a person should know of source and archive."""
    growth_warnings: tuple[str, ...]
    """Those that only a growth knows: they hold until the source has something else."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The cube of a refresh."""

    cube: xr.Dataset
    source: CubeSource
    state: str
    growth: Growth | None
    growth_warnings: tuple[str, ...] = ()

    @property
    def mended(self) -> tuple[str, ...]:
        """Files of a cube that grew, which were damaged."""
        return self.growth.mended if self.growth else ()


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to be in the archive, and what is in it."""

    plan: Plan
    covered: str
    """End of what has inputs: the first moment without."""
    warnings: tuple[str, ...]
    cover: tuple[str, ...]
    archive: Archive | None
    """None before the first publication."""
    published: Mapping[UnitName, tuple[str, str]]
    damaged: frozenset[UnitName]
    damages: tuple[str, ...]
    """What is computed again for it."""
    lasting: tuple[str, ...]
    """What cannot be."""

    @property
    def newest(self) -> Version | None:
        """The newest version."""
        return self.archive.newest() if self.archive else None


class Running:
    """One refresh under way; the region is locked."""

    def __init__(
        self,
        config: UpscaleConfig,
        request: Request,
        place: Place,
        look: Look | None,
        progress: ProgressMaker,
        known: dict[str, Any],
    ):
        """Begin; into `known` comes what the report may say, should the refresh fail."""
        self.config, self.request, self.place, self.look, self.progress = config, request, place, look, progress
        self.known = known
        self.seconds: dict[str, float] = {}
        self.started = now()

    def go(self) -> Done:
        """Bring the archive up to its inputs."""
        for folder in (self.place.out, self.place.out / REPORTS):
            if folder.is_dir():
                clear_litter(folder)
        self._exports.clear_litter()
        self.region = find_region(str(self.config.region or ""))
        self.checkpoint = load_checkpoint(self.config.model, self.config.window_mode, self.config.precision)
        self.device = pick_device(self.config.device)
        with self._timed("inputs"):
            inputs = self._inputs()
        with self._timed("survey"):
            planned = self._planned(inputs)
            work = self.place.work / f"refresh-{_form(planned.plan)}"
            threads = self.config.threads or default_threads(1)
            found = survey(planned.plan, work, self.device, planned.published, planned.damaged, threads)
        early = self._early_findings(inputs, planned)
        staged = {} if found.changed else staged_units(planned.plan, found, planned.published)
        if not found.changed and not staged and self.request.tag is None:
            return self._unchanged(planned, inputs)
        self.known |= self._about(planned, inputs) | {"why": found.reasons(), "guards": guard_rows(early)}
        check_findings(early, self.request.allow)
        with self._timed("compute"):
            reports = self._stage(planned, found, work, inputs)
        staged = staged_units(planned.plan, found, planned.published)
        with self._timed("check"):
            revisions = self._revise(planned, staged, work)
            findings = [*early, *self._findings(planned, revisions, staged)]
        self.known |= success_row(self.config, found.reasons(), reports, staged, revisions, findings)
        check_findings(findings, self.request.allow)
        before = planned.newest.id if planned.newest else 0
        with self._timed("publish"):
            version = self._publish(planned, staged, work, inputs)
            write_state(self.place, **{_PENDING: []})  # whatever becomes of the files beside it
        if version.id == before:  # computed again, and it is what is published
            self._tidy(work)
            return self._unchanged(planned, inputs)
        with self._timed("files"):
            written = self._export(planned, version)
        self._tidy(work)
        row = {"tag": version.tag, "covered": version.covered, "published": version.time}
        return self._done(self._reported("published", version, written, row), planned, inputs)

    def _about(self, planned: Planned, inputs: Inputs) -> dict[str, Any]:
        """Return what a report says of inputs and archive."""
        grown = growth_row(inputs.growth, self.look) if inputs.growth and self.look else {}
        warnings = [*self._warnings(planned, inputs), *planned.warnings]
        region = str(self.config.region or "")
        return {"region": region, "inputs": grown, "damages": [*inputs.mended, *planned.damages], "warnings": warnings}

    def _reported(
        self, status: str, version: Version, written: tuple[str, ...], more: dict[str, Any] | None = None
    ) -> Refreshed:
        """Write the report of a refresh that did something."""
        row = {**self.known, "status": status, "version": version.id, **(more or {})}
        row |= {"started": self.started, "files": list(written), "seconds": self.seconds}
        picture = self._exports.of(version.name) if status == "published" else None
        return Refreshed(self.place.out, status, row, write_reports(self.place.out / REPORTS, row, picture))

    def _warnings(self, planned: Planned, inputs: Inputs) -> tuple[str, ...]:
        """Return what a person should know of source and archive."""
        return (*(look_warnings(self.look) if self.look else ()), *inputs.growth_warnings, *planned.lasting)

    def _done(self, refreshed: Refreshed, planned: Planned, inputs: Inputs) -> Done:
        """Return what came of it."""
        return Done(refreshed, inputs.state, self._warnings(planned, inputs), inputs.growth_warnings)

    @contextmanager
    def _timed(self, name: str):
        """Measure a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 2)

    @property
    def _exports(self) -> Exports:
        """Where files for readers without zarr go."""
        return Exports(self.place.out / EXPORTS, self.place.out / LATEST)

    def _inputs(self) -> Inputs:
        """Bring the cube up to its source, and open it."""
        config, place, spec = self.config, self.place, self.checkpoint.spec
        growth = None
        if config.cube is None and config.refresh.source is None:
            start, end = demo_period(config.start, config.end)
            template = synthetic_template(spec, self.region, config.resolution, start, end)
            build_synthetic(template, self.region, place.out, "resume", self.progress)
            source = synthetic_source(place.out)
        elif config.refresh.source is not None and self.look is not None:
            self._check_growing()
            assert place.cube is not None  # checked just now
            needs = (spec.inputs.forcings, config.start, spec.spin_up_years)
            growth = grow_cube(config.refresh.source, place.cube, self.look, *needs, self._remember)
            source = CubeSource.of(str(place.cube), config.mapping)
        else:
            source = CubeSource.of(str(config.cube), config.mapping)
        state = cube_state(place)
        source = replace(source, state=state or uuid.uuid4().hex)  # what is not known to be as it was is opened anew
        cube = open_cube(source.path, source.mapping)
        if config.cube is not None or config.refresh.source is not None:
            check_own_cube(config, spec, cube)
        return Inputs(cube, source, state, growth, tuple(growth_warnings(growth)) if growth else ())

    def _check_growing(self) -> None:
        """Refuse to grow a cube that cannot, before its first file is read."""
        config, spec, problems = self.config, self.checkpoint.spec, []
        if self.place.cube is None:
            problems.append(f"The cube {config.cube} cannot grow: give a folder of this machine, or leave cube out.")
        if config.resolution is not None:
            problems.append(
                f"resolution: {config.resolution} is for the synthetic world, and a map has the cells of its cube. "
                "Leave it out, or deliver files on another grid."
            )
        if spec.step != "daily":
            problems.append(
                f"A cube grows day by day, and the model {spec.name!r} takes {spec.step} inputs. Leave out "
                f"refresh.source, extend a {spec.step} cube yourself and name it (cube), or choose a daily model."
            )
        if problems:
            raise ConfigError("\n".join(problems))

    def _remember(self, growth: Growth) -> None:
        """Keep what a growth says of its inputs until it is published: the next growth does not say it again."""
        version = self.place.newest()  # a refresh that ended right after it published a newer one has let them pass
        found = [{**asdict(finding), "version": version} for finding in drift_findings(growth)]
        if found:
            known = read_state(self.place).get(_PENDING, [])
            write_state(self.place, **{_PENDING: [*known, *(row for row in found if row not in known)]})

    def _planned(self, inputs: Inputs) -> Planned:
        """Lay out all years of the archive, whole ones, up to the last with data."""
        config, spec = self.config, self.checkpoint.spec
        time = pd.DatetimeIndex(inputs.cube.indexes["time"])
        status = day_status(self.place.cube, spec.inputs.forcings)
        world = config.cube is None and config.refresh.source is None
        start = demo_period(config.start, config.end)[0] if world else config.start
        if status is None:  # whoever extends the cube gives its steps for good
            status = np.full(len(time), KNOWN, np.int8)
        delivered = np.flatnonzero(status != MISSING)
        first, last = _period(config, start, time, spec.step, int(delivered[-1]) + 1 if len(delivered) else 0)
        plan, warnings, cover = plan_map(
            config, self.checkpoint, self.region, inputs.cube, inputs.source, self.device, (first, last)
        )
        whole = calendar(time[0], f"{last.year}-12-31", spec.step)
        segments = spec.segments(whole, int(whole.searchsorted(first)))
        early = provisional_steps(whole, status, spec.whole_year_from)
        archive = self._archive(plan)
        tiles = make_tiles(plan.grid, archive.design.tile if archive else config.tile)
        plan = replace(plan, time=whole, segments=segments, tiles=tiles, provisional=early)
        standing = archive if archive and archive.newest() else None  # a killed refresh may leave one that is empty
        verified = standing and config.refresh.verify_gb
        damages = damages_of(self.place.archive, config.refresh.verify_gb) if verified else []
        damaged = damaged_units(standing, damages) if standing else frozenset()
        published = published_units(standing, damaged) if standing else {}
        covered = str((last + pd.Timedelta(days=1)).date())
        mended = tuple(str(damage) for damage in damages if repairable(damage))
        return Planned(plan, covered, warnings, cover, archive, published, damaged, mended, tuple(lasting(damages)))

    def _archive(self, plan: Plan) -> Archive | None:
        """Open the archive, if there is one, and see that it is of this map."""
        if not self.place.newest() and not (self.place.archive / "archive.json").exists():
            return None
        archive = Archive.open(self.place.archive)
        design, problems = archive.design, []
        if design.grid != plan.grid:
            problems.append(f"its grid has {design.grid.shape} cells or lies elsewhere, this one {plan.grid.shape}")
        if design.step != plan.step:
            problems.append(f"its steps are {design.step}, these {plan.step}")
        theirs, ours = design.layers.dtypes.keys(), plan.layers.dtypes.keys()
        problems += [f"it holds {name}, this map does not" for name in sorted(theirs - ours)]
        problems += [f"it does not hold {name}" for name in sorted(ours - theirs)]
        if problems:
            header = f"{self.place.archive} is of another map; name another folder (out, or refresh.archive)"
            raise ConfigError(itemise(header, problems))
        return archive

    def _unchanged(self, planned: Planned, inputs: Inputs) -> Done:
        """Say that nothing is new but what was mended; make files again that are missing beside the archive."""
        version, written = planned.newest, tuple[str, ...]()
        whole = version is None or self._exports.whole(version.name)
        if version is None or (whole and not inputs.mended):
            return self._done(Refreshed(self.place.out, "up to date"), planned, inputs)
        if not whole:
            with self._timed("files"):
                if self._exports.stand(version.name):
                    self._exports.point(version.name)
                else:
                    written = self._export(planned, version)
        self.known |= self._about(planned, inputs)
        return self._done(self._reported("repaired", version, written), planned, inputs)

    def _early_findings(self, inputs: Inputs, planned: Planned) -> list[Finding]:
        """Return what guards say before anything is computed."""
        newest = planned.newest
        found = _pending(read_state(self.place).get(_PENDING, []), newest)
        if newest is None:
            return found
        if "rollback_to" in newest.message:
            found.append(
                Finding("rollback", f"version {newest.id} took the archive back to {newest.message['rollback_to']}")
            )
        if newest.covered and planned.covered < newest.covered:
            found.append(Finding("shrink", "the end of what is covered moves back", newest.covered, planned.covered))
        before = cast("dict[str, str]", newest.message.get("inputs", {}))
        return found + list(input_findings(before, self._described(inputs)))

    def _described(self, inputs: Inputs) -> dict[str, str]:
        """Return how the inputs are described by their makers: of a cube that grows, by the newest deliveries."""
        found = _described(inputs.source, self.checkpoint)
        if self.look is None:
            return found
        # what came with the base alone may be described otherwise by whoever delivers it first
        forcings = self.checkpoint.spec.inputs.forcings
        still = {name: text for name, text in found.items() if name not in forcings}
        return still | described_by(self.look, forcings)

    def _stage(self, planned: Planned, found: Survey, work: Path, inputs: Inputs) -> tuple[TileReport, ...]:
        """Compute what changed."""
        executor = Executor(
            self.config.workers, self.config.threads or default_threads(self.config.workers), self.config.scheduler
        )
        work.mkdir(parents=True, exist_ok=True)
        if executor.scheduler:
            from fluxgrid.upscaling.workers import connect  # and dask with it, which threads need not

            with connect(executor) as client:
                check_cluster(client, planned.plan, inputs.cube, self.device, work)
        days = 1.0 if planned.plan.step == "daily" else 30.4375
        with self.progress("Predicting", len(found.changes), "tiles") as shown:

            def on_done(report: TileReport) -> None:
                shown.advance(1, amount=report.expected * days if report.done else 0.0)

            return stage(planned.plan, work, found, executor, on_done)

    def _revise(self, planned: Planned, staged: Mapping[int, Mapping[str, StagedUnit]], work: Path) -> list[Revision]:
        """Compare each staged year with the state before."""
        plan, newest = planned.plan, planned.newest
        units = land_units(self.region, plan.grid, plan.land_fraction, levels=("state",))
        frame = Frame({tile.name: tile for tile in plan.busy_tiles}, units, plan.wanted, plan.step)
        covered = newest.covered if newest else None
        stores = _stores(plan, work)
        return [
            revise(frame, year, _before(planned, year), stores[year], frozenset(tiles), (covered, planned.covered))
            for year, tiles in staged.items()
        ]

    def _findings(
        self, planned: Planned, revisions: list[Revision], staged: Mapping[int, Mapping[str, StagedUnit]]
    ) -> list[Finding]:
        """Return what guards say of what is staged."""
        bounds, plan = self.config.refresh.guards, planned.plan
        years = [plan.time[segment.steps.start].year for segment in plan.map_segments]
        have = {*planned.published, *((tile, year) for year, tiles in staged.items() for tile in tiles)}
        absent = {year: sum((tile.name, year) not in have for tile in plan.tiles) for year in years}
        return [
            *missing_findings(revisions, bounds.missing_jump),
            *coverage_findings(revisions, self.config.max_missing, absent),
            *totals_findings(revisions, bounds.totals_move),
            *check_problems(revisions),
        ]

    def _publish(
        self, planned: Planned, staged: Mapping[int, Mapping[str, StagedUnit]], work: Path, inputs: Inputs
    ) -> Version:
        """Publish all staged tiles by one commit."""
        plan, config, stores = planned.plan, self.config, _stores(planned.plan, work)
        archive = planned.archive or Archive.create(
            self.place.archive, plan.grid, plan.layers, plan.step, config.tile, CHUNK
        )
        message = {
            "region": self.region.name,
            "model": self.checkpoint.spec.name,
            "model_digest": self.checkpoint.digest,
            "calibration": plan.calibration,
            "inputs": self._described(inputs),
            "allowed": list(self.request.allow),
            "commit": git_commit(),
        }
        try:
            return archive.publish(
                [StagedYear(stores[year], units) for year, units in staged.items()],
                self.request.tag,
                message,
                planned.covered,
                allow_shrink="shrink" in self.request.allow,
            )
        except ArchiveWouldShrink as error:
            message_text = f"{error} The guard is overridden with --allow shrink."
            raise PublicationStopped(message_text) from error

    def _export(self, planned: Planned, version: Version) -> tuple[str, ...]:
        """Write the files of a version beside the archive."""
        plan, lanes = planned.plan, min(self.config.threads or default_threads(1), default_threads(1))
        cube = open_cube(plan.cube.path, plan.cube.mapping)

        def info(year: int) -> MapInfo:
            own = tuple(s for s in plan.segments if not s.scored or plan.time[s.steps.start].year == year)
            one = replace(plan, segments=own) if any(s.scored for s in own) else plan
            return map_info(one, self.region, self.checkpoint, cube, planned.warnings, planned.cover, version.time)

        frame = ExportFrame(plan, self.region, info, lanes, self.config.compression)
        return export_version(Archive.open(self.place.archive), version, self._exports, frame)

    def _tidy(self, work: Path) -> None:
        """Remove what is published by now; records and states stay for the next time."""
        for store in work.glob("*.zarr"):
            remove(store)
        for other in self.place.work.glob("refresh-*"):
            if other != work:
                remove(other)
        numbers = Archive.open(self.place.archive).numbers()
        self._exports.prune({f"{number:06d}" for number in numbers})


def _before(planned: Planned, year: int) -> xr.Dataset | None:
    """Return a year as it is published; None if there is none, or it cannot be read and is made again."""
    folder = planned.archive.folders().get(year) if planned.newest and planned.archive else None
    try:
        return open_year(folder) if folder else None
    except DamagedMap:
        return None


def _pending(rows: Sequence[Mapping[str, Any]], newest: Version | None) -> list[Finding]:
    """Return what growths found since the newest version; one that took the archive back let none pass."""
    passed = newest.id if newest and "rollback_to" not in newest.message else 0
    kept = [row for row in rows if row.get("version", passed) >= passed]
    return [Finding(**{key: value for key, value in row.items() if key != "version"}) for row in kept]


def _form(plan: Plan) -> str:
    """Return a hash of what decides the form of staged stores and records; another form has another folder."""
    wkt = plan.grid.crs.to_wkt()
    form = [plan.step, asdict(plan.layers), list(plan.grid.shape), list(plan.grid.affine)[:6], wkt]
    tiles = [tile.name for tile in plan.tiles]
    return digest(form, tiles, digest_arrays({"flags": plan.fixed_flags}))[:16]


def _stores(plan: Plan, work: Path) -> dict[int, Path]:
    """Return the map store of each year."""
    return {plan.time[segment.steps.start].year: plan.store(work, segment) for segment in plan.map_segments}


def _period(
    config: UpscaleConfig, start: date | None, time: pd.DatetimeIndex, step: str, known: int
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first day of the archive and the last one with inputs.

    Parameters
    ----------
    config : UpscaleConfig
    start : date or None
        First day wanted; by default the first 1 January of the cube.
    time : DatetimeIndex, (T,)
        Of the cube.
    step : {"daily", "monthly"}
    known : int
        Steps up to the last one with inputs.
    """
    problems = []
    if start and (start.month, start.day) != (1, 1):
        problems.append(f"start: {start:%Y-%m-%d} is no 1 January")
    if config.end and (config.end.month, config.end.day) != (12, 31):
        problems.append(f"end: {config.end} is no 31 December; leave it out to go on for ever")
    if problems:
        message = f"An archive holds whole calendar years, but {' and '.join(problems)}. Change the configuration."
        raise ConfigError(message)
    begin = time[0] if (time[0].month, time[0].day) == (1, 1) else pd.Timestamp(time[0].year + 1, 1, 1)
    first = pd.Timestamp(start) if start else begin
    ends = step_ends(time[:known], step) - pd.Timedelta(days=1)
    last = min(ends[-1], pd.Timestamp(config.end)) if known and config.end else ends[-1] if known else time[0]
    if not known or last < first:
        message = (
            f"There are no inputs yet for {first:%Y-%m-%d} and later: the cube has them up to {last:%Y-%m-%d}. "
            "Wait for data, or give an earlier start."
        )
        raise ConfigError(message)
    return first, last


def _described(source: CubeSource, checkpoint: Checkpoint) -> dict[str, str]:
    """Return how the maker of the cube describes each input of the model, as text."""
    reader, found = open_reader(source.path, source.mapping), {}
    for field in reader.layout.fields:
        attributes = reader.raw[field.source].attrs
        about = {"variable": field.source, "units": field.units}
        about |= {key: attributes[key] for key in _DESCRIBED if key in attributes}
        found[field.variable.name] = ", ".join(f"{key} {value}" for key, value in about.items())
    return {name: found.get(name, "") for name in checkpoint.spec.inputs.names}
