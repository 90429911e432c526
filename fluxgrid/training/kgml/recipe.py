"""The whole training of the mosaic in the reference world: covers, the five steps, and where it may be trusted."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import shapely
import torch
from pydantic import BeforeValidator, ConfigDict, Field

from fluxgrid.data.inputs import Inputs
from fluxgrid.data.records import site_inputs
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Site, Sites
from fluxgrid.geo import boundaries
from fluxgrid.models.base import Sizes
from fluxgrid.models.crop_mosaic import (
    ANNUAL,
    DYNAMIC,
    FLUXES,
    STATIC,
    CropMosaic,
    CropMosaicConfig,
)
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction.applicability import fit_domain, month_vectors
from fluxgrid.provenance import digest_arrays, digest_files
from fluxgrid.registry import unknown_name
from fluxgrid.simulation import county_yields
from fluxgrid.sources.kgml_sets import read_kgml_set
from fluxgrid.training.kgml.cells import MOSAIC_INPUTS, Cells, fit_mosaic_scaler, observe_cells, set_mosaic_scales
from fluxgrid.training.kgml.cover import crop_gpp, hold_year, train_cover, with_driver
from fluxgrid.training.kgml.fields import CropFields, fields_of_set, grow_fields
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.settings import IN_BUDGET, PRESETS, KGMLSettings, StepSettings
from fluxgrid.training.kgml.stages import Stages
from fluxgrid.training.kgml.steps import emulate_ra, emulate_rest
from fluxgrid.training.kgml.survey import Survey, learn_yields, match_survey
from fluxgrid.training.kgml.towers import TowerYears, fit_towers, tower_years
from fluxgrid.training.kgml.walk import fit_crop_scalers, make_track

MIDWEST = ("IA", "IL", "IN", "OH", "MI", "WI", "MN", "MO", "KS", "NE", "SD", "ND")

COVER = StepSettings(30, 30, 4e-3, 32, "cosine")
MODEL = CropMosaicConfig(dropout=0.0, year="held")


def _over_preset(given: Any) -> Any:
    """Return settings of a configuration laid over a preset, so that one key changes one thing."""
    if not isinstance(given, dict):
        return given
    name = given.get("preset", "budget")
    if name not in PRESETS:
        error = unknown_name("preset of training steps", str(name), PRESETS)
        raise ValueError(str(error))
    return _laid_over(asdict(PRESETS[name]), {key: value for key, value in given.items() if key != "preset"})


def _over_model(given: Any) -> Any:
    """Return options of the architecture laid over the default's."""
    return _laid_over(asdict(MODEL), given) if isinstance(given, dict) else given


def _laid_over(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return nested values with some of them replaced."""
    for key, value in given.items():
        inner = base.get(key)
        base[key] = _laid_over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return base


@dataclass(frozen=True)
class Recipe:
    """Data and settings of a mosaic trained in the reference world."""

    states: tuple[str, ...] = MIDWEST
    """Where cells and fields are drawn, postal codes."""
    synthetic_set: str | None = None
    """An externally made synthetic set (``.npz`` or NetCDF in the layout of PyKGML) for steps 1 and 2 instead of the
    fields below; steps 3 to 5 and the covers stay in the reference world."""
    fields: Annotated[int, Field(ge=2)] = 160
    """Cells on whose cropland fields of both rotations grow (steps 1, 2, 4)."""
    first_year: int = 2004
    last_year: int = 2018
    """Years of the process model; later ones are kept for tests."""
    least_crop: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of corn and soybean in a cell that fields are drawn from."""
    cells: Annotated[int, Field(ge=10)] = 400
    """Cells that teach the covers apart."""
    cells_from: int = 2010
    cover: StepSettings = COVER
    """Training of the CT-GRU."""
    counties: Annotated[int, Field(ge=5)] = 120
    """Counties of step 3."""
    survey_states: tuple[str, ...] = ("IA", "IL", "IN", "NE", "MN")
    survey_from: int = 2009
    steps: Annotated[KGMLSettings, BeforeValidator(_over_preset)] = IN_BUDGET
    """Settings of the five steps; what is given wins over the preset ``budget``, or over the one `preset` names."""
    model: Annotated[CropMosaicConfig, BeforeValidator(_over_model)] = MODEL
    """Architecture."""
    seed: Annotated[int, Field(ge=0)] = 11
    """Of places."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        """Refuse years that leave nothing to train on; the first year of the cells only spins up."""
        first = {name: getattr(self, name) for name in ("first_year", "survey_from")}
        first["cells_from"] = self.cells_from + 1
        if late := [name for name, year in first.items() if year > self.last_year]:
            message = f"{', '.join(late)} must come before the end of last_year, {self.last_year}; cells need two years"
            raise ValueError(message)


@dataclass(frozen=True, eq=False)
class Trained:
    """A mosaic and what it was trained with."""

    mosaic: CropMosaic
    scaler: Scaler
    domain: TrainingDomain
    stages: Stages


def build_mosaic(recipe: Recipe, cells: Cells) -> tuple[CropMosaic, Scaler]:
    """Return a mosaic with fresh weights that knows the scales of its inputs, and their scaler."""
    scaler = fit_mosaic_scaler(cells)
    torch.manual_seed(recipe.steps.seed)
    mosaic = recipe.model.build(Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL)))
    set_mosaic_scales(mosaic, scaler)
    return mosaic, scaler


def train_mosaic(recipe: Recipe, towers: Sites | None, stages: Stages, last_step: int = 5) -> Trained:
    """Train a mosaic: covers first, then KGML-ag step by step; finished stages are taken up.

    Parameters
    ----------
    recipe : Recipe
    towers : Sites, optional
        Of step 5; without them it is left out.
    stages : Stages
        Where finished steps are kept.
    last_step : int, 1-5
        Steps after it are left out.

    Returns
    -------
    trained : Trained
    """
    report, steps = stages.report, recipe.steps
    cells = observe_cells(
        *draw_cells(recipe.states, recipe.cells, recipe.seed + 1), recipe.cells_from, recipe.last_year
    )
    mosaic, scaler = build_mosaic(recipe, cells)
    network = mosaic.crop
    if recipe.synthetic_set:
        fields = fields_of_set(read_kgml_set(recipe.synthetic_set))
    else:
        places = draw_cells(recipe.states, recipe.fields, recipe.seed, recipe.least_crop)
        fields = grow_fields(*places, recipe.first_year, recipe.last_year)
    drawn = [recipe.states, recipe.fields, recipe.seed, recipe.first_year, recipe.last_year, recipe.least_crop]
    if recipe.synthetic_set:
        drawn.append(digest_files([Path(recipe.synthetic_set)]))
    shared = [asdict(recipe.model), steps.seed, steps.held_years, steps.spin_up_years]
    cover_key = [recipe.states, recipe.cells, recipe.seed, recipe.cells_from, recipe.last_year, asdict(recipe.cover)]
    stages.run(
        "cover", mosaic, [*cover_key, *shared], lambda: train_cover(mosaic, cells, scaler, recipe.cover, 0, report)
    )
    network.set_scalers(fit_crop_scalers(fields))
    track = make_track(fields, network, steps.held_years, steps.seed)
    pacing, rest = (
        asdict(steps.pacing),
        [steps.tolerance, steps.balance_weight, asdict(steps.budget) if steps.budget else None],
    )
    runs = {
        1: ([drawn, asdict(steps.emulate_ra), pacing], partial(emulate_ra, network, track, steps, report)),
        2: ([asdict(steps.emulate_rest), *rest], partial(emulate_rest, network, track, steps, report)),
    }
    for number, (key, run) in runs.items():
        if number <= last_step:
            stages.run(f"step-{number}", network, key, run)
    if last_step >= 3:
        _with_drivers(recipe, mosaic, scaler, fields, towers, stages, last_step)
    return Trained(mosaic.eval(), scaler, mosaic_domain(mosaic, cells, scaler), stages)


def _with_drivers(
    recipe: Recipe,
    mosaic: CropMosaic,
    scaler: Scaler,
    fields: CropFields,
    towers: Sites | None,
    stages: Stages,
    last_step: int,
) -> None:
    """Run steps 3 to 5 on the GPP that maps are made with."""
    network, steps, report = mosaic.crop, recipe.steps, stages.report
    survey = draw_survey(recipe, mosaic, scaler)
    key = [recipe.counties, recipe.survey_states, recipe.survey_from, asdict(steps.yields), steps.basis_rate]
    key.append(asdict(steps.yield_pacing))
    stages.run("step-3", network, key, lambda: learn_yields(network, survey, steps, report))
    if last_step < 4:
        return
    driven = make_track(with_driver(fields, mosaic, scaler), network, steps.held_years, steps.seed)
    again = partial(emulate_rest, network, driven, steps, report, None, steps.emulate_again, "step 4")
    stages.run("step-4", network, asdict(steps.emulate_again), again)
    if last_step < 5 or towers is None:
        return
    observed = crop_towers(towers, mosaic, scaler, steps)
    report(f"step 5: {len(observed)} of {len(towers)} towers stand on corn and soybean with a whole year")
    seen = digest_arrays({"features": observed.features, "reco": observed.reco, "nee": observed.nee})
    key = [observed.ids, towers.source, seen, asdict(steps.towers), steps.rh_rate, steps.tower_gpp]
    stages.run("step-5", network, key, lambda: fit_towers(network, observed, driven, steps, report))


def draw_survey(recipe: Recipe, mosaic: CropMosaic, scaler: Scaler) -> Survey:
    """Return county yields with a field of each rotation at the middle of each county, driven as a map is."""
    years = range(recipe.survey_from, recipe.last_year + 1)
    table = county_yields(recipe.survey_states, list(years), seed=recipe.seed)
    known = boundaries.counties()
    known = known[known["fips"].isin(table["fips"].unique())].sort_values("fips")
    random = np.random.default_rng(recipe.seed)
    known = known.iloc[np.sort(random.permutation(len(known))[: recipe.counties])]
    points = shapely.point_on_surface(known.geometry.to_numpy())
    latitude, longitude = shapely.get_y(points), shapely.get_x(points)
    fields = with_driver(grow_fields(latitude, longitude, years[0], years[-1]), mosaic, scaler)
    return match_survey(table, fields, known["fips"].to_numpy()[fields.place])


def crop_towers(
    towers: Sites, mosaic: CropMosaic, scaler: Scaler, steps: KGMLSettings, least: float = 0.6
) -> TowerYears:
    """Return the towers whose footprint is mostly corn and soybean, with the GPP a map would read there."""
    on_crops = [site.id for site in towers if _crop_share(site) >= least]
    found = tower_years(towers.select(on_crops), partial(site_gpp, mosaic, scaler), tower_gpp=steps.tower_gpp)
    return replace(found, features=hold_year(found.features, mosaic))


def _crop_share(site: Site) -> float:
    """Return the mean share of corn and soybean in a footprint."""
    crops = [site.series[name] for name in ("corn_fraction", "soybean_fraction") if name in site.series]
    return float(np.nanmean(crops[0] + crops[1])) if len(crops) == 2 and crops[0].notna().any() else 0.0


def site_gpp(mosaic: CropMosaic, scaler: Scaler, site: Site) -> np.ndarray:
    """Return the GPP of corn and soybean that a map would read at a site, (2, T), g m-2 d-1."""
    return crop_gpp(mosaic, scaler, site_inputs(site, "daily", MOSAIC_INPUTS))[:, 0]


@torch.no_grad()
def mosaic_domain(
    mosaic: CropMosaic, cells: Cells, scaler: Scaler, tested: int = 32, points: int = 2500
) -> TrainingDomain:
    """Return the training domain of a mosaic: months of its cells, weighted by what each input matters to it.

    Importance is the growth of the squared error of GPP and RECO, over their variances, when an input is given to the
    wrong cells; the calendar has none, for it leaves the domain every year.
    """
    few, mosaic = slice(0, tested), copy.copy(mosaic)
    # what matters to the covers does not hang on who may speak for them on a map
    mosaic.config = replace(mosaic.config, other="ct_gru")
    dynamic, static = (rows[few] for rows in cells.tensors(scaler))
    days = cells.years[-1]
    before = mosaic.run(dynamic[:, cells.years[-2:][0]], static, torch.zeros(len(static), mosaic.state_size)).state
    truth = {name: torch.from_numpy(values[few, days]) for name, values in cells.total.items()}

    def error(dynamic: torch.Tensor, static: torch.Tensor) -> float:
        guess, _ = mosaic(dynamic[:, days], static, before)
        rows = {
            "gpp": (guess[..., 0], truth["gpp"]),
            "reco": (guess[..., 1] + guess[..., 2], truth["ra"] + truth["rh"]),
        }
        # where the model has no value it has no error either
        return sum(float((g - t).square().nanmean() / t.var()) for g, t in rows.values())

    base, order = error(dynamic, static), torch.randperm(len(static), generator=torch.Generator().manual_seed(0))
    growth = []
    for column, name in enumerate(DYNAMIC):
        wrong = dynamic.clone()
        wrong[..., column] = dynamic[order, :, column]
        growth.append(0.0 if name in ("calendar_year", "day_of_year") else max(error(wrong, static) - base, 0.0))
    for column in range(len(STATIC)):
        wrong = static.clone()
        wrong[:, column] = static[order, column]
        growth.append(max(error(dynamic, wrong) - base, 0.0))
    late = cells.years[-4:][0].start
    vectors = month_vectors(_days_from(cells, late), MOSAIC_INPUTS, cells.time[late:])  # (M, n, K)
    cell = np.broadcast_to(np.arange(len(cells)), vectors.shape[:2]).ravel()
    rows = vectors.reshape(-1, vectors.shape[-1])
    kept = np.random.default_rng(0).permutation(len(rows))[:points]
    return fit_domain(rows[kept], np.array(growth), cell[kept] % 5)


def _days_from(cells: Cells, first: int) -> Inputs:
    """Return the inputs of all days from one on."""
    days, inputs = slice(first, None), cells.inputs
    dynamic = {name: values[days] for name, values in inputs.dynamic.items()}
    return Inputs(dynamic, inputs.static, inputs.missing[days], inputs.filled[days])
