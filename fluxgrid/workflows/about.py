"""What a map says about itself."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from fluxgrid.data.cube import UNSTATED
from fluxgrid.data.steps import STEP_NAMES, step_ends
from fluxgrid.geo.region import Region
from fluxgrid.models import Checkpoint, ModelSpec, model_config
from fluxgrid.models.windowed import WindowConfig
from fluxgrid.output.info import MapInfo
from fluxgrid.provenance import git_commit, versions
from fluxgrid.upscaling.plan import Plan


def map_info(
    plan: Plan,
    region: Region,
    checkpoint: Checkpoint,
    cube: xr.Dataset,
    warnings: tuple[str, ...],
    cover: tuple[str, ...],
    created: str,
) -> MapInfo:
    """Return title, caveats and provenance of a map.

    Parameters
    ----------
    plan : Plan
    region : Region
    checkpoint : Checkpoint
    cube : Dataset
    warnings : tuple of str
        All that was said to the user.
    cover : tuple of str
        Those of them that say what of the region the map leaves out; they come first among the caveats.
    created : str
        ISO time.

    Returns
    -------
    info : MapInfo
    """
    spec, synthetic = checkpoint.spec, checkpoint.spec.synthetic or is_simulated(cube)
    place = f"part of {region.title}" if cover else region.title
    kind = "Synthetic carbon fluxes" if synthetic else "Carbon fluxes"
    recycled = any(s.recycled for s in plan.segments)
    steps = sum(s.steps.stop - s.steps.start for s in plan.segments if not s.scored)
    length = f"{spec.spin_up_years} year(s)" if spec.steps_kept is None else f"{steps} steps"
    spin_up = f"{length}, {'first year run once more' if recycled else 'before the period'}"
    attributes = {
        "fluxgrid_commit": git_commit(),
        "fluxgrid_versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
        "fluxgrid_model_digest": checkpoint.digest,
        "fluxgrid_plan_digest": plan.digest,
        "fluxgrid_inputs": ", ".join(spec.inputs.dynamic + spec.inputs.static + spec.inputs.classes),
        "fluxgrid_calibration": _calibration_text(plan, checkpoint),
        **_mode_attributes(spec),
        **({"fluxgrid_uncertainty": checkpoint.uncertainty.text()} if checkpoint.uncertainty else {}),
        "fluxgrid_spin_up": spin_up if spec.spin_up_years else "none needed",
        "fluxgrid_covariates": str(cube.attrs.get("title", "")),
        "fluxgrid_warnings": " ".join(warnings) or "none",
    }
    caveats = (*cover, *spec.caveats)
    if spec.gpp_is_driver:
        caveats = (*caveats, "GPP is an input of the model: its errors are those of the driver, not the model's skill.")
    if synthetic:
        what = "Weather, land and fluxes are simulated" if spec.synthetic else "Weather and land are simulated"
        caveats = (f"{what}: these are not observations.", *caveats)
    stated = (str(cube.attrs.get(key, "")).strip(". ") for key in ("citation", "source"))
    covariates = tuple(text for text in stated if text and text != UNSTATED)
    limits = f"; {spec.limits}" if spec.limits else ""
    names = ", ".join(name.upper() for name in plan.layers.fluxes)
    heads = "" if plan.calibration == "none" else f", heads by {plan.calibration}"
    return MapInfo(
        title=f"{kind} ({names}) of {place}, {map_period(plan)}{heads}{limits}",
        summary=(
            f"{plan.step.capitalize()} net ecosystem exchange, gross primary production and ecosystem respiration "
            f"predicted by {spec.name}: {spec.description}"
        ),
        region_name=region.name,
        region_title=place,
        step=plan.step,
        synthetic=synthetic,
        model_name=spec.name,
        model_text=spec.description,
        day_definition=str(cube.attrs.get("day_definition") or spec.day_definition),
        applicability_threshold=checkpoint.domain.threshold,
        caveats=caveats,
        # a model of simulated towers and the cube it maps come from the same world
        sources=tuple(dict.fromkeys((*(text.strip(". ") for text in spec.sources), *covariates))),
        attributes=attributes,
        created=created,
        calibration=plan.calibration,
        gpp_is_driver=spec.gpp_is_driver,
    )


def is_simulated(cube: xr.Dataset) -> bool:
    """Return whether a cube is of the built-in world, also one that was copied: its source says so."""
    from fluxgrid.simulation import WORLD_SOURCE  # a quarter of a second that commands without a map need not pay

    return str(cube.attrs.get("source", "")).startswith(WORLD_SOURCE)


_MODES = {
    "exact": "each {step} is predicted from its own window of {window} {step}s",
    "stride": "windows of {window} {step}s every {stride} {step}s, each for its last {stride} {step}s",
    "stream": "the state is carried from {step} to {step}",
}


def _mode_attributes(spec: ModelSpec) -> dict[str, str]:
    """Say how a network of windows cut the record, and what another cut would have changed."""
    config = model_config(spec.kind, spec.settings)
    if not isinstance(config, WindowConfig):
        return {}
    text = _MODES[config.window_mode].format(step=STEP_NAMES[spec.step], window=config.window, stride=config.stride)
    text += f", {config.remark}" if config.remark else ""
    differences = [
        f"{mode}: " + ", ".join(f"{flux} {value:.3g}" for flux, value in row.items())
        for mode, row in spec.mode_differences.items()
    ]
    known = f"RMS difference of other modes from the trained one at held-out sites, g m-2 d-1: {'; '.join(differences)}"
    return {"fluxgrid_window_mode": f"{config.window_mode}: {text}" + (f". {known}" if differences else "")}


def _calibration_text(plan: Plan, checkpoint: Checkpoint) -> str:
    """Say which calibration a map uses."""
    if plan.calibration == "none":
        return "none: the global model everywhere"
    return f"{plan.calibration}: {checkpoint.calibrations[plan.calibration].about}".strip(": ")


def map_period(plan: Plan) -> str:
    """Return the years of a map, or its days where they are not whole years: ``2019``, ``2000-2020``.

    Returns
    -------
    period : str
        Such as ``2019-05-01 to 2019-07-31`` for part of a year.
    """
    first = plan.time[plan.map_segments[0].steps.start]
    after = step_ends(plan.time[[plan.map_segments[-1].steps.stop - 1]], plan.step)[0]
    if (first.month, first.day, after.month, after.day) != (1, 1, 1, 1):
        return f"{first:%Y-%m-%d} to {after - pd.Timedelta(days=1):%Y-%m-%d}"
    return str(first.year) if after.year == first.year + 1 else f"{first.year}-{after.year - 1}"
