"""A few fields of the reference world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.training.kgml.fields import CropFields, grow_fields
from fluxgrid.training.kgml.walk import fit_crop_scalers

torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other

LATITUDE, LONGITUDE = np.array([42.0, 41.0, 40.1]), np.array([-93.5, -95.0, -89.0])


@pytest.fixture(scope="session")
def grown() -> CropFields:
    """Return fields of two rotations at three places over three years, one of them a leap year."""
    return grow_fields(LATITUDE, LONGITUDE, 2003, 2005)


@pytest.fixture
def network(grown) -> KGMLAg:
    """Return a small KGML-ag with fresh weights and the scalers of the fields."""
    torch.manual_seed(2)
    network = KGMLAg(hidden=8, dropout=0.0)
    network.set_scalers(fit_crop_scalers(grown))
    return network.eval()
