"""The rows and records that the kernels of the process model share: what stands where in their arrays."""

from __future__ import annotations

import numpy as np

# Stocks and memories of a soil column between two years: mm, factor, g C m-2.
WATER, CANOPY, LEAF, STEM, ROOT, GRAIN, METABOLIC, STRUCTURAL, ACTIVE, SLOW = range(10)
COLUMN_STATES = 10
CARBON = slice(LEAF, SLOW + 1)
# Memories of a place, shared by its columns: mm, degC, degC.
SNOW, SOIL_TEMPERATURE, WARMTH = range(3)
PLACE_STATES = 3

WEATHER = ("temperature_2m", "tmin", "tmax", "precipitation", "shortwave", "vpd", "cloud", "demand")
"""Rows of a year of weather of a place; the last, reference evapotranspiration, is worked out from the others."""
MEAN, COLDEST, WARMEST, RAIN, SHORTWAVE, VPD, CLOUD, DEMAND = range(8)

SPEEDS = ("plant_speed", "soil_speed")
"""Rows of the factors of temperature on respiration of plants and of soil, which the columns of a place share."""
PLANT_SPEED, SOIL_SPEED = range(2)

COURSE = ("lai", "fpar", "wetness", "stress", "progress", "stage")
"""Rows of the canopy's year of a column, from which its carbon follows: the last two are heat over the heat to
maturity, and what an annual crop does."""
LEAF_AREA, COVER, WETNESS, STRESS, PROGRESS, STAGE = range(6)
DORMANT, GROWING, HARVEST, STUBBLE = (0.0, 1.0, 2.0, 3.0)  # numbers among numbers

DAILY = ("gpp", "ra", "rh", "lai", "fpar", "evaporation", "soil_water", "snow")
"""Rows of what a day yields, weighted over the columns of the place."""
GPP, RA, RH, LAI, FPAR, EVAPORATION, SOIL_WATER, SNOW_DEPTH = range(8)

ANNUAL = (
    *("gpp", "ra", "rh", "yield", "export", "evaporation", "drainage", "runoff"),
    *("metabolic_input", "structural_input", "wood_input", "metabolic_rate", "structural_rate", "active_rate"),
)
"""What a year yields, of each column: grams and millimetres, and for the spin-up what entered and how fast it left."""
# fmt: off
(
    YEAR_GPP, YEAR_RA, YEAR_RH, YIELD, EXPORT, YEAR_EVAPORATION, DRAINAGE, RUNOFF,
    METABOLIC_INPUT, STRUCTURAL_INPUT, WOOD_INPUT, METABOLIC_RATE, STRUCTURAL_RATE, ACTIVE_RATE,
) = range(len(ANNUAL))
# fmt: on

LANES = 16
"""Places that are carried through a year side by side: twice the numbers that a processor takes at once, so that one
half is worked on while the other waits. A block of them is a flat array (time, row, lane) or (row, lane); the distances
of rows are known when kernels are compiled, which is what lets loops over lanes be vectorised."""

SKY = 5
SKY_MEAN, SKY_COLDEST, SKY_WARMEST, SKY_RAIN, SKY_DEMAND = (row * LANES for row in range(SKY))
"""Rows of the weather of a block."""
GROUND = 4
LIQUID, PLANTING_WARMTH, SOIL_WARMTH, SNOW_COVER = (row * LANES for row in range(GROUND))
"""Rows of what the columns of a place share: rain and melt water, mm; the warmth that decides on planting and that of
the soil, degC; snow, mm."""
BLOCK_COURSE = len(COURSE) + 1
BLOCK_EVAPORATION = len(COURSE)
"""Rows of the canopy's year of a block: `COURSE`, and evaporation, mm d-1."""
TOTALS = (LAI, FPAR, EVAPORATION, SOIL_WATER)
"""Rows of `DAILY` that need no carbon, in the order in which a block holds their means over columns."""


def _record(names: str) -> np.dtype:
    """Return the layout of a record of numbers: kernels read its fields by name at the cost of a load."""
    return np.dtype([(name, np.float64) for name in names.split()])


SOIL = _record("latitude available drain planting_shift efficiency turnover removal vigour decay")
"""Of a place: field capacity less wilting point, m3 m-3; share of the water above field capacity that leaves in a day;
the hidden fields, the last two of the year (`fluxgrid.simulation.hidden`)."""
KIND = _record(
    "annual depth_m efficiency diffuse extinction coldest warm hottest vpd_half drought critical lai_least lai_most "
    "heat_base rise_at rise_width fall_at fall_width per_degree start_day start_per_degree start_warmth ripe "
    "leaf_share stem_share grain_start grain_share leaf_turnover root_turnover stem_turnover leaf_maintenance "
    "root_maintenance stem_maintenance growth_cost leaf_metabolic stem_metabolic saturated tillage restless"
)
"""Traits of a kind of vegetation; `world.yaml` says what they mean and where they come from."""
COMMON = _record(
    "par_share plant_per_degree soil_per_degree soil_days warmth_days snow_insulation melt vpd_free saturation "
    "soil_evaporation metabolic_rate structural_rate active_rate slow_rate inflow litter_efficiency stabilised "
    "dry_rate grain_loss lasting_stress stress_days dry_down"
)
"""Parameters that all vegetation shares."""
