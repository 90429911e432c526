"""The benchmark of Adams County, run with a network that can be worked out by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fluxgrid.sources.kgml_assumptions import Assumptions, one_at_a_time
from fluxgrid.sources.kgml_drivers import CountyDrivers

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "adams_county.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("adams_county", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["adams_county"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["adams_county"]


@pytest.fixture(scope="module")
def drivers():
    time = pd.date_range("2000-01-01", "2003-12-31")
    soil = {"bulk_density": 1.5, "sand": 57.0, "silt": 684.0, "field_capacity": 0.31, "wilting_point": 0.18,
            "saturated_hydraulic_conductivity": 29.5, "soc": 19.0}  # fmt: skip
    weather = {"temperature_2m": 12.0, "relative_humidity": 70.0, "wind_speed": 4.0, "precipitation": 2.0,
               "shortwave": 170.0, "gpp_corn": 5.0, "gpp_soybean": 3.0}  # fmt: skip
    return CountyDrivers(pd.DataFrame(weather | soil, index=time), 40.0, (), "made up")


def run(features, years):
    """Respire half of GPP and 1 g on each day; yield counts the years that were seen."""
    assert years.tolist()[:732:366] == [2000, 2001]
    starts = np.flatnonzero(np.diff(years, prepend=0))
    assert years[starts].tolist() == [2000, 2001, 2000, 2001, 2002, 2003]
    gpp = features[:, :, 8]
    corn = features[:, :, 7] == 1  # each rotation turns with the year
    assert (corn[0] == (years % 2 == 0)).all()
    assert (corn[1] == (years % 2 == 1)).all()
    counts = np.tile(np.arange(len(starts)), (len(features), 1))
    return {"ra": -0.5 * gpp, "rh": np.full_like(gpp, -1.0), "nee": 1.5 - 0.5 * gpp, "yield": counts}


def test_sums_have_our_signs_and_leave_the_spin_up_out(benchmark, drivers):
    (sums,) = benchmark.annual_sums(drivers, run, [Assumptions()])
    corn = sums["corn"]
    assert corn.index.tolist() == [2000, 2001, 2002, 2003]
    days = np.array([366, 365, 365, 365])
    np.testing.assert_allclose(corn["GPP"], 5.0 * days)
    np.testing.assert_allclose(corn["Ra"], 2.5 * days)
    np.testing.assert_allclose(corn["Rh"], days)
    np.testing.assert_allclose(corn["NEE"], -1.5 * days)
    np.testing.assert_allclose(corn["GRU_NEE"], -1.0 * days)
    assert corn["yield"].tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(sums["soybean"]["GPP"], 3.0 * days)


def test_tables_show_every_sum_and_every_assumption(benchmark, drivers):
    choices = [Assumptions(), *(assumptions for _, _, assumptions in one_at_a_time())]
    default, *others = benchmark.annual_sums(drivers, run, choices)
    budget = list(benchmark.budget_rows(default))
    assert any(row.startswith("| corn | GPP | 1826 | 2 | 1462 to 1610 | rainfed, Suyker") for row in budget)
    assert all(f"| {crop} | {total} |" in "\n".join(budget) for crop in default for total in benchmark.SUMS)
    assumptions = list(benchmark.assumption_rows(default, others))
    assert len(assumptions) == len(choices)
    less = next(row for row in assumptions if row.startswith("| gpp: tenth_less"))
    assert less.startswith("| gpp: tenth_less | as_given | -91 | +0 | +91 | +0 | -55 | +0 | +55 | +0 |")
    assert len(list(benchmark.mean_rows(default))) == 4


def test_published_numbers_carry_a_source(benchmark):
    for each in benchmark.PUBLISHED:
        assert each.low <= each.high
        assert "doi:10." in each.source or "NASS" in each.source
    # 105 and 200 bu/acre of corn: 6.59 and 12.55 t/ha at 15.5 % moisture
    corn = next(each for each in benchmark.PUBLISHED if (each.crop, each.total) == ("corn", "yield"))
    np.testing.assert_allclose([corn.low, corn.high], [250.6, 477.4], atol=0.2)
