"""County yields of corn and soybean, as an agricultural survey reports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.special import ndtri

from fluxgrid.errors import ConfigError
from fluxgrid.geo import boundaries
from fluxgrid.registry import unknown_name
from fluxgrid.simulation.land import Places, crop_shares, places_at
from fluxgrid.simulation.noise import uniforms
from fluxgrid.simulation.parameters import EXTENT, load_section, strict_dataclass
from fluxgrid.simulation.process import KIND_OF, KINDS, run_years

CROPS = ("corn", "soybean")
_AT_ONCE = 512  # places: a year of them takes about 40 MB
# Steps of Roberts' R2 sequence, whose points fill a rectangle evenly however many are taken.
_STEPS = 0.7548776662466927, 0.5698402909980532
_TRIES = 4096


@strict_dataclass
class Grain:
    """From carbon to the weight that is traded."""

    carbon: float
    """Share of carbon in dry grain."""
    moisture: float
    """Share of water in grain as traded."""


@strict_dataclass
class Yields:
    """The section ``yields`` of `world.yaml`."""

    per_county: int
    """Places of a county at which the process model runs."""
    least_share: float
    """Share of a county under a crop below which no yield is published."""
    error: dict[str, float]
    """Relative standard error where the crop has `common_share` of the county, by crop."""
    common_share: float
    error_power: float
    """Errors grow with this power of the inverse share: fewer farms report."""
    most_error: float
    grain: dict[str, Grain]


YIELDS = load_section("yields", Yields)


def county_yields(states: Sequence[str], years: Sequence[int], seed: int = 1, survey: bool = True) -> pd.DataFrame:
    """Return yields of the counties of some states.

    Parameters
    ----------
    states : sequence of str
        Postal codes.
    years : sequence of int
        Not before the world's first year.
    seed : int
        Of the survey error, >= 0. A county's error in a year does not depend on what else is asked for.
    survey : bool
        Whether yields have survey error; without it they are the world's own.

    Returns
    -------
    yields : DataFrame
        A row for each county, year and crop that is grown widely enough to be published: ``fips``, ``state`` (postal
        code), ``year``, ``crop`` (corn or soybean), ``yield_g_m2`` (carbon in harvested grain, g C m-2 of the crop),
        ``yield_t_ha`` (grain at market moisture, 15.5 and 13 %), ``area_share`` (of the county) and ``error`` (relative
        standard error of the yield, 0 without survey).

    Raises
    ------
    UnknownName
        If a state is not one.
    ConfigError
        If a year comes before the world or none is given, a state lies outside it, or the seed is negative.

    Notes
    -----
    The process model runs at a few fixed places of each county; a county's yield is their mean by area of the crop.
    """
    counties = _counties(states)
    _check(counties, years, seed)
    owner, latitude, longitude = _points(counties)
    parts = [
        _grown(np.arange(first, min(first + _AT_ONCE, len(owner))), latitude, longitude, years)
        for first in range(0, len(owner), _AT_ONCE)
    ]
    table = _mean_of_counties(pd.concat(parts), owner, counties)
    table = table[table["area_share"] >= YIELDS.least_share].reset_index(drop=True)
    table["error"] = _standard_errors(table) if survey else 0.0
    if survey:
        table["yield_g_m2"] *= _survey_factors(table, seed)
    grain = {crop: 0.01 / (g.carbon * (1.0 - g.moisture)) for crop, g in YIELDS.grain.items()}
    table.insert(5, "yield_t_ha", table["yield_g_m2"] * table["crop"].map(grain))
    return table


def _counties(states: Sequence[str]) -> gpd.GeoDataFrame:
    """Return the counties of states, in the order of their codes."""
    table = boundaries.counties()
    for state in states:
        if state not in set(table["postal"]):
            error = unknown_name("state", state, sorted(set(table["postal"])))
            raise error
    return table[table["postal"].isin(list(states))].sort_values("fips").reset_index(drop=True)


def _check(counties: gpd.GeoDataFrame, years: Sequence[int], seed: int) -> None:
    """Refuse what the world does not reach."""
    if len(counties) == 0 or len(years) == 0 or min(years) < EXTENT.first_year or seed < 0:
        message = (
            f"County yields need a state, years from {EXTENT.first_year} on and a seed >= 0, got "
            f"{len(counties)} counties, years {list(years)}, seed {seed}."
        )
        raise ConfigError(message)
    low_x, high_x, low_y, high_y = EXTENT.bounds
    west, south, east, north = counties.total_bounds
    if west < low_x or east > high_x or south < low_y or north > high_y:
        message = (
            f"The states {sorted(set(counties['postal']))} reach beyond the world, which ends at longitudes "
            f"{low_x}..{high_x}, latitudes {low_y}..{high_y}: leave out those at its border."
        )
        raise ConfigError(message)


def _points(counties: gpd.GeoDataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return county, latitude and longitude of fixed places, spread evenly over each county."""
    n = np.arange(1, _TRIES + 1)
    across, up = ((0.5 + step * n) % 1.0 for step in _STEPS)
    owner, latitude, longitude = [], [], []
    for number, shape in enumerate(counties.geometry):
        west, south, east, north = shape.bounds
        shapely.prepare(shape)
        x, y = west + across * (east - west), south + up * (north - south)
        inside = np.flatnonzero(shapely.contains_xy(shape, x, y))[: YIELDS.per_county]
        owner += [number] * len(inside)
        latitude += y[inside].tolist()
        longitude += x[inside].tolist()
    return np.array(owner), np.array(latitude), np.array(longitude)


def _grown(points: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, years: Sequence[int]) -> pd.DataFrame:
    """Return share and yield of each crop at each of some places, in each year."""
    places = places_at(latitude[points], longitude[points])
    tables = []
    for year in run_years(places, min(years), max(years)):
        if year.year in years:
            for crop, share, amount in _crops(places, year.year, year.annual["yield"]):
                columns = {"point": points, "year": year.year, "crop": crop, "share": share, "grain": share * amount}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def _crops(places: Places, year: int, amounts: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each crop with its share of the places and its yield there, g C m-2, (n,)."""
    for crop, share in zip(CROPS, crop_shares(places, np.array([year])), strict=True):
        grows = KIND_OF[year % 2] == KINDS.index(crop)
        area, grain = np.zeros(len(amounts)), np.zeros(len(amounts))
        for column in np.flatnonzero(grows):
            area += places.shares[:, column]
            grain += places.shares[:, column] * amounts[:, column]
        yield crop, share[:, 0], grain / np.maximum(area, 1e-9)


def _mean_of_counties(grown: pd.DataFrame, owner: np.ndarray, counties: gpd.GeoDataFrame) -> pd.DataFrame:
    """Return area and yield by county, year and crop."""
    grown = grown.assign(county=owner[grown["point"]])
    keys = ["county", "year", "crop"]
    sums = grown.groupby(keys, as_index=False).agg(share=("share", "sum"), grain=("grain", "sum"), n=("share", "size"))
    sums = sums[sums["share"] > 0]
    facts = counties.loc[sums["county"]]
    return pd.DataFrame(
        {
            "fips": facts["fips"].to_numpy(),
            "state": facts["postal"].to_numpy(),
            "year": sums["year"].to_numpy(),
            "crop": sums["crop"].to_numpy(),
            "yield_g_m2": (sums["grain"] / sums["share"]).to_numpy(),
            "area_share": (sums["share"] / sums["n"]).to_numpy(),
        }
    )


def _standard_errors(table: pd.DataFrame) -> pd.Series:
    """Return the relative standard error of each row."""
    rarity = (YIELDS.common_share / table["area_share"]) ** YIELDS.error_power
    return (table["crop"].map(YIELDS.error) * rarity).clip(upper=YIELDS.most_error)


def _survey_factors(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Return what survey error multiplies each yield with: each county and crop has a stream of its own, by year."""
    longest = int(table["year"].max()) - EXTENT.first_year + 1
    streams = {}
    for fips, crop in table[["fips", "crop"]].drop_duplicates().itertuples(index=False):
        key = (seed * 100_000 + int(fips)) * len(CROPS) + CROPS.index(crop)
        streams[fips, crop] = ndtri(uniforms(key, longest))
    positions = zip(table["fips"], table["crop"], table["year"] - EXTENT.first_year, strict=True)
    normal = np.array([streams[fips, crop][position] for fips, crop, position in positions])
    error = table["error"].to_numpy()
    return np.asarray(np.exp(error * normal - 0.5 * error * error))
