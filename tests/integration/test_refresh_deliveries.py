"""A year delivered week by week, late, revised, preliminary, torn: refreshes end where one over all of it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.errors import ConfigError, CubeError, PublicationStopped
from fluxgrid.output.archive import Archive
from fluxgrid.output.flags import Quality
from fluxgrid.simulation.deliveries import Scenario, play
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling import export
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed, Request

STREAMS = (("temperature_2m", "precipitation"), ("shortwave",))
PATIENT = {"missing_jump": 1.0, "totals_move": 10.0}  # late weeks are missing for a while: this region accepts it


@dataclass(frozen=True)
class Delivered:
    """A folder of deliveries and what grows from it."""

    folder: Path
    model: Path
    base: Path
    incoming: Path

    def refresh(self, *allow: str, **changes: Any) -> Refreshed:
        source = {"location": str(self.incoming), "base": str(self.base), "settle": 0}
        values: dict[str, Any] = {"region": "-94,41.2,-93,41.8", "model": str(self.model), "threads": 1}
        values |= {"out": str(self.folder / "out"), "start": "2019-01-01", "max_missing": 1.0}
        values["refresh"] = {"source": source, "guards": PATIENT}
        return refresh(load_config(UpscaleConfig, None, values | changes), Request(allow))

    @property
    def archive(self) -> Archive:
        return Archive.open(self.folder / "out" / "archive")

    def maps(self) -> xr.Dataset:
        return self.archive.years()[2019].load()


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(export, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


@pytest.fixture
def make(tmp_path, world):
    """Return a function that makes a region of one model; regions share their deliveries."""
    base = small_cube(start="2019-01-01", periods=10)
    base = base.drop_vars([name for name, v in base.data_vars.items() if v.ndim == 3 and name != "vpd"])
    write_cube(base, tmp_path / "base.zarr")

    def made(name: str, model: str) -> Delivered:
        return Delivered(tmp_path / name, getattr(world, model), tmp_path / "base.zarr", tmp_path / "incoming")

    return made


@pytest.mark.parametrize(
    ("model", "weeks", "days"),
    [("lightgbm", 8, 58), pytest.param("ct_gru", 52, 365, marks=pytest.mark.slow)],
)
def test_week_by_week_ends_where_one_refresh_does(make, model, weeks, days):
    cube, scenario = small_cube(start="2019-01-01", periods=days), Scenario(11, days, STREAMS, number=weeks)
    region, marked, ends = make("weekly", model), 0, [""]
    for events in scenario.weeks():
        play(events, cube, region.incoming)
        try:
            region.refresh()
        except (ConfigError, CubeError):  # before both streams have come there is nothing to map
            assert not ends[-1]
            continue
        version = region.archive.newest()
        assert version.covered >= ends[-1]
        ends.append(version.covered)
        marked += int(((region.maps()["quality_flag"].values & Quality.PROVISIONAL) != 0).sum())
    once = make("once", model)
    once.refresh()
    ours, theirs = region.maps(), once.maps()
    for name in ours.data_vars:
        np.testing.assert_array_equal(ours[name].values, theirs[name].values, strict=True)
    assert marked
    assert not (ours["quality_flag"].values & Quality.PROVISIONAL).any()
    assert np.isfinite(ours["nee"][:days]).any(("y", "x")).all()
    assert ends[-1] == str(np.datetime64("2019-01-01") + days)
    assert region.refresh().status == "up to date"


def test_preliminary_days_are_marked_until_final_ones_come(make):
    cube, region = small_cube(start="2019-01-01", periods=20), make("one", "lightgbm")
    region.incoming.mkdir()
    for name, days, status in (("a.nc", slice(0, 12), "final"), ("b.nc", slice(12, 20), "provisional")):
        drop(cube.isel(time=days), region.incoming / name, status)
    region.refresh()
    before = region.maps()
    marked = ((before["quality_flag"] & Quality.PROVISIONAL.value) != 0).any(("y", "x")).values
    assert np.flatnonzero(marked).tolist() == list(range(12, 20))
    drop(cube.isel(time=slice(12, 20)), region.incoming / "b_final.nc", "final")
    done = region.refresh()
    assert done.report["why"] == {"provisional days": 1}
    after = region.maps()
    assert not (after["quality_flag"] & Quality.PROVISIONAL.value).any()
    np.testing.assert_array_equal(before["nee"].values, after["nee"].values)


def test_a_unit_that_changes_stops_the_publication_until_it_is_allowed(make):
    cube, region = small_cube(start="2019-01-01", periods=20), make("one", "lightgbm")
    region.incoming.mkdir()
    drop(cube.isel(time=slice(0, 12)), region.incoming / "a.nc", "final")
    region.refresh()
    other = cube.isel(time=slice(12, 20)).copy()
    other["temperature_2m"] = (other["temperature_2m"] + 273.15).assign_attrs(units="K")
    drop(other, region.incoming / "b.nc", "final")
    for _ in range(2):  # the cube has grown at the first time: the guard does not forget
        with pytest.raises(PublicationStopped, match=r"inputs: temperature_2m .*units (degC|K)"):
            region.refresh()
    assert region.refresh("inputs").status == "published"


def drop(cube: xr.Dataset, path: Path, status: str) -> None:
    """Write a delivery."""
    days = cube[[name for stream in STREAMS for name in stream]]
    days.attrs |= {"status": status, "date_created": f"2019-02-0{1 + (status == 'final')}"}
    days.to_netcdf(path)
