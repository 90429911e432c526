"""What stands is kept: nothing is computed twice, nothing is replaced unasked, dry runs write nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import zarr

from fluxgrid import cli
from fluxgrid.errors import OutputExists
from fluxgrid.netcdf import netcdf_file
from fluxgrid.output import qgis
from fluxgrid.upscaling import publish as publish_module


@pytest.fixture
def finished(world, baseline, tmp_path) -> Path:
    """A finished map that a test may harm."""
    shutil.copytree(baseline["ct_gru"], tmp_path / "map")
    return tmp_path / "map"


@pytest.fixture
def fluxgrid(capsys, monkeypatch):
    """Return a function that runs the command line in this process."""

    def call(words):
        monkeypatch.setattr(sys, "argv", ["fluxgrid", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("changes", [{}, {"tile": 64}, {"workers": 2}, {"max_missing": 1}], ids=str)
def test_same_command_again_writes_nothing(world, finished, fluxgrid, snapshot, changes):
    before = snapshot(finished)
    for words in ([], ["--resume"], ["--overwrite"]):
        code, output, errors = fluxgrid(world.command(finished, *words, **changes)[3:])
        assert (code, output) == (0, f"{finished} is up to date.\n")
        assert errors.startswith("Note: 13.2% of south_of_the_lake holds no land")
        assert errors.count("\n") == 1
    assert snapshot(finished) == before


@pytest.fixture
def other_cube(world, tmp_path) -> Path:
    """A cube of one's own to change."""
    return shutil.copytree(world.cube, tmp_path / "cube.zarr")


def test_only_a_tile_whose_input_changed_is_made_again(world, other_cube, fluxgrid, snapshot, manifest, tmp_path):
    out = tmp_path / "map"
    world.run(out, cube=str(other_cube))
    before, first = snapshot(out), read_nee(out)
    temperature = zarr.open_array(other_cube / "temperature_2m", mode="r+")
    temperature[400:, 41:46, 3:8] += 1  # January 2021; rows 40 on and columns to 23 are one chunk, in tile r0032c0000
    code, _, errors = fluxgrid(world.command(out, cube=str(other_cube))[3:])
    assert code == 2
    assert "its inputs have changed since. Say --overwrite to bring it up to date: only what changed" in errors
    assert snapshot(out) == before
    world.run(out, "overwrite", cube=str(other_cube))
    assert manifest(out)["units"] == {"computed": 1, "kept": 19}  # 2021, the last of four years
    assert [name for name, row in manifest(out)["tiles"].items() if row["computed"]] == ["r0032c0000"]
    changed = abs(read_nee(out) - first).max(axis=0) > 0
    assert changed[39:44, 1:6].all()
    assert changed.sum() == 25
    world.run(tmp_path / "fresh", cube=str(other_cube))
    assert (read_nee(tmp_path / "fresh") == read_nee(out)).all()


def read_nee(out):
    """Return NEE of January 2021, fill values as they are."""
    with netcdf_file(next(out.glob("*2021.nc"))) as file:
        file.set_auto_mask(False)
        return file["nee"][...]


@pytest.mark.parametrize("name", ["south-of-the-lake_2021.nc", "totals.csv", "quicklook.png", "south-of-the-lake.qlr"])
def test_a_deleted_file_is_noticed(world, finished, fluxgrid, name):
    (finished / name).unlink()
    code, _, errors = fluxgrid(world.command(finished)[3:])
    assert code == 2
    assert "a file of it is missing or was changed. Say --overwrite" in errors


def test_a_deleted_file_is_made_again_without_predicting(world, baseline, finished, digests_of, manifest):
    (finished / "totals.csv").unlink()
    next(finished.glob("*2020.nc")).write_bytes(b"torn")
    world.run(finished, "overwrite")
    assert digests_of(finished) == digests_of(baseline["ct_gru"])
    assert manifest(finished)["units"] == {"computed": 0, "kept": 20}


def test_another_period_replaces_the_old_map_only_when_it_is_ready(
    world, finished, snapshot, manifest, digests_of, monkeypatch
):
    """Interrupted before it is ready the old map stands, and --resume goes on without --overwrite being said again."""
    period = {"start": "2020-11-01", "end": "2020-11-30"}
    old = {name: at for name, at in snapshot(finished).items() if not name.startswith(".fluxgrid")}
    with monkeypatch.context() as patch:
        patch.setattr(qgis, "write_qlr", _interrupt)  # the last of the files
        with pytest.raises(KeyboardInterrupt):
            world.run(finished, "overwrite", **period)
    assert {name: at for name, at in snapshot(finished).items() if not name.startswith(".fluxgrid")} == old
    with pytest.raises(OutputExists, match="holds an unfinished run of this map"):
        world.run(finished, **period)
    assert world.run(finished).status == "up to date", "the old map is still one"
    world.run(finished, "resume", **period)
    assert [path.name for path in finished.glob("*.nc")] == ["south-of-the-lake_2020.nc"]
    assert manifest(finished)["period"] == "2020-11-01 to 2020-11-30"
    assert len(list((finished / ".fluxgrid").iterdir())) == 1
    assert "replaced" not in manifest(finished)


def _interrupt(*_args):
    raise KeyboardInterrupt


def test_a_run_killed_while_it_clears_the_old_map_is_completed_by_the_next(world, finished, manifest, monkeypatch):
    period = {"start": "2020-11-01", "end": "2020-11-30"}
    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "clear_replaced", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.run(finished, "overwrite", **period)
    assert len(list(finished.glob("*.nc"))) == 2
    assert world.run(finished, **period).status == "up to date"
    assert [path.name for path in finished.glob("*.nc")] == ["south-of-the-lake_2020.nc"]
    with pytest.raises(OutputExists, match="holds other results"):  # the old run is gone, not resumable
        world.run(finished, "resume")


def test_unfinished_run_of_another_map_is_named(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fluxgrid.workflows.upscale.publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.run(tmp_path / "map", model=str(world.lightgbm))
    with pytest.raises(
        OutputExists, match="an unfinished map of south-of-the-lake by small-lightgbm, 2020-12-01 to 2021-01-31"
    ):
        world.run(tmp_path / "map", "resume")


def test_dry_run_writes_nothing_and_counts_right(world, fluxgrid, tmp_path):
    code, output, errors = fluxgrid(world.command(tmp_path / "map", "--dry-run", "--json")[3:])
    assert (code, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []
    row = json.loads(output)
    guess = row["estimate"]
    assert (row["status"], row["manifest"]) == ("planned", None)
    assert (guess["tiles"], guess["cells"], guess["years"]) == (5, 2125, 2)
    assert guess["pixel_days"] == 2125 * 62
    assert guess["spin_up_pixel_days"] == 2125 * 366
    assert 0.5e9 < guess["memory_bytes"] < 1e9
    assert 2125 * 62 * 17 < guess["disk_bytes"] < 20e6
    assert 0.01 < guess["seconds"] < 60


def test_dry_run_of_the_synthetic_world_writes_nothing(fluxgrid, tmp_path):
    words = ["upscale", "--region=iowa", "--resolution=0.5", f"--out={tmp_path / 'map'}", "--dry-run"]
    code, output, _ = fluxgrid(words)
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    for word in ("tiles", "cells to predict", "pixel-days", "memory", "disk", "time"):
        assert word in output


def test_json_of_a_run_and_of_the_next_is_one_document(world, fluxgrid, finished, tmp_path, manifest):
    code, output, errors = fluxgrid(world.command(tmp_path / "new", "--json", model=str(world.lightgbm))[3:])
    assert (code, errors) == (0, "")
    assert json.loads(output)["status"] == "done"
    assert json.loads(output)["manifest"] == manifest(tmp_path / "new")
    _, output, _ = fluxgrid(world.command(finished, "--json")[3:])
    assert json.loads(output)["status"] == "up to date"
