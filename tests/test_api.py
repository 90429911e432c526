from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import fluxgrid
from fluxgrid.errors import CheckpointError, ConfigError, OutputError, UnknownName
from fluxgrid.netcdf import save_netcdf
from fluxgrid.prediction import Predictor
from fluxgrid.upscaling.folder import MANIFEST


def test_load_model_gives_the_shipped_predictor():
    predictor = fluxgrid.load_model()
    assert isinstance(predictor, Predictor)
    assert predictor.checkpoint.spec.name == "synthetic_kgml"


def test_load_model_says_what_is_wrong(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'default'"):
        fluxgrid.load_model("defaul")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        fluxgrid.load_model(tmp_path)


def test_upscale_checks_its_options_before_anything_else():
    with pytest.raises(ConfigError, match=r"There is no key named 'modle'\. Did you mean 'model'"):
        fluxgrid.upscale("iowa", modle="default")


def test_upscale_takes_paths(monkeypatch, tmp_path):
    seen = []

    def remember(config, mode):
        seen.append((config, mode))
        raise ConfigError

    monkeypatch.setattr("fluxgrid.api._upscale", remember)
    paths = {key: tmp_path / key for key in ("region", "cube", "mapping", "model", "out")}
    with pytest.raises(ConfigError):
        fluxgrid.upscale(**paths, workers=2)
    config, mode = seen[0]
    assert {key: getattr(config, key) for key in paths} == {key: str(path) for key, path in paths.items()}
    assert (config.workers, mode) == (2, "new")


def write_map(folder: Path, files: dict[str, int]) -> None:
    """Write a map of one value for each file, and a manifest that lists them all."""
    for name, value in files.items():
        time = pd.date_range("2019-01-01", periods=1) + pd.Timedelta(days=value)
        nee = xr.DataArray(np.full((1, 2, 3), value, "float32"), {"time": time}, ("time", "y", "x"), name="nee")
        save_netcdf(nee, folder / name)
    (folder / MANIFEST).write_text(json.dumps({"files": {**dict.fromkeys(files, 1), "totals.csv": 1}}))


def test_open_map_takes_what_the_manifest_lists(tmp_path):
    write_map(tmp_path, {"other.nc": 7})
    write_map(tmp_path, {"iowa_2019.nc": 1, "iowa_2020.nc": 2})
    assert fluxgrid.open_map(str(tmp_path))["nee"][:, 0, 0].values.tolist() == [1, 2]
    (tmp_path / "iowa_2020.nc").unlink()
    with pytest.raises(OutputError, match=r"are gone; put them back(.|\n)*- iowa_2020\.nc$"):
        fluxgrid.open_map(tmp_path)


@pytest.mark.parametrize("manifest", [None, "{", "{}"])
def test_open_map_of_a_folder_without_a_finished_map(tmp_path, manifest):
    (tmp_path / "mine.nc").write_text("")
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(OutputError, match=r"no finished map in .*\. Make it with `fluxgrid upscale`, or .*--resume"):
        fluxgrid.open_map(tmp_path)
