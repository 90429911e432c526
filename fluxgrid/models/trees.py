"""What boosted trees share: one booster for each flux, one step at a time, no memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from fluxgrid.models.base import STRICT, Sizes

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows (N, F + S), scaled; target (N,), g m-2 d-1; weight (N,), >= 0."""


@dataclass(frozen=True)
class TreesConfig:
    """Settings that boosted trees share; CarbonBench's."""

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

    differentiable: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Trees(ABC):
    """Boosted trees behind the contract of `FluxModel`; the state has no columns. GPP and RECO below 0 are cut to 0."""

    state_size = 0

    def __init__(self, config: Any, sizes: Sizes):
        self.config = config
        self.sizes = sizes
        self.boosters: list[Any] = []

    @abstractmethod
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

    @abstractmethod
    def values(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows (N, F + S), (N,)."""

    @property
    @abstractmethod
    def rounds(self) -> list[int]:
        """Trees kept of each booster."""

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O) of each step by itself; the empty state passes through."""
        batch, steps, _ = dynamic.shape
        place = static[:, None, :].expand(batch, steps, -1)
        rows = torch.cat([dynamic, place], dim=-1).reshape(batch * steps, -1).numpy()  # (B*T, F+S)
        columns = [self.values(booster, rows) for booster in self.boosters]
        fluxes = np.stack(columns, axis=-1).astype(np.float32)
        np.maximum(fluxes[:, :2], 0.0, out=fluxes[:, :2])  # GPP and RECO; an NEE of its own has either sign
        return torch.from_numpy(fluxes).view(batch, steps, -1), state

    @abstractmethod
    def save_weights(self, folder: Path) -> list[Path]:
        """Write each booster in its library's own text format."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read the boosters of all fluxes; ValueError where they cannot be read."""
