"""Guessing which variable of ours a foreign one is, and the mapping that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr
import yaml

from fluxgrid.data.cube.axes import looks_geographic
from fluxgrid.data.cube.layout import Layout
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.units import compare_units
from fluxgrid.variables import VARIABLES, Variable

_USUAL_NAMES = {
    "temperature_2m": "t2m tas tair t2 temp temperature tmean tavg air_temperature 2m_temperature ta tmp airt",
    "tmin": "tasmin tmin tmmn mn2t t2m_min air_temperature_min tn",
    "tmax": "tasmax tmax tmmx mx2t t2m_max air_temperature_max tx",
    "precipitation": "pr precip prec precipitation tp ppt prcp rain rainfall total_precipitation rainf apcp",
    "shortwave": "rsds ssrd srad swdown dswrf radn sw_in shortwave surface_solar_radiation_downwards",
    "longwave": "rlds strd lwdown dlwrf lw_in longwave surface_thermal_radiation_downwards",
    "netrad": "rn netrad net_radiation",
    "vpd": "vpd vapor_pressure_deficit vapour_pressure_deficit",
    "relative_humidity": "hurs rh rhum relative_humidity rmean",
    "wind_speed": "sfcwind wind ws vs si10 wind_speed windspeed",
    "pressure": "ps sp pres psurf pressure surface_pressure pa",
    "co2": "co2 xco2",
    "evaporation": "et aet evspsbl evaporation evapotranspiration",
    "potential_evaporation": "pet pev pevpr evspsblpot eto potential_evaporation",
    "lai": "lai lai_500m leaf_area_index",
    "ndvi": "ndvi",
    "evi": "evi",
    "gpp": "gpp",
    "toa_radiation": "rsdt tisr",
    "elevation": "elevation elev dem orog altitude topo height srtm",
    "sand": "sand",
    "silt": "silt",
    "bulk_density": "bulk_density bdod bd",
    "field_capacity": "field_capacity fc theta_fc",
    "wilting_point": "wilting_point wp theta_wp",
    "saturated_hydraulic_conductivity": "ksat",
    "soc": "soc",
    "ph": "ph phh2o",
    "cec": "cec",
    "water_holding_capacity": "whc awc aws water_holding_capacity",
    "crop_fraction": "crop_fraction cropland crop_frac cropfrac",
    "forest_fraction": "forest_fraction forest_frac tree_fraction",
    "grass_fraction": "grass_fraction grassland grass_frac",
    "igbp": "igbp land_cover lc_type1",
    "koppen": "koppen koeppen koppen_class",
    "climate_group": "climate_group koeppen_code koppen_code koppen_group",
}
_SHARED = {"area_fraction"}
"""Standard names that say nothing of what is meant."""
_BY_NAME = {usual: name for name, names in _USUAL_NAMES.items() for usual in names.split()}
_EXTREMES = {"minimum": "tmin", "maximum": "tmax"}


@dataclass(frozen=True)
class Guess:
    """One of our variables, and what the mapping should say of it."""

    variable: Variable
    """What it may be."""
    source: str
    """Name in the file."""
    units: str | None
    """Unit to state; None if the file's own will do or nobody knows."""
    remark: str
    """What a person must look at; empty if nothing."""


def guess_variables(raw: xr.Dataset, layout: Layout) -> tuple[Guess, ...]:
    """Guess which variables of ours a file holds, by CF standard name, then by usual names.

    Parameters
    ----------
    raw : Dataset
        As opened.
    layout : Layout
        Of the same file.

    Returns
    -------
    guesses : tuple of Guess
        At most one for each of our variables; one whose unit converts is preferred.
    """
    guesses: dict[str, Guess] = {}
    for source, array in sorted(raw.data_vars.items(), key=lambda item: str(item[0])):
        name = _guess_name(str(source), array)
        if name is None or array.ndim < 2:
            continue
        guess = _guess(VARIABLES[name], str(source), array, layout)
        if name not in guesses or (guesses[name].remark and not guess.remark):
            guesses[name] = guess
    return tuple(guesses[name] for name in VARIABLES if name in guesses)


def _guess_name(source: str, array: xr.DataArray) -> str | None:
    """Return the name of our variable a foreign one most likely is."""
    if source in VARIABLES and VARIABLES[source].in_cubes and _fits(array, VARIABLES[source]):
        return source
    usual = _BY_NAME.get(source.lower())
    standard_name = array.attrs.get("standard_name")
    if standard_name in _SHARED:  # of many things: the name alone tells
        return usual
    named = [v.name for v in VARIABLES.values() if v.in_cubes and v.standard_name and v.standard_name == standard_name]
    if standard_name == "air_temperature":
        methods = str(array.attrs.get("cell_methods", ""))
        named = [name for method, name in _EXTREMES.items() if method in methods] or named
    if named:
        return usual if usual in named else named[0]
    return usual


def _fits(array: xr.DataArray, variable: Variable) -> bool:
    """Say whether the unit of a variable, if any, can be converted."""
    units = array.attrs.get("units")
    return units is None or compare_units(str(units), variable.units) != "impossible"


def _guess(variable: Variable, source: str, array: xr.DataArray, layout: Layout) -> Guess:
    """Return the guess with the unit the mapping should state."""
    units = array.attrs.get("units")
    if variable.role == "class":
        return Guess(variable, source, None, "list the codes under classes: as code: name")
    if units is None:
        remark = "" if variable.units == "1" else "the file states no unit; is this right?"
        return Guess(variable, source, None if variable.units == "1" else variable.units, remark)
    if _fits(array, variable):
        return Guess(variable, source, None, "")
    period = "month-1" if layout.step == "monthly" else "d-1"
    if compare_units(f"{units} {period}", variable.units) != "impossible":
        return Guess(variable, source, f"{units} {period}", "taken as the amount of each step; is this right?")
    return Guess(variable, source, None, f"its unit {units!r} cannot be converted to {variable.units}; leave it out?")


def suggest_mapping(raw: xr.Dataset, layout: Layout, mapping: CubeMapping) -> str:
    """Return the text of a mapping for a file: what is given, completed by guesses.

    Parameters
    ----------
    raw : Dataset
        As opened.
    layout : Layout
        Of the same file with ``mapping``.
    mapping : CubeMapping
        What was given.

    Returns
    -------
    text : str
        YAML. What cannot be known is a comment.
    """
    given = mapping.model_dump(by_alias=True, exclude_unset=True)
    head: dict[str, Any] = {"title": mapping.title or str(raw.attrs.get("title", "(say what the data are)"))}
    if mapping.crs or (layout.crs is None and looks_geographic(raw, layout.dims)):
        head["crs"] = mapping.crs or "EPSG:4326"
    if mapping.step or layout.step:
        head["step"] = mapping.step or layout.step
    head["dims"] = dict(layout.dims)
    extra = {key: value for key, value in given.items() if key not in (*head, "variables")}
    lines = [_dump(head | extra)]
    if "crs" not in head and layout.crs is None:
        lines.append("# crs: EPSG:...   # the file names no coordinate reference system\n")
    entries = {name: (entry, "") for name, entry in given.get("variables", {}).items()}
    for guess in guess_variables(raw, layout):
        units = {"units": guess.units} if guess.units else {}
        entries.setdefault(guess.variable.name, ({"from": guess.source} | units, guess.remark))
    lines.append("variables:\n" if entries else "variables: {}   # nothing here looks like a variable of fluxgrid\n")
    lines += [_entry(name, entry, remark) for name, (entry, remark) in entries.items()]
    return "".join(lines)


def _entry(name: str, entry: dict[str, Any], remark: str) -> str:
    """Return one line of the mapping; an entry that cannot be used yet is commented out."""
    mark = "# " if remark and "units" not in entry else ""
    line = f"  {mark}{name}: {_dump(entry, flow=True)}"
    return line + (f"   # {remark}\n" if remark else "\n")


def _dump(content: dict[str, Any], flow: bool = False) -> str:
    """Return YAML of plain values."""
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=flow or None, allow_unicode=True, width=10_000)
    return text.rstrip("\n") if flow else text
