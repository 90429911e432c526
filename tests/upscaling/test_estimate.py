"""What a map takes, counted from geometry alone where it is too large to be counted cell by cell."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from distributed import LocalCluster

from fluxgrid.data.records import plan_segments
from fluxgrid.data.steps import calendar
from fluxgrid.geo.region import find_region
from fluxgrid.output.layers import PLAIN
from fluxgrid.prediction import BLOCK
from fluxgrid.upscaling import estimate as module
from fluxgrid.upscaling import speed
from fluxgrid.upscaling.estimate import Rates, estimate, size_of_region
from fluxgrid.upscaling.executor import Executor
from fluxgrid.workflows.estimates import lanes_of

RATES = Rates(predict=1e5, read=1e9, write=1e9, export=1e8)


def twenty_years():
    time_axis = calendar("1999-01-01", pd.Timestamp("2020-12-31"), "daily")
    return plan_segments(time_axis, "daily", int(time_axis.searchsorted(pd.Timestamp("2001-01-01"))), 2)


def size(name, resolution, metres=False, tile=32):
    return size_of_region(find_region(name), resolution, metres, tile, "daily", twenty_years(), PLAIN)


def test_conus_at_250_m_for_twenty_years_in_seconds_and_little_memory():
    find_region("conus")  # outlines are read once
    begun = time.process_time()
    tracemalloc.start()
    found = size("conus", 250.0, metres=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - begun < 30
    assert peak < 300e6  # a float64 for each of its 223 million cells would be 1.8 GB
    land = 7.83e12 / 250**2  # land and inland water of the 48 states and the District, m2 over that of a cell
    assert found.cells == pytest.approx(land, rel=0.02)
    assert 0 < found.error < 0.01
    assert found.padded >= found.cells
    assert found.years == 20
    guess = estimate(found, RATES, 2, (10, 8), 128, 128)
    assert guess.pixel_days == found.cells * 7305
    assert guess.spin_up_pixel_days == found.cells * 731
    assert guess.bytes_read == found.padded * 4 * (10 * 8036 + 8 * 22)
    assert guess.seconds_by_lanes[1] < 2 * guess.seconds  # passes over the map are not shared
    assert guess.seconds * 2 > found.padded * 8036 / 1e5


def test_the_globe_at_a_twentieth_of_a_degree():
    found = size("-180,-90,180,90", 0.05)
    assert found.cells == 3600 * 7200
    assert found.error == 0
    assert "no coast is known" in found.notes[0]
    assert found.tiles == 113 * 225


@pytest.mark.parametrize(
    ("name", "resolution", "metres"),
    [("iowa", 0.01, False), ("iowa", 500.0, True), ("michigan", 0.01, False), ("-95,40,-90,44", 0.01, False)],
)
def test_rough_counts_are_as_good_as_they_say(monkeypatch, name, resolution, metres):
    exact = size(name, resolution, metres)
    assert exact.error == 0
    monkeypatch.setattr(module, "EXACT_CELLS", 1)
    rough = size(name, resolution, metres)
    assert abs(rough.cells / exact.cells - 1) <= rough.error + 1e-4
    assert rough.tiles == pytest.approx(exact.tiles, rel=0.02)


def test_time_is_shared_by_those_who_do_the_work():
    found = size("iowa", 0.1)  # 20 files

    def seconds(lanes, cores=64, gpu="absent"):
        return estimate(found, RATES, lanes, (10, 8), 128, 128, gpu, 1, cores)

    one, two, many = (seconds(lanes) for lanes in (1, 2, 1000))
    assert one.predict_seconds == pytest.approx(2 * two.predict_seconds)
    assert one.read_seconds == pytest.approx(2 * two.read_seconds)
    stored = found.padded * found.layers.step_bytes * found.steps
    alone = one.write_seconds - two.write_seconds  # half of what is shared
    assert one.write_seconds - 2 * alone == pytest.approx(3 * stored / RATES.read, rel=0.01)
    exported = stored / RATES.export + stored / RATES.read
    assert many.write_seconds == pytest.approx(3 * stored / RATES.read + exported / 20, rel=0.01)
    assert seconds(1000, cores=4).write_seconds == pytest.approx(3 * stored / RATES.read + exported / 4, rel=0.01)
    on_gpu = seconds(2, gpu="measured")
    assert on_gpu.predict_seconds == one.predict_seconds
    assert on_gpu.read_seconds == two.read_seconds
    assert "is none here" in one.gpu
    assert "is none" not in seconds(1, gpu="unused").gpu


def test_a_year_that_is_too_large_for_a_file_has_one_for_each_month():
    assert size("iowa", 0.1).files == 20
    assert size("conus", 250.0, metres=True).files == 240


def test_a_running_cluster_says_how_many_threads_it_has():
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=3, processes=False, **quiet) as cluster:
        assert lanes_of(Executor(7, 7, cluster.scheduler_address)) == (6, 2)
    assert lanes_of(Executor(2, 4)) == (8, 2)


def test_each_lane_holds_a_unit_and_waste_is_read_too():
    found = size("iowa", 0.1)
    one, two = (estimate(found, RATES, lanes, (10, 8), 128, 128) for lanes in (1, 2))
    assert two.memory_bytes - one.memory_bytes > 2 * found.tile * 366 * 4 * 18
    wasteful = estimate(replace(found, reading=16.0), RATES, 1, (10, 8), 128, 128)
    assert wasteful.bytes_read == 16 * one.bytes_read


def test_a_slow_model_is_measured_over_fewer_steps(monkeypatch):
    monkeypatch.setattr(speed, "_MOST_SECONDS", 0.1)
    inputs, seen = SimpleNamespace(forcings=["vpd"], static=[], classes=[]), []

    def predict(places, blend):
        seen.append(len(places.time))
        time.sleep(len(places.time) * 1e-3)

    spec = SimpleNamespace(inputs=inputs, step="daily")
    slow = SimpleNamespace(checkpoint=SimpleNamespace(spec=spec), predict=predict)
    rate = speed.measure_rate(slow, calendar("2001-01-01", pd.Timestamp("2001-12-31"), "daily"))
    assert max(seen) <= 100
    assert rate == pytest.approx(BLOCK / 1e-3, rel=0.3)
