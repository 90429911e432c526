"""A trained-looking checkpoint and places to predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.inputs import Places
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.steps import calendar
from fluxgrid.models import Checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import Predictor

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other


@pytest.fixture
def checkpoint(make_spec) -> Checkpoint:
    """Return a CT-GRU with random weights whose training domain is a handful of random months."""
    torch.manual_seed(0)
    spec, rng = make_spec(), np.random.default_rng(3)
    width = spec.sizes.dynamic + spec.sizes.static
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    scaler = Scaler(names, (8.0, 180.0, 2.0, 12.0, 0.5), (9.0, 80.0, 2.0, 2.0, 0.2))
    mean = np.array([8.0, 180.0, 2.0, 12.0, 0.5, 0, 0, 0, 1, 0])
    std = np.array([9.0, 80.0, 2.0, 2.0, 0.2, 1, 1, 1, 1, 1])
    domain = TrainingDomain(mean, std, np.linspace(0.2, 1.8, width), rng.normal(size=(20, width)), 1.5, 1.0)
    return Checkpoint(Path(), spec, scaler, spec.build(), domain, "")


@pytest.fixture
def predictor(checkpoint) -> Predictor:
    """Return its predictor."""
    return Predictor(checkpoint)


@pytest.fixture(scope="session")
def make_places() -> Callable[..., Places]:
    """Return a function that makes n places over some months."""

    def make(n: int = 7, start: str = "2001-01-01", end: str = "2001-12-01", seed: int = 0) -> Places:
        rng = np.random.default_rng(seed)
        time = calendar(start, pd.Timestamp(end), "monthly")
        shape = (len(time), n)
        forcings = {
            "temperature_2m": rng.normal(8, 9, shape),
            "shortwave": rng.uniform(50, 300, shape),
            "precipitation": rng.gamma(0.5, 4, shape),
        }
        statics = {"crop_fraction": rng.uniform(0, 1, n), "climate_group": np.full(n, 3.0)}
        forcings, statics = (
            {name: values.astype(np.float32) for name, values in row.items()} for row in (forcings, statics)
        )
        return Places(time, "monthly", rng.uniform(36, 48, n), forcings, statics)

    return make
