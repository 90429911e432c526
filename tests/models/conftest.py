"""Small models of every architecture."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.kgml import KGML_FEATURES, KGML_OUTPUTS, published_scaler
from fluxgrid.models import FluxModel, ModelSpec
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.models.kgml_ag import CropScalers

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other

WINDOW = {"hidden": 8, "window": 11, "stride": 4}
FEW = {
    **{kind: {"hidden": 8} for kind in ("ct_gru", "ct_lstm", "gru", "lstm", "mlp")},
    **{kind: WINDOW for kind in ("transformer", "patch_transformer")},
    "tam_rl": {**WINDOW, "latent": 4},
    "lightgbm": {"rounds": 8},
    "xgboost": {"rounds": 8},
    "kgml_ag": {"hidden": 8, "cover_hidden": 8},
}
"""Options that keep an architecture small; one that is not named is built with its defaults."""


@pytest.fixture
def small_spec(make_spec) -> Callable[[str], ModelSpec]:
    """Return a function that gives the spec of a small model of an architecture."""
    return lambda kind: make_spec(kind, FEW.get(kind, {}))


@pytest.fixture(scope="session")
def crop_scalers() -> CropScalers:
    """Return the published scalers; those of yield and residue, which are not published, of their size."""
    outputs = np.vstack([published_scaler(KGML_OUTPUTS), [300.0, 150.0]])
    parts = published_scaler(KGML_FEATURES).T, outputs.T, np.array([250.0, 200.0])
    return CropScalers(*(torch.tensor(part, dtype=torch.float32) for part in parts))


@pytest.fixture(scope="session")
def set_calendar(crop_moments) -> Callable[..., torch.Tensor]:
    """Return a function that puts consecutive days into the calendar channels of scaled inputs (B, T, F)."""

    def put(spec: ModelSpec, dynamic: torch.Tensor, start: str = "2003-12-28") -> torch.Tensor:
        time = pd.date_range(start, periods=dynamic.shape[1], freq="D")
        days = {"calendar_year": time.year, "day_of_year": time.day_of_year}
        dynamic = dynamic.clone()
        for name in days.keys() & set(spec.inputs.dynamic):
            mean, std = crop_moments[name]
            values = (days[name].to_numpy() - mean) / std
            dynamic[..., spec.inputs.dynamic.index(name)] = torch.from_numpy(values.astype(np.float32))
        return dynamic

    return put


@pytest.fixture(scope="session")
def kgml_reference() -> ModuleType:
    """Return the slow reference of KGML-ag, ``kgml_reference.py`` beside this file."""
    path = Path(__file__).with_name("kgml_reference.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ready(crop_moments, crop_scalers) -> Callable[[ModelSpec], FluxModel]:
    """Return a function that builds a model that can predict: with random weights, or fitted to random rows."""

    def build(spec: ModelSpec) -> FluxModel:
        torch.manual_seed(3)
        model = spec.build()
        if not spec.differentiable:
            fit_rows(model, spec)
        if isinstance(model, CropMosaic):
            moments = ([crop_moments[name] for name in names] for names in (spec.inputs.dynamic, spec.inputs.static))
            model.set_input_scales(*(torch.tensor(rows, dtype=torch.float32).T for rows in moments))
            model.crop.set_scalers(crop_scalers)
            model.set_scale(torch.tensor([6.0, 5.0, 4.0, 2.0, 2.0]))
        return model

    return build


def fit_rows(model: FluxModel, spec: ModelSpec) -> None:
    """Fit a model that learns from rows to random ones, some fluxes below zero."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(200, spec.sizes.dynamic + spec.sizes.static))
    for flux in range(spec.sizes.fluxes):
        target = rows[:, flux] + 0.1 * rng.normal(size=200)
        model.fit_flux(rows, target, np.ones(200), (rows[:50], target[:50], np.ones(50)), seed=1)
