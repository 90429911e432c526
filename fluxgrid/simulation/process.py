"""The process model over places and years: stocks at steady state, then year after year without a break.

The fluxes of a day depend on all years before it, back to a warm-up before the world's first year; so every run starts
there, whatever is asked for, and two runs agree bit for bit. Canopy and water do not depend on carbon: a run that
wants only what a satellite sees leaves carbon out and has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxgrid.simulation import layout
from fluxgrid.simulation.arithmetic import exp
from fluxgrid.simulation.canopy import canopy_year, ground_year
from fluxgrid.simulation.compiled import kernel, part
from fluxgrid.simulation.growth import carbon_year
from fluxgrid.simulation.hidden import hidden_fields, hidden_year
from fluxgrid.simulation.land import COLUMNS, Places
from fluxgrid.simulation.layout import ANNUAL, COLUMN_STATES, DAILY, LANES, PLACE_STATES, WEATHER
from fluxgrid.simulation.parameters import EXTENT, load_section, strict_dataclass
from fluxgrid.simulation.weather import Outlook

KINDS = ("corn", "soybean", "small_grain", "grass", "deciduous", "evergreen", "wetland")
"""Kinds of vegetation, in the order of the parameters."""
_GROWN = {"corn_soy": ("soybean", "corn"), "soy_corn": ("corn", "soybean"), "corn_corn": ("corn", "corn")}
KIND_OF = np.array([[KINDS.index(_GROWN.get(name, (name, name))[odd]) for name in COLUMNS] for odd in (0, 1)])
"""Kind of vegetation of each soil column in even and odd years, (2, column)."""
_ROTATION = 2  # years
_CARBON = slice(layout.GPP, layout.RH + 1)  # rows of the day


@strict_dataclass
class Process:
    """The section ``process`` of `world.yaml`."""

    warm_up_years: int
    """Years before the first one: a rotation of crops that gives the steady state of litter, then at least one more."""
    soil_depth_m: float
    """Depth over which the soil organic carbon of the land is counted."""
    slow_share: float
    """Share of it that decays within decades; the rest hardly takes part."""
    wood_age: float
    """Stem carbon of forests at the start, relative to its steady state: below 1, forests grow."""
    drain_half: float
    """Conductivity, mm h-1, at which half of the water above field capacity drains in a day."""
    common: dict[str, float]
    kinds: dict[str, dict[str, float]]


PROCESS = load_section("process", Process)


def _records(layout: np.dtype, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return numbers by name as records, (n,)."""
    records = np.recarray(len(next(iter(columns.values()))), dtype=layout)
    for name, values in columns.items():
        records[name] = values
    return records


COMMON = _records(layout.COMMON, {name: np.array([value]) for name, value in PROCESS.common.items()})[0]
TRAITS = _records(layout.KIND, {name: np.array([row[kind] for kind in KINDS]) for name, row in PROCESS.kinds.items()})


@dataclass(frozen=True)
class YearOfWorld:
    """What a calendar year brings to places."""

    year: int
    time: pd.DatetimeIndex
    """Its days."""
    weather: dict[str, np.ndarray]
    """See `fluxgrid.simulation.weather.weather`, (n, time)."""
    daily: dict[str, np.ndarray]
    """`layout.DAILY`, (n, time): fluxes g C m-2 d-1, ``lai``, ``fpar``, ``evaporation`` mm d-1, ``soil_water`` 0 to
    the vegetated share, ``snow`` mm; the mean over the place by its shares."""
    annual: dict[str, np.ndarray]
    """`layout.ANNUAL`, (n, column), per unit area of the column."""


@dataclass
class Stocks:
    """The state of places between two years."""

    places: np.ndarray
    """(n, `layout.PLACE_STATES`)"""
    columns: np.ndarray
    """(n, column, `layout.COLUMN_STATES`)"""

    def carbon(self, shares: np.ndarray) -> np.ndarray:
        """Return all carbon of each place, g C m-2, (n,)."""
        return np.asarray((self.columns[:, :, layout.CARBON].sum(axis=2) * shares).sum(axis=1))

    def water(self, shares: np.ndarray) -> np.ndarray:
        """Return water in root zones and snow of each place, mm, (n,)."""
        stored = (self.columns[:, :, layout.WATER] * shares).sum(axis=1)
        return np.asarray(stored + self.places[:, layout.SNOW] * shares.sum(axis=1))


def run_years(
    places: Places, first_year: int, last_year: int, with_carbon: bool = True, stocks: list[Stocks] | None = None
) -> Iterator[YearOfWorld]:
    """Run the world from its beginning and yield the years asked for.

    Parameters
    ----------
    places : Places
        Where, with shares of soil columns.
    first_year, last_year : int
        Both included; not before the world's first year.
    with_carbon : bool
        Whether carbon is wanted. Canopy, water and snow are the same bits without it, in half the time.
    stocks : list, optional
        Takes a copy of the state at the start of the first year and at the end of every year yielded.

    Yields
    ------
    year : YearOfWorld
    """
    soil, state, outlook = _soil(places), _first_stocks(places), Outlook(places)
    begin = EXTENT.first_year - PROCESS.warm_up_years
    settling = begin + _ROTATION
    flows = np.zeros((len(places.latitude), len(COLUMNS), len(ANNUAL)))
    for year in range(begin, last_year + 1):
        if year == settling and with_carbon:
            _settle(state, flows)
        if year == first_year and stocks is not None:
            stocks.append(Stocks(state.places.copy(), state.columns.copy()))
        result = _run_year(places, outlook, soil, state, year, with_carbon, keep=year >= first_year)
        if year < settling:
            flows += np.stack([result.annual[name] for name in ANNUAL], axis=2)
        if year >= first_year:
            if stocks is not None:
                stocks.append(Stocks(state.places.copy(), state.columns.copy()))
            yield result


def _run_year(
    places: Places, outlook: Outlook, soil: np.ndarray, state: Stocks, year: int, with_carbon: bool, keep: bool
) -> YearOfWorld:
    """Carry all places through a year; one that only leads to later years keeps no days."""
    for name, values in hidden_year(places.latitude, places.longitude, year).items():
        soil[name] = values
    time = pd.date_range(f"{year}-01-01", f"{year}-12-31", name="time")
    air = outlook.weather(time, keep)
    n = len(places.latitude)
    daily = np.zeros((len(DAILY), n, len(time) if keep else 0))
    annual = np.zeros((n, len(COLUMNS), len(ANNUAL)))
    rows = tuple(air[name] for name in WEATHER[:-1])
    height = places.statics["elevation"]
    _run_places(
        rows, air["vapour_pressure"], air["wind_speed"], height, soil, places.shares, TRAITS, COMMON, KIND_OF,
        year % 2, state.places, state.columns, daily, daily[_CARBON] if with_carbon else None, annual,
    )  # fmt: skip
    by_name = {name: annual[:, :, i] for i, name in enumerate(ANNUAL)}
    return YearOfWorld(year, time, air, dict(zip(DAILY, daily, strict=True)), by_name)


def _soil(places: Places) -> np.ndarray:
    """Return the records of `layout.SOIL`, (n,); what changes by the year is still unset."""
    land = places.statics
    conductivity = land["saturated_hydraulic_conductivity"]
    known = {
        "latitude": places.latitude,
        "available": land["field_capacity"] - land["wilting_point"],
        "drain": conductivity / (conductivity + PROCESS.drain_half),
    }
    known |= hidden_fields(places.latitude, places.longitude)
    known |= {"vigour": np.zeros(len(conductivity)), "decay": np.ones(len(conductivity))}
    return _records(layout.SOIL, known)


def _first_stocks(places: Places) -> Stocks:
    """Return the state on the first day of the warm-up: soil at field capacity, slow carbon after the soil map."""
    n, land = len(places.latitude), places.statics
    state = Stocks(np.zeros((n, PLACE_STATES)), np.zeros((n, len(COLUMNS), COLUMN_STATES)))
    state.places[:, layout.SOIL_TEMPERATURE] = 2.0
    available = land["field_capacity"] - land["wilting_point"]
    state.columns[:, :, layout.WATER] = available[:, None] * 1000.0 * TRAITS["depth_m"][KIND_OF[1]]
    state.columns[:, :, layout.CANOPY] = 1.0
    mass = land["soc"] * land["bulk_density"] * 1000.0 * PROCESS.soil_depth_m  # g C m-2
    state.columns[:, :, layout.SLOW] = (PROCESS.slow_share * mass)[:, None]
    perennial = TRAITS["annual"][KIND_OF[1]] == 0.0
    for stock in (layout.LEAF, layout.ROOT):
        state.columns[:, perennial, stock] = 100.0
    return state


def _settle(state: Stocks, years: np.ndarray) -> None:
    """Set litter, active soil carbon and wood to where input and loss of a rotation balance.

    Semi-analytical spin-up (Xia et al. 2012, doi:10.5194/gmd-5-1259-2012): stock = input / rate.
    """
    flows = dict(zip(ANNUAL, np.moveaxis(years, 2, 0), strict=True))
    columns = state.columns
    with np.errstate(invalid="ignore", divide="ignore"):
        litter = flows["metabolic_input"] + flows["structural_input"]
        settled = {
            layout.METABOLIC: flows["metabolic_input"] / flows["metabolic_rate"],
            layout.STRUCTURAL: flows["structural_input"] / flows["structural_rate"],
            layout.ACTIVE: COMMON["litter_efficiency"] * litter / flows["active_rate"],
        }
    for stock, value in settled.items():
        columns[:, :, stock] = np.nan_to_num(value, posinf=0.0)
    kind = KIND_OF[1]
    woody = (TRAITS["stem_turnover"][kind] > 0.0) & (TRAITS["annual"][kind] == 0.0)
    per_day = flows["wood_input"][:, woody] / (365.25 * _ROTATION)
    columns[:, woody, layout.STEM] = PROCESS.wood_age * per_day / TRAITS["stem_turnover"][kind][woody]


@kernel
def _run_places(
    rows, vapour, wind, height, soil, shares, kinds, common, kind_of, odd, places, columns, daily, carbon, annual
):
    """Carry places through the year, a block at a time: what their columns share, then one column after the other.

    ``daily`` and ``annual`` hold zeros; ``carbon`` are the first rows of ``daily``, or None, and what carbon needs is
    not compiled.
    """
    days, kept = vapour.shape[1], daily.shape[2]
    sky, ground = np.empty(days * layout.SKY * LANES), np.empty(days * layout.GROUND * LANES)
    course, totals = np.empty(days * layout.BLOCK_COURSE * LANES), np.empty(kept * len(layout.TOTALS) * LANES)
    memory, share, who = np.empty(PLACE_STATES * LANES), np.empty(LANES), np.empty(LANES, np.int64)
    for first in range(0, len(height), LANES):
        count = min(LANES, len(height) - first)
        for k in range(LANES):
            who[k] = first + min(k, count - 1)  # lanes without a place repeat the last one, with a share of nothing
        _fill_sky(rows, vapour, wind, height, who, sky)
        _fill_memory(places, who, memory)
        ground_year(sky, days, common, memory, ground)
        for j in range(len(totals)):
            totals[j] = 0.0
        for column in range(shares.shape[1]):
            if not _fill_share(shares[:, column], who, count, share):
                continue
            kind, stocks, year = kinds[kind_of[odd, column]], columns[:, column], annual[:, column]
            canopy_year(sky, ground, days, who, share, soil, kind, common, stocks, year, course)
            _add_column(totals, kept, share, course)
            if carbon is not None:
                _carry_carbon(rows, ground, course, who, share, soil, kind, common, stocks, year, carbon)
        _keep(totals, ground, memory, who, count, daily, places)


@part
def _fill_sky(rows, vapour, wind, height, who, sky):
    """Fill the weather of a block."""
    days = vapour.shape[1]
    demand = np.empty(days)
    for k in range(LANES):
        i = who[k]
        mean, coldest, warmest = rows[layout.MEAN][i], rows[layout.COLDEST][i], rows[layout.WARMEST][i]
        rain = rows[layout.RAIN][i]
        _reference_evapotranspiration(
            mean, coldest, warmest, rows[layout.SHORTWAVE][i], rows[layout.VPD][i], rows[layout.CLOUD][i],
            vapour[i], wind[i], height[i], demand,
        )  # fmt: skip
        for day in range(days):
            at = day * layout.SKY * LANES + k
            sky[at + layout.SKY_MEAN], sky[at + layout.SKY_RAIN] = mean[day], rain[day]
            sky[at + layout.SKY_COLDEST], sky[at + layout.SKY_WARMEST] = coldest[day], warmest[day]
            sky[at + layout.SKY_DEMAND] = demand[day]


@part
def _fill_memory(places, who, memory):
    """Fill the memories of a block's places."""
    for k in range(LANES):
        for row in range(PLACE_STATES):
            memory[row * LANES + k] = places[who[k], row]


@part
def _fill_share(shares, who, count, share):
    """Fill the shares of a column in a block, 0 in lanes without a place, and return whether it grows anywhere."""
    some = False
    for k in range(LANES):
        share[k] = shares[who[k]] if k < count else 0.0
        some |= share[k] > 0.0
    return some


@part
def _add_column(totals, kept, share, course):
    """Add the shares of a column to the places of a block, day by day of those that are kept."""
    for day in range(kept):
        total, row = day * len(layout.TOTALS) * LANES, day * layout.BLOCK_COURSE * LANES
        for k in range(LANES):
            totals[total + k] += share[k] * course[row + layout.LEAF_AREA * LANES + k]
            totals[total + LANES + k] += share[k] * course[row + layout.COVER * LANES + k]
            totals[total + 2 * LANES + k] += share[k] * course[row + layout.BLOCK_EVAPORATION * LANES + k]
            totals[total + 3 * LANES + k] += share[k] * course[row + layout.WETNESS * LANES + k]


@part
def _keep(totals, ground, memory, who, count, daily, places):
    """Write what a block has come to: its days, if they are kept, and its memories."""
    for k in range(count):
        for row in range(PLACE_STATES):
            places[who[k], row] = memory[row * LANES + k]
        for place in range(len(layout.TOTALS)):
            out = daily[layout.TOTALS[place], who[k]]
            for day in range(len(out)):
                out[day] = totals[(day * len(layout.TOTALS) + place) * LANES + k]
        out = daily[layout.SNOW_DEPTH, who[k]]
        for day in range(len(out)):
            out[day] = ground[day * layout.GROUND * LANES + layout.SNOW_COVER + k]


@part
def _carry_carbon(rows, ground, course, who, share, soil, kind, common, stocks, year, carbon):
    """Carry the carbon of a column through the year, one place of a block after the other."""
    days = rows[0].shape[1]
    air, speeds = np.empty((len(rows), days)), np.empty((len(layout.SPEEDS), days))
    single, fluxes = np.empty((len(layout.COURSE), days)), np.empty((3, days))
    for k in range(LANES):
        i = who[k]
        if share[k] > 0.0:
            for row in range(len(rows)):
                _copy(rows[row][i], air[row])
            for day in range(days):
                warmth = ground[day * layout.GROUND * LANES + layout.SOIL_WARMTH + k]
                speeds[layout.PLANT_SPEED, day] = exp(common.plant_per_degree * (air[layout.MEAN, day] - 20.0))
                speeds[layout.SOIL_SPEED, day] = exp(common.soil_per_degree * (warmth - 15.0))
                for row in range(len(layout.COURSE)):
                    single[row, day] = course[(day * layout.BLOCK_COURSE + row) * LANES + k]
            carbon_year(air, speeds, single, soil[i], kind, common, stocks[i], year[i], fluxes[0], fluxes[1], fluxes[2])
            _add(carbon[layout.GPP, i], share[k], fluxes[0])
            _add(carbon[layout.RA, i], share[k], fluxes[1])
            _add(carbon[layout.RH, i], share[k], fluxes[2])


@part
def _copy(values, out):
    """Copy a row."""
    for day in range(len(out)):
        out[day] = values[day]


@part
def _add(total, share, values):
    """Add the share of a column to its place, day by day of those that are kept."""
    for day in range(len(total)):
        total[day] += share * values[day]


@part
def _reference_evapotranspiration(mean, coldest, warmest, shortwave, vpd, cloud, vapour, wind, height, demand):
    """Fill in evapotranspiration of well-watered short grass, mm d-1 (FAO-56, Allen et al. 1998, eq. 6)."""
    pressure = 101.3 * ((293.0 - 0.0065 * height) / 293.0) ** 5.26
    gamma = 0.000665 * pressure
    for day in range(len(demand)):
        t, speed = mean[day], 0.748 * wind[day]  # from 10 m to 2 m, eq. 47
        slope = 4098.0 * 0.6108 * exp(17.27 * t / (t + 237.3)) / ((t + 237.3) * (t + 237.3))
        warm, cold = warmest[day] + 273.16, coldest[day] + 273.16
        sky = (0.34 - 0.14 * np.sqrt(0.1 * vapour[day])) * (1.0 - 0.9 * cloud[day])
        longwave = 4.903e-9 * 0.5 * (warm * warm * warm * warm + cold * cold * cold * cold) * sky
        net = 0.77 * 0.0864 * shortwave[day] - longwave
        radiative = 0.408 * slope * max(net, 0.0)
        drying = gamma * 900.0 / (t + 273.0) * speed * 0.1 * vpd[day]
        demand[day] = (radiative + drying) / (slope + gamma * (1.0 + 0.34 * speed))
