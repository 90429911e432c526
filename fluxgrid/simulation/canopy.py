"""Ground, phenology and water of a year: all that a satellite sees, and all of it without carbon.

Water moves between named stocks only, and each amount that leaves one is added to another or to a counted flux, so the
balance closes to rounding. The stocks of a column are kept in local variables through the year: twice as fast as in
an array.
"""

from __future__ import annotations

from fluxgrid.simulation import layout as at
from fluxgrid.simulation.arithmetic import exp
from fluxgrid.simulation.layout import inlined, kernel

_NIGHT_FROST = -2.0  # degC in the screen; kills annual crops (Purdue agronomy: 4 h below -2 degC)
_LAST_HARVEST = 318  # day of year from 0: what still stands is cut
_PLANTING_WAIT, _PLANTING_WINDOW = 30.0, 60.0  # days: planted in cold soil after the one, not at all after the other


@kernel
def ground_year(air, common, place, ground, snow):
    """Carry snow and soil temperature of a place through a year.

    Parameters
    ----------
    air : ndarray, (len(WEATHER), time)
    common : record of `layout.COMMON`
    place : ndarray, (PLACE_STATES,)
        Updated.
    ground : ndarray, (len(GROUND), time)
        Overwritten.
    snow : ndarray, (time,), mm
        Overwritten.

    Notes
    -----
    Degree-day melt (Hock 2003, doi:10.1016/S0022-1694(03)00257-9); soil follows air with a lag that snow lengthens.
    """
    for day in range(air.shape[1]):
        temperature, rain = air[at.MEAN, day], air[at.RAIN, day]
        frozen = min(max((2.0 - temperature) / 4.0, 0.0), 1.0) * rain
        place[at.SNOW] += frozen
        melt = min(place[at.SNOW], common.melt * max(temperature, 0.0))
        place[at.SNOW] -= melt
        lag = common.soil_days * (1.0 + common.snow_insulation * place[at.SNOW] / (place[at.SNOW] + 8.0))
        place[at.SOIL_TEMPERATURE] += (temperature - place[at.SOIL_TEMPERATURE]) / lag
        place[at.WARMTH] += (temperature - place[at.WARMTH]) / common.warmth_days
        ground[at.LIQUID, day] = rain - frozen + melt
        ground[at.PLANTING_WARMTH, day] = place[at.WARMTH]
        ground[at.PLANT_SPEED, day] = exp(common.plant_per_degree * (temperature - 20.0))
        ground[at.SOIL_SPEED, day] = exp(common.soil_per_degree * (place[at.SOIL_TEMPERATURE] - 15.0))
        snow[day] = place[at.SNOW]


@kernel
def canopy_year(air, ground, soil, kind, common, stock, year, course, evaporation):
    """Carry canopy and water of a column through a year.

    Parameters
    ----------
    air, ground : ndarray, (len(WEATHER), time), (len(GROUND), time)
    soil, kind, common : records of `layout.SOIL`, `layout.KIND`, `layout.COMMON`
    stock : ndarray, (COLUMN_STATES,)
        Water and canopy are updated.
    year : ndarray, (len(ANNUAL),)
        Sums of water are added to.
    course : ndarray, (len(COURSE), time)
        Overwritten.
    evaporation : ndarray, (time,), mm d-1
        Overwritten.
    """
    annual = kind.annual > 0.0
    north = soil.latitude - 41.0
    scale = min(max(1.0 + kind.per_degree * north, 0.5), 1.3) if annual else 1.0  # less heat for varieties of the north
    ripe = scale * kind.ripe
    capacity = soil.available * kind.depth_m * 1000.0
    per_mm, per_fill, per_ripe = 1.0 / capacity, 1.0 / kind.critical, 1.0 / ripe if annual else 0.0
    per_scale, recovery = 1.0 / scale, 1.0 / common.stress_days
    first = kind.start_day + kind.start_per_degree * north + soil.planting_shift
    fall = kind.fall_at + kind.per_degree * north
    water, canopy, heat, stage = stock[at.WATER], 1.0 if annual else stock[at.CANOPY], 0.0, at.DORMANT
    for day in range(air.shape[1]):
        gain = _heat(air[at.COLDEST, day], air[at.WARMEST, day], kind.heat_base)
        if annual:
            if stage == at.GROWING:
                heat += gain
                if air[at.COLDEST, day] < _NIGHT_FROST and heat > 0.4 * ripe:
                    heat = max(heat, ripe)
            sown = _planted(day - first, ground[at.PLANTING_WARMTH, day], kind.start_warmth)
            stage = _next_stage(stage, sown, heat >= ripe * common.dry_down or day > _LAST_HARVEST)
            lai = _crop_leaves(heat * per_scale, kind) * canopy if stage == at.GROWING else 0.0
        else:
            heat += gain
            lai = kind.lai_least + _perennial_leaves(heat, fall - day, kind) * canopy
        cover = 1.0 - exp(-kind.extinction * lai) if lai > 0.0 else 0.0
        # what leaves the root zone by leaves and bare soil (FAO-56), downward and over its brim
        fill = min(water * per_mm, 1.0)
        stress = min(fill * per_fill, 1.0)
        lost = air[at.DEMAND, day] * (cover * stress + (1.0 - cover) * common.soil_evaporation * fill)
        lost = min(lost, water)
        water = water - lost + ground[at.LIQUID, day]
        drainage = max(water - capacity, 0.0) * soil.drain * (1.0 - kind.saturated)
        drainage -= common.inflow * kind.saturated * max(capacity - water, 0.0)
        water -= drainage
        runoff = max(water - capacity * common.saturation, 0.0)
        water -= runoff
        # dry soil thins the canopy: for good while a crop builds leaves, for some weeks in perennials
        aim = 1.0 - kind.drought * (1.0 - stress)
        if not annual:
            canopy += (aim - canopy) * recovery
        elif stage == at.GROWING:
            canopy += min(aim - canopy, 0.0) * common.lasting_stress
        year[at.YEAR_EVAPORATION] += lost
        year[at.DRAINAGE] += drainage
        year[at.RUNOFF] += runoff
        evaporation[day] = lost
        course[at.LEAF_AREA, day] = lai
        course[at.COVER, day] = cover
        course[at.WETNESS, day] = min(water * per_mm, 1.0)
        course[at.STRESS, day] = stress
        course[at.PROGRESS, day] = heat * per_ripe
        course[at.STAGE, day] = stage
    stock[at.WATER], stock[at.CANOPY] = water, canopy


@inlined
def _heat(coldest, warmest, base):
    """Return the heat units of a day, degC d, between a base and 30 degC."""
    if warmest <= base:
        return 0.0
    return max(0.5 * (min(warmest, 30.0) + min(max(coldest, base), 30.0)) - base, 0.0)


@inlined
def _planted(days, warmth, wanted):
    """Return whether a field is planted so many days after the earliest date."""
    return 0.0 <= days < _PLANTING_WINDOW and (warmth >= wanted or days >= _PLANTING_WAIT)


@inlined
def _next_stage(stage, sown, over):
    """Return what a field does today: it waits, grows, is harvested on one day, and lies in stubble."""
    if stage == at.DORMANT:
        return at.GROWING if sown else at.DORMANT
    if stage == at.GROWING:
        return at.HARVEST if over else at.GROWING
    return at.STUBBLE


@inlined
def _crop_leaves(heat, kind):
    """Return leaf area of an unstressed crop: a rise and a fall with heat."""
    rise = _step((heat - kind.rise_at) / kind.rise_width)
    return kind.lai_most * rise * _step((kind.fall_at - heat) / kind.fall_width)


@inlined
def _perennial_leaves(heat, days_left, kind):
    """Return seasonal leaf area of an unstressed perennial: a rise with heat, a fall with the calendar."""
    rise = _step((heat - kind.rise_at) / kind.rise_width)
    return (kind.lai_most - kind.lai_least) * rise * _step(days_left / kind.fall_width)


@inlined
def _step(value):
    """Return a logistic step from 0 to 1; far from the middle it is flat, and costs nothing."""
    if value > 14.0:
        return 1.0
    return 0.0 if value < -14.0 else 1.0 / (1.0 + exp(-value))
