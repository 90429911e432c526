"""A cube is checked for a model as the handshake would."""

from __future__ import annotations

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
