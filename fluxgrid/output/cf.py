"""The metadata of a NetCDF map: CF-1.11 for the variables, ACDD-1.3 for the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyproj import CRS, Transformer

from fluxgrid.output.flags import flag_masks, flag_meanings
from fluxgrid.output.layers import CALIBRATION, Layers, error_name
from fluxgrid.output.store import EPOCH_UNITS
from fluxgrid.variables import STANDARD_ERROR_COVERAGE, VARIABLES

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.output.info import MapInfo

CONVENTIONS = "CF-1.11, ACDD-1.3"

NAMES_VOCABULARY = "CF Standard Name Table v93"

_KEYWORDS = (
    "net ecosystem exchange, gross primary production, ecosystem respiration, carbon flux, upscaling, eddy covariance"
)

YEAR = "year"
"""Scalar coordinate of the annual variables: the calendar year they are sums over."""

_COMMENTS = {
    "nee": "RECO - GPP; positive to the atmosphere, negative is uptake by the land. Carbon that leaves as harvest, "
    "fire or in water is not part of it. Mass of carbon. CF has no standard name with this meaning and sign.",
    "gpp": "Positive is uptake by the land. Mass of carbon.",
    "reco": "Plants and soil together; positive to the atmosphere. Mass of carbon. "
    "CF has no standard name with this meaning.",
    "ra": "RA + RH = RECO; positive to the atmosphere. Mass of carbon.",
    "rh": "RA + RH = RECO; positive to the atmosphere. Mass of carbon.",
    "corn_yield": "Per area of the crop, not of the cell: what a field of corn gives there. Carbon in grain.",
    "soybean_yield": "Per area of the crop, not of the cell: what a field of soybean gives there. Carbon in grain.",
    "harvest_removal": "Yield of each crop times its share of the land; zero where none is harvested. It is no part "
    "of NEE: the carbon returns to the atmosphere elsewhere.",
    "balance_after_harvest": "NEE summed over the calendar year + harvest_removal; positive is carbon lost by the "
    "land, negative is carbon gained.",
}

_STORAGE = " NEE of cropland is not a change of storage: harvested carbon is excluded from it"
_CARRIED = {
    "harvest_removal": "; harvest_removal carries it",
    "balance_after_harvest": "; balance_after_harvest is NEE of the year plus that",
}

_DRIVER = " It is an input of this map and not predicted: its errors are those of the driver, not the model's skill."

_CALIBRATION = {
    "calibration_id": {
        "long_name": "calibrated place that weighs most in the cell; no value where the global model stands alone",
        "comment": "Values of the cell are the mean of the outputs of calibrated parameter sets and of the global "
        "model, by their weights.",
    },
    "calibration_weight": {
        "long_name": "weight of the calibrated place that weighs most in the cell",
        "units": "1",
        "ancillary_variables": "calibration_id",
    },
    "calibration_global_weight": {
        "long_name": "share of the global model in the values of the cell",
        "units": "1",
        "comment": "1 - the weights of all calibrated places",
    },
}

_DISSIMILARITY = (
    "Distance to the nearest training sample in the space of scaled covariates, divided by the mean distance between "
    "training samples. Above the threshold the model extrapolates and its skill at the training sites does not hold."
)

_ERROR = (
    "Conformal half-width of a single {step}: at sites that no member of the ensemble was trained on, in the mean over "
    "sites, {share} of the observed {step}s lie within it of the predicted {name}. Spread of the members, never less "
    "than a floor, times a factor that held there; errors of the observations are in it. It is not of sums or means: "
    "errors of neighbouring {step}s and cells go together, so it must not be averaged down. Outside the area of "
    "applicability it does not hold."
)

_Attributes = dict[str, Any]


def variable_attributes(info: MapInfo, grid: Grid, layers: Layers) -> dict[str, _Attributes]:
    """Return the attributes of every variable on the map's cells.

    Parameters
    ----------
    info : MapInfo
        Gives the threshold of applicability.
    grid : Grid
        The map's grid: maps on a projection name their auxiliary coordinates.
    layers : Layers
        What the map holds.

    Returns
    -------
    attributes : dict of str to dict
        By variable, without fill values and coordinates.
    """
    specific = {name: _flux_attributes(name, info, layers) for name in layers.fluxes}
    specific |= {error_name(name): _error_attributes(name, info) for name in layers.errors}
    specific |= {name: _annual_attributes(name) for name in layers.annual}
    if layers.calibrated_places:
        specific |= _calibration_attributes(layers.calibrated_places)
    specific["quality_flag"] = _flag_attributes()
    specific["applicability"] = _applicability_attributes(info.applicability_threshold)
    specific["cell_area"] = {
        "standard_name": "cell_area",
        "long_name": "area of the whole cell on the WGS 84 ellipsoid",
        "units": "m2",
        "coverage_content_type": "auxiliaryInformation",
    }
    specific["land_area_fraction"] = {
        "standard_name": "land_area_fraction",
        "long_name": "share of the cell that is land; fluxes are per area of land",
        "comment": "inland water counts as land; sea and Great Lakes do not (known in the United States only)",
        "units": "1",
        "coverage_content_type": "auxiliaryInformation",
    }
    specific["region_land_area_fraction"] = {
        "standard_name": "area_fraction",
        "long_name": "share of the cell that is land of the region; flux x cell_area x this sums to the region's total",
        "units": "1",
        "coverage_content_type": "auxiliaryInformation",
    }
    return {
        name: {**attributes, **_place_attributes(name in layers.annual, grid)} for name, attributes in specific.items()
    }


def coordinate_attributes(info: MapInfo, grid: Grid) -> dict[str, _Attributes]:
    """Return the attributes of the coordinates.

    Parameters
    ----------
    info : MapInfo
        Gives step and day definition.
    grid : Grid
        The map's grid.

    Returns
    -------
    attributes : dict of str to dict
        For time, the two dims of the grid and, on a projection, the auxiliary lat and lon.
    """
    latitude = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
    longitude = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}
    if grid.geographic:
        axes = {
            "lat": {**latitude, "axis": "Y", "bounds": "lat_bnds"},
            "lon": {**longitude, "axis": "X", "bounds": "lon_bnds"},
        }
    else:
        axes = {
            axis: {
                "standard_name": f"projection_{axis}_coordinate",
                "long_name": f"{axis} of the cell centre on the map projection",
                "units": "m",
                "axis": axis.upper(),
                "bounds": f"{axis}_bnds",
            }
            for axis in ("y", "x")
        }
        axes |= {"lat": latitude, "lon": longitude}
    attributes = {"time": _time_attributes(info), **axes}
    return {name: {**attrs, "coverage_content_type": "coordinate"} for name, attrs in attributes.items()}


def grid_mapping_attributes(grid: Grid) -> _Attributes:
    """Return the attributes of the grid mapping variable, in the dialects of CF and of GDAL.

    Parameters
    ----------
    grid : Grid
        The map's grid.

    Returns
    -------
    attributes : dict
        CF's own, ``crs_wkt``, and GDAL's ``spatial_ref`` and ``GeoTransform``.
    """
    crs = CRS.from_wkt(grid.crs.to_wkt())
    attributes = crs.to_cf()
    attributes["spatial_ref"] = attributes["crs_wkt"]
    attributes["GeoTransform"] = " ".join(f"{value!r}" for value in (float(v) for v in grid.affine.to_gdal()))
    attributes["long_name"] = f"coordinate reference system: {crs.name}"
    attributes["coverage_content_type"] = "referenceInformation"
    return attributes


def global_attributes(info: MapInfo, grid: Grid, times: pd.DatetimeIndex, ends: pd.DatetimeIndex) -> _Attributes:
    """Return the global attributes of a file.

    Parameters
    ----------
    info : MapInfo
        What the map says about itself; its ``attributes`` win over those made here.
    grid : Grid
        The map's grid.
    times, ends : DatetimeIndex
        Starts and ends of the file's steps.

    Returns
    -------
    attributes : dict
    """
    made_by = info.model_name if info.calibration == "none" else f"{info.model_name}-{info.calibration}"
    attributes: _Attributes = {
        "Conventions": CONVENTIONS,
        "title": info.full_title,
        "summary": info.summary,
        "keywords": _KEYWORDS,
        "id": f"fluxgrid-{info.region_name}-{made_by}-{info.step}-{times[0]:%Y%m%d}-{ends[-1]:%Y%m%d}",
        "source": info.model_text,
        "model": info.model_name,
        "references": "; ".join(info.sources) or "none",
        "comment": " ".join(info.caveats) or "none",
        "synthetic": "true" if info.synthetic else "false",
        "day_definition": info.day_definition,
        "region": info.region_title,
        "history": f"{info.created}: written by fluxgrid".lstrip(": "),
        "date_created": info.created,
        "institution": "made with fluxgrid",
        "project": "fluxgrid",
        "processing_level": "modelled: a model trained at sites, applied to gridded covariates",
        "cdm_data_type": "Grid",
        "standard_name_vocabulary": NAMES_VOCABULARY,
        **_time_coverage(info, times, ends),
        **_place_coverage(grid),
    }
    return {**attributes, **{key: str(value) for key, value in info.attributes.items()}}


def _place_attributes(annual: bool, grid: Grid) -> _Attributes:
    """Attributes that tie a variable to its coordinates."""
    coordinates = [*([YEAR] if annual else []), *([] if grid.geographic else ["lat", "lon"])]
    named: _Attributes = {"coordinates": " ".join(coordinates)} if coordinates else {}
    return {"grid_mapping": "crs"} | named


def _flux_attributes(name: str, info: MapInfo, layers: Layers) -> _Attributes:
    """Attributes of a flux."""
    variable = VARIABLES[name]
    attributes: _Attributes = {"standard_name": variable.standard_name} if variable.standard_name else {}
    return attributes | {
        "long_name": variable.long_name,
        "units": variable.units,
        "expressed_as": "carbon",
        "cell_methods": "time: mean area: mean where land",
        "ancillary_variables": "quality_flag applicability" + (f" {error_name(name)}" if name in layers.errors else ""),
        "cell_measures": "area: cell_area",
        "comment": _flux_comment(name, info, layers),
        "coverage_content_type": "modelResult",
    }


def _error_attributes(name: str, info: MapInfo) -> _Attributes:
    """Attributes of the half-width of a flux."""
    variable, step = VARIABLES[name], "day" if info.step == "daily" else "month"
    attributes: _Attributes = {}
    if variable.standard_name:
        attributes["standard_name"] = f"{variable.standard_name} standard_error"
    return attributes | {
        "long_name": f"half-width at {STANDARD_ERROR_COVERAGE:.0%} of one {step}: {variable.long_name}",
        "units": variable.units,
        "expressed_as": "carbon",
        "cell_measures": "area: cell_area",
        "coverage_target": np.float32(STANDARD_ERROR_COVERAGE),
        "comment": _ERROR.format(share=f"{STANDARD_ERROR_COVERAGE:.0%}", step=step, name=name),
        "references": "Lee, Barber and Willett (2023), https://arxiv.org/abs/2306.06342",
        "coverage_content_type": "qualityInformation",
    }


def _flux_comment(name: str, info: MapInfo, layers: Layers) -> str:
    """Return what a reader must know of a flux in this map."""
    comment = _COMMENTS[name]
    if name == "nee" and layers.annual:
        comment += _STORAGE + "".join(text for other, text in _CARRIED.items() if other in layers.annual) + "."
    if name == "gpp" and info.gpp_is_driver:
        comment += _DRIVER
    return comment


def _annual_attributes(name: str) -> _Attributes:
    """Attributes of a sum over a calendar year."""
    where = "crops" if name.endswith("_yield") else "land"
    return {
        "long_name": f"{VARIABLES[name].long_name}, over the calendar year",
        "units": VARIABLES[name].units,
        "expressed_as": "carbon",
        "cell_methods": f"{YEAR}: sum (over the calendar year) area: mean where {where}",
        "cell_measures": "area: cell_area",
        "comment": _COMMENTS[name],
        "coverage_content_type": "modelResult",
    }


def _calibration_attributes(places: Sequence[str]) -> dict[str, _Attributes]:
    """Attributes of the variables about calibration."""
    flags = {"flag_values": np.arange(len(places), dtype="int16"), "flag_meanings": place_meanings(places)}
    attributes = {name: {**_CALIBRATION[name], "coverage_content_type": "auxiliaryInformation"} for name in CALIBRATION}
    return attributes | {"calibration_id": {**attributes["calibration_id"], **flags}}


def place_meanings(places: Sequence[str]) -> str:
    """Return the names of places as CF's ``flag_meanings`` wants them.

    Parameters
    ----------
    places : sequence of str

    Returns
    -------
    meanings : str
        Separated by blanks; every character CF does not allow is an underscore, and names that become the same, or
        begin with what a name must not begin with, carry their number.

    Examples
    --------
    >>> place_meanings(["US-Ne1", "Saint Louis, MO", "Saint_Louis, MO"])
    'US-Ne1 Saint_Louis__MO Saint_Louis__MO_2'
    """
    names: list[str] = []
    for number, place in enumerate(places):
        name = re.sub(r"[^A-Za-z0-9_.+@-]", "_", place)
        name = name if re.match(r"[A-Za-z]", name) else f"place_{name}"
        names.append(f"{name}_{number}" if name in names else name)
    return " ".join(names)


def _flag_attributes() -> _Attributes:
    """Attributes of quality_flag."""
    return {
        "standard_name": "quality_flag",
        "long_name": "why a cell is missing or doubtful; 0 is a plain, complete prediction",
        "flag_masks": np.array(flag_masks(), "int8"),
        "flag_meanings": flag_meanings(),
        "coverage_content_type": "qualityInformation",
    }


def _applicability_attributes(threshold: float) -> _Attributes:
    """Attributes of the dissimilarity index."""
    return {
        "long_name": "dissimilarity index of the covariates against the training sites",
        "units": "1",
        "threshold": np.float32(threshold),
        "comment": _DISSIMILARITY,
        "references": "Meyer and Pebesma (2021), https://doi.org/10.1111/2041-210X.13650",
        "coverage_content_type": "qualityInformation",
    }


def year_attributes(info: MapInfo) -> _Attributes:
    """Return the attributes of the scalar coordinate of the annual variables.

    Parameters
    ----------
    info : MapInfo
        Gives the day definition.

    Returns
    -------
    attributes : dict
    """
    return {
        "standard_name": "time",
        "long_name": "start of the calendar year",
        "units": EPOCH_UNITS,
        "calendar": "standard",
        "units_metadata": "leap_seconds: none",
        # without bounds: CF allows them on a scalar, compliance-checker does not
        "comment": "Annual variables are sums over the calendar year, from this day to the first day of the next year; "
        f"days are {info.day_definition} days.",
        "coverage_content_type": "coordinate",
    }


def _time_attributes(info: MapInfo) -> _Attributes:
    """Attributes of time, which has no fill value."""
    what = "day" if info.step == "daily" else "calendar month"
    return {
        "standard_name": "time",
        "long_name": f"start of the {what}",
        "units": EPOCH_UNITS,
        "calendar": "standard",
        "units_metadata": "leap_seconds: none",
        "axis": "T",
        "bounds": "time_bnds",
        "comment": f"A value is the mean over its {what}, [start, next start); days are {info.day_definition} days.",
    }


def _time_coverage(info: MapInfo, times: pd.DatetimeIndex, ends: pd.DatetimeIndex) -> _Attributes:
    """ACDD's attributes about time."""
    return {
        "time_coverage_start": times[0].isoformat(),
        "time_coverage_end": ends[-1].isoformat(),
        "time_coverage_duration": f"P{(ends[-1] - times[0]).days}D",
        "time_coverage_resolution": "P1D" if info.step == "daily" else "P1M",
    }


def _place_coverage(grid: Grid) -> _Attributes:
    """ACDD's attributes about space, in degrees whatever the map's own coordinates."""
    to_degrees = Transformer.from_crs(CRS.from_wkt(grid.crs.to_wkt()), 4326, always_xy=True)
    # The bounds of a projected map are not straight in degrees: walk along the edges.
    box = to_degrees.transform_bounds(*_west_south_east_north(grid), densify_pts=21)
    west, south, east, north = (round(float(value), 6) for value in box)
    ring = f"{south} {west}, {north} {west}, {north} {east}, {south} {east}, {south} {west}"
    return {
        "geospatial_bounds": f"POLYGON (({ring}))",
        "geospatial_bounds_crs": "EPSG:4326",
        "geospatial_lat_min": south,
        "geospatial_lat_max": north,
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": west,
        "geospatial_lon_max": east,
        "geospatial_lon_units": "degrees_east",
    }


def _west_south_east_north(grid: Grid) -> tuple[float, float, float, float]:
    """Bounds in pyproj's order."""
    west, east, south, north = grid.bounds
    return west, south, east, north
