"""CarbonBench from its files by one command, on small made-up ones in the published layout."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.records import site_inputs
from fluxgrid.data.splits import carbonbench_split
from fluxgrid.models import Sizes, model_config
from fluxgrid.testing import carbonbench_files
from fluxgrid.workflows.sites import model_spec, read_sites

N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    classes = [("CRO", "DBF")[i % 2] for i in range(N)]
    return carbonbench_files(tmp_path_factory.mktemp("files"), classes, [("Dfa", "Cfb")[i % 2] for i in range(N)], 60)


@pytest.fixture(autouse=True)
def environment(monkeypatch, folder):
    monkeypatch.setenv("CARBONBENCH_DATA", str(folder))


def test_the_benchmark_is_one_command(folder, tmp_path, run):
    assert len(load_config(TrainConfig, "carbonbench").models) == 10
    network = "{kind: ct_lstm, window_mode: exact, hidden: 4}"
    models = f"{{ct_lstm: {{model: {network}}}, lightgbm: {{model: {{kind: lightgbm, rounds: 5, spin_up_years: 0}}}}}}"
    words = [f"models={models}", "fit.epochs=1", "fit.batch=64", f"out={tmp_path / 'made'}"]
    code, said, error = run("evaluate", "carbonbench", *words)
    assert code == 0, error
    sites = read_sites(load_config(TrainConfig, "carbonbench"))
    expected = carbonbench_split(sites, "igbp")
    scores = pd.read_csv(tmp_path / "made-evaluation" / "sites.csv")
    assert set(scores["site"]) == set(expected.test)
    assert f"IGBP split of CarbonBench, no site beside a test site in training: {len(expected.train)}" in said
    assert "Published (474 sites of CarbonBench, trained as published; ensembles of ten seeds), IGBP split" in said
    # days of best quality with the flux, nothing else
    one = sites[expected.test[0]].series
    best = int(((one["nee_qc"] == 1) & one["gpp"].notna()).sum())
    rows = scores[(scores["site"] == expected.test[0]) & (scores["flux"] == "gpp")]
    assert set(rows["n"]) == {best}
    assert set(scores["model"]) == {"ct_lstm", "lightgbm", "climatology", "ridge"}


@pytest.mark.parametrize("name", ["carbonbench", "carbonbench_koppen"])
def test_shipped_runs_have_the_published_sizes(name):
    """Parameters of the networks at 20 channels; ours have a column more for the class As, which no tower has."""
    config = load_config(TrainConfig, name)
    published = {
        "carbonbench": {"lstm": 532_483, "gru": 57_987, "ct_lstm": 137_155, "ct_gru": 104_131, "transformer": 406_147},
        "carbonbench_koppen": {"lstm": 135_171, "gru": 609_027, "ct_lstm": 1_062_787, "ct_gru": 104_131},
    }[name]
    sites = read_sites(config)
    for kind, count in published.items():
        entry = config.entries[kind]
        spec = model_spec(entry, sites)
        assert (spec.sizes.dynamic, spec.sizes.static) == (20, 52)
        network = model_config(kind, {**spec.settings, "head": "linear"}).build(Sizes(20, 51, 3))
        assert sum(value.numel() for value in network.parameters()) == count
        assert entry.fit.epochs == 100
        assert entry.fit.learning_rate == (1e-3 if kind == "lstm" else 5e-4)
    assert {entry.fit.batch for entry in config.entries.values()} == {2048}


def test_inputs_are_whole_where_the_files_are(folder):
    config = load_config(TrainConfig, "carbonbench")
    sites = read_sites(config)
    site = sites.sites[3]
    inputs = site_inputs(site, "daily", model_spec(config, sites).inputs)
    assert not inputs.missing.any()
    assert inputs.filled.any()
    seen = site.series["mod09ga_b03"]
    expected = seen.interpolate(limit_direction="both").to_numpy()
    np.testing.assert_allclose(inputs.dynamic["mod09ga_b03"][:, 0], expected, rtol=1e-6)
