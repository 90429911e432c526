"""Scores of maps: each number against a slow, obvious sum over all cells and steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxgrid.evaluation.borders import border_step
from fluxgrid.evaluation.map_places import COVERS, main_cover, map_places
from fluxgrid.evaluation.map_score import SEASONS, Cells, MapScore
from fluxgrid.evaluation.map_tables import (
    border_table,
    coverage,
    mean_rates,
    score_table,
    seasonal_course,
    totals_table,
)
from fluxgrid.evaluation.metrics import score as score_series
from fluxgrid.evaluation.moments import Moments, column_moments, pool
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.land import land_fraction
from fluxgrid.geo.region import find_region
from fluxgrid.output.totals import land_units

STATES, GREENS = ("Iowa", "Ohio", "Utah"), ("crop", "forest")
CELLS = 23
KEYS = ["flux", "scale", "quantity", "by", "group"]
NUMBERS = ["n", "truth", "r2", "rmse", "bias", "nmae"]


def make_map(start="2019-01-01", end="2020-12-31", step="daily", seed=3, missing=0.1):
    """Return time, cells, map and truth with a season, noise and holes; the third state has no cell."""
    rng = np.random.default_rng(seed)
    time = pd.date_range(start, end, freq="D" if step == "daily" else "MS")
    shape = (len(time), CELLS)
    season = np.cos(2 * np.pi * (time.day_of_year.to_numpy() - 190) / 365)[:, None]
    gpp = 4 + 4 * season + rng.normal(size=shape) + rng.normal(size=CELLS)
    reco = 3 + 2 * season + rng.normal(size=shape)
    truth = {"nee": reco - gpp, "gpp": gpp, "reco": reco}
    guess = {flux: 0.8 * values + rng.normal(0.3, 1, size=shape) for flux, values in truth.items()}
    hole = rng.random(shape) < missing
    hole[:, 5] = True  # a cell without any value
    for values in guess.values():
        values[hole] = np.nan
    truth["reco"][7, 3] = np.nan
    cells = Cells(np.arange(CELLS), rng.uniform(1e6, 9e7, CELLS), rng.integers(0, 2, CELLS), rng.integers(0, 2, CELLS))
    return time, cells, guess, truth


def part(cells, values, which):
    """Return some cells and their series."""
    some = Cells(*(getattr(cells, name)[which] for name in ("index", "weight", "state", "cover")))
    return some, *({flux: series[:, which] for flux, series in each.items()} for each in values)


def scored(time, cells, guess, truth, step="daily", tiles=None, fluxes=("nee", "gpp", "reco")):
    """Score a map, tile by tile."""
    score = MapScore(time, step, CELLS, STATES, GREENS, fluxes)
    for which in tiles or [np.arange(CELLS)]:
        score.add(*part(cells, (guess, truth), np.asarray(which)))
    return score


def row(table, *key):
    """Return one row of a table of scores."""
    found = table.set_index(KEYS).sort_index().loc[key]
    return found


def slow_scores(guess, truth, weight):
    """Return the scores of (rows, n), by their definitions, on all pairs at once."""
    weight = np.broadcast_to(weight, truth.shape)
    both = np.isfinite(guess) & np.isfinite(truth)
    p, t, w = guess[both], truth[both], weight[both]
    mean = np.average(t, weights=w)
    sse = np.sum(w * (p - t) ** 2)
    return {
        "n": both.sum(),
        "truth": mean,
        "r2": 1 - sse / np.sum(w * (t - mean) ** 2),
        "rmse": np.sqrt(sse / w.sum()),
        "bias": np.average(p - t, weights=w),
        "nmae": np.average(np.abs(p - t), weights=w) / (abs(mean) + 1e-9),
    }


@pytest.fixture(scope="module")
def two_years():
    """Two years of days, their score in one tile and its table."""
    case = make_map()
    score = scored(*case)
    return *case, score, score_table(score)


def selections(time, cells):
    """Yield every group of a table with the rows and columns that belong to it."""
    season = time.month.to_numpy() % 12 // 3
    every, all_cells = np.ones(len(time), bool), np.ones(CELLS, bool)
    yield "all", "all", every, all_cells
    yield from (("season", name, season == k, all_cells) for k, name in enumerate(SEASONS))
    yield from (("cover", name, every, cells.cover == k) for k, name in enumerate(GREENS))
    yield from (("state", name, every, cells.state == k) for k, name in enumerate(STATES[:2]))


@pytest.mark.parametrize("flux", ["nee", "gpp", "reco"])
def test_daily_scores_are_those_of_the_definitions(two_years, flux):
    time, cells, guess, truth, _, table = two_years
    for by, group, rows, cols in selections(time, cells):
        slow = slow_scores(guess[flux][rows][:, cols], truth[flux][rows][:, cols], cells.weight[cols])
        found = row(table, flux, "day", "flux", by, group)
        for name in NUMBERS:
            assert found[name] == pytest.approx(slow[name], rel=1e-12), (by, group, name)


def test_months_are_means_of_the_days_that_both_have(two_years):
    time, cells, guess, truth, _, table = two_years
    hidden = np.isnan(guess["gpp"])
    frames = [pd.DataFrame(np.where(hidden, np.nan, each["gpp"]), time) for each in (guess, truth)]
    p, t = (frame.resample("MS").mean().to_numpy() for frame in frames)  # every month has over half of its days
    slow = slow_scores(p, t, cells.weight)
    found = row(table, "gpp", "month", "flux", "all", "all")
    assert found["n"] == 24 * (CELLS - 1)
    assert [found[name] for name in NUMBERS] == pytest.approx([slow[name] for name in NUMBERS], rel=1e-12)


def test_years_are_sums_as_if_every_day_were_there(two_years):
    time, cells, guess, truth, _, table = two_years
    hidden = np.isnan(guess["nee"])
    years = [365, 366]
    p, t = (
        pd.DataFrame(np.where(hidden, np.nan, each["nee"]), time).groupby(time.year).mean().mul(years, axis=0)
        for each in (guess, truth)
    )
    slow = slow_scores(p.to_numpy(), t.to_numpy(), cells.weight)
    found = row(table, "nee", "year", "flux", "all", "all")
    assert found["n"] == 2 * (CELLS - 1)
    assert [found[name] for name in NUMBERS] == pytest.approx([slow[name] for name in NUMBERS], rel=1e-12)
    assert not (table.query("scale == 'year'")["by"] == "season").any()


def slow_cycle(truth, slot, length, half):
    """Return the mean of all values within some slots, around the turn of the year."""
    cycle = np.empty_like(truth)
    for k, place in enumerate(slot):
        near = np.minimum((slot - place) % length, (place - slot) % length) <= half
        cycle[k] = np.nanmean(truth[near], axis=0)
    return cycle


def test_anomalies_are_departures_from_the_cycle_of_the_truth(two_years):
    time, cells, guess, truth, _, table = two_years
    slot = np.minimum(time.day_of_year.to_numpy(), 365) - 1
    cycle = slow_cycle(truth["reco"], slot, 365, 7)
    slow = slow_scores(guess["reco"] - cycle, truth["reco"] - cycle, cells.weight)
    found = row(table, "reco", "day", "anomaly", "all", "all")
    for name in ("n", "r2", "rmse", "bias"):
        assert found[name] == pytest.approx(slow[name], rel=1e-10)
    assert found["r2"] < row(table, "reco", "day", "flux", "all", "all")["r2"]  # the season is no longer a merit


def test_monthly_and_annual_anomalies_know_the_whole_truth(two_years):
    """The cycle is that of all days of the truth, also of those the map lacks."""
    time, cells, guess, truth, _, table = two_years
    hidden = np.isnan(guess["nee"])
    starts = pd.DatetimeIndex(time.to_period("M").unique().to_timestamp())
    whole = pd.DataFrame(truth["nee"], time).resample("MS").mean().to_numpy()
    p, t = (
        pd.DataFrame(np.where(hidden, np.nan, each["nee"]), time).resample("MS").mean().to_numpy()
        for each in (guess, truth)
    )
    cycle = slow_cycle(whole, starts.month.to_numpy() - 1, 12, 0)
    slow = slow_scores(p - cycle, t - cycle, cells.weight)
    found = row(table, "nee", "month", "anomaly", "all", "all")
    assert [found[name] for name in ("r2", "rmse")] == pytest.approx([slow["r2"], slow["rmse"]], rel=1e-10)
    assert row(table, "nee", "year", "anomaly", "all", "all")["n"] == 2 * (CELLS - 1)


def test_one_year_has_no_anomalies_and_part_of_a_year_no_annual_sum():
    one = score_table(scored(*make_map(end="2019-12-31")))
    assert set(one["quantity"]) == {"flux"}
    assert set(one["scale"]) == {"day", "month", "year"}
    part_year = score_table(scored(*make_map(start="2019-03-10", end="2019-08-20")))
    assert set(part_year["scale"]) == {"day", "month"}
    assert set(part_year.query("by == 'season'")["group"]) == {"MAM", "JJA"}


def test_a_year_and_a_half_has_anomalies_of_what_comes_twice_and_one_annual_sum():
    table = score_table(scored(*make_map(end="2020-06-30", missing=0.0)))
    days = row(table, "nee", "day", "anomaly", "all", "all")["n"]
    assert days == 2 * 182 * (CELLS - 1)  # the first 182 days of both years
    assert row(table, "nee", "year", "flux", "all", "all")["n"] == CELLS - 1
    assert "year" not in set(table.query("quantity == 'anomaly'")["scale"])


def test_monthly_maps_are_scored_by_month_and_year():
    time, cells, guess, truth = make_map(step="monthly", missing=0.0)
    table = score_table(scored(time, cells, guess, truth, step="monthly"))
    assert set(table["scale"]) == {"month", "year"}
    found, slow = (
        row(table, "gpp", "month", "flux", "all", "all"),
        slow_scores(guess["gpp"], truth["gpp"], cells.weight),
    )
    assert [found[name] for name in NUMBERS] == pytest.approx([slow[name] for name in NUMBERS], rel=1e-12)
    days = time.days_in_month.to_numpy()
    p, t = (
        pd.DataFrame(each["gpp"] * days[:, None], time).groupby(time.year).sum().to_numpy() for each in (guess, truth)
    )
    slow = slow_scores(np.where(np.isnan(guess["gpp"][0]), np.nan, p), t, cells.weight)
    assert row(table, "gpp", "year", "flux", "all", "all")["rmse"] == pytest.approx(slow["rmse"], rel=1e-12)


def test_a_perfect_map_scores_exactly_0_and_1():
    time, cells, _, truth = make_map()
    table = score_table(scored(time, cells, truth, truth))
    assert (table["rmse"] == 0).all()
    assert (table["bias"] == 0).all()
    assert (table["nmae"] == 0).all()
    assert (table["r2"] == 1).all()


def test_the_mean_of_the_truth_scores_zero():
    time, cells, _, truth = make_map(missing=0.0)
    weight = np.broadcast_to(cells.weight, truth["gpp"].shape)
    flat = {"gpp": np.full_like(truth["gpp"], np.average(truth["gpp"], weights=weight))}
    table = score_table(scored(time, cells, flat, truth, fluxes=("gpp",)))
    found = row(table, "gpp", "day", "flux", "all", "all")
    assert found["r2"] == pytest.approx(0, abs=1e-12)
    assert found["bias"] == pytest.approx(0, abs=1e-12)


@given(st.permutations(range(CELLS)), st.lists(st.integers(1, CELLS - 1), max_size=4, unique=True))
def test_tiles_and_their_order_change_nothing(order, cuts):
    time, cells, guess, truth = make_map(start="2019-11-20", end="2020-02-10", seed=8)
    whole = scored(time, cells, guess, truth)
    tiles = [tile for tile in np.split(np.asarray(order), sorted(cuts)) if len(tile)]
    pieces = scored(time, cells, guess, truth, tiles=tiles)
    ours, theirs = (score_table(each) for each in (whole, pieces))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-12, atol=1e-12)
    for flux in whole.fluxes:
        np.testing.assert_array_equal(whole.mass[flux], pieces.mass[flux])
        np.testing.assert_allclose(whole.curves[flux], pieces.curves[flux], rtol=1e-12)


def test_a_large_mean_does_not_eat_the_spread():
    """Sums of squares would: 1e8 squared times a thousand leaves no digit for a spread of 1."""
    time, cells, _, truth = make_map(missing=0.0)
    rng = np.random.default_rng(0)
    high = {"gpp": 1e8 + truth["gpp"]}
    guess = {"gpp": high["gpp"] + rng.normal(size=truth["gpp"].shape)}
    tiles = np.array_split(np.arange(CELLS), 5)
    found = row(
        score_table(scored(time, cells, guess, high, tiles=tiles, fluxes=("gpp",))), *"gpp day flux all all".split()
    )
    slow = slow_scores(guess["gpp"] - 1e8, high["gpp"] - 1e8, cells.weight)
    assert found["r2"] == pytest.approx(slow["r2"], rel=1e-7)


def test_a_cell_counts_by_its_land():
    time, cells, guess, truth = make_map(missing=0.0)
    heavy = Cells(cells.index, np.where(cells.index == 2, 1e15, cells.weight), cells.state, cells.cover)
    found = row(score_table(scored(time, heavy, guess, truth)), "nee", "day", "flux", "all", "all")
    alone = score_series(truth["nee"][:, 2], guess["nee"][:, 2])
    assert found["r2"] == pytest.approx(alone.r2, rel=1e-5)
    assert found["bias"] == pytest.approx(alone.bias, rel=1e-5)


def test_constant_truth_has_no_r2():
    time, cells, guess, _ = make_map()
    constant = {flux: np.full_like(values, 0.1) for flux, values in guess.items()}
    found = row(score_table(scored(time, cells, guess, constant)), "nee", "day", "flux", "all", "all")
    assert np.isnan(found["r2"])
    assert np.isfinite(found["rmse"])


def test_a_cell_cannot_be_counted_twice():
    time, cells, guess, truth = make_map()
    with pytest.raises(ValueError, match="must not overlap"):
        scored(time, cells, guess, truth, tiles=[np.arange(4), np.arange(3, 6)])


def test_what_is_missing_is_counted(two_years):
    *_, guess, _, score, _ = two_years
    counts = coverage(score)
    assert (counts["cells"], counts["cells_scored"], counts["cells_missing"]) == (CELLS, CELLS - 1, 1)
    assert counts["cell_steps"] == CELLS * 731
    here = np.isfinite(guess["reco"])
    here[7, 3] = False  # the truth is missing there
    assert counts["cell_steps_scored"] == here.sum()
    assert counts["cell_steps_missing"] == (~here).sum()


def test_course_of_the_year_is_the_mean_over_land(two_years):
    time, cells, guess, truth, score, _ = two_years
    course = seasonal_course(score, "gpp")
    hidden = np.isnan(guess["gpp"])
    for side, values in (("map", guess["gpp"]), ("truth", truth["gpp"])):
        months = pd.DataFrame(np.where(hidden, np.nan, values), time).resample("MS").mean()
        july = months[months.index.month == 7].to_numpy()
        weight = np.broadcast_to(cells.weight, july.shape)[np.isfinite(july)]
        assert course.loc[7, side] == pytest.approx(np.average(july[np.isfinite(july)], weights=weight), rel=1e-12)
    assert list(course.index) == list(range(1, 13))


def test_pooled_moments_are_those_of_all_values():
    rng = np.random.default_rng(1)
    guess, truth = rng.normal(size=(2, 17, 6))
    weight = rng.uniform(1, 5, 6)
    columns = column_moments(guess, truth, weight)
    once = pool([columns], [np.array([0, 1, 0, 1, 2, 0])], 4).scores()
    for group, cols in enumerate(([0, 2, 5], [1, 3], [4])):
        slow = slow_scores(guess[:, cols], truth[:, cols], weight[cols])
        assert [once[name][group] for name in NUMBERS] == pytest.approx([slow[name] for name in NUMBERS], rel=1e-12)
    assert once["n"][3] == 0
    assert np.isnan([once[name][3] for name in NUMBERS[1:]]).all()
    empty = pool([Moments.none(2), columns], [np.zeros(2, int), np.zeros(6, int)], 1).scores()
    assert empty["rmse"][0] == pytest.approx(slow_scores(guess, truth, weight)["rmse"])


def slow_border_step(values, state):
    """Return the ratio by walking over every pair of neighbours."""
    jumps = {True: [], False: []}
    rows, cols = values.shape
    for y in range(rows):
        for x in range(cols):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v >= rows or u >= cols or min(state[y, x], state[v, u]) < 0:
                    continue
                jump = abs(values[y, x] - values[v, u])
                if np.isfinite(jump):
                    jumps[bool(state[y, x] != state[v, u])].append(jump)
    if not jumps[True] or not jumps[False]:
        return np.nan
    border, inside = np.mean(jumps[True]), np.mean(jumps[False])
    return border / inside if inside > 0 else (np.inf if border > 0 else np.nan)


grids = st.tuples(
    arrays(np.float64, (4, 6), elements=st.one_of(st.integers(-9, 9), st.just(np.nan))),
    arrays(np.int64, (4, 6), elements=st.integers(-1, 2)),
)


@given(grids)
def test_border_step_is_that_of_all_pairs_of_neighbours(pair):
    values, state = pair
    assert border_step(values, state) == pytest.approx(slow_border_step(values, state), nan_ok=True)


@given(grids, st.floats(0.1, 9), st.floats(-50, 50))
def test_border_step_knows_neither_unit_nor_offset(pair, factor, offset):
    values, state = pair
    changed = border_step(values * factor + offset, state)
    assert changed == pytest.approx(border_step(values, state), nan_ok=True, rel=1e-6)
    assert border_step(values.T, state.T) == pytest.approx(border_step(values, state), nan_ok=True)


def test_border_step_shows_a_map_made_state_by_state():
    rng = np.random.default_rng(2)
    state = np.repeat([[0, 0, 0, 1, 1, 1, 1]], 900, axis=0)
    smooth = rng.normal(size=state.shape)
    assert border_step(smooth, state) == pytest.approx(1, abs=0.1)
    assert border_step(smooth + 20.0 * state, state) > 10
    assert border_step(5.0 * state, state) == np.inf
    assert np.isnan(border_step(smooth, np.zeros_like(state)))
    with pytest.raises(ValueError, match=r"\(900, 7\) and the states \(7, 900\)"):
        border_step(smooth, state.T)


@pytest.fixture(scope="module")
def corner():
    """Where Iowa, Illinois and Missouri meet, one year of months."""
    region = find_region("-92.3,40.1,-90.6,41.2")
    grid = Grid.from_bounds(region.bounds, 0.25)
    places = map_places(region, grid)
    time = pd.date_range("2019-01-01", periods=12, freq="MS")
    rng = np.random.default_rng(5)
    n = grid.shape[0] * grid.shape[1]
    truth = {flux: rng.normal(2, 1, (12, n)) for flux in ("nee", "gpp")}
    guess = {flux: values + 1 for flux, values in truth.items()}
    guess["nee"][3:5, 7] = np.nan
    here = np.flatnonzero(places.weight > 0)
    score = MapScore(time, "monthly", n, places.states, COVERS, ("nee", "gpp"))
    score.add(*part(Cells(np.arange(n), places.weight, places.state, np.zeros(n, int)), (guess, truth), here))
    return region, grid, places, time, guess, truth, score


def test_totals_are_those_of_the_exact_land(corner):
    region, grid, places, time, guess, truth, score = corner
    table = totals_table(score, places).set_index(["flux", "level", "name"]).sort_index()
    units = land_units(region, grid, land_fraction(grid), levels=("state",))
    days = time.days_in_month.to_numpy()[:, None]
    for k, name in enumerate(units.table["name"]):
        land = units.land[k].toarray().ravel()
        here = np.isfinite(guess["nee"])
        level = units.table["level"][k]
        for side, values in (("map_TgC", guess["nee"]), ("truth_TgC", truth["nee"])):
            slow = np.where(here, values, 0) * days * land
            assert table.loc[("nee", level, name), side].item() == pytest.approx(slow.sum() / 1e12, rel=1e-9)
        share = (here * days * land).sum() / (days * land).sum()
        assert table.loc[("nee", level, name), "share_covered"].item() == pytest.approx(share, rel=1e-9)
    assert set(table.loc["nee"].loc["state"].index) == {"Illinois", "Iowa", "Missouri"}
    states = table.loc["gpp"].loc["state"]["truth_TgC"].sum()
    assert states == pytest.approx(table.loc[("gpp", "region")]["truth_TgC"].item(), rel=1e-9)


def test_border_table_looks_at_the_mean_of_the_period(corner):
    *_, places, time, guess, truth, score = corner
    table = border_table(score, places).set_index("flux")
    days = time.days_in_month.to_numpy()
    state = places.on_grid(places.state)
    for side, values in (("map", guess["gpp"]), ("truth", truth["gpp"])):
        mean = places.on_grid(np.average(values, axis=0, weights=days))
        assert table.loc["gpp", side] == pytest.approx(slow_border_step(mean, state))
    np.testing.assert_allclose(mean_rates(score, "gpp")[0] - mean_rates(score, "gpp")[1], 1.0)


def test_the_share_of_land_that_a_map_states_wins():
    region = find_region("-92.3,40.1,-90.6,41.2")
    grid = Grid.from_bounds(region.bounds, 0.25)
    stated = np.full(grid.shape, 0.25)
    stated[0, :3] = 0
    places = map_places(region, grid, stated)
    np.testing.assert_allclose(places.on_grid(places.weight), stated * grid.cell_area(), rtol=1e-9)
    assert (places.on_grid(places.state)[0, :3] == -1).all()
    land = places.units.land
    np.testing.assert_allclose(land[0].toarray(), land[1:].sum(axis=0), rtol=1e-9)


def test_main_cover_is_the_largest_and_rotations_are_one():
    shares = np.zeros((4, 8))
    shares[0] = [0.15, 0.15, 0.15, 0, 0, 0.4, 0, 0]
    shares[1, 3] = 0.05
    shares[2, [5, 7]] = 0.3, 0.31
    assert [COVERS[k] for k in main_cover(shares)] == [
        "corn and soybean",
        "small grain",
        "wetland",
        "water and built-up",
    ]
