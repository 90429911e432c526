"""Covariates that are known at towers only, as rows of the table of variables: those of CarbonBench.

ERA5-Land daily aggregates of Earth Engine (ECMWF/ERA5_LAND/DAILY_AGGR: 50 variables, each as mean or sum of the day,
and its lowest and highest hour) and MOD09GA, means of boxes of 2 km around each tower, in the units they are published
in. Sums and evaporation keep ECMWF's sign: downward positive, so that water that evaporates is negative.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One variable, before it is a `fluxgrid.variables.Variable`."""

    published: str
    """Name in CarbonBench's files."""
    name: str
    """Ours."""
    units: str
    long_name: str
    valid_range: tuple[float, float]


_KELVIN = ("K", 150.0, 350.0)
_LAKE = ("K", 200.0, 350.0)
_DEPTH = ("m", 0.0, 500.0)
_SOIL_WATER = ("m3 m-3", 0.0, 1.0)
_SHARE = ("1", 0.0, 1.0)
_WIND = ("m s-1", -100.0, 100.0)
_LAI = ("1", 0.0, 12.0)
# packing in GRIB leaves small negative amounts of water and light
_DOWN = ("J m-2", -1e6, 6e7)
_NET = ("J m-2", -6e7, 6e7)
_WATER = ("m", -0.05, 2.0)
_VAPOUR = ("m", -0.5, 0.5)

_STATES = {
    "dewpoint_temperature_2m": ("dew point at 2 m", *_KELVIN),
    "temperature_2m": ("air temperature at 2 m", *_KELVIN),
    "skin_temperature": ("temperature of the surface", *_KELVIN),
    "soil_temperature_level_1": ("soil temperature, 0 to 7 cm", *_KELVIN),
    "soil_temperature_level_2": ("soil temperature, 7 to 28 cm", *_KELVIN),
    "soil_temperature_level_3": ("soil temperature, 28 to 100 cm", *_KELVIN),
    "soil_temperature_level_4": ("soil temperature, 100 to 289 cm", *_KELVIN),
    "lake_bottom_temperature": ("water temperature at the bottom of lakes", *_LAKE),
    "lake_ice_depth": ("thickness of lake ice", *_DEPTH),
    "lake_ice_temperature": ("temperature of the upper surface of lake ice", *_LAKE),
    "lake_mix_layer_depth": ("thickness of the mixed layer of lakes", *_DEPTH),
    "lake_mix_layer_temperature": ("temperature of the mixed layer of lakes", *_LAKE),
    "lake_shape_factor": ("shape factor of the thermocline of lakes", "1", 0.0, 2.0),
    "lake_total_layer_temperature": ("mean water temperature of lakes", *_LAKE),
    "snow_albedo": ("albedo of snow", *_SHARE),
    "snow_cover": ("share of the cell under snow", "%", 0.0, 100.0),
    "snow_density": ("density of snow", "kg m-3", 0.0, 1000.0),
    "snow_depth": ("depth of snow", *_DEPTH),
    "snow_depth_water_equivalent": ("snow as depth of water", *_DEPTH),
    "temperature_of_snow_layer": ("temperature of snow", *_KELVIN),
    "skin_reservoir_content": ("water on leaves and soil surface", "m", 0.0, 0.1),
    "volumetric_soil_water_layer_1": ("soil water, 0 to 7 cm", *_SOIL_WATER),
    "volumetric_soil_water_layer_2": ("soil water, 7 to 28 cm", *_SOIL_WATER),
    "volumetric_soil_water_layer_3": ("soil water, 28 to 100 cm", *_SOIL_WATER),
    "volumetric_soil_water_layer_4": ("soil water, 100 to 289 cm", *_SOIL_WATER),
    "forecast_albedo": ("albedo of the surface", *_SHARE),
    "u_component_of_wind_10m": ("eastward wind at 10 m", *_WIND),
    "v_component_of_wind_10m": ("northward wind at 10 m", *_WIND),
    "surface_pressure": ("surface air pressure", "Pa", 40_000.0, 110_000.0),
    "leaf_area_index_high_vegetation": ("leaf area index of high vegetation", *_LAI),
    "leaf_area_index_low_vegetation": ("leaf area index of low vegetation", *_LAI),
}
"""Published as means of the day under these names."""
_FLOWS = {
    "snowfall": ("snowfall", *_WATER),
    "snowmelt": ("snow melt", *_WATER),
    "surface_latent_heat_flux": ("latent heat flux", *_NET),
    "surface_net_solar_radiation": ("net shortwave radiation", *_DOWN),
    "surface_net_thermal_radiation": ("net longwave radiation", *_NET),
    "surface_sensible_heat_flux": ("sensible heat flux", *_NET),
    "surface_solar_radiation_downwards": ("downward shortwave radiation", *_DOWN),
    "surface_thermal_radiation_downwards": ("downward longwave radiation", *_DOWN),
    "evaporation_from_bare_soil": ("evaporation from bare soil", *_VAPOUR),
    "evaporation_from_open_water_surfaces_excluding_oceans": ("evaporation from open water", *_VAPOUR),
    "evaporation_from_the_top_of_canopy": ("evaporation from the top of the canopy", *_VAPOUR),
    "evaporation_from_vegetation_transpiration": ("transpiration", *_VAPOUR),
    "potential_evaporation": ("potential evaporation", *_VAPOUR),
    "runoff": ("runoff", *_WATER),
    "snow_evaporation": ("evaporation from snow", *_VAPOUR),
    "sub_surface_runoff": ("subsurface runoff", *_WATER),
    "surface_runoff": ("surface runoff", *_WATER),
    "total_evaporation": ("evaporation", *_VAPOUR),
    "total_precipitation": ("precipitation", *_WATER),
}
"""Published as sums of the day under these names and ``_sum``."""
_BANDS = ((620, 670), (841, 876), (459, 479), (545, 565), (1230, 1250), (1628, 1652), (2105, 2155))
"""Edges of the bands of MODIS, nm."""


def _era5() -> tuple[Row, ...]:
    """Return the 150 variables of ERA5-Land: the days' values, then the lowest, then the highest hours."""
    rows = []
    for ending, kind in (("", ""), ("_min", "lowest hour"), ("_max", "highest hour")):
        for table, own, whole in ((_STATES, "", "mean of the day"), (_FLOWS, "_sum", "sum of the day")):
            for name, (about, units, low, high) in table.items():
                published = f"{name}{ending or own}"
                long_name = f"{about}, {kind or whole} (ERA5-Land)"
                rows.append(Row(published, f"era5_{published}", units, long_name, (low, high)))
    return tuple(rows)


def _mod09ga() -> tuple[Row, ...]:
    """Return the twelve columns of MOD09GA, in their order."""
    rows = [
        Row(
            f"sur_refl_b{n:02d}",
            f"mod09ga_b{n:02d}",
            "1",
            f"surface reflectance, {low}-{high} nm (MOD09GA)",
            (-0.1, 2.0),
        )
        for n, (low, high) in enumerate(_BANDS, 1)
    ]
    for body in ("Sensor", "Solar"):
        for angle, limits in (("Zenith", (0.0, 180.0)), ("Azimuth", (-180.0, 180.0))):
            about = f"{angle.lower()} angle of the {'sun' if body == 'Solar' else 'sensor'} (MOD09GA)"
            rows.append(Row(f"{body}{angle}", f"mod09ga_{body.lower()}_{angle.lower()}", "degree", about, limits))
    rows.append(
        Row("clouds", "mod09ga_clouds", "1", "share of the box under cloud, shadow or cirrus (MOD09GA)", (0.0, 1.0))
    )
    return tuple(rows)


ERA5_ROWS = _era5()
"""CarbonBench's full set."""
MOD09GA_ROWS = _mod09ga()
"""What stands beside ERA5-Land in each of its sets."""
