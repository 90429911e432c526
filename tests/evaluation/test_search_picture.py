"""The picture of a search."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pandas as pd

from fluxgrid.evaluation.search_picture import draw_search
from fluxgrid.training.search import SPACES, grid_points

GRID = SPACES["paper"]["tam_rl"]


def trials(count: int, finite: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    points = list(grid_points(GRID))
    rows = [points[i] for i in rng.choice(len(points), count, replace=False)]
    loss = 0.4 + 0.2 * rng.random(count) + [0.1 * (row["fit.learning_rate"] == 5e-3) for row in rows]
    loss[0] = np.inf
    table = pd.DataFrame(rows).assign(trial=np.arange(1, count + 1), loss=loss, pruned=rng.random(count) < 0.2)
    return table if finite else table.assign(loss=np.inf)


def test_all_settings_are_drawn(tmp_path):
    path = draw_search(trials(40), GRID, "A test.", tmp_path / "search.png", synthetic=False)
    image = matplotlib.image.imread(path)
    assert path.stat().st_size > 20_000
    red = (image[..., 0] > 0.6) & (image[..., 1] < 0.25) & (image[..., 2] < 0.25)
    assert not red.any()  # of the word synthetic
    badge = draw_search(
        trials(3), {"model.hidden": GRID["model.hidden"]}, "A test.", tmp_path / "few.png", synthetic=True
    )
    image = matplotlib.image.imread(badge)
    assert ((image[..., 0] > 0.6) & (image[..., 1] < 0.25) & (image[..., 2] < 0.25)).any()


def test_a_search_of_which_nothing_came_can_be_drawn(tmp_path):
    assert draw_search(trials(3, finite=False), GRID, "A test.", tmp_path / "none.png", synthetic=True).is_file()
