"""The same block gives the same bits: a hundred times in a process, in another process, beside any neighbours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxgrid.models import load_checkpoint
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.blend import Blend

PROGRAM = Path(__file__).with_name("bits_of_a_block.py")
_spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
bits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bits)

KINDS = list(bits.KINDS)
TIMES = [pytest.param(8, id="8"), pytest.param(100, id="100", marks=pytest.mark.slow)]


@cache
def block(kind: str):
    """Return a predictor and the places of its block."""
    torch.set_num_threads(1)
    predictor = bits.predictor_of(kind)
    return predictor, bits.places_of(predictor)


def moving_memory(times: int) -> Iterator[list[np.ndarray]]:
    """Yield again and again with other arrays held, so that buffers come to lie elsewhere, close and far apart."""
    rng, held = np.random.default_rng(times), []
    for _ in range(times):
        held = [array for array in held if rng.random() < 0.6]
        held += [np.full(int(size), np.nan, np.float32) for size in 10 ** rng.uniform(1, 6, 12)]
        yield held


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_again_and_again_in_one_process(kind, times):
    """A prototype took another path when buffers happened to lie close: memory moves between the runs."""
    predictor, places = block(kind)
    found = [bits.digest_of(*predictor.predict(places)) for _ in moving_memory(times)]
    assert set(found) == {found[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_in_threads_side_by_side(kind):
    predictor, places = block(kind)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: bits.digest_of(*predictor.predict(places)), range(6)))
    assert set(found) == {bits.digest_of(*predictor.predict(places))}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_beside_other_neighbours(kind, times):
    """Other cells, cells without a value, and huge ones, in any of the other rows of the block."""
    predictor, places = block(kind)
    rng = np.random.default_rng(7)
    expected = predictor.predict(places)
    for number in range(times // 2):
        keep = rng.random(bits.BLOCK) < 0.2
        value = (None, np.nan, 1e20)[number % 3]
        others = bits.beside(places, bits.places_of(predictor, seed=number + 1), keep, value)
        assert bits.digest_of(*predictor.predict(others), keep) == bits.digest_of(*expected, keep), value


@pytest.mark.parametrize("kind", KINDS)
def test_rows_alone_in_their_block(kind):
    """At the rim of a map a block has few cells, and is filled up."""
    predictor, places = block(kind)
    few = bits.places_of(predictor, n=bits.BLOCK)
    first = np.arange(bits.BLOCK) < 5
    cut = type(places)(
        places.time,
        places.step,
        places.latitude[first],
        {name: values[:, first] for name, values in few.forcings.items()},
        {name: values[first] for name, values in few.statics.items()},
        longitude=places.longitude[first],
    )
    assert bits.digest_of(*predictor.predict(cut)) == bits.digest_of(*predictor.predict(places), first)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_carried_state(kind):
    """A state that was handed on, as every year but the first begins with one."""
    predictor, places = block(kind)
    before = predictor.advance(places)
    found = {bits.digest_of(*predictor.predict(places, before)) for _ in moving_memory(3)}
    copied = bits.BlockState.from_arrays({name: values.copy() for name, values in before.arrays().items()})
    assert found == {bits.digest_of(*predictor.predict(places, copied))}


def test_blended_heads():
    """Each cell its own places: what others blend does not matter."""
    predictor = Predictor(load_checkpoint("default"), calibration="neighbourhood")
    places = bits.places_of(predictor)
    count = len(predictor.checkpoint.calibrations["neighbourhood"].places)
    rng = np.random.default_rng(5)
    keep = rng.random(bits.BLOCK) < 0.3
    chosen, others = (rng.integers(0, count, (bits.BLOCK, 4)).astype(np.int32) for _ in range(2))
    weights = np.full((bits.BLOCK, 4), 0.2, np.float32)
    expected = predictor.predict(places, None, Blend(chosen, weights))
    for mixed in (chosen, np.where(keep[:, None], chosen, others)):
        found = predictor.predict(places, None, Blend(mixed, weights))
        assert bits.digest_of(*found, keep) == bits.digest_of(*expected, keep)


def test_in_fresh_interpreters():
    """Two processes of their own, with another hash seed and another environment."""
    running = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PADDING": "x" * int(seed) * 999}
        environment["PYTHONPATH"] = str(PROGRAM.parents[2])
        command = [sys.executable, str(PROGRAM), *KINDS]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    found = [process.communicate()[0] for process in running]
    here = "".join(f"{kind} {bits.digest_of(*block(kind)[0].predict(block(kind)[1]))}\n" for kind in KINDS)
    assert found == [here, here]
