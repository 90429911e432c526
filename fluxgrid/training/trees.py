"""Fit trees: every observed step is a row."""

from __future__ import annotations

import numpy as np

from fluxgrid.models.trees import Trees
from fluxgrid.training.sequences import Sequence


def fit_trees(trees: Trees, train: list[Sequence], validation: list[Sequence], seed: int) -> None:
    """Fit one booster per predicted flux, stopping early on sites not trained on.

    Parameters
    ----------
    trees : Trees
        Untrained; changed in place.
    train, validation : list of Sequence
        No site group may stand in both.
    seed : int
    """
    for column in range(trees.sizes.fluxes):
        trees.fit_flux(*_rows(train, column), check=_rows(validation, column), seed=seed)


def _rows(sequences: list[Sequence], column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (N, F + S), targets (N,) and weights (N,) of the steps at which a flux was observed."""
    rows, targets, weights = [], [], []
    for sequence in sequences:
        seen = np.isfinite(sequence.targets[:, column])
        static = np.broadcast_to(sequence.static, (int(seen.sum()), len(sequence.static)))
        rows.append(np.concatenate([sequence.dynamic[seen], static], axis=1))
        targets.append(sequence.targets[seen, column])
        weights.append(np.maximum(sequence.weights[seen], 0.01) * sequence.emphasis[column])
    return np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)
