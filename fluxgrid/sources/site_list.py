"""Facts of sites as the networks publish them: site lists, and BADM files in the long BIF layout."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import IO

import pandas as pd

from fluxgrid.data.site_checks import MISSING_MARK
from fluxgrid.errors import TableError
from fluxgrid.sources.base import code_classes

# Our names by theirs, in small letters: FLUXNET site lists, AmeriFlux site search, BADM, snapshot of the Shuttle.
_NAMES = {
    "site": ("site_id", "site id", "siteid", "site", "site.id"),
    "latitude": ("location_lat", "latitude (degrees)", "latitude..degrees.", "latitude", "lat"),
    "longitude": ("location_long", "longitude (degrees)", "longitude..degrees.", "longitude", "long", "lon"),
    "igbp": ("igbp", "vegetation abbreviation (igbp)", "vegetation.abbreviation..igbp."),
    "elevation": ("location_elev", "elevation (m)", "elevation..m.", "elevation"),
    "koppen": ("climate_koeppen", "climate class abbreviation (koeppen)", "koppen", "koeppen"),
}


def read_site_facts(file: Path | IO[bytes], name: str) -> pd.DataFrame:
    """Read coordinates, elevation and classes of sites.

    Parameters
    ----------
    file : path or binary file
        Table with a row per site, comma or tab separated, or a BADM file in the long layout
        (SITE_ID, GROUP_ID, VARIABLE_GROUP, VARIABLE, DATAVALUE).
    name : str
        Name of the file, for messages.

    Returns
    -------
    facts : DataFrame
        Index ``site``; ``latitude`` and ``longitude`` in degrees, ``elevation`` in m, ``igbp``, ``koppen`` and
        ``climate_group`` as positions; NaN where unknown.

    Raises
    ------
    TableError
        If the file cannot be read or is neither.
    """
    table = _read_text(file, name)
    long = {str(column).upper() for column in table} >= {"SITE_ID", "VARIABLE", "DATAVALUE"}
    facts = _named(_widen(table) if long else table)
    if not {"site", "latitude", "longitude"} <= set(facts):
        message = (
            f"The site list {name} has no columns of site id, latitude and longitude; found "
            f"{', '.join(map(str, table))}. Give the networks' own list (SITE_ID, LOCATION_LAT, LOCATION_LONG...) "
            "or their BADM file."
        )
        raise TableError(message)
    facts = facts.dropna(subset="site").groupby("site").first()
    facts = facts.reindex(columns=[each for each in _NAMES if each != "site"])
    numbers = {each: pd.to_numeric(facts[each], errors="coerce") for each in ("latitude", "longitude", "elevation")}
    known = {name: values.mask(values == MISSING_MARK) for name, values in numbers.items()}
    return code_classes(facts.assign(**known))


def _read_text(file: Path | IO[bytes], name: str) -> pd.DataFrame:
    """Return the table as text; the site search of AmeriFlux separates by tabs, the other lists by commas."""
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        text = content.decode("utf-8-sig", errors="replace")  # names of people and places are not always UTF-8
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        return pd.read_csv(StringIO(text), sep=separator, dtype=str)
    except (OSError, ValueError) as error:
        message = f"Cannot read the site list {name}: {error}. Give a CSV file."
        raise TableError(message) from error


def _widen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the long BADM layout with a row per site; the first value counts where one was reported twice."""
    table = table.rename(columns=str.upper).dropna(subset=["SITE_ID", "VARIABLE"])
    first = table.drop_duplicates(["SITE_ID", "VARIABLE"])
    return first.pivot_table("DATAVALUE", "SITE_ID", "VARIABLE", aggfunc="first").reset_index()


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns we know, by our names."""
    by_lower = {str(column).strip().lower(): column for column in table}
    found = {
        ours: next((by_lower[each] for each in theirs if each in by_lower), None) for ours, theirs in _NAMES.items()
    }
    return pd.DataFrame({ours: table[column].str.strip() for ours, column in found.items() if column is not None})
