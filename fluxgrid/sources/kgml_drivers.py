"""Daily drivers of KGML-ag for one county, as KGML-DA published them, and the completion of what they lack.

The table has weather of NLDAS-2, soil of gSSURGO and GPP of corn and soybean seen from space (SLOPE), but no diurnal
range of temperature and vapour pressure, no pH and no exchange capacity. Each gap is filled by a named assumption that
can be exchanged for another (`fluxgrid.sources.kgml_assumptions`), so that what it does can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.data.derived import daily_toa_radiation
from fluxgrid.data.kgml import KGML_CROPS
from fluxgrid.errors import TableError, itemise
from fluxgrid.geo import boundaries
from fluxgrid.sources.kgml_assumptions import MJ_PER_W, Assumptions, completed
from fluxgrid.variables import get_variable

CITATION = (
    "KGML-DA (doi:10.1016/j.rse.2023.113880): NLDAS-2, gSSURGO; SLOPE GPP (Jiang et al. 2021, "
    "doi:10.5194/essd-13-281-2021)"
)

_RENAMED = {
    "sand_content": "sand",
    "silt_content": "silt",
    "gpp_slope_corn": "gpp_corn",
    "gpp_slope_soybean": "gpp_soybean",
}
_WEATHER = ("temperature_2m", "relative_humidity", "wind_speed", "precipitation", "shortwave")
_SOIL = (
    "bulk_density",
    "sand",
    "silt",
    "field_capacity",
    "wilting_point",
    "saturated_hydraulic_conductivity",
    "soc",
)
_GPP = tuple(f"gpp_{crop}" for crop in KGML_CROPS)


@dataclass(frozen=True, eq=False)
class CountyDrivers:
    """What is known of a county, day by day."""

    table: pd.DataFrame
    """Index: every day of whole calendar years. Columns by the names and units of VARIABLES, ``gpp_corn`` and
    ``gpp_soybean`` in g C m-2 d-1; nothing is missing."""
    latitude: float
    """Degrees north, of the county's centre."""
    notes: tuple[str, ...]
    """What was filled."""
    source: str
    """Name of the file."""

    @property
    def time(self) -> pd.DatetimeIndex:
        """Days of the table, (days,)."""
        return pd.DatetimeIndex(self.table.index)


def read_kgml_drivers(path: Path | str) -> CountyDrivers:
    """Read the driver table of a county.

    Parameters
    ----------
    path : path
        Parquet with ``date``, ``fips``, ``temperature_2m`` (degC), ``relative_humidity`` (%), ``wind_speed`` (m s-1 at
        10 m), ``precipitation`` (mm d-1), ``shortwave_mj`` (MJ m-2 d-1), the soil (constants), ``gpp_slope_corn`` and
        ``gpp_slope_soybean`` (g C m-2 d-1).

    Returns
    -------
    drivers : CountyDrivers
        GPP of 31 December of leap years, which SLOPE does not have, is that of the day before.

    Raises
    ------
    TableError
        If the file cannot be read, lacks columns or days, or holds values that cannot be. The message lists every
        problem.
    """
    path = Path(path)
    table = _read(path)
    latitude = _latitude(path, table)
    table = table.set_index("date").sort_index()[[*_WEATHER, *_SOIL, *_GPP]].astype(np.float64)
    last_day = (pd.DatetimeIndex(table.index).day_of_year == 366) & table[list(_GPP)].isna().any(axis=1)
    table.loc[last_day, list(_GPP)] = table[list(_GPP)].ffill()[last_day]
    _refuse(path, [*_calendar_problems(pd.DatetimeIndex(table.index)), *_value_problems(table)])
    note = f"GPP of {int(last_day.sum())} leap days at the end of the year is that of the day before"
    return CountyDrivers(table, latitude, (note,) if last_day.any() else (), path.name)


def complete_drivers(drivers: CountyDrivers, assumptions: Assumptions | None = None) -> dict[str, np.ndarray]:
    """Return the 19 inputs of KGML-ag for each crop.

    Parameters
    ----------
    drivers : CountyDrivers
        What is known.
    assumptions : Assumptions, optional
        How the rest is completed; the defaults by default.

    Returns
    -------
    features : dict of ndarray, (days, 19), float32
        By crop (``corn``, ``soybean``), physical units in the order of `KGML_FEATURES`; GPP is that of the crop. Leap
        years keep their 366 days.
    """
    known = {name: drivers.table[name].to_numpy() for name in (*_WEATHER, *_SOIL, *_GPP)}
    time = drivers.time
    known["toa_radiation"] = daily_toa_radiation(time.day_of_year.to_numpy(), np.array([drivers.latitude]))[:, 0]
    known["calendar_year"] = time.year.to_numpy(np.float64)
    known |= completed(known, assumptions or Assumptions())
    return {crop: _features(known, crop) for crop in KGML_CROPS}


def _features(known: dict[str, np.ndarray], crop: str) -> np.ndarray:
    """Return the inputs of a crop, (days, 19)."""
    vapour, swing = known["vapour_pressure"], known["vapour_range"]
    columns = (
        known["shortwave"] * MJ_PER_W,
        known["temperature_2m"] + known["above_mean"] * known["temperature_range"],
        known["temperature_range"],
        vapour + 0.5 * swing,
        swing,
        known["wind"],
        known["precipitation"],
        KGML_CROPS[crop],
        known[f"gpp_{crop}"] * known["gpp"],
        known["year"],
        *(known[name] for name in _SOIL),
        known["ph"],
        known["cec"],
    )
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float32)


def _read(path: Path) -> pd.DataFrame:
    """Return the table with our names and units."""
    try:
        table = pd.read_parquet(path).rename(columns=_RENAMED)
    except (OSError, ValueError) as error:
        message = f"Cannot read the drivers {path}: {error}. Give the county's parquet file."
        raise TableError(message) from error
    if "shortwave_mj" in table:
        table["shortwave"] = table["shortwave_mj"] / MJ_PER_W
    theirs = {ours: name for name, ours in _RENAMED.items()} | {"shortwave": "shortwave_mj"}
    missing = [name for name in ("date", "fips", *_WEATHER, *_SOIL, *_GPP) if name not in table]
    _refuse(path, [f"no column {theirs.get(name, name)}" for name in missing])
    return table


def _latitude(path: Path, table: pd.DataFrame) -> float:
    """Return the latitude of the county's centre."""
    codes = sorted(set(table["fips"].astype(str)))
    counties = boundaries.counties().set_index("fips")["geometry"]
    if len(codes) != 1 or codes[0] not in counties.index:
        _refuse(path, [f"fips: {', '.join(codes[:5]) or 'none'}; there must be one county of the United States"])
    return float(counties[codes[0]].representative_point().y)


def _calendar_problems(time: pd.DatetimeIndex) -> Iterator[str]:
    """Yield what is wrong with the days."""
    if not len(time):
        yield "no days"
        return
    first, last = int(time.year.min()), int(time.year.max())
    days = pd.date_range(f"{first}-01-01", f"{last}-12-31")
    lost, twice = days.difference(time), time[time.duplicated()]
    if len(lost):
        yield f"date: {len(lost)} days of {first}-{last} are missing, such as {lost[0]:%Y-%m-%d}; years must be whole"
    if len(twice):
        yield f"date: {len(twice)} days stand twice, such as {twice[0]:%Y-%m-%d}"


def _value_problems(table: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the values."""
    for name in table:
        values = table[name]
        variable = get_variable("gpp_satellite" if name in _GPP else str(name))
        if values.isna().any():
            yield f"{name}: {int(values.isna().sum())} days are NaN, such as {values.index[values.isna()][0]:%Y-%m-%d}"
        low, high = variable.valid_range or (-np.inf, np.inf)
        if (values < low).any() or (values > high).any():
            yield f"{name}: {values.min():.4g}..{values.max():.4g}, but {variable.units} must lie in {low:g}..{high:g}"
        if name in _SOIL and (values != values.iloc[0]).any():
            yield f"{name}: {len(set(values))} values; the soil of a county must be one"


def _refuse(path: Path, problems: list[str]) -> None:
    """Raise if there are problems."""
    if problems:
        raise TableError(itemise(f"The drivers {path} cannot be used", problems))
