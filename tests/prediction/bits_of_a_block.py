"""Predict a block and print the digest of every bit of it: a program for fresh interpreters, and helpers of a test.

python tests/prediction/bits_of_a_block.py KIND...
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.inputs import InputSpec, Places
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.steps import calendar
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import BLOCK, BlockState, Fluxes, Predictor
from fluxgrid.provenance import digest_arrays
from fluxgrid.upscaling.memory import keep_memory
from fluxgrid.variables import VARIABLES

STEPS = 21
_SHORT = {"window": 11, "stride": 4}
KINDS = {
    "kgml_ag": ("kgml_ag", {}),
    "gru": ("gru", {"hidden": 128}),
    "gru, exact": ("gru", {"hidden": 32, **_SHORT, "window_mode": "exact"}),
    "lstm": ("lstm", {"hidden": 128}),
    "lstm, stride": ("lstm", {"hidden": 32, **_SHORT, "window_mode": "stride"}),
    "ct_gru": ("ct_gru", {"hidden": 128}),
    "ct_lstm": ("ct_lstm", {"hidden": 64, "layers": 2}),
    "tam_rl": ("tam_rl", {"hidden": 32, **_SHORT, "latent": 8, "window_mode": "exact"}),
    "transformer": ("transformer", {"hidden": 32, **_SHORT, "window_mode": "exact"}),
    "patch_transformer": ("patch_transformer", {"hidden": 32, **_SHORT, "window_mode": "exact"}),
    "lightgbm": ("lightgbm", {}),
    "xgboost": ("xgboost", {}),
}
"""Architectures and settings; the crop model is the shipped one, with its weights."""


def predictor_of(name: str) -> Predictor:
    """Return the predictor of the default checkpoint, or of a network with random weights."""
    kind, settings = KINDS[name]
    if kind == "kgml_ag":
        return Predictor(load_checkpoint("default"))
    dynamic, static = ("temperature_2m", "shortwave", "precipitation", "day_length"), ("crop_fraction",)
    spec = ModelSpec("bits", kind, settings, "daily", InputSpec(dynamic, static), 1, "UTC")
    torch.manual_seed(3)
    width = len((*dynamic, *static))
    domain = TrainingDomain(np.zeros(width), np.ones(width), np.ones(width), np.eye(width), 1.5, 1.0)
    middle = [_middle(name) for name in (*dynamic, *static)]
    scaler = Scaler((*dynamic, *static), tuple(m for m, _ in middle), tuple(s for _, s in middle))
    return Predictor(Checkpoint(Path(), spec, scaler, _model(kind, spec), domain, ""))


def _model(kind: str, spec: ModelSpec):
    """Return a model with random weights, trees fitted to random rows."""
    model = spec.build()
    if kind in ("lightgbm", "xgboost"):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(2000, spec.sizes.dynamic + spec.sizes.static)).astype(np.float32)
        target = 4 + rows[:, 0] * rows[:, 1]
        for flux in range(2):
            check = rows[1500:], target[1500:] + flux, np.ones(500)
            model.fit_flux(rows[:1500], target[:1500] + flux, np.ones(1500), check, seed=1)
        return model
    return model.eval()


def places_of(predictor: Predictor, seed: int = 0, n: int = BLOCK) -> Places:
    """Return n places over some days with plausible weather."""
    spec, rng = predictor.checkpoint.spec, np.random.default_rng(seed)
    time = calendar("2019-05-01", pd.Timestamp("2019-05-01") + pd.Timedelta(days=STEPS - 1), "daily")
    spread = {name: (m - s, m + s) for name in spec.inputs.names for m, s in [_middle(name)]}
    forcings = {name: rng.uniform(*spread[name], (STEPS, n)).astype(np.float32) for name in spec.inputs.forcings}
    statics = {name: rng.uniform(*spread[name], n).astype(np.float32) for name in spec.inputs.static}
    return Places(time, "daily", rng.uniform(37, 47, n), forcings, statics, longitude=np.full(n, -93.0))


def _middle(name: str) -> tuple[float, float]:
    """Return the middle of the range of a variable and a tenth of its width."""
    low, high = VARIABLES[name].valid_range or (0.0, 1.0)
    return (low + high) / 2, (high - low) / 10


def beside(places: Places, others: Places, keep: np.ndarray, value: float | None = None) -> Places:
    """Return places of which only some, bool (n,), stay; the rest are others', or one value."""
    change = {
        part: {
            name: np.where(keep, a, np.float32(value) if value is not None else other[name]) for name, a in own.items()
        }
        for part, own, other in (
            ("forcings", places.forcings, others.forcings),
            ("statics", places.statics, others.statics),
        )
    }
    return replace(places, **change, latitude=np.where(keep, places.latitude, others.latitude))


def digest_of(fluxes: Fluxes, state: BlockState, rows: slice | np.ndarray = slice(None)) -> str:
    """Return the hash of all that is predicted at some rows."""
    arrays = {**fluxes.daily, "index": fluxes.applicability, "missing": fluxes.missing}
    arrays = {name: values[:, rows] for name, values in arrays.items()}
    annual = {name: values[rows] for name, values in fluxes.annual.items()}
    return digest_arrays({**arrays, **annual, **{n: v[rows] for n, v in state.arrays().items()}})


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_memory()
    for kind in sys.argv[1:]:
        predictor = predictor_of(kind)
        print(kind, digest_of(*predictor.predict(places_of(predictor))))
