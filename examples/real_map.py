"""From real towers to a real map: train on monthly FLUXNET2015 towers, map one state on a 0.25 degree climate grid.

    export FLUXGRID_TEST_DATA=/folder/with/the/data
    python examples/real_map.py [FOLDER] [EPOCHS]

The full maps are made by `fluxgrid train train_towers_monthly`, `fluxgrid upscale midwest_monthly` and
`fluxgrid upscale conus_monthly`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

import fluxgrid
from fluxgrid.config import TrainConfig, UpscaleConfig, load_config
from fluxgrid.workflows.train import train
from fluxgrid.workflows.upscale import upscale


def main(folder: str = "maps/real", epochs: str = "80") -> None:
    """Train, map, and print the seasonal cycle."""
    checkpoint = Path(folder) / "model"
    overrides = [f"out={checkpoint}", f"fit.epochs={epochs}", "fit.tries=1"]
    print(train(load_config(TrainConfig, "train_towers_monthly", overrides)))

    config = load_config(
        UpscaleConfig,
        "midwest_monthly",
        ["region=iowa", f"model={checkpoint}", f"out={folder}/iowa", "start=2001-01-01", "end=2002-12-31"],
    )
    outcome = upscale(config)
    fluxes = fluxgrid.open_map(outcome.out)
    print(fluxes.attrs["title"])

    totals = pd.read_csv(outcome.out / "totals.csv", dtype=str)
    state = totals[(totals["level"] == "region") & (totals["period"].str.len() == 4)]
    print(state[["period", "flux", "total_TgC", "sum_g_m2"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:3])
