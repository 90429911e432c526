"""What a refresh computes again when the weather of one state changes, against a slow count of what it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.data.cube import grid_of
from fluxgrid.data.gaps import GapRule
from fluxgrid.geo.state_of import state_of
from fluxgrid.netcdf import save_netcdf
from fluxgrid.output import qgis, quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.testing import small_cube, write_cube
from fluxgrid.upscaling import export
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed

SHAPE, CENTRE, RESOLUTION = (34, 34), (-94.25, 41.25), 0.25
"""Four tiles; Iowa reaches over the border of the first one to the east, and not to those of the south."""
FIRST, LAST = "2019-01-01", "2022-12-31"
"""A year of spin-up, and maps of three; the year after the leap year begins inside a chunk of time."""
YEARS = range(2019, 2023)
HALO = 3
"""Days before and after a year that may fill its gaps."""
FORCINGS = ("temperature_2m", "precipitation", "shortwave")

Unit = tuple[str, int]
"""Tile and year; the first is spin-up."""


@dataclass(frozen=True)
class States:
    """A cube of some states, what is delivered of it, and the maps that grow from that."""

    folder: Path
    model: Path
    incoming: Path

    def refresh(self) -> Refreshed:
        source = {"location": str(self.incoming), "base": str(self.incoming.parent / "base.zarr"), "settle": 0}
        values: dict[str, Any] = {"region": "-98.5,37,-90,45.5", "model": str(self.model), "threads": 1}
        values |= {"out": str(self.folder), "start": "2020-01-01", "max_missing": 1.0}
        values["refresh"] = {"source": source, "guards": {"totals_move": 10.0, "missing_jump": 1.0}}
        return refresh(load_config(UpscaleConfig, None, values))

    @property
    def archive(self) -> Archive:
        return Archive.open(self.folder / "archive")

    def kept(self, kind: str) -> Iterator[tuple[Unit, Path]]:
        """Yield the records, or states, of all units."""
        for path in self.folder.glob(f".fluxgrid/refresh-*/{kind}/*/*"):
            yield (path.parent.name, int(path.stem[-4:])), path

    def written(self) -> dict[Unit, int]:
        """Return when each unit was computed last."""
        return {unit: path.stat().st_mtime_ns for unit, path in self.kept("records")}

    def handed_on(self) -> dict[Unit, dict[str, np.ndarray]]:
        """Return the state that each unit hands on."""
        return {unit: dict(np.load(path)) for unit, path in self.kept("states")}


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    """Leave out the files beside the archive, a third of the time."""
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])
    monkeypatch.setattr(qgis, "write_qlr", lambda *_: None)
    monkeypatch.setattr(export, "_write_year", lambda *_: [])


def must_compute(
    cubes: tuple[xr.Dataset, xr.Dataset], states: tuple[dict, dict], tiles: dict[str, tuple[slice, slice]]
) -> set[Unit]:
    """Return the units that must be computed again, slowly: those with another input, or another state carried in."""
    found = set()
    time = cubes[0].indexes["time"]
    for name, (rows, cols) in tiles.items():
        for year in YEARS:
            steps = np.flatnonzero(time.year == year)
            window = slice(max(steps[0] - HALO, 0), steps[-1] + 1 + HALO)
            pairs = [[cube[v].values[window, rows, cols] for v in FORCINGS] for cube in cubes]
            carried = [of.get((name, year - 1), {}) for of in states]
            same = all(np.array_equal(*pair) for pair in zip(*pairs, strict=True))
            if not same or any(not np.array_equal(carried[0][key], carried[1][key]) for key in carried[0]):
                found.add((name, year))
    return found


def drop(cube: xr.Dataset, days: pd.DatetimeIndex, path: Path) -> None:
    """Deliver days of a cube, revised."""
    part = cube[list(FORCINGS)].sel(time=days).drop_encoding()
    part.attrs = {"status": "final", "date_created": "2023-01-05"}
    save_netcdf(part, path)


def change(cube: xr.Dataset, days: pd.DatetimeIndex, where: np.ndarray) -> xr.Dataset:
    """Return a cube with other weather on some days in some cells, (y, x)."""
    other = cube.copy(deep=True)
    steps = cube.indexes["time"].get_indexer(days)
    for name, by in zip(FORCINGS, (2.0, 5.0, 30.0), strict=True):
        other[name].values[steps[0] : steps[-1] + 1, where] += np.float32(by)
    return other


# in summer, at the end of a year, at its beginning, and in the February after a leap year, which shares a chunk with it
WEEKS = {"2020-06-10": [2020], "2020-12-25": [2020, 2021], "2021-01-02": [2020, 2021], "2021-02-10": [2021]}


@pytest.mark.parametrize("weeks", [["2020-12-25"], pytest.param(list(WEEKS), marks=pytest.mark.slow)])
def test_a_week_of_one_state_is_computed_again_where_it_must_be(tools, tmp_path, weeks, capsys):
    days = len(pd.date_range(FIRST, LAST))
    cube = small_cube("daily", SHAPE, FIRST, days, 4, CENTRE, RESOLUTION).astype("float32")
    longitude, latitude = grid_of(cube).lonlat()
    iowa = state_of(latitude, longitude) == "IA"
    gaps = {"temperature_2m": GapRule(HALO), "shortwave": GapRule(2)}  # no seasons, which never forget a day
    model = _write_model(tools, tmp_path / "model", gaps)
    write_cube(cube, tmp_path / "base.zarr", (32, 32))
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    region = States(tmp_path / "region", model, incoming)
    region.refresh()
    tiles = {name: (tile.rows, tile.cols) for name, tile in region.archive.design.tiles.items()}
    touched = {name for name, (rows, cols) in tiles.items() if iowa[rows, cols].any()}
    assert touched == {"r0000c0000", "r0000c0032"}
    assert len(tiles) == 4
    told = []
    for week in weeks:
        dates = pd.date_range(week, periods=7)
        after, before, states = change(cube, dates, iowa), region.written(), region.handed_on()
        drop(after, dates, incoming / f"revised_{week}.nc")
        done = region.refresh()
        once = States(tmp_path / f"once-{week}", model, incoming)
        once.refresh()
        must = must_compute((cube, after), (states, once.handed_on()), tiles)
        computed = {unit for unit, when in region.written().items() if before[unit] != when}
        assert computed == must, week
        assert done.report["computed"]["units"] == len(must)
        assert {tile for tile, _ in must} == touched
        for year, maps in region.archive.years().items():
            for name, values in once.archive.years()[year].data_vars.items():
                np.testing.assert_array_equal(maps[name].values, values.values, err_msg=name)
        assert sorted({year for _, year in must}) == WEEKS[week]  # never to the end: the state agrees again before
        told.append(f"{week}: {len(must)} units of {WEEKS[week]}")
        cube = after
    with capsys.disabled():
        print(f"\ncomputed again of {len(tiles)} tiles and {len(YEARS)} years: {'; '.join(told)}")


def _write_model(tools: dict[str, Callable], path: Path, gaps: dict[str, GapRule]) -> Path:
    """Write a network that carries its state."""
    sites = small_cube("daily", (44, 57), FIRST, 400, 4, CENTRE)
    return tools["write_model"](path, sites, tools["spec_of"]("ct_gru", gaps=gaps))
