"""What a map will take, from its size and the rates of this machine: for `upscale --dry-run` and `fluxgrid plan`."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import torch

from fluxgrid.models import Checkpoint
from fluxgrid.models.ensemble import members_of
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.blend import Blend
from fluxgrid.prediction.predictor import find_calibration
from fluxgrid.upscaling.cluster import threads_of
from fluxgrid.upscaling.estimate import Estimate, Size, estimate, typical_calendar
from fluxgrid.upscaling.executor import Executor, default_threads
from fluxgrid.upscaling.speed import measure_rates


def measured_estimate(
    checkpoint: Checkpoint,
    size: Size,
    time: pd.DatetimeIndex,
    device: str,
    executor: Executor,
    calibration: str = "none",
    blend: Blend | None = None,
) -> Estimate:
    """Measure this machine and return what a map will take.

    Parameters
    ----------
    checkpoint : Checkpoint
    size : Size
        Of the map.
    time : DatetimeIndex
        Steps that the segments of `size` are slices of.
    device : str
        ``cpu`` or ``cuda``.
    executor : Executor
        Where tiles would run.
    calibration : str
        Which calibrated heads speak.
    blend : Blend, optional
        Weights of their places in the cells of one block.

    Returns
    -------
    estimate : Estimate

    Raises
    ------
    ConfigError
        If the scheduler does not answer or has no worker.
    """
    predictor = Predictor(checkpoint, device, calibration)
    spec = checkpoint.spec.inputs
    state = state_size(checkpoint, calibration, blend)
    member = members_of(checkpoint.model)[0]  # they run one after another
    own = state if member is checkpoint.model else member.state_size
    width = getattr(member, "widest_layer", max(own, 4 * len(spec.names)))
    rates = measure_rates(predictor, typical_calendar(time, size.segments), size.layers, blend)
    inputs = len(spec.forcings), len(spec.names) - len(spec.forcings)
    lanes, processes = lanes_of(executor)
    if predictor.device.type == "cuda":
        return estimate(size, rates, lanes, inputs, state, width, "measured", processes, default_threads(1))
    gpu: Literal["unused", "absent"] = "unused" if torch.cuda.is_available() else "absent"
    return estimate(size, rates, lanes, inputs, state, width, gpu, processes, default_threads(1))


def lanes_of(executor: Executor) -> tuple[int, int]:
    """Return threads and processes of a run; of a running cluster, those it has now."""
    if executor.scheduler:
        from fluxgrid.upscaling.workers import connect  # and dask with it, which threads need not

        with connect(executor) as client:
            threads = threads_of(client)
        return sum(threads), len(threads)
    return executor.lanes, executor.workers


def state_size(checkpoint: Checkpoint, calibration: str, blend: Blend | None) -> int:
    """Return the columns of the state of a cell."""
    if blend is None:
        return checkpoint.model.state_size
    return find_calibration(checkpoint, calibration).heads.state_size(blend.places.shape[1])
