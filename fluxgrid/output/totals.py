"""Carbon totals of the region, its states and counties, by month and year."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from scipy import sparse

from fluxgrid.data.steps import step_ends
from fluxgrid.errors import OutputError
from fluxgrid.files import atomic_path
from fluxgrid.output.layers import PER_CROP, layers_of
from fluxgrid.output.stream import MapSource, blocks, covered_steps, open_map, read_block
from fluxgrid.variables import GRAMS_PER_TG, MAP_FLUXES, VARIABLES

if TYPE_CHECKING:
    from fluxgrid.geo.grid import Grid
    from fluxgrid.geo.region import Region

COLUMNS = (
    "level",
    "fips",
    "name",
    "period",
    "flux",
    "total_TgC",
    "sum_g_m2",
    "land_area_km2",
    "share_covered",
)
"""Columns of ``totals.csv``."""

_ELSEWHERE_SHARE = 1e-3  # less of the region's land than this outside every state is a sliver of the outlines


@dataclass(frozen=True)
class Units:
    """Places to sum over, and the land each has in each cell."""

    table: pd.DataFrame
    """Columns level, fips, name; one row a place."""
    land: sparse.csc_matrix
    """Land area in m2, (places, cells); by column, because maps are read in blocks of cells."""

    @property
    def area(self) -> np.ndarray:
        """Land area of each place, m2."""
        return np.asarray(self.land.sum(axis=1)).ravel()


def land_units(
    region: Region, grid: Grid, land_fraction: np.ndarray, levels: Sequence[str] = ("state", "county")
) -> Units:
    """Return the region, its states and its counties with their land in each cell.

    A place's land in a cell is its exact share of the cell. Where the places together claim more than the cell's land
    (lakes), all shares are scaled down alike, so that counties sum to states and states to the region. Land of the
    region outside every state is a row of its own.

    Parameters
    ----------
    region : Region
        Where.
    grid : Grid
        The map's grid.
    land_fraction : array (y, x)
        Share of each cell that is land, 0 to 1.
    levels : sequence of {"state", "county"}
        Parts wanted beside the region itself, which is the sum of the first of them.

    Returns
    -------
    units : Units
        The region is the first row.
    """
    cell_area = np.asarray(grid.cell_area(), "float64").ravel()
    land = np.asarray(land_fraction, "float64").ravel()
    whole = _dense(grid.coverage(gpd.GeoSeries([region.polygon], crs=4326)).sum(axis=0))
    frames = {"state": region.states_frame, "county": region.counties_frame}
    tables = [pd.DataFrame({"level": ["region"], "fips": [""], "name": [region.title]})]
    matrices: list[sparse.csr_matrix] = []
    for level in levels:
        frame = frames[level]()
        shares = _limit_to_land(grid.coverage(frame.geometry), land)
        elsewhere = _elsewhere(whole, shares, land, cell_area)
        tables.append(_unit_table(level, frame, bool(elsewhere.any())))
        matrices.append(sparse.vstack([shares, sparse.csr_matrix(elsewhere)]) if elsewhere.any() else shares)
    region_share = sparse.csr_matrix(_dense(matrices[0].sum(axis=0)))
    stack = sparse.vstack([region_share, *matrices], format="csr")
    return Units(pd.concat(tables, ignore_index=True), (stack @ sparse.diags(cell_area)).tocsc())


def region_land_share(region: Region, grid: Grid, land_fraction: np.ndarray) -> np.ndarray:
    """Return the share of each cell that is land of the region, 0 to 1, (y, x); as `land_units` has it."""
    land = land_units(region, grid, land_fraction, levels=("state",)).land[0].toarray()
    return np.clip(land.reshape(grid.shape) / grid.cell_area(), 0, 1)


def write_totals(
    sources: Sequence[MapSource], region: Region, grid: Grid, land_fraction: np.ndarray, path: Path | str, step: str
) -> Path:
    """Write ``totals.csv``: carbon by place, month and year.

    Columns: level (region, state, county), fips, name, period (``2019-07``, ``2019``), flux, total_TgC, sum_g_m2,
    land_area_km2, share_covered. ``total_TgC`` sums flux x days x land area over cells and steps that have a value:
    nothing is added for those that have none, and ``share_covered`` (of land area x time) says how many they are.
    ``sum_g_m2`` is g C per m2 of covered land, with gaps filled by the mean of what is there. Steps at the end of the
    maps at which no cell has a value are no gap but still to come (`covered_steps`): a month or year so cut short
    has the sum to date. Places without any value have empty numbers.
    A month or year of which the map holds a part is named by the days it holds, ``2019-04-01/2019-09-30``.

    Annual variables per area of land have a row for each place and whole calendar year; yields, which are per area of a
    crop, have none. Fluxes beyond `MAP_FLUXES` have months for the region and its states, and years for all places.

    Parameters
    ----------
    sources : sequence of path or Dataset
        Map stores or NetCDF maps, in order of time, none overlapping.
    region : Region
        Where.
    grid : Grid
        The map's grid.
    land_fraction : array (y, x)
        Share of each cell that is land, 0 to 1.
    path : path
        The file to make.
    step : {"daily", "monthly"}
        Length of a time step.

    Returns
    -------
    path : Path

    Raises
    ------
    DamagedMap
        If a map cannot be read.
    OutputError
        If the grids differ or the file cannot be written.
    """
    units = land_units(region, grid, land_fraction)
    maps = [open_map(source) for source in sources]
    _check_grids(maps, grid)
    spans = zip(maps, covered_steps(maps), strict=True)
    found = pd.concat([rows for one in spans for rows in _source_totals(*one, units, step)], ignore_index=True)
    yearly = found.assign(period=found["period"].str[:4])
    table = _finish(pd.concat([found[_monthly(found, units)], yearly]), units)
    times = pd.DatetimeIndex(np.concatenate([each["time"].values for each in maps]))
    table["period"] = table["period"].map(_labels(table["period"].unique(), times, step_ends(times, step)))
    # a part of one month is the same part of its year
    table = table.drop_duplicates(["level", "fips", "name", "period", "flux"])
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g")
    return Path(path)


def region_totals(path: Path) -> dict[str, dict[str, float]]:
    """Return the carbon of the whole region in each year of a ``totals.csv``.

    Parameters
    ----------
    path : Path
        As `write_totals` made it.

    Returns
    -------
    totals : dict of dict of float, Tg C
        By period - a year, or the days of it that the map holds, ``2019-04-01/2019-09-30`` - and flux: NEE, GPP and
        RECO. What has no value is left out.
    """
    table = pd.read_csv(path, usecols=["level", "period", "flux", "total_TgC"], dtype={"period": str})
    rows = table[(table["level"] == "region") & table["flux"].isin(MAP_FLUXES)].dropna()
    found = {}
    for _, year in rows.groupby(rows["period"].str[:4]):
        period = max(year["period"], key=_length)  # its months stand beside it
        own = year[year["period"] == period].set_index("flux")["total_TgC"]
        found[str(period)] = {str(flux): float(total) for flux, total in own.items()}
    return found


def _length(period: str) -> int:
    """Return the days that the name of a period spans.

    Examples
    --------
    >>> _length("2019"), _length("2019-02"), _length("2019-04-01/2019-04-30")
    (365, 28, 30)
    """
    first, _, last = period.partition("/")
    return (pd.Period(last or first).end_time - pd.Period(first).start_time).days + 1


def _labels(periods: Iterable[str], starts: pd.DatetimeIndex, ends: pd.DatetimeIndex) -> dict[str, str]:
    """Return what each month and year is called: by itself if all of it is held, else by the days that are."""
    found = {}
    for period in periods:
        whole = pd.Period(period)
        own = np.flatnonzero((starts >= whole.start_time) & (starts <= whole.end_time))
        first, last = starts[own[0]], ends[own[-1]] - pd.Timedelta(days=1)
        part = first > whole.start_time or last < whole.end_time.normalize()
        found[period] = f"{first:%Y-%m-%d}/{last:%Y-%m-%d}" if part else period
    return found


def _dense(row: np.matrix) -> np.ndarray:
    """Flatten the matrix that a sparse sum returns."""
    return np.asarray(row, "float64").ravel()


def _limit_to_land(shares: sparse.csr_matrix, land: np.ndarray) -> sparse.csr_matrix:
    """Scale the shares of a cell down where they claim more than its land."""
    claimed = _dense(shares.sum(axis=0))
    factor = np.divide(land, claimed, out=np.ones_like(land), where=claimed > land)
    return (shares @ sparse.diags(factor)).tocsr()


def _elsewhere(whole: np.ndarray, shares: sparse.csr_matrix, land: np.ndarray, cell_area: np.ndarray) -> np.ndarray:
    """Return the region's land outside every place, as a share of each cell; zero where it is only slivers."""
    inside = _dense(shares.sum(axis=0))
    share = np.clip(np.minimum(whole - inside, land - inside), 0, None)
    region_land = np.minimum(whole, land) @ cell_area
    return share if share @ cell_area > _ELSEWHERE_SHARE * region_land else np.zeros_like(share)


def _unit_table(level: str, frame: gpd.GeoDataFrame, elsewhere: bool) -> pd.DataFrame:
    """Name the places of one level."""
    table = pd.DataFrame({"level": level, "fips": frame["fips"].astype(str), "name": frame["name"].astype(str)})
    if elsewhere:
        table.loc[len(table)] = [level, "", f"outside every {level}"]
    return table


def _monthly(found: pd.DataFrame, units: Units) -> np.ndarray:
    """Return which sums are of a month that shall be in the table."""
    small = (units.table["level"] == "county").to_numpy()[found["unit"]]
    return ((found["period"].str.len() > len("2019")) & (found["flux"].isin(MAP_FLUXES) | ~small)).to_numpy()


def _check_grids(maps: Sequence[xr.Dataset], grid: Grid) -> None:
    """Refuse maps that are not on the grid."""
    for dataset in maps:
        if dataset["nee"].shape[1:] != grid.shape:
            message = f"A map has {dataset['nee'].shape[1:]} cells where the grid has {grid.shape} (rows, columns)."
            raise OutputError(message)


def _source_totals(dataset: xr.Dataset, count: int, units: Units, step: str) -> Iterator[pd.DataFrame]:
    """Yield the monthly sums of each flux of one map, whose first `count` steps are covered, and annual variables."""
    times = pd.DatetimeIndex(dataset["time"].values)
    days = ((step_ends(times, step) - times) / pd.Timedelta(days=1)).to_numpy("float32")
    months, starts = np.unique(times.strftime("%Y-%m"), return_index=True)
    to_date = np.where(np.arange(len(days)) < count, days, 0)
    lengths = np.add.reduceat(np.stack([days, to_date], axis=1), starts, axis=0, dtype="float64")
    layers = layers_of(dataset)
    for flux in layers.fluxes:
        yield _sums_table(flux, months, *_flux_sums(dataset, flux, units, days, starts), lengths)
    one = np.ones(1, "float32"), np.zeros(1, int)  # a sum over the year is one step of length 1
    for name in (name for name in layers.annual if name not in PER_CROP):
        grams, covered = _flux_sums(dataset, name, units, *one)
        if covered.any():  # part of a year has no annual sum
            yield _sums_table(name, np.array([str(times[-1].year)]), grams, covered, np.ones((1, 2)))


def _sums_table(
    name: str, periods: np.ndarray, grams: np.ndarray, covered: np.ndarray, lengths: np.ndarray
) -> pd.DataFrame:
    """Return the sums of one variable, (places, periods), as rows; lengths are (periods, whole and to date), days."""
    places = len(grams)
    return pd.DataFrame(
        {
            "unit": np.repeat(np.arange(places), len(periods)),
            "period": np.tile(periods, places),
            "flux": name,
            "grams": grams.ravel(),
            "covered": covered.ravel(),
            "days": np.tile(lengths[:, 0], places),
            "to_date": np.tile(lengths[:, 1], places),
        }
    )


def _flux_sums(
    dataset: xr.Dataset, flux: str, units: Units, days: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return grams of carbon and covered land area x days, (places, months)."""
    shape = (len(days), *dataset[flux].shape[-2:])
    cells = np.arange(units.land.shape[1]).reshape(shape[1:])
    grams = covered = np.zeros((units.land.shape[0], len(starts)))
    for block in blocks(shape):
        values = read_block(dataset, flux, block).reshape(len(days), *cells[block].shape)
        present = np.isfinite(values) * days[:, None, None]
        mass = np.where(present > 0, values, 0) * days[:, None, None]
        land = units.land[:, cells[block].ravel()]
        grams = grams + land @ _month_sums(mass, starts)
        covered = covered + land @ _month_sums(present, starts)
    return grams, covered


def _month_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum the steps of each month: (time, y, x) to (cells, months)."""
    flat = values.reshape(len(values), -1)  # (time, cells)
    return np.add.reduceat(flat, starts, axis=0, dtype="float64").T


def _finish(sums: pd.DataFrame, units: Units) -> pd.DataFrame:
    """Turn sums into the columns of the file, region first."""
    columns = ["grams", "covered", "days", "to_date"]
    table = sums.groupby(["unit", "period", "flux"], as_index=False, sort=False)[columns].sum()
    order = {flux: i for i, flux in enumerate(VARIABLES)}
    table = table.sort_values(["unit", "period", "flux"], key=lambda c: c.map(order) if c.name == "flux" else c)
    area = units.area[table["unit"]]
    possible = (area * table["days"]).to_numpy()
    covered = table["covered"].where(table["covered"] > 0)  # no value anywhere: empty numbers, not zero carbon
    places = units.table.iloc[table["unit"].to_numpy()].reset_index(drop=True)
    numbers = pd.DataFrame(
        {
            "period": table["period"],
            "flux": table["flux"],
            "total_TgC": (table["grams"] / GRAMS_PER_TG).where(covered.notna()),
            "sum_g_m2": table["grams"] / covered * table["to_date"],
            "land_area_km2": area / 1e6,
            "share_covered": np.divide(table["covered"], possible, out=np.zeros(len(table)), where=possible > 0),
        }
    ).reset_index(drop=True)
    return pd.concat([places, numbers], axis=1)[list(COLUMNS)]
