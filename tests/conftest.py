"""Fixtures shared by the tests: where the real data are, and which settings hypothesis uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from fluxgrid import cli

# Shared continuous-integration machines are slow at random: a deadline would fail on the machine, not on the code.
settings.register_profile("fluxgrid", deadline=None, derandomize=True)
settings.load_profile("fluxgrid")


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command line in this process: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fluxgrid", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real towers and grids; its absence skips, or fails where data are required."""
    folder = os.environ.get("FLUXGRID_TEST_DATA")
    return _needed(
        Path(folder or "?"), "FLUXGRID_TEST_DATA does not point to the folder with the real towers and grids"
    )


@pytest.fixture(scope="session")
def published_code(data_dir: Path) -> Path:
    """Return the folder, beside the data, of what the published CarbonBench code makes of the towers."""
    folder = data_dir.parent / "reference" / "published_code"
    return _needed(folder, "the figures of the published CarbonBench code do not stand beside the data")


def _needed(folder: Path, reason: str) -> Path:
    """Return a folder of data; its absence skips, or fails where data are required."""
    if not folder.is_dir():
        _lacking(reason, "FLUXGRID_REQUIRE_DATA")
    return folder


@pytest.fixture(scope="session")
def client() -> Callable[[str, str], str]:
    """Return a function that finds a program; its absence skips, or fails where FLUXGRID_REQUIRE_CLIENTS=1."""

    def find(name: str, package: str) -> str:
        path = shutil.which(name)
        if path is None:
            _lacking(f"{name} is not installed (Debian: {package})", "FLUXGRID_REQUIRE_CLIENTS")
        return path

    return find


@pytest.fixture(scope="session")
def lacking() -> Callable[[str, str], NoReturn]:
    """Return the function that skips for what a machine lacks, or fails where a variable says it must be there."""
    return _lacking


@pytest.fixture(scope="session")
def system_python(client) -> str:
    """Return the Python that can import QGIS; its absence skips, or fails where FLUXGRID_REQUIRE_CLIENTS=1."""
    python = client("/usr/bin/python3", "python3")
    # without the paths of the environment that runs the tests
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if subprocess.run([python, "-c", "import qgis.core"], env=clean, capture_output=True, check=False).returncode:
        reason = f"{python} cannot import qgis (Debian: python3-qgis qgis-providers)"
        _lacking(reason, "FLUXGRID_REQUIRE_CLIENTS")
    return python


def _lacking(reason: str, required: str) -> NoReturn:
    """Skip a test for what a machine lacks, or fail it where an environment variable says that it must be there."""
    if os.environ.get(required) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Any]:
    """Return a function that gives the `ModelSpec` of a model for the towers of `fluxgrid.testing.small_sites`.

    An architecture whose inputs are fixed gets its own.
    """
    from fluxgrid.data.gaps import GapRule
    from fluxgrid.data.inputs import InputSpec
    from fluxgrid.models import ModelSpec, crop_mosaic

    mosaic = {
        "step": "daily",
        "inputs": InputSpec(crop_mosaic.DYNAMIC, crop_mosaic.STATIC),
        "spin_up_years": 2,
        "fluxes": crop_mosaic.FLUXES,
        "annual": crop_mosaic.ANNUAL,
        "whole_year_from": 298,
    }
    own = {"kgml_ag": mosaic}

    def make(kind: str = "ct_gru", settings: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
        inputs = InputSpec(
            ("temperature_2m", "shortwave", "precipitation", "day_length"),
            ("crop_fraction",),
            ("climate_group",),
            {"temperature_2m": GapRule(2), "shortwave": GapRule(1, harmonics=1)},
        )
        about = {"step": "monthly", "inputs": inputs, "spin_up_years": 1, "day_definition": "UTC"}
        about |= own.get(kind, {}) | changes
        return ModelSpec("small", kind, {"hidden": 8} if settings is None else settings, **about)

    return make


@pytest.fixture(scope="session")
def crop_moments() -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of the inputs of ``kgml_ag``, as on cropland of the Midwest."""
    return {
        "temperature_2m": (9.0, 11.0),
        "tmin": (4.0, 10.0),
        "tmax": (15.0, 12.0),
        "precipitation": (2.5, 6.0),
        "shortwave": (170.0, 85.0),
        "vpd": (6.0, 4.0),
        "lai": (1.5, 1.5),
        "gpp_satellite": (3.0, 4.0),
        "corn_fraction": (0.35, 0.1),
        "soybean_fraction": (0.3, 0.1),
        "toa_radiation": (320.0, 110.0),
        "day_length": (12.1, 2.0),
        "vapour_pressure": (11.0, 7.0),
        "vapour_pressure_range": (4.0, 2.0),
        "wind_speed": (4.3, 1.6),
        "calendar_year": (2009.5, 5.2),
        "day_of_year": (183.0, 105.0),
        "crop_fraction": (0.7, 0.15),
        "small_grain_fraction": (0.02, 0.01),
        "grass_fraction": (0.12, 0.05),
        "forest_fraction": (0.08, 0.04),
        "wetland_fraction": (0.03, 0.02),
        "evergreen_fraction": (0.02, 0.01),
        "soc": (17.0, 5.0),
        "field_capacity": (0.3, 0.03),
        "wilting_point": (0.16, 0.02),
        "bulk_density": (1.38, 0.1),
        "sand": (166.0, 80.0),
        "silt": (590.0, 80.0),
        "saturated_hydraulic_conductivity": (31.0, 15.0),
        "ph": (6.2, 0.4),
        "cec": (20.0, 5.0),
    }


@pytest.fixture(scope="session")
def tiny_kgml_config() -> Callable[..., Any]:
    """Return a function that gives the configuration of a KGML-ag trained in seconds, with values that win over it."""
    import torch

    from fluxgrid.config import load_config
    from fluxgrid.config_kgml import KGMLConfig

    torch.set_num_threads(1)  # these products are too small to share; threads of busy cores wait for each other
    few = {"epochs": 1, "batch": 8}
    steps = dict.fromkeys(("emulate_ra", "emulate_rest", "yields", "emulate_again", "towers"), few)
    budget = {"sites": 1, "years": 2, "values": 3, "features": 1, "every": 1}
    recipe = {
        **{"states": ["IA", "IL"], "fields": 4, "cells": 10, "last_year": 2016, "cover": few},
        **dict.fromkeys(("first_year", "cells_from", "survey_from"), 2014),
        **{"counties": 5, "survey_states": ["IA", "IL"]},
        "model": {"hidden": 8, "cover_hidden": 8, "dropout": 0.0},
        "steps": {"spin_up_years": 1, "held_years": 1, "budget": budget, **steps},
    }
    fit = {"steps": 4, "stride": 10, "rank": 2}
    cells = {"states": ["IA", "IL"], "n": 4, "first": 2014, "last": 2016}
    towers = {"n": 3, "start": "2014-01-01", "end": "2016-12-31"}
    values = {
        "name": "tiny",
        "description": "KGML-ag made for tests",
        "recipe": recipe,
        "towers": {"source": "synthetic", "path": "built-in", "options": towers},
        "calibration_sites": {"source": "world_cells", "path": "built-in", "options": cells},
        "heads": [{"name": name, "fit": fit} for name in ("state", "neighbourhood")],
    }

    def make(out: Path, **changes: Any) -> KGMLConfig:
        return load_config(KGMLConfig, None, {**values, "out": str(out), **changes})

    return make


@pytest.fixture(scope="session")
def tiny_kgml(tiny_kgml_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a KGML-ag with heads of states and places, trained in seconds; never to be changed."""
    from fluxgrid.workflows.train_kgml import train_kgml

    folder = tmp_path_factory.mktemp("tiny-kgml")
    return train_kgml(tiny_kgml_config(folder / "tiny", stages=str(folder / "stages"))).checkpoint
