"""Fixtures shared by the tests: where the real data are, and which settings hypothesis uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Any]:
    """Return a function that gives the `ModelSpec` of a model for the towers of `fluxgrid.testing.small_sites`."""
    from fluxgrid.data.gaps import GapRule
    from fluxgrid.data.inputs import InputSpec
    from fluxgrid.models import ModelSpec

    def make(kind: str = "ct_gru", settings: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
        inputs = InputSpec(
            ("temperature_2m", "shortwave", "precipitation", "day_length"),
            ("crop_fraction",),
            ("climate_group",),
            {"temperature_2m": GapRule(2), "shortwave": GapRule(1, harmonics=1)},
        )
        about = {"step": "monthly", "inputs": inputs, "spin_up_years": 1, "day_definition": "UTC"} | changes
        return ModelSpec("small", kind, {"hidden": 8} if settings is None else settings, **about)

    return make
