"""Observed fluxes below 0 are measured as much as others: they reach the loss and the scores as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.evaluation.baselines import fit_climatology
from fluxgrid.evaluation.tables import site_scores
from fluxgrid.models import MODELS
from fluxgrid.sources import SOURCES
from fluxgrid.testing import small_sites
from fluxgrid.training.fit import plan, spread, stack
from fluxgrid.training.losses import flux_loss
from fluxgrid.training.sequences import TARGETS, fit_scaler, inputs_of, make_sequence
from fluxgrid.training.trees import _rows


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Read towers from a file whose GPP and RECO fall well below 0, as a tenth of the real days do."""
    rows = []
    for site in small_sites(n=4, periods=24):
        table = site.series.reset_index(names="date").assign(site=site.id, lat=site.latitude, lon=site.longitude)
        table["gpp"], table["reco"] = table["gpp"] - 6, table["reco"] - 3
        rows.append(table.assign(nee=table["reco"] - table["gpp"], crop_fraction=0.5, climate_group="continental"))
    path = tmp_path_factory.mktemp("towers") / "towers.csv"
    pd.concat(rows).to_csv(path, index=False)
    return SOURCES["tower_table"]().read_sites(path), pd.concat(rows)


@pytest.fixture(scope="module")
def sequences(sites, make_spec):
    spec = make_spec()
    inputs = inputs_of(sites[0], spec.inputs, spec.step)
    scaler = fit_scaler(inputs.values(), spec.inputs)
    return [make_sequence(site, inputs[site.id], spec.inputs, scaler, spec.step, 1) for site in sites[0]]


def test_every_observation_is_read_as_it_stands(sites):
    found, written = sites
    for name in TARGETS:
        values = np.concatenate([site.series[name].to_numpy() for site in found])
        np.testing.assert_allclose(values, written[name], rtol=1e-6)
        assert (values < 0).mean() > 0.1


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "kgml_ag" and MODELS[kind].differentiable])
def test_they_reach_the_loss_of_every_network(sites, sequences, make_spec, kind):
    own = {"attention_heads": 2} if "transformer" in kind else {}
    windows = {} if kind == "mlp" else {"window": 6, "stride": 3}
    model = make_spec(kind, {"hidden": 4, **windows, **own}).build()
    windows = plan(model, sequences, 12)
    batch = stack(windows, sequences)
    targets = batch.targets[torch.isfinite(batch.targets)]
    written = np.sort(np.concatenate([s.targets[w.scored].ravel() for w in windows for s in [sequences[w.sequence]]]))
    np.testing.assert_array_equal(np.sort(targets.numpy()), written)
    assert (targets < 0).float().mean() > 0.1
    sigma, nothing = spread(sequences), torch.zeros(*batch.targets.shape[:2], 2)
    clipped = flux_loss(nothing, batch.targets.clamp_min(0), batch.weights, sigma)
    assert flux_loss(nothing, batch.targets, batch.weights, sigma) > clipped + 0.1


def test_they_reach_the_rows_of_trees(sequences):
    for column in (0, 1):
        target = _rows(sequences, column)[1]
        assert len(target) == 4 * 24
        assert (target < 0).sum() > 0


def test_they_are_scored_and_averaged(sites):
    found, written = sites
    zero = {site.id: site.series[["gpp", "reco", "nee"]] * 0 for site in found}
    scores = site_scores("zero", found, zero)
    assert (scores["n"] == 24).all()
    means = written.groupby("site")[["gpp", "reco", "nee"]].mean()
    for row in scores.itertuples():
        assert row.bias == pytest.approx(-means.loc[row.site, row.flux], rel=1e-5)
    climatology = fit_climatology(replace(found, sites=found.sites[:3])).predict(found.sites[3])
    assert climatology["gpp"].min() < -1
