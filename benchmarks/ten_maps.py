"""Train each of the ten architectures briefly on monthly towers, and map the Midwest with all of them.

    export FLUXGRID_TEST_DATA=/folder/with/towers_monthly.parquet
    python benchmarks/ten_maps.py maps/ten [--epochs 8] [--year 2019] [--picture ten_maps.png]

It shows that every architecture makes a map of a real grid through the same command, how fast, and of what size its
fluxes are. It says nothing of which is right, after a few epochs on climate alone: `fluxgrid evaluate
ten_towers_monthly` scores them. Checkpoints and maps that stand in the folder are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.api import open_map
from fluxgrid.config import TrainConfig, UpscaleConfig, load_config
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.output.panels import GREY, Sheet, draw_bar, draw_map, new_picture, save_picture
from fluxgrid.output.ramps import flux_scale
from fluxgrid.workflows.train import train
from fluxgrid.workflows.upscale import upscale

GRID, MAPPING = "conus_monthly_covariates_025.nc", "conus_monthly_025"
COLUMNS = 5


@dataclass(frozen=True, eq=False)
class Made:
    """One map, and what it took."""

    name: str
    fluxes: xr.Dataset
    row: dict[str, float | str]


def make(name: str, config: TrainConfig, folder: Path, region: str, year: int) -> Made:
    """Train a model, unless its checkpoint stands, and map a year of a region with it."""
    checkpoint = folder / "checkpoints" / f"{name}-{config.fit.epochs}"
    begun = time.perf_counter()
    if not checkpoint.exists():
        train(config.model_copy(update={"out": str(checkpoint), "name": name}))
    trained = time.perf_counter() - begun
    values = {
        "region": region,
        "cube": str(Path(os.environ["FLUXGRID_TEST_DATA"]) / GRID),
        "mapping": MAPPING,
        "model": str(checkpoint),
        "start": f"{year}-01-01",
        "end": f"{year}-12-31",
        "out": str(folder / f"{region}-{year}-{checkpoint.name}"),
    }
    outcome = upscale(load_config(UpscaleConfig, None, values), "resume")
    fluxes = open_map(outcome.out).load()
    manifest = outcome.manifest or {}
    mode = str(fluxes.attrs.get("fluxgrid_window_mode", "-")).partition(":")[0]
    about = {"model": name, "mode": mode, "train s": trained, "map s": manifest["seconds"]}
    return Made(name, fluxes, {**about, "pixel-days/s": manifest["pixel_days_per_s"], **ranges(fluxes, year)})


def ranges(fluxes: xr.Dataset, year: int) -> dict[str, float]:
    """Return least and largest flux of all cells and months, and the mean NEE of July over the land of the region."""
    land = fluxes["cell_area"] * fluxes["region_land_area_fraction"]
    found = {
        f"{name} {word}": float(getattr(fluxes[name], word)())
        for name in ("gpp", "reco", "nee")
        for word in ("min", "max")
    }
    july = fluxes["nee"].sel(time=f"{year}-07-01")
    return {**found, "nee July": float(july.weighted(land.fillna(0)).mean())}


def draw(made: list[Made], region: str, year: int, epochs: int, path: Path) -> None:
    """Draw NEE of July of all models on one scale."""
    fields = [one.fluxes["nee"].sel(time=f"{year}-07-01").values for one in made]
    x, y = (made[0].fluxes[name].values for name in ("lon", "lat"))
    place = find_region(region)
    sheet, scale = Sheet(Grid.from_centres(x, y, "EPSG:4326"), place), flux_scale("nee", np.stack(fields))
    rows = -(-len(made) // COLUMNS)
    footer = (
        f"Networks trained for {epochs} epochs at most, trees until they stop improving, on monthly towers of "
        "FLUXNET2015 and their climate. Outlines of climate divisions, of which the grid is made, show; trees cut "
        "radiation and day length into bands of latitude. No cropland tower of the region, no vegetation index: not "
        "for cropland."
    )
    title = f"NEE of July {year}, {place.title}, by ten architectures"
    about = (
        "From monthly towers and climate; g C m$^{-2}$ d$^{-1}$, negative: uptake by land; numbers: means of the region"
    )
    figure = new_picture(title, about, footer, 6.3, synthetic=False)
    width, height = 0.92 / COLUMNS, 0.66 / rows
    for number, (one, values) in enumerate(zip(made, fields, strict=True)):
        row, column = divmod(number, COLUMNS)
        box = (0.04 + width * column, 0.17 + height * (rows - 1 - row), 0.95 * width, 0.86 * height)
        image = draw_map(figure, box, values, scale, sheet, f"{one.name}: {one.row['nee July']:.1f}")
    draw_bar(figure, (0.35, 0.14, 0.3, 0.014), image, scale)
    figure.text(0.34, 0.137, "NEE", size=10, color=GREY, ha="right")
    save_picture(figure, path, title)


def main() -> None:
    """Train, map, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoints and maps go here")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--year", type=int, default=2019)
    parser.add_argument("--region", default="midwest")
    parser.add_argument("--picture", type=Path, help="PNG to make [FOLDER/ten_maps.png]")
    options = parser.parse_args()
    if "FLUXGRID_TEST_DATA" not in os.environ:
        parser.error("FLUXGRID_TEST_DATA does not say where the towers and the grid are")
    config = load_config(TrainConfig, "ten_towers_monthly", [f"fit.epochs={options.epochs}"])
    made = []
    for name, entry in config.entries.items():
        made.append(make(name, entry, options.folder, options.region, options.year))
        print(f"{name}: trained and mapped", file=sys.stderr, flush=True)
    print(pd.DataFrame([one.row for one in made]).to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    picture = options.picture or options.folder / "ten_maps.png"
    draw(made, options.region, options.year, options.epochs, picture)
    print(picture)


if __name__ == "__main__":
    main()
