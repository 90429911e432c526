from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid.bench.accuracy import accuracy_of
from fluxgrid.bench.checkpoints import write_checkpoint
from fluxgrid.bench.child import Child, peak_memory
from fluxgrid.bench.compute import on_device, tam_windows
from fluxgrid.bench.cubes import box_of, grid_of_cells
from fluxgrid.bench.entries import model_entries
from fluxgrid.bench.machine import bytes_read, gemm_rate
from fluxgrid.errors import ConfigError
from fluxgrid.geo.region import find_region
from fluxgrid.models import load_checkpoint
from fluxgrid.upscaling.cover import land_share

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
]


def checkpoint_of(name, folder):
    entry = next(entry for entry in model_entries(0.0625, trees=3) if entry.name == name)
    write_checkpoint(folder / "model", entry, rows=200)
    return load_checkpoint(folder / "model")


@pytest.mark.parametrize("name", ["GRU-128", "CT-LSTM 2 x 256", "KGML-ag"])
def test_the_error_is_that_of_single_precision(name, tmp_path):
    checkpoint = checkpoint_of(name, tmp_path)
    found = accuracy_of(checkpoint, 12)
    assert 1e-9 < found.max_error < 1e-5
    assert found.max_error_std > found.max_error / 10


def test_the_error_sees_a_wrong_weight(tmp_path, monkeypatch):
    checkpoint = checkpoint_of("GRU-128", tmp_path)
    right, predict = checkpoint.model.predict, checkpoint.model.predict
    monkeypatch.setattr(checkpoint.model, "predict", lambda *given: (1.001 * predict(*given)[0], right(*given)[1]))
    assert accuracy_of(checkpoint, 12).max_error == pytest.approx(1e-3, rel=0.05)


def test_trees_have_no_error_to_tell(tmp_path):
    assert accuracy_of(checkpoint_of("LightGBM", tmp_path), 3) is None


def test_tam_rl_equals_its_published_evaluation(tmp_path):
    found = tam_windows(checkpoint_of("TAM-RL exact", tmp_path), 64, 2)
    assert found.windows == 64
    assert found.difference < 1e-5
    assert min(found.ours(), found.published(), found.tuned()) > 0


@pytest.mark.parametrize("cells", [(16, 48), (32, 32), (128, 256)])
def test_a_box_of_cells_is_those_cells_and_all_land(cells):
    grid = grid_of_cells((128, 256))
    part = grid.covering(find_region(box_of(grid, cells)).bounds)
    assert part.shape == cells
    assert grid.window(part) == (slice(0, cells[0]), slice(0, cells[1]))
    assert (land_share(part) > 0).all()


def test_a_process_that_is_lost_is_told_and_can_be_closed():
    child = Child()
    with pytest.raises(ConfigError, match="was lost"):
        child._last(os._exit, 1)
    child.close()


_LEADER = """
import os, sys, time
from fluxgrid.bench.child import Child
if __name__ == "__main__":
    child = Child()
    print(child._ask(os.getpid), flush=True)
    time.sleep(600)
"""


def test_processes_end_with_the_one_that_is_killed(tmp_path):
    (tmp_path / "leader.py").write_text(_LEADER)
    with subprocess.Popen([sys.executable, str(tmp_path / "leader.py")], stdout=subprocess.PIPE, text=True) as leader:
        try:
            pid = int(leader.stdout.readline())
            os.kill(pid, 0)  # it is there, and holds the same pipe
        finally:
            leader.kill()
        try:
            leader.communicate(timeout=30)  # the pipe ends with the last that holds it
        except subprocess.TimeoutExpired:
            os.kill(pid, 9)
            raise


def test_rates_are_those_of_a_machine():
    assert 1e7 < gemm_rate(1, (64,), 1) < 1e13


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what a process holds now")
def test_peak_memory_grows_by_what_is_held_and_stays():
    before = peak_memory()
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    held = np.ones(int((before - now + 200) * 1e6 / 8))
    grown = peak_memory() - before
    assert 150 < grown < 250
    assert held[0] == 1
    del held
    assert peak_memory() - before > 150


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not say what a process has read")
def test_bytes_read_are_those_of_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    before = bytes_read()
    (tmp_path / "file").read_bytes()
    assert 3_000_000 <= bytes_read() - before < 3_500_000


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["GRU-128", "KGML-ag", "TAM-RL exact", "Transformer exact"])
def test_a_predictor_says_the_same_on_every_device(name, device, tmp_path):
    checkpoint = checkpoint_of(name, tmp_path)
    found = on_device(checkpoint, 12, device)
    assert found["max_difference"] < 1e-5
    assert found["pixel_days_per_s"] > 0
    assert next(checkpoint.model.parameters()).device.type == "cpu"  # the CPU has its model back
