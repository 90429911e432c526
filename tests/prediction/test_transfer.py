"""What goes to a device comes back, one block at a time; the same assertions on a GPU where there is one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fluxgrid.prediction import transfer
from fluxgrid.prediction.transfer import run_block, turn

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_results_are_those_of_the_work_from_any_thread(device):
    """Blocks of several threads, so that copies of one overlap with the work of another."""
    torch.manual_seed(1)
    weight = torch.randn(5, 7)
    there = weight.to(device)
    rng = np.random.default_rng(2)
    blocks = [(rng.normal(size=(256, 11, 5)).astype(np.float32), np.float32([[i]])) for i in range(12)]

    def work(dynamic, number):
        return dynamic @ there, number + 1

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda block: run_block(work, block, torch.device(device)), blocks))
    for (dynamic, number), (product, after) in zip(blocks, found, strict=True):
        np.testing.assert_allclose(product, dynamic @ weight.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(after, number + 1)
    again = run_block(work, blocks[3], torch.device(device))
    np.testing.assert_array_equal(again[0], found[3][0])


def most_at_once(device: str) -> int:
    """Return how many of six threads held a device together."""
    inside, most, lock = 0, 0, threading.Lock()

    def block(_):
        nonlocal inside, most
        with turn(torch.device(device)):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(block, range(12)))
    return most


def test_one_block_at_a_time_on_a_gpu_and_many_on_a_cpu():
    """A turn needs no GPU, so this runs everywhere."""
    assert most_at_once("cuda:0") == 1
    assert most_at_once("cpu") > 1


def fail_in_turn():
    with turn(torch.device("cuda:0")):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        message = "oops"
        raise ValueError(message)


def test_a_turn_rounds_nothing_and_is_given_back_after_an_error():
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ValueError, match="oops"):
        fail_in_turn()
    assert torch.backends.cudnn.allow_tf32 == before
    assert transfer._TURNS["cuda:0"].acquire(blocking=False)
    transfer._TURNS["cuda:0"].release()


class Recorder:
    """Stands for streams and events of CUDA, and writes down what happens in which order."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event.name}")

    def record_event(self):
        return Recorder(self.log, f"event of {self.name}")

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")

    def __enter__(self):
        self.log.append(f"on {self.name}")

    def __exit__(self, *_):
        self.log.append(f"off {self.name}")


def test_work_waits_for_its_inputs_and_copies_out_after_its_turn(monkeypatch):
    log: list[str] = []
    main, real = Recorder(log, "main"), torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Recorder(log, "side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: log.append("pin") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *_, non_blocking: log.append(f"copy in {non_blocking}") or self
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    monkeypatch.setattr(
        torch, "empty", lambda shape, dtype, pin_memory: log.append("pinned") or real(shape, dtype=dtype)
    )

    def work(tensor):
        assert not transfer._TURNS["cuda"].acquire(blocking=False)
        log.append("work")
        return (tensor * 2,)

    (found,) = run_block(work, [np.float32([1, 2])], torch.device("cuda"))
    assert found.tolist() == [2, 4]
    into = ["on side", "pin", "copy in True", "off side", "main waits for event of side", "kept for main"]
    out = ["on side", "pinned", "kept for side", "off side", "host waits for event of side"]
    assert log == [*into, "work", "host waits for event of main", *out]
