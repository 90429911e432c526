"""The simulated year of deliveries: all stories are told, and at last the cube is the world's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import xarray as xr

from fluxgrid.data.cube import open_cube
from fluxgrid.data.cube.grow import delivery_status, grow
from fluxgrid.data.cube.growth import CubePlan
from fluxgrid.geo.grid import Grid
from fluxgrid.simulation import build_world
from fluxgrid.simulation.deliveries import Scenario, play
from fluxgrid.sources.deliveries import DeliverySource, look

NAMES = ("temperature_2m", "precipitation", "shortwave")
STREAMS = (NAMES[:2], NAMES[2:])
WINDOW = 90


@pytest.fixture(scope="session")
def world_of_a_year(tmp_path_factory):
    """Return weather and soil of few cells and one year; what a satellite sees would take the process model."""
    grid = Grid.from_bounds((-88.0, -86.25, 41.5, 42.75), 0.25)  # with cells of the lake
    path = tmp_path_factory.mktemp("world") / "world.zarr"
    return build_world(grid, "2018-01-01", "2018-12-31", path, [*NAMES, "soc"])


@pytest.mark.parametrize("seed", range(8))
def test_a_year_is_that_of_its_seed_and_tells_what_it_must(seed):
    year = Scenario(seed, 365, STREAMS, lost=1)
    weeks = year.weeks()
    assert weeks == Scenario(seed, 365, STREAMS, lost=1).weeks()
    assert weeks != Scenario(seed + 1, 365, STREAMS, lost=1).weeks()
    events = [event for week in weeks for event in week]
    assert {"on time", "last", "revised at last", "preliminary"} <= {event.story for event in events}
    revised = [event for event in events if event.story == "revised at last"]
    assert [event.true for event in revised] == [False, True]
    assert (revised[1].week - revised[0].week) * 7 > WINDOW  # longer ago than anybody looks back
    assert revised[0].name == revised[1].name
    ends = Counter()
    for event in events:
        if event.status == "final" and event.true and event.damage == "none" and not event.gone:
            ends.update((name, day) for name in event.variables for day in range(event.first, event.stop))
    lost = {(name, int(day)) for name, days in year.lost_days().items() for day in days}
    assert lost
    assert set(ends) | lost == {(name, day) for name in NAMES for day in range(365)}
    assert not set(ends) & lost
    assert set(ends.values()) == {1}


def test_all_stories_are_told_in_some_year():
    told = {event.story for seed in range(4) for week in Scenario(seed, 365, STREAMS).weeks() for event in week}
    assert told >= {"late", "revised", "revised in place", "truncated", "flipped", "copied"}


def year_of(seed, world, folder):
    """Grow a cube through a year; return its path and all that was seen."""
    cube = xr.open_zarr(world).load()
    source, plan = DeliverySource(str(folder / "in"), settle=0), CubePlan(NAMES, "2018-01-01", base=None)
    seen = Counter()
    for events in Scenario(seed, 365, STREAMS).weeks():
        play(events, cube, folder / "in")
        found = look(source, folder / "state.json")
        seen.update(waiting=len(found.waiting), damaged=len(found.damaged), gone=len(found.gone))
        if not found.deliveries:
            continue
        growth = grow(folder / "cube.zarr", found.deliveries, plan)
        seen.update(revised=sum(map(len, growth.revised.values())), new=sum(map(len, growth.new.values())))
        seen.update(provisional=bool(growth.provisional), refused=len(growth.refused))
    return folder / "cube.zarr", seen


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_a_grown_year_is_the_world_s_own_cube(world_of_a_year, tmp_path, seed):
    path, seen = year_of(seed, world_of_a_year, tmp_path)
    ours, world = open_cube(path), open_cube(world_of_a_year)
    for name in NAMES:
        np.testing.assert_array_equal(ours[name].values.view(np.uint32), world[name].values.view(np.uint32))
        assert ours[name].attrs["units"] == world[name].attrs["units"]
    np.testing.assert_array_equal(ours.y, world.y)
    np.testing.assert_array_equal(ours.x, world.x)
    assert ours.indexes["time"].equals(world.indexes["time"])
    assert (delivery_status(path) == 2).all()
    assert seen["new"] == 3 * 365
    assert seen["refused"] == 0
    assert seen["waiting"]
    assert seen["revised"]
    assert seen["provisional"]
