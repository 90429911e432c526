"""The archive: what is published, found again, compared, rolled back, pruned."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from fluxgrid.errors import DamagedMap, OutputExists, RunLocked, TileMismatch, UnknownName
from fluxgrid.output.archive import Archive, ArchiveWouldShrink, StagedUnit, StagedYear
from fluxgrid.output.layers import Layers


def test_version_is_found_by_number_tag_and_date(archive, maker):
    assert archive.newest() is None
    with pytest.raises(UnknownName, match="has no version yet"):
        archive.at()
    one = archive.publish([maker.stage(2019, 1)], tag="r20260101", message={"commit": "abc"}, covered="2020-01-01")
    two = archive.publish([maker.stage(2020, 2)])
    assert (one.id, two.id, two.parent, two.covered, two.changed) == (1, 2, 1, "2020-01-01", 4)
    assert archive.versions() == [one, two] == Archive.open(archive.path).versions()
    assert dict(archive.find(1).message) == {"commit": "abc"}
    between = datetime.fromisoformat(one.time)
    today = two.time[:10]
    for which, right in ((1, one), ("r20260101", one), (between, one), (one.time, one), (today, two), (None, two)):
        assert archive.find(which) == right
    assert archive.find(datetime(2100, 1, 1, tzinfo=UTC)) == two
    for which, words in ((3, "has no version 3"), ("2019-05-01", "not before the first"), ("best", "neither a tag")):
        with pytest.raises(UnknownName, match=words):
            archive.find(which)


def test_series_of_years(archive, maker):
    archive.publish([maker.stage(2020, 2, filled=3), maker.stage(2019, 1)])
    dataset = archive.at()
    assert dict(dataset.sizes) == {"time": 24, "y": 5, "x": 7, "year": 2}
    assert dataset["nee"].chunks[1:] == ((2, 2, 1), (2, 2, 2, 1))
    assert dataset["spatial_ref"].shape == ()
    assert dataset["corn_yield"].sel(year=2020).values.max() == 2
    counts = np.isfinite(dataset["nee"]).all(("y", "x")).groupby("time.year").sum()
    assert counts.values.tolist() == [12, 3]
    assert dataset["nee"].sum().compute(scheduler="processes", num_workers=1) == dataset["nee"].sum()  # it travels


def test_stock_reader_needs_no_fluxgrid(archive, maker):
    archive.publish([maker.stage(2019, 1)])
    dataset = xr.open_zarr(archive.path / "versions" / "000001" / "2019.zarr", consolidated=False)
    assert maker.values(dataset) == dict.fromkeys(maker.tiles, 1)
    assert maker.values(dataset, "corn_yield") == dict.fromkeys(maker.tiles, 1)


def test_publishing_nothing_changes_nothing(archive, maker, files_of):
    one = archive.publish([maker.stage(2019, 1)])
    before = files_of(archive.path)
    for staged in ([], [maker.stage(2019, 1)], [maker.stage(2019, 2, [])], [maker.stage(2019, 1, maker.tiles[1:3])]):
        assert archive.publish(staged) == one
    assert archive.rollback(1) == one
    assert files_of(archive.path) == before
    assert not (archive.path / ".work").exists()


def test_what_stands_is_tagged_by_a_version_of_the_same_state(archive, maker, files_of):
    one = archive.publish([maker.stage(2019, 1)])
    before = files_of(archive.path / "years")
    for number, make in ((2, archive.publish), (3, lambda staged, tag: archive.rollback(1, tag))):
        version = make([], f"t{number}")
        assert (version.id, version.tag, version.changed, version.years) == (number, f"t{number}", 0, one.years)
        assert archive.find(f"t{number}") == version
    assert files_of(archive.path / "years") == before


def test_only_what_changed_is_stored_again(archive, maker):
    """The cost of a publication is that of its units, however many years and versions there are."""
    written = []
    for year in range(2001, 2004):
        before = {path.stat().st_ino for path in archive.path.rglob("*") if path.is_file()}
        archive.publish([maker.stage(2000, year - 2000, maker.tiles[:1]), maker.stage(year, 1)])
        written.append(sum(path.stat().st_ino not in before for path in archive.path.rglob("*") if path.is_file()))
    assert len({*written[1:]}) == 1
    known = {path.stat().st_ino for path in archive.path.rglob("*") if path.is_file()}
    archive.publish([maker.stage(2003, 2, maker.tiles[:1])])
    fresh = {path for path in archive.path.rglob("nee/c/0/*/*") if path.stat().st_ino not in known}
    assert {path.parts[-2:] for path in fresh} == {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}


def test_same_values_from_other_inputs_change_the_key_alone(archive, maker):
    archive.publish([maker.stage(2019, 1)])
    staged = maker.stage(2019, 1, maker.tiles[:2])
    renamed = StagedYear(staged.path, {name: StagedUnit("other", unit.digest) for name, unit in staged.units.items()})
    archive.publish([renamed])
    difference = archive.diff(1)
    assert difference.values == ()
    assert difference.keys == tuple((tile, 2019) for tile in maker.tiles[:2])
    assert archive.units()[maker.tiles[0], 2019].key == "other"
    assert archive.units(1)[maker.tiles[0], 2019].key == "key 1 12"


def test_difference_with_values(archive, maker):
    archive.publish([maker.stage(2019, 1)])
    archive.publish([maker.stage(2019, 3, maker.tiles[1:2]), maker.stage(2020, 2, maker.tiles[2:3])])
    difference = archive.diff(1, 2)
    assert (difference.values, difference.keys) == (((maker.tiles[1], 2019),), ())
    assert difference.added == ((maker.tiles[2], 2020),)
    assert archive.diff(2, 1).removed == difference.added
    found = {unit: (old, new) for unit, old, new in archive.compare(1, 2, "gpp")}
    assert found.keys() == {*difference.values, *difference.added}
    old, new = found[maker.tiles[1], 2019]
    assert old.shape == new.shape == (12, 4, 3)
    assert (old.max(), new.min()) == (1, 3)
    assert found[maker.tiles[2], 2020][0] is None


def test_shrinking_is_refused_and_told(archive, maker, files_of):
    archive.publish([maker.stage(2019, 1)], covered="2020-01-01")
    before = files_of(archive.path)
    with pytest.raises(
        ArchiveWouldShrink, match=r"1 units would lose steps \(84 values\).*12 before, 5 after"
    ) as caught:
        archive.publish([maker.stage(2019, 1, maker.tiles[1:2], filled=5)])
    assert caught.value.exit_code == 4
    assert caught.value.shrinkage.units == (((maker.tiles[1], 2019), 12, 5),)
    with pytest.raises(ArchiveWouldShrink, match="move back from 2020-01-01 to 2019-12-31") as caught:
        archive.publish([maker.stage(2019, 2)], covered="2019-12-31")
    assert caught.value.shrinkage.covered == ("2020-01-01", "2019-12-31")
    assert files_of(archive.path) == before
    assert archive.publish([maker.stage(2019, 1, maker.tiles[1:2], filled=5)], allow_shrink=True).id == 2


def test_pruning_frees_the_disk_and_open_datasets_say_so(archive, maker):
    for value in (1, 2, 3):
        archive.publish([maker.stage(2019, value)], tag=f"v{value}")
    stale = archive.at(2)
    size = sum(path.stat().st_blocks * 512 for path in archive.path.rglob("*") if path.is_file())
    pruned = archive.prune(1, ["v1"])
    assert pruned.versions == (2,)
    assert 0.25 * size < pruned.freed < 0.4 * size
    assert maker.values(archive.years("v1")[2019]) == dict.fromkeys(maker.tiles, 1)
    with pytest.raises(DamagedMap, match="was pruned"):
        stale["nee"].values  # noqa: B018
    with pytest.raises(UnknownName, match="no tag v2 to protect; there are v1, v3"):
        archive.prune(1, ["v2"])
    with pytest.raises(UnknownName, match="Cannot keep 0"):
        archive.prune(0)
    assert archive.publish([maker.stage(2019, 1)]).id == 4


def test_time_never_goes_back(archive, maker, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2020, 1, 1, tzinfo=UTC)

    one = archive.publish([maker.stage(2019, 1)])
    monkeypatch.setattr("fluxgrid.output.archive.times.datetime", Clock)
    two = archive.publish([maker.stage(2019, 2)])
    assert datetime.fromisoformat(two.time) > datetime.fromisoformat(one.time)
    assert archive.find(one.time) == one


def test_second_writer_is_told(archive, maker, files_of):
    from fluxgrid.output.archive import disk

    other = Archive.open(archive.path)
    archive.publish([maker.stage(2019, 1)])
    before = files_of(archive.path)
    with pytest.raises(RunLocked, match=r"newest version is 1, and was 0 when it was opened"):
        other.publish([maker.stage(2019, 2)])
    with pytest.raises(RunLocked, match="newest version is 1"):
        other.rollback(1)
    with disk.writing(archive.path), pytest.raises(RunLocked, match="Another process publishes"):
        archive.publish([maker.stage(2019, 2)])
    assert files_of(archive.path) == before


def test_without_locks_a_number_is_taken_once(archive, maker, monkeypatch):
    """On disks that cannot lock, the one who comes second finds the number of its version taken."""
    nobody = SimpleNamespace(check=lambda: None)
    monkeypatch.setattr("fluxgrid.output.archive.disk.held", lambda *_: nullcontext(nobody))
    archive.publish([maker.stage(2019, 1)])
    other, flush = Archive.open(archive.path), archive.path / "never"

    def overtake(folder: Path) -> None:
        if not flush.exists():
            flush.touch()
            other.publish([maker.stage(2019, 2)])

    monkeypatch.setattr("fluxgrid.output.archive.archive.flush_below", overtake)
    with pytest.raises(RunLocked, match="newest version is 2, and was 1"):
        archive.publish([maker.stage(2019, 3)])
    assert maker.values(other.years()[2019]) == dict.fromkeys(maker.tiles, 2)
    assert len(list(archive.path.glob("years/2019/*"))) == 2
    assert other.verify() == []


def test_what_does_not_fit_is_refused_at_the_door(archive, maker, tmp_path):
    with pytest.raises(OutputExists, match="Open the archive that is there"):
        maker.create(archive.path)
    with pytest.raises(TileMismatch, match="A tile of 4 cells is not a whole number of chunks of 3"):
        maker.create(tmp_path / "other", chunk=3)
    with pytest.raises(TileMismatch, match="2019 is staged twice"):
        archive.publish([maker.stage(2019, 1), maker.stage(2019, 2)])
    staged = maker.stage(2019, 1)
    with pytest.raises(DamagedMap, match="not what its record says"):
        archive.publish([StagedYear(staged.path, {maker.tiles[0]: StagedUnit("key", "0" * 32)})])
    coarse = maker.create(tmp_path / "daily", step="daily", chunk=4, layers=Layers())
    with pytest.raises(TileMismatch) as caught:
        coarse.publish([StagedYear(staged.path, {"r0099c0000": StagedUnit("key")})])
    for words in ("tiles r0099c0000 are not", "its time runs", "(12), not", "corn_yield is not in the archive"):
        assert words in str(caught.value)
    with pytest.raises(TileMismatch, match=r"nee has chunk_grid .*\(12, 2, 2\).*not"):
        maker.create(tmp_path / "wide", chunk=4).publish([staged])
    archive.publish([staged], tag="a")
    for tag, words in (
        ("a", "Version 1 .* has the tag 'a' already"),
        ("a b", "cannot be a tag"),
        ("2025-01-01", "a date"),
    ):
        with pytest.raises(UnknownName, match=words):
            archive.publish([maker.stage(2019, 2)], tag=tag)


def test_calibrated_places_may_be_added_last(maker, tmp_path):
    def staged(value, tiles, *places):
        return maker.stage(2019, value, tiles, layers=Layers(calibrated_places=places))

    archive = maker.create(tmp_path / "archive", layers=Layers(calibrated_places=("Iowa",)))
    archive.publish([staged(1, maker.tiles, "Iowa")])
    archive.publish([staged(2, maker.tiles[:1], "Iowa", "Ohio")])
    assert archive.years()[2019]["calibration_id"].attrs["places"] == ["Iowa", "Ohio"]
    with pytest.raises(TileMismatch, match="calibrated places changed"):
        archive.publish([staged(3, maker.tiles[:1], "Iowa", "Utah", "Ohio")])
    archive.publish([staged(3, maker.tiles, "Iowa", "Utah", "Ohio")])
    assert archive.years(1)[2019]["calibration_id"].attrs["places"] == ["Iowa"]
