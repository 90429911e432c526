"""Which machines may make one map together, and what a cluster is told before anything runs."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from distributed import Client, LocalCluster

from fluxgrid.data.cube import open_cube
from fluxgrid.errors import ClusterUnavailable, ConfigError, OutputError
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling import cluster, tile
from fluxgrid.upscaling.cluster import Look, check_answers, cube_facts, look
from fluxgrid.upscaling.executor import Executor
from fluxgrid.upscaling.machine import Machine, check_machines
from fluxgrid.upscaling.plan import CubeSource
from fluxgrid.upscaling.workers import connect

HERE = Machine.here()


def plan(mixed: bool = False, device: str = "cpu") -> SimpleNamespace:
    return SimpleNamespace(machine=HERE, mixed=mixed, device=device)


def test_here_names_instructions_and_libraries():
    assert "" not in vars(HERE).values()
    assert HERE.torch == torch.__version__
    assert HERE.gpu == "none"
    assert f"isa {HERE.isa}" in HERE.text()
    assert HERE.differences(Machine.here()) == []


def test_all_workers_and_fields_that_differ_are_named_at_once():
    others = {"tcp://b": replace(HERE, isa="AVX2", numpy="1.0"), "tcp://a": HERE, "tcp://c": replace(HERE, torch="2.0")}
    with pytest.raises(ConfigError, match="2 of 3 workers") as caught:
        check_machines(HERE, others)
    assert caught.value.exit_code == 2
    told = str(caught.value)
    assert f"tcp://b: isa AVX2 instead of {HERE.isa}, numpy 1.0 instead of {HERE.numpy}" in told
    assert f"tcp://c: torch 2.0 instead of {HERE.torch}" in told
    assert "tcp://a" not in told
    assert "--allow-mixed" in told
    check_machines(HERE, {"tcp://a": HERE})


def test_a_mixed_cluster_is_refused_unless_allowed():
    answers = {"tcp://a": Look(HERE, ()), "tcp://b": Look(replace(HERE, fluxgrid="0.0"), ())}
    with pytest.raises(ConfigError, match=r"tcp://b: fluxgrid 0\.0 instead of"):
        check_answers(answers, plan())
    check_answers(answers, plan(mixed=True))


def test_workers_that_cannot_see_or_run_are_named_even_if_mixed_is_allowed():
    answers = {"tcp://a": Look(HERE, ("cannot open the cube /x",)), "tcp://b": ModuleNotFoundError("no fluxgrid")}
    with pytest.raises(ConfigError, match="Workers of the cluster cannot make this map") as caught:
        check_answers(answers, plan(mixed=True))
    assert "tcp://a: cannot open the cube /x" in str(caught.value)
    assert "tcp://b: cannot run fluxgrid (ModuleNotFoundError: no fluxgrid)" in str(caught.value)


def test_each_worker_has_one_gpu_to_give_where_one_predicts():
    answers = {f"tcp://{name}": Look(HERE, (), gpus) for name, gpus in (("a", 1), ("b", 0), ("c", 2))}
    check_answers(answers, plan())
    check_answers({"tcp://a": answers["tcp://a"]}, plan(device="cuda H200"))
    with pytest.raises(ConfigError, match="one tile at a time") as caught:
        check_answers(answers, plan(device="cuda H200"))
    told = str(caught.value)
    assert "tcp://b: GPU=0" in told
    assert "tcp://c: GPU=2" in told
    assert "tcp://a" not in told
    assert "dask worker ADDRESS --resources GPU=1" in told


def test_a_worker_says_what_it_cannot_see(tmp_path):
    cube = small_cube(shape=(5, 7), periods=11)
    source = CubeSource.of(str(write_cube(cube, tmp_path / "cube.zarr")))
    facts = cube_facts(open_cube(source.path))
    probe = tmp_path / "out" / ".probe.0123abcd.tmp"
    probe.parent.mkdir()
    probe.write_text("token")
    assert look("cpu", source, facts, str(probe), "token") == Look(HERE, ())
    assert list(probe.parent.iterdir()) == [probe]
    assert look("cpu", source, "other", str(probe), "x").problems == (
        f"another cube stands at {source.path}",
        f"another folder stands at {probe.parent}",
    )
    gone = look("cpu", CubeSource(str(tmp_path / "gone.zarr")), facts, str(tmp_path / "no" / "probe"), "token").problems
    assert gone[0].startswith(f"cannot open the cube {tmp_path / 'gone.zarr'}")
    assert gone[1] == f"cannot read and write the run folder {tmp_path / 'no'} (No such file or directory)"


def test_a_process_that_joined_later_checks_itself(tmp_path):
    tile.check_here(HERE, "cpu", str(tmp_path))
    tile.check_here(None, "cpu", str(tmp_path))
    with pytest.raises(OutputError, match=r"may give other bits \(isa .* instead of NEON\). Stop that worker"):
        tile.check_here(replace(HERE, isa="NEON"), "cpu", str(tmp_path))
    with pytest.raises(OutputError, match=r"does not see the map store .*elsewhere. Stop that worker"):
        tile.check_here(HERE, "cpu", str(tmp_path / "elsewhere"))


def test_a_stranger_ends_the_run_and_computes_nothing(tmp_path):
    task = SimpleNamespace(tile=SimpleNamespace(name="r0c0"))
    job = SimpleNamespace(machine=replace(HERE, isa="NEON"), device="cpu", stores=("", str(tmp_path)))
    report = tile.run_tile(task, job)
    assert report.fatal
    assert "instead of NEON" in report.error


def test_a_cluster_without_workers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.2)
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    none = pytest.raises(ClusterUnavailable, match="The scheduler has no worker after")
    with LocalCluster(n_workers=0, processes=False, **quiet) as scheduler, Client(scheduler) as client, none as caught:
        cluster.check_cluster(client, plan(), None, "cpu", tmp_path)
    assert caught.value.exit_code == 6


def test_workers_keep_memory_and_run_one_thread_of_algebra():
    """Read back inside worker processes: dask's nanny would set MALLOC_TRIM_THRESHOLD_."""
    names = "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
    with connect(Executor(workers=2)) as client:
        found = {name: set(client.run(os.getenv, name).values()) for name in names}
        threads = client.run(torch.get_num_threads)
    assert found == {names[0]: {None}} | {name: {"1"} for name in names[1:]}
    assert list(threads.values()) == [1, 1]
