"""The allocator may be told to keep memory, and arrays stay what they are."""

import numpy as np

from fluxgrid.upscaling.memory import keep_memory


def test_asking_twice_is_asking_once_and_arrays_survive():
    before = np.arange(5_000_000)
    assert keep_memory() in (True, False)
    assert keep_memory() == keep_memory()
    after = np.arange(5_000_000)
    assert (before == after).all()
