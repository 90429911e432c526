"""A dask cluster of processes of its own: refused, killed and lost, and the map it makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fluxgrid.errors import ConfigError, IncompleteMap
from fluxgrid.upscaling import execute, machine

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A scheduler and two workers without nannies, so that nobody starts them again."""

    address: str
    processes: list[subprocess.Popen]

    def kill(self, which: slice) -> None:
        for process in self.processes[which]:
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    # workers in another folder: paths must reach them whole
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard"]
    worker = [*dask, "worker", address, "--nthreads=1", "--no-nanny", "--no-dashboard", "--memory-limit=0"]
    commands = [scheduler, worker, worker]
    made = Cluster(address, [subprocess.Popen(c, cwd=tmp_path / "elsewhere", **quiet) for c in commands])
    yield made
    made.kill(slice(None))
    for process in made.processes:
        process.wait()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Wait long for a slow machine to start, and not long for workers that were killed."""
    monkeypatch.setattr(execute, "CONNECT_SECONDS", 120)
    monkeypatch.setattr("fluxgrid.upscaling.cluster.WORKER_SECONDS", 120)
    monkeypatch.setattr(execute, "WATCH_SECONDS", 1)
    monkeypatch.setattr(execute, "LOST_SECONDS", 2)


def kill_after_first(monkeypatch, cluster: Cluster, which: slice) -> None:
    """Kill processes of a cluster when its first tile is done."""
    answers = execute._answers

    def killing(*given):
        for number, report in enumerate(answers(*given)):
            if number == 0:
                cluster.kill(which)
            yield report

    monkeypatch.setattr(execute, "_answers", killing)


@pytest.mark.parametrize(("which", "what"), [(slice(1, None), "All workers"), (slice(1), "The scheduler")])
def test_a_lost_cluster_ends_the_run_which_then_goes_on_without_it(
    world, baseline, digests_of, manifest, tmp_path, monkeypatch, cluster, which, what
):
    out = tmp_path / "map"
    with monkeypatch.context() as patch:
        kill_after_first(patch, cluster, which)
        with pytest.raises(IncompleteMap, match=rf"{what} \({cluster.address}\): lost after .*--resume") as caught:
            world.run(out, scheduler=cluster.address)
    assert caught.value.exit_code == 3
    world.run(out, "resume")
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    assert manifest(out)["units"]["kept"] > 0


def test_a_cluster_of_another_kind_is_refused_or_named(
    world, baseline, digests_of, manifest, tmp_path, monkeypatch, cluster
):
    """The planner is made to seem another machine; the workers are what they are."""
    out, here = tmp_path / "map", machine.Machine.here()
    monkeypatch.setattr(machine, "_here", lambda device: replace(here, isa="NEON"))
    with pytest.raises(ConfigError, match=rf"isa {here.isa} instead of NEON") as caught:
        world.run(out, scheduler=cluster.address)
    assert caught.value.exit_code == 2
    assert not out.exists()
    world.run(out, scheduler=cluster.address, allow_mixed=True)
    assert manifest(out)["machines"] == [here.text()]
    assert manifest(out)["mixed"]
    assert digests_of(out) == digests_of(baseline["ct_gru"])
