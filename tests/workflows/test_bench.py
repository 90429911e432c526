from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fluxgrid.bench.criteria import CRITERIA
from fluxgrid.bench.peers_engines import JaxScan
from fluxgrid.bench.peers_trees import XGBoostDask
from fluxgrid.bench.peers_xarray import MapBlocks, XBatcher
from fluxgrid.bench.settings import TINY
from fluxgrid.errors import ConfigError
from fluxgrid.workflows import bench as workflow
from fluxgrid.workflows.bench_tables import bench_tables


class _NoXBatcher(XBatcher):
    packages = ("no_such_generator",)


class _NoScan(JaxScan):
    packages = ("no_such_scan",)


def test_the_report_has_its_shape(monkeypatch, tmp_path):
    monkeypatch.setattr(workflow, "PEERS", (MapBlocks(), _NoXBatcher(), *workflow.PEERS[1:2], _NoScan()))
    models = ("GRU-128", "TAM-RL exact", "TAM-RL stride")
    monkeypatch.setattr(XGBoostDask, "lacking", lambda _: ["xgboost"])  # as after `make demo`
    settings = replace(TINY, models=(*models, "XGBoost"), kinds=("affine",), rounds=1)
    said = []
    outcome = workflow.bench(settings, str(tmp_path / "bench.json"), said.append)
    assert said
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report == outcome.report
    assert {"date", "commit", "versions", "machine", "models", "peers", "ratios", "ensembles", "heads", "windows",
            "strides", "scaling", "workers", "gpu", "criteria", "seconds",
            "parts", "left_out"} <= set(report)  # fmt: skip
    assert [row["model"] for row in report["models"]] == list(models)
    assert "XGBoost of ours (pip install 'fluxgrid[trees]')" in report["left_out"]
    first = report["models"][0]
    assert (first["pixel_days"], first["spin_up_pixel_days"], first["missing"]) == (768 * 20, 768 * 20, 0)
    assert 0 < first["share_delivered"] < first["share_of_peak"]  # of 64 squares: no peak
    machine = report["machine"]
    assert len(machine["gemm_gflops_rounds"]) == settings.rounds
    assert machine["gemm_gflops_best"] >= machine["gemm_gflops"] >= machine["gemm_gflops_one_thread"]
    assert first["share_of_best"] <= first["share_of_peak"] * (1 + 1e-12)  # the last bit, where the best is the peak
    assert first["peak_rss_mb"] > 100
    assert first["seconds"]["n"] == 1
    missing = {row["peer"]: row["missing"] for row in report["peers"] if row["pixel_days_per_s"] is None}
    assert missing["xbatcher + DataLoader"].endswith("pip install 'fluxgrid[bench]'")
    shown = Console(file=io.StringIO(), width=400)
    shown.print(*bench_tables(report))
    assert shown.file.getvalue().count("pip install 'fluxgrid[bench]'") == len(missing)
    assert [row["name"] for row in report["ratios"]] == ["ours / best torch per chunk"]
    assert report["ratios"][0]["low"] is None  # one round has no interval
    assert [row["calibration"] for row in report["heads"]] == ["state", "neighbourhood"]
    assert [row["model"] for row in report["strides"]] == ["TAM-RL"]
    assert report["strides"][0]["work_ratio"] > 5
    read = report["ensembles"]["bytes_read"]
    assert read is None or read > 768 * 40 * 20  # a quarter of what two years of twenty inputs are uncompressed
    rounding = 0.05 * (len(report["parts"]) + 1)  # all of them are rounded to a tenth
    assert sum(report["parts"].values()) <= report["seconds"] + rounding
    assert len(report["criteria"]) == len(CRITERIA)
    tables = list(bench_tables(report))
    assert tables[0].row_count > len(models) + len(report["peers"])
    assert tables[1].row_count == len(CRITERIA)
    tuned_only = next(row for row in report["peers"] if row["pixel_days_per_s"] is not None)
    del tuned_only["seconds"], tuned_only["pixel_days"]  # the slower of two forms takes no turns
    assert next(iter(bench_tables(report))).row_count == tables[0].row_count


_NOT_HERE = {
    "ours / XGBoost, GPP and RECO, depth 10, 1000 trees each",  # of three trees nothing is judged
    "ours, three fluxes / the same XGBoost, one flux",
    "GPU: largest difference from the CPU",
}


@pytest.mark.slow
def test_every_criterion_finds_its_figure(monkeypatch):
    monkeypatch.setattr("fluxgrid.bench.criteria._ROUNDS", TINY.rounds)
    settings = replace(
        TINY, sweep=True, children=("GRU-128", "KGML-ag"), scaling=(128, 128), years=(1, 2), worker_runs=2
    )
    report = workflow.bench(settings).report
    assert report["left_out"] == []
    assert all(row["seconds"]["n"] == TINY.rounds for row in report["models"])
    assert {row["peer"] for row in report["peers"] if row["pixel_days_per_s"] is None} == set()
    assert all(len(row["sweep"]) > 1 for row in report["peers"])
    lost = {row["criterion"] for row in report["criteria"] if row["measured"] is None}
    assert lost <= _NOT_HERE  # a figure that was measured but is not found under its name is lost too
    assert len(list(bench_tables(report))) == 2


def test_an_unknown_size_names_those_there_are():
    with pytest.raises(ConfigError, match="full, quick, tiny"):
        workflow.bench("huge")


def test_what_is_compared_has_one_group():
    groups = {name: workflow._groups_of(name) for name in (*(peer.name for peer in workflow.PEERS), workflow._OURS)}
    assert len({outer for outer, _ in groups.values()}) == 1
    for name in workflow.HELD:
        assert workflow._groups_of(workflow._LIMIT + name) == workflow._groups_of(name)
    pairs = [("GRU-128", "ensemble"), ("TAM-RL exact", "TAM-RL stride"), ("heads: none", "heads: affine state")]
    for one, other in pairs:
        assert workflow._groups_of(one)[0] == workflow._groups_of(other)[0]
