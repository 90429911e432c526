"""Checkpoints: a folder that is enough to predict, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from fluxgrid import compiling
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.windows import WindowMode
from fluxgrid.errors import CheckpointError, ConfigError, UnknownName, itemise
from fluxgrid.files import atomic_folder
from fluxgrid.models.base import FluxModel
from fluxgrid.models.calibrated import Calibration, load_calibrations
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.models.ensemble import Ensemble, members_of
from fluxgrid.models.network import Network
from fluxgrid.models.recurrent import GRU
from fluxgrid.models.spec import ModelSpec
from fluxgrid.models.uncertainty import UNCERTAINTY, Uncertainty
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.provenance import digest, digest_files
from fluxgrid.registry import unknown_name

_SPEC, _SCALER, _CONFIG, _PROVENANCE = "spec.json", "scaler.json", "config.yaml", "provenance.json"
_WITH_GRU = ("kgml_ag", "gru", "ct_gru")
Precision = Literal["fp32", "bf16"]
"""Of the factors of matrix products."""
_SHIPPED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with all that predicting needs."""

    path: Path
    """The folder."""
    spec: ModelSpec
    """What it eats and gives."""
    scaler: Scaler
    """Fitted on its training sites."""
    model: FluxModel
    """The weights, in evaluation mode."""
    domain: TrainingDomain
    """Where in input space it was trained."""
    digest: str
    """Hash of everything that decides its numbers."""
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    """Heads of places, by how cells choose among them: ``state``, ``neighbourhood``."""
    uncertainty: Uncertainty | None = None
    """Half-widths of its fluxes, where it is an ensemble."""

    def in_mode(self, mode: WindowMode | None) -> Checkpoint:
        """Return the same weights cutting a record in another way; without a mode the checkpoint as it is.

        Half-widths hold for the trained mode and are left out in another.

        Raises
        ------
        ConfigError
            If the model has no windows, or does not know the mode.
        """
        if mode in (None, getattr(self.model, "window_mode", None)):
            return self
        if not (isinstance(self.model, WindowNetwork | Ensemble) and self.model.window_modes):
            message = f"The model {self.spec.name!r} ({self.spec.kind}) sees no windows. Leave --window-mode out."
            raise ConfigError(message)
        if mode not in self.model.window_modes:
            known = " or ".join(self.model.window_modes)
            message = f"The model {self.spec.name!r} ({self.spec.kind}) cannot {mode}; choose {known} (--window-mode)."
            raise ConfigError(message)
        model = self.model.in_mode(mode)
        calibrations: dict[str, Calibration] = {}  # heads belong to one network: an ensemble has none
        if isinstance(model, WindowNetwork):
            calibrations = {name: each.on(model) for name, each in self.calibrations.items()}
        spec = replace(self.spec, settings={**self.spec.settings, "window_mode": mode})
        other = replace(self, spec=spec, model=model, calibrations=calibrations, digest=digest(self.digest, mode))
        return replace(other, uncertainty=None)

    def in_precision(self, precision: Precision) -> Checkpoint:
        """Return the model with products in ``fp32``, as it is, or in ``bf16``: GRUs that carry a state, on a CPU.

        Raises
        ------
        ConfigError
            If it has no GRU that runs over a whole record.
        """
        if precision == "fp32":
            return self
        networks = [member for member in members_of(self.model) if isinstance(member, Network)]
        cells = [cell for network in networks for cell in network.modules() if isinstance(cell, GRU)]
        if not cells or getattr(self.model, "window_mode", None) in ("exact", "stride"):
            message = (
                f"--precision bf16 is for GRUs that carry a state ({', '.join(_WITH_GRU)}, in mode stream), not for "
                f"{self.spec.name!r} ({self.spec.kind}). Leave it out."
            )
            raise ConfigError(message)
        if not compiling.AVAILABLE:
            message = "--precision bf16 needs numba, which cannot be imported. Install it, or leave --precision out."
            raise ConfigError(message)
        for cell in cells:
            cell.factors = torch.bfloat16
        return replace(self, digest=digest(self.digest, precision))


def shipped_checkpoints() -> dict[str, Path]:
    """Return the checkpoints that come with fluxgrid, by name."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{_SPEC}"))}


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a shipped checkpoint or the folder given.

    Raises
    ------
    UnknownName
        If it is neither.
    CheckpointError
        If the folder is no checkpoint.
    """
    shipped = shipped_checkpoints()
    if str(name) in shipped:
        return shipped[str(name)]
    path = Path(name).expanduser()
    if (path / _SPEC).is_file():
        return path
    if path.exists():
        message = f"{path} is not a checkpoint: it has no {_SPEC}. Give the folder that `fluxgrid train` wrote."
        raise CheckpointError(message)
    error = unknown_name("shipped model or checkpoint folder", str(name), shipped)
    raise error


def save_checkpoint(
    path: Path,
    spec: ModelSpec,
    scaler: Scaler,
    model: FluxModel,
    domain: TrainingDomain,
    config: str,
    provenance: dict[str, Any],
    calibrations: Iterable[Calibration] = (),
    uncertainty: Uncertainty | None = None,
) -> None:
    """Write a checkpoint folder that appears whole or not at all.

    Parameters
    ----------
    path : Path
        Where to; must not exist.
    spec, scaler, model, domain
        What predicts.
    config : str
        The training configuration, YAML.
    provenance : dict
        Versions, commit, sites, scores: JSON values.
    calibrations : iterable of Calibration
        Heads of places beside the model.
    uncertainty : Uncertainty, optional
        Half-widths of its fluxes.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_folder(path) as folder:
        (folder / _SPEC).write_text(spec.to_json(), encoding="utf-8")
        (folder / _SCALER).write_text(scaler.to_json(), encoding="utf-8")
        (folder / _CONFIG).write_text(config, encoding="utf-8")
        weights = model.save_weights(folder)
        heads = [path for calibration in calibrations for path in calibration.save(folder)]
        widths = [uncertainty.save(folder)] if uncertainty is not None else []
        parts = [folder / _SPEC, folder / _SCALER, *weights, domain.save(folder), *heads, *widths]
        for part in parts:  # safetensors makes files that only their owner may read
            part.chmod(0o644)
        names = [part.relative_to(folder).as_posix() for part in parts]
        row = {"digest": digest_files(parts), "parts": names, **provenance}
        (folder / _PROVENANCE).write_text(json.dumps(row, indent=2), encoding="utf-8")


def load_checkpoint(
    name: str | Path, window_mode: WindowMode | None = None, precision: Precision = "fp32"
) -> Checkpoint:
    """Read a checkpoint and check that it is the one that was written.

    Parameters
    ----------
    name : str or Path
        Name of a shipped checkpoint, or a folder.
    window_mode : {"exact", "stride", "stream"}, optional
        How a network of windows cuts a record, where that is not to be what it was trained with.
    precision : {"fp32", "bf16"}
        Of matrix products; half-widths were found in single precision.

    Returns
    -------
    checkpoint : Checkpoint

    Raises
    ------
    UnknownName
        If there is none of that name.
    CheckpointError
        If a file is missing, changed or does not fit the others, or this installation lacks its architecture.
    ConfigError
        If it does not know the window mode, or has nothing to run in that precision.
    """
    path = find_checkpoint(name)
    return _read(path).in_mode(window_mode).in_precision(precision)


def _read(path: Path) -> Checkpoint:
    """Read a checkpoint folder."""
    try:
        return _load(path)
    except (ConfigError, UnknownName) as error:
        message = (
            f"The checkpoint {path} asks for what this installation does not have. {error} "
            "Install the version or the plug-in it was trained with, or train it again."
        )
        raise CheckpointError(message) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        message = (
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error}). It needs {_SPEC}, {_SCALER}, "
            f"{_PROVENANCE} and its weights as written by this version of `fluxgrid train`. Train it again."
        )
        raise CheckpointError(message) from error


def _load(path: Path) -> Checkpoint:
    """Read a checkpoint folder; whatever its files raise comes through."""
    provenance = json.loads((path / _PROVENANCE).read_text(encoding="utf-8"))
    found = digest_files([path / part for part in provenance["parts"]])
    if found != provenance["digest"]:
        message = (
            f"The checkpoint {path} is corrupt: the hash of its files is {found}, not {provenance['digest']} as "
            "when it was written. Copy it again from where it was trained, or train it again."
        )
        raise CheckpointError(message)
    spec = ModelSpec.from_json((path / _SPEC).read_text(encoding="utf-8"))
    scaler = Scaler.from_json((path / _SCALER).read_text(encoding="utf-8"))
    domain = TrainingDomain.load(path)
    if problems := _disagreements(spec, scaler, domain):
        raise CheckpointError(itemise(f"The parts of the checkpoint {path} do not fit each other", problems))
    model = spec.build()
    model.load_weights(path)
    uncertainty = Uncertainty.load(path) if UNCERTAINTY in provenance["parts"] else None
    return Checkpoint(path, spec, scaler, model, domain, found, load_calibrations(path, model), uncertainty)


def _disagreements(spec: ModelSpec, scaler: Scaler, domain: TrainingDomain) -> list[str]:
    """Return what scaler and training domain lack for the inputs of the spec."""
    lost = [name for name in (*spec.inputs.dynamic, *spec.inputs.static) if name not in scaler.names]
    problems = [f"{_SCALER} has no {name}" for name in lost]
    wanted, found = spec.sizes.dynamic + spec.sizes.static, domain.points.shape[-1]
    if found != wanted:
        problems.append(f"the training domain has {found} predictors, {_SPEC} has {wanted}")
    return problems
