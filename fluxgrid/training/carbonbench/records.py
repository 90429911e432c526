"""Towers as CarbonBench reads them, from its files or a tower table: covariates, targets, and classes one-hot.

Source: CarbonBench (Rozanov et al.), the 474-site revision: targets of days with GPP, RECO, NEE and their quality from
24 February 2000 on; coordinates to three decimals among the dynamic inputs; 16 + 5 + 30 class columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.errors import TableError
from fluxgrid.sources.carbonbench import FIRST_DAY, CarbonBenchTables, FeatureSet, read_tables
from fluxgrid.variables import IGBP_CLASSES
from fluxgrid.variables_towers import MOD09GA_ROWS

TARGETS = ("gpp", "reco", "nee")
"""Order of the targets."""
BANDS = tuple(row.published for row in MOD09GA_ROWS)
"""The twelve columns of MOD09GA, which alone are interpolated over days without an observation."""
KOPPEN = tuple("ABCDE")
"""Main letters, in the order of `fluxgrid.variables.CLIMATE_GROUPS`."""
# the thirty of the variable `koppen`, in another order: that of the table is frozen with the reference world
KOPPEN_SHORT = (
    *("Af", "Am", "Aw", "BWh", "BWk", "BSh", "BSk", "Cfa", "Cwa", "Csa", "Csb", "Csc", "Cwb", "Cwc", "Cfb", "Cfc"),
    *("Dsa", "Dsb", "Dsc", "Dsd", "Dwa", "Dwb", "Dwc", "Dwd", "Dfa", "Dfb", "Dfc", "Dfd", "ET", "EF"),
)
TOWER_COVARIATES = ("temperature_2m", "precipitation", "shortwave", "vpd", "wind_speed")
"""Weather of a table of towers that stands in for ERA5."""
_SOLAR_CONSTANT = 1361.0
_YEAR = 365.25


@dataclass(frozen=True, eq=False)
class Record:
    """One site."""

    site: str
    days: pd.DatetimeIndex
    """Days with all targets, (N,)."""
    targets: np.ndarray
    """(N, 3), g m-2 d-1, by `TARGETS`."""
    quality: np.ndarray
    """Share of good half-hours, (N,)."""
    covariates: pd.DataFrame
    """By day, columns in the order of the tensors; the last two are ``lat`` and ``lon``."""
    igbp: str
    koppen: str
    """Main letter."""
    koppen_short: str

    @property
    def place(self) -> np.ndarray:
        """Classes one-hot, (51,); a class nobody knows is all zeros."""
        pairs = ((self.igbp, IGBP_CLASSES), (self.koppen, KOPPEN), (self.koppen_short, KOPPEN_SHORT))
        return np.concatenate([np.array([float(name == own) for name in names]) for own, names in pairs])


def tower_records(table: pd.DataFrame, sites: Iterable[str], classes: dict[str, str] | None = None) -> list[Record]:
    """Return towers of a daily table as the published code was run on them.

    Parameters
    ----------
    table : DataFrame
        Layout of ``towers_daily.parquet``: site, date, lat, lon, igbp, koppen, flux_source, gpp, reco, nee, nee_qc and
        `TOWER_COVARIATES`.
    sites : iterable of str
        Which ones, in this order.
    classes : dict of str to str, optional
        IGBP classes of sites that the table has none of.

    Returns
    -------
    records : list of Record
        In the place of the MODIS columns stand radiation at the top of the atmosphere, day length, sine and cosine of
        the day of the year, and eight zeros; NEON's quality, which it does not tell, is 1.

    Raises
    ------
    TableError
        If a site has no day with all targets.
    """
    return [_tower(part, (classes or {}).get(site)) for site in sites for part in [table[table["site"] == site]]]


def _tower(rows: pd.DataFrame, igbp: str | None) -> Record:
    """Return one site."""
    rows = rows.set_index("date").sort_index()
    site, first = str(rows["site"].iloc[0]), rows.iloc[0]
    latitude, longitude = (round(float(np.float64(first[name])), 3) for name in ("lat", "lon"))
    quality = rows["nee_qc"].where(rows["flux_source"] != "NEON_NCAR", 1.0)
    known = rows[list(TARGETS)].notna().all(axis=1) & quality.notna() & (rows.index >= FIRST_DAY)
    if not known.any():
        message = f"{site}: no day with gpp, reco, nee and nee_qc from {FIRST_DAY:%Y-%m-%d} on; leave the site out."
        raise TableError(message)
    days = pd.DatetimeIndex(rows.index[known])
    weather = rows[list(TOWER_COVARIATES)].astype(np.float64)
    time = pd.DatetimeIndex(weather.index)
    bands = np.column_stack([*_sky(time, latitude), np.zeros((len(time), 8))])
    columns = [weather, pd.DataFrame(bands, time, list(BANDS)), pd.DataFrame({"lat": latitude, "lon": longitude}, time)]
    return Record(
        site,
        days,
        rows.loc[known, list(TARGETS)].to_numpy(np.float64),
        quality[known].to_numpy(np.float64),
        pd.concat(columns, axis=1),
        igbp or str(first["igbp"]),
        str(first["koppen"])[:1],
        str(first["koppen"]),
    )


def carbonbench_records(folder: Path, features: FeatureSet = "minimal") -> list[Record]:
    """Return the towers of CarbonBench's files as the published code takes them.

    Parameters
    ----------
    folder : Path
        As for `fluxgrid.sources.carbonbench.CarbonBench`.
    features : {"minimal", "standard", "full"}
        Which variables of ERA5-Land.

    Returns
    -------
    records : list of Record
        In alphabetical order; a day counts that has all targets, their quality and the site's three classes. Covariates
        by their published names in the order of the tensors: ERA5-Land, MOD09GA, coordinates.

    Raises
    ------
    TableError
        If the files cannot be used, or no site has a day that counts.
    """
    tables = read_tables(folder, features, precision=np.float64)
    covariates = {str(site): part for site, part in tables.covariates.groupby("site")}
    found = [_record(rows, covariates, tables) for _, rows in _whole(tables).groupby("site")]
    if not found:
        message = f"No tower of {folder} has a day with gpp, reco, nee, nee_qc and its classes; look at the files."
        raise TableError(message)
    return found


def _whole(tables: CarbonBenchTables) -> pd.DataFrame:
    """Return the targets of the days that count."""
    classes = {"letter": tables.letters, "code": tables.codes}
    named = {name: tables.targets["site"].map(known) for name, known in classes.items()}
    return tables.targets.assign(**named).dropna()


def _record(rows: pd.DataFrame, covariates: dict[str, pd.DataFrame], tables: CarbonBenchTables) -> Record:
    """Return one site."""
    first = rows.iloc[0]
    site = str(first["site"])
    empty = tables.covariates.head(0)
    own = covariates.get(site, empty).set_index("date").sort_index().drop(columns="site")
    classes = (str(first[name]) for name in ("igbp", "letter", "code"))
    return Record(
        site,
        pd.DatetimeIndex(rows["date"]),
        rows[list(TARGETS)].to_numpy(np.float64),
        rows["nee_qc"].to_numpy(np.float64),
        own.assign(lat=first["latitude"], lon=first["longitude"]),
        *classes,
    )


def _sky(time: pd.DatetimeIndex, latitude: float) -> tuple[np.ndarray, ...]:
    """Return radiation at the top of the atmosphere (W m-2), day length (h), sine and cosine of the day of the year.

    Allen et al. 1998, FAO Irrigation and Drainage Paper 56, eq. 21-25 and 34, over 365.25 days.
    """
    angle = 2 * np.pi * time.day_of_year.to_numpy() / _YEAR
    declination, phi = 0.409 * np.sin(angle - 1.39), np.deg2rad(latitude)
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1.0, 1.0))
    high, low = np.sin(phi) * np.sin(declination), np.cos(phi) * np.cos(declination)
    top = _SOLAR_CONSTANT / np.pi * (1 + 0.033 * np.cos(angle)) * (sunset * high + low * np.sin(sunset))
    return top, 24 / np.pi * sunset, np.sin(angle), np.cos(angle)
