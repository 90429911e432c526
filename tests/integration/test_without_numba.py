"""A whole map - gaps, spin-up, applicability, files - where numba cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest

_PROGRAM = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None; from fluxgrid.cli import main; main()"


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_the_map_is_the_same_to_rounding_and_says_why_it_was_slow(world, baseline, tmp_path, kind):
    command = world.command(tmp_path / "map", model=str(getattr(world, kind)))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *command[3:]], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "map" / "manifest.json").read_text())
    assert any("numba cannot be imported" in warning for warning in manifest["warnings"])
    for path in sorted(baseline[kind].glob("*.nc")):
        with netCDF4.Dataset(path) as expected, netCDF4.Dataset(tmp_path / "map" / path.name) as found:
            largest = max(float(np.abs(expected[name][...]).max()) for name in ("gpp", "reco"))
            for name in ("nee", "gpp", "reco"):
                one, other = expected[name][...], found[name][...]
                np.testing.assert_array_equal(np.ma.getmaskarray(other), np.ma.getmaskarray(one))
                assert float(np.abs(other - one).max()) < 2e-6 * largest  # single precision, other sums
