"""A dask cluster of processes of its own: refused, stopped, killed and lost, and the map that it makes all the same."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import LocalCluster

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.errors import ConfigError, IncompleteMap
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.testing import small_cube
from fluxgrid.upscaling import attempts, machine, workers
from fluxgrid.upscaling.attempts import Attempts
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed


@dataclass
class Cluster:
    """A scheduler and two workers without nannies, so that nobody starts them again."""

    address: str
    processes: list[subprocess.Popen]

    def kill(self, which: slice, how: signal.Signals = signal.SIGKILL) -> None:
        for process in self.processes[which]:
            process.send_signal(how)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    """Start them by their ordinary commands."""
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
    worker = [
        *dask,
        "worker",
        address,
        "--nthreads=1",
        "--no-nanny",
        "--no-dashboard",
        "--memory-limit=0",
        "--resources=GPU=1",
    ]
    commands = [scheduler, worker, worker]
    made = Cluster(address, [subprocess.Popen(c, cwd=tmp_path / "elsewhere", **quiet) for c in commands])
    yield made
    made.kill(slice(None), signal.SIGCONT)
    made.kill(slice(None))
    for process in made.processes:
        process.wait()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Wait long for a slow machine to start, and not long for workers that were killed."""
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 120)
    monkeypatch.setattr("fluxgrid.upscaling.cluster.WORKER_SECONDS", 120)
    monkeypatch.setattr(workers, "WATCH_SECONDS", 1)
    monkeypatch.setattr(workers, "LOST_SECONDS", 2)


def kill_after_first(monkeypatch, cluster: Cluster, which: slice) -> None:
    """Kill processes of a cluster when its first tile is done."""
    answers = workers._answers

    def killing(*given):
        for number, report in enumerate(answers(*given)):
            if number == 0:
                cluster.kill(which)
            yield report

    monkeypatch.setattr(workers, "_answers", killing)


def harm_the_first(monkeypatch, cluster: Cluster, how: signal.Signals) -> list[str]:
    """Harm the worker that begins a tile first, while it is at it; return where its address will stand."""
    heard, harmed = Attempts._heard, []

    def harming(self, event):
        heard(self, event)
        if not harmed:
            harmed.append(event[1]["worker"])
            port = int(event[1]["worker"].rpartition(":")[2])
            os.kill(process_at(port, [process.pid for process in cluster.processes[1:]]), how)

    monkeypatch.setattr(Attempts, "_heard", harming)
    return harmed


def process_at(port: int, pids: list[int]) -> int:
    """Return the process that listens at a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port and row[3] == "0A"}
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(handle.readlink()) in sockets:
                    return pid
    raise AssertionError(port)


class Region:
    """A monthly cube of four tiles, and archives of maps that are made of it."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model
        cube = small_cube("monthly", (35, 41), "2019-01-01", 36, 4, (-93.5, 41.8)).drop_encoding()
        for array in cube.data_vars.values():
            array.encoding = {"chunks": (3, 32, 32)[-array.ndim :], "grid_mapping": "spatial_ref"}
        cube.to_zarr(folder / "cube.zarr", zarr_format=3, consolidated=False)

    def values(self, out: str, **changes: Any) -> dict[str, Any]:
        found = {"region": "-95.5,40.1,-91.5,43.5", "cube": str(self.folder / "cube.zarr"), "threads": 1}
        return found | {"model": str(self.model), "out": str(self.folder / out), "start": "2020-01-01"} | changes

    def refresh(self, out: str, **changes: Any) -> Refreshed:
        return refresh(load_config(UpscaleConfig, None, self.values(out, **changes)))

    def assert_same(self, one: str, other: str) -> None:
        """Assert that two archives hold the same maps bit for bit, made of the same units."""
        ours, theirs = (Archive.open(self.folder / out / "archive") for out in (one, other))
        assert ours.years().keys() == theirs.years().keys()
        for year, maps in ours.years().items():
            for name, values in maps.data_vars.items():
                np.testing.assert_array_equal(values.values, theirs.years()[year][name].values, strict=True)
        units = [{name: (u.key, u.digest) for name, u in archive.units().items()} for archive in (ours, theirs)]
        assert units[0] == units[1]


@pytest.fixture
def region(tools, tmp_path, monkeypatch) -> Region:
    """A region whose network carries its state from year to year."""
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])
    cube = small_cube("monthly", (44, 57), "2019-01-01", 36, 4, (-93.5, 41.8))
    made = tools["write_model"](tmp_path / "network", cube, tools["spec_of"]("ct_gru", "monthly"))
    return Region(tmp_path, made)


# --- a refresh -------------------------------------------------------------------------------------------------------


def test_a_refresh_whose_worker_is_killed_ends_as_one_process_does(region, cluster, monkeypatch, litter):
    """One of two workers, each started by its ordinary command, is killed while it is at a tile that carries state."""
    region.refresh("alone")
    killed = harm_the_first(monkeypatch, cluster, signal.SIGKILL)
    done = region.refresh("together", scheduler=cluster.address)
    assert (done.status, len(killed)) == ("published", 1)
    assert sum(process.poll() is not None for process in cluster.processes) == 1
    assert done.report["computed"]["tiles"] == 4
    region.assert_same("alone", "together")
    assert region.refresh("together", scheduler="tcp://127.0.0.1:9").status == "up to date"  # nobody is asked
    leavings = [name for name in litter(region.folder / "together") if not name.endswith(".partial")]
    assert leavings == []


@pytest.mark.slow
def test_a_worker_that_stops_and_comes_back_changes_nothing(region, cluster, monkeypatch):
    """Its tile is given to the other one; when it goes on, its run is over and a newer archive stands."""
    monkeypatch.setattr(attempts, "STRAGGLER_SECONDS", 1.0)
    monkeypatch.setattr(attempts, "STRAGGLER_TIMES", 1.0)
    region.refresh("alone")
    stopped = harm_the_first(monkeypatch, cluster, signal.SIGSTOP)
    assert region.refresh("together", scheduler=cluster.address).status == "published"
    assert len(stopped) == 1
    stores = sorted(region.folder.glob("together/.fluxgrid/refresh-*/*.zarr"))
    cluster.kill(slice(None), signal.SIGCONT)
    assert region.refresh("together", threads=2).status == "up to date"
    assert sorted(region.folder.glob("together/.fluxgrid/refresh-*/*.zarr")) == stores == []
    region.assert_same("alone", "together")


@pytest.mark.slow
def test_a_refresh_whose_workers_are_all_lost_keeps_what_is_finished(region, cluster, monkeypatch, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(region.values("together")))
    region.refresh("alone")
    with monkeypatch.context() as patch:
        kill_after_first(patch, cluster, slice(1, None))
        lost = pytest.raises(IncompleteMap, match=r"All workers \(tcp://.*\): lost after .* of 4 tiles.*is kept")
        with lost as caught:
            region.refresh("together", scheduler=cluster.address)
    assert caught.value.exit_code == 3
    (report,) = (region.folder / "together" / "reports").glob("*.json")
    assert "All workers" in json.loads(report.read_text())["error"]
    command = [sys.executable, "-m", "fluxgrid", "refresh", str(file), "--scheduler"]
    for address, code, says in (("tcp://127.0.0.1:9", 6, "No dask scheduler answers"), ("ftp://x:1", 2, "no address")):
        done = subprocess.run([*command, address], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    done = region.refresh("together")
    assert done.report["computed"]["units"] < 12  # three a tile
    region.assert_same("alone", "together")


def test_units_that_are_done_twice_at_the_same_time_are_done_once(
    world, baseline, digests_of, manifest, tmp_path, monkeypatch
):
    """Every tile of the usual map runs on both workers at once; records decide."""
    ask = Attempts._ask

    def twice(self, task, worker):
        for each in self.client.nthreads():
            ask(self, task, each)

    monkeypatch.setattr(Attempts, "_ask", twice)
    with LocalCluster(2, processes=False, threads_per_worker=1, dashboard_address=None, silence_logs=50) as found:
        world.run(tmp_path / "map", scheduler=found.scheduler_address)
    assert digests_of(tmp_path / "map") == digests_of(baseline["ct_gru"])


# --- a map -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_a_map_whose_worker_is_killed_is_the_map(world, baseline, digests_of, tmp_path, monkeypatch, cluster, kind):
    killed = harm_the_first(monkeypatch, cluster, signal.SIGKILL)
    world.run(tmp_path / "map", scheduler=cluster.address, model=str(getattr(world, kind)))
    assert len(killed) == 1
    assert digests_of(tmp_path / "map") == digests_of(baseline[kind])


@pytest.mark.slow
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
