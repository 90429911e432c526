"""How much of the process model KGML-ag holds after step 2, beside the most that its inputs can explain.

    python benchmarks/kgml_emulator.py STAGES [--seeds 5] [--fields 60] [--draws 12] [--out DIR]

STAGES is the folder that `fluxgrid train train_default stages=STAGES` keeps: seed 0 is the network of that training,
the others are trained here where STAGES does not hold them yet (steps 1 and 2, about 25 minutes each on a core), from
other first weights, in another order and with other years held out. Scored at fields that no seed trained on, in 2019
to 2021: the means over seeds with 95 % t intervals, and bootstrap intervals over places of the seeds' mean error. What
a place has that no input shows - how fast its soil carbon turns over, how much residue is taken off, and how that
changes from year to year - is drawn from other places of the world; the mean over all draws is the best that anybody
could say who knows weather, soil, crop and GPP, and its R2 is the ceiling. Ra and Rh are cut at 0, as maps do. Prints
Markdown, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.evaluation.paired import mean_interval
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.simulation import WORLD_VERSION, process, world_digest
from fluxgrid.training.kgml.cover import hold_year
from fluxgrid.training.kgml.fields import CropFields, grow_fields
from fluxgrid.training.kgml.recipe import MIDWEST, Recipe, train_mosaic
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.stages import Stages
from fluxgrid.training.kgml.walk import emulate

SPIN_UP, YEARS = 2009, (2019, 2021)
HIDDEN_FROM_INPUTS = ("turnover", "removal")
"""Fields that leave no trace in GPP; decay is their like from year to year."""


@contextmanager
def soil_of_elsewhere(north: float, east: float) -> Iterator[None]:
    """Give places the hidden soil and residue of others, so many degrees away; all else stays."""
    fields, years = process.hidden_fields, process.hidden_year

    def fields_elsewhere(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
        own, other = fields(latitude, longitude), fields(latitude + north, longitude + east)
        return own | {name: other[name] for name in HIDDEN_FROM_INPUTS}

    def year_elsewhere(latitude: np.ndarray, longitude: np.ndarray, year: int) -> dict[str, np.ndarray]:
        own, other = years(latitude, longitude, year), years(latitude + north, longitude + east, year)
        return own | {"decay": other["decay"]}

    process.hidden_fields, process.hidden_year = fields_elsewhere, year_elsewhere
    try:
        yield
    finally:
        process.hidden_fields, process.hidden_year = fields, years


def ceiling_of(latitude: np.ndarray, longitude: np.ndarray, draws: int) -> dict[str, np.ndarray]:
    """Return the mean Ra and Rh over draws of what the inputs do not show, (n, T)."""
    random = np.random.default_rng(17)
    total: dict[str, np.ndarray] = {}
    for _ in range(draws):
        angle, away = random.uniform(0, 2 * np.pi), random.uniform(15.0, 60.0)
        with soil_of_elsewhere(away * np.sin(angle), away * np.cos(angle)):
            grown = grow_fields(latitude, longitude, SPIN_UP, YEARS[1])
        for name in ("ra", "rh"):
            total[name] = total.get(name, 0.0) + getattr(grown, name) / draws
    return total


def skill(
    guess: dict[str, np.ndarray], fields: CropFields, days: slice, draws: float = np.inf
) -> dict[str, np.ndarray]:
    """Return squared errors and squared deviations of each place, (2, places), by flux; NEE = Ra + Rh - GPP.

    The error of a mean of n draws of the truth is n + 1 nths of that of the mean of all: given n it is made less so.
    """
    gpp, kept = fields.features[..., GPP], 1.0 / (1.0 + 1.0 / draws)
    ra, rh = (np.maximum(guess[name], 0.0) for name in ("ra", "rh"))
    nee = ra + rh - gpp
    pairs = {
        "ra": (ra, fields.ra),
        "rh": (rh, fields.rh),
        "nee": (nee, fields.nee),
        "nee (the network's own)": (guess.get("nee", nee), fields.nee),
    }
    found = {}
    for name, (said, true) in pairs.items():
        said, true = said[:, days], true[:, days]
        each = np.stack([kept * ((said - true) ** 2).mean(axis=1), ((true - true.mean()) ** 2).mean(axis=1)])
        # both rotations of a place have one weather and one soil: they are one draw
        found[name] = np.stack([np.bincount(fields.place, row) for row in each])
    return found


def r2_interval(sums: np.ndarray, of: np.ndarray | None = None) -> tuple[float, float, float]:
    """Return R2, or its share of another's, with the bootstrap interval over places."""
    random = np.random.default_rng(0)

    def one(rows: np.ndarray) -> float:
        r2 = 1 - sums[0, rows].sum() / sums[1, rows].sum()
        return r2 if of is None else r2 / (1 - of[0, rows].sum() / of[1, rows].sum())

    n = sums.shape[1]
    drawn = [one(random.integers(0, n, n)) for _ in range(2000)]
    return (float(one(np.arange(n))), *(float(v) for v in np.percentile(drawn, [2.5, 97.5])))


def unseen(recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places that the training fields do not stand at."""
    trained = set(zip(*draw_cells(recipe.states, recipe.fields, recipe.seed, recipe.least_crop), strict=True))
    drawn = zip(*draw_cells(MIDWEST, 2 * count, 777, recipe.least_crop), strict=True)
    latitude, longitude = zip(*[place for place in drawn if place not in trained][:count], strict=True)
    return np.array(latitude), np.array(longitude)


def train(stages: Path, seed: int) -> CropMosaic:
    """Return the model after step 2, taken from its stages where they are."""
    recipe = Recipe()
    if seed:  # what is no crop is not scored
        cover = replace(recipe.cover, epochs=0)
        recipe = replace(recipe, cover=cover, steps=replace(recipe.steps, seed=seed))
    kept = Stages(stages, lambda line: print(f"seed {seed}: {line}", file=sys.stderr, flush=True))
    return train_mosaic(recipe, None, kept, last_step=2).mosaic.eval()


def guess_of(mosaic: CropMosaic, fields: CropFields) -> dict[str, np.ndarray]:
    """Return what the KGML-ag of a model says of fields, with the year that maps give it."""
    return emulate(mosaic.crop, replace(fields, features=hold_year(fields.features, mosaic)))


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fields", type=int, default=60)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("out/kgml_emulator"))
    options = parser.parse_args()
    trained = [train(options.stages, seed) for seed in range(options.seeds)]
    latitude, longitude = unseen(Recipe(), options.fields)
    fields = grow_fields(latitude, longitude, SPIN_UP, YEARS[1])
    days, years = slice(fields.days(YEARS[0]).start, None), fields.years >= YEARS[0]
    best = skill(ceiling_of(latitude, longitude, options.draws), fields, days, options.draws)
    guesses = [guess_of(mosaic, fields) for mosaic in trained]
    found = [skill(guess, fields, days) for guess in guesses]
    calendar = [skill(emulate(mosaic.crop, fields), fields, days)["rh"] for mosaic in trained]
    title = (
        f"World {WORLD_VERSION}, digest {world_digest()}: {len(fields)} fields at {options.fields} places, "
        f"{YEARS[0]}-{YEARS[1]}; {options.seeds} trained networks; ceiling from {options.draws} draws"
    )
    lines = ["| flux | R2 | ceiling | share of the ceiling [t, seeds] | [bootstrap, places] |", "|---|---|---|---|---|"]
    rows = {}
    for name in found[0]:
        top = best[name]
        r2, shares = (np.array([r2_interval(one[name], of)[0] for one in found]) for of in (None, top))
        seeds, places = mean_interval(shares), r2_interval(np.mean([one[name] for one in found], axis=0), top)
        ceiling = r2_interval(top)[0]
        lines.append(
            f"| {name} | {r2.mean():.3f} | {ceiling:.3f} | {seeds.mean:.3f} [{seeds.low:.3f}, {seeds.high:.3f}] | "
            f"[{places[1]:.3f}, {places[2]:.3f}] |"
        )
        rows[name] = {"r2": r2.tolist(), "ceiling": ceiling, "share": shares.tolist(), "places": places}
    share = mean_interval([r2_interval(one, best["rh"])[0] for one in calendar])
    lines.append(f"\nShare of rh with the calendar's year: {share.mean:.3f} [{share.low:.3f}, {share.high:.3f}]\n")
    true = fields.grain[:, years]
    errors = [((guess["yield"][:, years] - true) ** 2).mean() for guess in guesses]
    r2 = mean_interval([1 - error / true.var() for error in errors])
    lines.append(f"| yield | {r2.mean:.3f} [{r2.low:.3f}, {r2.high:.3f}] | RMSE {np.mean(np.sqrt(errors)):.0f} g m-2 |")
    print(f"{title}\n\n" + "\n".join(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kgml_emulator.json").write_text(json.dumps({"title": title, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
