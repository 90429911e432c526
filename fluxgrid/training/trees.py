"""Fit trees: every observed step is a row."""

from __future__ import annotations

import numpy as np

from fluxgrid.errors import TableError
from fluxgrid.models.trees import UNKNOWN, Rows, Trees
from fluxgrid.training.sequences import TARGETS, Sequence
from fluxgrid.variables import get_variable


def fit_trees(trees: Trees, train: list[Sequence], validation: list[Sequence], seed: int) -> None:
    """Fit one booster per predicted flux, stopping early on sites not trained on; then those of classes, if wanted.

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
        _fine_tune(trees, train, validation, column, seed)


def _fine_tune(trees: Trees, train: list[Sequence], validation: list[Sequence], column: int, seed: int) -> None:
    """Go on with the booster of a flux on the sites of each class that has enough of them; nothing if not wanted."""
    for kind, own in _by_kind(trees, train, column).items():
        if kind != UNKNOWN and len({sequence.group for sequence in own}) >= trees.config.fine_tune_groups:
            check = _by_kind(trees, validation, column).get(kind)
            trees.tune_flux(column, kind, _rows(own, column), _rows(check, column) if check else None, seed)


def fine_tuned_text(trees: Trees) -> str:
    """Return which classes got boosters of their own, and how many trees they add; empty without fine-tuning."""
    if trees.config.fine_tune is None:
        return ""
    names = get_variable(trees.config.fine_tune).classes
    parts = []
    for flux, added in zip(TARGETS, trees.added, strict=False):
        own = ", ".join(f"{names[kind]} +{count}" for kind, count in sorted(added.items()))
        parts.append(f"{flux.upper()} {own or 'none'}")
    return f"fine-tuned by {trees.config.fine_tune}: {'; '.join(parts)}; the trees of all sites serve the others"


def _by_kind(trees: Trees, sequences: list[Sequence], column: int) -> dict[int, list[Sequence]]:
    """Return the sites that observed a flux, by the class that chooses their boosters, in the order of classes."""
    seen = [sequence for sequence in sequences if np.isfinite(sequence.targets[:, column]).any()]
    kinds = [int(trees.kinds(sequence.static[None])[0]) for sequence in seen]
    return {kind: [s for s, own in zip(seen, kinds, strict=True) if own == kind] for kind in sorted(set(kinds))}


def _rows(sequences: list[Sequence], column: int) -> Rows:
    """Return rows (N, F + S), targets (N,) and weights (N,) of the steps at which a flux was observed."""
    rows, targets, weights = [], [], []
    for sequence in sequences:
        seen = np.isfinite(sequence.targets[:, column])
        static = np.broadcast_to(sequence.static, (int(seen.sum()), len(sequence.static)))
        rows.append(np.concatenate([sequence.dynamic[seen], static], axis=1))
        targets.append(sequence.targets[seen, column])
        weights.append(np.maximum(sequence.weights[seen], 0.01) * sequence.emphasis[column])
    return np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)
