"""Ground, phenology and water of a year: all that a satellite sees, and all of it without carbon.

Water moves between named stocks only, and each amount that leaves one is added to another or to a counted flux, so the
balance closes to rounding. A day waits for the day before, so `layout.LANES` places go through the year side by side:
the inner loops run over places, have no branches, and are vectorised. Each place has the bits it has alone.
"""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation import layout as at
from fluxgrid.simulation.arithmetic import exp
from fluxgrid.simulation.compiled import inlined, part
from fluxgrid.simulation.layout import LANES

_NIGHT_FROST = -2.0  # degC in the screen; kills annual crops (Purdue agronomy: 4 h below -2 degC)
_LAST_HARVEST = 318  # day of year from 0: what still stands is cut
_PLANTING_WAIT, _PLANTING_WINDOW = 30.0, 60.0  # days: planted in cold soil after the one, not at all after the other

_SKY, _GROUND, _COURSE = at.SKY * LANES, at.GROUND * LANES, at.BLOCK_COURSE * LANES  # from one day to the next
_SNOW, _SOIL_TEMPERATURE, _WARMTH = (row * LANES for row in (at.SNOW, at.SOIL_TEMPERATURE, at.WARMTH))
_LEAF_AREA, _COVER, _WETNESS, _STRESS, _PROGRESS, _STAGE, _EVAPORATION = (n * LANES for n in range(at.BLOCK_COURSE))

# Rows of what a block keeps of a column: first what changes from day to day, then what belongs to place and kind.
_ROWS = 16
# fmt: off
(
    _WATER, _CANOPY, _HEAT, _NOW, _LOST, _DRAINED, _RAN_OFF,
    _CAPACITY, _PER_MM, _RIPE, _PER_RIPE, _PER_SCALE, _FIRST, _FALL, _DRAIN, _HALF_RIPE,
) = (row * LANES for row in range(_ROWS))
# fmt: on


@part
def ground_year(sky, days, common, memory, ground):
    """Carry snow and soil temperature of a block of places through a year.

    Parameters
    ----------
    sky : ndarray, (time * SKY * LANES,)
    days : int
    common : record of `layout.COMMON`
    memory : ndarray, (PLACE_STATES * LANES,)
        Updated.
    ground : ndarray, (time * GROUND * LANES,)
        Overwritten.

    Notes
    -----
    Degree-day melt (Hock 2003, doi:10.1016/S0022-1694(03)00257-9); soil follows air with a lag that snow lengthens.
    """
    most_melt, insulation = common.melt, common.snow_insulation
    soil_days, warmth_days = common.soil_days, common.warmth_days
    for day in range(days):
        air, out = day * _SKY, day * _GROUND
        for k in range(LANES):
            temperature, rain = sky[air + at.SKY_MEAN + k], sky[air + at.SKY_RAIN + k]
            frozen = min(max((2.0 - temperature) / 4.0, 0.0), 1.0) * rain
            snow = memory[_SNOW + k] + frozen
            melt = min(snow, most_melt * max(temperature, 0.0))
            snow -= melt
            lag = soil_days * (1.0 + insulation * snow / (snow + 8.0))
            soil, warmth = memory[_SOIL_TEMPERATURE + k], memory[_WARMTH + k]
            soil += (temperature - soil) / lag
            warmth += (temperature - warmth) / warmth_days
            memory[_SNOW + k], memory[_SOIL_TEMPERATURE + k], memory[_WARMTH + k] = snow, soil, warmth
            ground[out + at.LIQUID + k] = rain - frozen + melt
            ground[out + at.PLANTING_WARMTH + k] = warmth
            ground[out + at.SOIL_WARMTH + k] = soil
            ground[out + at.SNOW_COVER + k] = snow


@part
def canopy_year(sky, ground, days, who, share, soil, kind, common, stocks, year, course):
    """Carry canopy and water of a column through a year, in a block of places.

    Parameters
    ----------
    sky, ground : ndarray, (time * SKY * LANES,), (time * GROUND * LANES,)
    days : int
    who : ndarray, (LANES,)
        Places of the block.
    share : ndarray, (LANES,)
        Share of the column; where it is 0 nothing is kept.
    soil : ndarray, (n,), records of `layout.SOIL`
    kind, common : records of `layout.KIND`, `layout.COMMON`
    stocks : ndarray, (n, COLUMN_STATES)
        Water and canopy are updated.
    year : ndarray, (n, len(ANNUAL))
        Sums of water are set.
    course : ndarray, (time * BLOCK_COURSE * LANES,)
        Overwritten.
    """
    lane = np.zeros(_ROWS * LANES)
    for k in range(LANES):
        _begin(soil[who[k]], kind, stocks[who[k]], lane, k)
    if kind.annual > 0.0:
        _crop_course(sky, ground, days, kind, common, lane, course)
    else:
        _perennial_course(sky, days, kind, lane, course)
    _water_course(sky, ground, days, kind, common, lane, course)
    for k in range(LANES):
        i = who[k]
        if share[k] > 0.0:
            stocks[i, at.WATER], stocks[i, at.CANOPY] = lane[_WATER + k], lane[_CANOPY + k]
            year[i, at.YEAR_EVAPORATION] = lane[_LOST + k]
            year[i, at.DRAINAGE], year[i, at.RUNOFF] = lane[_DRAINED + k], lane[_RAN_OFF + k]


@part
def _begin(soil, kind, stock, lane, k):
    """Fill what a block keeps of a column in a place, as it is on the first day."""
    annual = kind.annual > 0.0
    north = soil.latitude - 41.0
    scale = min(max(1.0 + kind.per_degree * north, 0.5), 1.3) if annual else 1.0  # less heat for varieties of the north
    ripe = scale * kind.ripe
    capacity = soil.available * kind.depth_m * 1000.0
    lane[_WATER + k], lane[_CANOPY + k] = stock[at.WATER], 1.0 if annual else stock[at.CANOPY]
    lane[_NOW + k] = at.DORMANT
    lane[_CAPACITY + k], lane[_PER_MM + k] = capacity, 1.0 / capacity
    lane[_RIPE + k], lane[_HALF_RIPE + k] = ripe, 0.4 * ripe
    lane[_PER_RIPE + k], lane[_PER_SCALE + k] = 1.0 / ripe if annual else 0.0, 1.0 / scale
    lane[_FIRST + k] = kind.start_day + kind.start_per_degree * north + soil.planting_shift
    lane[_FALL + k] = kind.fall_at + kind.per_degree * north
    lane[_DRAIN + k] = soil.drain


@part
def _crop_course(sky, ground, days, kind, common, lane, course):
    """Fill leaf area without stress, progress and stage of an annual crop; neither waits for water."""
    base, wanted, dry_down = kind.heat_base, kind.start_warmth, common.dry_down
    most, rise_at, rise_width, fall_at, fall_width = (
        kind.lai_most, kind.rise_at, kind.rise_width, kind.fall_at, kind.fall_width
    )  # fmt: skip
    for day in range(days):
        air, below, out = day * _SKY, day * _GROUND, day * _COURSE
        late = day > _LAST_HARVEST
        for k in range(LANES):
            coldest, heat, stage = sky[air + at.SKY_COLDEST + k], lane[_HEAT + k], lane[_NOW + k]
            gain = _heat(coldest, sky[air + at.SKY_WARMEST + k], base)
            heat = heat + gain if stage == at.GROWING else heat
            killed = (stage == at.GROWING) & (coldest < _NIGHT_FROST) & (heat > lane[_HALF_RIPE + k])
            heat = max(heat, lane[_RIPE + k]) if killed else heat
            sown = _planted(day - lane[_FIRST + k], ground[below + at.PLANTING_WARMTH + k], wanted)
            stage = _next_stage(stage, sown, (heat >= lane[_RIPE + k] * dry_down) | late)
            lane[_HEAT + k], lane[_NOW + k] = heat, stage
            scaled = heat * lane[_PER_SCALE + k]
            leaves = most * _step((scaled - rise_at) / rise_width) * _step((fall_at - scaled) / fall_width)
            course[out + _LEAF_AREA + k] = leaves if stage == at.GROWING else 0.0
            course[out + _PROGRESS + k] = heat * lane[_PER_RIPE + k]
            course[out + _STAGE + k] = stage


@part
def _perennial_course(sky, days, kind, lane, course):
    """Fill seasonal leaf area of an unstressed perennial: a rise with heat, a fall with the calendar."""
    base, swing = kind.heat_base, kind.lai_most - kind.lai_least
    rise_at, rise_width, fall_width = kind.rise_at, kind.rise_width, kind.fall_width
    for day in range(days):
        air, out = day * _SKY, day * _COURSE
        for k in range(LANES):
            heat = lane[_HEAT + k] + _heat(sky[air + at.SKY_COLDEST + k], sky[air + at.SKY_WARMEST + k], base)
            lane[_HEAT + k] = heat
            rise, fall = _step((heat - rise_at) / rise_width), _step((lane[_FALL + k] - day) / fall_width)
            course[out + _LEAF_AREA + k] = swing * rise * fall
            course[out + _PROGRESS + k] = heat * lane[_PER_RIPE + k]
            course[out + _STAGE + k] = at.DORMANT


@part
def _water_course(sky, ground, days, kind, common, lane, course):
    """Thin the leaves by drought and carry the water through the year."""
    annual, least = kind.annual > 0.0, 0.0 if kind.annual > 0.0 else kind.lai_least
    extinction, per_fill, saturated, drought = kind.extinction, 1.0 / kind.critical, kind.saturated, kind.drought
    bare, inflow, brim = common.soil_evaporation, common.inflow * kind.saturated, common.saturation
    recovery, lasting = 1.0 / common.stress_days, common.lasting_stress
    for day in range(days):
        air, below, out = day * _SKY, day * _GROUND, day * _COURSE
        for k in range(LANES):
            water, canopy = lane[_WATER + k], lane[_CANOPY + k]
            capacity, per_mm = lane[_CAPACITY + k], lane[_PER_MM + k]
            lai = least + course[out + _LEAF_AREA + k] * canopy
            cover = 1.0 - exp(-extinction * lai) if lai > 0.0 else 0.0
            # what leaves the root zone by leaves and bare soil (FAO-56), downward and over its brim
            fill = min(water * per_mm, 1.0)
            stress = min(fill * per_fill, 1.0)
            lost = sky[air + at.SKY_DEMAND + k] * (cover * stress + (1.0 - cover) * bare * fill)
            lost = min(lost, water)
            water = water - lost + ground[below + at.LIQUID + k]
            drainage = max(water - capacity, 0.0) * lane[_DRAIN + k] * (1.0 - saturated)
            drainage -= inflow * max(capacity - water, 0.0)
            water -= drainage
            runoff = max(water - capacity * brim, 0.0)
            water -= runoff
            # dry soil thins the canopy: for good while a crop builds leaves, for some weeks in perennials
            change = 1.0 - drought * (1.0 - stress) - canopy
            if annual:
                stunted = canopy + min(change, 0.0) * lasting
                canopy = stunted if course[out + _STAGE + k] == at.GROWING else canopy
            else:
                canopy += change * recovery
            lane[_WATER + k], lane[_CANOPY + k] = water, canopy
            lane[_LOST + k] += lost
            lane[_DRAINED + k] += drainage
            lane[_RAN_OFF + k] += runoff
            course[out + _LEAF_AREA + k] = lai
            course[out + _COVER + k] = cover
            course[out + _WETNESS + k] = min(water * per_mm, 1.0)
            course[out + _STRESS + k] = stress
            course[out + _EVAPORATION + k] = lost


@inlined
def _heat(coldest, warmest, base):
    """Return the heat units of a day, degC d, between a base and 30 degC."""
    units = max(0.5 * (min(warmest, 30.0) + min(max(coldest, base), 30.0)) - base, 0.0)
    return 0.0 if warmest <= base else units


@inlined
def _planted(days, warmth, wanted):
    """Return whether a field is planted so many days after the earliest date."""
    return (days >= 0.0) & (days < _PLANTING_WINDOW) & ((warmth >= wanted) | (days >= _PLANTING_WAIT))


@inlined
def _next_stage(stage, sown, over):
    """Return what a field does today: it waits, grows, is harvested on one day, and lies in stubble."""
    begun = at.GROWING if sown else at.DORMANT
    stood = at.HARVEST if over else at.GROWING
    later = stood if stage == at.GROWING else at.STUBBLE
    return begun if stage == at.DORMANT else later


@inlined
def _step(value):
    """Return a logistic step from 0 to 1, flat far from the middle."""
    inside = 1.0 / (1.0 + exp(-value))
    return 1.0 if value > 14.0 else (0.0 if value < -14.0 else inside)
