"""A year delivered week by week, late, revised, preliminary, torn: refreshes end where one over all of it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.errors import ConfigError, CubeError, OutputError, PublicationStopped
from fluxgrid.geo.grid import Grid
from fluxgrid.netcdf import open_netcdf, save_netcdf
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.output.flags import Quality
from fluxgrid.simulation import build_world
from fluxgrid.simulation.deliveries import Event, Scenario, play
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.workflows import refresh_run
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed, Request

NAMES, STATICS = ("temperature_2m", "precipitation", "shortwave"), ("crop_fraction", "forest_fraction", "climate_group")
STREAMS = (NAMES[:2], NAMES[2:])
WINDOW = 90
"""Days that a server is asked about again."""
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
        values: dict[str, Any] = {"region": "-97,41,-88.5,42", "model": str(self.model), "threads": 1}
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
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


@pytest.fixture(scope="module")
def reference_world(tmp_path_factory) -> Path:
    """Two years of the reference world across Iowa; two tiles."""
    grid = Grid.from_bounds((-97.0, -88.5, 41.0, 42.0), 0.25)
    path = tmp_path_factory.mktemp("reference") / "world.zarr"
    return build_world(grid, "2018-01-01", "2019-12-31", path, [*NAMES, *STATICS])


@pytest.fixture
def make(tmp_path, world, reference_world):
    """Return a function that makes a region of one model; regions share their deliveries and the year before them."""
    base = xr.open_zarr(reference_world).sel(time="2018").load()
    for array in base.data_vars.values():
        array.attrs.pop("grid_mapping", None)
    write_cube(base, tmp_path / "base.zarr")

    def made(name: str, model: str) -> Delivered:
        return Delivered(tmp_path / name, getattr(world, model), tmp_path / "base.zarr", tmp_path / "incoming")

    return made


@pytest.fixture
def reading():
    """Return a context with a reader beside it: a process that polls until the end, whose counts are filled in then."""

    @contextmanager
    def read(out: Path) -> Iterator[dict[str, Any]]:
        command = [sys.executable, str(Path(__file__).with_name("archive_reader.py")), str(out)]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        told: dict[str, Any] = {}
        with subprocess.Popen(command, text=True, **pipes) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield told
                told |= json.loads(process.communicate(timeout=120)[0])
            finally:
                process.kill()

    return read


def story_of(events: Sequence[Event], scenario: Scenario) -> dict[str, int]:
    """Count what happens in a year."""
    files = [event for event in events if not event.gone]
    revised = [event for event in files if event.story.startswith("revised") and event.true]
    return {
        "files": len(files),
        "late": sum(event.story in ("late", "last") for event in files),
        "revised": len(revised),
        "revised after more than 90 days": sum(7 * (event.week + 1) - event.stop > WINDOW for event in revised),
        "preliminary": sum(event.status == "provisional" for event in files),
        "corrupt": sum(event.damage != "none" for event in files),
        "days that never come": sum(map(len, scenario.lost_days().values())),
    }


@pytest.mark.parametrize(
    ("model", "weeks", "days", "lost"),
    [
        ("lightgbm", 8, 58, 0),
        *(pytest.param(model, 52, 365, 1, marks=pytest.mark.slow) for model in ("lightgbm", "ct_gru")),
    ],
)
def test_week_by_week_ends_where_one_refresh_does(make, reference_world, reading, model, weeks, days, lost, capsys):
    """A reader polls all the while."""
    cube = xr.open_zarr(reference_world).sel(time="2019").isel(time=slice(days)).load()
    scenario = Scenario(11, days, STREAMS, lost, weeks)
    region, marked, ends, seconds, met = make("weekly", model), 0, [""], [], Counter()
    with reading(region.folder / "out") as told:
        for events in scenario.weeks():
            play(events, cube, region.incoming)
            begun = time.process_time()
            try:
                done = region.refresh()
            except (ConfigError, CubeError):  # before both streams have come there is nothing to map
                assert not ends[-1]
                continue
            seconds.append(time.process_time() - begun)
            version = region.archive.newest()
            assert version.covered >= ends[-1]
            ends.append(version.covered)
            marked += int(((region.maps()["quality_flag"].values & Quality.PROVISIONAL) != 0).sum())
            met.update(_met(done))
    once = make("once", model)
    once.refresh()
    assert_same(region, once)
    ours = region.maps()
    assert marked
    assert not (ours["quality_flag"].values & Quality.PROVISIONAL).any()
    absent = np.unique(np.concatenate([[], *scenario.lost_days().values()])).astype(int)
    known = np.isfinite(ours["nee"][:days]).any(("y", "x")).values
    assert np.flatnonzero(~known).tolist() == absent.tolist()
    assert ends[-1] == str(np.datetime64("2019-01-01") + days)
    assert region.refresh().status == "up to date"
    assert told["problems"] == []
    assert told["versions"][-1] == told["latest"][-1] == region.archive.newest().id
    story = story_of([event for events in scenario.weeks() for event in events], scenario)
    assert all(story.values()) or weeks < 52
    with capsys.disabled():
        print(
            f"\n{model}: {len(seconds)} refreshes, {np.median(seconds):.2f} s each, {max(seconds):.2f} s at most "
            f"(processor); the source had {story}; refreshes met {dict(met)}; a reader polled {told['polls']} times, "
            f"read {told['values']} values in {len(told['versions'])} of {region.archive.newest().id} versions and "
            f"{told['files']} files of {len(told['latest'])}: 0 inconsistent"
        )


def _met(done: Refreshed) -> Counter[str]:
    """Count what a refresh found."""
    if not done.report:
        return Counter({done.status: 1})
    texts, inputs = done.report["warnings"], done.report.get("inputs", {})  # none where nothing was new
    words = {"waiting": " waits: ", "damaged": " is damaged ", "gone": " is gone ", "missing": " is missing on "}
    found = Counter({key: sum(word in text for text in texts) for key, word in words.items()})
    found += Counter({done.status: 1} if done.status == "up to date" else {})
    return found + Counter({f"with {key} days": 1 for key in ("new", "revised", "provisional") if inputs.get(key)})


def assert_same(one: Delivered, other: Delivered) -> None:
    """Assert that two archives hold the same, bit for bit: values, flags, keys, and the files beside them."""
    ours, theirs = one.maps(), other.maps()
    assert ours.data_vars.keys() == theirs.data_vars.keys()
    for name in ours.data_vars:
        np.testing.assert_array_equal(ours[name].values, theirs[name].values, strict=True)
    units = [{name: (u.key, u.digest) for name, u in region.archive.units().items()} for region in (one, other)]
    assert units[0] == units[1]
    tables = [sorted((region.folder / "out" / "latest").glob("*_totals.csv")) for region in (one, other)]
    assert [path.read_bytes() for path in tables[0]] == [path.read_bytes() for path in tables[1]]
    assert tables[0]
    files = [sorted((region.folder / "out" / "latest").glob("*.nc")) for region in (one, other)]
    for paths in zip(*files, strict=True):
        with open_netcdf(paths[0]) as left, open_netcdf(paths[1]) as right:
            xr.testing.assert_equal(left, right)


def test_preliminary_days_are_marked_until_final_ones_come(make, reference_world):
    cube, region = first_days(reference_world), make("one", "lightgbm")
    region.incoming.mkdir()
    for name, days, status in (("a.nc", slice(0, 12), "final"), ("b.nc", slice(12, 20), "provisional")):
        drop(cube.isel(time=days), region.incoming / name, status)
    region.refresh()
    before = region.maps()
    marked = ((before["quality_flag"] & Quality.PROVISIONAL.value) != 0).any(("y", "x")).values
    assert np.flatnonzero(marked).tolist() == list(range(12, 20))
    drop(cube.isel(time=slice(12, 20)), region.incoming / "b_final.nc", "final")
    done = region.refresh()
    assert done.report["why"] == {"provisional days": 2}
    after = region.maps()
    assert not (after["quality_flag"] & Quality.PROVISIONAL.value).any()
    np.testing.assert_array_equal(before["nee"].values, after["nee"].values)


def test_a_unit_that_changes_stops_the_publication_until_it_is_allowed(make, reference_world):
    cube, region = first_days(reference_world), make("one", "lightgbm")
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


def test_damaged_deliveries_are_told_once_while_nothing_else_is_new(make, reference_world, tmp_path):
    cube, region = first_days(reference_world), make("one", "lightgbm")
    region.incoming.mkdir()
    drop(cube.isel(time=slice(0, 12)), region.incoming / "a.nc", "final")
    settings = {"source": {"location": str(region.incoming), "base": str(region.base), "settle": 0}}
    settings |= {"on_failure": ["sh", "-c", f'echo "$FLUXGRID_REPORT" >> {tmp_path}/told'], "guards": PATIENT}
    region.refresh(refresh=settings)
    (region.incoming / "b.nc").write_bytes(b"garbage")
    seen = [region.refresh(refresh=settings) for _ in range(3)]
    assert [done.status for done in seen] == ["up to date"] * 3
    assert ["b.nc waits" in done.report["warnings"][0] for done in seen] == [True, False, False]
    assert ["b.nc is damaged" in done.report["warnings"][0] for done in seen] == [False, True, True]
    assert [bool(done.files) for done in seen] == [False, True, False]  # what waits for a moment is no news
    assert (tmp_path / "told").read_text().split() == [str(seen[1].files[0])]
    (region.incoming / "b.nc").unlink()
    assert "b.nc" not in str(region.refresh(refresh=settings).report.get("warnings", [])[1:])
    assert region.refresh(refresh=settings).report == {}


@pytest.mark.parametrize("where", ["export_version", "write_state"])  # both follow the commit
def test_a_guard_that_was_allowed_does_not_speak_again_because_files_failed(make, reference_world, monkeypatch, where):
    cube, region = first_days(reference_world), make("one", "lightgbm")
    region.incoming.mkdir()
    other = cube.copy()
    other["temperature_2m"].attrs |= {"cell_methods": "time: mean"}
    drop(cube.isel(time=slice(0, 12)), region.incoming / "a.nc", "final")
    drop(other.isel(time=slice(12, 20)), region.incoming / "b.nc", "final")

    plain = refresh_run.write_state

    def full(*args, **values):
        if values.get("pending"):  # what the growth says, before the commit
            return plain(*args, **values)
        raise OutputError("the disk is full")

    with pytest.raises(PublicationStopped, match="cell_methods time: mean after"):
        region.refresh()
    with monkeypatch.context() as patched:
        patched.setattr(refresh_run, where, full)
        with pytest.raises(OutputError):
            region.refresh("inputs")
    later = other.isel(time=slice(12, 20))
    later["shortwave"] = (later["shortwave"] + 0.1).assign_attrs(later["shortwave"].attrs)
    drop(later, region.incoming / "b.nc", "final")
    assert region.refresh().status == "published"


def test_a_resolution_is_refused_before_a_cube_grows(make, reference_world):
    cube, region = first_days(reference_world), make("one", "lightgbm")
    region.incoming.mkdir()
    drop(cube, region.incoming / "a.nc", "final")
    with pytest.raises(ConfigError, match=r"resolution: 0.5 is for the synthetic world"):
        region.refresh(resolution=0.5)
    assert not list(region.folder.rglob("*.growth"))


def test_a_monthly_model_is_refused_before_a_cube_grows(make, reference_world, tools):
    cube, region = first_days(reference_world), make("one", "lightgbm")
    region.incoming.mkdir()
    drop(cube, region.incoming / "a.nc", "final")
    months = small_cube("monthly", (44, 57), "2019-01-01", 36)
    model = tools["write_model"](region.folder / "monthly", months, tools["spec_of"]("lightgbm", "monthly"))
    with pytest.raises(ConfigError, match=r"A cube grows day by day, and the model .* takes monthly inputs"):
        region.refresh(model=str(model))
    assert not (region.folder / "out" / "cube.zarr").exists()


def first_days(world: Path) -> xr.Dataset:
    """Return 20 days of the reference world."""
    cube = xr.open_zarr(world).sel(time=slice("2019-01-01", "2019-01-20")).load().drop_encoding()
    for array in cube.data_vars.values():
        array.attrs.pop("grid_mapping", None)
        array.encoding["grid_mapping"] = "spatial_ref"
    return cube


def drop(cube: xr.Dataset, path: Path, status: str) -> None:
    """Write a delivery."""
    days = cube[[name for stream in STREAMS for name in stream]]
    days.attrs |= {"status": status, "date_created": f"2019-02-0{1 + (status == 'final')}"}
    save_netcdf(days, path)
