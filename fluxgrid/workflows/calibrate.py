"""`fluxgrid calibrate`: heads of places for a trained model, kept beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from fluxgrid.config_kgml import CalibrateConfig, HeadsConfig
from fluxgrid.data.inputs import InputSpec, design
from fluxgrid.data.records import site_inputs
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.files import new_folder
from fluxgrid.geo.state_of import state_of
from fluxgrid.models import Checkpoint, load_checkpoint, save_checkpoint
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import ONE_PASS
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.network import Network
from fluxgrid.models.places import Bandwidth, CalibratedPlaces, climate_scale
from fluxgrid.prediction.bandwidth import DEFAULT_GRID
from fluxgrid.provenance import git_commit, now, versions
from fluxgrid.training.calibrate import WHOLE_YEAR, Evidence, calibrate, pass_all
from fluxgrid.training.carry import bandwidth_of
from fluxgrid.workflows.sites import describe, read_site_config

Report = Callable[[str], None]
CLIMATE = ("temperature_2m", "precipitation", "shortwave", "vpd")
"""Forcings whose means make the space of climate, those of them a model reads."""
_FAR = Bandwidth(200.0, 1.0, 0.1, 8)
"""For kinds whose heads are not compared everywhere, as that takes a pass for each pair of places."""


@dataclass(frozen=True, eq=False)
class Made:
    """A calibration and how it was made."""

    calibration: Calibration
    seconds: float
    loss: tuple[float, float]
    """Mean over places before and after, each flux over its variance."""
    bandwidths: pd.DataFrame | None
    """What leaving places out said of each bandwidth."""


@dataclass(frozen=True)
class CalibrateOutcome:
    """What `fluxgrid calibrate` made."""

    checkpoint: Path
    made: tuple[Made, ...]


def run_calibrate(config: CalibrateConfig, report: Report = lambda _: None) -> CalibrateOutcome:
    """Calibrate a checkpoint at sites and write it, with its heads, to a new folder.

    Parameters
    ----------
    config : CalibrateConfig
    report : callable
        Takes one line of progress.

    Returns
    -------
    outcome : CalibrateOutcome

    Raises
    ------
    OutputExists
        If the new folder exists.
    ConfigError
        If the model has no hidden states to calibrate.
    TableError
        If no site can be used.
    """
    out = new_folder(config.out)
    checkpoint = load_checkpoint(config.model)
    sites = read_site_config(config.sites, checkpoint.spec.step)
    made = tuple(make_calibration(checkpoint, sites, heads, report) for heads in config.heads)
    kept = {**checkpoint.calibrations, **{row.calibration.name: row.calibration for row in made}}
    provenance = {
        "created": now(),
        "commit": git_commit(),
        "versions": versions(),
        "calibrated_from": {"model": checkpoint.spec.name, "digest": checkpoint.digest},
        "sites": describe(sites),
        "calibrations": [made_row(row) for row in made],
    }
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    parts = checkpoint.spec, checkpoint.scaler, checkpoint.model, checkpoint.domain
    save_checkpoint(out, *parts, text, provenance, kept.values())
    load_checkpoint(out)
    return CalibrateOutcome(out, made)


def made_row(made: Made) -> dict:
    """Return what provenance says of a calibration."""
    heads, bandwidth = made.calibration.heads, made.calibration.places.bandwidth
    return {
        "name": made.calibration.name,
        "about": made.calibration.about,
        "kind": heads.kind,
        "places": heads.places,
        "parameters_per_place": heads.per_place,
        "seconds": made.seconds,
        "loss": list(made.loss),
        "bandwidth": asdict(bandwidth) if bandwidth else None,
    }


def make_calibration(
    checkpoint: Checkpoint, sites: Sites, config: HeadsConfig, report: Report = lambda _: None
) -> Made:
    """Fit the heads of places at sites.

    Parameters
    ----------
    checkpoint : Checkpoint
        The global model.
    sites : Sites
        With its inputs and fluxes.
    config : HeadsConfig
        What a place is, and how heads are fitted.
    report : callable

    Returns
    -------
    made : Made

    Raises
    ------
    ConfigError
        If the model has no hidden states to calibrate.
    TableError
        If no site brings the inputs and a flux.
    """
    network = checkpoint.model
    if isinstance(network, Ensemble):
        message = (
            f"The model {checkpoint.spec.name!r} is an ensemble of {len(network.members)} members, and heads of places "
            "belong to one network. Train it with fit.members=1 and calibrate that."
        )
        raise ConfigError(message)
    if checkpoint.spec.closure != "derived":
        message = (
            f"The model {checkpoint.spec.name!r} has an NEE of its own (closure {checkpoint.spec.closure!r}), which "
            "heads of places would not fit. Train it with model.closure=derived and calibrate that."
        )
        raise ConfigError(message)
    if not isinstance(network, Network):
        message = (
            f"The model {checkpoint.spec.name!r} ({checkpoint.spec.kind}) has no hidden states, so no head of a place "
            "can read them. Calibrate a network, such as ct_gru or kgml_ag."
        )
        raise ConfigError(message)
    used = usable_sites(sites, checkpoint.spec.inputs)
    places, owner = (_states if config.places == "state" else _groups)(used)
    if not places:
        message = f"None of the {len(used)} sites of {sites.source} stands in a US state, so there is no state to fit."
        raise TableError(message)
    evidence = evidence_at(used, checkpoint.spec.inputs, checkpoint.scaler, checkpoint.spec.step, owner)
    settings = replace(config.fit, spin_up_years=checkpoint.spec.spin_up_years)
    report(f"Calibrating {len(places)} places ({config.name}, {settings.kind}) on {len(used)} sites")
    outputs = checkpoint.spec.fluxes
    fitted = calibrate(network, outputs, evidence, settings, report)
    placed = _placed(places, owner, used, checkpoint.spec.inputs, config.places == "state")
    table = None
    if config.places == "site":
        if settings.kind in ONE_PASS and len(places) > 2:
            passed = pass_all(network, evidence, settings.spin_up_years, settings.stride)
            bandwidth, table = bandwidth_of(fitted.heads, outputs, passed, placed)
            best = table[table["chosen"]].iloc[0]
            edge = ", ".join(DEFAULT_GRID.at_edge(bandwidth))
            beyond = f" ({edge}: at the edge of what was tried)" if edge else ""
            report(f"{bandwidth}: error {best['relative']:.3f} of the global model's at places left out{beyond}")
        else:
            bandwidth = _FAR
        placed = replace(placed, bandwidth=bandwidth)
    about = f"{len(places)} {'states' if config.places == 'state' else 'places'}, {len(used)} sites of {sites.source}"
    return Made(Calibration(config.name, fitted.heads, placed, about), fitted.seconds, fitted.loss, table)


def usable_sites(sites: Sites, spec: InputSpec) -> Sites:
    """Return the sites that bring every input and a flux.

    Raises
    ------
    TableError
        If there is none.
    """
    ids = [site.id for site in sites if _usable(site, spec)]
    if not ids:
        message = f"No site of {sites.source} brings all inputs ({', '.join(spec.names)}) and a flux to calibrate with."
        raise TableError(message)
    return sites.select(ids)


def _usable(site: Site, spec: InputSpec) -> bool:
    """Return whether a site can be used."""
    forced = all(name in site.series and site.series[name].notna().any() for name in spec.forcings)
    known = all(np.isfinite(site.statics.get(name, np.nan)) for name in (*spec.static, *spec.classes))
    return forced and known and bool(_known(site))


def _known(site: Site) -> tuple[str, ...]:
    """Return the fluxes of a site that others do not follow from."""
    seen = {
        name for name in ("gpp", "ra", "rh", "reco", "nee") if name in site.series and site.series[name].notna().any()
    }
    names = ("gpp", "ra", "rh") if {"ra", "rh"} <= seen else ("gpp", "reco", "nee")
    return tuple(name for name in names if name in seen)


def _states(sites: Sites) -> tuple[list[str], np.ndarray]:
    """Return the states of sites and which is whose; sites outside of all states are refused with the rest kept."""
    codes = state_of(np.array([s.latitude for s in sites]), np.array([s.longitude for s in sites]))
    names = sorted(set(codes.tolist()) - {""})
    return names, np.array([names.index(code) if code else -1 for code in codes.tolist()])


def _groups(sites: Sites) -> tuple[list[str], np.ndarray]:
    """Return the groups of sites as places: towers of one group stand within a few kilometres."""
    groups = [site.group for site in sites]
    names = list(dict.fromkeys(groups))
    labels = {group: next(site.id for site in sites if site.group == group) for group in names}
    return [labels[group] for group in names], np.array([names.index(group) for group in groups])


def _placed(
    names: Sequence[str], owner: np.ndarray, sites: Sites, spec: InputSpec, are_states: bool
) -> CalibratedPlaces:
    """Return where places stand, on the ground and in climate: means over their sites."""
    climate = [name for name in CLIMATE if name in spec.forcings]
    where = np.array([(site.latitude, site.longitude) for site in sites])
    normals = np.array([[_normal(site, name) for name in climate] for site in sites]).reshape(len(where), -1)
    mean = np.stack([np.column_stack([where, normals])[owner == place].mean(axis=0) for place in range(len(names))])
    codes = tuple(names) if are_states else ("",) * len(names)
    return CalibratedPlaces(
        tuple(names), mean[:, 0], mean[:, 1], mean[:, 2:], tuple(climate), climate_scale(mean[:, 2:]), codes
    )


def _normal(site: Site, name: str) -> float:
    """Return the mean of a forcing over the whole calendar years of a site, over all its days if there is none."""
    series = site.series[name]
    days = pd.DatetimeIndex(series.index).year
    counts = days.value_counts()
    whole = days.isin(counts[counts >= WHOLE_YEAR * counts.max()].index)
    return float(series[whole].mean())


def evidence_at(sites: Sites, spec: InputSpec, scaler: Scaler, step: Step, owner: np.ndarray) -> list[Evidence]:
    """Return sites as evidence, those of the same days together, the longest records first.

    Parameters
    ----------
    sites : Sites
    spec : InputSpec
    scaler : Scaler
    step : Step
    owner : ndarray of int, (sites,)
        Place of each; below 0 for none.

    Returns
    -------
    evidence : list of Evidence
    """
    spans: dict[tuple, list[int]] = {}
    for number, site in enumerate(sites):
        if owner[number] >= 0:
            spans.setdefault((site.series.index[0], len(site.series)), []).append(number)
    listed = list(sites)
    order = sorted(spans, key=lambda span: -span[1])
    return [_evidence([listed[i] for i in spans[span]], owner[spans[span]], spec, scaler, step) for span in order]


def _evidence(sites: Sequence[Site], owner: np.ndarray, spec: InputSpec, scaler: Scaler, step: Step) -> Evidence:
    """Return sites of the same days as evidence."""
    rows = [_arrays(site, spec, scaler, step) for site in sites]
    dynamic, static, fluxes = zip(*rows, strict=True)
    names = [name for name in ("gpp", "ra", "rh", "reco", "nee") if any(name in row for row in fluxes)]
    nothing = np.full(dynamic[0].shape[0], np.nan, np.float32)
    known = {name: torch.from_numpy(np.stack([row.get(name, nothing) for row in fluxes])) for name in names}
    year = pd.DatetimeIndex(sites[0].series.index).year.to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(year)) + 1).tolist(), len(year)]
    years = tuple(slice(a, b) for a, b in pairwise(cuts))
    return Evidence(
        torch.from_numpy(np.stack(dynamic)), torch.from_numpy(np.stack(static)), known, torch.from_numpy(owner), years
    )


def _arrays(
    site: Site, spec: InputSpec, scaler: Scaler, step: Step
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return scaled inputs (T, F), (S,) and the known fluxes of a site, NaN where an input is missing."""
    inputs = site_inputs(site, step, spec)
    dynamic, static = design(inputs, spec, scaler)
    fluxes = {n: np.where(inputs.missing[:, 0], np.nan, site.series[n]).astype(np.float32) for n in _known(site)}
    return dynamic[0], static[0], fluxes


def bandwidth_text(made: Iterable[Made]) -> str:
    """Return what the chosen bandwidths are, for people."""
    lines = []
    for row in made:
        chosen = row.calibration.places.bandwidth
        if chosen:
            lines.append(
                f"{row.calibration.name}: {chosen.ground_km:g} km on the ground, {chosen.climate:g} in climate, "
                f"shrinkage {chosen.shrink:g}, at most {chosen.most} places"
            )
    return "\n".join(lines)
