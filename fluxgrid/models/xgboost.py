"""XGBoost: gradient-boosted trees on one step at a time, one booster per flux.

Source: the tree baseline of CarbonBench (Rozanov et al.): learning rate 0.05, depth 10, 31 leaves, at least a weight of
5 in a leaf, histograms, up to 1000 rounds with early stopping. Classes are one-hot columns here, not numbers, so that a
class has the same code wherever it stands. GPP and RECO below zero are cut to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.trees import Rows, Trees, TreesConfig


@MODELS.register("xgboost")
@dataclass(frozen=True)
class XGBoostConfig(TreesConfig):
    """Settings of the trees."""

    weight_per_leaf: Annotated[float, Field(ge=0)] = 5.0
    """Least sum of weights in a leaf."""

    def build(self, sizes: Sizes) -> XGBoostTrees:
        """Return untrained trees.

        Raises
        ------
        ConfigError
            If XGBoost is not installed.
        """
        _library()
        return XGBoostTrees(self, sizes)


class XGBoostTrees(Trees):
    """See the module's text."""

    def fit_flux(self, rows: np.ndarray, target: np.ndarray, weight: np.ndarray, check: Rows, seed: int) -> None:
        """Fit the booster of the next flux, with early stopping on other sites."""
        xgboost = _library()
        settings = {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "eta": self.config.learning_rate,
            "max_depth": self.config.depth,
            "max_leaves": self.config.leaves,
            "min_child_weight": self.config.weight_per_leaf,
            "seed": seed,
            "nthread": 2,
        }
        train, valid = (xgboost.DMatrix(x, label=y, weight=w) for x, y, w in ((rows, target, weight), check))
        booster = xgboost.train(
            settings,
            train,
            self.config.rounds,
            evals=[(valid, "held_out")],
            early_stopping_rounds=self.config.patience,
            verbose_eval=False,
        )
        self.boosters.append(_ready(booster[: booster.best_iteration + 1]))

    def values(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows, (N,)."""
        return booster.inplace_predict(rows)

    @property
    def rounds(self) -> list[int]:
        """Trees kept of each booster."""
        return [booster.num_boosted_rounds() for booster in self.boosters]

    def save_weights(self, folder: Path) -> list[Path]:
        """Write each booster in XGBoost's own JSON."""
        paths = [folder / f"trees_{index}.json" for index in range(len(self.boosters))]
        for path, booster in zip(paths, self.boosters, strict=True):
            booster.save_model(path)
        return paths

    def load_weights(self, folder: Path) -> None:
        """Read the boosters of all fluxes."""
        xgboost = _library()
        try:
            paths = [folder / f"trees_{i}.json" for i in range(self.sizes.fluxes)]
            self.boosters = [_ready(xgboost.Booster(model_file=path)) for path in paths]
        except xgboost.core.XGBoostError as error:
            raise ValueError(str(error)) from error


def _ready(booster: Any) -> Any:
    """Return a booster that predicts on one thread, set up by a first prediction.

    A change of settings takes effect at the next prediction; another thread that predicts meanwhile fails.
    """
    booster.set_param({"nthread": 1})
    booster.inplace_predict(np.zeros((1, booster.num_features()), np.float32))
    return booster


def _library() -> Any:
    """Return the library, which is optional."""
    try:
        import xgboost
    except ImportError as error:
        message = "The model 'xgboost' needs XGBoost, which is not installed: pip install 'fluxgrid[trees]'."
        raise ConfigError(message) from error
    return xgboost
