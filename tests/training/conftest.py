"""Small towers as arrays for training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fluxgrid.data.sites import Sites
from fluxgrid.models import ModelSpec
from fluxgrid.training.sequences import Sequence, fit_scaler, inputs_of, make_sequence

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other


@pytest.fixture(scope="session")
def sequences_of() -> Callable[[Sites, ModelSpec], list[Sequence]]:
    """Return a function that gives towers as arrays, scaled on all of them."""

    def make(sites: Sites, spec: ModelSpec) -> list[Sequence]:
        inputs = inputs_of(sites, spec.inputs, spec.step)
        scaler = fit_scaler(inputs.values(), spec.inputs)
        return [make_sequence(s, inputs[s.id], spec.inputs, scaler, spec.step, spec.spin_up_years) for s in sites]

    return make
