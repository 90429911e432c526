"""Networks alone, without reading and writing: ours in blocks, a scan of JAX, and TAM-RL as published."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fluxgrid.bench.accuracy import block_inputs, block_places
from fluxgrid.bench.machine import torch_threads
from fluxgrid.bench.peers import PeerData, Tuned
from fluxgrid.bench.peers_engines import jax_function, side_by_side
from fluxgrid.bench.published import BATCH, NAMED_BATCH, PublishedTAMRL, predict_published
from fluxgrid.bench.timing import Run, fastest
from fluxgrid.models import Checkpoint
from fluxgrid.models.tam_rl import TAMRL
from fluxgrid.prediction.predictor import Predictor
from fluxgrid.upscaling.memory import keep_memory

_BATCHES = (BATCH, NAMED_BATCH, 256, 1024)
"""Windows given to the published network at once; the fastest, on threads of torch or of ours, is its tuned form."""
_DAYS_TOGETHER = 32
"""Days of a record that ours cuts into windows at once."""


def _timed(work: Callable[[], object]) -> Run:
    """Return what runs once and says the seconds."""

    def run() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return run


def our_blocks(checkpoint: Checkpoint, days: int, blocks: int, threads: int) -> Run:
    """Return what predicts so many blocks of 256 places, a block on each of so many threads.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a network.
    days : int
    blocks, threads : int

    Returns
    -------
    run : callable
    """
    model = checkpoint.model
    given = [block_inputs(checkpoint, days, seed) for seed in range(blocks)]
    keep_memory()

    def one(block: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        torch.set_num_threads(1)
        model.predict(*block)

    def work() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, given))

    return _timed(work)


def jax_blocks(data: PeerData, tuned: Tuned) -> Run:
    """Return what predicts the same places by a scan of JAX, in the form that was best end to end."""
    form = tuned.form
    parts = [block_inputs(data.checkpoint, data.compute_days, seed)[0] for seed in range(data.blocks)]
    x = np.ascontiguousarray(torch.cat(parts).transpose(0, 1).numpy())  # (T, B, F)
    predict = jax_function(data.net, form)
    return _timed(lambda: side_by_side(predict, x, form["batch"], form["workers"]))


@dataclass(frozen=True)
class Windows:
    """TAM-RL on the windows of some places, ours and as published."""

    windows: int
    ours: Run
    published: Run
    """Batches as in the published scripts, on the threads of torch."""
    tuned: Run | None
    """The published network in the form that is fastest here; None if that was not looked for."""
    named: Run
    """In the batches that the script which starts its evaluation names."""
    difference: float
    """Largest difference of their fluxes over the largest absolute flux."""
    form: str
    """That fastest form; empty without one."""


def tam_windows(checkpoint: Checkpoint, windows: int, threads: int, sweep: bool = True) -> Windows:
    """Return TAM-RL in mode ``exact`` and as its published evaluation runs, on the same windows.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of TAM-RL, its code from the window.
    windows : int
        About how many.
    threads : int
        Ours takes them for parts of the places, the published one as threads of torch; tuned, the better of the two.
    sweep : bool
        Whether the published network is tuned.

    Returns
    -------
    windows : Windows
    """
    network = checkpoint.model
    assert isinstance(network, TAMRL)
    places, before = max(windows // _DAYS_TOGETHER, threads), network.window - 1
    record, static, _ = (part[:places] for part in block_inputs(checkpoint, before + _DAYS_TOGETHER))
    dynamic, state = record[:, before:].contiguous(), record[:, :before].flatten(1)
    torch.manual_seed(0)
    published = PublishedTAMRL(network)

    def ours(rows: slice) -> torch.Tensor:
        torch.set_num_threads(1)
        return network.predict(dynamic[rows], static[rows], state[rows])[0]

    def theirs(batch: int, rows: slice) -> torch.Tensor:
        torch.set_num_threads(1)
        return predict_published(published, record[rows], static[rows], network.window, batch)

    def whole(batch: int) -> None:
        with torch_threads(threads):
            predict_published(published, record, static, network.window, batch)

    forms: dict[str, Run] = {}
    for batch in _BATCHES if sweep else ():
        forms[f"batches of {batch}, parts of the places on threads"] = _timed(
            partial(_split, partial(theirs, batch), places, threads)
        )
        forms[f"batches of {batch}, threads of torch"] = _timed(partial(whole, batch))
    best = fastest(forms.items())[0] if forms else ""
    exact, found = theirs(BATCH, slice(0, places)), ours(slice(0, places))
    difference = float((found - exact).abs().max() / exact.abs().max())
    as_published, named = (_timed(partial(whole, batch)) for batch in (BATCH, NAMED_BATCH))
    quick = _timed(lambda: _split(ours, places, threads))
    return Windows(len(dynamic) * _DAYS_TOGETHER, quick, as_published, forms.get(best), named, difference, best)


def _split(predict: Callable[[slice], torch.Tensor], places: int, threads: int) -> None:
    """Predict parts of the places on threads."""
    size = -(-places // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(predict, [slice(i, i + size) for i in range(0, places, size)]))


def on_device(checkpoint: Checkpoint, days: int, device: str) -> dict[str, float]:
    """Return the rate of the predictor of a network on a device and how far its fluxes are from those on the CPU.

    Parameters
    ----------
    checkpoint : Checkpoint
    days : int
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    measured : dict
        ``pixel_days_per_s`` of a block as maps predict it, copies to and from the device included, the best of three,
        and ``max_difference`` over the largest absolute value of a flux, the worst flux.
    """
    places = block_places(checkpoint, days)
    exact = Predictor(checkpoint).predict(places)[0].daily
    try:
        predictor = Predictor(checkpoint, device)
        found = predictor.predict(places)[0].daily
        seconds = min(_timed(lambda: predictor.predict(places))() for _ in range(3))
    finally:
        Predictor(checkpoint)  # moves the model back
    difference = max(float(np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max()) for name in exact)
    return {"pixel_days_per_s": len(places.latitude) * days / seconds, "max_difference": difference}
