"""Grids: positions, areas, windows, and shares of polygons in cells."""

from __future__ import annotations

import copy

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from fluxgrid.errors import GridError
from fluxgrid.geo import boundaries
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import find_region
from fluxgrid.netcdf import open_netcdf

GEOD = pyproj.Geod(ellps="WGS84")
STEPS = st.sampled_from([0.05, 0.1, 0.25, 0.5, 1 / 24, 1 / 12, 1 / 120])


def small(crs: str = "EPSG:4326") -> Grid:
    """Return 5 x 7 cells around Ames, Iowa."""
    if crs == "EPSG:4326":
        return Grid.from_bounds((-94.0, -93.3, 41.8, 42.3), 0.1)
    return Grid.from_bounds((160_000, 188_000, 2_100_000, 2_120_000), 4000, crs)


def true_area(grid: Grid, row: int, col: int) -> float:
    """Return the area of one cell from its densified outline on the ellipsoid: slow and plain."""
    west, east = grid.x_edges[col : col + 2]
    north, south = grid.y_edges[row : row + 2]
    ring = shapely.segmentize(shapely.box(west, south, east, north), (east - west) / 200)
    move = pyproj.Transformer.from_crs(grid.crs.proj, "EPSG:4326", always_xy=True)
    lon, lat = move.transform(*shapely.get_coordinates(ring).T)
    return abs(GEOD.polygon_area_perimeter(lon, lat)[0])


def test_positions_print_clean():
    grid = small()
    assert grid.shape == (5, 7)
    assert grid.x.tolist() == [-93.95, -93.85, -93.75, -93.65, -93.55, -93.45, -93.35]
    assert grid.y.tolist() == [42.25, 42.15, 42.05, 41.95, 41.85]
    assert grid.bounds == (-94.0, -93.3, 41.8, 42.3)
    assert grid.resolution == (0.1, 0.1)
    assert grid.dims == ("lat", "lon")
    assert small("EPSG:5070").dims == ("y", "x")


def test_bounds_are_snapped_out():
    grid = Grid.from_bounds((-93.97, -93.31, 41.83, 42.26), 0.1)
    assert grid == small()
    assert hash(grid) == hash(small())
    assert copy.deepcopy(grid) == grid  # grids travel to worker processes by the same protocol


@given(
    step=STEPS,
    first=st.tuples(st.integers(-1200, 1200), st.integers(-800, 800)),
    shift=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_overlapping_grids_agree_to_the_last_bit(step, first, shift):
    west, south = first[0] / 10, first[1] / 10
    one = Grid.from_bounds((west, west + 6, south, south + 5), step)
    two = Grid.from_bounds((west + shift[0] / 10, west + 7, south + shift[1] / 10, south + 6), step)
    common_x, common_y = np.intersect1d(one.x, two.x), np.intersect1d(one.y, two.y)
    near = np.abs(one.x[:, None] - two.x).min(axis=1) < step / 2
    assert near.sum() == common_x.size
    assert (np.abs(one.y[:, None] - two.y).min(axis=1) < step / 2).sum() == common_y.size
    if common_x.size and common_y.size:
        rows = slice(*np.flatnonzero(np.isin(one.y, common_y))[[0, -1]] + [0, 1])
        cols = slice(*np.flatnonzero(np.isin(one.x, common_x))[[0, -1]] + [0, 1])
        part = one.crop(rows, cols)
        assert part == two.crop(*two.window(part))


@given(step=STEPS, col=st.integers(-2000, 1000), row=st.integers(-1000, 500), exact=st.booleans())
def test_centres_round_trip(step, col, row, exact):
    grid = Grid.from_bounds((col * 0.05, col * 0.05 + 3, row * 0.05, row * 0.05 + 2), step)
    kind = "float64" if exact or step < 0.02 else "float32"
    assert Grid.from_centres(grid.x.astype(kind), grid.y.astype(kind), "EPSG:4326") == grid
    assert Grid.from_centres(grid.x, grid.y[::-1], "EPSG:4326") == grid


def test_centres_of_projected_and_odd_grids_round_trip():
    grid = small("EPSG:5070")
    assert Grid.from_centres(grid.x, grid.y, grid.crs) == grid
    odd = Grid.from_centres(np.arange(7) * 0.1 - 93.123456, 42.0 - np.arange(5) * 0.1, "EPSG:4326")
    assert odd.x[0] == pytest.approx(-93.123456, abs=1e-6)
    part = odd.crop(slice(1, 4), slice(2, 6))
    assert part.x.tolist() == odd.x[2:6].tolist()
    assert odd.window(part) == (slice(1, 4), slice(2, 6))


def test_half_multiples_stay_half_multiples():
    era5 = Grid.from_centres(np.arange(-100, -97, 0.25), np.arange(90, 88, -0.25), "EPSG:4326")
    assert era5.x[0] == -100.0
    assert era5.y[0] == 90.0
    assert np.isfinite(era5.cell_area()).all()


def test_one_row_takes_the_height_from_the_width():
    grid = Grid.from_centres([-93.95, -93.85], [42.25], "EPSG:4326")
    assert grid.shape == (1, 2)
    assert grid.bounds == (-94.0, -93.8, 42.2, 42.3)


def test_wrong_centres_are_told_all_at_once():
    with pytest.raises(GridError, match=r"(?s)x is not equally spaced.*y must ascend or descend"):
        Grid.from_centres([1.0, 2.0, 4.0], [3.0, 3.0, 2.0], "EPSG:4326")
    with pytest.raises(GridError, match="do not tell the size"):
        Grid.from_centres([1.0], [2.0], "EPSG:4326")
    with pytest.raises(GridError, match=r"Roll longitudes of 0\.\.360"):
        Grid.from_centres(np.arange(0.5, 360), np.arange(40.5, 49), "EPSG:4326")


def test_wrong_bounds_and_crs():
    with pytest.raises(GridError, match=r"(?s)resolution 0 must be.*west 3 must be less.*south 5 must be less"):
        Grid.from_bounds((3, 1, 5, 4), 0)
    with pytest.raises(GridError, match=r"'EPSG:0' is not a coordinate reference system"):
        Grid.from_bounds((1, 3, 4, 5), 1.0, "EPSG:0")


def test_geobox_must_be_north_up():
    with pytest.raises(GridError, match=r"(?s)no CRS.*rotated.*north up"):
        Grid(GeoBox((5, 7), Affine(1, 0.2, 0, 0, 1, 0), None))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:5070", "EPSG:32615", "EPSG:3857", "EPSG:2263"])
def test_cell_area_is_that_on_the_ellipsoid(crs):
    grid = small(crs) if crs in ("EPSG:4326", "EPSG:5070") else near_origin(crs)
    area = grid.cell_area()
    assert area.shape == grid.shape
    for row, col in [(0, 0), (2, 5), (4, 6)]:
        assert area[row, col] == pytest.approx(true_area(grid, row, col), rel=1e-4)


def near_origin(crs: str) -> Grid:
    """Return 5 x 7 cells where the projection is used; EPSG:2263 counts in US survey feet."""
    lon, lat = (-74.0, 40.7) if crs == "EPSG:2263" else (-93.6, 42.0)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    west, south = round(x, -3), round(y, -3)
    return Grid.from_bounds((west, west + 7000, south, south + 5000), 1000, crs)


def test_cells_of_the_globe_sum_to_its_surface():
    grid = Grid.from_bounds((-180, 180, -90, 90), (2.5, 2.0))
    e = np.sqrt(GEOD.es)
    surface = 2 * np.pi * GEOD.a**2 * (1 + (1 - GEOD.es) / e * np.arctanh(e))  # oblate spheroid
    assert grid.shape == (90, 144)
    assert grid.cell_area().sum() == pytest.approx(surface, rel=1e-12)
    assert surface == pytest.approx(5.100656e14, rel=1e-6)


def test_lonlat_of_a_projected_grid():
    lon, lat = small("EPSG:5070").lonlat()
    assert lon.shape == (5, 7)
    assert (np.diff(lon, axis=1) > 0).all()
    assert (np.diff(lat, axis=0) < 0).all()
    lon, lat = small().lonlat()
    assert (lon[3, 2], lat[3, 2]) == (-93.75, 41.95)


def test_windows_of_grids_that_do_not_fit():
    grid = small()
    with pytest.raises(GridError, match="shifted by a part of a cell"):
        grid.window(Grid.from_centres([-93.9, -93.8], [42.0, 41.9], "EPSG:4326"))
    with pytest.raises(GridError, match="reach outside"):
        grid.window(Grid.from_bounds((-94.2, -93.5, 42.0, 42.2), 0.1))
    with pytest.raises(GridError, match=r"(?s)CRS.*resolution"):
        grid.window(small("EPSG:5070"))


def test_crop_must_stay_inside():
    with pytest.raises(GridError, match=r"(?s)rows 3:9 must be within 0:5.*cols have a step of 2"):
        small().crop(slice(3, 9), slice(0, 6, 2))


def test_covering_is_the_smallest_window():
    grid = small()
    assert grid.covering((-93.78, -93.61, 41.9, 42.1)).bounds == (-93.8, -93.6, 41.9, 42.1)
    assert grid.covering((-180, 180, -90, 90)) == grid
    with pytest.raises(GridError, match="lie outside the grid"):
        grid.covering((-80, -79, 41, 42))
    with pytest.raises(GridError, match="west 5 must be less"):
        grid.covering((5, 4, 41, 42))


def test_covering_a_projected_grid():
    grid = Grid.from_bounds(find_region("conus").bounds, 20_000, "EPSG:5070", bounds_crs="EPSG:4326")
    part = grid.covering(find_region("iowa").bounds)
    lon, lat = part.lonlat()
    assert lon.min() < -96.5
    assert lon.max() > -90.2
    assert (lat.min() < 40.5, lat.max() > 43.4) == (True, True)
    assert part.shape < grid.shape
    grid.window(part)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:5070"])
def test_coverage_is_the_intersected_area(crs):
    grid = small(crs)
    counties = boundaries.counties().query("postal == 'IA'").reset_index(drop=True)
    shares = grid.coverage(counties.geometry)
    assert shares.shape == (99, 35)
    plane = counties.geometry.segmentize(0.05).to_crs(grid.crs.proj).values
    for cell in (0, 9, 17, 34):
        row, col = divmod(cell, 7)
        box = shapely.box(grid.x_edges[col], grid.y_edges[row + 1], grid.x_edges[col + 1], grid.y_edges[row])
        slow = shapely.area(shapely.intersection(np.array(plane), box)) / box.area
        np.testing.assert_allclose(shares[:, [cell]].toarray()[:, 0], slow, atol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-6)  # all of it is in Iowa


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:5070"])
def test_states_and_outside_sum_to_one(crs):
    bounds = (-93.0, -82.0, 41.0, 48.0)
    grid = Grid.from_bounds(bounds, 0.25 if crs == "EPSG:4326" else 25_000, crs, bounds_crs="EPSG:4326")
    states = boundaries.states().geometry
    around = shapely.box(-100, 35, -75, 54)
    outside = shapely.difference(around, shapely.union_all(states.values))
    shares = grid.coverage(gpd.GeoSeries([*states, outside], crs=4326))
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-6)


def test_counties_sum_to_states_in_every_cell():
    region = find_region("midwest")
    grid = Grid.from_bounds(region.bounds, 0.5)
    counties, states = region.counties_frame(), region.states_frame()
    by_county, by_state = grid.coverage(counties.geometry), grid.coverage(states.geometry)
    for index, postal in enumerate(states["postal"]):
        total = by_county[(counties["postal"] == postal).to_numpy()].sum(axis=0)
        np.testing.assert_allclose(total, by_state[[index]].toarray(), atol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:5070", "EPSG:32615"])
def test_polygons_off_the_grid_have_empty_rows(crs):
    grid = near_origin(crs) if crs == "EPSG:32615" else small(crs)
    shapes = [
        shapely.box(10, 50, 11, 51),
        shapely.box(-100, 30, -80, 50),
        shapely.box(100, -40, 120, -20),
        shapely.Polygon(),
    ]
    shares = grid.coverage(gpd.GeoSeries(shapes, crs=4326))
    np.testing.assert_allclose(np.asarray(shares.sum(axis=1)).ravel(), [0, 35, 0, 0])
    assert grid.coverage(gpd.GeoSeries([], crs=4326)).shape == (0, 35)


def test_area_of_iowa_from_shares():
    region = find_region("iowa")
    grid = Grid.from_bounds(region.bounds, 0.1)
    inside = np.asarray(grid.coverage(gpd.GeoSeries([region.polygon], crs=4326)).todense()).reshape(grid.shape)
    area = (inside * grid.cell_area()).sum()
    exact = GEOD.geometry_area_perimeter(shapely.orient_polygons(region.polygon))[0]
    assert area == pytest.approx(exact, rel=1e-4)


def test_land_fraction_leaves_out_the_great_lakes():
    grid = Grid.from_bounds((-88.5, -86.0, 42.0, 43.0), 0.25)
    land = land_fraction(grid)
    assert land.dtype == "float32"
    assert land.shape == (4, 10)
    assert (land[:, 0] == 1).all()  # Wisconsin and Illinois
    assert (land[:, 5:7] == 0).all()  # the lake
    assert ((land > 0) & (land < 1)).any()


@pytest.mark.data
def test_cells_of_a_published_grid_are_in_the_states_it_says(data_dir):
    """The grid was made by others, with other boundaries: cells mostly inside one state must agree."""
    with open_netcdf(data_dir / "conus_monthly_covariates_025.nc") as published:
        grid = Grid.from_centres(published["lon"].values, published["lat"].values, "EPSG:4326")
        fips = published["state_fips"].values
    assert (grid.shape, grid.bounds) == ((104, 236), (-125.0, -66.0, 24.0, 50.0))
    states = boundaries.states()
    shares = grid.coverage(states.geometry).toarray().reshape(-1, *grid.shape)
    mostly = (shares.max(axis=0) > 0.9) & (fips > 0)
    ours = states["fips"].astype(int).to_numpy()[shares.argmax(axis=0)]
    assert mostly.sum() > 10_000
    assert (ours == fips)[mostly].mean() > 0.999
