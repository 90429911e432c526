from __future__ import annotations

import numpy as np
import pytest

from fluxgrid.evaluation.published import ABOUT, published_scores, published_text
from fluxgrid.evaluation.tables import QUANTILES
from fluxgrid.models import MODELS

METRICS = ("r2", "rmse", "nmae", "rae")


def test_the_table_is_whole():
    scores = published_scores()
    counts = scores.groupby(["features", "split"]).size().to_dict()
    assert counts == {("minimal", s): 27 for s in ("igbp", "koppen")} | {
        (f, s): 21 for f in ("standard", "full") for s in ("igbp", "koppen")
    }
    assert not scores.duplicated(["features", "split", "model", "flux"]).any()
    assert set(scores["model"]) <= set(MODELS)
    assert scores[[f"{metric}_q50" for metric in METRICS]].notna().all(axis=None)
    minimal = published_scores(features="minimal")
    for metric in METRICS:
        low, middle, high = (minimal[f"{metric}_{name}"] for name in QUANTILES)
        assert ((low <= middle) & (middle <= high)).all()
    assert (scores["about"] == ABOUT).all()


@pytest.mark.parametrize(
    ("where", "model", "flux", "metric", "value"),
    [
        (("igbp", "minimal"), "tam_rl", "gpp", "r2", 0.574),
        (("igbp", "minimal"), "lightgbm", "nee", "rae", 0.864),
        (("koppen", "minimal"), "ct_lstm", "gpp", "r2", 0.648),
        (("koppen", "minimal"), "xgboost", "nee", "nmae", 2.654),
        (("koppen", "standard"), "ct_gru", "nee", "r2", 0.131),
        (("igbp", "full"), "patch_transformer", "reco", "rmse", 1.264),
    ],
)
def test_some_figures(where, model, flux, metric, value):
    row = published_scores([model], *where).set_index("flux").loc[flux]
    assert row[f"{metric}_q50"] == value
    assert row["sites"] == {"igbp": 96, "koppen": 92}[where[0]]


def test_the_text_says_what_it_is():
    scores = published_scores({"ct_lstm", "mlp"})
    text = published_text(scores, "koppen")
    assert "not the same data" in text.splitlines()[0]
    assert "Koeppen split" in text
    assert len(text.splitlines()) == 1 + 1 + 3
    assert "0.65 [0.24, 0.77]" in text
    assert "IGBP split" in published_text(scores, "folds")
    assert published_text(published_scores({"mlp"}), "igbp") == ""
    assert np.isnan(published_scores(["gru"], features="full")["r2_q25"]).all()
