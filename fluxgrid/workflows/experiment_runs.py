"""One run of an experiment: what is trained, whether it stands, and how it is carried out and read back."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import nn

from fluxgrid.data.crop_inputs import CROP_FEATURES
from fluxgrid.errors import ConfigError, OutputError
from fluxgrid.files import atomic_path, write_text
from fluxgrid.models import NUMERICS_VERSION
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.provenance import digest, git_commit, now, versions
from fluxgrid.simulation import WORLD_VERSION, world_digest
from fluxgrid.training.kgml.fields import CropFields
from fluxgrid.training.kgml.regimes import (
    RegimeSettings,
    Run,
    join_fields,
    score,
    scored_fields,
    share_of,
    timed,
    train_from_scratch,
    training_fields,
    tune,
)
from fluxgrid.training.kgml.settings import KGMLSettings, Schedule, StepSettings

Scores = dict[str, dict[str, dict[str, float]]]
"""By state and quantity: ``mse_z``, ``rmse``, ``r2``."""

_TUNING = ("tune_steps", "tune_rate", "mu")
"""Settings that only a run tuned from another one hangs on."""
_FEWEST = 2
_CLIMATE = ("RADN", "TMAX_AIR", "HMAX_AIR", "PRECN")


@dataclass(frozen=True)
class ScheduledSettings(RegimeSettings):
    """Settings whose learning rate follows a schedule of choice."""

    schedule: Schedule = "cosine"

    def kgml(self, fields: int, seed: int, tune: bool) -> KGMLSettings:
        """Return the settings of steps 1 and 2 for so many fields.

        ``step`` is cut to 0.6 at each quarter of the epochs, as step 2 of KGML-ag is; ``restarts`` are three cosines,
        each twice as long as the one before.
        """
        own = super().kgml(fields, seed, tune)
        return replace(own, emulate_ra=self._paced(own.emulate_ra), emulate_rest=self._paced(own.emulate_rest))

    def _paced(self, step: StepSettings) -> StepSettings:
        """Return a step with the schedule."""
        every = max(1, math.ceil(step.epochs / (7 if self.schedule == "restarts" else 4)))
        return replace(step, schedule=self.schedule, every=every, decay=0.6)


@dataclass(frozen=True)
class Planned:
    """A run of an experiment and where its result shall stand."""

    run: Run
    settings: RegimeSettings
    folder: Path
    share_state: str
    """State that the run's share is of."""
    regions: int
    """Regions of SDSA."""
    parent: Planned | None = None
    """The run it is tuned from."""

    @property
    def digest(self) -> str:
        """Hash of all that decides the result: world, engine, settings, seed, and the run it is tuned from."""
        settings = asdict(self.settings)
        if self.parent is None:
            settings = {name: value for name, value in settings.items() if name not in _TUNING}
        run = self.run
        parts = [run.regime, run.train, run.seed, run.share, settings, world_digest(), NUMERICS_VERSION]
        parts += [self.share_state] if run.share < 1.0 else []
        parts += [self.regions] if run.regime == "sdsa" else []
        return digest(*parts, self.parent.digest if self.parent else "")

    @property
    def path(self) -> Path:
        """JSON of the result."""
        return self.folder / f"{self.run.name}-{self.digest[:8]}.json"

    @property
    def weights(self) -> Path:
        """Its weights."""
        return self.path.with_suffix(".safetensors")

    @property
    def stands(self) -> bool:
        """Whether it was carried out before; the JSON is written last."""
        return self.path.is_file() and self.weights.is_file()

    @property
    def ready(self) -> bool:
        """Whether it can be carried out now."""
        return self.parent is None or self.parent.stands


@dataclass(frozen=True, eq=False)
class Result:
    """What a run came to."""

    run: Run
    scores: Scores
    fields: int
    """Fields it was trained on."""
    seconds: float


def carry_out(planned: Planned) -> Result:
    """Train, score and keep a run, on one thread.

    Parameters
    ----------
    planned : Planned
        Its parent, if it has one, must stand.

    Returns
    -------
    result : Result

    Raises
    ------
    ConfigError
        If a state holds too few fields, or training diverges.
    OutputError
        If the result cannot be written.
    """
    begun = time.perf_counter()
    settings, run = planned.settings, planned.run
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)  # dropout draws from here, whichever run came before
        everything = {state: training_fields(settings, state, run.seed) for state in settings.counts}
        own = _own_fields(planned, everything)
        model = _train(planned, own, everything)
        scores = {state: _score(model, scored_fields(settings, state), settings) for state in settings.counts}
    result = Result(run, scores, len(own), timed(begun))
    _keep(planned, model, result)
    return result


def read_result(planned: Planned) -> Result:
    """Return what a run that stands came to.

    Parameters
    ----------
    planned : Planned

    Returns
    -------
    result : Result

    Raises
    ------
    OutputError
        If its file cannot be read.
    """
    try:
        row = json.loads(planned.path.read_text(encoding="utf-8"))
        return Result(planned.run, row["scores"], row["fields"], row["seconds"])
    except (OSError, ValueError, KeyError) as error:
        message = f"{planned.path} is not the result of a run ({error!r}). Remove it; the run is then made again."
        raise OutputError(message) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: runs side by side use the cores better, and the sums do not depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _own_fields(planned: Planned, everything: Mapping[str, CropFields]) -> CropFields:
    """Return the fields a run may see."""
    run = planned.run
    cut = planned.share_state if run.share < 1.0 else None
    parts = [share_of(everything[s], run.share, run.seed) if s == cut else everything[s] for s in run.train]
    return join_fields(parts)


class Regions(nn.Module):
    """A network for each region of a climate space; a field belongs to the region whose centre is nearest.

    Parameters
    ----------
    networks : list of KGMLAg
    centres : ndarray, (regions, columns)
        In standard deviations.
    moments : ndarray, (2, columns)
        Mean and standard deviation of the columns.
    """

    centres: torch.Tensor
    moments: torch.Tensor

    def __init__(self, networks: list[KGMLAg], centres: np.ndarray, moments: np.ndarray):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("centres", torch.from_numpy(centres))
        self.register_buffer("moments", torch.from_numpy(moments))

    def of(self, fields: CropFields) -> np.ndarray:
        """Return the region of each field, (n,)."""
        mean, std = self.moments.numpy()
        place = (_climate(fields) - mean) / std
        return np.square(place[:, None] - self.centres.numpy()).sum(axis=-1).argmin(axis=1)


def _climate(fields: CropFields) -> np.ndarray:
    """Return position and mean weather of fields, (n, columns), float64."""
    weather = [fields.features[..., CROP_FEATURES.index(name)].mean(axis=1, dtype=np.float64) for name in _CLIMATE]
    return np.stack([fields.latitude, fields.longitude, *weather], axis=1)


def _train(planned: Planned, own: CropFields, everything: dict[str, CropFields]) -> KGMLAg | Regions:
    """Train the model of a run."""
    settings, seed = planned.settings, planned.run.seed
    if planned.parent is not None:
        return tune(_read_network(planned.parent), own, _own_fields(planned.parent, everything), settings, seed)
    if planned.run.regime == "sdsa":
        return _train_regions(own, settings, seed, planned.regions)
    return train_from_scratch(own, join_fields(list(everything.values())), settings, seed)


def _read_network(planned: Planned) -> KGMLAg:
    """Return the network of a run that stands."""
    network = KGMLAg(planned.settings.hidden, planned.settings.dropout)
    network.load_state_dict(load_file(planned.weights))
    return network


def _train_regions(fields: CropFields, settings: RegimeSettings, seed: int, count: int) -> Regions:
    """Find regions among fields and train each alone."""
    places = _climate(fields)
    mean, std = places.mean(axis=0), np.maximum(places.std(axis=0), 1e-9)
    found = KMeans(count, n_init=10, random_state=seed).fit((places - mean) / std)
    parts = [fields.select(np.flatnonzero(found.labels_ == region)) for region in range(count)]
    if min(map(len, parts)) < _FEWEST:
        message = (
            f"SDSA found regions of {sorted(map(len, parts))} fields, each needs {_FEWEST} to train and choose on. "
            f"Lower `regions` ({count}) or raise `counts`."
        )
        raise ConfigError(message)
    networks = [train_from_scratch(part, fields, settings, seed) for part in parts]
    return Regions(networks, found.cluster_centers_, np.stack([mean, std]))


def _score(model: KGMLAg | Regions, fields: CropFields, settings: RegimeSettings) -> dict[str, dict[str, float]]:
    """Return the skill of a model at fields, `fluxgrid.training.kgml.regimes.score`."""
    if isinstance(model, Regions):
        return _score_regions(model, fields, settings)
    return score(model, fields, settings)


def _score_regions(model: Regions, fields: CropFields, settings: RegimeSettings) -> dict[str, dict[str, float]]:
    """Return the skill over all regions: squared errors are averaged with the fields in each as weights."""
    region = model.of(fields)
    parts = [(float(np.mean(region == k)), fields.select(np.flatnonzero(region == k))) for k in np.unique(region)]
    networks = [cast(KGMLAg, model.networks[int(k)]) for k in np.unique(region)]
    scores = [(share, score(net, part, settings)) for (share, part), net in zip(parts, networks, strict=True)]
    # the variance of the truth does not depend on who predicts it, and any model's score over all fields tells it
    whole = score(networks[0], fields, settings)
    return {name: _pooled([(share, each[name]) for share, each in scores], row) for name, row in whole.items()}


def _pooled(parts: list[tuple[float, dict[str, float]]], whole: Mapping[str, float]) -> dict[str, float]:
    """Return the score of one quantity over parts of the fields."""
    mse = sum(share * row["rmse"] ** 2 for share, row in parts)
    variance = whole["rmse"] ** 2 / (1.0 - whole["r2"])
    z = sum(share * row["mse_z"] for share, row in parts)
    return {"mse_z": z, "rmse": math.sqrt(mse), "r2": 1.0 - mse / variance}


def _keep(planned: Planned, model: nn.Module, result: Result) -> None:
    """Write weights, then the JSON that says that they stand."""
    with atomic_path(planned.weights) as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
        temporary.chmod(0o644)
    write_text(planned.path, json.dumps(_row(planned, result), indent=1) + "\n")


def _row(planned: Planned, result: Result) -> dict[str, Any]:
    """Return all that is known of a run."""
    return {
        "run": asdict(planned.run),
        "name": planned.run.name,
        "digest": planned.digest,
        "tuned_from_digest": planned.parent.digest if planned.parent else None,
        "settings": asdict(planned.settings),
        "share_state": planned.share_state,
        "regions": planned.regions if planned.run.regime == "sdsa" else None,
        "fields": result.fields,
        "scores": result.scores,
        "seconds": result.seconds,
        "data": "synthetic: fields of the reference world's process model",
        "world_version": WORLD_VERSION,
        "world_digest": world_digest(),
        "commit": git_commit(),
        "created": now(),
        "versions": versions(),
    }
