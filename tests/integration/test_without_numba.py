"""A whole map - gaps, spin-up, applicability, files - where numba cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fluxgrid.netcdf import open_netcdf

_PROGRAM = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None; from fluxgrid.cli import main; main()"


@pytest.mark.slow
def test_the_map_is_the_same_to_rounding_and_says_why_it_was_slow(world, baseline, tmp_path):
    command = world.command(tmp_path / "map")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *command[3:]], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "map" / "manifest.json").read_text())
    assert any("numba cannot be imported" in warning for warning in manifest["warnings"])
    for path in sorted(baseline["ct_gru"].glob("*.nc")):
        with open_netcdf(path) as expected, open_netcdf(tmp_path / "map" / path.name) as found:
            largest = max(float(np.abs(expected[name]).max()) for name in ("gpp", "reco"))
            for name in ("nee", "gpp", "reco"):
                one, other = expected[name].values, found[name].values
                np.testing.assert_array_equal(np.isnan(other), np.isnan(one))
                assert float(np.nanmax(np.abs(other - one))) < 2e-6 * largest  # single precision, other sums
