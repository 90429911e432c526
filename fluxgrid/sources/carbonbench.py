"""CarbonBench's files as published (474-site revision): fluxes, ERA5-Land and MOD09GA of its towers by day.

A folder holds ``target_fluxes_v2.parquet`` (``TIMESTAMP`` as yyyymmdd, ``site``, ``lat``, ``lon``, ``IGBP``, GPP, RECO,
NEE and the share of good half-hours), ``ERA5.parquet`` and ``MOD09GA.parquet`` (``date``, ``site`` and the columns of
`fluxgrid.variables_towers`), ``koppen_sites.json`` (main letter of each site) and ``koppen_sites_short.json`` (its
class of thirty); ``feature_sets.json`` lists the sets of ERA5-Land variables. -9999 means missing. The covariates name
sites with their network (``FLX_US-Ha1``), the targets without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fluxgrid.data.sites import Sites, sites_from_table
from fluxgrid.errors import TableError, itemise
from fluxgrid.sources.base import SOURCES, Screen, code_classes, site_facts
from fluxgrid.variables import CLIMATE_GROUPS
from fluxgrid.variables_towers import ERA5_ROWS, MOD09GA_ROWS

FeatureSet = Literal["minimal", "standard", "full"]

FIRST_DAY = pd.Timestamp("2000-02-24")
"""First day of MODIS; targets before it do not count."""
MINIMAL = (
    *("temperature_2m", "total_precipitation_sum", "surface_net_solar_radiation_sum", "total_evaporation_sum"),
    *("leaf_area_index_high_vegetation", "leaf_area_index_low_vegetation"),
)
"""ERA5-Land variables of the minimal set, by their published names."""
WINDOW = 30
"""Days of CarbonBench's windows."""

_TARGETS = {
    "GPP_NT_VUT_USTAR50": "gpp",
    "RECO_NT_VUT_USTAR50": "reco",
    "NEE_VUT_USTAR50": "nee",
    "NEE_VUT_USTAR50_QC": "nee_qc",
}
_PLACE = {"lat": "latitude", "lon": "longitude"}
_FILES = ("target_fluxes_v2.parquet", "ERA5.parquet", "MOD09GA.parquet", "koppen_sites.json", "koppen_sites_short.json")
_SETS = "feature_sets.json"
_MISSING = -9999


@dataclass(frozen=True, eq=False)
class CarbonBenchTables:
    """The files as tables, each day of a site once."""

    targets: pd.DataFrame
    """Columns site, date, latitude, longitude, igbp, gpp, reco, nee and nee_qc; float64, NaN where missing."""
    covariates: pd.DataFrame
    """Columns site, date and covariates by their published names, ERA5-Land first: of the days from the first target of
    each site, and some before it, to its last, whether or not they have a target."""
    letters: dict[str, str]
    """Main letter of Koeppen of each site."""
    codes: dict[str, str]
    """Its class of thirty."""


@SOURCES.register("carbonbench")
@dataclass(frozen=True)
class CarbonBench:
    """Reader of CarbonBench's files.

    Parameters
    ----------
    features : {"minimal", "standard", "full"}
        Which variables of ERA5-Land to read: 6, 36 or 150. The names of the 36 are read from ``feature_sets.json``.
    before : int
        Days of covariates kept before the first target of a site; CarbonBench's windows look back 29.
    screen : Screen
        Which fluxes are good enough.
    """

    features: FeatureSet = "minimal"
    before: int = WINDOW - 1
    screen: Screen = field(default_factory=Screen)

    title: ClassVar[str] = "CarbonBench's files: fluxes, ERA5-Land and MOD09GA of 474 towers by day"
    citation: ClassVar[str] = "CarbonBench: Rozanov et al. 2026, arXiv:2603.09868, and the networks of its towers"
    licence: ClassVar[str] = "MIT (the collection); the towers' own terms for the fluxes"

    def read_sites(self, path: Path | str) -> Sites:
        """Read the towers of a folder.

        Parameters
        ----------
        path : path
            Folder with the published files.

        Returns
        -------
        sites : Sites
            On the calendar: a day without fluxes keeps its covariates. Fluxes in g C m-2 d-1, NEE positive to the
            atmosphere; covariates by the names ``era5_...`` and ``mod09ga_...`` in their published units.

        Raises
        ------
        TableError
            Listing every file and column that is missing; or if the data break a rule of `sites_from_table`.
        """
        folder = Path(path)
        tables = read_tables(folder, self.features, self.before)
        ours = {row.published: row.name for row in (*ERA5_ROWS, *MOD09GA_ROWS)}
        series = tables.targets.drop(columns=[*_PLACE.values(), "igbp"])
        table = tables.covariates.rename(columns=ours).merge(series, how="outer", on=["site", "date"])
        table, notes = self.screen.apply(table.sort_values(["site", "date"], ignore_index=True))
        sites = sites_from_table(table, _facts(tables, folder), "daily", folder.name, self.citation)
        return replace(sites, notes=(*notes, *sites.notes))


def read_tables(
    folder: Path, features: FeatureSet, before: int = WINDOW - 1, precision: type = np.float32
) -> CarbonBenchTables:
    """Read the files of a folder.

    Parameters
    ----------
    folder : Path
    features : {"minimal", "standard", "full"}
        Which variables of ERA5-Land.
    before : int
        Days of covariates kept before the first target of a site.
    precision : type
        Of the covariates: numpy.float32 or numpy.float64.

    Returns
    -------
    tables : CarbonBenchTables
        Of a day of a site that comes twice the first row counts, as published.

    Raises
    ------
    TableError
        Listing every file and column that is missing, or if one cannot be read.
    """
    _check_files(folder)
    era5 = era5_names(folder, features)
    wanted = {
        "target_fluxes_v2.parquet": ["TIMESTAMP", "site", *_PLACE, "IGBP", *_TARGETS],
        "ERA5.parquet": ["date", "site", *era5],
        "MOD09GA.parquet": ["date", "site", *(row.published for row in MOD09GA_ROWS)],
    }
    _check_columns(folder, wanted)
    targets, weather, bands = wanted.items()
    fluxes = _targets(*_read(folder, *targets, np.float64))
    spans = fluxes.groupby("site")["date"].agg(["min", "max"])
    spans["min"] -= pd.Timedelta(days=before)
    parts = [_once(pd.concat(_within(_read(folder, *each, precision), spans))) for each in (weather, bands)]
    covariates = parts[0].merge(parts[1], how="outer", on=["site", "date"])
    letters, codes = (_classes(folder / name) for name in _FILES[3:])
    return CarbonBenchTables(fluxes, covariates, letters, codes)


def era5_names(folder: Path, features: FeatureSet) -> tuple[str, ...]:
    """Return the published names of the ERA5-Land variables of a set.

    Parameters
    ----------
    folder : Path
        ``feature_sets.json`` there lists the standard set.
    features : {"minimal", "standard", "full"}

    Returns
    -------
    names : tuple of str

    Raises
    ------
    TableError
        If the standard set is wanted and the file is missing, cannot be read, or names a variable nobody knows.
    """
    full = tuple(row.published for row in ERA5_ROWS)
    if features == "full":
        return full
    if features == "minimal":
        return MINIMAL
    found = _json(folder / _SETS).get(features)
    names = [str(name) for name in found] if isinstance(found, list) else []
    if wrong := [name for name in names if name not in full] or ([] if names else ["no list of names"]):
        message = (
            f"{folder / _SETS} does not say which variables of ERA5-Land are the {features} set "
            f"({', '.join(wrong)}). Put the published file there, or take features: full."
        )
        raise TableError(message)
    return tuple(names)


def _check_files(folder: Path) -> None:
    """Raise if a file is missing."""
    if lacking := [f"no file {name}" for name in _FILES if not (folder / name).is_file()]:
        advice = "Give the folder of the data set CarbonFluxBench, as its authors publish it on Hugging Face"
        raise TableError(itemise(f"{folder} does not hold the files of CarbonBench. {advice}", lacking))


def _check_columns(folder: Path, wanted: dict[str, list[str]]) -> None:
    """Raise if a column is missing in any file."""
    problems = []
    for name, columns in wanted.items():
        try:
            with pq.ParquetFile(folder / name) as file:
                known, rows = file.schema_arrow.names, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{name}: cannot be read ({error}); fetch it again")
            continue
        problems += [f"{name}: no column {column}" for column in columns if column not in known]
        problems += [] if rows else [f"{name}: no rows"]
    if problems:
        raise TableError(itemise(f"The files of CarbonBench in {folder} cannot be used", problems))


def _read(folder: Path, name: str, columns: Sequence[str], precision: type) -> Iterator[pd.DataFrame]:
    """Yield a file piece by piece, with sites without their network and numbers that are missing as NaN."""
    # ERA5.parquet holds five million days: as one table of 150 columns it would take six gigabytes
    for batch in pq.ParquetFile(folder / name).iter_batches(50_000, columns=list(columns)):
        table = batch.to_pandas(date_as_object=False)
        numbers = table.select_dtypes("number").columns.difference(["TIMESTAMP"])
        table[numbers] = table[numbers].mask(table[numbers] == _MISSING).astype(precision)
        table["site"] = table["site"].map(_bare)
        if "date" in table:
            table["date"] = pd.to_datetime(table["date"], errors="coerce")
        yield table[list(columns)]


def _bare(site: object) -> object:
    """Return the id of a site without its network: FLX_US-Ha1 is US-Ha1."""
    return site.split("_")[1] if isinstance(site, str) and "_" in site else site


def _targets(*pieces: pd.DataFrame) -> pd.DataFrame:
    """Return the targets by our names, from the first day of MODIS on."""
    table = pd.concat(pieces, ignore_index=True)
    stamp = table.pop("TIMESTAMP")
    known = pd.api.types.is_datetime64_any_dtype(stamp)
    table["date"] = stamp if known else pd.to_datetime(stamp.astype(str), format="%Y%m%d", errors="coerce")
    # as published, or one tower under two networks stands in two places
    table = table.assign(lat=table["lat"].round(3), lon=table["lon"].round(3))
    # a date that cannot be read stays, to be told of
    table = table[~(table["date"] < FIRST_DAY)]
    return _once(table.rename(columns={**_TARGETS, **_PLACE, "IGBP": "igbp"})).sort_values(["site", "date"])


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of each day of a site."""
    return table.drop_duplicates(["site", "date"], ignore_index=True)


def _within(pieces: Iterator[pd.DataFrame], spans: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows inside the span of their site."""
    for table in pieces:
        span = spans.reindex(table["site"])
        date = table["date"].to_numpy()
        yield table[(date >= span["min"].to_numpy()) & (date <= span["max"].to_numpy())]


def _classes(path: Path) -> dict[str, str]:
    """Return a class of each site."""
    return {str(_bare(site)): str(name) for site, name in _json(path).items() if name is not None}


def _json(path: Path) -> dict[str, object]:
    """Return the mapping in a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"Cannot read {path}: {error}. Fetch it again from CarbonBench's data set."
        raise TableError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold names and values, not {type(content).__name__}. Fetch it again."
        raise TableError(message)
    return content


def _facts(tables: CarbonBenchTables, folder: Path) -> pd.DataFrame:
    """Return coordinates and classes of the sites."""
    facts = site_facts(tables.targets, ["igbp"], folder)
    groups = dict(zip("ABCDE", CLIMATE_GROUPS, strict=True))
    sites = facts.index.to_series()
    return code_classes(
        facts.assign(koppen=sites.map(tables.codes), climate_group=sites.map(tables.letters).map(groups))
    )
