"""State and county boundaries of the United States, shipped with the package.

Made from the Census Bureau's cartographic boundaries by ``scripts/make_boundaries.py``; ``boundaries/SOURCE.md``
beside the data says how. Sea and Great Lakes are outside, inland water is inside.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import geopandas as gpd

SOURCE = "US Census Bureau cartographic boundaries 2017, by way of us-atlas 3.0.1"
_FOLDER = Path(__file__).parent / "boundaries"


def states() -> gpd.GeoDataFrame:
    """Return the 50 states and the District of Columbia.

    Returns
    -------
    states : GeoDataFrame, EPSG:4326
        ``fips`` (2 digits), ``postal``, ``name``, ``state_fips``, geometry; each is the union of its counties.

    Examples
    --------
    >>> list(states().query("name == 'Iowa'")[["fips", "postal"]].iloc[0])
    ['19', 'IA']
    """
    return _read("states").copy()


def counties() -> gpd.GeoDataFrame:
    """Return the counties and county equivalents of the states.

    Returns
    -------
    counties : GeoDataFrame, EPSG:4326
        ``fips`` (5 digits), ``postal`` (of the state), ``name``, ``state_fips``, geometry; neighbours share vertices.
    """
    return _read("counties").copy()


@lru_cache(maxsize=2)
def _read(name: str) -> gpd.GeoDataFrame:
    """Read one of the two tables once; callers get copies, so nobody can change another's."""
    return gpd.read_parquet(_FOLDER / f"{name}.parquet")
