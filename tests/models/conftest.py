"""Small models of every architecture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fluxgrid.models import FluxModel, ModelSpec

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other

FEW = {"ct_gru": {"hidden": 8}, "lightgbm": {"rounds": 8}}
"""Options that keep an architecture small; one that is not named is built with its defaults."""


@pytest.fixture
def small_spec(make_spec) -> Callable[[str], ModelSpec]:
    """Return a function that gives the spec of a small model of an architecture."""
    return lambda kind: make_spec(kind, FEW.get(kind, {}))


@pytest.fixture
def ready() -> Callable[[ModelSpec], FluxModel]:
    """Return a function that builds a model that can predict: with random weights, or fitted to random rows."""

    def build(spec: ModelSpec) -> FluxModel:
        torch.manual_seed(3)
        model = spec.build()
        if not spec.differentiable:
            fit_rows(model, spec)
        return model

    return build


def fit_rows(model: FluxModel, spec: ModelSpec) -> None:
    """Fit a model that learns from rows to random ones, some fluxes below zero."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(200, spec.sizes.dynamic + spec.sizes.static))
    for flux in range(spec.sizes.fluxes):
        target = rows[:, flux] + 0.1 * rng.normal(size=200)
        model.fit_flux(rows, target, np.ones(200), (rows[:50], target[:50], np.ones(50)), seed=1)
