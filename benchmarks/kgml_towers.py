"""Step 5 of KGML-ag at towers nobody trained on: beside the model without towers, and one of the towers alone.

    python benchmarks/kgml_towers.py STAGES [--seeds 5] [--epochs 30] [--alone-epochs 60] [--out DIR]

STAGES is the folder that `fluxgrid train train_default stages=STAGES` keeps. Each seed draws another network of virtual
towers in the reference world; those on corn and soybean are split by clusters into two halves, and each half is
predicted by models trained on the other. *Global* is the network after step 4, which has seen no tower; *after step 5*
is tuned to the training towers; *towers alone* has the same structure and starts from fresh weights. GPP is what a map
would read there. Scored against the true fluxes of the footprints, and against the noisy observations.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.data.kgml import KGML_YEAR_DAYS
from fluxgrid.evaluation.paired import mean_interval, paired_difference
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.simulation import WORLD_VERSION, tower_truth, virtual_sites, world_digest
from fluxgrid.training.kgml.cover import with_driver
from fluxgrid.training.kgml.fields import grow_fields
from fluxgrid.training.kgml.recipe import Recipe, crop_towers, train_mosaic
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.settings import StepSettings
from fluxgrid.training.kgml.stages import Stages
from fluxgrid.training.kgml.towers import TowerYears, fit_towers
from fluxgrid.training.kgml.walk import make_track

NETWORK = {"n": 60, "start": "2004-01-01", "end": "2018-12-31"}


@torch.no_grad()
def predict(network: KGMLAg, towers: TowerYears) -> dict[str, np.ndarray]:
    """Return RECO and NEE = RECO - GPP at towers, (n, T), g m-2 d-1."""
    network.eval()
    z = torch.nan_to_num(network.scale(torch.from_numpy(towers.features)))
    state = z.new_zeros(len(z), network.state_size)
    for days in towers.years[:2]:
        state = network(z[:, days], state).state
    rows = []
    for days in towers.years:
        year = network(z[:, days], state)
        state = year.state
        rows.append(sum(torch.relu(-network.physical(name, getattr(year, name))) for name in ("ra", "rh")))
    reco = torch.cat(rows, dim=1).numpy()
    return {"reco": reco, "nee": reco - towers.features[..., GPP]}


def truth_of(towers: TowerYears, seed: int) -> dict[str, np.ndarray]:
    """Return the true fluxes of the same days, NaN after a record's end."""
    known = tower_truth(**NETWORK, seed=seed)
    found = {name: np.full(towers.reco.shape, np.nan) for name in ("reco", "nee")}
    for row, name in enumerate(towers.ids):
        table = known[name]
        days = pd.DatetimeIndex(table.index)
        kept = table[days.day_of_year <= KGML_YEAR_DAYS]
        for flux in found:
            found[flux][row, : len(kept)] = kept[flux].to_numpy()
    return found


def r2_of(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return R2 of each tower, (n,)."""
    seen = np.isfinite(truth)
    left = np.where(seen, guess - truth, 0.0)
    mean = np.nanmean(truth, axis=1, keepdims=True)
    return 1 - (left**2).sum(axis=1) / np.where(seen, (truth - mean) ** 2, 0.0).sum(axis=1)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--alone-epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("out/kgml_towers"))
    options = parser.parse_args()
    recipe = Recipe()
    trained = train_mosaic(recipe, None, Stages(options.stages, print), last_step=4)
    mosaic, scaler = trained.mosaic, trained.scaler
    steps = replace(recipe.steps, towers=replace(recipe.steps.towers, epochs=options.epochs))
    alone = StepSettings(options.alone_epochs, options.alone_epochs, 5e-3, 1000, "cosine", check=5)
    few = grow_fields(*draw_cells(recipe.states, 4, 99, recipe.least_crop), 2015, 2018)
    reference = make_track(with_driver(few, mosaic, scaler), mosaic.crop, 2, 0)
    rows = []
    for seed in range(1, options.seeds + 1):
        sites = virtual_sites(**NETWORK, seed=seed)
        towers = crop_towers(sites, mosaic, scaler, steps)
        group = {site.id: site.group for site in sites}
        clusters = sorted({group[name] for name in towers.ids})
        half = np.array([clusters.index(group[name]) % 2 for name in towers.ids])
        truth = truth_of(towers, seed)
        for side in (0, 1):
            train, test = np.flatnonzero(half != side), np.flatnonzero(half == side)
            if not len(train) or not len(test):
                continue
            tuned, fresh = copy.deepcopy(mosaic.crop), KGMLAg(mosaic.crop.hidden, 0.0)
            fit_towers(tuned, towers.select(train), reference, replace(steps, seed=seed))
            torch.manual_seed(seed)
            fresh = KGMLAg(mosaic.crop.hidden, 0.0)
            for name in ("features", "outputs", "residue"):
                getattr(fresh, name).copy_(getattr(mosaic.crop, name))
            fit_towers(
                fresh, towers.select(train), reference, replace(steps, towers=alone, seed=seed), from_scratch=True
            )
            for arm, network in (("global", mosaic.crop), ("after step 5", tuned), ("towers alone", fresh)):
                said = predict(network, towers.select(test))
                for flux in ("reco", "nee"):
                    seen = {"truth": truth[flux][test], "observed": getattr(towers, flux)[test]}
                    for against, values in seen.items():
                        for name, r2 in zip(test, r2_of(said[flux], values), strict=True):
                            row = {"seed": seed, "tower": towers.ids[name], "arm": arm, "flux": flux}
                            rows.append({**row, "against": against, "r2": float(r2)})
            print(f"seed {seed}, half {side}: {len(train)} towers train, {len(test)} score", flush=True)
    table = pd.DataFrame(rows)
    print(text_of(table))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kgml_towers.json").write_text(table.to_json(orient="records", indent=1))


def text_of(table: pd.DataFrame) -> str:
    """Return Markdown: the median over towers of each seed, its mean over seeds, and paired differences."""
    lines = [
        f"World {WORLD_VERSION}, digest {world_digest()}: {table['seed'].nunique()} networks of towers, "
        f"{table[['seed', 'tower']].drop_duplicates().shape[0]} towers scored",
        "",
        "| model | flux | median R2 against the truth [95 %] | against observations | after step 5 - this [95 %] |",
        "|---|---|---|---|---|",
    ]
    medians = table.groupby(["against", "flux", "arm", "seed"])["r2"].median()
    for flux in ("reco", "nee"):
        best = medians["truth", flux, "after step 5"]
        for arm in ("global", "after step 5", "towers alone"):
            own = medians["truth", flux, arm]
            true, seen = mean_interval(own), mean_interval(medians["observed", flux, arm])
            gap = paired_difference(best.to_numpy(), own.to_numpy())
            gain = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if arm != "after step 5" else ""
            skill = f"{true.mean:.3f} [{true.low:.3f}, {true.high:.3f}] | {seen.mean:.3f}"
            lines.append(f"| {arm} | {flux.upper()} | {skill} | {gain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
