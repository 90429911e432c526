"""`fluxgrid refresh` from beginning to end: what is new, what is kept, what stops it, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.errors import (
    ConfigError,
    IncompleteMap,
    OutputError,
    OutputExists,
    PublicationStopped,
    RunLocked,
    SourceUnavailable,
    UnknownName,
)
from fluxgrid.geo.grid import Grid
from fluxgrid.netcdf import open_netcdf
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive, Difference
from fluxgrid.output.flags import Quality
from fluxgrid.output.layers import Layers
from fluxgrid.testing import small_cube
from fluxgrid.upscaling import export
from fluxgrid.upscaling.lock import locked
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed, Request

SHAPE, CENTRE = (35, 41), (-93.5, 41.8)  # four tiles: 32 x 32, 32 x 9, 3 x 32, 3 x 9
YEARS = 2019, 2020, 2021
MONTHS = 2 * 12 + 5
"""Of the cube: the last year has five months."""
FIRST, CORNER = "r0000c0000", "r0032c0032"


def write_years(cube: xr.Dataset, path: Path, side: int = 32) -> None:
    """Write a cube whose chunks hold three months, as many as a year looks into the next one to fill gaps."""
    cube = cube.drop_encoding()
    for array in cube.data_vars.values():
        array.encoding = {"chunks": (3, side, side)[-array.ndim :], "grid_mapping": "spatial_ref"}
    cube.to_zarr(path, zarr_format=3, consolidated=False)


@dataclass(frozen=True)
class Region:
    """A cube, models and a configuration that a test may harm."""

    folder: Path
    models: Path

    @property
    def cube(self) -> Path:
        return self.folder / "cube.zarr"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def archive(self) -> Archive:
        return Archive.open(self.out / "archive")

    def values(self, **changes: Any) -> dict[str, Any]:
        west, east, south, north = -95.5, -91.5, 40.1, 43.5
        values = {"region": f"{west},{south},{east},{north}", "cube": str(self.cube), "out": str(self.out)}
        return {**values, "model": str(self.models / "trees"), "threads": 1, **changes}

    def file(self, **changes: Any) -> Path:
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(self.values(**changes)))
        return path

    def refresh(self, *allow: str, tag: str | None = None, **changes: Any) -> Refreshed:
        return refresh(load_config(UpscaleConfig, str(self.file(**changes))), Request(allow, tag))

    def command(self, **changes: Any) -> list[str]:
        return [sys.executable, "-m", "fluxgrid", "refresh", str(self.file(**changes))]

    def write(self, months: int = MONTHS, change: Any = None, seed: int = 4) -> None:
        """Write the cube anew, with its first months, changed by a function."""
        cube = small_cube("monthly", SHAPE, "2019-01-01", 36, seed, CENTRE).isel(time=slice(0, months))
        if change is not None:
            change(cube)
        shutil.rmtree(self.cube, ignore_errors=True)
        write_years(cube, self.cube)


@pytest.fixture(scope="module")
def models(tools, tmp_path_factory) -> Path:
    """Two monthly models: trees, and a network that carries its state."""
    folder = tmp_path_factory.mktemp("models")
    cube = small_cube("monthly", (44, 57), "2019-01-01", 36, 4, CENTRE)
    for name, kind in (("trees", "lightgbm"), ("network", "ct_gru")):
        tools["write_model"](folder / name, cube, tools["spec_of"](kind, "monthly"))
    return folder


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch, request):
    """Leave pictures out, which take most of the time of a small refresh; one test draws them."""
    if not request.node.name.startswith("test_first_"):
        monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


@pytest.fixture
def region(models, tmp_path) -> Region:
    made = Region(tmp_path, models)
    made.write()
    return made


@pytest.fixture(scope="module")
def published(models, tmp_path_factory) -> Path:
    """A region that was refreshed once; to be copied."""
    made = Region(tmp_path_factory.mktemp("published"), models)
    made.write()
    patch = pytest.MonkeyPatch()
    patch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])
    made.refresh()
    patch.undo()
    return made.folder


@pytest.fixture
def standing(published, models, tmp_path) -> Region:
    """A region that was refreshed once, to change."""
    shutil.copytree(published, tmp_path / "region", symlinks=True)
    made = Region(tmp_path / "region", models)
    made.refresh()  # paths and times of the copy are others: it looks once more, and finds nothing
    assert len(made.archive.versions()) == 1
    return made


def maps_of(region: Region) -> dict[int, xr.Dataset]:
    """Return the newest maps in memory."""
    return {year: one.load() for year, one in region.archive.years().items()}


def assert_same(one: dict[int, xr.Dataset], other: dict[int, xr.Dataset]) -> None:
    """Assert that maps are the same bit for bit."""
    assert one.keys() == other.keys()
    for year, dataset in one.items():
        for name, values in dataset.data_vars.items():
            np.testing.assert_array_equal(values.values, other[year][name].values, strict=True)


# --- what is new -----------------------------------------------------------------------------------------------------


def test_first_refresh_publishes_whole_years_with_files_and_report(region):
    done = region.refresh(model=str(region.models / "network"), tag="first", start="2020-01-01")
    assert (done.status, done.report["version"], done.report["tag"]) == ("published", 1, "first")
    maps = maps_of(region)
    assert list(maps) == [2020, 2021]  # 2019 is spin-up
    assert len(maps[2021].time) == 12
    wanted = np.isfinite(maps[2020]["nee"][0].values)
    flags = maps[2021]["quality_flag"].values
    assert np.isfinite(maps[2021]["nee"][:5].values[:, wanted]).all()
    assert (flags[5:, wanted] & Quality.INPUT_MISSING).all()
    assert not (flags[:5, wanted] & Quality.INPUT_MISSING).any()
    assert region.archive.newest().covered == "2021-06-01"
    names = {path.name.rpartition("_")[2] for path in (region.out / "latest").iterdir()}
    assert {"2020.nc", "2021.nc", "totals.csv", "quicklook.png", "export.json"} <= names
    with open_netcdf(next((region.out / "latest").glob("*2021.nc"))) as file:
        np.testing.assert_array_equal(file["nee"].values, maps[2021]["nee"].values)
    row = json.loads(done.files[0].read_text())
    assert row["why"] == {"new": 4}
    assert row["computed"] == {"tiles": 4, "units": 12}
    assert row["totals"][0]["before_TgC"] is None
    assert "data:image/png;base64," in done.files[1].read_text()


def test_nothing_new_writes_nothing_and_imports_no_torch(standing, snapshot):
    before = snapshot(standing.folder)
    config = str(standing.folder / "run.yaml")
    code = (
        "import sys; from fluxgrid import cli; sys.argv = ['fluxgrid', 'refresh', sys.argv[1]]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{standing.out} is up to date.\n"), done.stderr
    assert snapshot(standing.folder) == before


def test_months_that_come_change_their_year_alone(standing):
    before = maps_of(standing)
    standing.write(MONTHS + 3)
    done = standing.refresh()
    assert done.report["why"] == {"inputs": 4}
    assert done.report["changed"] == {"2021": sorted(standing.archive.design.tiles)}
    assert done.report["computed"]["units"] == 4
    after = maps_of(standing)
    assert_same({y: before[y] for y in YEARS[:2]}, {y: after[y] for y in YEARS[:2]})
    assert np.isfinite(after[2021]["nee"]).any(("y", "x")).values.tolist() == [True] * 8 + [False] * 4
    assert standing.archive.newest().covered == "2021-09-01"
    linked = [(standing.out / "exports" / f"00000{n}").glob("*2019.nc") for n in (1, 2)]
    one, other = (next(files).stat().st_ino for files in linked)
    assert one == other


def test_many_refreshes_end_where_one_does(region, models, tmp_path):
    network = {"model": str(models / "network"), "start": "2020-01-01"}
    for months, change in ((15, None), (20, None), (29, lambda cube: _warm(cube, 13)), (36, None)):
        region.write(months, change)
        region.refresh("totals", "missing", **network)
    other = Region(tmp_path / "other", models)
    other.folder.mkdir()
    other.write(36)
    other.refresh(**network)
    assert len(region.archive.versions()) == 4
    assert_same(maps_of(region), maps_of(other))
    ours, theirs = region.archive.units(), other.archive.units()
    assert {name: (unit.key, unit.digest) for name, unit in ours.items()} == {
        name: (unit.key, unit.digest) for name, unit in theirs.items()
    }


def _warm(cube: xr.Dataset, month: int) -> None:
    """Change a month."""
    cube["temperature_2m"][month] += 1


def _rain(cube: xr.Dataset) -> None:
    """Change June 2020 of a corner; precipitation is not filled, so trees carry nothing of it."""
    cube["precipitation"][17, 33:, 33:] += 20


@pytest.mark.parametrize(("model", "units"), [("trees", 1), ("network", 2)])
def test_a_month_of_one_tile_is_computed_again_until_the_state_agrees(region, models, model, units):
    """Trees carry nothing: one year. A network carries its state: that year and the one after it."""
    settings = {"model": str(models / model)}
    region.refresh(**settings)
    before = maps_of(region)
    region.write(change=_rain)
    done = region.refresh(**settings)
    assert done.report["computed"] == {"tiles": 1, "units": units}
    assert done.report["changed"] == {str(year): [CORNER] for year in (2020, 2021)[:units]}
    assert region.archive.changed() == tuple((CORNER, year) for year in (2020, 2021)[:units])
    after = maps_of(region)
    assert_same({2019: before[2019]}, {2019: after[2019]})
    changed = np.zeros(before[2020]["nee"].shape[1:], bool)
    for name in ("nee", "gpp", "reco"):
        changed |= (before[2020][name].values != after[2020][name].values)[:, ...].any(0) & np.isfinite(
            after[2020][name][0]
        )
    assert not changed[:32].any()
    assert not changed[:, :32].any()
    assert changed.any()


def test_another_model_is_computed_everywhere(standing, models, tools):
    cube = small_cube("monthly", (44, 57), "2019-01-01", 36, 9, CENTRE)
    other = tools["write_model"](standing.folder / "other", cube, tools["spec_of"]("lightgbm", "monthly"))
    done = standing.refresh("totals", model=str(other))
    assert done.report["why"] == {"model or settings": 4}
    assert done.report["computed"]["units"] == 12


@pytest.mark.slow
def test_values_that_come_out_the_same_are_published_with_their_new_keys(standing):
    """A cube that is written in other chunks has other bytes and the same values."""
    cube = small_cube("monthly", SHAPE, "2019-01-01", 36, 4, CENTRE).isel(time=slice(0, MONTHS))
    shutil.rmtree(standing.cube)
    write_years(cube, standing.cube, 16)
    standing.refresh()
    found = standing.archive.diff(1, 2)
    assert not found.values
    assert len(found.keys) == 12


def test_a_cube_elsewhere_is_looked_into_each_time(standing, monkeypatch):
    """As of a store behind a URL nothing is known of its files."""
    for module in ("refresh", "refresh_run"):
        monkeypatch.setattr(f"fluxgrid.workflows.{module}.cube_state", lambda _: "")
    standing.write(MONTHS + 1)
    assert [standing.refresh().status for _ in range(2)] == ["published", "up to date"]
    standing.write(MONTHS + 2)
    assert standing.refresh().status == "published"


# --- guards ----------------------------------------------------------------------------------------------------------


def _holes(cube: xr.Dataset) -> None:
    cube["precipitation"][13:15, 5:20, 5:20] = np.nan


def _sun(cube: xr.Dataset) -> None:
    cube["shortwave"][12:24] *= 0.3
    cube["temperature_2m"][12:24] -= 12


def _name(cube: xr.Dataset) -> None:
    cube["shortwave"].attrs["long_name"] = "something else"


@pytest.mark.parametrize(
    ("guard", "change", "months", "settings", "says"),
    [
        ("missing", _holes, MONTHS, {}, "values missing in 2020: 0.00% before"),
        ("totals", _sun, MONTHS, {"refresh": {"guards": {"totals_move": 0.02}}}, "in 2020, where both have a value"),
        ("inputs", _name, MONTHS + 1, {}, "shortwave is described otherwise"),
        ("shrink", None, MONTHS - 1, {}, "the end of what is covered moves back: 2021-06-01 before, 2021-05-01 after"),
        ("coverage", _holes, MONTHS, {"max_missing": 0.001, "refresh": {"guards": {"missing_jump": 1}}}, "max_missing"),
    ],
)
def test_guards_stop_until_they_are_overridden_by_name(standing, guard, change, months, settings, says):
    standing.write(months, change)
    before = maps_of(standing)
    with pytest.raises(PublicationStopped, match="Nothing was published") as stopped:
        standing.refresh(**settings)
    assert says in str(stopped.value)
    assert f"with --allow {guard}." in str(stopped.value)
    assert_same(before, maps_of(standing))
    report = json.loads(sorted((standing.out / "reports").glob("*guard.json"))[-1].read_text())
    assert (report["status"], report["exit_code"]) == ("stopped by a guard", 4)
    assert standing.refresh(guard, **settings).status == "published"
    assert standing.archive.newest().message["allowed"] == [guard]


def test_a_map_that_is_not_sound_is_not_published(standing, monkeypatch):
    from fluxgrid.upscaling import tile

    assemble = tile._TileRun._assemble

    def wrong(self, *args):
        arrays = assemble(self, *args)
        arrays["nee"] += np.float32(0.5)
        return arrays

    monkeypatch.setattr(tile._TileRun, "_assemble", wrong)
    standing.write(MONTHS + 1)
    with pytest.raises(PublicationStopped, match=r"check: 2021, tile r0000c0000: NEE is not RECO - GPP at \d+ cell"):
        standing.refresh()


def test_what_a_guard_stopped_is_not_computed_again(standing, monkeypatch):
    standing.write(change=_holes)
    with pytest.raises(PublicationStopped):
        standing.refresh()
    from fluxgrid.upscaling import tile

    monkeypatch.setattr(tile._TileRun, "_predict", None)
    assert standing.refresh("missing").report["computed"]["units"] == 0


def test_an_unknown_guard_is_refused(standing):
    with pytest.raises(UnknownName, match="There is no guard everything; there are shrink, missing"):
        standing.refresh("everything")


def test_a_report_names_the_guards_of_its_own_refresh(standing):
    strict = {"refresh": {"guards": {"totals_move": 0.02}}}
    standing.write(change=_sun)
    with pytest.raises(PublicationStopped, match="totals"):
        standing.refresh(**strict)
    standing.write(MONTHS - 1)
    with pytest.raises(PublicationStopped) as stopped:
        standing.refresh(**strict)
    written = (standing.out / "reports").glob("*guard*.json")  # two of one second differ by a number
    report = json.loads(max(written, key=lambda path: path.stat().st_mtime_ns).read_text())
    assert [guard["guard"] for guard in report["guards"]] == ["shrink"]
    assert "totals" not in report
    assert Path(stopped.value.__notes__[0].removeprefix("Report: ")).is_file()


# --- damage and faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpp", "units.json", pytest.param("checksums.txt", marks=pytest.mark.slow)])
def test_a_flipped_byte_is_found_named_and_repaired(standing, name):
    before = maps_of(standing)
    folder = standing.archive.folders()[2020]
    path = folder / name if "." in name else max((folder / "map.zarr" / name / "c").rglob("0"), key=os.path.getsize)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    done = standing.refresh()
    assert any(str(path) in text for text in done.report["damages"])
    assert done.report["why"] == {"damaged in the archive": 1 if name == "gpp" else 4}
    assert standing.archive.verify() == []
    assert_same(before, maps_of(standing))
    assert standing.refresh().status == "up to date"


def test_lost_records_and_states_are_made_again(standing, models):
    network = {"model": str(models / "network")}
    standing.refresh("totals", **network)
    before = maps_of(standing)
    (states,) = standing.out.glob(".fluxgrid/refresh-*/states")
    shutil.rmtree(states)
    standing.write(MONTHS + 1)
    done = standing.refresh(**network)
    assert done.report["changed"] == {"2021": sorted(standing.archive.design.tiles)}
    after = maps_of(standing)
    assert_same({y: before[y] for y in YEARS[:2]}, {y: after[y] for y in YEARS[:2]})
    shutil.rmtree(standing.out / ".fluxgrid")
    assert standing.refresh(**network).status == "up to date"  # all computed again, and it is what is published
    assert len(standing.archive.versions()) == 3


def test_files_that_are_missing_beside_the_archive_come_back(standing):
    (standing.out / "latest").unlink()
    next((standing.out / "exports" / "000001").glob("*2020.nc")).unlink()
    done = standing.refresh()
    assert (done.status, done.report["version"]) == ("repaired", 1)
    assert (standing.out / "latest").resolve() == (standing.out / "exports" / "000001").resolve()
    assert standing.refresh().status == "up to date"


def test_a_lost_file_beside_the_archive_is_noticed_and_readers_keep_the_others(standing, monkeypatch):
    next((standing.out / "exports" / "000001").glob("*2020.nc")).unlink()
    write, seen = export._write_year, []

    def watched(*args):
        seen.append((standing.out / "latest" / "export.json").exists())
        return write(*args)

    monkeypatch.setattr(export, "_write_year", watched)
    done = standing.refresh()
    assert (done.status, seen) == ("repaired", [True])
    assert done.report["region"] == "-95.5,40.1,-91.5,43.5"
    assert len(list((standing.out / "latest").glob("*.nc"))) == 3


def test_a_link_that_is_lost_costs_a_link(standing, monkeypatch):
    monkeypatch.setattr("fluxgrid.workflows.refresh_run.export_version", None)
    (standing.out / "latest").unlink()
    assert standing.refresh().status == "repaired"
    assert (standing.out / "latest" / "export.json").exists()


def test_damage_that_a_refresh_cannot_mend_is_told_and_stops_nothing(standing):
    standing.write(MONTHS + 1)
    standing.refresh()
    for path in (standing.out / "archive" / "README.txt", standing.out / "archive/versions/000001/version.json"):
        path.write_bytes(path.read_bytes().replace(b"e", b"E", 1))
    done = standing.refresh()
    assert done.status == "up to date"
    assert ["README.txt is changed; restore it from a copy" in text for text in done.report["warnings"]] == [True]
    assert done.files
    again = standing.refresh()
    assert (again.report["warnings"], again.files) == (done.report["warnings"], ())
    standing.write(MONTHS + 2)
    done = standing.refresh()  # nothing of it is read from the old version
    assert (done.status, done.report["damages"]) == ("published", [])
    assert any("README.txt" in text for text in done.report["warnings"])


def test_an_archive_in_which_nothing_was_published_yet_is_gone_on_with(region, monkeypatch):
    """As a kill between making the archive and its first publication leaves it."""
    region.write(13)
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "publish", _out_of_space)
        with pytest.raises(OSError, match="No space"):
            region.refresh()
    assert (region.out / "archive" / "archive.json").exists()
    assert region.archive.newest() is None
    region.refresh()
    _assert_whole(region)
    assert len(region.archive.versions()) == 1


def _out_of_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _assert_whole(region: Region) -> None:
    """Assert that what readers see is whole."""
    if not (region.out / "archive" / "archive.json").exists():  # then there is nothing to see at all
        assert not (region.out / "latest").is_symlink()
        assert not list(region.out.glob("exports/*/*"))
        return
    for version in region.archive.versions():
        assert region.archive.verify(version) == []
    latest = region.out / "latest"
    if latest.is_symlink():
        about = json.loads((latest / "export.json").read_text())
        assert all((latest / name).stat().st_size == size for name, size in about["files"].items())


def test_the_second_says_who_is_first_and_a_dead_one_holds_nothing(standing):
    code = (
        "import sys, time; from pathlib import Path; from fluxgrid.upscaling.lock import locked\n"
        "with locked(Path(sys.argv[1]), Path(sys.argv[2])) as lock:\n"
        "    lock.tell(); print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(standing.out), str(standing.out / ".fluxgrid" / "holder.json")]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunLocked, match=rf"Another run works in .*\(process {holder.pid} on .*last alive \d+ s ago"):
        standing.refresh()
    holder.kill()
    holder.communicate()
    assert (standing.out / ".fluxgrid" / "holder.json").exists()  # left by the dead
    assert standing.refresh().status == "up to date"


def test_a_full_disk_loses_nothing(standing):
    before = maps_of(standing)
    standing.write(36)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(OutputError, match="larger than this process may write"):
            standing.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(before, maps_of(standing))
    assert standing.refresh().status == "published"


def test_another_map_in_the_folder_is_left_alone(region):
    region.out.mkdir()
    (region.out / "manifest.json").write_text("{}")
    with pytest.raises(OutputExists, match="holds a map of `fluxgrid upscale`"):
        region.refresh()


def test_tiles_that_fail_publish_nothing(standing, monkeypatch):
    from fluxgrid.upscaling import tile

    def fail(self, *args):
        message = "the power went"
        raise ValueError(message)

    monkeypatch.setattr(tile._TileRun, "_predict", fail)
    standing.write(MONTHS + 1)
    with pytest.raises(IncompleteMap, match="the power went"):
        standing.refresh()
    assert len(standing.archive.versions()) == 1


def test_an_archive_of_other_variables_and_cells_is_refused_before_anything_is_computed(region, monkeypatch):
    monkeypatch.setattr("fluxgrid.workflows.refresh_run.survey", None)
    other = Grid.from_bounds((-95, -92, 41, 43), 0.5)
    Archive.create(region.out / "archive", other, Layers(errors=("nee",)), "daily")
    with pytest.raises(ConfigError, match="is of another map; name another folder") as refused:
        region.refresh()
    for text in ("cells or lies elsewhere", "steps are daily, these monthly", "it holds nee_se, this map does not"):
        assert text in str(refused.value)


# --- hooks and exit codes --------------------------------------------------------------------------------------------


def test_hooks_get_the_report_and_change_nothing(region):
    code = "import os, shutil; shutil.copy(os.environ['FLUXGRID_REPORT'], os.environ['FLUXGRID_OUT'] + '/../told')"
    hooks = {"on_success": [sys.executable, "-c", code], "on_failure": [sys.executable, "-c", f"{code}; 1 / 0"]}
    region.refresh(refresh=hooks)
    assert json.loads((region.folder / "told").read_text())["status"] == "published"
    region.write(MONTHS - 1)
    with pytest.raises(PublicationStopped):
        region.refresh(refresh=hooks)
    assert json.loads((region.folder / "told").read_text())["status"] == "stopped by a guard"


def test_a_defect_is_reported_and_told_too(standing, monkeypatch):
    def broken(*_):
        message = "a bug"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("fluxgrid.workflows.refresh.look_at", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        standing.refresh(refresh={"on_failure": ["false"]})
    report = json.loads(sorted((standing.out / "reports").glob("*failed.json"))[-1].read_text())
    assert (report["error"], report["exit_code"]) == ("ZeroDivisionError: a bug", 1)
    assert report["warnings"] == ["The hook false ended with code 1"]
    assert caught.value.__notes__[1] == report["warnings"][0]


def test_an_end_that_is_too_old_is_told_once(standing):
    stale = {"stale_days": 30}
    done = standing.refresh(refresh=stale)
    assert (done.status, done.report["warnings"]) == (
        "up to date",
        ["there is nothing of 2021-06-01 and later, more than 30 days ago: see whether the source still gives"],
    )
    assert (bool(done.files), standing.refresh(refresh=stale).files) == (True, ())
    assert standing.refresh(refresh={"stale_days": 10**5}).report == {}


def test_exit_codes(standing, run, tmp_path):
    assert run("refresh", str(standing.file()))[0] == 0
    with locked(standing.out):
        assert run("refresh", str(standing.file()))[0] == 5
    standing.write(MONTHS - 1)
    assert run("refresh", str(standing.file()))[0] == 4
    source = {"source": {"location": str(tmp_path / "nowhere")}}
    with pytest.raises(SourceUnavailable):
        standing.refresh(refresh=source)
    code, _, errors = run("refresh", str(standing.file(refresh=source)))
    assert (code, "cannot be looked at" in errors) == (6, True)
    code, _, errors = run("refresh", str(standing.file(start="2019-02-01", end="2020-12-30")))
    assert (code, "start: 2019-02-01 is no 1 January and end: 2020-12-30 is no 31 December" in errors) == (2, True)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_runs_list_diff_rollback_prune(standing, run):
    standing.write(MONTHS + 1)
    standing.refresh(tag="may")
    config = str(standing.file())
    code, text, _ = run("runs", "list", config)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["1", "2"]
    assert "may" in text.splitlines()[1]
    code, text, _ = run("runs", "diff", config, "1", "may")
    assert (code, "other values: 4 tiles of 2021" in text) == (0, True)
    assert "NEE 2021: " in text
    assert "no difference" in run("runs", "diff", config, "2")[1]
    code, text, _ = run("runs", "rollback", config, "1")
    assert (code, "Version 3 is the state of version 1." in text) == (0, True)
    assert (standing.out / "latest").resolve().name == "000003"
    assert standing.archive.newest().years == standing.archive.find(1).years
    with pytest.raises(PublicationStopped, match="rollback: version 3 took the archive back to 1"):
        standing.refresh()
    assert standing.refresh("rollback").report["version"] == 4
    code, text, _ = run("runs", "prune", str(standing.out), "--keep", "1")
    assert (code, text.startswith("Removed versions: 1, 3; ")) == (0, True)
    assert [version.id for version in standing.archive.versions()] == [2, 4]  # 2 has a tag
    assert sorted(path.name for path in (standing.out / "exports").iterdir()) == ["000002", "000004"]
    assert run("runs", "diff", config, "7")[0] == 2
    assert run("runs", "list", str(standing.folder))[0] == 2


def test_the_change_of_carbon_is_that_of_the_report(standing, run):
    """Of land in the region, not of whole cells: cells at the border count by their share."""
    standing.write(MONTHS + 1)
    report = standing.refresh().report
    region = report["totals"][:3]  # the region comes before its states
    moved = {row["flux"]: row["after_TgC"] - row["before_TgC"] for row in region}
    row = json.loads(run("runs", "diff", str(standing.file()), "1", "--json")[1])
    for flux, years in row["change_TgC"].items():
        assert years["2021"] == pytest.approx(moved[flux], abs=3e-6)
    shutil.rmtree(standing.out / "exports")
    assert "by how much carbon is not known" in run("runs", "diff", str(standing.file()), "1")[1]


def test_pruning_leaves_what_readers_are_led_to(standing, run, monkeypatch):
    standing.write(MONTHS + 1)
    with monkeypatch.context() as patch:
        patch.setattr("fluxgrid.workflows.refresh_run.export_version", _out_of_space)
        with pytest.raises(OSError, match="No space"):
            standing.refresh()
    strays = [standing.out / "archive" / "years" / name for name in ("2019/stray", "notes/x", "stray")]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.touch()
    assert run("runs", "prune", str(standing.out), "--keep", "1")[1].startswith("Removed versions: 1;")
    assert (standing.out / "latest" / "export.json").exists()
    assert all(stray.exists() for stray in strays)
    assert standing.refresh().status == "repaired"
    assert (standing.out / "latest").resolve().name == "000002"


def test_what_changes_an_archive_alone_needs_the_configuration(standing, run, tmp_path):
    before = standing.out / "archive"
    for name in ("elsewhere/archive", "maps"):
        where = tmp_path / name
        where.parent.mkdir(exist_ok=True)
        before = before.rename(where)
        assert run("runs", "list", str(where))[0] == 0
        code, _, errors = run("runs", "prune", str(where), "--keep", "1")
        assert (code, "Give the run configuration" in errors) == (2, True)
    elsewhere = {"refresh": {"archive": str(where)}}
    assert run("runs", "prune", str(standing.file(**elsewhere)), "--keep", "1")[0] == 0


def test_tags(standing, run, monkeypatch):
    """What stands gets one by a new version of the same state; one that cannot be given is refused at the door."""
    assert standing.refresh(tag="final").report["tag"] == "final"
    assert [version.tag for version in standing.archive.versions()] == [None, "final"]
    assert standing.archive.diff(1, "final") == Difference((), (), (), ())
    assert standing.refresh().status == "up to date"
    monkeypatch.setattr("fluxgrid.workflows.refresh.look_at", None)
    for tag, says in (("7", "could be the number"), ("2025-01", "or a date"), ("final", "has the tag"), ("a b", "Use")):
        with pytest.raises(UnknownName, match=says):
            standing.refresh(tag=tag)
    assert run("runs", "rollback", str(standing.file()), "1", "--tag", "first")[0] == 0
    assert standing.archive.newest().tag == "first"
    assert run("runs", "diff", str(standing.file()), "\u00b2")[0] == 2  # a digit that is no number


def test_a_rollback_is_kept_while_nothing_is_new_to_it(standing, run):
    """The refresh after it knows that the archive is not of its inputs, and says so instead of undoing it."""
    standing.write(MONTHS + 1)
    standing.refresh()
    run("runs", "rollback", str(standing.file()), "1")
    for _ in range(2):
        with pytest.raises(PublicationStopped, match="--allow rollback"):
            standing.refresh()
    assert len(standing.archive.versions()) == 3


def test_time_to_see_that_nothing_is_new(standing):
    """Generous here: machines that test are busy."""
    begun = time.perf_counter()
    standing.refresh()
    assert time.perf_counter() - begun < 5
