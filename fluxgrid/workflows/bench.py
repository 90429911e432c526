"""`fluxgrid bench`: how fast this machine makes maps, against its limit and against what else could be used."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fluxgrid import compiling
from fluxgrid.bench.accuracy import Accuracy, accuracy_of
from fluxgrid.bench.apart import Apart
from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.child import measure_all
from fluxgrid.bench.compute import Windows, jax_blocks, on_device, our_blocks, tam_windows
from fluxgrid.bench.criteria import HELD, judge_all
from fluxgrid.bench.cubes import write_bench_cube, write_rate
from fluxgrid.bench.entries import (
    CUBE_VARIABLES,
    FORCINGS,
    SCALING_FORCINGS,
    Entry,
    ensemble_entry,
    model_entries,
    peer_entry,
    scaling_entry,
)
from fluxgrid.bench.flops import Work, work_of
from fluxgrid.bench.machine import copy_rate, cores, describe_machine, gemm_rate, read_rate
from fluxgrid.bench.maps import TILE, Finished, MapJob, plan_map, run_map, timed
from fluxgrid.bench.peers import Peer, PeerData, Tuned
from fluxgrid.bench.peers_engines import JaxScan, OnnxRuntime
from fluxgrid.bench.peers_trees import LightGBMDask, XGBoostDask, one_flux
from fluxgrid.bench.peers_xarray import ApplyUfunc, MapBlocks, PerPixel, XBatcher
from fluxgrid.bench.scaling import region_steps, scaling_rows, year_steps
from fluxgrid.bench.settings import SIZES, BenchSettings, Cells
from fluxgrid.bench.timing import Run, in_turns, speed_ratio, spread_of
from fluxgrid.errors import ConfigError
from fluxgrid.files import check_writable, write_text
from fluxgrid.models import load_checkpoint
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.plan import Plan

PEERS: tuple[Peer, ...] = (
    MapBlocks(),
    ApplyUfunc(),
    PerPixel(),
    XBatcher(),
    OnnxRuntime(),
    JaxScan(),
    XGBoostDask(),
    LightGBMDask(),
)
"""In the order of the table."""
_PEER_PACKAGES = ("dask", "numba", "onnx", "onnxruntime", "jax", "jaxlib", "xbatcher", "xgboost-cpu")
_YEAR = 2019
"""That is mapped; the one before is the spin-up."""
_OURS, _OURS_COMPUTE, _JAX_COMPUTE = "ours", "ours, compute only", "JAX scan, compute only"
_ONE_FLUX = "XGBoost through dask, one flux"
_LIMIT = "products of squares beside "
_TAM_OURS, _TAM_PUBLISHED = "TAM-RL windows", "TAM-RL windows as published"
_TAM_TUNED, _TAM_NAMED = "TAM-RL windows as published, tuned", "TAM-RL windows as published, batches of 128"
_PER_CHUNK = (MapBlocks.name, ApplyUfunc.name)
_TILES = 2
"""That the memory of a model is measured with, each on a thread: the bar is of two cores."""
_FAR = 1.3
"""How many times as fast the better of two forms must be, so that single runs leave no doubt."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchOutcome:
    """What `fluxgrid bench` measured."""

    report: dict[str, Any]
    """As the JSON has it."""
    file: Path | None
    """Where the JSON stands, if one was asked for."""


def bench(
    size: str | BenchSettings = "full", json_file: str | None = None, report: Say = lambda _: None
) -> BenchOutcome:
    """Measure this machine, all models, their peers, scaling, heads and ensembles.

    Parameters
    ----------
    size : {"full", "quick", "tiny"} or BenchSettings
        10 to 20 minutes on two cores, about one, or less whose figures mean nothing; or sizes of one's own.
    json_file : str, optional
        Where the report is written.
    report : callable
        Told each step.

    Returns
    -------
    outcome : BenchOutcome

    Raises
    ------
    ConfigError
        If there is no such size.
    OutputError
        If the file cannot be written; that is found out before anything is measured.
    """
    settings = _settings(size)
    file = Path(json_file).expanduser() if json_file else None
    if file is not None:
        check_writable(file.parent)
    begun = time.perf_counter()

    def say(line: str) -> None:
        report(f"{time.perf_counter() - begun:5.0f} s  {line}")

    with (
        tempfile.TemporaryDirectory(prefix="fluxgrid-bench-") as folder,
        closing(_Bench(settings, Path(folder), say)) as made,
    ):
        found = made.run()
    row = plain({"date": now(), "commit": git_commit(), "versions": _versions(), **found})
    row["seconds"] = round(time.perf_counter() - begun, 1)
    row["criteria"] = plain(judge_all(row))
    if file is not None:
        write_text(file, json.dumps(row, indent=2, allow_nan=False) + "\n")
    return BenchOutcome(row, file)


def _settings(size: str | BenchSettings) -> BenchSettings:
    """Return the settings of a size."""
    if isinstance(size, BenchSettings):
        return size
    if size not in SIZES:
        message = f"There is no benchmark of size {size!r}. Choose {', '.join(SIZES)}."
        raise ConfigError(message)
    return SIZES[size]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, numbers of numpy as Python's, None for what is not finite.

    Examples
    --------
    >>> plain({"a": (1.5, float("nan"))})
    {'a': [1.5, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _versions() -> dict[str, str]:
    """Return the versions that decide the figures, those of peers among them."""
    found = versions()
    for name in _PEER_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, eq=False)
class _Model:
    """A model ready to be timed."""

    entry: Entry
    job: MapJob
    plan: Plan
    work: Work | None
    accuracy: Accuracy | None
    done: list[Finished] = field(default_factory=list)
    """Its runs, each the same map."""

    @property
    def one(self) -> Finished:
        """One of them, for what is the same in all."""
        return self.done[-1]


@dataclass(eq=False)
class _Bench:
    """One benchmark in its temporary folder."""

    settings: BenchSettings
    folder: Path
    say: Say
    cores: int = field(default_factory=cores)
    runs: dict[str, Run] = field(default_factory=dict)
    """All that takes turns, by name."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part."""
    limits: dict[str, list[float]] = field(default_factory=dict)
    """GFLOP/s of products of squares in each round, beside the networks that have a bar."""
    apart: Apart | None = None
    """Processes of the peers, while there are any."""

    @property
    def executor(self) -> Executor:
        """Threads on all cores of this process."""
        return Executor(1, self.cores)

    def cube(self, cells: Cells) -> Path:
        """Return a cube of so many cells, written when first asked for: part of a larger one would be read in whole."""
        path = self.folder / "cube-{}x{}.zarr".format(*cells)
        if not path.exists():
            first = f"{_YEAR - 1}-01-01" if self.settings.days == 365 else self.period[0]
            write_bench_cube(path, CUBE_VARIABLES, cells, first, self.period[1])
        return path

    @property
    def period(self) -> tuple[str, str]:
        """First and last day of the maps."""
        return f"{_YEAR}-01-01", _day(self.settings.days)

    @property
    def steps(self) -> slice:
        """Days of the maps in the cube, which begins a year before where they are a whole year."""
        first = 365 if self.settings.days == 365 else 0
        return slice(first, first + self.settings.days)

    def run(self) -> dict[str, Any]:
        """Measure everything."""
        wanted = self.settings.models
        entries = [
            entry
            for entry in model_entries(self.settings.hidden, self.settings.trees)
            if wanted is None or entry.name in wanted
        ]
        lacking = [entry.name for entry in entries if entry.kind == "xgboost" and XGBoostDask().lacking()]
        with self._part("machine"):
            machine = self._machine()
        data = self._peer_data()
        self.apart = apart = Apart(PEERS, data)
        with self._part("peers, prepared"):
            apart.prepare()
        with self._part("models, once"):
            models = [self._model(entry) for entry in entries if entry.name not in lacking]
        with self._part("heads and ensemble, once"):
            self._add_heads()
            single = next(model for model in models if model.entry.name == "GRU-128")
            ensemble, alone = self._ensemble(single)
            self._add_ours(data)
        with self._part("peers, tuned"):
            peers = [self._tuned(apart, peer) for peer in PEERS]
            self._add_peers(apart, peers, data)
            windows = self._windows(models)
        with self._part("all in turns"):
            # the limit takes its turns too: on a machine whose speed changes its best moment is nobody's measure
            for name in [model.entry.name for model in models if model.entry.name in HELD] or [_OURS]:
                self.runs[_LIMIT + name] = partial(self._limit, self.limits.setdefault(name, []))
            self.seconds = in_turns(self.runs, self.settings.rounds, self.say, _groups_of)
            self.close()
            machine |= _limit_of(machine, self.limits)
        with self._part("memory of single models"):
            memory = self._memory(models)
            rows = [self._model_row(model, machine, memory.get(model.entry.name)) for model in models]
        with self._part("scaling and workers"):
            scaling = self._scaling()
        with self._part("GPU"):
            gpu = self._gpu(models)
        return {
            "size": self.settings.name,
            "rounds": self.settings.rounds,
            "trees": self.settings.trees,
            "machine": machine,
            "models": rows,
            "peers": [self._peer_row(tuned, data) for tuned in peers],
            "ratios": self._ratios(data, peers),
            "ensembles": self._ensemble_row(ensemble[-1], alone, single),
            "heads": self._head_rows(),
            "windows": self._windows_row(windows),
            "strides": self._stride_rows(rows),
            **scaling,
            "left_out": [
                *scaling["left_out"],
                *(f"{name} of ours ({XGBoostDask.install})" for name in lacking),
                *([] if compiling.AVAILABLE else ["compiled kernels (numba cannot be imported)"]),
            ],
            "gpu": gpu,
            "parts": self.parts,
        }

    def close(self) -> None:
        """End the processes of the peers."""
        if self.apart is not None:
            self.apart.close()

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Take down the seconds of a part, and say them."""
        self.say(name)
        begun = time.perf_counter()
        yield
        self.parts[name] = round(time.perf_counter() - begun, 1)
        self.say(f"{name}: took {self.parts[name]:.0f} s")

    def _gemm(self, threads: int) -> float:
        """Return the peak, GFLOP/s."""
        return gemm_rate(threads, self.settings.squares, repeats=2) / 1e9

    def _limit(self, found: list[float]) -> float:
        """Add the peak of a round, GFLOP/s, and return the seconds that it took to find."""
        begun = time.perf_counter()
        found.append(self._gemm(self.cores))
        return time.perf_counter() - begun

    def _machine(self) -> dict[str, Any]:
        """Describe and measure the machine; writes the cube by the way."""
        row = describe_machine()
        row |= {"gemm_gflops_one_thread": self._gemm(1), "gemm_gflops_best": self._gemm(self.cores)}
        row["copy_gb_per_s"] = copy_rate(8 if self.settings.name == "tiny" else 256) / 1e9
        cells = self.settings.peer_cells
        row["write_gb_per_s"] = write_rate(self.folder / "written.zarr", cells, self.settings.days) / 1e9
        rates = [read_rate(self.cube(cells), FORCINGS, cells, self.steps, self.cores) for _ in range(2)]
        row["read_gb_per_s"] = max(rates) / 1e9
        return row

    def _model(self, entry: Entry) -> _Model:
        """Write the checkpoint of a model and plan its map; what a network runs is compiled by way of its error."""
        self.say(f"  {entry.name}")
        path = self.folder / "models" / entry.checkpoint
        if not path.exists():
            write_checkpoint(path, entry, self.settings.rows)
        job = self._job(entry, path)
        plan = plan_map(job)
        checkpoint = load_checkpoint(path, entry.window_mode)
        days = self._days(entry)
        # windows do not hang on each other: a few days say it all
        accuracy = accuracy_of(checkpoint, min(days, 32) if entry.window_mode else days)
        model = _Model(entry, job, plan, work_of(checkpoint.model), accuracy)
        self.runs[entry.name] = timed(plan, self.folder / "map", self.executor, model.done)
        return model

    def _job(self, entry: Entry, path: Path, calibration: str = "none", cells: Cells | None = None) -> MapJob:
        """Return the map of an entry."""
        cells = cells or getattr(self.settings, entry.size)
        last = _day(self._days(entry))
        cube = str(self.cube(cells))
        return MapJob(cube, str(path), cells, self.period[0], last, entry.window_mode, calibration)

    def _days(self, entry: Entry) -> int:
        """Return the days that an entry maps."""
        days = self.settings.days
        return min(days, entry.days * self.settings.slowest_days) if entry.days else days

    def _add_heads(self) -> None:
        """Add GRU-128 with heads of each kind, chosen one in a cell and blended, and without."""
        entry = model_entries(self.settings.hidden)[0]
        for kind in self.settings.kinds:
            path = self.folder / "models" / f"heads-{kind}"
            write_checkpoint(path, entry, heads=(kind, self.settings.heads))
            for calibration in ("none", "state", "neighbourhood"):
                name = _head_name(kind, calibration)
                if _head_name("", "none") in self.runs and calibration == "none":
                    continue
                job = self._job(entry, path, calibration, self.settings.heads_cells)
                self.runs[name] = timed(plan_map(job), self.folder / "map", self.executor)
                self.runs[name]()

    def _ensemble(self, single: _Model) -> tuple[list[Finished], Finished]:
        """Add the ensemble, and return where its runs will stand, and a run of one model over the same map."""
        entry = ensemble_entry(self.settings.members, self.settings.hidden)
        path = self.folder / "models" / "ensemble"
        write_checkpoint(path, entry)
        job, work = self._job(entry, path), self.folder / "map"
        plan = plan_map(job)
        done: list[Finished] = []
        self.runs["ensemble"] = timed(plan, work, self.executor, done)
        alone = plan_map(replace(job, checkpoint=single.job.checkpoint))
        return done, run_map(alone, work, self.executor)

    def _peer_data(self) -> PeerData:
        """Return what peers are given."""
        entry = peer_entry(self.settings.hidden)
        path = self.folder / "models" / "peer"
        write_checkpoint(path, entry)
        cells = self.settings.peer_cells
        work = self.folder / "peers"
        work.mkdir()
        return PeerData(self.cube(cells), FORCINGS, path, work, self.steps, self.settings, self.cores)

    def _add_ours(self, data: PeerData) -> None:
        """Add ours on the work of the peers."""
        job = MapJob(str(data.cube), str(data.model), self.settings.peer_cells, *self.period)
        self.runs[_OURS] = timed(plan_map(job), self.folder / "map", self.executor)
        self.runs[_OURS]()

    def _tuned(self, apart: Apart, peer: Peer) -> Tuned:
        """Return a peer in its best form, and say it."""
        tuned = apart.tune(peer)
        if tuned.sweep:
            self.say(f"  {peer.name}: best of {len(tuned.sweep)} forms {tuned.form}")
        return tuned

    def _add_peers(self, apart: Apart, peers: list[Tuned], data: PeerData) -> None:
        """Add all peers there are, and the networks alone."""
        self.runs |= {tuned.peer.name: tuned.run for tuned in _in_turn(peers) if tuned.run is not None}
        self.runs[_OURS_COMPUTE] = our_blocks(data.checkpoint, data.compute_days, data.blocks, self.cores)
        more = {JaxScan.name: (_JAX_COMPUTE, jax_blocks), XGBoostDask.name: (_ONE_FLUX, one_flux)}
        for tuned in peers:
            if tuned.run is not None and tuned.peer.name in more:
                name, make = more[tuned.peer.name]
                self.runs[name] = apart.add(tuned.peer, name, make)

    def _windows(self, models: list[_Model]) -> Windows:
        """Add TAM-RL on the same windows, ours and as published."""
        entry = next(model.entry for model in models if model.entry.kind == "tam_rl")
        checkpoint = load_checkpoint(self.folder / "models" / entry.checkpoint)
        found = tam_windows(checkpoint, self.settings.windows, self.cores, self.settings.sweep)
        self.runs |= {_TAM_OURS: found.ours, _TAM_PUBLISHED: found.published}
        self.runs |= {_TAM_NAMED: found.named, **({_TAM_TUNED: found.tuned} if found.tuned else {})}
        return found

    def _memory(self, models: list[_Model]) -> dict[str, float]:
        """Return the peak memory of the models that it is measured of, 10^6 B."""
        wanted = self.settings.children
        names = [m.entry.name for m in models if m.entry.checkpoint == m.entry.name] if wanted is None else wanted
        jobs = {m.entry.name: self._tiles_of(m) for m in models if m.entry.name in names}
        measured = measure_all(list(jobs.values()), _TILES)
        return {name: found.peak_rss_mb for name, found in zip(jobs, measured, strict=True)}

    def _tiles_of(self, model: _Model) -> MapJob:
        """Return the map that the memory of a model is measured on: its days on whole tiles."""
        cells = (TILE, TILE * _TILES)
        return replace(model.job, cube=str(self.cube(cells)), cells=cells)

    def _model_row(self, model: _Model, machine: dict[str, Any], memory: float | None) -> dict[str, Any]:
        """Return the row of a model."""
        entry, one, work = model.entry, model.one, model.work
        spread = spread_of(self.seconds[entry.name])
        delivered = done = best = None
        if work is not None:
            # of the limit beside it, or else of that of all rounds
            limits = self.limits.get(entry.name) or [machine["gemm_gflops"]] * self.settings.rounds
            pairs = zip(self.seconds[entry.name], np.maximum(limits, machine["gemm_gflops_one_thread"]), strict=True)
            per_flop = float(np.median([1e-9 / (seconds * limit) for seconds, limit in pairs]))
            delivered = work.delivered * one.pixel_days * per_flop
            done = delivered + work.spin_up * one.spin_up_pixel_days * per_flop
            best = done * 1e-9 / (per_flop * spread.median * machine["gemm_gflops_best"])
        return {
            "model": entry.name,
            "kind": entry.kind,
            "cells": model.job.cells[0] * model.job.cells[1],
            "pixel_days": one.pixel_days,
            "spin_up_pixel_days": one.spin_up_pixel_days,
            "missing": one.missing,
            "pixel_days_per_s": one.pixel_days / spread.median,
            "seconds": asdict(spread),
            "flop_per_pixel_day": work.delivered if work else None,
            "share_of_peak": done,
            "share_delivered": delivered,
            "share_of_best": best,
            "max_error": model.accuracy.max_error if model.accuracy else None,
            "max_error_std": model.accuracy.max_error_std if model.accuracy else None,
            "peak_rss_mb": memory,
        }

    def _peer_row(self, tuned: Tuned, data: PeerData) -> dict[str, Any]:
        """Return the row of a peer."""
        row: dict[str, Any] = {"peer": tuned.peer.name, "compares": tuned.peer.compares}
        if tuned.run is None:
            return {**row, "pixel_days_per_s": None, "missing": tuned.missing}
        if tuned.peer.name not in self.seconds:
            rate = max(form["pixel_days_per_s"] for form in tuned.sweep)
            return {**row, "pixel_days_per_s": rate, "form": tuned.form, "sweep": tuned.sweep}
        spread, count = spread_of(self.seconds[tuned.peer.name]), tuned.peer.pixel_days(data)
        rate = {"pixel_days": count, "pixel_days_per_s": count / spread.median, "seconds": asdict(spread)}
        return {**row, **rate, "form": tuned.form, "sweep": tuned.sweep}

    def _ratios(self, data: PeerData, peers: list[Tuned]) -> list[dict[str, Any]]:
        """Return how many times as fast ours is as each peer, round by round."""
        height, width = self.settings.peer_cells
        ours = height * width * data.days
        counts = {tuned.peer.name: tuned.peer.pixel_days(data) for tuned in peers if tuned.run is not None}
        if _ONE_FLUX in self.seconds:
            counts[_ONE_FLUX] = counts[XGBoostDask.name]
        timed = [name for name in _PER_CHUNK if name in self.seconds]
        best = min(timed, key=lambda name: np.median(self.seconds[name]))
        named = {
            "ours / best torch per chunk": best,
            "ours / xbatcher": XBatcher.name,
            "ours / torch per pixel": PerPixel.name,
            "ours / ONNX Runtime": OnnxRuntime.name,
            "ours / JAX scan": JaxScan.name,
            "ours / XGBoost": XGBoostDask.name,
            "ours / XGBoost, one flux": _ONE_FLUX,
            "ours / LightGBM": LightGBMDask.name,
        }
        rows = []
        for name, other in named.items():
            if other in counts:
                found = speed_ratio(self.seconds[_OURS], self.seconds[other], ours / counts[other])
                rows.append({"name": name, "other": other, **asdict(found)})
        if _JAX_COMPUTE in self.seconds:
            found = speed_ratio(self.seconds[_OURS_COMPUTE], self.seconds[_JAX_COMPUTE])
            rows.append({"name": "ours / JAX scan, compute only", "other": _JAX_COMPUTE, **asdict(found)})
        return rows

    def _ensemble_row(self, first: Finished, alone: Finished, single: _Model) -> dict[str, Any]:
        """Return speed of a member beside that of the single run, per pixel-day, and bytes read beside one member's."""
        seconds, members = self.seconds["ensemble"], self.settings.members
        work = members * first.pixel_days / single.one.pixel_days
        found = speed_ratio(seconds, self.seconds[single.entry.name], work)
        return {
            "members": members,
            "pixel_days_per_s": first.pixel_days / spread_of(seconds).median,
            "member_speed": found.ratio,
            "member_speed_low": found.low,
            "bytes_read": first.bytes_read,
            "bytes_read_alone": alone.bytes_read,
            "bytes_read_ratio": first.bytes_read / alone.bytes_read,
            "seconds": asdict(spread_of(seconds)),
        }

    def _head_rows(self) -> list[dict[str, Any]]:
        """Return the time of calibrated maps over that of the global model."""
        none = self.seconds[_head_name("", "none")]
        rows = []
        for kind in self.settings.kinds:
            for calibration in ("state", "neighbourhood"):
                found = speed_ratio(none, self.seconds[_head_name(kind, calibration)])
                places = {"kind": kind, "calibration": calibration, "places": self.settings.heads}
                rows.append({**places, "time_ratio": found.ratio, "low": found.low, "high": found.high})
        return rows

    def _windows_row(self, windows: Windows) -> dict[str, Any]:
        """Return TAM-RL beside its published evaluation."""
        found, tuned = speed_ratio(self.seconds[_TAM_OURS], self.seconds[_TAM_PUBLISHED]), self.seconds.get(_TAM_TUNED)
        return {
            "windows": windows.windows,
            **asdict(found),
            "difference": windows.difference,
            "named_ratio": speed_ratio(self.seconds[_TAM_OURS], self.seconds[_TAM_NAMED]).ratio,
            "tuned_ratio": speed_ratio(self.seconds[_TAM_OURS], tuned).ratio if tuned else None,
            "tuned_form": windows.form,
        }

    def _stride_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the speed of ``stride`` over ``exact`` beside the ratio of their work, of networks that have both."""
        named, found = {row["model"]: row for row in rows}, []
        for name, exact in named.items():
            other = name.removesuffix("exact") + "stride"
            stride = named.get(other)
            if not name.endswith(" exact") or stride is None:
                continue
            days = stride["pixel_days"] / exact["pixel_days"]
            speed = speed_ratio(self.seconds[other], self.seconds[name], days).ratio
            work = exact["flop_per_pixel_day"] / stride["flop_per_pixel_day"]
            about = {"model": name.removesuffix(" exact"), "stride_over_exact": speed, "work_ratio": work}
            found.append({**about, "stride_of_work": speed / work})
        return found

    def _scaling(self) -> dict[str, Any]:
        """Return memory and speed along region and years, and of two workers; nothing of a short benchmark."""
        largest = self.settings.scaling
        if largest is None:
            memory = ["memory"] if self.settings.children == () else []
            return {"scaling": [], "workers": [], "left_out": ["scaling", "workers", *memory]}
        entry = scaling_entry(self.settings.hidden)
        path = self.folder / "models" / "scaling"
        write_checkpoint(path, entry)
        wide, long = self.folder / "wide.zarr", self.folder / "long.zarr"
        smallest = (largest[0] // 4, largest[1] // 4)
        before, last = f"{_YEAR - 1}-01-01", f"{_YEAR + max(self.settings.years) - 1}-12-31"
        write_bench_cube(wide, SCALING_FORCINGS, largest, before, self.period[1])
        write_bench_cube(long, SCALING_FORCINGS, smallest, before, last)
        job = MapJob(str(wide), str(path), smallest, *self.period)
        steps = [*region_steps(job, largest), *year_steps(replace(job, cube=str(long)), self.settings.years)]
        quarter = replace(job, cells=(largest[0] // 2, largest[1] // 2))
        rows, workers = scaling_rows(steps, quarter, self.settings.worker_runs, self.cores)
        return {"scaling": rows, "workers": workers, "left_out": []}

    def _gpu(self, models: list[_Model]) -> list[dict[str, Any]] | str:
        """Return the networks on a GPU, or that there is none."""
        if not torch.cuda.is_available():
            return "not measured"
        rows = []
        for model in models:
            if model.accuracy is None:  # trees run on the CPU
                continue
            checkpoint = load_checkpoint(model.job.checkpoint, model.entry.window_mode)
            found = on_device(checkpoint, self._days(model.entry), "cuda")
            rows.append({"model": model.entry.name, **found})
        return rows


def _in_turn(peers: list[Tuned]) -> list[Tuned]:
    """Return the peers that take turns: of the two per-chunk forms of torch none that was far slower in its sweep."""
    rates = {t.peer.name: max(form["pixel_days_per_s"] for form in t.sweep) for t in peers if t.sweep}
    best = max((rates[name] for name in _PER_CHUNK if name in rates), default=0.0)
    far = [name for name in _PER_CHUNK if _FAR * rates.get(name, best) < best]
    return [tuned for tuned in peers if tuned.peer.name not in far]


_GROUPS = {
    "ensemble": "GRU-128",
    **dict.fromkeys((_TAM_PUBLISHED, _TAM_TUNED, _TAM_NAMED), _TAM_OURS),
    **dict.fromkeys((_OURS_COMPUTE, _JAX_COMPUTE, _ONE_FLUX, *(peer.name for peer in PEERS)), _OURS),
}
"""What runs are compared with whose names do not say it."""


def _groups_of(name: str) -> tuple[str, str]:
    """Return what a run is compared with, and what it is compared with most closely: a limit with its network."""
    near = name.removeprefix(_LIMIT)
    if near.startswith("heads: "):
        return "heads", near
    return _GROUPS.get(near, near.removesuffix(" exact").removesuffix(" stride")), near


def _limit_of(machine: dict[str, Any], found: dict[str, list[float]]) -> dict[str, Any]:
    """Return the peak that counts and the best moment, GFLOP/s, of those found beside each network in every round."""
    # what one thread does the machine can do: on a busy one threads that wait for each other do less
    alone, rounds = machine["gemm_gflops_one_thread"], np.median(list(found.values()), axis=0)
    return {
        "gemm_gflops": max(alone, float(np.median(rounds))),
        "gemm_gflops_best": max(alone, machine["gemm_gflops_best"], float(np.max(list(found.values())))),
        "gemm_gflops_rounds": rounds.tolist(),
        "gemm_gflops_beside": found,
    }


def _day(count: int) -> str:
    """Return the last of so many days of the maps."""
    return str(np.datetime64(f"{_YEAR}-01-01") + count - 1)


def _head_name(kind: str, calibration: str) -> str:
    """Return the name of a run with heads; without them all kinds are one."""
    return "heads: none" if calibration == "none" else f"heads: {kind} {calibration}"
