"""Carbon of a year, from the course of canopy and water: uptake, growth, harvest, litter, decay.

Carbon moves between named stocks only, and each amount that leaves one is added to another or to a counted flux, so the
balance closes to rounding.
"""

from __future__ import annotations

from fluxgrid.simulation import layout as at
from fluxgrid.simulation.arithmetic import exp
from fluxgrid.simulation.compiled import inlined, part

_MJ_PER_W_DAY = 0.0864
_HEAT_RANGE = 8.0  # degC over which heat stops uptake
_GRAIN_FILL = 0.12  # of the heat to maturity, over which growth turns to grain
_LEAF_FALL = 0.06  # d-1, share of the leaves that deciduous plants shed in autumn


@part
def carbon_year(air, speeds, course, soil, kind, common, stock, year, gpp, ra, rh):
    """Carry the carbon of a column through a year.

    Parameters
    ----------
    air, speeds, course : ndarray, (row, time)
        Rows of `layout.WEATHER`, `layout.SPEEDS`, `layout.COURSE`.
    soil, kind, common : records of `layout.SOIL`, `layout.KIND`, `layout.COMMON`
    stock : ndarray, (COLUMN_STATES,)
        Carbon stocks are updated.
    year : ndarray, (len(ANNUAL),)
        Sums of carbon are added to.
    gpp, ra, rh : ndarray, (time,), g C m-2 d-1
        Overwritten.
    """
    vigour = kind.efficiency * soil.efficiency * exp(kind.restless * soil.vigour)
    fall = kind.fall_at + kind.per_degree * (soil.latitude - 41.0) - 2.0 * kind.fall_width
    sheds = kind.lai_most > 2.0 * kind.lai_least
    for day in range(air.shape[1]):
        growing = course[at.STAGE, day] == at.GROWING or kind.annual == 0.0
        if course[at.STAGE, day] == at.HARVEST:
            _harvest(stock, year, kind, common, soil)
        gpp[day] = vigour * _photosynthesis(air, day, kind, common, course[at.COVER, day], course[at.STRESS, day])
        alive = min(course[at.LEAF_AREA, day], 1.0) if kind.annual > 0.0 else 1.0
        grain = _to_grain(course[at.PROGRESS, day], kind)
        ra[day] = _breathe_and_grow(stock, year, kind, gpp[day], speeds[at.PLANT_SPEED, day] * alive, grain)
        if growing:
            autumn = kind.annual == 0.0 and sheds and day > fall
            _shed(stock, year, kind, max(kind.leaf_turnover, _LEAF_FALL) if autumn else kind.leaf_turnover)
        rh[day] = _decay(stock, year, kind, common, soil, speeds[at.SOIL_SPEED, day], course[at.WETNESS, day])
        year[at.YEAR_GPP] += gpp[day]
        year[at.YEAR_RA] += ra[day]
        year[at.YEAR_RH] += rh[day]


@inlined
def _photosynthesis(air, day, kind, common, cover, stress):
    """Return absorbed light, MJ m-2 d-1, less the stress of cold, heat, dry air and dry soil (Monteith 1972)."""
    temperature = 0.75 * air[at.MEAN, day] + 0.25 * air[at.WARMEST, day]
    warm = min(max((temperature - kind.coldest) / (kind.warm - kind.coldest), 0.0), 1.0)
    heat = min(max((kind.hottest - air[at.WARMEST, day]) / _HEAT_RANGE, 0.2), 1.0)
    dry_air = 1.0 / (1.0 + max(air[at.VPD, day] - common.vpd_free, 0.0) / kind.vpd_half)
    dry_soil = 1.0 - kind.drought * (1.0 - stress)
    light = common.par_share * _MJ_PER_W_DAY * air[at.SHORTWAVE, day] * (1.0 + kind.diffuse * air[at.CLOUD, day])
    return cover * light * warm * (2.0 - warm) * heat * dry_air * dry_soil


@inlined
def _to_grain(progress, kind):
    """Return the share of new carbon that ripening crops put into grain."""
    if kind.annual == 0.0:
        return 0.0
    return kind.grain_share * min(max((progress - kind.grain_start) / _GRAIN_FILL, 0.0), 1.0)


@inlined
def _breathe_and_grow(stock, year, kind, gpp, speed, to_grain):
    """Pay maintenance and growth, allocate the rest; return autotrophic respiration, g C m-2 d-1."""
    leaf_cost = kind.leaf_maintenance * speed * stock[at.LEAF]
    root_cost = kind.root_maintenance * speed * stock[at.ROOT]
    stem_cost = kind.stem_maintenance * speed * stock[at.STEM]
    maintenance = leaf_cost + root_cost + stem_cost
    surplus = gpp - maintenance
    if surplus <= 0.0:
        short = -surplus / maintenance if maintenance > 0.0 else 0.0
        stock[at.LEAF] -= leaf_cost * short
        stock[at.ROOT] -= root_cost * short
        stock[at.STEM] -= stem_cost * short
        return maintenance
    growth = kind.growth_cost * surplus
    npp = surplus - growth
    rest = npp * (1.0 - to_grain)
    stock[at.GRAIN] += npp - rest
    stock[at.LEAF] += kind.leaf_share * rest
    stock[at.STEM] += kind.stem_share * rest
    stock[at.ROOT] += (1.0 - kind.leaf_share - kind.stem_share) * rest
    year[at.WOOD_INPUT] += kind.stem_share * rest
    return maintenance + growth


@inlined
def _harvest(stock, year, kind, common, soil):
    """Take grain and some residue off the field; the rest becomes litter."""
    grain = stock[at.GRAIN] * (1.0 - common.grain_loss)
    year[at.YIELD] += grain
    year[at.EXPORT] += grain + soil.removal * (stock[at.LEAF] + stock[at.STEM])
    _litter(stock, year, stock[at.GRAIN] - grain, kind.leaf_metabolic)
    _litter(stock, year, stock[at.LEAF] * (1.0 - soil.removal), kind.leaf_metabolic)
    _litter(stock, year, stock[at.STEM] * (1.0 - soil.removal), kind.stem_metabolic)
    _litter(stock, year, stock[at.ROOT], 0.5 * (kind.leaf_metabolic + kind.stem_metabolic))
    stock[at.LEAF] = stock[at.STEM] = stock[at.ROOT] = stock[at.GRAIN] = 0.0


@inlined
def _shed(stock, year, kind, leaf_turnover):
    """Turn dying leaves, roots and wood into litter."""
    leaf, root, stem = (
        leaf_turnover * stock[at.LEAF],
        kind.root_turnover * stock[at.ROOT],
        kind.stem_turnover * stock[at.STEM],
    )
    stock[at.LEAF] -= leaf
    stock[at.ROOT] -= root
    stock[at.STEM] -= stem
    _litter(stock, year, leaf, kind.leaf_metabolic)
    _litter(stock, year, root, 0.5 * (kind.leaf_metabolic + kind.stem_metabolic))
    _litter(stock, year, stem, kind.stem_metabolic)


@inlined
def _litter(stock, year, amount, metabolic):
    """Add dead matter to the two litter stocks."""
    stock[at.METABOLIC] += metabolic * amount
    stock[at.STRUCTURAL] += (1.0 - metabolic) * amount
    year[at.METABOLIC_INPUT] += metabolic * amount
    year[at.STRUCTURAL_INPUT] += (1.0 - metabolic) * amount


@inlined
def _decay(stock, year, kind, common, soil, speed, wetness):
    """Decompose litter and soil carbon; return heterotrophic respiration, g C m-2 d-1."""
    moist = common.dry_rate + (1.0 - common.dry_rate) * min(wetness / 0.6, 1.0)
    moist *= 1.0 - 0.6 * kind.saturated * wetness
    untilled = speed * moist * soil.decay
    tilled = untilled * (1.0 + kind.tillage) * soil.turnover
    metabolic, structural = common.metabolic_rate * untilled, common.structural_rate * tilled
    active, slow = common.active_rate * tilled, common.slow_rate * tilled
    year[at.METABOLIC_RATE] += metabolic
    year[at.STRUCTURAL_RATE] += structural
    year[at.ACTIVE_RATE] += active
    from_metabolic, from_structural = metabolic * stock[at.METABOLIC], structural * stock[at.STRUCTURAL]
    from_active, from_slow = active * stock[at.ACTIVE], slow * stock[at.SLOW]
    kept = common.litter_efficiency * (from_metabolic + from_structural)
    stored = common.stabilised * from_active
    stock[at.METABOLIC] -= from_metabolic
    stock[at.STRUCTURAL] -= from_structural
    stock[at.ACTIVE] += kept - from_active
    stock[at.SLOW] += stored - from_slow
    return (from_metabolic + from_structural - kept) + (from_active - stored) + from_slow
