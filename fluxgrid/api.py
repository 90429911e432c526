"""The Python API: the command line's story in a few calls that give lazy xarray objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.models import load_checkpoint
from fluxgrid.prediction import Predictor
from fluxgrid.upscaling.folder import Mode
from fluxgrid.workflows.upscale import upscale as _upscale


def load_model(name: str | Path = "default", device: str = "cpu") -> Predictor:
    """Return a trained model that predicts places over time.

    Parameters
    ----------
    name : str or Path
        A shipped checkpoint, or a folder that `fluxgrid train` wrote.
    device : {"cpu", "cuda"}

    Returns
    -------
    predictor : Predictor

    Raises
    ------
    UnknownName, CheckpointError
        If there is none, or it is damaged.
    """
    return Predictor(load_checkpoint(name), device)


def upscale(region: str, mode: Mode = "new", **options: Any) -> xr.Dataset:
    """Make a map, unless it stands already, and open it.

    Parameters
    ----------
    region : str
        Name, polygon file or ``W,S,E,N``.
    mode : {"new", "resume", "overwrite"}
        What may be done with results that stand in the run folder.
    **options
        Keys of `fluxgrid.config.UpscaleConfig`: cube, mapping, model, start, end, out, workers...

    Returns
    -------
    fluxes : Dataset
        As `open_map` gives it.

    Raises
    ------
    FluxgridError
        As the command line would say.
    """
    config = load_config(UpscaleConfig, None, {"region": region, **options})
    return open_map(_upscale(config, mode).out)


def open_map(folder: Path | str) -> xr.Dataset:
    """Open the maps of a run folder as one lazy dataset.

    Parameters
    ----------
    folder : path
        A run folder that holds a finished map.

    Returns
    -------
    fluxes : Dataset
        nee, gpp, reco (time, lat, lon) or (time, y, x), g m-2 d-1, with quality_flag, applicability, cell_area and
        land_area_fraction; ``fluxes.rio.crs`` is set.

    Raises
    ------
    FileNotFoundError
        If there is no map in the folder.
    """
    files = sorted(Path(folder).glob("*.nc"))
    if not files:
        message = f"There is no NetCDF map in {folder}. Make one with `fluxgrid upscale`."
        raise FileNotFoundError(message)
    return xr.open_mfdataset(files, decode_coords="all", data_vars="minimal", coords="minimal", compat="override")
