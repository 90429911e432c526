"""fluxgrid turns flux-tower models into maps.

Site -> Model -> Cube -> FluxMap: models trained at eddy-covariance sites are applied tile by tile to gridded
covariates and give CF-compliant maps of NEE, GPP and RECO.

The nouns
---------
Site
    One flux tower: id, coordinates, classes, a daily or monthly series.
Variable
    Name, unit, valid range and sign of one quantity; one table for all (`fluxgrid.variables`).
Source
    Reader of one published product; carries its citation.
Region
    Named area with its polygons; may be made of states.
Grid
    Shape, affine and CRS; a tile's Grid is of the same type as the map's.
Cube
    Lazy ``xarray.Dataset`` of covariates, dims (time, y, x), names and units of the Variable table.
Tile
    Unit of prediction: slices of rows and columns with their Grid.
Window
    Run of consecutive steps given to a sequence model; its first steps may be spin-up.
Scaler
    Mean and standard deviation per input, from training sites only.
Model, Checkpoint
    Backbone and head with their ModelSpec; a folder that is enough to predict.
Fold
    Split by site group.
FluxMap
    Predictions on the Region's Grid with CF metadata and provenance.

Fluxes are g m-2 d-1 of carbon; NEE = RECO - GPP is positive to the atmosphere.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fluxgrid.kernel_cache import find_kernel_cache

__version__ = "0.1.0"

_PUBLIC = {
    "Grid": "fluxgrid.geo.grid",
    "Region": "fluxgrid.geo.region",
    "find_region": "fluxgrid.geo.region",
    "open_cube": "fluxgrid.data.cube",
    "check_cube": "fluxgrid.data.cube",
    "load_checkpoint": "fluxgrid.models",
    "load_model": "fluxgrid.api",
    "open_map": "fluxgrid.api",
    "upscale": "fluxgrid.api",
}

__all__ = sorted([*_PUBLIC, "__version__"])

find_kernel_cache()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import fluxgrid` alone loads neither torch nor xarray."""
    if name not in _PUBLIC:
        message = f"module 'fluxgrid' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
