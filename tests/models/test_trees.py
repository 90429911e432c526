from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fluxgrid.models.base import Sizes, model_config

SIZES = Sizes(dynamic=4, static=1)


@pytest.fixture(params=["xgboost", "lightgbm"])
def trees(request, tmp_path):
    """Return trees as a map has them: read from a checkpoint, nothing asked of them yet."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 5)).astype(np.float32)
    fitted, read = (model_config(request.param, {"rounds": 20}).build(SIZES) for _ in range(2))
    for column in (0, 1):
        target = 4 + rows[:, column] * 2
        fitted.fit_flux(rows[:300], target[:300], np.ones(300), (rows[300:], target[300:], np.ones(100)), seed=1)
    fitted.save_weights(tmp_path)
    read.load_weights(tmp_path)
    return fitted, read


def test_threads_of_a_map_share_them_from_the_first_tile_on(trees):
    """A booster that sets itself up while another thread predicts with it fails."""
    fitted, read = trees
    rng = np.random.default_rng(1)
    blocks = [torch.from_numpy(rng.normal(size=(64, 12, 4)).astype(np.float32)) for _ in range(64)]
    static, state = torch.zeros(64, 1), torch.zeros(64, 0)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda block: read.predict(block, static, state)[0], blocks))
    for block, fluxes in zip(blocks, found, strict=True):
        assert torch.equal(fluxes, fitted.predict(block, static, state)[0])
