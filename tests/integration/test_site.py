"""A map cell is the same inputs predicted as a site; its fluxes close, and its flags say the truth."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.data.records import plan_segments, site_places
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import find_region
from fluxgrid.netcdf import netcdf_file
from fluxgrid.output.flags import NO_VALUE, Quality
from fluxgrid.prediction import BlockState, Predictor
from fluxgrid.prediction.sites import predict_site

FLUXES = ("nee", "gpp", "reco")
# Cells of the cube (row, column) that lie on land in the region; most have a hole made by hand.
PLAIN, HOLES = [(5, 5), (30, 33), (40, 10)], [(10, 20), (11, 21), (12, 22), (13, 23), (16, 26), (17, 27), (21, 5)]
# A site has its row of a block to itself, a cell stands among 255 others: the vectorised kernels of torch may round the
# last bit of exp and tanh differently by position, and a recurrent state hands such bits on. Fluxes are below 20.
RELATIVE, ABSOLUTE = 2e-6, 2e-6


@pytest.fixture(scope="module")
def cube(world):
    return open_cube(world.cube)


def read_map(out) -> dict[str, np.ndarray]:
    """Return the arrays of a map, files joined in time, NaN where they hold fill values."""
    parts: dict[str, list[np.ndarray]] = {}
    for path in sorted(out.glob("*.nc")):
        with netcdf_file(path) as file:
            file.set_auto_mask(False)
            for name in (*FLUXES, "quality_flag", "applicability", "lat", "lon", "land_area_fraction"):
                parts.setdefault(name, []).append(file[name][...])
            fill = file["nee"]._FillValue
    joined = {name: np.concatenate(rows) if rows[0].ndim == 3 else rows[0] for name, rows in parts.items()}
    for name in (*FLUXES, "applicability"):
        joined[name] = np.where(joined[name] == fill, np.float32(np.nan), joined[name])
    return joined


@pytest.fixture(scope="module")
def maps(baseline):
    """The maps of both models."""
    return {kind: read_map(out) for kind, out in baseline.items()}


def offset(cube, found) -> tuple[int, int]:
    """Return the cube's row and column of the map's first cell."""
    grid = grid_of(cube)
    row = int(np.abs(grid.y - found["lat"][0]).argmin())
    col = int(np.abs(grid.x - found["lon"][0]).argmin())
    assert (row, col) == (2, 2)  # else the test would prove nothing about where the map lies in the cube
    return row, col


def predict_from(predictor: Predictor, site, first: str) -> pd.DataFrame:
    """Return the fluxes of a site from a day on, the record before it serving as spin-up."""
    spec, time = predictor.checkpoint.spec, pd.DatetimeIndex(site.series.index)
    state: BlockState | None = None
    parts = []
    for segment in plan_segments(time, spec.step, int(time.get_loc(first)), spec.spin_up_years):
        assert not segment.recycled
        fluxes, state = predictor.predict(site_places(site, spec.step, spec.inputs, segment.steps), state)
        if segment.scored:
            parts.append(pd.DataFrame({n: getattr(fluxes, n)[:, 0] for n in FLUXES}, index=time[segment.steps]))
    return pd.concat(parts)


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_cell_equals_site_with_spin_up_from_the_cube(world, maps, cube, tools, kind):
    found, predictor = maps[kind], Predictor(world.checkpoint(kind))
    row, col = offset(cube, found)
    differences = []
    for place in PLAIN + HOLES:
        fluxes = predict_from(predictor, tools["site_at"](cube, *place), "2020-12-01")
        for name in FLUXES:
            cell = found[name][:, place[0] - row, place[1] - col]
            np.testing.assert_allclose(cell, fluxes[name], rtol=RELATIVE, atol=ABSOLUTE, err_msg=f"{name} {place}")
            differences.append(np.nanmax(np.abs(cell - fluxes[name]), initial=0))
    print(f"largest difference {max(differences):.2e}")


def test_cell_equals_site_with_recycled_spin_up(world, cube, tools, tmp_path):
    outcome = world.run(tmp_path / "map", start=None, end=None)
    assert any("are run once more" in warning for warning in outcome.warnings)
    found, predictor = read_map(tmp_path / "map"), Predictor(world.checkpoint("ct_gru"))
    row, col = offset(cube, found)
    for place in PLAIN[:1] + HOLES[:2]:
        fluxes = predict_site(predictor, tools["site_at"](cube, *place))
        cells = {name: found[name][:, place[0] - row, place[1] - col] for name in FLUXES}
        assert len(cells["nee"]) == len(fluxes) == 428
        for name, cell in cells.items():
            np.testing.assert_allclose(cell, fluxes[name], rtol=RELATIVE, atol=ABSOLUTE, err_msg=f"{name} {place}")
    flags = found["quality_flag"][:, PLAIN[0][0] - row, PLAIN[0][1] - col]
    assert (flags[:31] & Quality.FILLED).all(), "the first year stands on itself"
    assert not (flags[31:] & Quality.FILLED).any()


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_nee_closes_and_fill_stands_just_where_a_flag_says_why(maps, kind):
    found = maps[kind]
    empty = (found["quality_flag"] & NO_VALUE.value) > 0
    for name in FLUXES:
        assert np.array_equal(np.isnan(found[name]), empty), name
    unlike = np.isnan(found["applicability"]) & ~empty
    assert unlike.any(axis=0).sum() <= len(HOLES), "only where an input is missing on another day of the month"
    nee, gpp, reco = (found[name][~empty] for name in FLUXES)
    assert np.array_equal(nee, reco - gpp)
    assert gpp.min() >= 0
    assert reco.min() >= 0
    assert np.std(nee) > 0.01, "a constant map would pass"


def test_fixed_flags_follow_region_and_land(world, maps, cube):
    found = maps["ct_gru"]
    row, col = offset(cube, found)
    flags = found["quality_flag"]
    shape = flags.shape[1:]
    grid = grid_of(cube).crop(slice(row, row + shape[0]), slice(col, col + shape[1]))
    share = grid.coverage(gpd.GeoSeries([find_region(str(world.region)).polygon], crs=4326)).toarray().reshape(shape)
    land = land_fraction(grid)
    outside, water = share == 0, land == 0
    assert outside.sum() > 500
    assert (water & ~outside).sum() > 100
    assert np.array_equal((flags & Quality.OUTSIDE_REGION) > 0, np.broadcast_to(outside, flags.shape))
    assert np.array_equal((flags & Quality.WATER) > 0, np.broadcast_to(water, flags.shape))
    assert set(np.unique(flags)) <= {0, 1, 2, 3, 4, 8, 32, 40}
    assert not (flags[:, outside | water] & ~np.int8(3)).any(), "what is not predicted is not doubted either"


def test_flags_of_the_holes_made_by_hand(maps, cube):
    found = maps["ct_gru"]
    row, col = offset(cube, found)
    days = pd.date_range("2020-12-01", "2021-01-31")
    gap = days.get_loc("2020-12-10")
    in_2021 = days.get_loc("2021-01-01")

    def bit(place, flag):
        return ((found["quality_flag"][:, place[0] - row, place[1] - col] & flag) > 0).tolist()

    def steps(*spans):
        return [any(start <= day < stop for start, stop in spans) for day in range(len(days))]

    # a recurrent model: after a hole of the input the state is doubtful to the end of the year
    assert bit((10, 20), Quality.FILLED) == steps((gap, gap + 2))
    assert bit((10, 20), Quality.INPUT_MISSING) == steps()
    assert bit((12, 22), Quality.INPUT_MISSING) == steps((gap, gap + 1))
    assert bit((12, 22), Quality.FILLED) == steps((gap + 1, in_2021))
    assert bit((13, 23), Quality.INPUT_MISSING) == steps((gap + 3, len(days)))
    assert bit((14, 24), Quality.INPUT_MISSING) == steps((0, len(days)))
    assert bit((15, 25), Quality.INPUT_MISSING) == steps((0, len(days)))
    assert bit((16, 26), Quality.FILLED) == steps()
    assert bit((5, 5), Quality.FILLED) == steps()


def test_holes_of_trees_do_not_last(maps, cube):
    found = maps["lightgbm"]
    row, col = offset(cube, found)
    flags = found["quality_flag"][:, 12 - row, 22 - col]
    assert np.flatnonzero(flags & Quality.INPUT_MISSING).tolist() == [9]
    assert not (flags & Quality.FILLED).any()


def test_unlike_inputs_are_outside_the_area_of_applicability(world, maps, cube):
    found, threshold = maps["ct_gru"], world.checkpoint("ct_gru").domain.threshold
    row, col = offset(cube, found)
    december = slice(0, 31)
    outside = (found["quality_flag"] & Quality.OUTSIDE_APPLICABILITY) > 0
    assert outside[december, 20 - row : 24 - row, 4 - col : 8 - col].all()
    valid = (found["quality_flag"] & NO_VALUE.value) == 0
    assert np.array_equal(outside[valid], found["applicability"][valid] > threshold)
    assert 0 < outside[valid].mean() < 0.9
