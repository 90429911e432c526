"""Sites and specs as a training configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from fluxgrid.config import EvaluationConfig, SearchConfig, SitesConfig, TrainConfig
from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.sites import Sites
from fluxgrid.data.splits import Fold, carbonbench_folds, carbonbench_split, site_folds
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, TableError, itemise
from fluxgrid.models import ModelSpec, model_config
from fluxgrid.models.base import PREDICTED_FLUXES
from fluxgrid.models.windowed import WindowConfig
from fluxgrid.provenance import digest, digest_arrays
from fluxgrid.registry import unknown_name
from fluxgrid.simulation import virtual_sites
from fluxgrid.sources import SOURCES
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.training.train import check_regime
from fluxgrid.variables import MAP_FLUXES, VARIABLES


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
    kept = with_classes(sites, wanted.classes).with_targets(wanted.targets, wanted.minimum)
    kept = replace(kept, citation=wanted.citation or kept.citation)
    if not len(kept):
        most = ", ".join(f"{name} {_most(sites, name)}" for name in wanted.targets)
        message = (
            f"No site of {wanted.path} observed {', '.join(wanted.targets)} at {wanted.minimum} steps or more each "
            f"(most steps at one site: {most}). Lower sites.minimum or name fewer sites.targets."
        )
        message = "\n".join([message, *(f"  note: {note}" for note in sites.notes)])
        raise TableError(message)
    observed = [name.upper() for name in MAP_FLUXES if _most(kept, name)]
    if len(observed) != 1:
        return kept
    note = f"{observed[0]} is the only flux observed: what a model says of the other two was never trained"
    return replace(kept, notes=(*kept.notes, note))


def _most(sites: Sites, name: str) -> int:
    """Return at how many steps the site that observed a flux most often did so."""
    return max((int(site.series[name].notna().sum()) for site in sites if name in site.series), default=0)


def with_classes(sites: Sites, classes: dict[str, dict[str, str]]) -> Sites:
    """Return sites with the classes that a configuration gives where their source gives none.

    Parameters
    ----------
    sites : Sites
    classes : dict of str to dict of str to str
        Names of classes by site and class variable.

    Returns
    -------
    sites : Sites
        With a note of sites that are not among them.

    Raises
    ------
    ConfigError
        Listing every variable and class that is not known.
    """
    problems, found = [], {site.id: site for site in sites}
    absent = sorted(classes.keys() - found.keys())
    for name, row in classes.items():
        for variable, text in row.items():
            known = VARIABLES[variable].classes if variable in VARIABLES else ()
            if text not in known:
                problems.append(f"{name}.{variable}: {unknown_name('class', text, known)}")
            elif name in found and found[name].class_name(variable) is None:
                statics = {**found[name].statics, variable: float(known.index(text))}
                found[name] = replace(found[name], statics=statics)
    if problems:
        raise ConfigError(itemise("sites.classes is wrong", problems))
    notes = [f"sites.classes: {', '.join(absent)} not among the sites"] if absent else []
    return replace(sites, sites=tuple(found.values()), notes=(*sites.notes, *notes))


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
        If the architecture, an option or an input is not known, they do not go together, or windows look back further
        than the spin-up.
    """
    inputs = InputSpec(config.inputs.dynamic, config.inputs.static, config.inputs.classes, dict(config.inputs.gaps))
    architecture = model_config(config.model.kind, config.model.settings)
    if isinstance(architecture, WindowConfig) and (
        problem := architecture.too_far_back(config.step, config.model.spin_up_years)
    ):
        message = f"model: {problem}. Give a shorter model.window (and stride) or more model.spin_up_years."
        raise ConfigError(message)
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
        fluxes=PREDICTED_FLUXES if config.model.closure == "derived" else (*PREDICTED_FLUXES, "nee"),
        closure=config.model.closure,
        members=config.fit.members,
        whole_year_from=getattr(architecture, "whole_year_from", None),
    )
    spec.build()  # what the architecture refuses of options and inputs, it refuses before any work
    check_regime(spec, config.fit)
    return spec


def fingerprint(sites: Sites) -> str:
    """Return a hash of all that training and scoring take from sites: series, their first day, places and statics."""
    columns = ((site, name) for site in sites for name in site.series)
    series = digest_arrays({f"{site.id}.{name}": site.series[name].to_numpy() for site, name in columns})
    facts = [(s.id, s.series.index[0], s.latitude, s.longitude, s.group, dict(s.statics)) for s in sites]
    return digest(series, repr(facts))


def evaluation_folds(settings: EvaluationConfig, sites: Sites, usable: Sites) -> tuple[Fold, ...]:
    """Return which sites are trained on and which are held out.

    Parameters
    ----------
    settings : EvaluationConfig
    sites : Sites
        All that were read: CarbonBench splits before it looks at inputs.
    usable : Sites
        Those that bring the inputs of every model.

    Returns
    -------
    folds : tuple of Fold
        Of the usable sites; one alone for a split of CarbonBench.

    Raises
    ------
    ConfigError
        If the sites are too few.
    """
    if settings.split == "folds":
        return site_folds(usable, settings.folds, settings.seed, settings.stratify)
    split = carbonbench_split(sites, settings.split, settings.seed, groups=not settings.as_published)
    fold = _among(split, usable)
    if not (fold.train and fold.test):
        message = (
            f"The {settings.split} split leaves {len(fold.train)} sites to train on and {len(fold.test)} to test with "
            "that bring all inputs; take folds of site groups (evaluation.split: folds) or fewer inputs."
        )
        raise ConfigError(message)
    return (fold,)


def search_folds(wanted: SearchConfig, settings: EvaluationConfig, sites: Sites, usable: Sites) -> tuple[Fold, ...]:
    """Return the folds that settings are searched on: no site that a split of CarbonBench tests with is in any.

    Parameters
    ----------
    wanted : SearchConfig
        How many folds; and their seed, where there is no split of CarbonBench.
    settings : EvaluationConfig
        A split of CarbonBench is made before the folds, which are then of its training sites and by its seed.
    sites : Sites
        All that were read: CarbonBench splits before it looks at inputs.
    usable : Sites
        Those that bring the inputs of the model.

    Returns
    -------
    folds : tuple of Fold
        Of the usable sites.

    Raises
    ------
    ConfigError
        If the sites are too few.
    """
    if settings.split == "folds":
        return site_folds(usable, wanted.folds, wanted.seed)
    dealt = carbonbench_folds(sites, settings.split, settings.seed, not settings.as_published, wanted.folds)
    folds = tuple(_among(fold, usable) for fold in dealt)
    if not all(fold.train and fold.test for fold in folds):
        message = (
            f"The {sum(len(fold.test) for fold in folds)} training sites of the {settings.split} split that bring all "
            f"inputs leave a fold of the search empty; ask for fewer folds (search.folds: {wanted.folds}) or inputs."
        )
        raise ConfigError(message)
    return folds


def _among(fold: Fold, sites: Sites) -> Fold:
    """Return a fold without the sites that are not among some."""
    known = set(sites.ids)
    train, test = (tuple(name for name in part if name in known) for part in (fold.train, fold.test))
    return Fold(train, test)


def split_text(settings: EvaluationConfig, folds: Sequence[Fold]) -> str:
    """Return a few words on how sites are held out."""
    if settings.split == "folds":
        return f"{len(folds)} folds of site groups"
    rule = "as published" if settings.as_published else "no site beside a test site in training"
    name = {"igbp": "IGBP", "koppen": "Koeppen"}[settings.split]
    return f"{name} split of CarbonBench, {rule}: {len(folds[0].train)} sites to train, {len(folds[0].test)} held out"


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
