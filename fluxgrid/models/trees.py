"""What boosted trees share: one booster for each flux, one step at a time, no memory.

With `fine_tune`, the way of GloFlux (Yuan et al. 2025, Scientific Data 12:1359, doi:10.1038/s41597-025-05672-8):
boosting goes on from the boosters of all sites, at half the rate, on the sites of one vegetation class, and a place is
served by the boosters of its class. In the published code the base sees no class, and rows of one site may stand on
both sides of the early stopping; here the class is an input of the base, and sites that were not trained on decide when
to stop.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from fluxgrid import compiling
from fluxgrid.errors import ConfigError
from fluxgrid.models.base import STRICT, Sizes
from fluxgrid.models.tree_kernel import Forest, Kernel, compile_trees

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows (N, F + S), scaled; target (N,), g m-2 d-1; weight (N,), >= 0."""

UNKNOWN = -1
"""Position of the class of a place that has none."""

_TUNED = "fine_tuned.json"


@dataclass(frozen=True)
class TreesConfig:
    """Settings that boosted trees share; CarbonBench's, and GloFlux's for fine-tuning."""

    rounds: Annotated[int, Field(ge=1)] = 1000
    """Most trees per flux."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Weight of each tree."""
    depth: Annotated[int, Field(ge=1)] = 10
    """Deepest tree."""
    leaves: Annotated[int, Field(ge=2)] = 31
    """Most leaves of a tree."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Rounds without gain on the validation sites before training stops."""
    fine_tune: str | None = None
    """Class variable among the inputs whose classes get boosters of their own, continued from those of all sites."""
    fine_tune_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of the learning rate that the trees of a class get."""
    fine_tune_groups: Annotated[int, Field(ge=1)] = 3
    """Fewest places (site groups) of a class to train on; a class with fewer is served by the boosters of all sites."""
    fine_tune_rounds: Annotated[int, Field(ge=1)] = 20
    """Trees added for a class of which no validation site tells when to stop; where one does, up to `rounds`."""

    differentiable: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Trees(ABC):
    """Boosted trees behind the contract of `FluxModel`; the state has no columns. GPP and RECO below 0 are cut to 0.

    Parameters
    ----------
    config : TreesConfig
    sizes : Sizes

    Raises
    ------
    ConfigError
        If the variable to fine-tune by is not a class among the inputs.
    """

    state_size = 0
    suffix: ClassVar[str]
    """Ending of the files of the library's own format."""

    def __init__(self, config: Any, sizes: Sizes):
        if config.fine_tune is not None and config.fine_tune not in sizes.classes:
            known = ", ".join(sizes.classes) or "there is none"
            message = (
                f"fine_tune: {config.fine_tune!r} is not a class among the inputs ({known}). Name it under "
                "inputs.classes, or leave fine_tune out."
            )
            raise ConfigError(message)
        self.config = config
        self.sizes = sizes
        self.boosters: list[Any] = []
        self.tuned: list[dict[int, Any]] = []
        """Boosters of single classes, by flux and position of the class."""
        self._kernels: WeakKeyDictionary[Any, Kernel | None] = WeakKeyDictionary()
        self._lock = Lock()

    @abstractmethod
    def boost(self, data: Rows, check: Rows | None, seed: int, base: Any = None) -> Any:
        """Return a booster fitted to rows.

        Parameters
        ----------
        data : Rows
        check : Rows, optional
            Of validation sites, for early stopping; without them the trees of `pace` are all made.
        seed : int
        base : booster, optional
            Where boosting goes on from; it stays as it is.

        Returns
        -------
        booster : booster
            Cut after its best round.
        """

    @abstractmethod
    def values(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows (N, F + S), (N,)."""

    @abstractmethod
    def splits(self, booster: Any) -> Forest | None:
        """Return the trees of a booster for `compile_trees`; None where it does what a kernel cannot."""

    @abstractmethod
    def count(self, booster: Any) -> int:
        """Return the trees of a booster."""

    @abstractmethod
    def write(self, booster: Any, path: Path) -> None:
        """Write a booster in its library's own text format."""

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Return the booster in a file; ValueError or OSError where it cannot be read."""

    def pace(self, check: Rows | None, base: Any) -> tuple[float, int]:
        """Return the learning rate and the most trees of a booster with or without validation sites and base."""
        if base is None:
            return self.config.learning_rate, self.config.rounds
        rounds = self.config.fine_tune_rounds if check is None else self.config.rounds
        return self.config.learning_rate * self.config.fine_tune_rate, rounds

    def fit_flux(self, rows: np.ndarray, target: np.ndarray, weight: np.ndarray, check: Rows, seed: int) -> None:
        """Fit the booster of the next flux, with early stopping on other sites.

        Parameters
        ----------
        rows : ndarray, (N, F + S), scaled
        target : ndarray, (N,), g m-2 d-1
        weight : ndarray, (N,), >= 0
        check : tuple of ndarray
            Rows, target and weight of the validation sites.
        seed : int
        """
        self.boosters.append(self.boost((rows, target, weight), check, seed))
        self.tuned.append({})

    def tune_flux(self, flux: int, kind: int, data: Rows, check: Rows | None, seed: int) -> None:
        """Continue the booster of a flux on the sites of one class.

        Parameters
        ----------
        flux : int
            Its column.
        kind : int
            Position of the class.
        data : Rows
            Of the class.
        check : Rows, optional
            Of validation sites of the class; a booster that does no better there than that of all sites is not kept.
        seed : int
        """
        base = self.boosters[flux]
        own = self.boost(data, check, seed, base)
        if check is None or self._error(own, check) < self._error(base, check):
            self.tuned[flux][kind] = own

    def _error(self, booster: Any, rows: Rows) -> float:
        """Return the weighted mean squared error of a booster."""
        return float(np.average(np.square(self.values(booster, rows[0]) - rows[1]), weights=rows[2]))

    def kinds(self, static: np.ndarray) -> np.ndarray:
        """Return the class that chooses the boosters of places (n, S), (n,): its position, -1 where there is none."""
        if self.config.fine_tune is None:
            return np.full(len(static), UNKNOWN)
        columns = static[:, self.sizes.classes[self.config.fine_tune]]
        return np.where(columns.any(axis=1), columns.argmax(axis=1), UNKNOWN)

    @property
    def rounds(self) -> list[int]:
        """Trees kept of each booster of all sites."""
        return [self.count(booster) for booster in self.boosters]

    @property
    def added(self) -> list[dict[int, int]]:
        """Trees that classes add to these, by flux and position of the class."""
        both = zip(self.tuned, self.rounds, strict=True)
        return [{kind: self.count(own) - trees for kind, own in tuned.items()} for tuned, trees in both]

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O) of each step by itself; the empty state passes through."""
        batch, steps, _ = dynamic.shape
        place = static[:, None, :].expand(batch, steps, -1)
        rows = torch.cat([dynamic, place], dim=-1).reshape(batch * steps, -1).numpy()  # (B*T, F+S)
        kinds = np.repeat(self.kinds(static.numpy()), steps)  # (B*T,)
        columns = [self._flux(flux, rows, kinds) for flux in range(len(self.boosters))]
        fluxes = np.stack(columns, axis=-1).astype(np.float32)
        np.maximum(fluxes[:, :2], 0.0, out=fluxes[:, :2])  # GPP and RECO; an NEE of its own has either sign
        return torch.from_numpy(fluxes).view(batch, steps, -1), state

    def _flux(self, flux: int, rows: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Return a flux of rows (N, F + S), (N,), each from the booster of its class."""
        base, tuned = self.boosters[flux], self.tuned[flux]
        if not tuned:
            return self._compiled_values(base, rows)
        found = np.empty(len(rows))
        others = ~np.isin(kinds, list(tuned))
        for chosen, booster in [(others, base), *((kinds == kind, own) for kind, own in tuned.items())]:
            if chosen.any():
                found[chosen] = self._compiled_values(booster, rows[chosen])
        return found

    def _compiled_values(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Return what `values` does, bit for bit, from a kernel where there is one."""
        with self._lock:
            if booster not in self._kernels:
                forest = self.splits(booster) if compiling.AVAILABLE else None
                self._kernels[booster] = compile_trees(forest, rows.shape[1]) if forest else None
            kernel = self._kernels[booster]
        if kernel is None:
            return self.values(booster, rows)
        known = np.isfinite(rows)
        if known.all():
            return kernel.values(rows)
        whole = known.all(axis=1)
        found = np.empty(len(rows), kernel.leaves.dtype)
        found[whole] = kernel.values(rows[whole])
        found[~whole] = self.values(booster, rows[~whole])  # what a library does with a missing input is its own affair
        return found

    def save_weights(self, folder: Path) -> list[Path]:
        """Write each booster in its library's own text format, and which classes have their own."""
        files = {self._path(folder, flux): booster for flux, booster in enumerate(self.boosters)}
        for flux, tuned in enumerate(self.tuned):
            files |= {self._path(folder, flux, kind): own for kind, own in tuned.items()}
        for path, booster in files.items():
            self.write(booster, path)
        if self.config.fine_tune is None:
            return list(files)
        (folder / _TUNED).write_text(json.dumps([sorted(tuned) for tuned in self.tuned]), encoding="utf-8")
        return [*files, folder / _TUNED]

    def load_weights(self, folder: Path) -> None:
        """Read the boosters of all fluxes; ValueError where they cannot be read."""
        self.boosters = [self.read(self._path(folder, flux)) for flux in range(self.sizes.fluxes)]
        self.tuned = [{} for _ in self.boosters]
        if self.config.fine_tune is not None:
            listed = json.loads((folder / _TUNED).read_text(encoding="utf-8"))
            for flux, (kinds, tuned) in enumerate(zip(listed, self.tuned, strict=True)):
                tuned.update({int(kind): self.read(self._path(folder, flux, int(kind))) for kind in kinds})

    def _path(self, folder: Path, flux: int, kind: int | None = None) -> Path:
        """Return the file of a booster."""
        return folder / f"trees_{flux}{'' if kind is None else f'_{kind}'}{self.suffix}"
