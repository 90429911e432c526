"""Fit trees: every observed step is a row."""

from __future__ import annotations

import numpy as np

from fluxgrid.errors import TableError
from fluxgrid.models.trees import Trees
from fluxgrid.training.sequences import TARGETS, Sequence


def fit_trees(trees: Trees, train: list[Sequence], validation: list[Sequence], seed: int) -> None:
    """Fit one booster per predicted flux, stopping early on sites not trained on.

    Parameters
    ----------
    trees : Trees
        Untrained; changed in place.
    train, validation : list of Sequence
        No site group may stand in both.
    seed : int

    Raises
    ------
    TableError
        If a flux was not observed at either.
    """
    for column in range(trees.sizes.fluxes):
        rows, check = _rows(train, column), _rows(validation, column)
        for part, found in (("trained on", rows), ("held back to stop on", check)):
            if not len(found[0]):
                message = (
                    f"None of the sites {part} observed {TARGETS[column]} at a step whose inputs are known, and trees "
                    f"need it: name {TARGETS[column]} under sites.targets, or give more sites that have it."
                )
                raise TableError(message)
        trees.fit_flux(*rows, check=check, seed=seed)


def _rows(sequences: list[Sequence], column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (N, F + S), targets (N,) and weights (N,) of the steps at which a flux was observed."""
    rows, targets, weights = [], [], []
    for sequence in sequences:
        seen = np.isfinite(sequence.targets[:, column])
        static = np.broadcast_to(sequence.static, (int(seen.sum()), len(sequence.static)))
        rows.append(np.concatenate([sequence.dynamic[seen], static], axis=1))
        targets.append(sequence.targets[seen, column])
        weights.append(np.maximum(sequence.weights[seen], 0.01))
    return np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)
