"""Crops of the world beside satellite GPP of a real county."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "realism_crops.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("realism_crops", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["realism_crops"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["realism_crops"]


@pytest.mark.data
def test_crops_resemble_those_of_adams_county(benchmark, data_dir):
    gates = benchmark.gates(data_dir)
    assert len(gates) == 12
    assert {gate.what: (gate.world, gate.observed) for gate in gates if not gate.passed} == {}


def test_a_gate_can_fail(benchmark):
    days = pd.date_range("2010-01-01", "2012-12-31")
    season = np.maximum(np.sin((days.day_of_year - 100) / 365 * 2 * np.pi), 0.0)
    random = np.random.default_rng(0)
    slope = pd.Series(15 * season + random.normal(0, 1, len(days)), days)
    assert all(gate.passed for gate in benchmark.crop_gates("corn", slope, slope))
    failed = [
        gate.what for gate in benchmark.crop_gates("corn", 1.5 * slope.shift(40).fillna(0.0), slope) if not gate.passed
    ]
    assert any("peak 30-day GPP, g" in what for what in failed)
    assert any("day of year" in what for what in failed)
