"""Regions: named areas with their polygons, the states they are made of, and where they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxgrid.errors import ConfigError, RegionNotFound, itemise
from fluxgrid.files import configs_folder
from fluxgrid.geo import boundaries
from fluxgrid.geo.polygons import areal, read_polygons
from fluxgrid.registry import unknown_name

_COLUMNS = ["fips", "postal", "name", "geometry"]


@dataclass(frozen=True)
class Region:
    """A named area.

    Parameters
    ----------
    name : str
        For file names: ``midwest``, ``north-dakota``.
    title : str
        For people.
    polygon : shapely geometry, EPSG:4326
        Polygon or MultiPolygon. Alaska's crosses the 180th meridian, so its bounds span the globe.
    states : tuple of str
        Postal codes of the states it is exactly made of; empty for boxes and polygon files.
    source : str
        Where the polygon comes from.
    """

    name: str
    title: str
    polygon: shapely.Polygon | shapely.MultiPolygon
    states: tuple[str, ...]
    source: str

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest box around it (west, east, south, north), degrees."""
        west, south, east, north = self.polygon.bounds
        return west, east, south, north

    def states_frame(self) -> gpd.GeoDataFrame:
        """Return the parts of states inside the region.

        Returns
        -------
        states : GeoDataFrame, EPSG:4326
            ``fips``, ``postal``, ``name``, geometry; only parts that have an area. Empty outside the United States.
        """
        return self._inside(boundaries.states())

    def counties_frame(self) -> gpd.GeoDataFrame:
        """Return the parts of counties inside the region.

        Returns
        -------
        counties : GeoDataFrame, EPSG:4326
            ``fips``, ``postal`` (of the state), ``name``, geometry; only parts that have an area.
        """
        return self._inside(boundaries.counties())

    def _inside(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Return the parts of the frame's polygons inside the region."""
        if self.states:
            return frame.loc[frame["postal"].isin(self.states), _COLUMNS].reset_index(drop=True)
        near = frame.loc[frame.intersects(self.polygon), _COLUMNS]
        whole = shapely.within(near.geometry.values, self.polygon)
        cut = [g if w else areal(g.intersection(self.polygon)) for g, w in zip(near.geometry, whole, strict=True)]
        parts = near.set_geometry(gpd.GeoSeries(cut, index=near.index, crs=near.crs))
        return parts[shapely.area(parts.geometry.values) > 0].reset_index(drop=True)


def find_region(text: str) -> Region:
    """Return the region that a name, a polygon file or a box stands for.

    Parameters
    ----------
    text : str
        A name of `region_catalogue`, a state's name or postal code (in any case), the path of a polygon file in any
        format GDAL reads (or GeoParquet), or a box ``W,S,E,N`` in degrees.

    Returns
    -------
    region : Region

    Raises
    ------
    RegionNotFound
        If it is none of these, or the file or box is wrong; the message lists every problem.

    Examples
    --------
    >>> find_region("nd").title, find_region("-91.5,36.9,-91,37.2").bounds
    ('North Dakota', (-91.5, -91.0, 36.9, 37.2))
    """
    text = str(text).strip()
    key = _slug(text)
    is_path = "/" in text or "\\" in text
    if key in _catalogue() and not is_path:
        return _catalogue_region(key)
    if key in _states_by_key() and not is_path:
        return _state_region(_states_by_key()[key])
    if text and _exists(text):
        return _file_region(Path(text))
    if re.search(r"\d", text) and "," in text and not is_path:
        return _box_region(text)
    raise _not_found(text)


def region_catalogue() -> dict[str, str]:
    """Return the names that `find_region` knows, with their titles.

    Returns
    -------
    titles : dict of str to str
        The catalogue (``configs/regions``) first, then the states.

    Raises
    ------
    ConfigError
        If a file of the catalogue is wrong.
    """
    states = {_slug(name): f"{name} ({postal})" for postal, name in _state_names().items()}
    return {name: entry.title for name, entry in _catalogue().items()} | states


class _Entry(BaseModel):
    """One file of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1)

    title: str
    states: tuple[str, ...] = Field(min_length=1)
    source: str


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, _Entry]:
    """Read the catalogue that comes with fluxgrid, once."""
    return read_catalogue(configs_folder() / "regions")


def read_catalogue(folder: Path) -> dict[str, _Entry]:
    """Read every region file of a folder, strictly.

    Parameters
    ----------
    folder : Path
        Holds ``<name>.yaml`` files with ``title``, ``states`` (postal codes) and ``source``.

    Returns
    -------
    entries : dict
        By name.

    Raises
    ------
    ConfigError
        Listing every problem of every file.
    """
    entries: dict[str, _Entry] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            entry = _Entry.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            problems += [f"{path.name}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        except (yaml.YAMLError, OSError) as error:
            problems.append(f"{path.name}: cannot be read: {error}")
        else:
            unknown = [postal for postal in entry.states if postal not in _state_names()]
            problems += [f"{path.name}: states: {postal!r} is no postal code of a state" for postal in unknown]
            entries[_slug(path.stem)] = entry
    if problems:
        raise ConfigError(itemise(f"The regions in {folder} cannot be used", problems))
    return entries


@lru_cache(maxsize=16)
def _catalogue_region(name: str) -> Region:
    """Return a region of the catalogue."""
    entry = _catalogue()[name]
    source = f"{entry.source}; polygons: {boundaries.SOURCE}"
    return Region(name, entry.title, _union_of(entry.states), tuple(sorted(set(entry.states))), source)


@lru_cache(maxsize=64)
def _state_region(postal: str) -> Region:
    """Return the region that is one state."""
    name = _state_names()[postal]
    return Region(_slug(name), name, _union_of((postal,)), (postal,), boundaries.SOURCE)


def _box_region(text: str) -> Region:
    """Return the region of a box ``W,S,E,N``."""
    values = _box_values(text)
    numbers = [f"{value:g}" for value in values]
    title = f"Box {','.join(numbers)} (W,S,E,N)"
    return Region("_".join(["box", *numbers]), title, shapely.box(*values), (), "box given by the user")


def _box_values(text: str) -> tuple[float, float, float, float]:
    """Return the four numbers of a box, or raise with all that is wrong."""
    parts = [part.strip() for part in text.split(",")]
    values = [_number(part) for part in parts]
    problems = [f"{p!r} is not a number" for p, v in zip(parts, values, strict=True) if not np.isfinite(v)]
    if len(parts) != 4:
        problems.append(f"it has {len(parts)} numbers instead of 4")
    west, south, east, north = values if len(values) == 4 else (-180.0, -90.0, 180.0, 90.0)
    sides = {"W": (west, 180), "S": (south, 90), "E": (east, 180), "N": (north, 90)}
    problems += [f"{k} {v:g} is not within -{limit}..{limit}" for k, (v, limit) in sides.items() if abs(v) > limit]
    problems += [f"W {west:g} must be less than E {east:g}"] if west >= east else []
    problems += [f"S {south:g} must be less than N {north:g}"] if south >= north else []
    if problems:
        raise RegionNotFound(itemise(f"The box {text!r} is wrong; a box is W,S,E,N in degrees", problems))
    return west, south, east, north


def _number(text: str) -> float:
    """Return the number a text spells, NaN if none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _exists(text: str) -> bool:
    """Say whether a text is the path of something; one too long for a path is not."""
    try:
        return Path(text).exists()
    except OSError:
        return False


def _file_region(path: Path) -> Region:
    """Return the region of a polygon file."""
    polygon = read_polygons(path)
    return Region(_slug(path.stem) or "region", path.stem, polygon, (), f"polygons of the file {path.name}")


def _not_found(text: str) -> RegionNotFound:
    """Return the error for a text that is no region."""
    if re.search(r"[/\\]|\.\w{2,8}$", text):
        message = f"There is no polygon file {text!r}. Check the path; names are listed by 'fluxgrid regions'."
        return RegionNotFound(message)
    hint = str(unknown_name("region", _slug(text), region_catalogue())).partition(" Known:")[0]
    return RegionNotFound(
        f"{hint.replace(repr(_slug(text)), repr(text))} Known: {', '.join(_catalogue())} and every state by name or "
        "postal code (list them with 'fluxgrid regions'); a polygon file or a box W,S,E,N works too."
    )


def _union_of(postals: tuple[str, ...]) -> shapely.Polygon | shapely.MultiPolygon:
    """Return the union of some states."""
    frame = boundaries.states()
    # Lines and points cannot come out of states that share their borders exactly.
    return areal(shapely.coverage_union_all(frame.geometry[frame["postal"].isin(postals)].values))


@lru_cache(maxsize=1)
def _state_names() -> dict[str, str]:
    """Return the names of the states by postal code."""
    frame = boundaries.states()
    return dict(zip(frame["postal"], frame["name"], strict=True))


def _states_by_key() -> dict[str, str]:
    """Return postal codes by slug of name and of postal code."""
    names = _state_names()
    return {_slug(name): postal for postal, name in names.items()} | {postal.lower(): postal for postal in names}


def _slug(text: str) -> str:
    """Return a text in lower case, words joined by hyphens, fit for file names."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
