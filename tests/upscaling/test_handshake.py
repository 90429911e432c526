"""What cube, model, region and period may disagree on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.data.gaps import GapRule
from fluxgrid.data.inputs import InputSpec
from fluxgrid.errors import IncompatibleCube
from fluxgrid.geo.region import find_region
from fluxgrid.models import ModelSpec
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling.handshake import shake_hands

REGION = find_region("-93.6,41.3,-93.4,41.6")
EXACT = {"window_mode": "exact"}
SPEC = ModelSpec("m", "lightgbm", {}, "daily", InputSpec(("temperature_2m", "vpd"), ("crop_fraction",)), 0, "UTC")


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubes")
    return open_cube(write_cube(small_cube(periods=800, start="2018-01-01"), folder / "daily.zarr"))


@pytest.fixture(scope="module")
def monthly(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubes")
    return open_cube(write_cube(small_cube("monthly", periods=30, start="2018-01-01"), folder / "monthly.zarr"))


def day(text: str) -> pd.Timestamp:
    return pd.Timestamp(text)


def test_all_of_the_cube_by_default(cube):
    agreed = shake_hands(cube, SPEC, REGION, None, None)
    assert agreed.grid.shape == (3, 2)
    row, col = agreed.origin
    assert np.array_equal(agreed.grid.y, grid_of(cube).y[row : row + 3])
    assert np.array_equal(agreed.grid.x, grid_of(cube).x[col : col + 2])
    assert [len(agreed.time[s.steps]) for s in agreed.segments] == [365, 365, 70]
    assert agreed.warnings == ()


@pytest.mark.parametrize(("start", "recycled"), [("2019-01-01", 0), ("2018-06-01", 1), ("2018-01-01", 1)])
def test_spin_up_from_the_cube_or_recycled(cube, start, recycled):
    agreed = shake_hands(cube, replace(SPEC, spin_up_years=1), REGION, day(start), day("2019-12-31"))
    assert sum(s.recycled for s in agreed.segments) == recycled
    assert len(agreed.warnings) == recycled


@pytest.mark.parametrize(
    ("start", "settings", "gaps", "lengths", "told"),
    [
        ("2019-01-01", EXACT, {}, [29], ""),
        ("2018-02-01", EXACT, {}, [29], ""),  # a month is all that counts
        ("2018-01-15", EXACT, {}, [29], "steps 337 to 365 of the period are run once more"),
        ("2019-01-01", {"window_mode": "stream"}, {}, [365], ""),
        ("2019-01-01", EXACT, {"vpd": GapRule(2, harmonics=1)}, [365], ""),  # filled by the season of the years before
    ],
)
def test_of_windows_the_steps_that_they_reach_are_all_the_spin_up(cube, start, settings, gaps, lengths, told):
    inputs = replace(SPEC.inputs, gaps=gaps)
    spec = replace(SPEC, kind="gru", settings=settings, spin_up_years=1, inputs=inputs)
    agreed = shake_hands(cube, spec, REGION, day(start), day("2019-12-31"))
    assert [len(agreed.time[s.steps]) for s in agreed.segments if not s.scored] == lengths
    assert len(agreed.warnings) == bool(told)
    assert told in " ".join(agreed.warnings)


def test_fluxes_that_do_not_add_up_make_no_map(cube):
    with pytest.raises(IncompatibleCube, match="closure: the model leaves NEE free"):
        shake_hands(cube, replace(SPEC, fluxes=("gpp", "reco", "nee"), closure="free"), REGION, None, None)


def test_every_disagreement_at_once(cube):
    spec = replace(SPEC, inputs=InputSpec(("lai", "temperature_2m"), ("sand",), ("koppen",)), step="monthly")
    with pytest.raises(IncompatibleCube) as caught:
        shake_hands(cube, spec, find_region("oregon"), day("2017-01-01"), day("2021-01-01"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "The cube and the model 'm' do not fit:"
    starts = [
        "variable 'lai'",
        "variable 'sand'",
        "variable 'koppen'",
        "time step",
        "period",
        "period",
        "region 'oregon'",
    ]
    assert [line.removeprefix("  - ").split(":")[0] for line in lines[1:]] == starts


def test_a_period_without_a_whole_month_is_refused(monthly):
    spec = replace(SPEC, step="monthly")
    with pytest.raises(IncompatibleCube, match="2019-03-02 to 2019-03-30 holds no whole monthly step"):
        shake_hands(monthly, spec, REGION, day("2019-03-02"), day("2019-03-30"))
    part = shake_hands(monthly, spec, REGION, day("2019-03-02"), day("2019-08-15"))  # neither March nor August is whole
    assert [str(part.time[s.steps][i].date()) for s in part.segments for i in (0, -1)] == ["2019-04-01", "2019-07-01"]
    agreed = shake_hands(monthly, spec, REGION, day("2019-03-01"), day("2019-12-31"))
    assert [str(agreed.time[s.steps][0].date()) for s in agreed.segments] == ["2019-03-01"]


def test_days_that_begin_elsewhere_are_told(cube):
    agreed = shake_hands(cube, replace(SPEC, day_definition="local standard time"), REGION, None, None)
    assert agreed.warnings == (
        "A day of the cube is in UTC, of the model in local standard time: days differ by hours.",
    )


def test_a_model_of_whole_years_tells_of_a_period_that_begins_inside_one(cube):
    spec = replace(SPEC, whole_year_from=298)
    assert shake_hands(cube, spec, REGION, day("2019-01-01"), None).warnings == ()
    (warning,) = shake_hands(cube, spec, REGION, day("2019-06-01"), None).warnings
    assert "begins on 2019-06-01, inside a year" in warning
    assert "from day 299 on" in warning


@pytest.mark.parametrize(("window", "mode", "fits"), [(13, "exact", True), (14, "exact", False), (30, "stream", True)])
def test_windows_must_not_look_back_beyond_the_spin_up(monthly, window, mode, fits):
    settings = {"window": window, "stride": 6, "window_mode": mode}
    spec = replace(SPEC, kind="lstm", settings=settings, step="monthly", spin_up_years=1)
    if fits:
        assert shake_hands(monthly, spec, REGION, day("2019-01-01"), None).warnings == ()
        return
    with pytest.raises(IncompatibleCube, match=r"window of 14 months .* looks back on 13, but 1 year\(s\) .* hold 12"):
        shake_hands(monthly, spec, REGION, day("2019-01-01"), None)


def test_a_cube_cut_for_maps_of_days_is_told_with_the_command(tmp_path):
    cube = small_cube(shape=(130, 130), periods=2)
    opened = open_cube(write_cube(cube, tmp_path / "map.zarr", chunks=(130, 130)))
    region = find_region("-98,36,-88,48")
    (warning,) = shake_hands(opened, SPEC, region, None, None, tile=32).warnings
    assert "tiles decode 23 times the bytes they need" in warning
    assert f"`fluxgrid cube rechunk {tmp_path / 'map.zarr'} map_tiles.zarr`" in warning
    assert shake_hands(opened, SPEC, region, None, None, tile=96).warnings == ()
