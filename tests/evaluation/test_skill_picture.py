"""The picture of an evaluation."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pandas as pd

from fluxgrid.evaluation.skill_picture import draw_skill
from fluxgrid.evaluation.tables import summarise


def test_every_model_and_flux_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            **{"model": model, "flux": flux, "site": f"S{i}", "class": "CRO", "climate": "arid", "n": 90},
            **{"r2": rng.normal(0.3, 0.8), "rmse": 1.0, "nmae": 0.5, "rae": 0.6, "bias": 0.0},
        }
        for model in ("lstm", "tam_rl", "climatology")
        for flux in ("gpp", "reco", "nee")
        for i in range(12)
    ]
    path = draw_skill(summarise(pd.DataFrame(rows)), "A test.", tmp_path / "skill.png", synthetic=False)
    few = draw_skill(summarise(pd.DataFrame(rows[:12])), "A test.", tmp_path / "one.png", synthetic=True)
    assert path.stat().st_size > 10_000
    assert matplotlib.image.imread(path).shape[0] > matplotlib.image.imread(few).shape[0]
    red = (0xB3, 0x26, 0x1E)
    for picture, synthetic in ((path, False), (few, True)):
        pixels = np.round(255 * matplotlib.image.imread(picture)[..., :3]).astype(int)
        assert (pixels == red).all(axis=-1).any() == synthetic, (
            "the word synthetic stands where it belongs, and only there"
        )
