"""Our way of training beside the published code's, on its folds, its days and the same towers.

    python benchmarks/carbonbench_defaults.py REFERENCE [--models ct_lstm tam_rl] [--members 5] [--compat SCORES.csv]

REFERENCE is a folder with what the published CarbonBench code says of ``towers_daily.parquet`` in FLUXGRID_TEST_DATA:
``windows.parquet`` (the days it scores, by fold) and ``cv_metrics.csv`` (its scores by site). Each model of
``configs/runs/towers_benchmark.yaml`` is trained on every tower that is in no place held out, and scored on the days
that the published code scores. Prints medians over sites, and every pair by site with the interval of a bootstrap over
sites. SCORES.csv is what ``carbonbench_compat.py`` left: the same training as published, here, over its seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.sites import Sites
from fluxgrid.evaluation.metrics import score
from fluxgrid.evaluation.site_pairs import compare_models
from fluxgrid.models import Checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.training.train import train_model, usable_sites
from fluxgrid.workflows.sites import model_spec, read_sites

FLUXES = ("gpp", "reco", "nee")
PUBLISHED = {"LSTM": "lstm", "CT-LSTM": "ct_lstm", "TAM-RL": "tam_rl", "XGBoost": "xgboost", "LightGBM": "lightgbm"}


def read(config: TrainConfig) -> Sites:
    """Return the towers that bring the inputs."""
    sites = read_sites(config)
    return usable_sites(sites, model_spec(config, sites))


@lru_cache(maxsize=1)
def _sites(config: str) -> Sites:
    """Return the towers of a configuration, read once in a process."""
    return read(TrainConfig.model_validate_json(config))


def carry_out(task: tuple[str, str, str, dict[str, pd.DatetimeIndex]]) -> pd.DataFrame:
    """Train one model without the places of one fold, and score it there on the days given by site."""
    name, base, text, days = task
    config, sites = TrainConfig.model_validate_json(text), _sites(base)
    held = {sites[site].group for site in days if site in sites.ids}
    train = sites.select([site.id for site in sites if site.group not in held])
    begun = time.perf_counter()
    trained = train_model(train, model_spec(config, sites), config.fit)
    domain = TrainingDomain.unknown(trained.spec.sizes.dynamic + trained.spec.sizes.static)
    predictor = Predictor(Checkpoint(Path(), trained.spec, trained.scaler, trained.model, domain, ""), block=1)
    rows = []
    for site in sites.select([site for site in days if site in sites.ids]):
        said = predict_site(predictor, site).reindex(days[site.id])
        seen = site.series.reindex(days[site.id])
        for flux in (flux for flux in FLUXES if flux in seen):
            found = score(seen[flux].to_numpy(np.float64), said[flux].to_numpy(np.float64))
            rows.append({"model": name, "flux": flux, "site": site.id, "n": found.n, "r2": found.r2})
    minutes = (time.perf_counter() - begun) / 60
    return pd.DataFrame(rows).assign(minutes=minutes / len(rows))


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, str, str, dict[str, pd.DatetimeIndex]]]:
    """Yield every model and fold."""
    windows = pd.read_parquet(options.reference / "windows.parquet")
    tested = windows[windows["split"] == "test"]
    config = load_config(TrainConfig, options.config, options.set)
    entries = config.entries
    for name in options.models:
        entry = entries[name]
        entry = entry.model_copy(update={"fit": replace(entry.fit, members=options.members, seed=options.seed)})
        for _, part in tested.groupby("fold"):
            ends = {str(site): pd.DatetimeIndex(rows["window_end"]) for site, rows in part.groupby("site")}
            yield name, config.model_dump_json(), entry.model_dump_json(), ends


def main() -> None:
    """Train, score and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--config", default="towers_benchmark")
    parser.add_argument("--models", nargs="+", default=["ct_lstm", "tam_rl"])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--compat", type=Path, help="scores.csv of carbonbench_compat.py")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the configuration, key=value")
    parser.add_argument("--out", type=Path, default=Path("out/carbonbench_defaults"))
    options = parser.parse_args()
    if not os.environ.get("FLUXGRID_TEST_DATA"):
        sys.exit("Set FLUXGRID_TEST_DATA to the folder with the data.")
    with ProcessPoolExecutor(
        options.jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        ours = pd.concat(pool.map(carry_out, tasks(options)), ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    ours.to_csv(options.out / "scores.csv", index=False)
    report(ours, published(options.reference), options.compat)


def published(reference: Path) -> pd.DataFrame:
    """Return the scores of the published code in the layout of ours."""
    theirs = pd.read_csv(reference / "cv_metrics.csv").rename(columns={"R2": "r2"})
    theirs["flux"] = theirs["target"].str.lower()
    theirs = theirs[theirs["model"].isin(PUBLISHED)]
    return theirs.assign(model="published " + theirs["model"])[["model", "flux", "site", "n", "r2"]]


def report(ours: pd.DataFrame, theirs: pd.DataFrame, compat: Path | None) -> None:
    """Print medians over sites, and the comparison by site with each rival."""
    rivals = [theirs]
    if compat is not None:
        seeds = pd.read_csv(compat).rename(columns={"R2": "r2"})
        seeds["flux"] = seeds["target"].str.lower()
        seeds["seed"] = seeds["seed"].astype(str)
        together = seeds["seed"].str.startswith("mean of")
        alone = seeds[~together].groupby(["model", "flux", "site"], as_index=False)["r2"].mean()
        rivals.append(alone.assign(model="as published, mean R2 of its seeds: " + alone["model"]))
        mean = seeds[together]
        rivals.append(mean.assign(model="as published, " + mean["seed"] + " seeds: " + mean["model"]))
    scores = pd.concat([ours, *rivals], ignore_index=True)
    medians = scores.pivot_table(index="model", columns="flux", values="r2", aggfunc="median", sort=False)
    print(medians[list(FLUXES)].round(3).to_string())
    print(f"minutes of a core: {ours.groupby('model')['minutes'].sum().round(1).to_dict()}")
    for name in ours["model"].unique():
        both = pd.concat([ours[ours["model"] == name], *rivals], ignore_index=True)
        reversed_ = compare_models(both, name)
        reversed_[["difference", "low", "high"]] = -reversed_[["difference", "high", "low"]].to_numpy()
        print(f"\n{name} less the model named, R2 by site: median difference with its 95 % interval")
        print(reversed_.rename(columns={"reference": name}).drop(columns="better").round(3).to_string(index=False))


if __name__ == "__main__":
    main()
