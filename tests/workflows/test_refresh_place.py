"""Where a refresh stands, and how it sees that files changed."""

from __future__ import annotations

import os
import tracemalloc
from types import SimpleNamespace

import pytest

from fluxgrid.config_map import UpscaleConfig
from fluxgrid.provenance import digest
from fluxgrid.workflows.refresh import fingerprint
from fluxgrid.workflows.refresh_place import Place, cube_state, files_state


def place_of(**values) -> Place:
    return Place.of(UpscaleConfig(**{"region": "iowa", **values}))


def test_a_file_that_comes_changes_the_state_of_a_pattern(tmp_path):
    place = place_of(cube=str(tmp_path / "pr_*.nc"))
    states = {cube_state(place)}
    for name in ("pr_1.nc", "pr_2.nc"):
        (tmp_path / name).write_text("a")
        states.add(cube_state(place))
    assert len(states) == 3
    (tmp_path / "other.nc").write_text("a")
    assert cube_state(place) in states


def test_a_cube_elsewhere_has_no_state_and_one_of_this_machine_has(tmp_path):
    assert cube_state(place_of(cube="s3://bucket/cube.zarr")) == ""
    (tmp_path / "cube.zarr").mkdir()
    (tmp_path / "cube.zarr" / "zarr.json").write_text("{}")
    here = [place_of(cube=f"{scheme}{tmp_path}/cube.zarr") for scheme in ("", "file://")]
    assert cube_state(here[0]) == cube_state(here[1]) != ""


def change(path):
    path.write_text("longer")


def touch(path):
    os.utime(path, ns=(1, 1))


def move(path):
    path.rename(path.with_name("c"))


@pytest.mark.parametrize("what", [change, touch, move, os.unlink])
def test_whatever_happens_to_a_file_shows(tmp_path, what):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/0", "a/1", "2"):
        (tmp_path / name).write_text("x")
    before = files_state([tmp_path])
    assert files_state([tmp_path]) == before
    what(tmp_path / "a" / "b" / "0")
    assert files_state([tmp_path]) != before


def test_a_link_that_leads_nowhere_is_no_error_and_shows_when_it_leads_somewhere(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "target")
    states = [files_state([tmp_path / "folder"])]
    for text in ("a", "longer"):
        (tmp_path / "target").write_text(text)
        states.append(files_state([tmp_path / "folder"]))
    assert len(set(states)) == 3


def test_the_state_of_many_files_is_not_held(tmp_path):
    for folder in range(40):
        (tmp_path / str(folder)).mkdir()
        for name in range(50):
            (tmp_path / str(folder) / str(name)).touch()
    files_state([tmp_path])
    tracemalloc.start()
    files_state([tmp_path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000  # 2,000 files: their list alone takes more than 500 kB


def test_boxes_have_folders_of_their_own(tmp_path):
    one, other = (place_of(region=f"-95.5,40.1,-91.5,43.{end}").out for end in (5, 9))
    assert one != other
    (tmp_path / "fields.gpkg").touch()
    assert place_of(region=str(tmp_path / "fields.gpkg")).out.name == "fields"
    assert place_of().out.name == "iowa"


def test_mappings_and_the_order_of_deliveries_are_in_the_fingerprint(tmp_path):
    mapping = tmp_path / "base.yaml"
    source = {"location": str(tmp_path), "base": "land.zarr", "base_mapping": str(mapping)}
    config = UpscaleConfig(region="iowa", out=str(tmp_path / "out"), refresh={"source": source})
    found = []
    for text, changed in (("a: 1", 1), ("a: 10", 1), ("a: 10", 2)):
        mapping.write_text(text)
        delivery = SimpleNamespace(rank=(True, "2019-01-01", changed, "d"), digest="d", status="final", issued="2019")
        found.append(digest(fingerprint(config, Place.of(config), SimpleNamespace(deliveries=[delivery]))))
    assert len(set(found)) == 3
