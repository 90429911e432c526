"""Weather of the world beside a real county and the real Midwest."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "realism_weather.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("realism_weather", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["realism_weather"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["realism_weather"]


def failures(gates):
    return {gate.what: (gate.world, gate.observed, gate.bound) for gate in gates if not gate.passed}


@pytest.mark.data
def test_weather_resembles_that_of_adams_county(benchmark, data_dir):
    gates = list(benchmark.county_gates(benchmark.virtual_county(), benchmark.real_county(data_dir)))
    assert len(gates) == 42
    assert failures(gates) == {}


@pytest.mark.data
def test_climate_resembles_that_of_the_midwest(benchmark, data_dir):
    gates = list(benchmark.grid_gates(*benchmark.both_grids(data_dir)))
    assert len(gates) == 42
    assert failures(gates) == {}


def test_county_gates_can_fail(benchmark):
    county = benchmark.virtual_county("2001-01-01", "2004-12-31")
    assert failures(benchmark.county_gates(county, county)) == {}
    other = county.sample(frac=1, random_state=3).set_axis(county.index)  # the same days in no order
    other["precipitation"] *= 0.5
    failed = failures(benchmark.county_gates(other, county))
    for words in ("temperature of month 7", "annual rain, mm", "lag-1", "95th percentile", "radiation of month 12"):
        assert any(words in what for what in failed), words


def test_grid_gates_can_fail(benchmark):
    time = pd.date_range("2000-01-01", "2020-12-01", freq="MS")
    rng = np.random.default_rng(2)
    season = -np.cos(2 * np.pi * (time.month - 1) / 12)
    values = {
        "temperature": 10 + 14 * season.to_numpy() + rng.normal(0, 2, (7, 252)),
        "rain": np.linspace(40, 90, 7)[:, None] * rng.uniform(0.5, 1.5, (7, 252)),
    }
    table = xr.Dataset({name: (("cell", "time"), value) for name, value in values.items()}, coords={"time": time})
    assert failures(benchmark.grid_gates(table, table)) == {}
    other = xr.Dataset({"temperature": table["temperature"] + 2.5, "rain": 1.5 * table["rain"][::-1]})
    failed = failures(benchmark.grid_gates(other, table))
    for words in ("mean temperature of month 1,", "RMSE of month 6", "rain of month 3", "correlation over cells"):
        assert any(words in what for what in failed), words
    failed = failures(benchmark.grid_gates(table.assign(temperature=3 * table["temperature"]), table))
    assert any("standard deviation of years, winter" in what for what in failed)
