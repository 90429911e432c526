"""The commands of the reference world: build it, describe it, score maps on it. Small places near its first year."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid import cli
from fluxgrid.config import UpscaleConfig, load_config
from fluxgrid.data.cube import grid_of, open_cube
from fluxgrid.errors import CubeError, IncompatibleCube, OutputError, OutputExists
from fluxgrid.evaluation.map_places import map_places
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.netcdf import open_netcdf, save_netcdf
from fluxgrid.simulation import TRUTH, WORLD_VERSION, build_truth, world_digest
from fluxgrid.simulation.parameters import EXTENT
from fluxgrid.workflows import world_truth
from fluxgrid.workflows.scored_map import open_scored_map
from fluxgrid.workflows.upscale import upscale
from fluxgrid.workflows.world_score import score_map

BOX = "-92.0,40.2,-90.9,40.9"  # Iowa, Illinois and Missouri meet here
RESOLUTION = 0.1
SOURCE = f"fluxgrid synthetic world {WORLD_VERSION}, parameters {world_digest()}"
FIRST = EXTENT.first_year
DAYS = len(pd.date_range(f"{FIRST}-01-01", f"{FIRST + 1}-12-31"))
KEYS = ["flux", "scale", "quantity", "by", "group"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command line in this process: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fluxgrid", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The truth of two years on the cells of the box, as `world build --truth` writes it."""
    path = tmp_path_factory.mktemp("truth") / "truth.zarr"
    grid = Grid.from_bounds(find_region(BOX).bounds, RESOLUTION)
    build_truth(grid, f"{FIRST}-01-01", f"{FIRST + 1}-12-31", path)
    return path


@pytest.fixture(scope="module")
def fluxes(truth):
    """The same in memory: nee, gpp, reco (time, y, x)."""
    return open_cube(truth)[["nee", "gpp", "reco"]].compute()


def wrong_map(fluxes, seed=0, **attrs):
    """Return a map with errors and holes, as somebody else may write it: lat and lon, south up, source stated."""
    rng = np.random.default_rng(seed)
    guess = fluxes.map(lambda values: (0.9 * values + rng.normal(0.2, 0.6, values.shape)).astype("float32"))
    hole = rng.random(fluxes.nee.shape) < 0.05
    hole[:, 2, 3] = True
    guess = guess.where(~hole).drop_vars("spatial_ref").rename(y="lat", x="lon").isel(lat=slice(None, None, -1))
    for flux in guess:
        guess[flux].attrs = {"units": "g m-2 d-1"}
    guess["lat"].attrs, guess["lon"].attrs = {"standard_name": "latitude"}, {"standard_name": "longitude"}
    guess.attrs = {"title": "a map with errors", "references": f"Somebody (2026). {SOURCE}", **attrs}
    return guess


@pytest.fixture(scope="module")
def wrong(fluxes, tmp_path_factory):
    """The wrong map as a file, scored."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.nc"
    save_netcdf(wrong_map(fluxes), path)
    return path, score_map([path])


def in_units(guess, units, factor=1.0):
    """Return a map in another unit, or one that says so."""
    other = (guess * factor).assign_attrs(guess.attrs)
    for flux in other:
        other[flux].attrs["units"] = units
    return other


def slow_score(guess, truth, weight, rows=None):
    """Return r2, rmse and bias of (time, y, x) by their definitions."""
    rows = np.ones(len(truth), bool) if rows is None else rows
    weight = np.broadcast_to(weight, truth.shape)[rows]
    guess, truth = guess[rows].astype("float64"), truth[rows].astype("float64")
    both = np.isfinite(guess) & np.isfinite(truth) & (weight > 0)
    p, t, w = guess[both], truth[both], weight[both]
    sse = np.sum(w * (p - t) ** 2)
    spread = np.sum(w * (t - np.average(t, weights=w)) ** 2)
    return 1 - sse / spread, np.sqrt(sse / w.sum()), np.average(p - t, weights=w)


def weights(fluxes, region):
    """Return the land of a region in each cell, (y, x), m2."""
    places = map_places(find_region(region), grid_of(fluxes))
    return places.on_grid(places.weight)


# build


def test_build_writes_what_is_asked_for_and_the_truth_beside_it(run, tmp_path):
    out = tmp_path / "cube.zarr"
    words = (
        "world",
        "build",
        "--region",
        BOX,
        "--start",
        f"{FIRST}-05-30",
        "--end",
        f"{FIRST}-06-03",
        "--resolution",
        "0.2",
    )
    code, said, err = run(*words, "--variables", "tmax,soc", "--truth", "--out", out)
    assert code == 0, err
    cube, hidden = open_cube(out), open_cube(tmp_path / "cube_truth.zarr")
    assert set(cube.data_vars) == {"tmax", "soc"}
    assert set(hidden.data_vars) == set(TRUTH)
    assert grid_of(cube) == grid_of(hidden)
    assert [len(each.indexes["time"]) for each in (cube, hidden)] == [5, 5]
    assert SOURCE in cube.attrs["source"]
    here = np.isfinite(hidden["nee"].values)
    assert here.any()
    np.testing.assert_array_equal(hidden["nee"].values[here], (hidden["reco"] - hidden["gpp"]).values[here])
    assert world_digest() in said
    assert str(out) in said


@pytest.mark.parametrize("standing", ["cube.zarr", "cube_truth.zarr"])
def test_build_replaces_nothing(run, tmp_path, standing):
    (tmp_path / standing).mkdir()
    (tmp_path / standing / "mine.txt").write_text("keep")
    words = ("world", "build", "--region", BOX, "--start", f"{FIRST}-06-01", "--end", f"{FIRST}-06-01", "--truth")
    code, said, err = run(*words, "--out", tmp_path / "cube.zarr")
    assert (code, said) == (2, "")
    assert "exists already. Choose another path (--out)" in err
    assert [path.name for path in tmp_path.iterdir()] == [standing]
    assert (tmp_path / standing / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--region", BOX, "--variables", "tmax,colour"], "'colour'"),
        (["--region", BOX, "--variables", ","], "No variable is named."),
        (["--region", BOX, "--start", "June"], "'June' is no day. Write it as YYYY-MM-DD"),
        (["--region", BOX, "--start", f"{FIRST}-06-02", "--end", f"{FIRST}-06-01"], "before it begins"),
        (["--region", BOX, "--start", "1980-01-01", "--end", "1980-01-05", "--truth"], f"{FIRST}-01-01"),
        (["--region", "california"], "the grid leaves the world"),
        (["--region", "midwst"], "midwest"),
        (["--region", "-92.01,40.21,-92.0,40.22"], "fits into one cell"),
    ],
)
def test_build_says_what_is_wrong(run, tmp_path, words, text):
    code, said, err = run("world", "build", *words, "--out", tmp_path / "cube.zarr")
    assert (code, said) == (2, "")
    assert text in err
    assert list(tmp_path.iterdir()) == []


# describe


def test_describe_draws_and_tabulates_the_truth(run, tmp_path, truth, fluxes):
    out = tmp_path / "description"
    words = ("world", "describe", "--region", BOX, "--year", str(FIRST), "--resolution", RESOLUTION, "--out", out)
    code, said, err = run(*words)
    assert code == 0, err
    names = {"world.json", "covers.csv", "states.csv", "fluxes.png", "land.png", "seasons.png"}
    assert {path.name for path in out.iterdir()} == names
    assert said.count(world_digest()) == 2  # above each table
    told = json.loads((out / "world.json").read_text())
    assert (told["world_version"], told["world_digest"]) == (WORLD_VERSION, world_digest())
    assert (pd.read_csv(out / "covers.csv")["world_digest"] == world_digest()).all()
    land = weights(fluxes, BOX)
    first = fluxes.sel(time=str(FIRST)).astype("float64").sum("time")
    region = next(row for row in told["states"] if row["level"] == "region")
    for flux in ("nee", "gpp", "reco"):
        slow = float((first[flux].values * land)[land > 0].sum())
        assert region[f"{flux}_TgC"] == pytest.approx(slow / 1e12, rel=1e-6)
        assert region[flux] == pytest.approx(slow / land.sum(), rel=1e-6)
        assert sum(row[f"{flux}_TgC"] for row in told["covers"]) == pytest.approx(slow / 1e12, rel=1e-6)
    assert {row["name"] for row in told["states"]} >= {"Iowa", "Illinois", "Missouri"}
    july = {row["cover"]: row["gpp"] for row in told["seasons"] if row["month"] == 7}
    january = {row["cover"]: row["gpp"] for row in told["seasons"] if row["month"] == 1}
    assert all(july[cover] > january[cover] for cover in july)
    code, _, err = run(*words)
    assert code == 2
    assert "holds an earlier description" in err
    assert run(*words, "--overwrite")[0] == 0


def test_describe_knows_the_limits_of_the_world(run, tmp_path):
    code, _, err = run("world", "describe", "--region", BOX, "--year", str(FIRST - 1), "--out", tmp_path / "x")
    assert code == 2
    assert f"{FIRST}-01-01" in err
    assert not (tmp_path / "x").exists()


# score


def test_the_truth_itself_is_a_perfect_map(run, truth, tmp_path):
    out, extra = tmp_path / "score", tmp_path / "more" / "mine.json"
    code, said, err = run("world", "score", truth, "--out", out, "--json", extra)
    assert code == 0, err
    table = pd.read_csv(out / "score.csv")
    assert (table["r2"].dropna() == 1).all()
    assert (table["rmse"] == 0).all()
    assert set(table["scale"]) == {"day", "month", "year"}
    assert set(table["quantity"]) == {"flux", "anomaly"}
    assert (table["world_digest"] == world_digest()).all()
    assert table["made_on_this_world"].all()
    totals = pd.read_csv(out / "totals.csv")
    np.testing.assert_array_equal(totals["map_TgC"], totals["truth_TgC"])
    told = json.loads((out / "score.json").read_text())
    assert told == json.loads(extra.read_text())
    assert told["cell_steps_missing"] == 0
    assert all(row["map"] == row["truth"] for row in told["border_step"])
    assert (out / "score.png").stat().st_size > 20_000
    assert said.count(world_digest()) == 2  # above each table
    assert "Missing, not scored: 0 cells; 0 of" in said
    code, _, err = run("world", "score", truth, "--out", out)
    assert code == 2
    assert "holds an earlier score" in err
    assert run("world", "score", truth, "--out", out, "--overwrite")[0] == 0


def test_scores_are_those_of_a_slow_sum(wrong, fluxes):
    path, outcome = wrong
    guess = open_netcdf(path).isel(lat=slice(None, None, -1))
    land = weights(fluxes, "-92.0,40.2,-90.9,40.9")
    table = outcome.scores.set_index(KEYS)
    season = fluxes.indexes["time"].month.to_numpy() % 12 // 3
    for flux in ("nee", "gpp", "reco"):
        slow = slow_score(guess[flux].values, fluxes[flux].values, land)
        found = table.loc[(flux, "day", "flux", "all", "all")]
        assert [found[name] for name in ("r2", "rmse", "bias")] == pytest.approx(slow, rel=1e-5)
        slow = slow_score(guess[flux].values, fluxes[flux].values, land, season == 2)
        found = table.loc[(flux, "day", "flux", "season", "JJA")]
        assert [found[name] for name in ("r2", "rmse", "bias")] == pytest.approx(slow, rel=1e-5)
    assert outcome.folder == path.with_name("wrong-score")
    totals = outcome.totals.set_index(["flux", "name", "year"])
    here = np.isfinite(guess["gpp"].values) & np.isfinite(fluxes["gpp"].values)
    for side, values in (("map_TgC", guess["gpp"].values), ("truth_TgC", fluxes["gpp"].values)):
        grams = (np.where(here, values, 0).astype("float64") * land)[fluxes.indexes["time"].year == FIRST].sum()
        assert totals.loc[("gpp", "the whole map", FIRST), side] == pytest.approx(grams / 1e12, rel=1e-5)


def test_what_is_missing_is_told(wrong, fluxes):
    path, outcome = wrong
    land = weights(fluxes, BOX) > 0
    here = np.isfinite(open_netcdf(path)["nee"].values[:, ::-1]) & land
    about = outcome.about
    assert about["cells"] == land.sum()
    assert about["cells_missing"] == 1
    assert about["cell_steps_missing"] == land.sum() * DAYS - here.sum()


@pytest.mark.parametrize("side", [3, 5])
def test_tiles_do_not_change_the_scores(wrong, tmp_path, monkeypatch, side):
    path, outcome = wrong
    monkeypatch.setattr(world_truth, "_SIDE", side)
    again = score_map([path], out=tmp_path / "score")
    pd.testing.assert_frame_equal(again.scores, outcome.scores, rtol=1e-12, atol=1e-12)
    pd.testing.assert_frame_equal(again.totals, outcome.totals, rtol=1e-12)
    pd.testing.assert_frame_equal(again.borders, outcome.borders, rtol=1e-12)


def test_monthly_maps_are_scored_on_monthly_means(fluxes, tmp_path):
    means = fluxes.astype("float64").resample(time="MS").mean().assign_attrs(fluxes.attrs)
    months = wrong_map(means, seed=2)
    save_netcdf(months, tmp_path / "months.nc")
    outcome = score_map([tmp_path / "months.nc"])
    assert set(outcome.scores["scale"]) == {"month", "year"}
    slow = slow_score(months["gpp"].isel(lat=slice(None, None, -1)).values, means["gpp"].values, weights(fluxes, BOX))
    found = outcome.scores.set_index(KEYS).loc[("gpp", "month", "flux", "all", "all")]
    assert [found[name] for name in ("r2", "rmse", "bias")] == pytest.approx(slow, rel=1e-5)


def test_a_region_may_be_chosen_and_files_may_follow_each_other(fluxes, tmp_path):
    guess = wrong_map(fluxes)
    for year in (str(FIRST), str(FIRST + 1)):
        save_netcdf(guess.sel(time=year), tmp_path / f"part_{year}.nc")
    outcome = score_map([tmp_path / "part_*.nc"], region="iowa", out=tmp_path / "score")
    slow = slow_score(
        guess["nee"].isel(lat=slice(None, None, -1)).values, fluxes["nee"].values, weights(fluxes, "iowa")
    )
    found = outcome.scores.set_index(KEYS).loc[("nee", "day", "flux", "all", "all")]
    assert [found[name] for name in ("r2", "rmse", "bias")] == pytest.approx(slow, rel=1e-5)
    assert set(outcome.totals["name"]) == {"Iowa"}


def test_units_are_converted_and_some_fluxes_are_enough(fluxes, tmp_path):
    guess = wrong_map(fluxes)[["gpp"]].sel(time=slice(f"{FIRST}-06-01", f"{FIRST}-08-31"))
    save_netcdf(guess, tmp_path / "grams.nc")
    save_netcdf(in_units(guess, "mg m-2 d-1", 1000), tmp_path / "milligrams.nc")
    grams, milligrams = (score_map([tmp_path / f"{name}.nc"]).scores for name in ("grams", "milligrams"))
    pd.testing.assert_frame_equal(grams, milligrams, rtol=1e-5)
    assert set(grams["flux"]) == {"gpp"}
    assert set(grams["scale"]) == {"day", "month"}


def test_foreign_maps_are_refused_unless_forced(run, fluxes, tmp_path):
    path = tmp_path / "foreign.nc"
    save_netcdf(wrong_map(fluxes, references="real towers").sel(time=str(FIRST)), path)
    code, said, err = run("world", "score", path)
    assert (code, said) == (2, "")
    assert "names no synthetic world" in err
    assert "--force" in err
    assert not (tmp_path / "foreign-score").exists()
    code, said, _ = run("world", "score", path, "--force")
    assert code == 0
    assert "FOREIGN MAP, not made on this world" in said
    told = json.loads((tmp_path / "foreign-score" / "score.json").read_text())
    assert told["made_on_this_world"] is False


def test_maps_of_another_version_of_the_world_are_refused(fluxes, tmp_path):
    path = tmp_path / "old.nc"
    other = "fluxgrid synthetic world 0.0, parameters 0123456789abcdef"
    save_netcdf(wrong_map(fluxes, references=other).sel(time=f"{FIRST}-06"), path)
    with pytest.raises(IncompatibleCube, match=r"synthetic world 0\.0, parameters 0123456789abcdef"):
        score_map([path])


def test_what_cannot_be_scored_is_said(run, fluxes, tmp_path):
    guess = wrong_map(fluxes).sel(time=f"{FIRST}-06")
    save_netcdf(guess.rename(nee="a", gpp="b", reco="c"), tmp_path / "nameless.nc")
    with pytest.raises(CubeError, match="holds none of nee, gpp, reco"):
        score_map([tmp_path / "nameless.nc"])
    save_netcdf(in_units(guess, "umol m-2 s-1"), tmp_path / "mol.nc")
    with pytest.raises(CubeError, match="umol m-2 s-1"):
        score_map([tmp_path / "mol.nc"])
    early = guess.assign_coords(time=guess.indexes["time"] - pd.DateOffset(years=3))
    save_netcdf(early.assign_coords(lon=guess["lon"] + 60), tmp_path / "early.nc")
    with pytest.raises(IncompatibleCube, match=rf"(?s)none of its land.*it begins on {FIRST - 3}-06-01"):
        score_map([tmp_path / "early.nc"])
    with pytest.raises(OutputError, match="no finished map"):
        score_map([tmp_path])
    code, _, err = run("world", "score", tmp_path / "nothing.nc")
    assert code == 2
    assert "There is nothing at" in err


def test_cells_beyond_the_world_are_counted_and_not_scored(fluxes, tmp_path):
    """A wide map of which only the middle is in the world, with --force as maps of the continent need."""
    grid = Grid.from_bounds((-108.0, -106.0, 40.0, 41.0), 0.25)
    time = pd.date_range(f"{FIRST}-06-01", periods=3)
    values = np.ones((3, *grid.shape), "float32")
    wide = xr.Dataset({"gpp": (("time", "lat", "lon"), values, {"units": "g m-2 d-1"})}, {"time": time})
    wide = wide.assign_coords(lat=("lat", grid.y), lon=("lon", grid.x))
    save_netcdf(wide, tmp_path / "wide.nc")
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputExists, match=r"mine\.json exists"):
        score_map([tmp_path / "wide.nc"], force=True, json_file=tmp_path / "mine.json")
    about = score_map([tmp_path / "wide.nc"], force=True).about
    assert about["cells"] == about["cells_outside_the_world"] == 16


def test_a_run_folder_of_the_reference_world(world, tools, tmp_path, run):
    """`fluxgrid upscale` says on which world its map was made, and `world score` finds it."""
    spec = replace(tools["spec_of"]("ct_gru"), synthetic=True, spin_up_years=1)
    model = tools["write_model"](tmp_path / "model", open_cube(world.cube), spec)
    options = {
        "region": BOX,
        "model": str(model),
        "start": f"{FIRST + 1}-05-01",
        "end": f"{FIRST + 1}-09-30",
        "out": str(tmp_path / "map"),
    }
    upscale(load_config(UpscaleConfig, None, {**options, "resolution": 0.2, "threads": 1}))
    scored = open_scored_map([tmp_path / "map"])
    assert scored.world == (WORLD_VERSION, world_digest())
    code, _, err = run("world", "score", tmp_path / "map")
    assert code == 0, err
    told = json.loads((tmp_path / "map-score" / "score.json").read_text())
    assert told["region"].startswith("Box")
    assert (told["start"], told["end"], told["days"]) == (f"{FIRST + 1}-05-01", f"{FIRST + 1}-09-30", 153)
    assert told["cell_steps_missing"] == 0
    file = scored.cube.astype("float64")
    build_truth(grid_of(scored.cube), f"{FIRST + 1}-05-01", f"{FIRST + 1}-09-30", tmp_path / "truth.zarr")
    right = open_cube(tmp_path / "truth.zarr")
    slow = slow_score(file["gpp"].values, right["gpp"].values, weights(right, BOX))
    found = pd.DataFrame(told["scores"]).set_index(KEYS).loc[("gpp", "day", "flux", "all", "all")]
    assert [found[name] for name in ("r2", "rmse", "bias")] == pytest.approx(slow, rel=1e-5)
    totals = pd.read_csv(tmp_path / "map" / "totals.csv", dtype={"period": str})
    ours = totals.query(f"level == 'region' and period == '{FIRST + 1}-05-01/{FIRST + 1}-09-30' and flux == 'gpp'")[
        "total_TgC"
    ].item()
    theirs = next(row for row in told["totals"] if row["level"] == "region" and row["flux"] == "gpp")
    assert theirs["map_TgC"] == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("command", ["build", "describe", "score"])
def test_every_command_has_help(run, command):
    assert f"\n  {command} " in run("world", "--help")[1]
    code, said, _ = run("world", command, "--help")
    assert code == 0
    assert f"world {command} [OPTIONS]" in said
