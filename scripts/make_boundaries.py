"""Make the state and county boundaries that ship with fluxgrid from the npm package us-atlas.

    python scripts/make_boundaries.py                      # fetches the package with npm
    python scripts/make_boundaries.py --folder us-atlas    # uses an unpacked package

us-atlas holds the cartographic boundaries of the US Census Bureau as TopoJSON: every border is stored once, as an arc
that both neighbours name. The arcs are decoded on their integer lattice, cut where they cross (simplification left a
few spikes and crossings), and the pieces are handed out to the counties, so that no two counties overlap and
neighbours share their vertices exactly. A state is the union of its counties.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

PACKAGE = "us-atlas@3.0.1"
TARGET = Path(__file__).parent.parent / "fluxgrid" / "geo" / "boundaries"
POSTAL = {
    "01": "AL", "02": "AK", "04": "AZ", "05": "AR", "06": "CA", "08": "CO", "09": "CT", "10": "DE", "11": "DC",
    "12": "FL", "13": "GA", "15": "HI", "16": "ID", "17": "IL", "18": "IN", "19": "IA", "20": "KS", "21": "KY",
    "22": "LA", "23": "ME", "24": "MD", "25": "MA", "26": "MI", "27": "MN", "28": "MS", "29": "MO", "30": "MT",
    "31": "NE", "32": "NV", "33": "NH", "34": "NJ", "35": "NM", "36": "NY", "37": "NC", "38": "ND", "39": "OH",
    "40": "OK", "41": "OR", "42": "PA", "44": "RI", "45": "SC", "46": "SD", "47": "TN", "48": "TX", "49": "UT",
    "50": "VT", "51": "VA", "53": "WA", "54": "WV", "55": "WI", "56": "WY",
}  # fmt: skip
SOURCE_TEXT = """# Where the boundaries come from

* Source: US Census Bureau, Cartographic Boundary Files, 2017 edition
  (<https://www.census.gov/geographies/mapping-files/time-series/geo/carto-boundary-file.html>), public domain, as
  redistributed in TopoJSON, simplified (10m), by {package} (<https://github.com/topojson/us-atlas>, ISC licence).
* Made by `scripts/make_boundaries.py` on {today}. SHA-256 of `counties-10m.json`: `{digest}`.
* Content: {n_counties} counties and county equivalents and the {n_states} states (with the District of Columbia),
  longitude and latitude in degrees (EPSG:4326). Shores follow the coast and the Great Lakes: sea and Great Lakes are
  outside, inland water is inside. The source's lattice is 0.0036 degrees of longitude by 0.00086 degrees of latitude
  (about 280 m by 95 m in the Midwest).
* Changed against the source: crossings and spikes of {n_mended} simplified outlines are cut so that no two counties
  overlap; states are the unions of their counties; islands and enclaves that the source collapsed to a line are left
  out, with them these whole counties: {lost}. Their ground lies in their neighbours.
"""


def main() -> None:
    """Read the command line and write the boundaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help=f"unpacked {PACKAGE}; without it npm fetches the package")
    parser.add_argument("--target", type=Path, default=TARGET, help="where to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or fetch(Path(temporary))
        make(folder / "counties-10m.json", options.target)


def fetch(folder: Path) -> Path:
    """Download and unpack the package with npm; return its folder."""
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def make(atlas: Path, target: Path) -> None:
    """Write counties.parquet, states.parquet and SOURCE.md into the target folder."""
    topology = json.loads(atlas.read_text(encoding="utf-8"))
    records = [g for g in topology["objects"]["counties"]["geometries"] if g["id"][:2] in POSTAL]
    raw = decode(topology, records)
    shapes = to_degrees(topology, share_out(shapely.make_valid(raw)))
    lost = [f"{r['properties']['name']} ({r['id']})" for r in np.array(records)[shapely.is_empty(shapes)]]
    counties = county_frame(records, shapes)
    states = state_frame(topology, counties)
    check(counties, states)
    target.mkdir(parents=True, exist_ok=True)
    for name, frame in {"counties": counties, "states": states}.items():
        frame.to_parquet(target / f"{name}.parquet", index=False, compression="zstd", compression_level=19)
    text = SOURCE_TEXT.format(
        package=PACKAGE,
        today=date.today().isoformat(),
        digest=hashlib.sha256(atlas.read_bytes()).hexdigest(),
        n_counties=len(counties),
        n_states=len(states),
        n_mended=int((~shapely.is_valid(raw)).sum()),
        lost=", ".join(lost) or "none",
    )
    (target / "SOURCE.md").write_text(text, encoding="utf-8")


def decode(topology: dict, records: list[dict]) -> np.ndarray:
    """Return one MultiPolygon per record in the integer coordinates of the topology's lattice."""
    arcs = [np.cumsum(arc, axis=0, dtype="int64") for arc in topology["arcs"]]
    return np.array([_multipolygon(arcs, record) for record in records], dtype=object)


def _multipolygon(arcs: list[np.ndarray], record: dict) -> MultiPolygon:
    """Return the polygons of a record, without the rings that simplification collapsed to a line."""
    polygons = [record["arcs"]] if record["type"] == "Polygon" else record["arcs"]
    rings = [[_ring(arcs, ring) for ring in polygon] for polygon in polygons]
    return MultiPolygon([Polygon(p[0], [h for h in p[1:] if _has_area(h)]) for p in rings if _has_area(p[0])])


def _ring(arcs: list[np.ndarray], indices: list[int]) -> np.ndarray:
    """Return the vertices of a ring; a negative index means the arc run backwards, and arcs share their ends."""
    parts = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in indices]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])]).astype("float64")


def _has_area(ring: np.ndarray) -> bool:
    """Say whether a ring has at least three different corners."""
    return len(np.unique(ring, axis=0)) > 2


def share_out(shapes: np.ndarray) -> np.ndarray:
    """Return the shapes cut along all their borders, each piece given to one owner, so that none overlap."""
    areal = np.array([_areal(shape) for shape in shapes], dtype=object)
    faces = np.array(shapely.get_parts(shapely.polygonize([shapely.union_all(shapely.boundary(areal))])))
    inside, owner = shapely.STRtree(areal).query(shapely.point_on_surface(faces), predicate="within")
    # Two counties may claim a crossing sliver: the first in the file has it.
    faces_first, position = np.unique(inside, return_index=True)
    owner = owner[position]
    return np.array([shapely.coverage_union_all(faces[faces_first[owner == i]]) for i in range(len(areal))])


def _areal(shape: shapely.Geometry) -> MultiPolygon:
    """Return the polygons of a geometry that may be a collection."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def to_degrees(topology: dict, shapes: np.ndarray) -> np.ndarray:
    """Return lattice shapes in degrees of longitude and latitude."""
    scale, shift = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    return shapely.transform(shapes, lambda points: points * scale + shift)


def county_frame(records: list[dict], shapes: np.ndarray) -> gpd.GeoDataFrame:
    """Return the counties that have an area, by FIPS code."""
    fips = [record["id"] for record in records]
    frame = gpd.GeoDataFrame(
        {
            "fips": fips,
            "postal": [POSTAL[code[:2]] for code in fips],
            "name": [record["properties"]["name"] for record in records],
            "state_fips": [code[:2] for code in fips],
        },
        geometry=shapes,
        crs="EPSG:4326",
    )
    return frame[~frame.is_empty].sort_values("fips", ignore_index=True)


def state_frame(topology: dict, counties: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return the states as unions of their counties, by FIPS code."""
    names = {record["id"]: record["properties"]["name"] for record in topology["objects"]["states"]["geometries"]}
    codes = sorted(counties["state_fips"].unique())
    shapes = [shapely.coverage_union_all(counties.geometry[counties["state_fips"] == code].values) for code in codes]
    columns = {"fips": codes, "postal": [POSTAL[c] for c in codes], "name": [names[c] for c in codes]}
    return gpd.GeoDataFrame({**columns, "state_fips": codes}, geometry=shapes, crs="EPSG:4326")


def check(counties: gpd.GeoDataFrame, states: gpd.GeoDataFrame) -> None:
    """Stop if a shape is invalid or neighbours do not share their border."""
    for name, frame in {"counties": counties, "states": states}.items():
        shapes = frame.geometry.values
        if not (shapely.is_valid(shapes).all() and shapely.coverage_is_valid(np.array(shapes))):
            raise SystemExit(f"The {name} made from {PACKAGE} overlap or are invalid.")


if __name__ == "__main__":
    main()
