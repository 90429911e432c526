"""How fast this machine predicts, measured on one block."""

from __future__ import annotations

import time

import numpy as np
import torch

from fluxgrid.data.inputs import Places
from fluxgrid.prediction import BLOCK, Predictor
from fluxgrid.upscaling.plan import Plan
from fluxgrid.variables import VARIABLES


def measure_rate(predictor: Predictor, plan: Plan) -> float:
    """Return the pixel-steps per second of one thread, from one block over the plan's longest segment.

    Parameters
    ----------
    predictor : Predictor
    plan : Plan

    Returns
    -------
    rate : float
        Pixel-steps of a full block per second, prediction only: reading and writing come on top.
    """
    torch.set_num_threads(1)
    segment = max(plan.segments, key=lambda s: s.steps.stop - s.steps.start)
    calendar = plan.time[segment.steps]
    spec = predictor.checkpoint.spec
    rng = np.random.default_rng(0)
    forcings = {
        name: rng.uniform(*_middle(name), (len(calendar), BLOCK)).astype(np.float32) for name in spec.inputs.forcings
    }
    statics = {name: rng.uniform(*_middle(name), BLOCK).astype(np.float32) for name in spec.inputs.static}
    statics |= {name: np.zeros(BLOCK, np.float32) for name in spec.inputs.classes}
    where = np.full(BLOCK, 42.0), np.full(BLOCK, -93.0)
    places = Places(calendar, spec.step, where[0], forcings, statics, longitude=where[1])
    # a block of cells as they are blended: heads of places take time
    cells = np.resize(np.flatnonzero(plan.wanted), BLOCK)
    blend = None if plan.blend is None else plan.blend.select(cells)
    seconds = []
    for _ in range(2):  # the first call pays for allocations
        begun = time.perf_counter()
        predictor.predict(places, blend=blend)
        seconds.append(time.perf_counter() - begun)
    return BLOCK * len(calendar) / min(seconds)


def _middle(name: str) -> tuple[float, float]:
    """Return plausible values of a variable."""
    low, high = VARIABLES[name].valid_range or (0.0, 1.0)
    return (low + (high - low) * 0.4, low + (high - low) * 0.6)
