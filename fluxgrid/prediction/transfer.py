"""Between the memory of this machine and that of a GPU; on a CPU nothing moves.

Tiles run in threads. A thread copies the inputs of a block in while another's block computes, waits for its turn,
computes, gives the turn back, and copies its results out while the next block computes. Blocks have one shape and
compute one after the other on one stream, without reduced precision, so that on one device a block's bits do not follow
its neighbours or the tiles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_TURNS: dict[str, threading.Semaphore] = {}
_LOCK = threading.Lock()


@contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """Hold a GPU for one block at a time of this process, in full single precision; on a CPU blocks run side by side.

    Parameters
    ----------
    device : torch.device
    """
    if device.type != "cuda":
        yield
        return
    with _LOCK:
        waiting = _TURNS.setdefault(str(device), threading.Semaphore(1))
    # the flags are those of the whole process: they are set and put back while nobody else holds the device
    with waiting, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def run_block(
    work: Callable[..., Sequence[Tensor]], arrays: Sequence[np.ndarray], device: torch.device
) -> tuple[np.ndarray, ...]:
    """Run a model on the arrays of one block and return its results as arrays.

    Parameters
    ----------
    work : callable
        Takes one tensor on the device for each array and returns tensors there.
    arrays : sequence of ndarray
        Inputs of a block, such as (B, T, F), (B, S) and (B, K), float32.
    device : torch.device

    Returns
    -------
    results : tuple of ndarray
        One for each tensor that `work` returns.
    """
    given = [torch.from_numpy(array) for array in arrays]
    if device.type != "cuda":
        return tuple(tensor.cpu().numpy() for tensor in work(*(tensor.to(device) for tensor in given)))
    side = torch.cuda.Stream(device)
    moved, ready = _to_device(given, device, side)
    with turn(device):
        stream = torch.cuda.current_stream(device)
        stream.wait_event(ready)
        for tensor in moved:
            tensor.record_stream(stream)  # its memory was taken on the side stream
        results = work(*moved)
        done = stream.record_event()
        done.synchronize()  # the next block shall find the memory of this one free
    return _to_host(results, side)


def _to_device(
    tensors: list[Tensor], device: torch.device, side: torch.cuda.Stream
) -> tuple[list[Tensor], torch.cuda.Event]:
    """Copy tensors to a GPU on a stream of their own; the event says when they are there."""
    with torch.cuda.stream(side):
        # only pinned memory is copied while the processor goes on
        moved = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    return moved, side.record_event()


def _to_host(tensors: Sequence[Tensor], side: torch.cuda.Stream) -> tuple[np.ndarray, ...]:
    """Copy finished results into pinned memory on a stream of their own, and wait for them alone."""
    with torch.cuda.stream(side):
        held = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for here, there in zip(held, tensors, strict=True):
            here.copy_(there, non_blocking=True)
            there.record_stream(side)
    side.record_event().synchronize()
    # pinned memory is scarce and would be held as long as the arrays live
    return tuple(here.numpy().copy() for here in held)
