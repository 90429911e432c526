from __future__ import annotations

from fluxgrid.bench.criteria import CRITERIA, Criterion, judge_all


def judged(report):
    return {row["criterion"]: row for row in judge_all(report)}


def test_what_was_not_measured_is_neither_met_nor_missed():
    for report in ({}, {"gpu": "not measured", "scaling": [], "workers": [], "models": [], "heads": None}):
        rows = judge_all(report)
        assert len(rows) == len(CRITERIA)
        assert {row["met"] for row in rows} == {None}


def test_bars_hold_in_their_direction():
    least = Criterion("speed", 2.0, lambda report: report["x"], 3.0)
    most = Criterion("memory", 2.0, lambda report: report["x"], at_most=True)
    assert [least.judge({"x": x})["met"] for x in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [most.judge({"x": x})["met"] for x in (1.9, 2.0, 2.1)] == [True, True, False]
    assert least.judge({"x": 1.0}) == {
        "criterion": "speed", "bound": "at least", "bar": 2.0, "aim": 3.0, "measured": 1.0, "met": False,
    }  # fmt: skip


def test_figures_are_found_in_a_report():
    models = [
        {"model": "GRU-128", "share_of_peak": 0.71, "max_error": 1e-7, "peak_rss_mb": 900.0},
        {"model": "LSTM-128", "max_error": 1e-7},
        {"model": "CT-LSTM 2 x 256", "max_error": 1e-7},
        {"model": "KGML-ag", "share_of_peak": 0.64, "max_error": 3e-6, "peak_rss_mb": 2100.0},
    ]
    report = {
        "trees": 1000,
        "models": models,
        "ratios": [
            {"name": "ours / XGBoost", "ratio": 16.0, "low": 14.0},
            {"name": "ours / XGBoost, one flux", "ratio": 11.0, "low": 10.0},
            {"name": "ours / JAX scan", "n": 7, "ratio": 1.0, "low": 0.94},
            {"name": "ours / ONNX Runtime", "n": 7, "ratio": 1.1, "low": 0.98},
        ],
        "strides": [{"model": "LSTM-128", "stride_of_work": 0.9}, {"model": "TAM-RL", "stride_of_work": 0.7}],
        "ensembles": {"member_speed": 1.0, "bytes_read_ratio": 9.5},
        "heads": [
            {"calibration": "state", "time_ratio": 1.1},
            {"calibration": "state", "time_ratio": 1.2},
            {"calibration": "neighbourhood", "time_ratio": 1.2},
        ],
        "scaling": [
            {"axis": "region", "peak_rss_mb": 100.0},
            {"axis": "region", "peak_rss_mb": 109.0},
            {"axis": "years", "peak_rss_mb": 100.0},
            {"axis": "years", "peak_rss_mb": 120.0},
        ],
        "workers": [{"workers": 1, "tiles_per_s": 1.0}, {"workers": 2, "tiles_per_s": 1.9}],
        "gpu": [{"model": "GRU-128", "max_difference": 1e-4}],
    }
    met = {name: row["met"] for name, row in judged(report).items() if row["met"] is not None}
    assert met == {
        "GRU-128: share of the peak": True,
        "KGML-ag: share of the peak, unfolded": False,
        "these four: largest error over the flux's scale": False,
        "ours / JAX scan, end to end: lower end": False,
        "ours / ONNX Runtime: lower end": False,
        "ours / XGBoost, GPP and RECO, depth 10, 1000 trees each": True,
        "ours, three fluxes / the same XGBoost, one flux": False,
        "a member of the ensemble / the single run": True,
        "bytes read for the ensemble / for one member": False,
        "stride over exact / ratio of the work, the worst network": False,
        "ten heads, one in each cell: time over none": False,
        "neighbourhood of ten heads: time over none": True,
        "memory from x1 to x16 of the region: growth": True,
        "memory from 1 to 16 years: growth": False,
        "KGML-ag: peak memory, MB": False,
        "two workers / one": True,
        "GPU: largest difference from the CPU": False,
    }
    three = judged({**report, "models": models[:3]})
    assert three["these four: largest error over the flux's scale"]["met"] is None
    few = judged({**report, "trees": 100})  # fewer trees are faster: the bar speaks of a thousand
    assert few["ours / XGBoost, GPP and RECO, depth 10, 1000 trees each"]["met"] is None


def test_the_interval_of_a_few_rounds_is_not_judged():
    rows = [{"name": name, "n": 2, "ratio": 3.0, "low": 0.1} for name in ("ours / JAX scan", "ours / XGBoost")]
    found = judged({"trees": 1000, "ratios": rows})
    assert found["ours / JAX scan, end to end: lower end"]["met"] is None
    assert found["ours / XGBoost, GPP and RECO, depth 10, 1000 trees each"]["measured"] == 3.0
