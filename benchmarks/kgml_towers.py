"""Step 5 of KGML-ag at towers nobody trained on: beside the model without towers, and one of the towers alone.

    python benchmarks/kgml_towers.py STAGES [--seeds 5] [--alone-epochs 60] [--out DIR]

STAGES is the folder that `fluxgrid train train_default stages=STAGES` keeps. Each seed draws another network of virtual
towers in the reference world; those on corn and soybean are split by clusters into two halves, and each half is
predicted by models trained on the other up to 2018. Scored in 2019 to 2021, years that no part of any model has seen,
against the true fluxes of the footprints and against the noisy observations. *Global* is the network after step 4,
which has seen no tower; *after step 5* is tuned to the training towers; *towers alone* has the same structure, starts
from fresh weights and learns RECO by an optimiser step for every year of every pass; a year of each tower held back
chooses its pass. GPP is what a map would read there, so that the error of NEE is that of RECO and of the GPP.
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
from fluxgrid.data.sites import Sites
from fluxgrid.evaluation.paired import mean_interval, paired_difference
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.simulation import WORLD_VERSION, tower_truth, virtual_sites, world_digest
from fluxgrid.training.kgml.cover import with_driver
from fluxgrid.training.kgml.fields import grow_fields
from fluxgrid.training.kgml.recipe import Recipe, crop_towers, train_mosaic
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.stages import Stages
from fluxgrid.training.kgml.towers import TowerYears, fit_towers
from fluxgrid.training.kgml.walk import make_track

NETWORK = {"n": 60, "start": "2004-01-01", "end": "2021-12-31"}
TRAINED_TO, SCORED_FROM = "2018-12-31", 2019
FLUXES = ("reco", "nee")


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


def scored_of(towers: TowerYears, sites: Sites, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return true and observed fluxes of the scored years, (n, T); NaN on all other days."""
    known = tower_truth(**NETWORK, seed=seed)
    found = {kind: {flux: np.full(towers.reco.shape, np.nan) for flux in FLUXES} for kind in ("truth", "observed")}
    for row, name in enumerate(towers.ids):
        for kind, table in (("truth", known[name]), ("observed", sites[name].series)):
            days = pd.DatetimeIndex(table.index)
            lived = days.year.value_counts()
            whole = days.year.isin(lived[lived >= KGML_YEAR_DAYS].index) & (days.day_of_year <= KGML_YEAR_DAYS)
            for flux in FLUXES:
                values = np.where(days.year >= SCORED_FROM, table[flux], np.nan)[whole]
                found[kind][flux][row, : len(values)] = values
    return found


def up_to(sites: Sites, last: str) -> Sites:
    """Return sites whose records end on a day; those that begin later are left out."""
    cut = (replace(site, series=site.series.loc[:last]) for site in sites)
    return replace(sites, sites=tuple(site for site in cut if len(site.series)))


def train_alone(like: KGMLAg, towers: TowerYears, seed: int, epochs: int) -> KGMLAg:
    """Return a network trained from fresh weights on the RECO of towers, with the pass that held-out years choose."""
    torch.manual_seed(seed)
    network = KGMLAg(like.hidden, 0.0)
    for name in ("features", "outputs", "residue"):
        getattr(network, name).copy_(getattr(like, name))
    z = torch.nan_to_num(network.scale(torch.from_numpy(towers.features)))
    reco, held = torch.from_numpy(towers.reco), torch.zeros(len(towers), dtype=torch.long)
    seen = torch.stack([torch.isfinite(reco[:, days]).any(dim=1) for days in towers.years], dim=1)
    random = np.random.default_rng(seed)
    for row, lived in enumerate(seen):
        years = lived.nonzero().flatten()
        held[row] = years[random.integers(len(years))] if len(years) > 1 else -1
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best = np.inf, copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        left = []
        state = z.new_zeros(len(z), network.state_size)
        for number, days in enumerate(towers.years):
            year = network(z[:, days], state)
            state = year.state.detach()
            said = -network.physical("ra", year.ra) - network.physical("rh", year.rh)
            known = torch.isfinite(reco[:, days])
            error = torch.where(known, said - torch.nan_to_num(reco[:, days]), 0.0).square()
            own = (known & (held != number)[:, None]).float()
            left.append((error.detach() * (known.float() - own)).sum() / (known.float() - own).sum().clamp_min(1.0))
            if own.any():
                optimiser.zero_grad()
                ((error * own).sum() / own.sum()).backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
        schedule.step()
        if (value := float(torch.stack(left).mean())) < best[0]:
            best = value, copy.deepcopy(network.state_dict())
    network.load_state_dict(best[1])
    return network.eval()


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
    parser.add_argument("--alone-epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("out/kgml_towers"))
    options = parser.parse_args()
    recipe = Recipe()
    trained = train_mosaic(recipe, None, Stages(options.stages, print), last_step=4)
    mosaic, scaler, steps = trained.mosaic, trained.scaler, recipe.steps
    few = grow_fields(*draw_cells(recipe.states, 4, 99, recipe.least_crop), 2015, 2018)
    reference = make_track(with_driver(few, mosaic, scaler), mosaic.crop, 2, 0)
    rows = []
    for seed in range(1, options.seeds + 1):
        sites = virtual_sites(**NETWORK, seed=seed)
        every, early = (crop_towers(s, mosaic, scaler, steps) for s in (sites, up_to(sites, TRAINED_TO)))
        group = {site.id: site.group for site in sites}
        clusters = sorted({group[name] for name in every.ids})
        side_of = {name: clusters.index(group[name]) % 2 for name in every.ids}
        scored = scored_of(every, sites, seed)
        alive = {name: np.isfinite(scored["truth"]["nee"][row]).any() for row, name in enumerate(every.ids)}
        for side in (0, 1):
            train = np.array([i for i, name in enumerate(early.ids) if side_of.get(name, side) != side])
            test = np.array([i for i, name in enumerate(every.ids) if side_of[name] == side and alive[name]])
            if not len(train) or not len(test):
                continue
            tuned = copy.deepcopy(mosaic.crop)
            fit_towers(tuned, early.select(train), reference, replace(steps, seed=seed))
            alone = train_alone(mosaic.crop, early.select(train), seed, options.alone_epochs)
            for arm, network in (("global", mosaic.crop), ("after step 5", tuned), ("towers alone", alone)):
                said = predict(network, every.select(test))
                for flux in FLUXES:
                    for against, fluxes in scored.items():
                        known = fluxes[flux][test]
                        skill, bias = r2_of(said[flux], known), np.nanmean(said[flux] - known, axis=1)
                        for name, r2, off in zip(test, skill, bias, strict=True):
                            row = {"seed": seed, "tower": every.ids[name], "arm": arm, "flux": flux, "against": against}
                            rows.append({**row, "r2": float(r2), "bias": float(off)})
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
        "| model | flux | median R2 against the truth [95 %] | against observations | bias to the truth | "
        "after step 5 - this [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    table = table[np.isfinite(table["r2"])]  # a tower may have no observation in the scored years
    medians = table.groupby(["against", "flux", "arm", "seed"])["r2"].median()
    biases = table[table["against"] == "truth"].groupby(["flux", "arm"])["bias"].mean()
    for flux in FLUXES:
        best = medians["truth", flux, "after step 5"]
        for arm in ("global", "after step 5", "towers alone"):
            own = medians["truth", flux, arm]
            true, seen = mean_interval(own), mean_interval(medians["observed", flux, arm])
            gap = paired_difference(best.to_numpy(), own.to_numpy())
            gain = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if arm != "after step 5" else ""
            skill = f"{true.mean:.3f} [{true.low:.3f}, {true.high:.3f}] | {seen.mean:.3f}"
            off = f"{biases[flux, arm]:+.2f}"
            lines.append(f"| {arm} | {flux.upper()} | {skill} | {off} | {gain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
