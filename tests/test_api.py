from __future__ import annotations

import pytest

import fluxgrid
from fluxgrid.errors import CheckpointError, ConfigError, UnknownName
from fluxgrid.prediction import Predictor


def test_load_model_gives_the_shipped_predictor():
    predictor = fluxgrid.load_model()
    assert isinstance(predictor, Predictor)
    assert predictor.checkpoint.spec.name == "synthetic_daily"


def test_load_model_says_what_is_wrong(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'default'"):
        fluxgrid.load_model("defaul")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        fluxgrid.load_model(tmp_path)


def test_upscale_checks_its_options_before_anything_else():
    with pytest.raises(ConfigError, match=r"There is no key named 'modle'\. Did you mean 'model'"):
        fluxgrid.upscale("iowa", modle="default")


def test_open_map_of_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no NetCDF map in .*\. Make one with `fluxgrid upscale`"):
        fluxgrid.open_map(tmp_path)
