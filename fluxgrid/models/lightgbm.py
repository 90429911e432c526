"""LightGBM: gradient-boosted trees on one step at a time, one booster per flux.

Source: the tree baseline of CarbonBench (Rozanov et al.): learning rate 0.05, depth 10, 31 leaves, at least 5 rows to a
leaf, up to 1000 rounds with early stopping. GPP and RECO below zero are cut to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import lightgbm
import numpy as np
from pydantic import Field

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.trees import Rows, Trees, TreesConfig


@MODELS.register("lightgbm")
@dataclass(frozen=True)
class LightGBMConfig(TreesConfig):
    """Settings of the trees."""

    rows_per_leaf: Annotated[int, Field(ge=1)] = 5
    """Fewest training rows in a leaf."""

    def build(self, sizes: Sizes) -> LightGBMTrees:
        """Return untrained trees."""
        return LightGBMTrees(self, sizes)


class LightGBMTrees(Trees):
    """See the module's text."""

    def fit_flux(self, rows: np.ndarray, target: np.ndarray, weight: np.ndarray, check: Rows, seed: int) -> None:
        """Fit the booster of the next flux, with early stopping on other sites."""
        settings = {
            "objective": "regression",
            "learning_rate": self.config.learning_rate,
            "max_depth": self.config.depth,
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.rows_per_leaf,
            "seed": seed,
            "num_threads": 2,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        train = lightgbm.Dataset(rows, target, weight=weight, free_raw_data=True)
        valid = lightgbm.Dataset(check[0], check[1], weight=check[2], reference=train)
        stop = lightgbm.early_stopping(self.config.patience, verbose=False)
        self.boosters.append(lightgbm.train(settings, train, self.config.rounds, [valid], callbacks=[stop]))

    def values(self, booster: lightgbm.Booster, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows, (N,)."""
        return np.asarray(booster.predict(rows, num_threads=1))

    @property
    def rounds(self) -> list[int]:
        """Trees kept of each booster."""
        return [booster.best_iteration for booster in self.boosters]

    def save_weights(self, folder: Path) -> list[Path]:
        """Write each booster in LightGBM's own text format."""
        paths = [folder / f"trees_{index}.txt" for index in range(len(self.boosters))]
        for path, booster in zip(paths, self.boosters, strict=True):
            booster.save_model(path)
        return paths

    def load_weights(self, folder: Path) -> None:
        """Read the boosters of all fluxes."""
        try:
            self.boosters = [lightgbm.Booster(model_file=folder / f"trees_{i}.txt") for i in range(self.sizes.fluxes)]
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error
