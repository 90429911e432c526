"""Sites and specs as a training configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from fluxgrid.config import SitesConfig, TrainConfig
from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.sites import Sites
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, TableError, itemise
from fluxgrid.models import ModelSpec
from fluxgrid.provenance import digest, digest_arrays
from fluxgrid.simulation import virtual_sites
from fluxgrid.sources import SOURCES
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.training.train import check_regime


def read_sites(config: TrainConfig) -> Sites:
    """Return the sites of a configuration that observed the fluxes it wants.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    sites : Sites

    Raises
    ------
    UnknownName
        If there is no such source.
    ConfigError
        If its options are wrong.
    TableError
        If the table cannot be used, or no site is left.
    """
    return read_site_config(config.sites, config.step)


def read_site_config(wanted: SitesConfig, step: Step) -> Sites:
    """Return the sites that part of a configuration names; see `read_sites`."""
    if wanted.source in SYNTHETIC:
        sites = SYNTHETIC[wanted.source](wanted.source, dict(wanted.options))
    else:
        sites = _reader(wanted.source, wanted.options).read_sites(Path(wanted.path).expanduser())
    if sites.step != step:
        message = f"{wanted.path} is {sites.step}, but the configuration says step: {step}. Change one of them."
        raise ConfigError(message)
    kept = sites.with_targets(wanted.targets, wanted.minimum)
    if not len(kept):
        message = (
            f"No site of {wanted.path} observed {', '.join(wanted.targets)} at {wanted.minimum} steps or more. Lower "
            "sites.minimum or name fewer sites.targets."
        )
        message = "\n".join([message, *(f"  note: {note}" for note in sites.notes)])
        raise TableError(message)
    return kept


def _virtual(name: str, options: dict[str, Any]) -> Sites:
    """Return the towers of the synthetic world."""
    try:
        return virtual_sites(**options)
    except (TypeError, ValueError) as error:
        message = f"Options of the source {name!r} are wrong: {error}. It takes n, start, end and seed."
        raise ConfigError(message) from error


def _cells(name: str, options: dict[str, Any]) -> Sites:
    """Return cells of the synthetic world with their true fluxes."""
    try:
        return world_cells(**options)
    except (TypeError, ValueError) as error:
        message = f"Options of the source {name!r} are wrong: {error}. It takes states, n, first, last and seed."
        raise ConfigError(message) from error


SYNTHETIC: dict[str, Callable[[str, dict[str, Any]], Sites]] = {"synthetic": _virtual, "world_cells": _cells}
"""Sources that make their sites up: towers with errors, and cells whose fluxes are known."""


def _reader(name: str, options: dict[str, Any]) -> Any:
    """Return the reader with its options checked."""
    try:
        return TypeAdapter(SOURCES[name]).validate_python(options)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise ConfigError(itemise(f"Options of the source {name!r} are wrong", problems)) from error


def model_spec(config: TrainConfig, sites: Sites) -> ModelSpec:
    """Return the contract of the model a configuration asks for.

    Parameters
    ----------
    config : TrainConfig
    sites : Sites
        Give the citation.

    Returns
    -------
    spec : ModelSpec

    Raises
    ------
    UnknownName, ConfigError
        If the architecture, an option or an input is not known, or they do not go together.
    """
    inputs = InputSpec(config.inputs.dynamic, config.inputs.static, config.inputs.classes, dict(config.inputs.gaps))
    spec = ModelSpec(
        name=config.name,
        kind=config.model.kind,
        settings=config.model.settings,
        step=config.step,
        inputs=inputs,
        spin_up_years=config.model.spin_up_years,
        day_definition=config.day_definition,
        synthetic=config.synthetic,
        description=config.description,
        limits=config.limits,
        caveats=config.caveats,
        sources=(config.sites.citation or sites.citation,),
    )
    spec.build()  # what the architecture refuses of options and inputs, it refuses before any work
    check_regime(spec, config.fit)
    return spec


def fingerprint(sites: Sites) -> str:
    """Return a hash of all that training and scoring take from sites: series, places, groups and statics."""
    columns = ((site, name) for site in sites for name in site.series)
    series = digest_arrays({f"{site.id}.{name}": site.series[name].to_numpy() for site, name in columns})
    facts = [(site.id, site.latitude, site.longitude, site.group, dict(site.statics)) for site in sites]
    return digest(series, repr(facts))


def describe(sites: Sites) -> dict[str, Any]:
    """Return what a checkpoint's provenance says about its sites."""
    first = min(pd.Timestamp(site.series.index[0]) for site in sites)
    last = max(pd.Timestamp(site.series.index[-1]) for site in sites)
    return {
        "source": sites.source,
        "citation": sites.citation,
        "count": len(sites),
        "ids": list(sites.ids),
        "years": [first.year, last.year],
        "notes": list(sites.notes),
    }
