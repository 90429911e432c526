"""How hard the reference world is: the shipped models, simple rivals, and the best that its covariates allow.

    python benchmarks/reference_world.py [--resolution 0.5] [--years 2019 2020] [--ceiling-towers 400] [--out DIR]

All are scored against the truth of the same cells (every cell centre of a coarse grid over the twelve Midwest states;
the world is a function of place, so a coarse grid is a sample) in years after those of the towers. "Ceiling" is the
CT-GRU with its shipped inputs, trained on many cells without any error of observation: what is left is what the
covariates do not show. Prints Markdown and writes JSON; every table carries the digest of the world.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fluxgrid.config import TrainConfig, load_config
from fluxgrid.data.inputs import Places
from fluxgrid.data.sites import Site, Sites
from fluxgrid.evaluation.baselines import BASELINES, Climatology
from fluxgrid.evaluation.map_places import COVERS, MapPlaces, main_cover, map_places
from fluxgrid.evaluation.map_score import Cells, MapScore
from fluxgrid.evaluation.map_tables import score_table
from fluxgrid.evaluation.nearest import fit_nearest
from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.models import Checkpoint, ModelSpec, load_checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import BLOCK, Predictor
from fluxgrid.simulation import WORLD_VERSION, places_at, simulate, true_fluxes, virtual_sites, world_digest
from fluxgrid.simulation.covariates import FORCINGS, STATICS
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.train import train_model

FLUXES = ("gpp", "reco", "nee")
_AT_ONCE = 512


def cells_as_sites(latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex, names: set[str]) -> Sites:
    """Return cells as sites that observed nothing, so that every model predicts them as it predicts towers."""
    forcings, statics = ([name for name in all_names if name in names] for all_names in (FORCINGS, STATICS))
    sites = []
    for first in range(0, len(latitude), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        world = simulate(latitude[part], longitude[part], time, [*forcings, *statics])
        for i in range(len(latitude[part])):
            series = pd.DataFrame({name: world[name][:, i] for name in forcings}, index=time)
            facts = {name: float(world[name][i]) for name in statics}
            place = float(latitude[part][i]), float(longitude[part][i])
            sites.append(Site(f"cell-{first + i:05d}", *place, f"G{first + i}", facts, series))
    return Sites("daily", tuple(sites), "reference world", "synthetic")


def truth_at(latitude: np.ndarray, longitude: np.ndarray, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return the true fluxes, (time, n)."""
    parts = [
        true_fluxes(latitude[first : first + _AT_ONCE], longitude[first : first + _AT_ONCE], time)
        for first in range(0, len(latitude), _AT_ONCE)
    ]
    return {flux: np.concatenate([part[flux] for part in parts], axis=1) for flux in FLUXES}


def perfect_towers(spec: ModelSpec, count: int, years: int, last: int) -> Sites:
    """Return cells drawn at random with their true fluxes, each over some years of the towers' period."""
    random = np.random.default_rng(71)
    latitude, longitude = _random_cells(random, count)
    time = pd.date_range(f"{last - years + 1}-01-01", f"{last}-12-31", name="time")
    names = {*spec.inputs.dynamic, *spec.inputs.static, *spec.inputs.classes}
    sites, truth = cells_as_sites(latitude, longitude, time, names), truth_at(latitude, longitude, time)
    seen = [
        replace(site, series=site.series.assign(**{flux: truth[flux][:, i] for flux in FLUXES}))
        for i, site in enumerate(sites)
    ]
    return replace(sites, sites=tuple(seen))


def _random_cells(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centres of 0.1 degree cells of the Midwest drawn without repetition."""
    region = find_region("midwest")
    grid = Grid.from_bounds(region.bounds, 0.1)
    inside = np.flatnonzero(map_places(region, grid).weight > 0)
    longitude, latitude = (axis.ravel()[random.choice(inside, count, replace=False)] for axis in grid.lonlat())
    return latitude, longitude


def network(spec: ModelSpec, towers: Sites, fit: FitSettings) -> Predictor:
    """Return a model trained on towers."""
    trained = train_model(towers, spec, fit, lambda line: print(line, flush=True))
    width = spec.inputs.n_dynamic + len(spec.inputs.static_columns)
    nothing = TrainingDomain(np.zeros(width), np.ones(width), np.ones(width), np.zeros((1, width)), 1.0, np.inf)
    return Predictor(Checkpoint(Path(), spec, trained.scaler, trained.model, nothing, ""))


def map_fluxes(predictor: Predictor, cells: Sites, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return what a model says of all cells, (time, n): blocks of places, year by year, as a map is made."""
    blocks = [cells.sites[first : first + BLOCK] for first in range(0, len(cells), BLOCK)]
    parts = [_block_fluxes(predictor, block, time) for block in blocks]
    return {flux: np.concatenate([part[flux] for part in parts], axis=1) for flux in FLUXES}


def _block_fluxes(predictor: Predictor, block: Sequence[Site], time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return what a model says of a block, (time, n); years before are spin-up."""
    spec, index = predictor.checkpoint.spec.inputs, pd.DatetimeIndex(block[0].series.index)
    wide = {n: np.stack([site.series[n].to_numpy(np.float32) for site in block], axis=1) for n in spec.forcings}
    names = (*spec.static, *spec.classes)
    statics = {n: np.array([site.statics[n] for site in block], np.float32) for n in names}
    latitude = np.array([site.latitude for site in block])
    state, parts = None, []
    for year in np.unique(index.year):
        rows = index.year == year
        forcings = {name: values[rows] for name, values in wide.items()}
        fluxes, state = predictor.predict(Places(index[rows], "daily", latitude, forcings, statics), state)
        parts.append({flux: getattr(fluxes, flux) for flux in FLUXES})
    wanted = index.isin(time)
    return {flux: np.concatenate([part[flux] for part in parts])[wanted] for flux in FLUXES}


def site_fluxes(predict: Callable[[Site], pd.DataFrame], cells: Sites, time: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    """Return what a baseline says of all cells, (time, n)."""
    tables = [predict(site).loc[time] for site in cells]
    return {flux: np.stack([table[flux].to_numpy(np.float32) for table in tables], axis=1) for flux in FLUXES}


def scored(
    places: MapPlaces,
    inside: np.ndarray,
    cover: np.ndarray,
    time: pd.DatetimeIndex,
    guess: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> MapScore:
    """Return the moments of one set of predictions."""
    score = MapScore(time, "daily", places.weight.size, places.states, COVERS, FLUXES)
    score.add(Cells(inside, places.weight[inside], places.state[inside], cover), guess, truth)
    return score


def rows(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the overall scores as Markdown."""
    lines = [
        "| model | flux | R2 daily | RMSE daily | bias | R2 of annual sums | RMSE of annual sums |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, table in tables.items():
        for flux in FLUXES:
            part = table[(table.flux == flux) & (table["by"] == "all") & (table.quantity == "flux")]
            day, year = (part[part.scale == scale].iloc[0] for scale in ("day", "year"))
            numbers = f"{day.r2:.2f} | {day.rmse:.2f} | {day.bias:+.2f} | {year.r2:.2f} | {year.rmse:.0f}"
            lines.append(f"| {name} | {flux.upper()} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=float, default=0.5)
    parser.add_argument("--years", type=int, nargs=2, default=(2019, 2020))
    parser.add_argument("--ceiling-towers", type=int, default=400)
    parser.add_argument("--ceiling-years", type=int, default=4)
    parser.add_argument("--ceiling-epochs", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("out/reference_world"))
    options = parser.parse_args()
    config = load_config(TrainConfig, "train_ct_gru", {})
    shipped = [load_checkpoint(name) for name in ("ct_gru", "default")]
    spec, region = shipped[0].spec, find_region("midwest")
    places = map_places(region, Grid.from_bounds(region.bounds, options.resolution))
    inside = np.flatnonzero(places.weight > 0)
    longitude, latitude = (axis.ravel()[inside] for axis in places.grid.lonlat())
    first, last = options.years
    time = pd.date_range(f"{first}-01-01", f"{last}-12-31", name="time")
    spin_up = max(each.spec.spin_up_years for each in shipped)
    whole = pd.date_range(f"{first - spin_up}-01-01", time[-1], name="time")
    names = {"igbp"}.union(*((*s.dynamic, *s.static, *s.classes) for s in (each.spec.inputs for each in shipped)))
    cells, truth = cells_as_sites(latitude, longitude, whole, names), truth_at(latitude, longitude, time)
    cover = main_cover(places_at(latitude, longitude).shares)
    towers = virtual_sites(**config.sites.options)
    trees = replace(spec, kind="lightgbm", settings={}, spin_up_years=0)
    ceiling = perfect_towers(spec, options.ceiling_towers, options.ceiling_years, first - 1)
    inputs = (*spec.inputs.dynamic, *spec.inputs.static, *spec.inputs.classes)
    usable = _without_gaps(inputs)
    models = {
        "climatology of all towers": fit_class_free(towers).predict,
        "climatology of the class": BASELINES["climatology"](towers, inputs).predict,
        "nearest tower of the class": fit_nearest(towers).predict,
        "ridge": BASELINES["ridge"](towers, usable).predict,
        "LightGBM": network(trees, towers, config.fit),
        **{f"{each.spec.kind} (shipped)": Predictor(each) for each in shipped},
        "ceiling": network(spec, ceiling, replace(config.fit, epochs=options.ceiling_epochs)),
    }
    tables = {}
    for name, model in models.items():
        print(name, flush=True)
        fluxes = map_fluxes if isinstance(model, Predictor) else site_fluxes
        tables[name] = score_table(scored(places, inside, cover, time, fluxes(model, cells, time), truth))
    title = (
        f"World {WORLD_VERSION}, digest {world_digest()}: {len(inside)} cells of {options.resolution} degrees, "
        f"{first}-{last}; {len(towers)} towers; ceiling from {len(ceiling)} cells x {options.ceiling_years} years"
    )
    print(f"\n{title}\n\n{rows(tables)}")
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"title": title, "scores": {name: table.to_dict("records") for name, table in tables.items()}}
    (options.out / "reference_world.json").write_text(json.dumps(found, indent=1))


def fit_class_free(towers: Sites) -> Climatology:
    """Return the mean seasonal cycle of all towers, whatever grows there."""
    unlabelled = (replace(site, statics=site.statics | {"igbp": np.nan}) for site in towers)
    climatology = BASELINES["climatology"](replace(towers, sites=tuple(unlabelled)), ())
    return replace(climatology, cycles={key: cycle for key, cycle in climatology.cycles.items() if key[0] is None})


def _without_gaps(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inputs that are never missing: ridge has no rule for gaps."""
    return tuple(name for name in inputs if not name.startswith("reflectance_"))


if __name__ == "__main__":
    main()
