"""CarbonBench's own training, done here, beside what the published code makes of the same towers.

    python benchmarks/carbonbench_compat.py REFERENCE [--models lstm ct_lstm tam_rl] [--seeds 27] [--epochs 30]
    python benchmarks/carbonbench_compat.py --files FOLDER --split igbp|koppen [--features minimal] [--seeds 27 28]

REFERENCE is a folder with what the published code says of ``towers_daily.parquet`` in FLUXGRID_TEST_DATA:
``windows.parquet`` (its samples by fold) and ``cv_metrics.csv`` (its scores by site). Trains each network as published
on the same samples of its three folds, with the hyperparameters of the Koeppen split, and prints medians over sites of
R2 and the median over sites of ours less theirs. FOLDER holds CarbonBench's files: trains each network as published on
its training sites, by the published split, hyperparameters, epochs (100) and batch (2048), and prints medians over its
test sites beside the published ones, which are of ten seeds. ``--physical`` balances fluxes instead of z-scores,
``--no-balance`` nothing, which is how the published scores were made. Of several seeds the mean of what they say is
scored as well, and what each says is kept in the folder of results: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.splits import published_split
from fluxgrid.evaluation.metrics import score
from fluxgrid.evaluation.published import published_scores
from fluxgrid.models import Sizes, model_config
from fluxgrid.provenance import digest, digest_arrays
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


def fold_predictions(
    kind: str, records: list[Record], held: set[str], protocol: Protocol, split: str = "koppen"
) -> pd.DataFrame:
    """Return what a network says at the sites held out, one row per site and day, beside what was observed."""
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
        said = pd.DataFrame(predict(network, samples, place, moments), columns=list(FLUXES))
        seen = pd.DataFrame(
            samples.y[:, -1] * moments.y_std + moments.y_mean, columns=[f"{f} observed" for f in FLUXES]
        )
        rows.append(pd.concat([said, seen], axis=1).assign(site=record.site, first=samples.first))
    return pd.concat(rows, ignore_index=True)


def scores_of(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return R2 of each site and flux."""
    rows = []
    for site, part in predictions.groupby("site", sort=False):
        for flux in FLUXES:
            found = score(part[f"{flux} observed"].to_numpy(np.float64), part[flux].to_numpy(np.float64))
            rows.append({"site": site, "target": flux, "R2": found.r2})
    return pd.DataFrame(rows)


def by_seed(
    options: argparse.Namespace, kind: str, records: list[Record], parts: list[set[str]], split: str
) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """Yield the seeds of a network, their scores and minutes; with several, the mean of what they say as the last.

    Predictions are kept in the folder of results, so that a run which was stopped goes on.
    """
    every = []
    data = digest_arrays(
        {f"{r.site}.{k}": v for r in records for k, v in (("x", r.covariates.to_numpy()), ("y", r.targets))}
    )
    for seed in options.seeds:
        protocol, begun = protocol_of(options, seed), time.perf_counter()
        decides = [asdict(protocol), SETTINGS[split][kind], [sorted(held) for held in parts], data]
        path = options.out / f"{kind}-{split}-{seed}-{digest(repr(decides))[:12]}.parquet"
        if path.is_file():
            found = pd.read_parquet(path)
        else:
            found = pd.concat([fold_predictions(kind, records, held, protocol, split) for held in parts])
            found = found.reset_index(drop=True)
            options.out.mkdir(parents=True, exist_ok=True)
            found.to_parquet(path)
        every.append(found)
        yield str(seed), scores_of(found), (time.perf_counter() - begun) / 60
    if len(every) > 1:
        mean = every[0].copy()
        mean[list(FLUXES)] = sum(found[list(FLUXES)] for found in every) / len(every)
        yield f"mean of {len(every)}", scores_of(mean), 0.0


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
        for seed, found, minutes in by_seed(options, kind, records, list(folds.values()), "koppen"):
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
        for seed, found, minutes in by_seed(options, kind, records, [set(fold.test)], options.split):
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
