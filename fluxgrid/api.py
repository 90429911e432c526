"""The Python API: the command line's story in a few calls that give lazy xarray objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xarray as xr

from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.errors import OutputError, itemise
from fluxgrid.models import load_checkpoint
from fluxgrid.netcdf import join_netcdf
from fluxgrid.prediction import Predictor
from fluxgrid.upscaling.folder import MANIFEST, Mode, RunFolder
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


def upscale(region: str | Path, mode: Mode = "new", **options: Any) -> xr.Dataset:
    """Make a map, unless it stands already, and open it.

    Parameters
    ----------
    region : str or path
        Name, polygon file or ``W,S,E,N``.
    mode : {"new", "resume", "overwrite"}
        What may be done with results that stand in the run folder.
    **options
        Keys of `fluxgrid.config.UpscaleConfig`: cube, mapping, model, start, end, out, workers... Paths may be `Path`.

    Returns
    -------
    fluxes : Dataset
        As `open_map` gives it.

    Raises
    ------
    FluxgridError
        As the command line would say.
    """
    options = {"region": region, **options}
    texts = {key: os.fspath(value) for key, value in options.items() if isinstance(value, os.PathLike)}
    config = load_config(UpscaleConfig, None, options | texts)
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
    OutputError
        If the folder holds no finished map, or files of it are gone.
    """
    folder = Path(folder).expanduser()
    listed = (RunFolder(folder, digest="").manifest or {}).get("files", {})
    files = sorted(folder / name for name in listed if name.endswith(".nc"))
    if not files:
        message = (
            f"There is no finished map in {folder}: no {MANIFEST} lists one. Make it with `fluxgrid upscale`, or "
            "finish it with --resume."
        )
        raise OutputError(message)
    if missing := [file.name for file in files if not file.is_file()]:
        header = f"Files of the map in {folder} are gone; put them back, or run `fluxgrid upscale` again"
        raise OutputError(itemise(header, missing))
    alike = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "combine_attrs": "override"}
    return join_netcdf(files, alike, chunks={}, decode_coords="all")
