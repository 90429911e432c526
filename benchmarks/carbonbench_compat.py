"""CarbonBench's own training, done here, beside what the published code makes of the same towers.

    python benchmarks/carbonbench_compat.py REFERENCE [--models lstm ct_lstm tam_rl] [--seeds 27] [--epochs 30]
    python benchmarks/carbonbench_compat.py --files FOLDER --split igbp|koppen [--features minimal] [--seeds 27 28]

REFERENCE is a folder with what the published code says of ``towers_daily.parquet`` in FLUXGRID_TEST_DATA:
``windows.parquet`` (its samples by fold) and ``cv_metrics.csv`` (its scores by site). Trains each network as published
on the same samples of its three folds, with the hyperparameters of the Koeppen split, and prints medians over sites of
R2 and the median over sites of ours less theirs. FOLDER holds CarbonBench's files: trains each network as published on
its training sites, by the published split, hyperparameters, epochs (100) and batch (2048), and prints medians over its
test sites beside the published ones, which are of ten seeds. ``--physical`` balances fluxes instead of z-scores,
``--no-balance`` nothing, which is how the published scores were made.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.splits import published_split
from fluxgrid.evaluation.metrics import score
from fluxgrid.evaluation.published import published_scores
from fluxgrid.models import Sizes, model_config
from fluxgrid.training.balance import class_weights
from fluxgrid.training.carbonbench.protocol import Protocol, Trainset, predict, train
from fluxgrid.training.carbonbench.records import Record, carbonbench_records, tower_records
from fluxgrid.training.carbonbench.samples import fit_moments, scored_samples, training_rows, training_samples

_KOPPEN = {
    "lstm": ({"hidden": 128, "dropout": 0.3}, 1e-3),
    "ct_lstm": ({"hidden": 256, "dropout": 0.3, "layers": 2}, 5e-4),
    "gru": ({"hidden": 256, "dropout": 0.2, "layers": 2}, 5e-4),
    "ct_gru": ({"hidden": 128, "dropout": 0.3}, 5e-4),
    "transformer": ({"hidden": 128, "dropout": 0.2}, 5e-4),
    "patch_transformer": ({"hidden": 128, "dropout": 0.2, "as_published": True}, 5e-4),
    "tam_rl": ({"hidden": 128, "dropout": 0.3, "latent": 32}, 1e-4),
}
_IGBP = {
    "lstm": ({"hidden": 256, "dropout": 0.3}, 1e-3),
    "ct_lstm": ({"hidden": 128, "dropout": 0.2}, 5e-4),
    "gru": ({"hidden": 128, "dropout": 0.3}, 5e-4),
    "ct_gru": ({"hidden": 128, "dropout": 0.3}, 5e-4),
    "tam_rl": ({"hidden": 128, "dropout": 0.2, "latent": 64, "layers": 2}, 1e-4),
}
SETTINGS = {"koppen": _KOPPEN, "igbp": {**_KOPPEN, **_IGBP}}
"""Options and learning rate of each split."""
THEIRS = {"lstm": "LSTM", "ct_lstm": "CT-LSTM", "tam_rl": "TAM-RL"}
FLUXES = ("GPP", "RECO", "NEE")


def fold_scores(
    kind: str, records: list[Record], held: set[str], protocol: Protocol, split: str = "koppen"
) -> pd.DataFrame:
    """Return the scores at the sites held out, one row per site and flux."""
    inside = [record for record in records if record.site not in held]
    outside = [record for record in records if record.site in held]
    moments = fit_moments(inside)
    trained, checked = training_samples(inside, moments)
    days = [len(record.days[training_rows(record)]) for record in inside]
    by_igbp, by_koppen = (class_weights([getattr(r, k) for r in inside], days) for k in ("igbp", "koppen"))
    weights = torch.tensor([by_igbp[r.igbp] * by_koppen[r.koppen] for r in inside], dtype=torch.float32)
    places = torch.tensor(np.stack([r.place for r in inside]), dtype=torch.float32)
    options, rate = SETTINGS[split][kind]
    torch.manual_seed(protocol.seed)
    settings = {"head": "linear", "window_mode": "exact", **options}
    network = model_config(kind, settings).build(Sizes(trained.x.shape[2], places.shape[1], 3))
    train(network, Trainset(trained, checked, places, weights, moments), replace(protocol, learning_rate=rate))
    rows = []
    for record in outside:
        samples = scored_samples(record, moments)
        if not len(samples):
            continue
        place = torch.tensor(record.place[None], dtype=torch.float32)
        said = predict(network, samples, place, moments)
        seen = samples.y[:, -1] * moments.y_std + moments.y_mean
        for column, flux in enumerate(FLUXES):
            rows.append({"site": record.site, "target": flux, "R2": score(seen[:, column], said[:, column]).r2})
    return pd.DataFrame(rows)


def protocol_of(options: argparse.Namespace, seed: int) -> Protocol:
    """Return the settings of a run."""
    return Protocol(
        epochs=options.epochs or (100 if options.files else 30),
        batch=options.batch or (2048 if options.files else 256),
        seed=seed,
        physical=options.physical,
        balance=0.0 if options.no_balance else 0.1,
    )


def beside_reference(options: argparse.Namespace) -> pd.DataFrame:
    """Train on the towers that the published code was run on, and compare site by site."""
    data = Path(os.environ.get("FLUXGRID_TEST_DATA") or sys.exit("Set FLUXGRID_TEST_DATA to the folder with the data."))
    windows = pd.read_parquet(options.reference / "windows.parquet", columns=["fold", "split", "site"])
    theirs = pd.read_csv(options.reference / "cv_metrics.csv")
    records = tower_records(
        pd.read_parquet(data / "towers_daily.parquet"), sorted(windows["site"].unique()), {"US-xRN": "DBF"}
    )
    folds = {f: set(p["site"]) for f, p in windows[windows["split"] == "test"].groupby("fold")}
    print("| model | seed | flux | ours, median R2 | theirs | ours - theirs, median over sites | minutes |")
    print("|---|---|---|---|---|---|---|")
    tables = []
    for kind in options.models:
        for seed in options.seeds:
            protocol, begun = protocol_of(options, seed), time.perf_counter()
            found = pd.concat([fold_scores(kind, records, held, protocol) for held in folds.values()])
            minutes = (time.perf_counter() - begun) / 60
            tables.append(found.assign(model=kind, seed=seed))
            for flux in FLUXES:
                ours = found[found["target"] == flux].set_index("site")["R2"]
                rows = theirs[(theirs["model"] == THEIRS.get(kind)) & (theirs["target"] == flux)]
                other = rows.set_index("site")["R2"]
                beside = f"{other.median():.2f} | {(ours - other).median():+.2f}" if len(other) else " | "
                print(f"| {kind} | {seed} | {flux} | {ours.median():.2f} | {beside} | {minutes:.1f} |", flush=True)
    return pd.concat(tables)


def on_files(options: argparse.Namespace) -> pd.DataFrame:
    """Train on CarbonBench's files by its split, and print the published medians beside ours."""
    records = carbonbench_records(options.files, options.features)
    fold = published_split({record.site: getattr(record, options.split) for record in records}, options.split)
    print(f"{len(fold.train)} sites to train, {len(fold.test)} held out")
    print("| model | seed | flux | sites | ours, median R2 | published, ten seeds | minutes |")
    print("|---|---|---|---|---|---|---|")
    tables = []
    for kind in options.models:
        published = published_scores([kind], options.split, options.features).set_index("flux")["r2_q50"]
        for seed in options.seeds:
            begun = time.perf_counter()
            found = fold_scores(kind, records, set(fold.test), protocol_of(options, seed), options.split)
            minutes = (time.perf_counter() - begun) / 60
            tables.append(found.assign(model=kind, seed=seed))
            for flux in FLUXES:
                ours = found[found["target"] == flux]["R2"]
                medians = f"{ours.median():.2f} | {published.get(flux.lower(), float('nan')):.2f}"
                print(f"| {kind} | {seed} | {flux} | {len(ours)} | {medians} | {minutes:.1f} |", flush=True)
    return pd.concat(tables)


def main() -> None:
    """Train, score and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, nargs="?")
    parser.add_argument("--files", type=Path)
    parser.add_argument("--split", choices=list(SETTINGS), default="igbp")
    parser.add_argument("--features", choices=["minimal", "standard", "full"], default="minimal")
    parser.add_argument("--models", nargs="+", default=list(THEIRS), choices=list(_KOPPEN))
    parser.add_argument("--seeds", nargs="+", type=int, default=[27])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--physical", action="store_true")
    parser.add_argument("--no-balance", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/carbonbench_compat"))
    options = parser.parse_args()
    if (options.reference is None) == (options.files is None):
        parser.error("give either REFERENCE or --files FOLDER")
    scores = on_files(options) if options.files else beside_reference(options)
    options.out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(options.out / "scores.csv", index=False)


if __name__ == "__main__":
    main()
