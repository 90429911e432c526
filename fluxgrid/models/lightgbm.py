"""LightGBM: gradient-boosted trees on one step at a time, one booster per flux.

Source: the tree baseline of CarbonBench (Rozanov et al.): learning rate 0.05, depth 10, 31 leaves, at least 5 rows to a
leaf, up to 1000 rounds with early stopping. GPP and RECO below zero are cut to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.tree_kernel import Forest, order_leaves
from fluxgrid.models.trees import Rows, Trees, TreesConfig

if TYPE_CHECKING:
    import lightgbm  # brings scikit-learn with it: nearly a second, which only its own models wait for

_CLASS_OR_ZERO = 0b0101
"""Bits of LightGBM's decision_type: the split is of a class; a zero counts as missing."""
_ZERO = np.float32(1e-35)
"""Inputs up to it, on either side, are zero to LightGBM."""


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

    suffix = ".txt"

    def boost(
        self, data: Rows, check: Rows | None, seed: int, base: lightgbm.Booster | None = None
    ) -> lightgbm.Booster:
        """Return a booster fitted to rows."""
        import lightgbm

        rate, rounds = self.pace(check, base)
        settings = {
            "objective": "regression",
            "learning_rate": rate,
            "max_depth": self.config.depth,
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.rows_per_leaf,
            "seed": seed,
            "num_threads": torch.get_num_threads(),
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        train = lightgbm.Dataset(data[0], data[1], weight=data[2], free_raw_data=True)
        if check is None:
            return lightgbm.train(settings, train, rounds, init_model=base)
        valid = lightgbm.Dataset(check[0], check[1], weight=check[2], reference=train)
        stop = lightgbm.early_stopping(self.config.patience, verbose=False)
        return lightgbm.train(settings, train, rounds, [valid], init_model=base, callbacks=[stop])

    def values(self, booster: lightgbm.Booster, rows: np.ndarray) -> np.ndarray:
        """Return what a booster says of rows, (N,)."""
        return np.asarray(booster.predict(rows, num_threads=1))

    def splits(self, booster: lightgbm.Booster) -> Forest | None:
        """Return the trees in LightGBM's order; None where one asks a class or treats zero as missing."""
        trees = []
        for text in booster.model_to_string().split("\nTree=")[1:]:
            found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            leaves = np.array(found["leaf_value"].split(), np.float64)
            columns, kinds, below, above = (
                np.array(found[key].split(), np.int64)
                for key in ("split_feature", "decision_type", "left_child", "right_child")
            )
            if (kinds & _CLASS_OR_ZERO).any() or ("is_linear" in found and found["is_linear"] != "0"):
                return None
            threshold = _beside_zero(np.array(found["threshold"].split(), np.float64))
            trees.append(order_leaves(columns, threshold, below, above, leaves))
        return Forest(trees, closed=True, dtype=np.float64, base=0.0)

    def count(self, booster: lightgbm.Booster) -> int:
        """Return the trees of a booster."""
        return booster.current_iteration()

    def write(self, booster: lightgbm.Booster, path: Path) -> None:
        """Write a booster in LightGBM's own text format."""
        booster.save_model(path)

    def read(self, path: Path) -> lightgbm.Booster:
        """Return the booster in a file."""
        import lightgbm

        try:
            return lightgbm.Booster(model_file=path)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error


def _beside_zero(threshold: np.ndarray) -> np.ndarray:
    """Return thresholds that part inputs as they are where LightGBM's part them with small ones set to zero."""
    below = (threshold >= -_ZERO) & (threshold < 0)
    above = (threshold >= 0) & (threshold < _ZERO)
    return np.select([below, above], [np.nextafter(-_ZERO, np.float32(-1)), _ZERO], threshold)
