"""Whose a run folder is, and one run at a time in it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fluxgrid.errors import OutputError, OutputExists, RunLocked
from fluxgrid.upscaling.folder import RunFolder, check_foreign, clear_litter
from fluxgrid.upscaling.lock import locked
from fluxgrid.upscaling.publish import clear_replaced

ABOUT = {"region": "iowa", "model": "ct-gru", "period": "2019"}


def finish(folder: RunFolder) -> None:
    (folder.path / "manifest.json").write_text(json.dumps({"plan": folder.digest, **ABOUT, "files": {}}))


def test_life_of_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "map", "a" * 32)
    assert folder.status == "fresh"
    folder.path.mkdir()
    folder.claim("new", ABOUT)
    assert folder.status == "unfinished"
    with pytest.raises(OutputExists, match=r"unfinished run of this map\. Say --resume"):
        folder.claim("new", ABOUT)
    folder.claim("resume", ABOUT)
    finish(folder)
    assert folder.status == "finished"
    assert not folder.replacing
    folder.claim("overwrite", ABOUT)
    assert (folder.status, folder.replacing) == ("finished", True)


def test_replacing_may_be_resumed_but_only_over_the_map_that_was_to_be_replaced(tmp_path):
    old, new, third = (RunFolder(tmp_path, letter * 32) for letter in "abc")
    finish(old)
    with pytest.raises(OutputExists, match=r"a map of iowa by ct-gru, 2019.*--overwrite to replace them"):
        new.claim("resume", ABOUT)
    new.claim("overwrite", ABOUT)
    assert (old.status, new.status, third.status) == ("finished", "unfinished", "other")
    new.claim("resume", ABOUT)
    finish(third)
    assert new.status == "other", "nobody said that the third map may go"


@pytest.mark.parametrize(
    "left", [".fluxgrid/aaaaaaaaaaaaaaaa/.plan.0123abcd.tmp.json", ".cube.zarr.0123abcd.tmp/zarr.json"]
)
def test_what_was_killed_before_it_began_does_not_take_a_folder(tmp_path, left):
    path = tmp_path / left
    path.parent.mkdir(parents=True)
    path.write_text("{")
    folder = RunFolder(tmp_path, "a" * 32)
    assert folder.status == "fresh"
    check_foreign(tmp_path, "new")
    folder.claim("new", ABOUT)
    assert not path.exists()


def test_litter_is_told_from_files_of_others(tmp_path):
    mine = [".iowa_2019.0123abcd.tmp.nc", ".fluxgrid/x/2019.zarr/nee/c/0/0/0." + "0123456789abcdef" * 2 + ".partial"]
    theirs = [".draft.tmp", "0123abcd.tmp", ".a.0123.tmp", "notes.partial", "deep/.iowa_2019.0123abcd.tmp.nc"]
    for name in mine + theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    clear_litter(tmp_path)
    assert [name for name in mine + theirs if (tmp_path / name).exists()] == theirs


def test_a_manifest_removes_no_folder_and_nothing_elsewhere(tmp_path):
    folder = RunFolder(tmp_path / "maps" / "iowa", "a" * 32)
    folder.work.mkdir(parents=True)
    for name in ("notes/a.txt", "old_2019.nc"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("x")
    (tmp_path / "b.txt").write_text("x")
    names = ["..", ".", "notes", "../../b.txt", str(tmp_path / "b.txt"), "old_2019.nc", "gone.nc"]
    (folder.path / "manifest.json").write_text(json.dumps({"plan": folder.digest, "replaced": names}))
    clear_replaced(folder)
    assert sorted(p.name for p in folder.path.iterdir()) == [".fluxgrid", "manifest.json", "notes"]
    assert (folder.path / "notes" / "a.txt").exists()
    assert (tmp_path / "b.txt").exists()
    assert folder.manifest == {"plan": folder.digest}


def test_a_torn_manifest_is_none(tmp_path):
    folder = RunFolder(tmp_path, "a" * 32)
    (tmp_path / "manifest.json").write_text('{"plan": "aaa')
    assert folder.manifest is None
    assert folder.status == "other"
    assert not folder.intact()


def test_a_lock_is_held_against_other_processes_and_leaves_nothing(tmp_path):
    out = tmp_path / "maps" / "iowa"
    code = (
        f"from pathlib import Path; from fluxgrid.upscaling.lock import locked\nwith locked(Path({str(out)!r})): pass"
    )
    with locked(out):
        assert [path.name for path in out.iterdir()] == [".lock"]
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "RunLocked: Another run works in" in answer.stderr
        with pytest.raises(RunLocked), locked(out):
            pass
    assert not (tmp_path / "maps").exists(), "empty folders go again"
    with locked(out):
        (out / "map.nc").write_text("x")
    assert [path.name for path in out.iterdir()] == ["map.nc"]


def test_a_lock_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "map"):
        with pytest.raises(OutputError, match="is, or lies below, a file and not a folder"), locked(out):
            pass
