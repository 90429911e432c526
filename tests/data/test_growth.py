"""Who may make a cube grow and when, from where it begins, and what it says of its inputs."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fluxgrid.config_map import SourceConfig
from fluxgrid.data.cube.grow import grow, growth_folder, is_grown
from fluxgrid.data.cube.growth import CubePlan
from fluxgrid.errors import OutputError, RunLocked
from fluxgrid.locks import held
from fluxgrid.netcdf import save_netcdf
from fluxgrid.sources.deliveries import DeliverySource, look
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.workflows import refresh_source
from fluxgrid.workflows.refresh_source import drift_findings, grow_cube

NAMES = ("temperature_2m", "shortwave")
CUBE = small_cube(periods=30)
PLAN = CubePlan(NAMES, "2019-01-01")


class Region:
    """A folder of deliveries, and a cube that grows by them."""

    def __init__(self, folder):
        self.folder, self.cube, self.state = folder / "in", folder / "cube.zarr", folder / "state.json"
        self.folder.mkdir()

    def drop(self, name, cube=CUBE, days=slice(None), when=None, **attrs):
        part = cube[list(NAMES)].isel(time=days)
        part.attrs |= {"status": "final", "date_created": "2019-06-01"} | attrs
        save_netcdf(part, self.folder / name)
        if when is not None:
            seconds = np.datetime64(when, "s").astype(int)
            os.utime(self.folder / name, (seconds, seconds))

    def seen(self):
        return look(DeliverySource(str(self.folder), settle=0), self.state)

    def grow(self, plan=PLAN, **options):
        return grow(self.cube, self.seen().deliveries, plan, **options)

    def opened(self):
        with xr.open_zarr(self.cube) as cube:
            return cube.load()


@pytest.fixture
def region(tmp_path):
    return Region(tmp_path)


def test_one_process_at_a_time_grows_a_cube(region):
    region.drop("a.nc", days=slice(0, 10))
    region.grow()
    before = region.opened()
    region.drop("b.nc", days=slice(10, 20))
    with (
        held(growth_folder(region.cube), None, str),
        pytest.raises(RunLocked, match=r"Another process grows .*cube\.zarr"),
    ):
        region.grow()
    xr.testing.assert_identical(region.opened(), before)
    assert region.grow().new


def test_a_growth_that_found_nothing_leaves_a_cube_of_others_one(region):
    write_cube(CUBE, region.cube)
    region.drop("a.nc")
    with pytest.raises(Exception, match="cannot grow: its ledger"):
        region.grow()
    assert not is_grown(region.cube)


def test_cubes_of_one_folder_grow_apart():
    names = [growth_folder(f"/d/{name}") for name in ("era5", "era5.zarr", "era5.v1", "era5.v2")]
    assert len(set(names)) == 4


def packed(scale):
    """Return the cube with a temperature packed as whole numbers."""
    cube = CUBE.copy().drop_encoding()
    cube["temperature_2m"].encoding = {"dtype": "i2", "scale_factor": scale, "add_offset": 5.0, "_FillValue": -32767}
    return cube


def test_a_file_that_is_packed_by_itself_is_described_no_otherwise(region):
    region.drop("a.nc", packed(0.001), slice(0, 10))
    region.grow()
    region.drop("b.nc", packed(0.0011), slice(10, 20))
    assert drift_findings(region.grow()) == []


def test_what_is_described_otherwise_is_shown_before_and_after(region):
    region.drop("a.nc", days=slice(0, 10), day_definition="UTC")
    region.grow()
    other = CUBE.copy()
    other["shortwave"].attrs |= {"cell_methods": "time: mean"}
    region.drop("b.nc", other, slice(10, 20), day_definition="local")
    told = {finding.text.split()[0]: str(finding) for finding in drift_findings(region.grow())}
    assert "day_definition UTC before, day_definition local after" in told["temperature_2m"]
    assert "day_definition local, cell_methods time: mean after" in told["shortwave"]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_outside_every_range(region, value):
    region.drop("a.nc", CUBE.assign(shortwave=CUBE.shortwave.where(CUBE.time != CUBE.time[3], value)))
    drift = {part.after.name: part for part in region.grow().drift}
    assert [name for name in NAMES if drift[name].outside] == ["shortwave"]
    assert drift["shortwave"].after.missing == 0


@pytest.mark.parametrize(
    ("first", "days", "lacking", "begins"),
    [
        ("2017-07-01", 549, (), "2018-01-01"),  # one year is whole, half a year before it is not
        ("2016-01-01", 1096, (), "2017-01-01"),  # no more than are asked for
        ("2017-01-01", 729, (), "2019-01-01"),  # the last day before the map is missing
        ("2017-01-01", 730, ("shortwave",), "2019-01-01"),
        ("2017-01-01", 10, NAMES, "2019-01-01"),  # land and soil alone
    ],
)
def test_spin_up_begins_as_early_as_the_base_gives_all_of_it(region, tmp_path, first, days, lacking, begins):
    base = small_cube(start=first, periods=days)
    write_cube(base.drop_vars(list(lacking)), tmp_path / "base.zarr")
    config = SourceConfig(location=str(region.folder), base=str(tmp_path / "base.zarr"))
    region.drop("a.nc", days=slice(0, 10))
    grow_cube(config, region.cube, region.seen(), NAMES, date(2019, 1, 1), 2)
    cube = region.opened()
    assert str(cube.time.values[0])[:10] == begins
    before = cube.sel(time=slice(None, "2018-12-31"))
    assert not any(np.isnan(before[name]).any() for name in NAMES)
    region.drop("b.nc", days=slice(10, 20))
    (tmp_path / "base.zarr").rename(tmp_path / "elsewhere.zarr")  # it is not asked again
    assert grow_cube(config, region.cube, region.seen(), NAMES, date(2019, 1, 1), 2).new


def test_a_base_may_be_elsewhere(region, monkeypatch):
    plans = []
    monkeypatch.setattr(refresh_source, "grow", lambda *args: plans.append(args[2]))
    region.drop("a.nc", days=slice(0, 10))
    for base in ("s3://bucket/base.zarr", "~/base.zarr"):
        config = SourceConfig(location=str(region.folder), base=base)
        grow_cube(config, region.cube, region.seen(), NAMES, date(2019, 1, 1), 0)
    assert [plan.base for plan in plans] == ["s3://bucket/base.zarr", str(Path.home() / "base.zarr")]


def test_what_changed_is_told_until_it_is_kept(region):
    def full(_):
        raise OutputError("the disk is full")

    region.drop("a.nc", days=slice(0, 10))
    region.grow()
    region.drop("b.nc", CUBE.assign(shortwave=CUBE.shortwave * 100), slice(10, 20))
    with pytest.raises(OutputError, match="the disk is full"):
        region.grow(remember=full)
    told = []
    assert region.grow(remember=told.append).new  # the growth that was finished
    assert [part.after.name for part in told[0].drift if part.outside] == ["shortwave"]
    region.grow(remember=told.append)
    assert len(told) == 1
