from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import yaml

from fluxgrid import files
from fluxgrid.errors import ConfigError, OutputError
from fluxgrid.files import (
    atomic_folder,
    atomic_path,
    check_writable,
    configs_folder,
    output_error,
    parse_yaml,
    write_text,
)
from fluxgrid.upscaling.folder import _LITTER


class Killed(BaseException):
    """Like KeyboardInterrupt: nothing that catches Exception stops it."""


def test_a_file_appears_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "map.nc"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".nc"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, Killed, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "map.nc"
    target.write_text("old")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_a_failed_folder_leaves_nothing(tmp_path, error):
    def fail():
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "part").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_and_replaces_nothing(tmp_path):
    target = tmp_path / "deep" / "model"

    def write(content):
        with atomic_folder(target) as folder:
            (folder / "part").write_text(content)

    write("first")
    with pytest.raises(OutputError, match="not empty"):
        write("second")
    assert (target / "part").read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def replace_folder(target):
    with atomic_folder(target, replace=True) as folder:
        (folder / "part").write_text("new")


@pytest.mark.parametrize("able", [True, False])
def test_a_folder_is_replaced_where_a_link_points_to(tmp_path, able, monkeypatch):
    if not able:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "part").write_text("old")
    (tmp_path / "link").symlink_to("there")
    replace_folder(tmp_path / "link")
    assert (tmp_path / "there" / "part").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is of Linux")
def test_a_folder_stands_at_every_moment(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("two renames leave a gap"))
    replace_folder(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_failed_swap_puts_the_old_folder_back_or_says_where_it_is(tmp_path, lost, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "part").write_text("old")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    rename, calls = Path.rename, []

    def fail(self, target):
        calls.append(self)
        if len(calls) == 2 or (lost and len(calls) == 3):
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match=r"now at .*store\.old-" if lost else "broken"):
        replace_folder(tmp_path / "store")
    (left,) = tmp_path.iterdir()
    assert (left / "part").read_text() == "old"
    assert not _LITTER.match(left.name)


def test_two_writers_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.txt") as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "a.txt").read_text() == "one"  # the block that ends last


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*file/a\.txt.*Nothing that was finished before is lost"):
        write_text(tmp_path / "file" / "a.txt", "text")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied; choose a folder you may write to"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_says_is_put_into_words(number, text):
    assert text in str(output_error(OSError(number, os.strerror(number)), "/maps/a.nc"))


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "note.txt", "Köppen, m²\n")
    assert (tmp_path / "note.txt").read_bytes() == "Köppen, m²\n".encode()


def test_the_configs_are_found_beside_the_package_or_in_it(tmp_path, monkeypatch):
    assert (configs_folder() / "runs" / "midwest.yaml").is_file()
    package = tmp_path / "site-packages" / "fluxgrid"
    (package / "configs" / "regions").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    assert configs_folder() == package / "configs"


def test_lost_configs_say_where_they_should_be(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "fluxgrid" / "files.py"))
    with pytest.raises(ConfigError, match=r"looked in .*fluxgrid/configs and .*configs\. Install it again"):
        configs_folder()


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "fit: {seed: 1, seed: 2}", "x: !!python/object/apply:os.getcwd []", "a: ["]
)
def test_yaml_that_loses_keys_or_builds_objects_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_yaml_anchors_may_be_merged():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b" / "c", "a", "a/b"):
        check_writable(path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_or_without_permission_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*file/model: .*[Nn]ot a directory"):
        check_writable(tmp_path / "file" / "model")

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match=r"Cannot write .*model: permission is denied; choose a folder"):
        check_writable(tmp_path / "model")
