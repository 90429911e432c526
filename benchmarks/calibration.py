"""What calibrated heads are worth wall to wall: global model, state heads and neighbourhoods against the truth.

    python benchmarks/calibration.py [--model default] [--resolution 0.3] [--seeds 5] [--kinds adapter ...]
        [--places state neighbourhood]

Heads are fitted anew for each seed, which draws its own calibrated cells of the reference world (true fluxes of other
years); the global model is the same, so that global, state and neighbourhood are paired cell by cell. Scored on every
cell of a coarse grid over the twelve Midwest states, in years that no part of the model has seen. The row *own bias*
is what no head of other years can much surpass: the global model less its true mean error in each cell itself over the
calibrated years. Intervals are 95 %
t intervals over the seeds. ``lora`` and ``full`` take a pass of the backbone for each place, to fit and to score: ask
for them with ``--places state``. Prints Markdown and writes JSON; every table carries the digest of the world.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fluxgrid.config_kgml import HeadsConfig
from fluxgrid.data.inputs import Places as InputPlaces
from fluxgrid.data.inputs import design, prepare
from fluxgrid.evaluation.borders import border_step
from fluxgrid.evaluation.paired import mean_interval
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.geo.state_of import state_of
from fluxgrid.models import load_checkpoint
from fluxgrid.models.calibration import KINDS, ONE_PASS, Heads
from fluxgrid.models.network import Taps
from fluxgrid.prediction.blend import Blend, global_blend, neighbourhood_blend, state_blend
from fluxgrid.simulation import WORLD_VERSION, places_at, world_digest
from fluxgrid.simulation.covariates import simulate_places, true_fluxes_of
from fluxgrid.training.calibrate import CalibrationSettings, named
from fluxgrid.training.kgml.recipe import MIDWEST
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.workflows.calibrate import make_calibration

FLUXES = ("gpp", "reco", "nee")
CALIBRATED_YEARS = 2010, 2018


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of choosing heads."""

    name: str
    kind: str
    seed: int
    heads: Heads | None
    blend: Blend
    seconds: float = 0.0
    parameters: int = 0


class Sums:
    """Squared errors of days, and sums of years, of one arm."""

    def __init__(self, cells: int, years: int):
        self.squares = dict.fromkeys(FLUXES, 0.0)
        self.count = 0.0
        self.annual = {name: np.zeros((cells, years)) for name in FLUXES}


def map_cells(resolution: float) -> tuple[Grid, np.ndarray, np.ndarray, np.ndarray]:
    """Return the grid, the cells inside the Midwest, and their places."""
    region = find_region("midwest")
    grid = Grid.from_bounds(region.bounds, resolution)
    longitude, latitude = (axis.ravel() for axis in grid.lonlat())
    inside = np.flatnonzero(np.isin(state_of(latitude, longitude), MIDWEST))
    return grid, inside, latitude[inside], longitude[inside]


def climate_of(latitude: np.ndarray, longitude: np.ndarray, names: tuple[str, ...], first: int) -> np.ndarray:
    """Return means over the three years before the scored ones: normals of a cube that begins with them."""
    time_ = pd.date_range(f"{first}-01-01", f"{first + 2}-12-31", name="time")
    known = simulate_places(places_at(latitude, longitude), time_, names)
    return np.stack([known[name].mean(axis=0, dtype=np.float64) for name in names], axis=1)


def arms_of(checkpoint, options: argparse.Namespace, where, settings: CalibrationSettings, first: int):
    """Yield all arms: the global model once, then heads of every kind of place, kind of phi_s and seed."""
    latitude, longitude = where
    yield Arm("global", "none", 0, None, global_blend(len(latitude)))
    climate = None
    for seed in range(options.seeds):
        sites = world_cells(MIDWEST, options.cells, *CALIBRATED_YEARS, seed=100 + seed)
        for kind in options.kinds:
            for name in options.places:
                config = HeadsConfig(name=name, fit=replace(settings, kind=kind, seed=seed))
                made = make_calibration(checkpoint, sites, config, lambda line: print("  " + line, flush=True))
                places = made.calibration.places
                if name == "state":
                    blend = state_blend(places.positions_of(state_of(latitude, longitude)))
                else:
                    if climate is None:
                        climate = climate_of(latitude, longitude, places.climate_names, first)
                    blend = neighbourhood_blend(latitude, longitude, climate, places)
                heads = made.calibration.heads
                yield Arm(name, kind, seed, heads, blend, made.seconds, heads.per_place)


def years_of(checkpoint, latitude: np.ndarray, longitude: np.ndarray, first: int, last: int) -> Iterator[tuple]:
    """Yield what goes into the backbone, what comes out and the truth, year by year; no truth while it spins up."""
    spec, network = checkpoint.spec, checkpoint.model
    places = places_at(latitude, longitude)
    time_ = pd.date_range(f"{first - spec.spin_up_years}-01-01", f"{last}-12-31", name="time")
    known = simulate_places(places, time_, spec.inputs.names)
    truth = true_fluxes_of(places, time_[time_.year >= first])
    state = torch.zeros(len(latitude), network.state_size)
    for year in np.unique(time_.year):
        days = time_.year == year
        forcings = {name: known[name][days] for name in spec.inputs.forcings}
        statics = {name: known[name] for name in spec.inputs.static}
        block = InputPlaces(time_[days], "daily", places.latitude, forcings, statics)
        dynamic, static = design(prepare(block, spec.inputs, {})[0], spec.inputs, checkpoint.scaler)
        given = torch.from_numpy(dynamic), torch.from_numpy(static)
        taps = network.run(*given, state)
        state = taps.state
        rows = time_[time_.year >= first].year == year
        yield year - first, given, taps, {name: truth[name][rows].T for name in FLUXES if year >= first}


def said(arm: Arm, network, taps: Taps, rows: slice) -> torch.Tensor:
    """Return what an arm says of a chunk, (n, T, O)."""
    base = network.raw(taps.hidden)
    blend = arm.blend.select(np.arange(rows.start, rows.stop))
    fluxes = torch.from_numpy(blend.global_weight)[:, None, None] * network.finish(base, taps.context)
    for k in range(blend.places.shape[1] if arm.heads is not None else 0):
        weight = torch.from_numpy(blend.weights[:, k])
        if arm.heads is not None and bool((weight > 0).any()):
            raw = arm.heads.raw(taps.hidden, base, torch.from_numpy(blend.places[:, k]).long().clamp_min(0))
            fluxes = fluxes + weight[:, None, None] * network.finish(raw, taps.context)
    return fluxes


def said_by_passes(arm: Arm, network, given, taps: Taps, rows: slice, states: torch.Tensor) -> torch.Tensor:
    """Return what an arm says that has weights of its own in each place; its states (n, k, K) move on."""
    blend = arm.blend.select(np.arange(rows.start, rows.stop))
    fluxes = torch.from_numpy(blend.global_weight)[:, None, None] * network.finish(
        network.raw(taps.hidden), taps.context
    )
    for k in range(blend.places.shape[1]):
        for place in np.unique(blend.places[blend.weights[:, k] > 0, k]):
            own = torch.from_numpy(np.flatnonzero((blend.places[:, k] == place) & (blend.weights[:, k] > 0)))
            said, states[own, k] = arm.heads.run_place(int(place), *(part[own] for part in given), states[own, k])
            fluxes[own] += torch.from_numpy(blend.weights[:, k])[own, None, None] * said
    return fluxes


@torch.no_grad()
def score(checkpoint, arms: list[Arm], where, years: tuple[int, int], chunk: int = 128):
    """Return the sums of every arm and the true sums of years."""
    latitude, longitude = where
    span = years[1] - years[0] + 1
    sums = [Sums(len(latitude), span) for _ in arms]
    true = {name: np.zeros((len(latitude), span)) for name in FLUXES}
    for start in range(0, len(latitude), chunk):
        rows = slice(start, min(start + chunk, len(latitude)))
        weight = np.cos(np.radians(latitude[rows]))[:, None]
        by_pass = [arm.heads is not None and arm.kind not in ONE_PASS for arm in arms]
        states = [torch.zeros(len(weight), arm.blend.places.shape[1], checkpoint.model.state_size) for arm in arms]
        for year, given, taps, truth in years_of(checkpoint, latitude[rows], longitude[rows], *years):
            for name, values in truth.items():
                true[name][rows, year] = values.sum(axis=1, dtype=np.float64)
            for arm, total, passes, state in zip(arms, sums, by_pass, states, strict=True):
                if passes:
                    fluxes = said_by_passes(arm, checkpoint.model, given, taps, rows, state)
                elif truth:
                    fluxes = said(arm, checkpoint.model, taps, rows)
                if not truth:
                    continue
                guess = named(fluxes, checkpoint.spec.fluxes)
                for name in FLUXES:
                    values = guess[name].numpy()
                    total.squares[name] += float((weight * (values - truth[name]) ** 2).sum())
                    total.annual[name][rows, year] = values.sum(axis=1, dtype=np.float64)
                total.count += float(weight.sum()) * next(iter(truth.values())).shape[1]
        print(f"  scored {rows.stop}/{len(latitude)} cells", flush=True)
    return sums, true


@torch.no_grad()
def own_bias(checkpoint, where, chunk: int = 128) -> dict[str, np.ndarray]:
    """Return the global model's mean error of annual sums in the calibrated years, of each cell, (n,)."""
    latitude, longitude = where
    span = CALIBRATED_YEARS[1] - CALIBRATED_YEARS[0] + 1
    error = {name: np.zeros((len(latitude), span)) for name in FLUXES}
    for start in range(0, len(latitude), chunk):
        rows = slice(start, min(start + chunk, len(latitude)))
        arm = Arm("global", "none", 0, None, global_blend(rows.stop - rows.start))
        for year, _, taps, truth in years_of(checkpoint, latitude[rows], longitude[rows], *CALIBRATED_YEARS):
            if truth:
                local = slice(0, rows.stop - rows.start)
                guess = named(said(arm, checkpoint.model, taps, local), checkpoint.spec.fluxes)
                for name, known in truth.items():
                    error[name][rows, year] = guess[name].numpy().sum(axis=1) - known.sum(axis=1, dtype=np.float64)
        print(f"  own bias of {rows.stop}/{len(latitude)} cells", flush=True)
    return {name: values.mean(axis=1) for name, values in error.items()}


def table_of(arms: list[Arm], sums: list[Sums], true, where, grid: Grid, inside: np.ndarray) -> pd.DataFrame:
    """Return a row for each arm: errors of days and of years, and the step at state borders."""
    latitude, longitude = where
    weight = np.cos(np.radians(latitude))[:, None]
    codes = state_of(latitude, longitude)
    state = np.full(grid.shape, -1).ravel()
    state[inside] = [MIDWEST.index(code) for code in codes]
    rows = []
    for arm, total in zip(arms, sums, strict=True):
        row = {
            "arm": arm.name,
            "kind": arm.kind,
            "seed": arm.seed,
            "seconds": arm.seconds,
            "parameters": arm.parameters,
        }
        for name in FLUXES:
            error = total.annual[name] - true[name]
            row[f"{name}_day"] = (total.squares[name] / total.count) ** 0.5
            row[f"{name}_year"] = float(((weight * error**2).sum() / weight.sum() / error.shape[1]) ** 0.5)
            row[f"{name}_step"] = step_of(total.annual[name], state, inside, grid)
            row[f"{name}_true_step"] = step_of(true[name], state, inside, grid)
        rows.append(row)
    return pd.DataFrame(rows)


def step_of(annual: np.ndarray, state: np.ndarray, inside: np.ndarray, grid: Grid) -> float:
    """Return the border step of the mean year."""
    field = np.full(grid.shape, np.nan).ravel()
    field[inside] = annual.mean(axis=1)
    return border_step(field.reshape(grid.shape), state.reshape(grid.shape))


def number(value: float) -> str:
    """Return three decimals, a dash for what is not known."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def text_of(table: pd.DataFrame) -> str:
    """Return Markdown: means over seeds, ratios to the global model with intervals, border steps."""
    whole = table[table["arm"] == "global"].iloc[0]
    lines = [
        "| heads | phi_s | flux | RMSE days | RMSE years | years / global [95 %] | border step | of the truth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (arm, kind), part in table.groupby(["arm", "kind"], sort=False):
        for name in FLUXES:
            ratio = part[f"{name}_year"] / whole[f"{name}_year"]
            mean = mean_interval(ratio.to_numpy())
            interval = f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]" if len(part) > 1 else f"{mean.mean:.2f}"
            lines.append(
                f"| {arm} | {kind} | {name.upper()} | {number(part[f'{name}_day'].mean())} | "
                f"{part[f'{name}_year'].mean():.1f} | {interval} | {part[f'{name}_step'].mean():.2f} | "
                f"{part[f'{name}_true_step'].mean():.2f} |"
            )
    cost = table[table["parameters"] > 0].groupby(["arm", "kind"], sort=False)[["seconds", "parameters"]].mean()
    lines += ["", "| heads | phi_s | numbers per place | seconds to calibrate |", "|---|---|---|---|"]
    lines += [f"| {a} | {k} | {row.parameters:.0f} | {row.seconds:.0f} |" for (a, k), row in cost.iterrows()]
    return "\n".join(lines)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--resolution", type=float, default=0.3)
    parser.add_argument("--years", type=int, nargs=2, default=(2019, 2020))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--kinds", nargs="+", default=["adapter"], choices=KINDS)
    parser.add_argument("--places", nargs="+", default=["state", "neighbourhood"], choices=["state", "neighbourhood"])
    parser.add_argument("--steps", type=int, default=CalibrationSettings().steps)
    parser.add_argument("--penalty", type=float, default=CalibrationSettings().penalty)
    parser.add_argument("--out", type=Path, default=Path("out/calibration"))
    options = parser.parse_args()
    begun = time.perf_counter()
    checkpoint = load_checkpoint(options.model)
    grid, inside, *where = map_cells(options.resolution)
    spin_up = checkpoint.spec.spin_up_years
    settings = CalibrationSettings(penalty=options.penalty, steps=options.steps, spin_up_years=spin_up)
    arms = list(arms_of(checkpoint, options, where, settings, options.years[0] - spin_up))
    sums, true = score(checkpoint, arms, where, tuple(options.years))
    bias, best = own_bias(checkpoint, where), Sums(len(inside), sums[0].annual["nee"].shape[1])
    best.count, best.squares = 1.0, dict.fromkeys(FLUXES, np.nan)
    best.annual = {name: sums[0].annual[name] - bias[name][:, None] for name in FLUXES}
    arms, sums = [*arms, replace(arms[0], name="own bias")], [*sums, best]
    table = table_of(arms, sums, true, where, grid, inside)
    title = (
        f"World {WORLD_VERSION}, digest {world_digest()}: {len(inside)} cells of {options.resolution} degrees, "
        f"{options.years[0]}-{options.years[1]}; {options.cells} calibrated cells of {CALIBRATED_YEARS[0]}-"
        f"{CALIBRATED_YEARS[1]}, {options.seeds} seeds; model {checkpoint.spec.name} {checkpoint.digest[:12]}; "
        f"{time.perf_counter() - begun:.0f} s"
    )
    print(f"\n{title}\n\n{text_of(table)}")
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"title": title, "rows": table.to_dict("records")}
    (options.out / "calibration.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
