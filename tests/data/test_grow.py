"""A cube that grows with deliveries: the same as one made at once, whatever came in which order or was killed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fluxgrid.data.cube import check_cube, input_digest, kept, open_cube
from fluxgrid.data.cube.grow import delivery_status, grow, growth_folder
from fluxgrid.data.cube.growth import CubePlan, Growth
from fluxgrid.data.cube.kept import cube_damages
from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import CubeError, OutputError, SourceUnavailable
from fluxgrid.netcdf import save_netcdf
from fluxgrid.provenance import seal, unseal
from fluxgrid.simulation.deliveries import Scenario, play
from fluxgrid.sources.deliveries import DeliverySource, look
from fluxgrid.testing import small_cube, write_cube

NAMES = ("temperature_2m", "precipitation", "shortwave")
STREAMS = (NAMES[:2], NAMES[2:])
CUBE = small_cube(periods=160)  # three chunks of time
PLAN = CubePlan(NAMES, "2019-01-01")
KILLS, SLOW_KILLS = 6, 60
BESIDE = ["copies", "ledger.json", "sums"]


class Killed(BaseException):
    """Like KeyboardInterrupt: nothing that catches Exception stops it."""


class Place:
    """A folder of deliveries, and the cube that grows by them."""

    def __init__(self, folder):
        self.folder, self.cube = folder / "in", folder / "cube.zarr"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.source = PLAN, DeliverySource(str(self.folder), settle=0)

    def drop(self, name, days, names=NAMES, status="final", when=1, change=lambda ds: ds):
        """Write a delivery, issued at a day."""
        ds = CUBE[list(names)].isel(time=days)
        ds.attrs |= {"status": status}
        if when is not None:
            ds.attrs["date_created"] = f"2019-06-{when:02d}"
        save_netcdf(change(ds), self.folder / name)

    def look(self):
        return look(self.source, self.folder.parent / "state.json")

    def grow(self):
        return grow(self.cube, self.look().deliveries, self.plan)

    def values(self, name="temperature_2m"):
        with xr.open_zarr(self.cube) as cube:
            return cube[name].load().values


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def tree(folder):
    """Return the bytes of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def times(folder):
    """Return when each file was written; folders, in which a lock comes and goes, left out."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def days(first, stop):
    return tuple(str(day.date()) for day in pd.date_range("2019-01-01", periods=stop)[first:])


def true(name="temperature_2m", part=slice(None)):
    return CUBE[name].values[part].astype("f4")


def test_a_new_cube_is_a_cube(place):
    place.drop("a.nc", slice(0, 80))
    growth = place.grow()
    assert growth.new == {name: days(0, 80) for name in NAMES}
    assert (growth.revised, growth.missing, growth.provisional, growth.refused) == ({}, {}, {}, ())
    cube = open_cube(place.cube)
    assert dict(cube.sizes) == {"time": 146, "y": 5, "x": 7}  # two whole chunks
    assert list(cube.indexes["time"]) == list(pd.date_range("2019-01-01", periods=146))
    for name in NAMES:
        np.testing.assert_array_equal(cube[name].values[:80], true(name, slice(0, 80)))
        assert np.isnan(cube[name].values[80:]).all()
    assert check_cube(place.cube).problems == ()
    raw = xr.open_zarr(place.cube)
    assert raw.temperature_2m.encoding["chunks"] == (73, 32, 32)
    assert raw.delivery_status.values.tolist() == [2] * 80 + [0] * 66
    assert raw.delivery_status.attrs["flag_meanings"] == "missing provisional known"
    assert (raw.attrs["title"], raw.attrs["day_definition"]) == (CUBE.attrs["title"], "UTC")


@settings(max_examples=3, phases=[Phase.generate])  # shrinking seeds shows nothing and takes minutes
@given(seed=st.integers(0, 10**6), lost=st.integers(0, 1))
def test_grown_week_by_week_equals_made_at_once(tmp_path_factory, seed, lost):
    place, once = (Place(tmp_path_factory.mktemp(name)) for name in ("grown", "once"))
    year = Scenario(seed, 80, STREAMS, lost=lost, number=11)
    was = 0
    for events in year.weeks():
        play(events, CUBE, place.folder)
        found = place.look().deliveries
        if found:
            grow(place.cube, found, PLAN)
            length = len(place.values())
            assert length >= was
            was = length
    grow(once.cube, place.look().deliveries, PLAN)
    assert tree(place.cube) == tree(once.cube)
    lost_days = year.lost_days()
    for name in NAMES:
        expected = true(name, slice(0, 80)).copy()
        expected[lost_days.get(name, [])] = np.nan
        np.testing.assert_array_equal(place.values(name)[:80], expected)
    lost_once = {int(day) for found in lost_days.values() for day in found}
    assert (delivery_status(place.cube)[:80] == 0).sum() == len(lost_once)


def test_nothing_new_writes_nothing_and_takes_no_time(place):
    place.drop("a.nc", slice(0, 80))
    place.drop("b.nc", slice(80, 90), status="provisional")
    first = place.grow()
    before = times(place.cube.parent)
    begun = time.process_time()
    again = place.grow()
    assert time.process_time() - begun < 0.5
    assert times(place.cube.parent) == before
    assert not again.changed
    assert (again.new, again.revised, again.drift) == ({}, {}, ())
    assert again.provisional == first.provisional == {name: days(80, 90) for name in NAMES}


def test_growth_leaves_earlier_chunks_and_their_digests_alone(place):
    place.drop("a.nc", slice(0, 73))
    place.grow()
    window = (slice(0, 73), slice(0, 5), slice(0, 7))
    digest = input_digest(place.cube, open_cube(place.cube), NAMES, *window)
    before = times(place.cube)
    place.drop("b.nc", slice(73, 150))
    place.grow()
    assert input_digest(place.cube, open_cube(place.cube), NAMES, *window) == digest
    after = times(place.cube)
    chunks = [path for path in before if path.is_file() and path.name != "zarr.json"]
    assert len(chunks) == 7  # three variables, time, status, y and x
    assert all(after[path] == before[path] for path in chunks)


def test_a_revised_day_rewrites_its_chunk_alone(place):
    place.drop("a.nc", slice(0, 160))
    place.grow()
    before = times(place.cube)

    def change(ds):
        return ds.assign(precipitation=ds.precipitation.where(ds.time != ds.time[20], 7.0))

    place.drop("b.nc", slice(60, 100), when=2, change=change)  # a newer file of which one day differs
    growth = place.grow()
    assert growth.revised == {"precipitation": days(80, 81)}
    assert (growth.new, growth.files) == ({}, 1)
    after = times(place.cube)
    assert [str(p.relative_to(place.cube)) for p in after if p.is_file() and after[p] != before[p]] == [
        "precipitation/c/1/0/0"
    ]


def test_equal_values_in_another_file_write_nothing(place):
    place.drop("a.nc", slice(0, 80))
    place.grow()
    before = times(place.cube)
    place.drop("a.nc", slice(0, 80), when=2)
    growth = place.grow()
    assert (growth.changed, growth.revised) == (False, {})
    assert times(place.cube) == before


def plus(amount):
    return lambda ds: ds.map(lambda values: values + amount, keep_attrs=True)


def test_final_beats_provisional_and_newer_beats_older_whatever_the_names(place):
    place.drop("z.nc", slice(0, 30), status="provisional", when=9, change=plus(1))
    first = place.grow()
    assert first.provisional == {name: days(0, 30) for name in NAMES}
    np.testing.assert_array_equal(place.values()[:30], true(part=slice(0, 30)) + np.float32(1))
    place.drop("a.nc", slice(0, 10), when=2, change=plus(2))  # final, though older
    place.drop("b.nc", slice(5, 20), when=1, change=plus(3))
    second = place.grow()
    assert second.revised == {name: days(0, 20) for name in NAMES}
    assert second.provisional == {name: days(20, 30) for name in NAMES}
    place.drop("c.nc", slice(20, 25), change=plus(1))  # final, with the values of the provisional one
    third = place.grow()
    assert (third.revised, third.confirmed) == ({}, {name: days(20, 25) for name in NAMES})
    add = np.repeat(np.float32([2, 3, 1]), [10, 10, 10])[:, None, None]
    np.testing.assert_array_equal(place.values()[:30], true(part=slice(0, 30)) + add)
    assert delivery_status(place.cube)[:30].tolist() == [2] * 25 + [1] * 5


def test_what_a_name_now_holds_replaces_what_it_held(place):
    place.drop("a.nc", slice(0, 10), when=9, change=plus(1))
    place.grow()
    place.drop("a.nc", slice(0, 10), when=1)  # taken back: the date goes back too
    growth = place.grow()
    assert growth.revised == {name: days(0, 10) for name in NAMES}
    place.drop("a.nc", slice(0, 10), when=20, status="provisional", change=plus(4))
    assert not place.grow().changed  # but final days do not become provisional
    np.testing.assert_array_equal(place.values()[:10], true(part=slice(0, 10)))


def test_days_do_not_go_with_their_files(place):
    place.drop("a.nc", slice(0, 10))
    place.drop("b.nc", slice(5, 15), when=1, status="provisional", change=plus(1))
    place.grow()
    (place.folder / "a.nc").unlink()
    before = tree(place.cube)
    assert not place.grow().changed
    assert tree(place.cube) == before
    place.drop("c.nc", slice(0, 2), when=None)  # no date: that of the file, which is later
    assert place.grow().revised == {}  # and the same values


def test_streams_grow_apart_and_what_is_missing_is_told(place):
    place.drop("a.nc", slice(0, 20), NAMES[:2])
    place.drop("b.nc", slice(3, 10), NAMES[2:], status="provisional")
    growth = place.grow()
    assert growth.missing == {"shortwave": days(0, 3) + days(10, 20)}
    assert growth.provisional == {"shortwave": days(3, 10)}
    assert delivery_status(place.cube)[:20].tolist() == [0] * 3 + [1] * 7 + [0] * 10
    assert delivery_status(place.cube, NAMES[:2])[:20].tolist() == [2] * 20


def test_foreign_files_are_converted_as_open_cube_does(place):
    def foreign(ds):
        ds = ds.rename(temperature_2m="t2m", y="lat", x="lon").isel(lat=slice(None, None, -1))
        t2m = (ds.t2m + 273.15).assign_attrs(units="K")
        return ds.drop_vars("t2m").assign(t2m=t2m).assign_coords(lon=ds.lon % 360)

    mapping = parse_mapping(
        {"crs": "EPSG:4326", "variables": {"temperature_2m": {"from": "t2m"}, "shortwave": {"from": "shortwave"}}}
    )
    place.plan = CubePlan(("temperature_2m", "shortwave"), "2019-01-01", mapping)
    place.source = replace(place.source, mapping=mapping)
    place.drop("a.nc", slice(0, 20), change=foreign)
    place.grow()
    theirs, ours = open_cube(place.folder / "a.nc", mapping), open_cube(place.cube)
    for name in place.plan.variables:
        np.testing.assert_array_equal(ours[name].values[:20], theirs[name].values)
        assert ours[name].attrs["units"] == CUBE[name].attrs["units"]
    np.testing.assert_array_equal(ours.y, theirs.y)
    np.testing.assert_array_equal(ours.x, theirs.x)


def test_a_base_gives_land_and_the_days_before(place, tmp_path):
    base = write_cube(CUBE.isel(time=slice(0, 100)), tmp_path / "base.zarr")
    place.plan = replace(PLAN, base=base)
    place.drop("a.nc", slice(90, 120), status="provisional", change=plus(1))
    place.drop("b.nc", slice(95, 97), change=plus(2))
    growth = place.grow()
    assert growth.provisional == {name: days(100, 120) for name in NAMES}
    add = np.repeat(np.float32([0, 2, 0, 1]), [95, 2, 3, 20])[:, None, None]
    np.testing.assert_array_equal(place.values()[:120], true(part=slice(0, 120)) + add)
    theirs, ours = open_cube(base), open_cube(place.cube)
    for name in ("crop_fraction", "forest_fraction", "climate_group"):
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name].attrs["units"] == theirs[name].attrs["units"] if name != "climate_group" else True
    base.rename(tmp_path / "elsewhere.zarr")  # it is not needed again
    place.drop("c.nc", slice(120, 150))
    assert place.grow().new == {name: days(120, 150) for name in NAMES}


def test_files_for_another_cube_are_refused_each_and_all_at_once(place):
    place.drop("a.nc", slice(0, 10))
    place.drop("narrow.nc", slice(10, 20), change=lambda ds: ds.isel(x=slice(1, 6)))
    place.drop("far.nc", slice(10, 20), change=lambda ds: ds.assign_coords(time=ds.time + np.timedelta64(5000, "D")))
    growth = place.grow()
    assert growth.new == {name: days(0, 10) for name in NAMES}
    told = {refused.name: refused.problems[0] for refused in growth.refused}
    assert set(told) == {"narrow.nc", "far.nc"}
    assert "its grid is 5 x 5 cells" in told["narrow.nc"]
    assert "the cube's is 5 x 7 cells" in told["narrow.nc"]
    assert "more than 400 days after all before it" in told["far.nc"]
    assert place.grow().refused == growth.refused


def test_drift_is_told_and_nothing_decided(place):
    def drifted(ds):
        ds = ds.assign(precipitation=ds.precipitation.where(ds.y < ds.y[1]) / 24, shortwave=ds.shortwave * 100)
        ds.precipitation.attrs = CUBE.precipitation.attrs | {"units": "mm h-1", "cell_methods": "time: sum"}
        ds.shortwave.attrs = CUBE.shortwave.attrs
        return ds

    place.drop("a.nc", slice(0, 10))
    assert all(drift.before is None and drift.changes == {} for drift in place.grow().drift)
    place.drop("b.nc", slice(10, 20), change=drifted)
    growth = place.grow()
    drift = {part.after.name: part for part in growth.drift}
    assert drift["temperature_2m"].changes == {}
    assert drift["precipitation"].changes == {"units": ("mm d-1", "mm h-1"), "cell_methods": ("", "time: sum")}
    assert drift["precipitation"].before.missing == 0
    assert drift["precipitation"].after.missing == pytest.approx(0.4)
    assert [name for name in NAMES if drift[name].outside] == ["shortwave"]
    assert Growth.from_dict(json.loads(json.dumps(growth.to_dict()))) == growth


def test_what_cannot_grow_says_why(place, tmp_path):
    with pytest.raises(CubeError, match="none of 0 deliveries holds temperature_2m or"):
        place.grow()
    place.drop("a.nc", slice(0, 10))
    with pytest.raises(CubeError, match="no day delivered is 2020-01-01 or later"):
        grow(place.cube, place.look().deliveries, replace(PLAN, start="2020-01-01"))
    assert not place.cube.exists()
    place.grow()
    with pytest.raises(CubeError, match=r"(?s)first day: 2019-01-01, asked for is 2018-01-01.*variables: "):
        grow(place.cube, place.look().deliveries, CubePlan(("vpd", *NAMES), "2018-01-01"))
    for ledger in ("ledger.json", "copies/ledger.json"):
        (growth_folder(place.cube) / ledger).unlink()
    with pytest.raises(CubeError, match=r"its ledger .* is missing"):
        place.grow()
    with pytest.raises(CubeError, match="was not grown"):
        delivery_status(place.cube)


def test_files_that_change_between_look_and_growth_are_not_taken(place):
    place.drop("a.nc", slice(0, 10))
    found = place.look().deliveries
    os.utime(place.folder / "a.nc", (5, 5))
    with pytest.raises(SourceUnavailable, match=r"a\.nc changed or went away"):
        grow(place.cube, found, PLAN)
    assert not place.cube.exists()
    assert place.grow().new


def spoil(path, how="flipped"):
    """Change a bit in the middle of a file, cut it, or take it away."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "flipped" else data[:-9])
    if how == "lost":
        path.unlink()


@pytest.fixture(scope="module")
def based(tmp_path_factory):
    """A cube on a base, grown twice, with all that stands beside it; to be copied."""
    place = Place(tmp_path_factory.mktemp("based"))
    base = write_cube(CUBE.isel(time=slice(0, 20)), place.folder.parent / "base.zarr")
    place.plan = replace(PLAN, base=str(base))
    for name, part in (("a.nc", slice(15, 60)), ("b.nc", slice(60, 100))):
        place.drop(name, part)
        place.grow()
    return place


@pytest.fixture
def grown(based, tmp_path):
    """The same, to be harmed."""
    place = Place(tmp_path / "grown")
    place.plan, place.source = based.plan, based.source
    for name in ("cube.zarr", "cube.zarr.growth"):
        shutil.copytree(based.cube.with_name(name), place.cube.with_name(name))
    return place


@pytest.mark.parametrize("how", ["flipped", "cut", "lost"])
def test_every_harm_is_named_and_mended(grown, how):
    """Each file of the cube and beside it in turn: chunks, axes, land, metadata, ledger, lists, copies."""
    aside = growth_folder(grown.cube)
    right = tree(grown.cube), tree(aside)
    found = grown.look().deliveries
    files = [path for folder in (grown.cube, aside) for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        spoil(path, how)
        named = [damage.path for damage in cube_damages(grown.cube, aside)]
        growth = grow(grown.cube, found, grown.plan)
        assert path in named
        assert [text.partition(": ")[0] for text in growth.mended] == [str(one) for one in named]
        assert [growth.new, growth.revised, growth.drift] == [{}, {}, ()], path
        assert (tree(grown.cube), tree(aside)) == right, path
    assert len(files) > 50
    assert not grow(grown.cube, found, grown.plan).mended


def test_a_chunk_is_mended_while_it_grows(grown):
    """New days and a revision come into a chunk that is damaged; another is damaged that they leave alone."""
    for name in ("temperature_2m/c/1/0/0", "shortwave/c/0/0/0"):
        spoil(grown.cube / name)
    other = Place(grown.folder.parent / "more")
    for path in sorted(Path(grown.source.location).iterdir()):
        shutil.copy2(path, other.folder / path.name)
    other.drop("c.nc", slice(90, 110), when=2, change=plus(1))
    growth = grow(grown.cube, other.look().deliveries, grown.plan)
    assert len(growth.mended) == 2
    assert growth.new == {name: days(100, 110) for name in NAMES}
    assert growth.revised["shortwave"] == days(90, 100)
    other.plan = grown.plan
    other.grow()
    assert tree(grown.cube) == tree(other.cube)


def test_files_that_were_never_written_are_removed(grown):
    strange = grown.cube / "shortwave/c/1/5/5"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"strange")
    assert grow(grown.cube, grown.look().deliveries, grown.plan).mended == (f"{strange}: never written",)
    assert not strange.exists()


def test_a_chunk_whose_delivery_is_gone_is_named_and_changes_nothing(grown):
    spoil(grown.cube / "shortwave/c/1/0/0")
    before = tree(grown.cube)
    message = r"(?s)could mend it is not at its source.*shortwave/c/1/0/0: 27 of its days are from b\.nc, which is gone"
    rest = [delivery for delivery in grown.look().deliveries if delivery.name != "b.nc"]
    with pytest.raises(CubeError, match=message):
        grow(grown.cube, rest, grown.plan)
    assert tree(grown.cube) == before
    assert len(grow(grown.cube, grown.look().deliveries, grown.plan).mended) == 1


def test_a_file_whose_copy_is_damaged_too_is_named(grown):
    for folder in (grown.cube, growth_folder(grown.cube) / "copies" / "cube"):
        spoil(folder / "crop_fraction/c/0/0")
    with pytest.raises(CubeError, match=r"(?s)so is the copy in .*crop_fraction/c/0/0: changed"):
        grow(grown.cube, grown.look().deliveries, grown.plan)


def test_a_cube_that_grew_without_hashes_is_taken_as_it_is(grown):
    aside = growth_folder(grown.cube)
    right, chunks = tree(aside), tree(grown.cube)
    without_hashes(aside)
    assert not grow(grown.cube, grown.look().deliveries, grown.plan).mended
    assert tree(aside) == right
    content = without_hashes(aside)
    note = {"ledger": content, "growth": {k: v for k, v in Growth().to_dict().items() if k != "mended"}}
    (aside / "journal.json").write_text(json.dumps({"moves": [], "removals": [], "note": note}))
    assert not grow(grown.cube, grown.look().deliveries, grown.plan).mended
    assert (tree(aside), tree(grown.cube)) == (right, chunks)


def without_hashes(aside):
    """Leave what stood beside a cube before there were hashes, and return what the ledger says."""
    for name in ("sums", "copies"):
        shutil.rmtree(aside / name)
    content = json.loads((aside / "ledger.json").read_text())
    del content["digest"]
    (aside / "ledger.json").write_text(json.dumps(content))
    return content


def revised_once(grown):
    """Return deliveries of which a new one revises a variable of the first chunk of time."""
    more = Place(grown.folder.parent / "more")
    for path in sorted(Path(grown.source.location).iterdir()):
        shutil.copy2(path, more.folder / path.name)
    more.drop("c.nc", slice(30, 35), ("shortwave",), when=3, change=plus(1))
    return more.look().deliveries


def names_known(cube):
    with xr.open_zarr(cube) as seen:
        return {name: int((~np.isnan(seen[name].values)).all((1, 2)).sum()) for name in NAMES}


@pytest.mark.parametrize("how", ["flipped", "lost"])
def test_a_list_that_is_lost_takes_no_chunk_with_it(grown, how, monkeypatch):
    """The list goes, or is damaged, while a growth that a journal speaks of was killed; the deliveries go as well."""
    listed, found = growth_folder(grown.cube) / "sums" / "0.json", revised_once(grown)
    before = names_known(grown.cube)

    def stop(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("fluxgrid.data.cube.grow.write_ledger", stop)
        with pytest.raises(Killed):
            grow(grown.cube, found, grown.plan)
    spoil(listed, how)
    for _ in range(2):
        assert grow(grown.cube, found, grown.plan).mended == ()
        assert names_known(grown.cube) == before
    assert cube_damages(grown.cube, growth_folder(grown.cube)) == []
    spoil(listed, how)
    assert [text.partition(": ")[0] for text in grow(grown.cube, [], grown.plan).mended] == [str(listed)]
    assert names_known(grown.cube) == before


def test_lists_killed_half_way_are_gone_on_with(grown, monkeypatch):
    aside, found = growth_folder(grown.cube), grown.look().deliveries
    right, chunks = tree(aside), tree(grown.cube)
    without_hashes(aside)
    plain, left = kept._write_sums, iter(range(1))

    def stop(*args):
        if next(left, None) is None:
            raise Killed
        plain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(kept, "_write_sums", stop)
        with pytest.raises(Killed):
            grow(grown.cube, found, grown.plan)
    grow(grown.cube, found, grown.plan)
    assert (tree(aside), tree(grown.cube)) == (right, chunks)


def test_a_chunk_of_days_delivered_that_no_list_has_is_never_just_removed(grown):
    """It is made again from its deliveries; if they are gone that is said, and it stays."""
    chunk, listed = grown.cube / "shortwave/c/1/0/0", growth_folder(grown.cube) / "sums" / "1.json"
    right, sums = chunk.read_bytes(), unseal(listed.read_text())["sums"]
    listed.write_text(seal({"sums": {key: value for key, value in sums.items() if key != "shortwave/c/1/0/0"}}))
    with pytest.raises(CubeError, match=r"shortwave/c/1/0/0: 27 of its days are from b\.nc, which is gone"):
        grow(grown.cube, [], grown.plan)
    assert chunk.read_bytes() == right
    assert grow(grown.cube, grown.look().deliveries, grown.plan).mended == (f"{chunk}: never written",)
    assert chunk.read_bytes() == right


@pytest.mark.parametrize("base", ["changed", "gone"])
def test_a_chunk_is_not_mended_from_a_base_that_is_another(place, tmp_path, base):
    first = CUBE.isel(time=slice(0, 20))
    place.plan = replace(PLAN, base=str(write_cube(first, tmp_path / "base.zarr")))
    place.drop("a.nc", slice(15, 60))
    place.grow()
    shutil.rmtree(tmp_path / "base.zarr")
    if base == "changed":
        write_cube(first.assign(shortwave=first.shortwave + 1), tmp_path / "base.zarr")
    chunk = place.cube / "shortwave/c/0/0/0"
    spoil(chunk)
    before = tree(place.cube)
    with pytest.raises(CubeError, match=r"(?s)what could mend it is not at its source.*shortwave/c/0/0/0: .*base"):
        place.grow()
    assert tree(place.cube) == before


def test_a_small_file_damaged_with_its_list_does_not_become_the_truth(grown):
    aside, found = growth_folder(grown.cube), grown.look().deliveries
    right = tree(grown.cube), tree(aside)
    spoil(aside / "sums" / "still.json")
    spoil(grown.cube / "crop_fraction/c/0/0")
    with pytest.raises(CubeError, match=r"(?s)nothing says which are right.*crop_fraction/c/0/0"):
        grow(grown.cube, found, grown.plan)
    spoil(grown.cube / "crop_fraction/c/0/0", "lost")  # then the copy is right
    assert len(grow(grown.cube, found, grown.plan).mended) == 2
    assert (tree(grown.cube), tree(aside)) == right


def test_what_killed_processes_leave_is_cleared(grown):
    aside, right = growth_folder(grown.cube), tree(grown.cube)
    for folder in ("crop_fraction/c/0", "shortwave/c/0/0"):
        (grown.cube / folder / ".0.12345678.tmp").write_bytes(b"half")
    assert cube_damages(grown.cube, aside) == []
    assert not grow(grown.cube, grown.look().deliveries, grown.plan).mended
    assert tree(grown.cube) == right


def test_a_refused_growth_leaves_nothing_beside_a_cube(place, tmp_path):
    place.drop("a.nc", slice(0, 10))
    write_cube(CUBE, place.cube)
    with pytest.raises(CubeError, match="cannot grow"):
        place.grow()
    assert not growth_folder(place.cube).exists()


def test_a_full_disk_changes_nothing(place, monkeypatch):
    place.drop("a.nc", slice(0, 10))
    place.grow()
    place.drop("b.nc", slice(10, 90))
    found = place.look().deliveries
    before = tree(place.cube.parent)

    def full(_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full"):
            grow(place.cube, found, PLAN)
    assert tree(place.cube.parent) == before
    assert place.grow().new == {name: days(10, 90) for name in NAMES}


@pytest.fixture
def revision(place):
    """Return a place with a cube and deliveries that revise, extend and empty it, and what must come out."""
    place.drop("a.nc", slice(0, 80))
    place.grow()
    once = Place(place.folder.parent / "once")
    place.drop("a.nc", slice(0, 70), when=2, change=lambda ds: ds.assign(shortwave=ds.shortwave * np.nan))
    place.drop("b.nc", slice(70, 150), when=2, change=plus(1))
    growth = grow(once.cube, place.look().deliveries, PLAN)
    assert growth.new
    return place, tree(once.cube)


def test_stopped_before_a_move_and_run_again_gives_the_same_cube(revision, monkeypatch, tmp_path):
    place, expected = revision
    start, found, plain = tree(place.cube), place.look().deliveries, Path.replace
    aside = growth_folder(place.cube)
    beside = tree(aside)
    stops = 0
    while True:
        left = iter(range(stops))

        def stop(path, target, left=left):
            if next(left, None) is None:
                raise Killed
            return plain(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stop)
            try:
                grow(place.cube, found, PLAN)
            except Killed:
                (aside / "staged").mkdir(exist_ok=True)  # a killed process leaves it
            else:
                break
        growth = grow(place.cube, found, PLAN)
        assert tree(place.cube) == expected
        assert growth.new == {name: days(80, 150) for name in NAMES}  # told, whoever finished it
        assert sorted(path.name for path in aside.iterdir()) == BESIDE
        stops += 2  # every second move
        for path in (*place.cube.rglob("*"), *aside.rglob("*")):
            if path.is_file():
                path.unlink()
        for name, data in start.items():
            (place.cube / name).write_bytes(data)
        for name, data in beside.items():
            (aside / name).write_bytes(data)
    assert stops > 15


@pytest.fixture(scope="module")
def processes():
    """Return a maker of processes that begin with fluxgrid loaded and nothing else done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxgrid.data.cube.grow", "fluxgrid.sources.deliveries"])
    return context


@pytest.mark.parametrize("kills", [KILLS, pytest.param(SLOW_KILLS, marks=pytest.mark.slow)])
def test_killed_at_random_and_run_again_gives_the_same_cube(tmp_path, processes, kills):
    moments, done, round_ = random.Random(kills), 0, 0
    found, expected = [], {}
    for stop in (80, 150):
        one = Place(tmp_path / f"deliveries{stop}")
        one.drop("a.nc", slice(0, stop), when=stop // 10, change=plus(stop))
        found.append(one.look().deliveries)
        grow(one.cube, found[-1], PLAN)
        expected[stop] = tree(one.cube)
    stages = set()
    while done < kills:
        cube = tmp_path / f"cube{round_}.zarr"
        round_ += 1
        for deliveries, stop in zip(found, expected, strict=True):
            while True:
                child = processes.Process(target=grow, args=(cube, deliveries, PLAN))
                child.start()
                if done < kills:
                    # half of them while files are put together, half while they move
                    mark, most = moments.choice([("staged", 0.1), ("journal.json", 0.01)])
                    wait_for_growth(child, growth_folder(cube) / mark)
                    time.sleep(moments.uniform(0, most))
                    child.kill()
                child.join()
                if child.exitcode == 0:
                    break
                assert child.exitcode == -9
                done += 1
                stages.add("moving" if (growth_folder(cube) / "journal.json").exists() else "staging")
            assert tree(cube) == expected[stop]
            assert sorted(path.name for path in growth_folder(cube).iterdir()) == BESIDE
            assert cube_damages(cube, growth_folder(cube)) == []
    print(f"{done} kills, while {' and '.join(sorted(stages))}; cubes lost or different: 0")


def wait_for_growth(child, mark):
    """Wait until a process is so far, or has ended."""
    end = time.monotonic() + 60
    while child.is_alive() and not mark.exists():
        assert time.monotonic() < end, "it never began"
        time.sleep(0.0002)


READER = """
import sys, numpy as np, xarray as xr
cube, most, looks = sys.argv[1], 0, 0
print("ready", flush=True)
while looks < 40 or most < 160:
    with xr.open_zarr(cube) as seen:
        known = int((seen.delivery_status.values > 0).sum())  # first: chunks come before the status that speaks of them
        seen = seen.load()
    times = seen.indexes["time"]
    assert len(times) % 73 == 0 and (np.diff(times.to_numpy()) == np.timedelta64(1, "D")).all(), times
    for name in ("temperature_2m", "precipitation", "shortwave"):
        whole = ~np.isnan(seen[name].values)
        assert (whole.all((1, 2)) | ~whole.any((1, 2))).all(), "part of a day"
        assert int(whole.all((1, 2)).sum()) >= known
    assert known >= most, "it shrank"
    most, looks = known, looks + 1
print(looks)
"""


def test_a_reader_never_sees_half_of_anything(place):
    place.drop("a.nc", slice(0, 7))
    place.grow()
    reader = subprocess.Popen([sys.executable, "-c", READER, str(place.cube)], stdout=-1, stderr=-1, text=True)
    assert reader.stdout.readline() == "ready\n"
    for week, first in enumerate(range(7, 160, 17)):
        place.drop(f"b{first}.nc", slice(0, min(first + 17, 160)), when=2 + week, change=plus(week))
        place.grow()
    out, errors = reader.communicate(timeout=120)
    assert (reader.returncode, errors) == (0, "")
    assert int(out) >= 10  # once a growth or more, also on a busy machine
