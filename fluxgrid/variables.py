"""The one table of variables: names, units, signs, valid ranges and classes.

Everything inside fluxgrid carries these names and these units. Units are converted once, at the border
(`fluxgrid.data.cube`, `fluxgrid.sources`). Class variables (vegetation, climate) are numbers inside: the position of
the class in `Variable.classes`, NaN where unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fluxgrid.registry import unknown_name
from fluxgrid.variables_towers import ERA5_ROWS, MOD09GA_ROWS

Role = Literal["forcing", "tower", "derived", "static", "class", "flux", "annual", "quality"]

SERIES_ROLES: tuple[Role, ...] = ("forcing", "tower", "flux", "quality")
"""Roles of what a tower's series hold."""

CARBON_FLUX_UNITS = "g m-2 d-1"
"""Grams of carbon per square metre of land and day: the unit of every flux in fluxgrid."""

CARBON_UNITS = "g m-2"
"""Grams of carbon per square metre: the unit of every sum over a calendar year."""


STANDARD_ERROR_COVERAGE = 0.6827
"""Share of the values that one standard error holds; the ``<flux>_se`` of maps are half-widths of this coverage."""


@dataclass(frozen=True)
class Variable:
    """One quantity, everywhere the same."""

    name: str
    """Name used in cubes, site tables, models and maps."""
    units: str
    """Unit in CF spelling."""
    long_name: str
    """What it is, with its sign convention where it has one."""
    role: Role
    """``forcing``, ``tower`` and ``derived`` vary in time, ``static`` and ``class`` do not. ``tower`` ones are forcings
    that are known at towers only and stand in no cube, ``derived`` ones are computed from place and date. ``annual``
    ones are sums over a calendar year."""
    valid_range: tuple[float, float] | None = None
    """Values outside are a sign of a wrong unit or a broken file."""
    standard_name: str | None = None
    """CF standard name, where the CF table has one that means this and has this sign."""
    classes: tuple[str, ...] = ()
    """Names of the classes of a ``class`` variable."""

    @property
    def in_cubes(self) -> bool:
        """Whether a cube may bring it: towers' own covariates, sums over a year and a cell's place are not read."""
        return self.role not in ("tower", "annual") and self.name not in PLACE

    @property
    def credible_range(self) -> tuple[float, float]:
        """The valid range and a tenth of its width to either side: what leaves it is broken, not measured.

        Examples
        --------
        >>> get_variable("relative_humidity").credible_range
        (-10.5, 115.5)
        """
        low, high = self.valid_range or (-math.inf, math.inf)
        slack = 0.1 * (high - low) if self.valid_range else 0.0
        return low - slack, high + slack


PLACE = ("latitude", "longitude")
"""Derived variables that are a place's own coordinates."""
IGBP_CLASSES = tuple("CRO CSH CVM DBF DNF EBF ENF GRA MF OSH SAV SNO URB WAT WET WSA".split())
CLIMATE_GROUPS = ("tropical", "arid", "temperate", "continental", "polar")
KOPPEN_CLASSES = tuple(
    "Af Am As Aw BSh BSk BWh BWk Cfa Cfb Cfc Csa Csb Csc Cwa Cwb Cwc "
    "Dfa Dfb Dfc Dfd Dsa Dsb Dsc Dsd Dwa Dwb Dwc Dwd EF ET".split()
)

_GPP_NAME = "gross_primary_productivity_of_biomass_expressed_as_carbon"
_RESPIRATION_NAME = "surface_upward_mass_flux_of_carbon_dioxide_expressed_as_carbon_due_to_{}_respiration"

_TABLE = (
    # forcings
    Variable("temperature_2m", "degC", "mean air temperature at 2 m", "forcing", (-70, 60), "air_temperature"),
    Variable("tmin", "degC", "lowest air temperature of the step", "forcing", (-80, 50), "air_temperature"),
    Variable("tmax", "degC", "highest air temperature of the step", "forcing", (-60, 70), "air_temperature"),
    Variable("precipitation", "mm d-1", "precipitation", "forcing", (0, 600), "lwe_precipitation_rate"),
    Variable(
        "shortwave",
        "W m-2",
        "downward shortwave radiation, mean over the whole step",
        "forcing",
        (0, 600),
        "surface_downwelling_shortwave_flux_in_air",
    ),
    Variable(
        "longwave",
        "W m-2",
        "downward longwave radiation",
        "forcing",
        (50, 700),
        "surface_downwelling_longwave_flux_in_air",
    ),
    Variable("netrad", "W m-2", "net radiation", "forcing", (-300, 700), "surface_net_downward_radiative_flux"),
    Variable("vpd", "hPa", "vapour pressure deficit", "forcing", (0, 120), "water_vapor_saturation_deficit_in_air"),
    Variable("relative_humidity", "%", "relative humidity", "forcing", (0, 105), "relative_humidity"),
    Variable(
        "vapour_pressure",
        "hPa",
        "vapour pressure, mean of the step",
        "forcing",
        (0, 60),
        "water_vapor_partial_pressure_in_air",
    ),
    Variable("vapour_pressure_range", "hPa", "highest less lowest vapour pressure of the day", "forcing", (0, 40)),
    Variable("wind_speed", "m s-1", "wind speed", "forcing", (0, 50), "wind_speed"),
    Variable("pressure", "kPa", "surface air pressure", "forcing", (45, 110), "surface_air_pressure"),
    Variable(
        "co2",
        "ppm",
        "mole fraction of carbon dioxide in air",
        "forcing",
        (250, 900),
        "mole_fraction_of_carbon_dioxide_in_air",
    ),
    Variable("evaporation", "mm d-1", "evapotranspiration, upward", "forcing", (-5, 30), "lwe_water_evaporation_rate"),
    Variable(
        "potential_evaporation",
        "mm d-1",
        "potential evapotranspiration, upward",
        "forcing",
        (0, 30),
        "water_potential_evaporation_flux",
    ),
    Variable("lai", "1", "leaf area index", "forcing", (0, 12), "leaf_area_index"),
    Variable(
        "ndvi",
        "1",
        "normalised difference vegetation index",
        "forcing",
        (-1, 1),
        "normalized_difference_vegetation_index",
    ),
    Variable("evi", "1", "enhanced vegetation index", "forcing", (-1, 1.5)),
    Variable("gpp_satellite", CARBON_FLUX_UNITS, "gross primary production seen from space", "forcing", (0, 40)),
    Variable("reflectance_red", "1", "surface reflectance, 620-670 nm", "forcing", (-0.05, 1)),
    Variable("reflectance_nir", "1", "surface reflectance, 841-876 nm", "forcing", (-0.05, 1)),
    Variable("reflectance_blue", "1", "surface reflectance, 459-479 nm", "forcing", (-0.05, 1)),
    Variable("reflectance_swir", "1", "surface reflectance, 1628-1652 nm", "forcing", (-0.05, 1)),
    Variable("corn_fraction", "1", "share of the cell under corn this year", "forcing", (0, 1), "area_fraction"),
    Variable("soybean_fraction", "1", "share of the cell under soybean this year", "forcing", (0, 1), "area_fraction"),
    # forcings of towers
    *(Variable(row.name, row.units, row.long_name, "tower", row.valid_range) for row in (*ERA5_ROWS, *MOD09GA_ROWS)),
    # derived from place and date
    Variable(
        "toa_radiation",
        "W m-2",
        "radiation at the top of the atmosphere, mean over the whole step",
        "derived",
        (0, 600),
        "toa_incoming_shortwave_flux",
    ),
    Variable("day_length", "h", "time from sunrise to sunset", "derived", (0, 24)),
    Variable("calendar_year", "1", "calendar year", "derived", (1800, 2200)),
    Variable("day_of_year", "1", "day of the year, 1 on 1 January", "derived", (1, 366)),
    Variable("latitude", "degrees_north", "latitude", "derived", (-90, 90), "latitude"),
    Variable("longitude", "degrees_east", "longitude", "derived", (-180, 180), "longitude"),
    # statics
    Variable("elevation", "m", "height above the geoid", "static", (-450, 9000), "surface_altitude"),
    Variable("sand", "g kg-1", "sand in the fine earth of the topsoil", "static", (0, 1000)),
    Variable("silt", "g kg-1", "silt in the fine earth of the topsoil", "static", (0, 1000)),
    Variable("bulk_density", "Mg m-3", "bulk density of the topsoil", "static", (0.05, 2.3)),
    Variable("field_capacity", "m3 m-3", "volumetric water content at field capacity", "static", (0, 1)),
    Variable("wilting_point", "m3 m-3", "volumetric water content at the wilting point", "static", (0, 1)),
    Variable("saturated_hydraulic_conductivity", "mm h-1", "saturated hydraulic conductivity", "static", (0, 5000)),
    Variable("soc", "g kg-1", "organic carbon in the topsoil", "static", (0, 600)),
    Variable("ph", "1", "pH of the topsoil", "static", (2, 12)),
    Variable("cec", "cmol kg-1", "cation exchange capacity of the topsoil", "static", (0, 300)),
    Variable("water_holding_capacity", "mm", "plant-available water held in the root zone", "static", (0, 3000)),
    Variable("crop_fraction", "1", "share of the cell under annual crops", "static", (0, 1), "area_fraction"),
    Variable("forest_fraction", "1", "share of the cell under forest", "static", (0, 1), "area_fraction"),
    Variable("small_grain_fraction", "1", "share of the cell under small grain", "static", (0, 1), "area_fraction"),
    Variable("grass_fraction", "1", "share of the cell under grass and hay", "static", (0, 1), "area_fraction"),
    Variable("evergreen_fraction", "1", "share of the cell under evergreen forest", "static", (0, 1), "area_fraction"),
    Variable("wetland_fraction", "1", "share of the cell under wetland", "static", (0, 1), "area_fraction"),
    Variable("water_fraction", "1", "share of the cell under water", "static", (0, 1), "area_fraction"),
    # classes
    Variable("igbp", "1", "vegetation class (IGBP)", "class", classes=IGBP_CLASSES),
    Variable("climate_group", "1", "main climate group (Koeppen-Geiger)", "class", classes=CLIMATE_GROUPS),
    Variable("koppen", "1", "climate class (Koeppen-Geiger)", "class", classes=KOPPEN_CLASSES),
    # fluxes; observed GPP and RECO may be negative, so the ranges are wide on purpose
    Variable(
        "nee", CARBON_FLUX_UNITS, "net ecosystem exchange of carbon, positive to the atmosphere", "flux", (-60, 60)
    ),
    Variable("gpp", CARBON_FLUX_UNITS, "gross primary production, positive uptake", "flux", (-40, 80), _GPP_NAME),
    Variable("reco", CARBON_FLUX_UNITS, "ecosystem respiration, positive to the atmosphere", "flux", (-40, 80)),
    Variable(
        "ra",
        CARBON_FLUX_UNITS,
        "autotrophic respiration, positive to the atmosphere",
        "flux",
        (-40, 60),
        _RESPIRATION_NAME.format("plant"),
    ),
    Variable(
        "rh",
        CARBON_FLUX_UNITS,
        "heterotrophic respiration, positive to the atmosphere",
        "flux",
        (-40, 60),
        _RESPIRATION_NAME.format("heterotrophic"),
    ),
    # sums over a calendar year
    Variable("corn_yield", CARBON_UNITS, "carbon in harvested corn grain per area under corn", "annual", (0, 3000)),
    Variable(
        "soybean_yield", CARBON_UNITS, "carbon in harvested soybean grain per area under soybean", "annual", (0, 3000)
    ),
    Variable(
        "harvest_removal",
        CARBON_UNITS,
        "carbon that leaves the cell as harvested grain per area of land, positive out of the land",
        "annual",
        (0, 3000),
    ),
    Variable(
        "balance_after_harvest",
        CARBON_UNITS,
        "net ecosystem exchange plus harvest removal, positive is carbon lost by the land",
        "annual",
        (-6000, 6000),
    ),
    # quality of observations
    Variable("nee_qc", "1", "share of measured or good-quality gap-filled half-hours in NEE", "quality", (0, 1)),
)

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _TABLE}
"""Every variable by its name."""

MAP_FLUXES = ("nee", "gpp", "reco")
"""Fluxes every map holds, in this order; NEE = RECO - GPP."""

GRAMS_PER_TG = 1e12
"""Totals of maps are in teragrams of carbon."""


def get_variable(name: str) -> Variable:
    """Return the variable of that name.

    Parameters
    ----------
    name : str
        A name of the table.

    Returns
    -------
    variable : Variable

    Raises
    ------
    UnknownName
        If there is none; the message gives the nearest spelling.

    Examples
    --------
    >>> get_variable("gpp").units
    'g m-2 d-1'
    """
    if name not in VARIABLES:
        error = unknown_name("variable", name, VARIABLES)
        raise error
    return VARIABLES[name]
