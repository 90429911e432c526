"""Checkpoints of models that nobody trained: random weights, plausible scalers, through the project's own writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fluxgrid.bench.cubes import middle, season_of
from fluxgrid.bench.entries import Entry
from fluxgrid.data.scaler import Scaler
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import Heads, Kind
from fluxgrid.models.checkpoint import save_checkpoint
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.kgml_ag import OUTPUTS, CropScalers
from fluxgrid.models.network import Network
from fluxgrid.models.places import Bandwidth, CalibratedPlaces
from fluxgrid.models.spec import ModelSpec
from fluxgrid.models.trees import Trees

_DOMAIN_POINTS = 2500
"""Training vectors that applicability is measured from, as many as the default model has."""


def write_checkpoint(
    path: Path, entry: Entry, rows: int = 2000, heads: tuple[Kind, int] | None = None, seed: int = 0
) -> None:
    """Write the checkpoint of a model.

    Parameters
    ----------
    path : Path
        Must not exist.
    entry : Entry
    rows : int
        That trees are trained on.
    heads : (kind, places), optional
        Calibrations ``state`` and ``neighbourhood`` with so many places, random too.
    seed : int
        Same seed, same weights.
    """
    torch.manual_seed(seed)
    spec = entry.spec()
    scaler, model = scaler_of(spec), spec.build()
    if isinstance(model, Trees):
        _boost(model, rows, seed)
    if isinstance(model, CropMosaic):
        _scale_mosaic(model, spec, scaler)
    calibrations = _calibrations(model, heads) if heads and isinstance(model, Network) else []
    save_checkpoint(
        path, spec, scaler, model, _domain(spec, scaler, seed), "# made up by fluxgrid bench\n", {}, calibrations
    )


def scaler_of(spec: ModelSpec) -> Scaler:
    """Return means and spreads of the made-up values of a model's inputs."""
    names = (*spec.inputs.dynamic, *spec.inputs.static)
    numbers = [_CALENDAR.get(name) or middle(name) for name in names]
    return Scaler(names, tuple(mean for mean, _ in numbers), tuple(span / 2 for _, span in numbers))


_CALENDAR = {
    "calendar_year": (2018.0, 10.0),
    "day_of_year": (183.0, 210.0),
    "toa_radiation": (320.0, 250.0),
    "day_length": (12.0, 5.0),
}
"""Mean and spread of what is computed from place and date."""


def _domain(spec: ModelSpec, scaler: Scaler, seed: int) -> TrainingDomain:
    """Return a training domain of months like those of the made-up cube, a few inputs weighing most as in real ones."""
    rng, columns = np.random.default_rng(seed), spec.sizes.dynamic + spec.sizes.static
    varying, numbers = spec.inputs.dynamic, len(scaler.names)
    day = rng.integers(0, 12, _DOMAIN_POINTS) * 30.4 + 15
    z = np.zeros((_DOMAIN_POINTS, columns))
    for column, name in enumerate(varying):
        z[:, column] = 1.4 * season_of(name, day) + 0.1 * rng.normal(size=_DOMAIN_POINTS)
    z[:, len(varying) : numbers] = rng.uniform(-2, 2, (_DOMAIN_POINTS, numbers - len(varying)))
    mean, std = np.zeros(columns), np.ones(columns)
    mean[:numbers], std[:numbers] = scaler.mean, scaler.std
    weight = np.exp(-np.arange(columns) / 4)
    weight /= weight.mean()
    return TrainingDomain(mean, std, weight, z * weight, float(np.sqrt(2) * weight.max()), 0.5)


def target_rows(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows to train trees on: features (N, F), a target with curvature and noise (N,), weights (N,)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)).astype(np.float32)
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2 % width] + rng.normal(0, 0.5, rows)
    return x, y.astype(np.float32) + 3, np.ones(rows, np.float32)


def _boost(model: Trees, rows: int, seed: int) -> None:
    """Train a booster for each flux on made-up rows."""
    width = model.sizes.dynamic + model.sizes.static
    for flux in range(model.sizes.fluxes):
        model.boosters.append(model.boost(target_rows(rows, width, seed + flux), None, seed))
        model.tuned.append({})


def _scale_mosaic(model: CropMosaic, spec: ModelSpec, scaler: Scaler) -> None:
    """Give KGML-ag the scales of the made-up inputs."""
    index = {name: number for number, name in enumerate(scaler.names)}

    def moments(names: Sequence[str]) -> torch.Tensor:
        pairs = [(scaler.mean[index[name]], scaler.std[index[name]]) for name in names]
        return torch.tensor(pairs).t()

    dynamic, static = moments(spec.inputs.dynamic), moments(spec.inputs.static)
    model.set_input_scales(dynamic, static)
    both = torch.cat([dynamic, static], dim=1)
    features = torch.stack([both[0] @ model.to_features, (both[1] @ model.to_features.abs()).clamp_min(1.0)])
    outputs = torch.tensor([[-3.0, -2.0, 0.0, 400.0], [2.0, 1.0, 3.0, 100.0]])
    assert outputs.shape[1] == len(OUTPUTS)
    model.crop.set_scalers(CropScalers(features, outputs, torch.tensor([300.0, 100.0])))


def _calibrations(model: Network, heads: tuple[Kind, int]) -> list[Calibration]:
    """Return random heads of places, chosen place by place and blended."""
    kind, count = heads
    made = Heads(model, kind, count)
    with torch.no_grad():
        for value in made.phi.values():
            value.add_(0.05 * torch.randn_like(value))
    return [Calibration(name, made.eval(), _places(count)) for name in ("state", "neighbourhood")]


def _places(count: int) -> CalibratedPlaces:
    """Return places along the map, near enough that a cell blends several."""
    position: Any = np.arange(count)
    climate = np.stack([position * 0.1], axis=1)
    return CalibratedPlaces(
        names=tuple(f"place {number}" for number in range(count)),
        latitude=41.3 + 0.01 * position,
        longitude=-94.9 + 0.03 * position,
        climate=climate,
        climate_names=("temperature_2m",),
        climate_scale=np.array([5.0]),
        states=("",) * count,
        bandwidth=Bandwidth(ground_km=50.0, climate=1.0, shrink=0.05, most=min(4, count)),
    )
