"""An installed wheel carries regions, configurations and the default checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder into which a fresh wheel is installed, far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", str(REPOSITORY), "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(folder.glob("fluxgrid-*.whl"))
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", f"--target={target}", str(wheel)], check=True, capture_output=True)
    return target


def call(installed: Path, cwd: Path, *words: str) -> str:
    """Run the installed command line from another folder, and make sure that it is the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    check = f"import fluxgrid.cli; assert fluxgrid.cli.__file__.startswith({str(installed)!r}); fluxgrid.cli.main()"
    command = [sys.executable, "-c", check, *words]
    answer = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_wheel_knows_its_regions_runs_and_models(installed, tmp_path):
    regions = call(installed, tmp_path, "regions")
    assert regions.startswith("conus")
    assert "midwest" in regions
    models = call(installed, tmp_path, "models")
    assert "checkpoint default: kgml_ag, daily." in models
    plan = call(installed, tmp_path, "upscale", "midwest", "--dry-run", "resolution=0.5")
    assert "pixel-days" in plan
    assert list(tmp_path.iterdir()) == []
