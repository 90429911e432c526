"""A trained-looking checkpoint and places to predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.inputs import Places
from fluxgrid.data.kgml import KGML_FEATURES, KGML_OUTPUTS, published_scaler
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.steps import calendar
from fluxgrid.models import Checkpoint, ModelSpec
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.kgml_ag import CropScalers
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


@pytest.fixture(scope="session")
def make_crop_checkpoint(make_spec, crop_moments) -> Callable[..., Checkpoint]:
    """Return a function that makes a ``kgml_ag`` with random weights, given changes of its spec and its options."""

    def make(settings: dict | None = None, **changes) -> Checkpoint:
        torch.manual_seed(0)
        spec: ModelSpec = make_spec("kgml_ag", {"hidden": 4, "cover_hidden": 4} | (settings or {}), **changes)
        names = (*spec.inputs.dynamic, *spec.inputs.static)
        mean, std = (tuple(crop_moments[name][i] for name in names) for i in (0, 1))
        model, split = spec.build().eval(), len(spec.inputs.dynamic)
        moments = torch.tensor([mean, std], dtype=torch.float32)
        model.set_input_scales(moments[:, :split], moments[:, split:])
        outputs = np.vstack([published_scaler(KGML_OUTPUTS), [300.0, 150.0]])
        parts = published_scaler(KGML_FEATURES).T, outputs.T, np.array([250.0, 200.0])
        model.crop.set_scalers(CropScalers(*(torch.tensor(part, dtype=torch.float32) for part in parts)))
        model.set_scale(torch.tensor([6.0, 5.0, 4.0, 2.0, 2.0]))
        points = np.random.default_rng(3).normal(size=(20, len(names)))
        domain = TrainingDomain(np.array(mean), np.array(std), np.ones(len(names)), points, 1.5, 1.0)
        return Checkpoint(Path(), spec, Scaler(names, mean, std), model, domain, "")

    return make


@pytest.fixture(scope="session")
def crop_predictor(make_crop_checkpoint) -> Predictor:
    """Return the predictor of a ``kgml_ag``."""
    return Predictor(make_crop_checkpoint())


@pytest.fixture(scope="session")
def make_crop_places(make_spec, crop_moments) -> Callable[..., Places]:
    """Return a function that makes n places of cropland over some days."""

    def make(start: str, end: str, n: int = 3, seed: int = 0) -> Places:
        rng = np.random.default_rng(seed)
        time = calendar("2000-01-01", pd.Timestamp("2006-12-31"), "daily")
        wanted = (time >= start) & (time <= end)  # so that the weather of a day does not hang on the days asked for
        inputs, season = make_spec("kgml_ag", {}).inputs, np.cos(2 * np.pi * (time.day_of_year.to_numpy() - 200) / 365)
        forcings = {}
        for name in inputs.forcings:
            mean, std = crop_moments[name]
            values = mean + std * (0.8 * season[:, None] + 0.3 * rng.normal(size=(len(time), n)))
            positive = name not in ("temperature_2m", "tmin", "tmax")
            forcings[name] = (np.maximum(values, 0.0) if positive else values)[wanted].astype(np.float32)
        for name in ("corn_fraction", "soybean_fraction"):
            share = rng.uniform(0.1, 0.4, n).astype(np.float32)
            forcings[name] = np.broadcast_to(share, (wanted.sum(), n)).copy()
        statics = {
            name: np.maximum(rng.normal(*crop_moments[name], n), 0.0).astype(np.float32) for name in inputs.static
        }
        return Places(time[wanted], "daily", rng.uniform(37, 47, n), forcings, statics)

    return make
