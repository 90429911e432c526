"""FLUXNET2015 and ONEFlux products (AmeriFlux, ICOS, FLUXNET Shuttle) as the networks publish them.

Daily (DD) and monthly (MM) files, FULLSET, SUBSET or FLUXMET, plain or inside the published zip:

* ``FLX_US-Ha1_FLUXNET2015_FULLSET_DD_1991-2012_1-4.csv``
* ``AMF_US-Ha1_FLUXNET_SUBSET_MM_1991-2020_3-5.csv``
* ``AMF_US-Ha1_FLUXNET_FLUXMET_DD_1991-2025_v1.3_r1.csv``

Their units are ours: temperature degC, radiation W m-2, VPD hPa, pressure kPa, wind m s-1, CO2 umol mol-1 (ppm), carbon
g C m-2 d-1 with NEE positive to the atmosphere. Precipitation is mm d-1 in both: the day's sum in DD, and in MM the
*average* of the daily sums (BIFVARINFO of the ONEFlux product: "P_F ... Average from daily data, mm d-1"), not a
monthly sum. Only yearly files hold sums, and they are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, ClassVar, Literal
from zipfile import BadZipFile, ZipFile

import pandas as pd

from fluxgrid.data.sites import Sites, sites_from_table
from fluxgrid.data.steps import Step
from fluxgrid.errors import TableError, itemise
from fluxgrid.sources.base import SOURCES, Screen
from fluxgrid.sources.site_list import read_site_facts

_NAME = re.compile(
    r"^[A-Z0-9]+_(?P<site>[A-Z]{2}-[A-Za-z0-9]{3})_FLUXNET(?:2015)?_(?:(?:FULLSET|SUBSET|FLUXMET)_)?"
    r"(?P<resolution>HH|HR|DD|WW|MM|YY)_.+\.csv$"
)
# BIF_DD and the like describe variables, not sites.
_BADM = re.compile(r"_(?:BIF|BADM)_(?!(?:HH|HR|DD|WW|MM|YY)_)[^/]*\.csv$")
_RESOLUTIONS: dict[str, str] = {"daily": "DD", "monthly": "MM"}
_TIMESTAMPS: dict[str, str] = {"daily": "%Y%m%d", "monthly": "%Y%m"}

# Meteorology "F" is measured, then gap-filled, then downscaled reanalysis: complete over the record.
_METEOROLOGY = {
    "TA_F": "temperature_2m",
    "TMIN_F": "tmin",
    "TMAX_F": "tmax",
    "P_F": "precipitation",
    "SW_IN_F": "shortwave",
    "LW_IN_F": "longwave",
    "NETRAD": "netrad",
    "VPD_F": "vpd",
    "WS_F": "wind_speed",
    "PA_F": "pressure",
    "CO2_F_MDS": "co2",
}


@dataclass(frozen=True)
class _Member:
    """One CSV file, plain or inside a zip."""

    path: Path
    inner: str | None = None

    @property
    def name(self) -> str:
        """Name without folders."""
        return Path(self.inner or self.path).name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading."""
        if self.inner is None:
            with self.path.open("rb") as file:
                yield file
        else:
            with ZipFile(self.path) as archive, archive.open(self.inner) as file:
                yield file


@SOURCES.register("fluxnet")
@dataclass(frozen=True)
class Fluxnet:
    """Reader of FLUXNET2015 and ONEFlux files.

    Parameters
    ----------
    site_list : path, optional
        Site facts: the networks' site list or BADM file. BADM files beside or inside the data are read as well; the
        list given here goes before them.
    step : {"daily", "monthly"}
        Which of the published aggregations to read.
    partitioning : {"NT", "DT"}
        GPP and RECO from nighttime or daytime data.
    version : {"REF", "USTAR50"}
        The version of NEE, GPP and RECO: reference by model efficiency, or the median friction-velocity threshold.
    threshold : {"VUT", "CUT"}
        Friction-velocity threshold varying from year to year, or constant.
    screen : Screen
        Which fluxes are good enough.
    """

    site_list: Path | str | None = None
    step: Step = "daily"
    partitioning: Literal["NT", "DT"] = "NT"
    version: Literal["REF", "USTAR50"] = "REF"
    threshold: Literal["VUT", "CUT"] = "VUT"
    screen: Screen = field(default_factory=Screen)

    title: ClassVar[str] = "FLUXNET2015 and ONEFlux files of the flux networks"
    citation: ClassVar[str] = "Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3, and the DOI of each site"
    licence: ClassVar[str] = "CC-BY-4.0"

    def read_sites(self, path: Path | str) -> Sites:
        """Read all sites of a folder, or one file.

        Parameters
        ----------
        path : path
            A CSV file, a published zip, or a folder with any number of both.

        Returns
        -------
        sites : Sites

        Raises
        ------
        TableError
            If there is no file of the wanted step, a site comes twice or without coordinates, or the data break a
            rule of `sites_from_table`.
        """
        path = Path(path)
        members = _members(path)
        chosen = self._choose(members, path)
        table = pd.concat([self._read(member, site) for site, member in chosen.items()], ignore_index=True)
        table, notes = self.screen.apply(table)
        sites = sites_from_table(table, self._facts(members), self.step, path.name, self.citation)
        return replace(sites, notes=(*notes, *sites.notes))

    @property
    def columns(self) -> dict[str, str]:
        """Our names by theirs."""
        suffix = f"{self.threshold}_{self.version}"
        fluxes = {
            f"NEE_{suffix}": "nee",
            f"NEE_{suffix}_QC": "nee_qc",
            f"GPP_{self.partitioning}_{suffix}": "gpp",
            f"RECO_{self.partitioning}_{suffix}": "reco",
        }
        return {**_METEOROLOGY, **fluxes}

    def _choose(self, members: list[_Member], path: Path) -> dict[str, _Member]:
        """Return the file of each site at the wanted step."""
        named = [(match, member) for member in members if (match := _NAME.match(member.name))]
        wanted = [(match["site"], member) for match, member in named if match["resolution"] == _RESOLUTIONS[self.step]]
        if not wanted:
            found = sorted({match["resolution"] for match, _ in named})
            message = (
                f"{path} has no {self.step} ({_RESOLUTIONS[self.step]}) file of a FLUXNET product; found "
                f"{', '.join(found) or 'no file named like one'}. Only DD (daily) and MM (monthly) are read, not "
                "half-hourly, hourly, weekly or yearly ones; the networks publish all of them in one archive."
            )
            raise TableError(message)
        by_site: dict[str, list[_Member]] = {}
        for site, member in sorted(wanted, key=lambda pair: (pair[0], pair[1].name)):
            by_site.setdefault(site, []).append(member)
        problems = [
            f"{site}: {len(several)} files, keep one of {', '.join(member.name for member in several)}"
            for site, several in by_site.items()
            if len(several) > 1
        ]
        if problems:
            raise TableError(itemise(f"{path} holds sites more than once", problems))
        return {site: several[0] for site, several in by_site.items()}

    def _read(self, member: _Member, site: str) -> pd.DataFrame:
        """Return the series of one file by our names, with columns site and date."""
        try:
            with member.open() as file:
                wanted = {*self.columns, "TIMESTAMP"}
                table = pd.read_csv(
                    file, usecols=lambda name: name in wanted, na_values=["-9999", "-9999.0"], dtype={"TIMESTAMP": str}
                )
        except (OSError, ValueError, BadZipFile) as error:
            message = f"Cannot read {member.name}: {error}. Fetch it again from the network."
            raise TableError(message) from error
        self._check(table, member)
        date = pd.to_datetime(table.pop("TIMESTAMP"), format=_TIMESTAMPS[self.step], errors="coerce")
        return table.rename(columns=self.columns).assign(site=site, date=date)

    def _check(self, table: pd.DataFrame, member: _Member) -> None:
        """Raise if the file has no time or none of the wanted fluxes."""
        fluxes = [theirs for theirs, ours in self.columns.items() if ours in ("nee", "gpp", "reco")]
        problems = []
        if "TIMESTAMP" not in table:
            problems.append("no column TIMESTAMP; half-hourly files have TIMESTAMP_START and are not read")
        if not any(name in table for name in fluxes):
            problems.append(f"none of {', '.join(fluxes)}; try another partitioning, version or threshold")
        if problems:
            raise TableError(itemise(f"{member.name} cannot be used", problems))

    def _facts(self, members: list[_Member]) -> pd.DataFrame:
        """Return the facts of the sites: the given list, then BADM files found with the data."""
        parts = []
        if self.site_list is not None:
            parts.append(read_site_facts(Path(self.site_list), str(self.site_list)))
        for member in members:
            if _BADM.search(member.name):
                with member.open() as file:
                    parts.append(read_site_facts(file, member.name))
        if not parts:
            message = (
                "The coordinates of the sites are not known: the files hold none. Give site_list, the networks' site "
                "list (SITE_ID, LOCATION_LAT, LOCATION_LONG, IGBP...) or BADM file."
            )
            raise TableError(message)
        return pd.concat(parts).groupby(level=0).first()


def _members(path: Path) -> list[_Member]:
    """Return the CSV files at a path: itself, of its folder, and of the zips there."""
    if not path.exists():
        message = f"There is no file or folder {path}; give the folder with the files of the network."
        raise TableError(message)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    members: list[_Member] = []
    for file in files:
        if file.suffix.lower() == ".csv":
            members.append(_Member(file))
        elif file.suffix.lower() == ".zip":
            members += [_Member(file, inner) for inner in _inner_names(file)]
    return members


def _inner_names(file: Path) -> list[str]:
    """Return the names of the CSV files of a zip."""
    try:
        with ZipFile(file) as archive:
            return sorted(name for name in archive.namelist() if name.lower().endswith(".csv"))
    except BadZipFile as error:
        message = f"{file} is not a whole zip file ({error}); fetch it again from the network."
        raise TableError(message) from error
