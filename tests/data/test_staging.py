"""Files of a store replaced as good as at once: what another process does meanwhile loses nothing."""

from __future__ import annotations

import errno
import os

import pytest

from fluxgrid.data.cube import staging
from fluxgrid.data.cube.staging import Staging, done, unfinished
from fluxgrid.errors import OutputError


def test_files_that_another_process_takes_away_are_not_taken_for_moved(tmp_path):
    aside, target = tmp_path / "c.growth", tmp_path / "c.zarr"
    mine = Staging(aside, target)
    mine.put("x/c/0", b"mine")
    Staging(aside, target)  # where nobody holds a lock: it begins anew, and so removes what is staged
    with pytest.raises(OutputError, match=r"x/c/0 .*went away"):
        mine.publish({})
    assert not target.exists()
    assert unfinished(aside, target) is None


def test_files_reach_the_disk_together_before_the_journal_and_after_the_moves(tmp_path, monkeypatch):
    aside, target, flushed, single = tmp_path / "c.growth", tmp_path / "c.zarr", [], []
    plain = os.fsync
    monkeypatch.setattr(
        staging, "flush_below", lambda folder: flushed.append((folder.name, (aside / "journal.json").exists()))
    )
    monkeypatch.setattr(os, "fsync", lambda handle: single.append(handle) or plain(handle))
    with Staging(aside, target) as files:
        for number in range(50):
            files.put(f"x/c/{number}", b"value")
        assert not single
        files.publish({})
        done(aside)
    assert flushed == [("staged", False), ("c.zarr", True)]
    assert len(single) == 3  # the journal, and its folder before and after


def test_files_that_do_not_reach_the_disk_are_not_moved(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    aside, target = tmp_path / "c.growth", tmp_path / "c.zarr"
    monkeypatch.setattr(staging, "flush_below", full)
    with Staging(aside, target) as files:
        files.put("x/c/0", b"value")
        with pytest.raises(OutputError, match="the disk is full"):
            files.publish({})
    assert not target.exists()
    assert list(aside.iterdir()) == []
