"""KGML-ag in season: days from 26 October on hang on the whole year, and stay provisional until all of it is final."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.geo.region import find_region
from fluxgrid.models import load_checkpoint
from fluxgrid.netcdf import save_netcdf
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.output.flags import Quality
from fluxgrid.testing import write_cube
from fluxgrid.workflows.progress import silent
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed
from fluxgrid.workflows.world import build_synthetic, synthetic_template

REGION, RESOLUTION = "-94,41.5,-92.5,42.25", 0.25  # 3 x 6 cells of Iowa
FINAL = 298
"""Days of the year before the residue enters, 26 October."""
OPEN = {"missing_jump": 1.0, "totals_move": 10.0}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


@pytest.fixture(scope="module")
def kgml_world(tiny_kgml, tmp_path_factory) -> xr.Dataset:
    """The reference world as the model needs it, 2018 for spin-up and 2019."""
    spec, region = load_checkpoint(tiny_kgml).spec, find_region(REGION)
    template = synthetic_template(spec, region, RESOLUTION, pd.Timestamp("2019-01-01"), pd.Timestamp("2019-12-31"))
    out = tmp_path_factory.mktemp("kgml-world")
    build_synthetic(template, region, out, "new", silent)
    world = xr.open_zarr(out / "cube.zarr").load()
    for array in world.data_vars.values():
        array.attrs.pop("grid_mapping", None)
    return world


class Season:
    """A folder of deliveries of 2019, and the maps that grow from it."""

    def __init__(self, folder: Path, world: xr.Dataset, model: Path):
        self.folder, self.world, self.model = folder, world, model
        self.year = world[[name for name, v in world.data_vars.items() if v.ndim == 3]].sel(time="2019")
        (folder / "incoming").mkdir(parents=True)
        write_cube(world.sel(time="2018"), folder / "base.zarr")

    def drop(self, first: int, stop: int, status: str = "final") -> None:
        """Deliver days of the year, counted from 0."""
        days = self.year.isel(time=slice(first, stop)).drop_encoding()
        for array in days.data_vars.values():
            array.encoding["grid_mapping"] = "spatial_ref"
        days.attrs = {"status": status, "date_created": f"2020-01-0{1 + (status == 'final')}"}
        save_netcdf(days, self.folder / "incoming" / f"days_{first:03d}_{status}.nc")

    def refresh(self) -> Refreshed:
        source = {"location": str(self.folder / "incoming"), "base": str(self.folder / "base.zarr"), "settle": 0}
        values: dict[str, Any] = {"region": REGION, "model": str(self.model), "threads": 1, "start": "2019-01-01"}
        values |= {"out": str(self.folder / "out"), "max_missing": 1.0, "calibration": "neighbourhood"}
        values["refresh"] = {"source": source, "guards": OPEN}
        return refresh(load_config(UpscaleConfig, None, values))

    def maps(self) -> xr.Dataset:
        return Archive.open(self.folder / "out" / "archive").years()[2019].load()


def provisional(maps: xr.Dataset) -> list[int]:
    """Return the days that are marked; all cells with a value agree."""
    marks, known = (maps["quality_flag"].values & Quality.PROVISIONAL) != 0, np.isfinite(maps["nee"].values)
    assert (marks == marks.any((1, 2))[:, None, None] & known).all()
    return np.flatnonzero(marks.any((1, 2))).tolist()


def test_the_end_of_the_year_is_provisional_until_all_of_it_is_final(kgml_world, tiny_kgml, tmp_path):
    season = Season(tmp_path / "weekly", kgml_world, tiny_kgml)
    preliminary = list(range(100, 107))
    told, reached = [], 0
    for parcels, expected in (
        ([(0, 100, "final"), (100, 107, "provisional"), (107, 294, "final")], preliminary),
        ([(294, 301, "final")], [*preliminary, *range(FINAL, 301)]),  # the week the residue enters
        ([(301, 364, "final")], [*preliminary, *range(FINAL, 364)]),  # all but one day
        ([(364, 365, "final")], [*preliminary, *range(FINAL, 365)]),  # a week of spring is still preliminary
        ([(100, 107, "final")], []),
    ):
        for parcel in parcels:
            season.drop(*parcel)
        assert season.refresh().status == "published"
        told.append(season.maps())
        assert provisional(told[-1]) == expected
        reached = max(reached, parcels[-1][1])
        known = np.isfinite(told[-1]["nee"].values).all((1, 2))
        assert known.sum() == known[:reached].sum() == reached
    once = Season(tmp_path / "once", kgml_world, tiny_kgml)
    once.drop(0, 365)
    once.refresh()
    final = once.maps()
    for name, values in final.data_vars.items():
        np.testing.assert_array_equal(told[-1][name].values, values.values, err_msg=name, strict=True)
    assert np.isfinite(final["corn_yield"].values).all()
    for name in ("nee", "gpp", "reco", "ra", "rh"):  # what was not marked was final from its first day on
        for one in told:
            days = [day for day in range(FINAL) if np.isfinite(one[name].values[day]).all()]
            np.testing.assert_array_equal(one[name].values[days], final[name].values[days], err_msg=name)
    assert (told[2]["rh"].values[FINAL:364] != final["rh"].values[FINAL:364]).any()
    assert all(np.isnan(one["corn_yield"].values).all() for one in told[:3])
    assert np.isfinite(told[3]["corn_yield"].values).all()
