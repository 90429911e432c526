"""A cube is checked for a model as the handshake would."""

from __future__ import annotations

import json

from fluxgrid.simulation import WORLD_SOURCE
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.workflows.cube import check


def test_step_and_origin_of_the_model_are_problems(tmp_path):
    path = str(tmp_path / "monthly.zarr")
    write_cube(small_cube(step="monthly", periods=14), path)
    assert check(path).ok
    problems = check(path, model="default").problems
    assert any("trained on simulated towers" in problem for problem in problems)
    assert any("the cube is monthly, the model daily" in problem for problem in problems)
    assert any("soc" in problem for problem in problems)  # and what it lacks, at once


def test_simulated_towers_go_with_a_simulated_cube(tmp_path):
    for name, source in (("world.zarr", f"{WORLD_SOURCE} 1"), ("own.zarr", "ERA5-Land")):
        write_cube(small_cube(periods=14).assign_attrs(source=source), tmp_path / name)
        problems = check(str(tmp_path / name), model="default").problems
        assert any("simulated towers" in problem for problem in problems) == (name == "own.zarr")


def test_rechunk_from_the_command_line(tmp_path, run):
    source = str(tmp_path / "cube.zarr")
    write_cube(small_cube(shape=(34, 40)), source)
    target = tmp_path / "tiles.zarr"
    code, out, _ = run("cube", "rechunk", source, str(target), "--json")
    assert code == 0
    assert json.loads(out)["path"] == str(target)
    assert run("cube", "rechunk", source, str(target))[0] == 2  # never unasked
    assert run("cube", "rechunk", source, str(target), "--overwrite")[0] == 0
    assert run("cube", "rechunk", source, source, "--overwrite")[0] == 2
    (tmp_path / "mine").mkdir()
    code, _, err = run("cube", "rechunk", source, str(tmp_path / "mine"), "--overwrite")
    assert code == 2
    assert "no zarr store" in err


def test_info_says_what_reading_costs(tmp_path, run):
    cube = small_cube(shape=(130, 130), periods=3)
    write_cube(cube, tmp_path / "map.zarr", chunks=(130, 130))
    code, out, err = run("cube", "info", str(tmp_path / "map.zarr"))
    assert code == 0
    assert "decodes 25.0 times the bytes it needs" in out
    assert "fluxgrid cube rechunk" in err
