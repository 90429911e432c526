"""Fixtures shared by the tests: where the real data are, and which settings hypothesis uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Shared continuous-integration machines are slow at random: a deadline would fail on the machine, not on the code.
settings.register_profile("fluxgrid", deadline=None, derandomize=True)
settings.load_profile("fluxgrid")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real towers and grids; its absence skips, or fails where data are required."""
    folder = os.environ.get("FLUXGRID_TEST_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    reason = "FLUXGRID_TEST_DATA does not point to the folder with the real towers and grids"
    if os.environ.get("FLUXGRID_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
