"""The grid of a map: shape, affine and coordinate system, with areas and shares of polygons in its cells.

Arrays are (y, x) with y descending (north up). Positions of cells are computed from whole multiples of the
resolution, so that two grids of one resolution agree to the last bit wherever they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import geopandas as gpd
import numpy as np
import pyproj
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from scipy.sparse import csr_matrix

from fluxgrid.errors import GridError, itemise
from fluxgrid.geo import ellipsoid, lattice, shares

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """A north-up grid in a geographic or projected coordinate system.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        Not rotated, north up. Its origin is put on the nearest multiple (or half multiple) of the resolution if it is
        a rounding error away from it, so equal grids compare equal however they were made.

    Raises
    ------
    GridError
        If the geobox is empty, rotated, south up, has no CRS, or its centres are not on the globe.

    Examples
    --------
    >>> grid = Grid.from_bounds((-91.5, -91.0, 36.95, 37.25), 0.1)
    >>> grid.shape, grid.x[:2].tolist(), grid.y.tolist()
    ((4, 5), [-91.45, -91.35], [37.25, 37.15, 37.05, 36.95])
    """

    geobox: GeoBox

    def __post_init__(self) -> None:
        problems = _geobox_problems(self.geobox)
        if problems:
            raise GridError(itemise("This is not a grid fluxgrid can use", problems))
        a, digits = self.affine, self._digits
        west, north = lattice.snap(a.c, a.a, digits), lattice.snap(a.f, -a.e, digits)
        object.__setattr__(self, "geobox", GeoBox(self.shape, Affine(a.a, 0.0, west, 0.0, a.e, north), self.geobox.crs))
        if self.geographic:
            _check_globe(self)

    @classmethod
    def from_bounds(
        cls,
        bounds: Sequence[float],
        resolution: float | tuple[float, float],
        crs: object = "EPSG:4326",
        bounds_crs: object = None,
    ) -> Grid:
        """Return the smallest grid over the bounds whose edges are whole multiples of the resolution.

        Parameters
        ----------
        bounds : (west, east, south, north)
            In units of ``bounds_crs``.
        resolution : float or (dx, dy)
            Size of a cell in units of ``crs``, > 0.
        crs : anything that names a CRS
            Of the grid.
        bounds_crs : anything that names a CRS, optional
            Of the bounds; that of the grid when left out.

        Raises
        ------
        GridError
            Listing every problem: unknown CRS, bounds out of order, resolution not positive.
        """
        grid_crs = _read_crs(crs)
        dx, dy = resolution if isinstance(resolution, tuple) else (resolution, resolution)
        problems = [f"resolution {d} must be a finite number above 0" for d in {dx, dy} if not 0 < d < math.inf]
        problems += _bounds_problems(bounds)
        if problems:
            raise GridError(itemise("No grid can be made", problems))
        if bounds_crs is not None:
            bounds = _move_bounds(bounds, _read_crs(bounds_crs), grid_crs)
        (left, right), (bottom, top) = lattice.cover(bounds[0], bounds[1], dx), lattice.cover(bounds[2], bounds[3], dy)
        affine = Affine(dx, 0.0, left * dx, 0.0, -dy, top * dy)
        return cls(GeoBox((top - bottom, right - left), affine, grid_crs))

    @classmethod
    def from_centres(cls, x: np.ndarray, y: np.ndarray, crs: object) -> Grid:
        """Return the north-up grid with these cell centres.

        Parameters
        ----------
        x, y : array_like, 1-D, units of the CRS
            Equally spaced to 1 % of a cell. ``x`` ascends; ``y`` may ascend or descend (the grid's descends). One of
            the two may have a single value: its cells are then as high as wide.
        crs : anything that names a CRS

        Raises
        ------
        GridError
            Listing every problem of both axes.
        """
        x, y = np.atleast_1d(np.asarray(x, dtype="float64")), np.atleast_1d(np.asarray(y, dtype="float64"))
        y = y[::-1] if len(y) > 1 and y[0] > y[-1] else y
        problems = [*lattice.problems("x", x), *lattice.problems("y", y)]
        if len(x) == len(y) == 1:
            problems.append("one x and one y do not tell the size of the cell")
        if problems:
            raise GridError(itemise("The cell centres do not make a grid", problems))
        dx = lattice.spacing(x) or lattice.spacing(y)
        dy = lattice.spacing(y) or dx
        west, south = lattice.origin(x, dx), lattice.origin(y, dy)
        affine = Affine(dx, 0.0, west, 0.0, -dy, south + len(y) * dy)
        return cls(GeoBox((len(y), len(x)), affine, _read_crs(crs)))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        ny, nx = self.geobox.shape
        return int(ny), int(nx)

    @property
    def crs(self) -> CRS:
        """Coordinate system."""
        assert self.geobox.crs is not None  # refused at the door
        return self.geobox.crs

    @property
    def affine(self) -> Affine:
        """From (column, row) of a cell's upper left corner to coordinates."""
        return self.geobox.affine

    @property
    def resolution(self) -> tuple[float, float]:
        """Width and height of a cell, both > 0, units of the CRS."""
        return self.affine.a, -self.affine.e

    @property
    def geographic(self) -> bool:
        """Whether coordinates are longitude and latitude."""
        return bool(self.crs.geographic)

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the two dimensions in files."""
        return ("lat", "lon") if self.geographic else ("y", "x")

    @cached_property
    def x_edges(self) -> np.ndarray:
        """Edges of the columns, (nx + 1,), ascending."""
        return lattice.positions(self.affine.c, self.affine.a, np.arange(self.shape[1] + 1), self._digits)

    @cached_property
    def y_edges(self) -> np.ndarray:
        """Edges of the rows, (ny + 1,), descending."""
        return lattice.positions(self.affine.f, -self.affine.e, -np.arange(self.shape[0] + 1), self._digits)

    @cached_property
    def x(self) -> np.ndarray:
        """Centres of the columns, (nx,), ascending."""
        return lattice.positions(self.affine.c, self.affine.a, np.arange(self.shape[1]) + 0.5, self._digits)

    @cached_property
    def y(self) -> np.ndarray:
        """Centres of the rows, (ny,), descending."""
        return lattice.positions(self.affine.f, -self.affine.e, -np.arange(self.shape[0]) - 0.5, self._digits)

    @property
    def bounds(self) -> Bounds:
        """Outer edges (west, east, south, north), units of the CRS."""
        return float(self.x_edges[0]), float(self.x_edges[-1]), float(self.y_edges[-1]), float(self.y_edges[0])

    @property
    def _digits(self) -> int:
        """Decimals that coordinates are rounded to."""
        return lattice.digits(self.geographic)

    def lonlat(self) -> tuple[np.ndarray, np.ndarray]:
        """Return longitude and latitude of the cell centres.

        Returns
        -------
        lon, lat : ndarray, (y, x), degrees, WGS 84
        """
        x, y = (np.ascontiguousarray(a) for a in np.meshgrid(self.x, self.y))
        if self.geographic:
            return x, y
        return pyproj.Transformer.from_crs(self.crs.proj, "EPSG:4326", always_xy=True).transform(x, y)

    def cell_area(self) -> np.ndarray:
        """Return the area of each cell on the WGS 84 ellipsoid.

        Returns
        -------
        area : ndarray, (y, x), m2
            In closed form for geographic grids; for projected ones from the corners, good to 1e-5.
        """
        if self.geographic:
            rows = ellipsoid.zone_area(self.y_edges[1:], self.y_edges[:-1], self.resolution[0])
            return np.repeat(rows[:, None], self.shape[1], axis=1)
        return ellipsoid.projected_area(self.crs.proj, self.x_edges, self.y_edges)

    def coverage(self, geometries: gpd.GeoSeries) -> csr_matrix:
        """Return the exact share of each cell that lies inside each polygon.

        Parameters
        ----------
        geometries : GeoSeries, EPSG:4326
            Polygons; those that do not touch the grid have an empty row.

        Returns
        -------
        shares : csr_matrix, (n_geometries, ny * nx), 0-1
            Cells run along rows from the upper left. Shares are of the cell's area in the grid's own plane, which
            differs from that on the ellipsoid by less than the change of scale inside one cell.
        """
        return shares.cell_shares(geometries, self.bounds, self.shape, None if self.geographic else self.crs.proj)

    def crop(self, rows: slice, cols: slice) -> Grid:
        """Return the grid of some rows and columns.

        Raises
        ------
        GridError
            If the slices have a step, are empty or leave the grid.
        """
        ny, nx = self.shape
        problems = [*_slice_problems("rows", rows, ny), *_slice_problems("cols", cols, nx)]
        if problems:
            raise GridError(itemise(f"Cannot crop a grid of {ny} x {nx} cells", problems))
        (top, bottom, _), (left, right, _) = rows.indices(ny), cols.indices(nx)
        a = self.affine
        affine = Affine(a.a, 0.0, a.c + left * a.a, 0.0, a.e, a.f + top * a.e)
        return Grid(GeoBox((bottom - top, right - left), affine, self.crs))

    def window(self, other: Grid) -> tuple[slice, slice]:
        """Return the rows and columns of this grid that another, aligned grid covers.

        Raises
        ------
        GridError
            If the other grid has another CRS or resolution, is shifted by a part of a cell, or reaches outside.
        """
        problems = [] if self.crs == other.crs else [f"CRS {other.crs}, expected {self.crs}"]
        if not np.allclose(self.resolution, other.resolution, rtol=1e-6, atol=0):
            problems.append(f"resolution {other.resolution}, expected {self.resolution}")
        if problems:
            raise GridError(itemise("The grids do not fit each other", problems))
        a, b = self.affine, other.affine
        col, row = (b.c - a.c) / a.a, (b.f - a.f) / a.e
        rows, cols = (slice(round(k), round(k) + n) for k, n in zip((row, col), other.shape, strict=True))
        if max(abs(row - rows.start), abs(col - cols.start)) > lattice.TOLERANCE:
            problems.append(f"it is shifted by a part of a cell: row {row:.3f}, column {col:.3f}")
        if rows.start < 0 or cols.start < 0 or rows.stop > self.shape[0] or cols.stop > self.shape[1]:
            problems.append(f"its bounds {other.bounds} reach outside {self.bounds}")
        if problems:
            raise GridError(itemise("The grids do not fit each other", problems))
        return rows, cols

    def covering(self, bounds: Sequence[float]) -> Grid:
        """Return the smallest window of this grid over bounds in longitude and latitude.

        Parameters
        ----------
        bounds : (west, east, south, north), degrees
            What reaches outside this grid is cut off.

        Raises
        ------
        GridError
            If the bounds are out of order or do not meet this grid.
        """
        problems = _bounds_problems(bounds)
        if problems:
            raise GridError(itemise("No window can be cut", problems))
        west, east, south, north = bounds if self.geographic else _move_bounds(bounds, _read_crs("EPSG:4326"), self.crs)
        left, right = lattice.cover(west - self.affine.c, east - self.affine.c, self.resolution[0])
        top, bottom = lattice.cover(self.affine.f - north, self.affine.f - south, self.resolution[1])
        rows, cols = slice(max(top, 0), min(bottom, self.shape[0])), slice(max(left, 0), min(right, self.shape[1]))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            message = f"The bounds {tuple(bounds)} (W, E, S, N) lie outside the grid, which covers {self.bounds}."
            raise GridError(message)
        return self.crop(rows, cols)


def _geobox_problems(geobox: GeoBox) -> list[str]:
    """Return what keeps a geobox from being a north-up grid."""
    a = geobox.affine
    checks = {
        "it has no CRS": geobox.crs is None,
        f"it has no cells: shape {tuple(geobox.shape)}": min(geobox.shape) < 1,
        f"it is rotated: {tuple(a)[:6]}": bool(a.b or a.d),
        f"x must ascend: step {a.a}": a.a <= 0,
        f"y must descend (north up): step {a.e}; flip the rows": a.e >= 0,
    }
    return [problem for problem, wrong in checks.items() if wrong]


def _check_globe(grid: Grid) -> None:
    """Raise if cell centres are not on the globe; edges may pass a pole by half a cell, as in ERA5."""
    if abs(grid.x).max() > 180 or abs(grid.y).max() > 90:
        corners = f"({grid.x[0]}, {grid.y[-1]}) to ({grid.x[-1]}, {grid.y[0]})"
        message = (
            f"Cell centres reach from {corners}; longitudes must be within -180..180, latitudes within -90..90. "
            "Roll longitudes of 0..360 first; bounds are (west, east, south, north)."
        )
        raise GridError(message)


def _bounds_problems(bounds: Sequence[float]) -> list[str]:
    """Return what is wrong with bounds (west, east, south, north)."""
    if len(bounds) != 4 or not np.isfinite(bounds).all():
        return [f"bounds {tuple(bounds)} must be four finite numbers (west, east, south, north)"]
    west, east, south, north = bounds
    problems = [] if west < east else [f"west {west} must be less than east {east}"]
    return problems + ([] if south < north else [f"south {south} must be less than north {north}"])


def _slice_problems(name: str, piece: slice, size: int) -> list[str]:
    """Return what is wrong with a slice of an axis of some size."""
    start, stop = piece.start or 0, size if piece.stop is None else piece.stop
    problems = [] if piece.step in (None, 1) else [f"{name} have a step of {piece.step}"]
    if not 0 <= start < stop <= size:
        problems.append(f"{name} {start}:{stop} must be within 0:{size} and not empty")
    return problems


def _read_crs(crs: object) -> CRS:
    """Return a CRS from whatever names one."""
    try:
        return CRS(crs)
    except (pyproj.exceptions.CRSError, ValueError) as error:
        message = f"{crs!r} is not a coordinate reference system. Give one such as 'EPSG:4326' or its WKT."
        raise GridError(message) from error


def _move_bounds(bounds: Sequence[float], source: CRS, target: CRS) -> Bounds:
    """Return the bounds in another CRS of a box, its sides followed closely."""
    west, east, south, north = bounds
    move = pyproj.Transformer.from_crs(source.proj, target.proj, always_xy=True)
    left, bottom, right, top = move.transform_bounds(west, south, east, north, densify_pts=101)
    return left, right, bottom, top
