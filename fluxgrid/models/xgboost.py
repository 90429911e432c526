"""XGBoost: gradient-boosted trees on one step at a time, one booster per flux.

Source: the tree baseline of CarbonBench (Rozanov et al.): learning rate 0.05, depth 10, 31 leaves, at least a weight of
5 in a leaf, histograms, up to 1000 rounds with early stopping. Classes are one-hot columns here, not numbers, so that a
class has the same code wherever it stands. GPP and RECO below zero are cut to zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.tree_kernel import Forest, Split, order_leaves
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

    suffix = ".json"

    def boost(self, data: Rows, check: Rows | None, seed: int, base: Any = None) -> Any:
        """Return a booster fitted to rows."""
        xgboost = _library()
        rate, rounds = self.pace(check, base)
        settings = {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "eta": rate,
            "max_depth": self.config.depth,
            "max_leaves": self.config.leaves,
            "min_child_weight": self.config.weight_per_leaf,
            "seed": seed,
            "nthread": torch.get_num_threads(),
        }
        train = _matrix(data)
        if check is None:
            return xgboost.train(settings, train, rounds, xgb_model=base)
        booster = xgboost.train(
            settings,
            train,
            rounds,
            evals=[(_matrix(check), "held_out")],
            early_stopping_rounds=self.config.patience,
            verbose_eval=False,
            xgb_model=base,
        )
        return _ready(booster[: booster.best_iteration + 1])

    def values(self, booster: Any, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows, (N,)."""
        return booster.inplace_predict(rows)

    def splits(self, booster: Any) -> Forest | None:
        """Return the trees in XGBoost's order; None where one asks a class."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        trees = []
        for tree in learner["gradient_booster"]["model"]["trees"]:
            if any(tree["split_type"]):
                return None
            trees.append(_split(tree))
        base = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
        return Forest(trees, closed=False, dtype=np.float32, base=base)

    def count(self, booster: Any) -> int:
        """Return the trees of a booster."""
        return booster.num_boosted_rounds()

    def write(self, booster: Any, path: Path) -> None:
        """Write a booster in XGBoost's own JSON."""
        booster.save_model(path)

    def read(self, path: Path) -> Any:
        """Return the booster in a file."""
        xgboost = _library()
        try:
            return _ready(xgboost.Booster(model_file=path))
        except xgboost.core.XGBoostError as error:
            raise ValueError(str(error)) from error


def _split(tree: dict[str, Any]) -> Split:
    """Return a tree of XGBoost's JSON, whose inner nodes and leaves share one numbering."""
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    value = np.array(tree["split_conditions"], np.float32)
    inner = left >= 0
    number = np.where(
        inner, np.cumsum(inner) - 1, np.negative(np.cumsum(~inner))
    )  # nodes from 0, leaves as -1, -2, ...
    columns = np.array(tree["split_indices"])[inner]
    return order_leaves(columns, value[inner], number[left[inner]], number[right[inner]], value[~inner])


def _matrix(rows: Rows) -> Any:
    """Return rows, targets and weights as the library has them."""
    return _library().DMatrix(rows[0], label=rows[1], weight=rows[2])


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
