"""Tiles on a cluster: slow ones go to another worker too, a GPU runs one, and a run that is over writes nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import dask.base
import numpy as np
import pandas as pd
import pytest
from distributed import LocalCluster, get_worker

from fluxgrid.errors import ClusterUnavailable, ConfigError, IncompleteMap
from fluxgrid.upscaling import attempts, workers
from fluxgrid.upscaling.attempts import Attempts
from fluxgrid.upscaling.claim import Withdrawn, check_claim, claimed, release
from fluxgrid.upscaling.execute import run_tiles
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.machine import Machine
from fluxgrid.upscaling.plan import CubeSource
from fluxgrid.upscaling.tile import Job, TileReport

HERE = Machine.here()
QUIET = {"processes": False, "dashboard_address": None, "silence_logs": 50}


def task_of(name: str, cells: int = 20) -> Any:
    return SimpleNamespace(tile=SimpleNamespace(name=name), wanted=np.ones(cells, bool))


@pytest.fixture
def job(tmp_path) -> Callable[..., Job]:
    def made(machine: Machine | None = HERE, device: str = "cpu") -> Job:
        fixed = "m", None, "fp32", device, "daily", pd.DatetimeIndex([])
        return Job((), CubeSource("c"), "d", *fixed, (), (), (), (0, 0), None, "none", str(tmp_path), machine)

    return made


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Look often, and call a tile slow after a third of a second."""
    monkeypatch.setattr(workers, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(workers, "LOST_SECONDS", 0.5)
    monkeypatch.setattr(attempts, "STRAGGLER_SECONDS", 0.3)


@contextmanager
def running(tile: Callable[[str, int], TileReport], monkeypatch, **options: Any) -> Iterator[tuple[str, list]]:
    """Start a cluster in this process whose tiles are a function of name and attempt; give address and what ran."""
    ran: list[tuple[str, str]] = []

    def run(task: Any, _: Job) -> TileReport:
        ran.append((task.tile.name, get_worker().address))
        return tile(task.tile.name, Counter(name for name, _ in ran)[task.tile.name])

    monkeypatch.setattr(attempts, "run_tile", run)
    with LocalCluster(**{"n_workers": 2, "threads_per_worker": 1, **QUIET, **options}) as cluster:
        yield cluster.scheduler_address, ran


def names_of(reports: list[TileReport]) -> list[str]:
    return [report.tile for report in reports]


NAMES = [f"t{number}" for number in range(5)]


def test_a_slow_tile_is_given_to_another_worker_and_the_first_answer_counts(monkeypatch, job):
    stuck = threading.Event()

    def tile(name: str, attempt: int) -> TileReport:
        if name == "t1" and attempt == 1:
            stuck.wait(60)
        return TileReport(name, done=attempt, seconds=0.01)

    with running(tile, monkeypatch) as (address, ran):
        begun = time.monotonic()
        reports = run_tiles([task_of(name) for name in NAMES], job(), Executor(scheduler=address), lambda _: None)
        assert time.monotonic() - begun < 30
        stuck.set()
    assert names_of(reports) == NAMES
    assert reports[1].done == 2
    assert Counter(name for name, _ in ran) == Counter({**dict.fromkeys(NAMES, 1), "t1": 2})
    assert len({worker for name, worker in ran if name == "t1"}) == 2


@pytest.mark.parametrize("machine", [HERE, None], ids=["alike", "mixed"])
def test_nothing_runs_twice_where_all_are_quick_or_machines_differ(monkeypatch, job, machine):
    """Of mixed machines each writes its own bits: what one has recorded must not be written by another."""
    seconds = 0.0 if machine else 1.2

    def tile(name: str, attempt: int) -> TileReport:
        time.sleep(seconds if name == "t0" else 0.0)
        return TileReport(name, done=attempt, seconds=0.01)

    with running(tile, monkeypatch) as (address, ran):
        tasks = [task_of(name) for name in NAMES]
        reports = run_tiles(tasks, job(machine), Executor(scheduler=address), lambda _: None)
    assert [report.done for report in reports] == [1] * 5
    assert len(ran) == 5


def test_a_second_attempt_that_fails_leaves_the_first_alone(monkeypatch, job):
    failed = threading.Event()

    def tile(name: str, attempt: int) -> TileReport:
        if name != "t1":
            return TileReport(name, done=1, seconds=0.01)
        if attempt == 1:
            assert failed.wait(30)
            time.sleep(0.3)
            return TileReport(name, done=7)
        failed.set()
        return TileReport(name, error="stale file handle")

    with running(tile, monkeypatch) as (address, _):
        reports = run_tiles([task_of(n) for n in NAMES], job(), Executor(scheduler=address), lambda _: None)
    assert (reports[1].done, reports[1].error) == (7, "")


@pytest.mark.parametrize(("device", "most"), [("cuda H200", 1), ("cpu", 3)])
def test_a_gpu_runs_one_tile_at_a_time(monkeypatch, job, device, most):
    now, peak, lock, together = [0], [0], threading.Lock(), threading.Barrier(3)

    def tile(name: str, _: int) -> TileReport:
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        if device == "cpu":
            together.wait(30)
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return TileReport(name, done=1, seconds=0.02)

    with running(tile, monkeypatch, n_workers=1, threads_per_worker=3, resources={"GPU": 1}) as (address, _):
        tasks = [task_of(f"t{number}") for number in range(6)]
        reports = run_tiles(tasks, job(device=device), Executor(scheduler=address), lambda _: None)
    assert len(reports) == 6
    assert peak == [most]


def test_a_run_ends_when_its_workers_stay_away(monkeypatch, job, tmp_path):
    with running(lambda name, _: TileReport(name), monkeypatch, n_workers=0) as (address, _):
        lost = pytest.raises(IncompleteMap, match=r"All workers \(.*\): lost after 0 of 1 tiles.*kept.*--resume")
        with lost as caught:
            run_tiles([task_of("t0")], job(), Executor(scheduler=address), lambda _: None)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "kind", "code"),
    [("tcp://127.0.0.1:9", ClusterUnavailable, 6), ("http://127.0.0.1:9", ConfigError, 2), ("tcp://", ConfigError, 2)],
)
def test_an_address_without_a_scheduler_says_what_to_do(monkeypatch, job, address, kind, code):
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.5)
    with pytest.raises(kind, match="dask scheduler") as caught:
        run_tiles([task_of("t0")], job(), Executor(scheduler=address), lambda _: None)
    assert caught.value.exit_code == code
    assert dask.base.get_scheduler() is None  # the process can still compute


class _Silent:
    """A client that does nothing, of a cluster with four threads."""

    def nthreads(self) -> dict[str, int]:
        return {"tcp://a": 4}

    def subscribe_topic(self, *_: Any) -> None:
        pass

    def submit(self, *given: Any, **_: Any) -> object:
        return object()

    def cancel(self, _: Any) -> None:
        pass


def test_slow_is_measured_by_the_cells_of_a_tile(monkeypatch, job):
    monkeypatch.setattr(attempts, "STRAGGLER_SECONDS", 10.0)
    tasks = [task_of("done", 100), task_of("large", 1000), task_of("small", 10), task_of("queued", 10)]
    made = Attempts(_Silent(), tasks, job(), True, {})  # type: ignore[arg-type]
    made.feed()
    now = time.monotonic() + 100
    for name, ago in (("done", 40), ("large", 30), ("small", 20)):
        made._at[name]["tcp://a"] = now - ago
    made._at["queued"]["tcp://a"] = now - 9
    assert made.slow(now) == []  # nothing to compare with
    made.take(next(iter(made.pending)), TileReport("done", done=1, seconds=1.0))
    assert [task.tile.name for task in made.slow(now)] == ["small"]  # 10 s; the large one has 4 * 10 s
    assert [task.tile.name for task in made.slow(now + 11)] == ["large", "small", "queued"]
    made._at["small"]["tcp://b"] = now + 5  # asked of another
    assert [task.tile.name for task in made.slow(now + 11)] == ["large", "queued"]


def test_a_run_that_is_over_or_followed_by_another_may_not_write(tmp_path):
    with claimed(tmp_path) as first:
        check_claim(tmp_path, first)
        with claimed(tmp_path) as second:
            check_claim(tmp_path, second)
            with pytest.raises(Withdrawn, match="is over"):
                check_claim(tmp_path, first)
    for run in (first, second):
        with pytest.raises(Withdrawn):
            check_claim(tmp_path, run)
    check_claim(tmp_path, "")  # of this process
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []
