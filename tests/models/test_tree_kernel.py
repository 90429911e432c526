"""Compiled trees say what their library says, bit for bit, whatever the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.models.base import Sizes, model_config
from fluxgrid.models.tree_kernel import Forest, compile_trees, order_leaves

COLUMNS = 6


def fitted(kind: str, leaves: int, rounds: int = 30):
    """Return trees fitted to rows that repeat, so that inputs fall on thresholds."""
    rng = np.random.default_rng(leaves)
    rows = rng.normal(size=(3000, COLUMNS)).astype(np.float32)
    rows[:, 1] = np.round(rows[:, 1], 1)
    rows[:, 2] = rows[:, 2] > 0
    target = 3 + rows[:, 0] * rows[:, 1] + np.sin(5 * rows[:, 3]) * rows[:, 2]
    settings = {"rounds": rounds, "leaves": leaves, "depth": 10, "learning_rate": 0.2}
    trees = model_config(kind, settings).build(Sizes(dynamic=COLUMNS, static=0))
    booster = trees.boost((rows, target, np.ones(len(rows))), None, seed=1)
    return trees, booster, rows


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("leaves", [2, 50])
def test_compiled_trees_give_the_bits_of_their_library(kind, leaves):
    trees, booster, rows = fitted(kind, leaves)
    kernel = compile_trees(trees.splits(booster), COLUMNS)
    assert kernel is not None
    assert kernel.masks.dtype == (np.uint64 if leaves == 50 else np.uint32)
    for part in (rows, rows[:1], rows[5:300], np.full((3, COLUMNS), 1e30, np.float32), -rows, rows * 0):
        expected = trees.values(booster, np.ascontiguousarray(part))
        found = kernel.values(part)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_inputs_on_and_beside_thresholds_go_the_same_way(kind):
    trees, booster, _ = fitted(kind, 31)
    forest = trees.splits(booster)
    on = np.unique(np.concatenate([tree.threshold for tree in forest.trees])).astype(np.float32)
    near = np.concatenate([on, np.nextafter(on, np.float32(9)), np.nextafter(on, np.float32(-9))])
    rows = np.random.default_rng(0).choice(near, (2000, COLUMNS)).astype(np.float32)
    np.testing.assert_array_equal(compile_trees(forest, COLUMNS).values(rows), trees.values(booster, rows))


def test_larger_trees_are_left_to_the_library():
    trees, booster, rows = fitted("lightgbm", 90)
    assert compile_trees(trees.splits(booster), COLUMNS) is None
    np.testing.assert_array_equal(trees._compiled_values(booster, rows), trees.values(booster, rows))


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("missing", [[7], slice(None)])
def test_only_rows_with_missing_inputs_are_left_to_the_library(kind, missing, monkeypatch):
    trees, booster, rows = fitted(kind, 31)
    rows[missing, 0] = np.nan
    expected, values, asked = trees.values(booster, rows), trees.values, []
    monkeypatch.setattr(trees, "values", lambda own, part: asked.append(len(part)) or values(own, part))
    found = trees._compiled_values(booster, rows)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert asked == [np.isnan(rows[:, 0]).sum()]


def test_no_trees_are_left_to_the_library():
    assert compile_trees(Forest([], closed=True, dtype=np.float64, base=0.25), 2) is None


@pytest.mark.parametrize(("count", "columns", "kind"), [(1200, 2, np.uint16), (65_600, 1, np.uint32)])
def test_many_thresholds_take_more_bytes(count, columns, kind):
    rng = np.random.default_rng(4)
    trees = [
        order_leaves(np.array([c % columns]), np.array([t]), np.array([-1]), np.array([-2]), rng.normal(size=2))
        for c, t in enumerate(rng.permutation(np.linspace(-3, 3, count)))
    ]
    kernel = compile_trees(Forest(trees, closed=True, dtype=np.float64, base=0.25), 2)
    assert kernel.ranks.dtype == kind
    rows = rng.normal(size=(300, 2)).astype(np.float32)
    expected = np.full(300, 0.25)
    for tree in trees:
        right = rows[:, tree.column[0]].astype(np.float64) > tree.threshold[0]
        expected += np.where(right, tree.leaves[1], tree.leaves[0])
    np.testing.assert_array_equal(kernel.values(rows), expected)


def test_a_tree_without_a_split_is_its_leaf():
    empty = np.array([], int)
    tree = order_leaves(empty, np.array([]), empty, empty, np.array([2.5]))
    kernel = compile_trees(Forest([tree], closed=True, dtype=np.float64, base=0.0), 3)
    assert kernel.values(np.zeros((2, 3), np.float32)).tolist() == [2.5, 2.5]


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_a_place_is_predicted_alike_in_any_block(kind):
    trees, booster, rows = fitted(kind, 31)
    trees.boosters, trees.tuned = [booster, booster], [{}, {}]
    block, empty = torch.from_numpy(rows[:120].reshape(10, 12, COLUMNS)), torch.zeros(10, 0)
    whole = trees.predict(block, empty, empty)[0]
    alone = [trees.predict(block[i : i + 1], empty[:1], empty[:1])[0] for i in range(10)]
    assert torch.equal(whole, torch.cat(alone))
