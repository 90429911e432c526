"""One tile through all its years: read once, predict block by block, write, record."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.cube import CubeReader, InputDigests, metadata_stamp, open_cube, open_reader
from fluxgrid.data.inputs import InputSpec, Places
from fluxgrid.data.records import Segment, halo_of
from fluxgrid.data.windows import WindowMode
from fluxgrid.errors import FluxgridError, OutputError
from fluxgrid.geo.tiles import Tile
from fluxgrid.models import Precision, load_checkpoint
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import GLOBAL_ONLY, Layers, error_name, whole_year
from fluxgrid.output.store import tile_digest, write_tile
from fluxgrid.prediction import BlockState, Fluxes, Predictor
from fluxgrid.prediction.blend import Blend
from fluxgrid.prediction.predictor import split_states
from fluxgrid.provenance import digest
from fluxgrid.upscaling.claim import check_claim
from fluxgrid.upscaling.machine import Machine
from fluxgrid.upscaling.memory import keep_memory
from fluxgrid.upscaling.plan import CubeSource, Plan
from fluxgrid.upscaling.records import Record, load_state, read_record, save_state, write_record

BLOCK_SIDE = 16
"""Side of a block in cells: 16 x 16 are the places predicted together."""

_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Job:
    """What every tile of a run has in common; small, for it travels to workers."""

    units: tuple[str, ...]
    """Of each segment, what `Plan.unit_digests` gives."""
    cube: CubeSource
    checkpoint: str
    model_digest: str
    window_mode: WindowMode | None
    precision: Precision
    device: str
    step: str
    time: pd.DatetimeIndex
    segments: tuple[Segment, ...]
    stores: tuple[str, ...]
    """Map store of each segment; empty for spin-up."""
    labels: tuple[str, ...]
    origin: tuple[int, int]
    layers: Layers
    calibration: str
    work: str
    machine: Machine | None = None
    """Where all tiles must be made; None where machines may differ."""
    provisional: np.ndarray | None = None
    """Steps of `time` that will change when what their inputs lack comes, bool (T,)."""

    run: str = ""
    """Which run asks, on a cluster; what is no longer asked for is not written."""

    @property
    def predictor(self) -> Predictor:
        """The model, loaded once per process."""
        modes = self.window_mode, self.precision
        return predictor_of(self.checkpoint, self.model_digest, self.device, self.calibration, *modes)

    @classmethod
    def of(cls, plan: Plan, work: Path, device: str) -> Job:
        """Return the job of a plan."""
        work = work.resolve()  # a worker may run in another folder
        return cls(
            plan.unit_digests(),
            plan.cube,
            str(plan.checkpoint.resolve()),
            plan.model_digest,
            plan.window_mode,
            plan.precision,
            device,
            plan.step,
            plan.time,
            plan.segments,
            tuple(str(plan.store(work, s)) if s.scored else "" for s in plan.segments),
            tuple(plan.label(s) for s in plan.segments),
            plan.origin,
            plan.layers,
            plan.calibration,
            str(work),
            None if plan.mixed else plan.machine,
            plan.provisional,
        )

    def path(self, kind: str, tile: Tile, segment: int, suffix: str) -> Path:
        """Return where a unit's record or state stands."""
        return Path(self.work) / kind / tile.name / f"{self.labels[segment]}{suffix}"


@dataclass(frozen=True, eq=False)
class TileTask:
    """One tile with its masks."""

    tile: Tile
    wanted: np.ndarray
    """Cells to predict, bool (h, w)."""
    flags: np.ndarray
    """Bits that do not depend on time, int8 (h, w)."""
    blend: Blend | None = None
    """Weights of calibrated places in the cells, row by row."""
    published: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Key and hash of the values of its units that stand in an archive, by label; they need not stand in a store."""


@dataclass(frozen=True)
class TileReport:
    """What a worker answers: never arrays, only what happened."""

    tile: str
    done: int = 0
    """Units computed now."""
    kept: int = 0
    """Units that were done before."""
    expected: int = 0
    """Cell-steps to predict."""
    missing: int = 0
    """Of these, without a value."""
    seconds: float = 0.0
    error: str = ""
    """Why the tile failed."""
    fatal: bool = False
    """Whether going on with other tiles makes no sense, as with a full disk."""
    inputs: tuple[str, ...] = ()
    """Hash of the inputs of each unit, for the manifest."""
    machines: tuple[str, ...] = ()
    """Where its units were computed, now or before."""


def run_tile(task: TileTask, job: Job) -> TileReport:
    """Bring every unit of a tile to its finished state and say how it went.

    A unit whose record carries the key its inputs now give is kept.

    Parameters
    ----------
    task : TileTask
    job : Job

    Returns
    -------
    report : TileReport
        With `error` set, and not an exception, where the tile failed: other tiles go on.
    """
    # one thread per block: torch splits a product over threads by their number, and bits would follow it
    torch.set_num_threads(1)
    keep_memory()
    try:
        check_here(job.machine, job.device, next(filter(None, job.stores)))
        return _TileRun(task, job).run()
    except OutputError as error:
        return TileReport(task.tile.name, error=str(error), fatal=True)
    except FluxgridError as error:
        return TileReport(task.tile.name, error=str(error))
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        return TileReport(task.tile.name, error=f"{type(error).__name__}: {error}")


@lru_cache(maxsize=8)  # of those that passed: an error is raised anew each time
def check_here(machine: Machine | None, device: str, store: str) -> None:
    """Check once per process and run that this one may make tiles; it may have joined after the cluster was checked.

    Parameters
    ----------
    machine : Machine or None
        That it must be like; None where machines may differ.
    device : str
        ``cpu`` or ``cuda``.
    store : str
        A map store of the run, which stands before its first tile.

    Raises
    ------
    OutputError
        If it is another machine, or does not see the run folder.
    """
    differing = machine.differences(Machine.here(device)) if machine else []
    who = f"A worker that joined the run on {platform.node()}"
    if differing:
        message = f"{who} may give other bits ({', '.join(differing)}). Stop that worker."
        raise OutputError(message)
    if not Path(store).is_dir():
        message = f"{who} does not see the map store {store}. Stop that worker, or give --out where all workers see it."
        raise OutputError(message)


class _TileRun:
    """The walk of one tile through its segments."""

    def __init__(self, task: TileTask, job: Job):
        self.task, self.job = task, job
        self.blocks = block_slices(task.wanted)
        self.state: list[BlockState] | None = None
        self.digests: list[str] = []
        self.done = self.kept = self.expected = self.missing = 0
        self.keys: list[str] = []
        self.parts: list[tuple[str, ...]] = []
        self.machines: list[str] = []
        self.inputs = input_digests(task, job)

    def run(self) -> TileReport:
        """Walk."""
        begun = time.perf_counter()
        for index in range(len(self.job.segments)):
            parts = key_parts(self.job, index, self.inputs[index], self.digests[-1] if self.digests else "")
            key = unit_key(self.task.tile, self.job, index, parts)
            record = self._finished(index, key)
            if record is None:
                record = self._compute(index, key, parts)
                self.done += 1
            else:
                self.state = None
                self.kept += 1
            self.digests.append(record.state)
            self.expected += record.expected
            self.missing += record.missing
            self.machines.append(record.machine)
            self.keys.append(key)
            self.parts.append(parts)
        seconds = time.perf_counter() - begun
        counts = self.done, self.kept, self.expected, self.missing, seconds
        machines = tuple(sorted(set(self.machines)))
        return TileReport(self.task.tile.name, *counts, inputs=self.inputs, machines=machines)

    def _finished(self, index: int, key: str) -> Record | None:
        """Return the record of a unit that is done with this key and whose results still stand."""
        return finished(self.task, self.job, index, key)

    def _compute(self, index: int, key: str, parts: tuple[str, ...]) -> Record:
        """Predict, write and record one unit."""
        begun = time.perf_counter()
        segment = self.job.segments[index]
        fluxes, states = self._predict(index, self._carried(index))
        if segment.recycled:
            states = [BlockState(s.hidden, {}) for s in states]
        output, expected, missing = "", 0, 0
        check_claim(self.job.work, self.job.run)
        if segment.scored:
            arrays = self._assemble(fluxes, segment)
            write_tile(self.job.stores[index], self.task.tile, arrays)
            output = tile_digest(self.job.stores[index], self.task.tile)
            expected = int(self.task.wanted.sum()) * (segment.steps.stop - segment.steps.start)
            missing = int(np.isnan(arrays["nee"][:, self.task.wanted]).sum())
        self.state = states
        handed = save_state(self.job.path("states", self.task.tile, index, ".npz"), states)
        machine = Machine.here(self.job.device).text()
        check_claim(self.job.work, self.job.run)
        record = Record(key, handed, output, expected, missing, time.perf_counter() - begun, machine, parts)
        write_record(self.job.path("records", self.task.tile, index, ".json"), record)
        return record

    def _carried(self, index: int) -> list[BlockState | None]:
        """Return the state each block starts from."""
        if self.state is not None:
            return list(self.state)
        if index == 0:
            return [None] * len(self.blocks)
        arrays = load_state(self.job.path("states", self.task.tile, index - 1, ".npz"), self.digests[index - 1])
        if arrays is None:  # torn or deleted: the unit before makes it again, bit for bit
            self._remake(index - 1)
            return self._carried(index)
        return list(split_states(arrays, [len(np.ravel(self.task.wanted[b])) for b in self.blocks]))

    def _remake(self, index: int) -> None:
        """Make the state again that a finished unit handed on."""
        if self.job.stores[index] or not self.job.segments[index].scored:
            self._compute(index, self.keys[index], self.parts[index])
            return
        _, states = self._predict(index, self._carried(index))  # its values are published, and there is no store of it
        self.state = states
        save_state(self.job.path("states", self.task.tile, index, ".npz"), states)

    def _predict(self, index: int, states: list[BlockState | None]) -> tuple[list[Fluxes], list[BlockState]]:
        """Read a unit's inputs once and predict its blocks; years of spin-up give states alone."""
        segment = self.job.segments[index]
        spec = self._predictor.checkpoint.spec.inputs
        steps, rows, cols = window(self.job, self.task.tile, index, spec.halo)
        tile = read_tile(reader_of(self.job.cube), spec, steps, rows, cols)
        before, after = halo_of(segment.steps, spec.halo, len(self.job.time))
        longitude, latitude = self.task.tile.grid.lonlat()
        calendar = self.job.time[segment.steps]
        fluxes, handed = [], []
        for block, state in zip(self.blocks, states, strict=True):
            places = Places(
                calendar,
                self._predictor.checkpoint.spec.step,
                latitude[block].ravel(),
                {n: tile[n][:, block[0], block[1]].reshape(len(tile[n]), -1) for n in spec.forcings},
                {n: tile[n][block].ravel() for n in (*spec.static, *spec.classes)},
                before,
                after,
                longitude[block].ravel(),
            )
            blend = self._blend_of(block)
            if segment.scored:
                result, after_state = self._predictor.predict(places, state, blend)
                fluxes.append(result)
            else:
                after_state = self._predictor.advance(places, state, blend)
            handed.append(after_state)
        return fluxes, handed

    def _blend_of(self, block: tuple[slice, slice]) -> Blend | None:
        """Return the weights of calibrated places in the cells of a block."""
        if self.task.blend is None:
            return None
        rows = np.arange(self.task.wanted.size).reshape(self.task.wanted.shape)[block].ravel()
        return self.task.blend.select(rows)

    def _assemble(self, fluxes: list[Fluxes], segment: Segment) -> dict[str, np.ndarray]:
        """Put the blocks into arrays of the tile, masked and flagged."""
        layers, calendar = self.job.layers, self.job.time[segment.steps]
        arrays = empty_arrays(len(calendar), self.task.flags, layers)
        annual = layers.annual if whole_year(calendar, self.job.step) else ()
        for block, result in zip(self.blocks, fluxes, strict=True):
            wanted = self.task.wanted[block]
            values = {name: result.daily[name] for name in layers.fluxes} | {"applicability": result.applicability}
            values |= {name: result.annual[name] for name in annual}
            half_widths = self._predictor.half_widths(result)
            values |= {error_name(name): half_widths[name] for name in layers.errors}
            for name, flat in values.items():
                _put(arrays[name][(..., *block)], flat.reshape(*flat.shape[:-1], *wanted.shape), wanted)
            bits = quality_bits(result, recycled=self._first_is_recycled(segment)).reshape(-1, *wanted.shape)
            flags = arrays["quality_flag"][(slice(None), *block)]
            _put(flags, flags | bits, wanted)
        if self.task.blend is not None:
            arrays |= calibration_arrays(self.task.blend, self.task.wanted)
        if self.job.provisional is not None:
            early = self.job.provisional[segment.steps][:, np.newaxis, np.newaxis] & np.isfinite(arrays["nee"])
            arrays["quality_flag"][early] |= np.int8(Quality.PROVISIONAL.value)
        return arrays

    def _first_is_recycled(self, segment: Segment) -> bool:
        """Return whether this is the first year and its spin-up had to use that year itself."""
        first = next(s for s in self.job.segments if s.scored)
        return segment == first and any(s.recycled for s in self.job.segments)

    @property
    def _predictor(self) -> Predictor:
        """The model, loaded once per process."""
        return self.job.predictor


def key_parts(job: Job, index: int, inputs: str, carried: str) -> tuple[str, ...]:
    """Return the hashes that the key of a unit is made of.

    Parameters
    ----------
    job : Job
    index : int
        Of the segment.
    inputs, carried : str
        Hashes of its inputs, and of the state the unit before handed on.

    Returns
    -------
    parts : tuple of str
        Plan, inputs, state, provisional steps (empty where there are none).
    """
    steps = job.segments[index].steps
    early: list[int] = []
    if job.provisional is not None and job.segments[index].scored:
        early = np.flatnonzero(job.provisional[steps]).tolist()
    return (job.units[index], inputs, carried, digest(early) if early else "")


def unit_key(tile: Tile, job: Job, index: int, parts: tuple[str, ...]) -> str:
    """Return the hash of all that goes into a unit."""
    return digest(tile.name, job.labels[index], *parts)


def finished(task: TileTask, job: Job, index: int, key: str) -> Record | None:
    """Return the record of a unit that is done with a key and whose results still stand, or None."""
    record = read_record(job.path("records", task.tile, index, ".json"))
    if record is None or record.key != key:
        return None
    if not job.segments[index].scored or task.published.get(job.labels[index]) == (key, record.output):
        return record
    try:
        return record if tile_digest(job.stores[index], task.tile) == record.output else None
    except FluxgridError:
        return None


def window(job: Job, tile: Tile, index: int, halo: int) -> tuple[slice, slice, slice]:
    """Return steps with halo, rows and columns of the cube that a unit reads."""
    segment = job.segments[index]
    before, after = halo_of(segment.steps, halo, len(job.time))
    row, col = job.origin
    return (
        slice(segment.steps.start - before, segment.steps.stop + after),
        slice(tile.rows.start + row, tile.rows.stop + row),
        slice(tile.cols.start + col, tile.cols.stop + col),
    )


def input_digests(task: TileTask, job: Job) -> tuple[str, ...]:
    """Return the hash of the inputs of each unit of a tile."""
    spec = job.predictor.checkpoint.spec.inputs
    known = _stamp(job.cube) or job  # of what may change unseen only within a run
    with _LOCK:
        digests = _digests_of(job.cube, spec.names, known)
    return tuple(digests(*window(job, task.tile, index, spec.halo)) for index in range(len(job.segments)))


@lru_cache(maxsize=2)
def _digests_of(source: CubeSource, names: tuple[str, ...], known: Hashable) -> InputDigests:  # noqa: ARG001
    """Return what digests the inputs of a job, opened once per process as long as what is `known` of it stays."""
    return InputDigests(source.path, open_cube(source.path, source.mapping), names)


def _stamp(source: CubeSource) -> tuple:
    """Return what is known of the layout of a cube without opening it."""
    cube = metadata_stamp(source.path)
    own = source.mapping if source.mapping and Path(source.mapping).is_file() else None  # or the name of one we ship
    return cube and (*cube, *(metadata_stamp(own) if own else ()))


def empty_arrays(steps: int, flags: np.ndarray, layers: Layers) -> dict[str, np.ndarray]:
    """Return the arrays of a tile without any prediction, (T, h, w) and (h, w), from its fixed flags (h, w)."""
    arrays = {
        name: np.full((steps, *flags.shape), layers.empty(name), dtype) for name, dtype in layers.stepwise.items()
    }
    arrays |= {name: np.full(flags.shape, layers.empty(name), dtype) for name, dtype in layers.constant.items()}
    arrays["quality_flag"][:] = flags
    return arrays


def calibration_arrays(blend: Blend, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Return which calibrated places the cells of a tile, (h, w), are predicted with."""
    found = {
        "calibration_id": blend.strongest,
        "calibration_weight": blend.strongest_weight,
        "calibration_global_weight": blend.global_weight,
    }
    empty = {"calibration_id": np.int16(GLOBAL_ONLY)}
    nan = np.float32(np.nan)
    return {name: np.where(wanted, v.reshape(wanted.shape), empty.get(name, nan)) for name, v in found.items()}


def predictor_of(
    checkpoint: str,
    digest: str,
    device: str,
    calibration: str,
    window_mode: WindowMode | None = None,
    precision: Precision = "fp32",
) -> Predictor:
    """Return the predictor of a checkpoint and one of its calibrations, loaded once per process.

    Raises
    ------
    CheckpointError
        If the folder now holds another model than the one planned with.
    """
    with _LOCK:
        return _load_predictor(checkpoint, digest, device, calibration, window_mode, precision)


@lru_cache(maxsize=2)
def _load_predictor(
    checkpoint: str, digest: str, device: str, calibration: str, window_mode: WindowMode | None, precision: Precision
) -> Predictor:
    """Load and check."""
    loaded = load_checkpoint(checkpoint, window_mode, precision)
    if loaded.digest != digest:
        message = f"The checkpoint {checkpoint} changed while the map was being made. Start the run again."
        raise FluxgridError(message)
    return Predictor(loaded, device, calibration)


def reader_of(source: CubeSource) -> CubeReader:
    """Return what reads the cube of a source, opened once per process and again where its layout changed."""
    known = _stamp(source)
    with _LOCK:
        return _open(source, known)


@lru_cache(maxsize=2)
def _open(source: CubeSource, known: Hashable) -> CubeReader:  # noqa: ARG001
    """Open."""
    return open_reader(source.path, source.mapping)


def block_slices(wanted: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    """Return the blocks of a tile that hold a cell to predict, in order, as slices of rows and columns."""
    height, width = wanted.shape
    every = (
        (slice(r, min(r + BLOCK_SIDE, height)), slice(c, min(c + BLOCK_SIDE, width)))
        for r in range(0, height, BLOCK_SIDE)
        for c in range(0, width, BLOCK_SIDE)
    )
    return tuple(block for block in every if wanted[block].any())


def read_tile(reader: CubeReader, spec: InputSpec, steps: slice, rows: slice, cols: slice) -> dict[str, np.ndarray]:
    """Read the inputs of a tile: forcings (T, h, w) and statics (h, w), float32; steps the cube lacks are NaN.

    Raises
    ------
    CubeError
        If a chunk cannot be read, naming the variable.
    """
    length = len(reader.layout.time) if reader.layout.time is not None else steps.stop
    held = slice(min(steps.start, length), min(steps.stop, length))
    arrays = {name: reader.read(name, held, rows, cols) for name in spec.names}
    beyond = steps.stop - steps.start - (held.stop - held.start)
    if not beyond:
        return arrays
    ends = ((0, beyond), (0, 0), (0, 0))
    varying = {name: np.pad(arrays[name], ends, constant_values=np.nan) for name in spec.forcings}
    return arrays | varying


def quality_bits(fluxes: Fluxes, recycled: bool) -> np.ndarray:
    """Return the bits of `quality_flag` that follow from inputs and model, int8 (T, n)."""
    known = ~fluxes.missing
    marks = {
        Quality.INPUT_MISSING: fluxes.missing,
        Quality.NO_MODEL: np.isnan(fluxes.nee) & known,
        Quality.FILLED: fluxes.filled | known if recycled else fluxes.filled,
        Quality.PROVISIONAL: fluxes.provisional,
        Quality.OUTSIDE_APPLICABILITY: fluxes.outside,
    }
    bits = np.zeros(known.shape, np.int8)
    for quality, marked in marks.items():
        if marked.any():
            bits |= marked * np.int8(quality.value)
    return bits


def _put(part: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> None:
    """Write the cells (h, w) that are wanted into a part of a tile, (h, w) or (T, h, w)."""
    if wanted.all():
        part[...] = found
    else:
        np.copyto(part, found, where=wanted)
