"""Run KGML-ag, its calibrated heads or its fine-tuned copies on fields for the physics audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fluxgrid.errors import ConfigError, itemise
from fluxgrid.evaluation.audit import GLOBAL, FieldRun, Response, audit_model
from fluxgrid.models.calibration import ONE_PASS, Heads
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.models.kgml_ag import CropYear, KGMLAg
from fluxgrid.training.kgml.audit_runs import (
    DEFAULT_AUDIT,
    AuditSettings,
    Readout,
    global_readout,
    respond_fields,
    run_fields,
)
from fluxgrid.training.kgml.cover import hold_year
from fluxgrid.training.kgml.fields import CropFields

CALIBRATED = "calibrated"
"""Name of calibrated models in the table."""


def head_readout(heads: Heads, position: np.ndarray) -> Readout:
    """Return the readout of calibrated heads of places.

    Parameters
    ----------
    heads : Heads
        Kind ``affine``, ``linear`` or ``adapter``, of a `CropMosaic`.
    position : ndarray of int, (n,)
        Which of the heads reads each field.

    Returns
    -------
    readout : Readout
    """
    place = torch.from_numpy(np.asarray(position, np.int64))

    def read(year: CropYear, rows: Tensor) -> tuple[Tensor, Tensor]:
        hidden = {name: values[:, None] for name, values in year.hidden.items()}  # (B, 1, T, H)
        base = {"ra": year.ra[:, None, :, None], "rh": year.rh[:, None, :, None]}
        raw = heads.raw(hidden, base, place[rows])
        return raw["ra"][:, 0, :, 0], raw["rh"][:, 0, :, 0]

    return read


def place_network(heads: Heads, place: int) -> KGMLAg:
    """Return a copy of KGML-ag with the weights of one place (kinds ``lora`` and ``full`` of a `CropMosaic`)."""
    network = deepcopy(_mosaic(heads).crop)
    with torch.no_grad():
        weights = {k.removeprefix("crop."): v for k, v in heads.weights_of(place).items() if k.startswith("crop.")}
        network.load_state_dict(network.state_dict() | weights)
    return network.eval()


def _mosaic(heads: Heads) -> CropMosaic:
    """Return the network of heads; ConfigError if it holds no KGML-ag."""
    if not isinstance(heads.network, CropMosaic):
        message = f"The physics audit is of KGML-ag; these heads belong to a {type(heads.network).__name__}."
        raise ConfigError(message)
    return heads.network


def audit_network(
    network: KGMLAg,
    fields: CropFields,
    places: Sequence[str],
    readouts: Mapping[str, Readout] | None = None,
    settings: AuditSettings = DEFAULT_AUDIT,
) -> pd.DataFrame:
    """Return the physics audit of a network and of heads that read its hidden states, in one pass.

    Parameters
    ----------
    network : KGMLAg
        Left in evaluation mode.
    fields : CropFields
        With the GPP that is to be read.
    places : sequence of str, (n,)
        Name of each field's place.
    readouts : mapping of str to Readout, optional
        Heads by the model's name in the table, such as ``{"calibrated": head_readout(heads, position)}``. The global
        readout is always audited, and its response curves are what the others are held against.
    settings : AuditSettings

    Returns
    -------
    table : DataFrame
        As `audit_model` returns, of ``global`` and of each readout.

    Raises
    ------
    ConfigError
        If places do not fit the fields.

    Notes
    -----
    The NEE audited for mass balance is that of GRU_NEE fed with the Ra and Rh of the readout. Yield, and the residue
    that GRU_Rh reads, are those of the network under every readout.
    """
    named = _check(fields, places)
    heads = {GLOBAL: global_readout, **(readouts or {})}
    runs = run_fields(network, fields, named, heads, settings)
    curves = respond_fields(network, fields, named, heads, settings)
    return pd.concat([audit_model(name, runs[name], curves[name], curves[GLOBAL]) for name in heads], ignore_index=True)


def audit_places(
    network: KGMLAg,
    tuned: Mapping[str, KGMLAg],
    fields: CropFields,
    places: Sequence[str],
    settings: AuditSettings = DEFAULT_AUDIT,
) -> pd.DataFrame:
    """Return the physics audit of a network and of fine-tuned copies of it, each on the fields of its place.

    Parameters
    ----------
    network : KGMLAg
        The global one.
    tuned : mapping of str to KGMLAg
        Theta_s of each place.
    fields, places, settings
        As in `audit_network`.

    Returns
    -------
    table : DataFrame
        Models ``global`` and ``calibrated``.

    Raises
    ------
    ConfigError
        If places do not fit the fields or have no network.
    """
    named = _check(fields, places, tuned)
    alone = {GLOBAL: global_readout}
    before = run_fields(network, fields, named, alone, settings)[GLOBAL]
    reference = respond_fields(network, fields, named, alone, settings)[GLOBAL]
    runs, curves, order = [], [], []
    for place in dict.fromkeys(named.tolist()):
        rows = np.flatnonzero(named == place)
        own = (tuned[place], fields.select(rows), named[rows], alone, settings)
        runs.append(run_fields(*own)[GLOBAL])
        curves.append(respond_fields(*own)[GLOBAL])
        order.append(rows)
    run = _join_runs(runs).rows(np.argsort(np.concatenate(order)))
    calibrated = audit_model(CALIBRATED, run, _join_responses(curves), reference)
    return pd.concat([audit_model(GLOBAL, before, reference, reference), calibrated], ignore_index=True)


def audit_heads(
    heads: Heads,
    names: Sequence[str],
    fields: CropFields,
    position: np.ndarray,
    settings: AuditSettings = DEFAULT_AUDIT,
) -> pd.DataFrame:
    """Return the physics audit of calibrated heads of any kind beside their global model.

    Parameters
    ----------
    heads : Heads
        Of a `CropMosaic`.
    names : sequence of str, (P,)
        Of their places.
    fields : CropFields
    position : ndarray of int, (n,)
        Place of each field, 0 to P - 1.
    settings : AuditSettings

    Returns
    -------
    table : DataFrame
        Models ``global`` and ``calibrated``.

    Raises
    ------
    ConfigError
        If positions do not fit fields and places, or the heads belong to another model.
    """
    mosaic, position = _mosaic(heads), np.asarray(position)
    network = mosaic.crop
    if len(names) != heads.places or ((position < 0) | (position >= heads.places)).any():
        message = (
            f"There are heads of {heads.places} places; got {len(names)} names and fields of the places "
            f"{np.unique(position).tolist()}. Name each place, and number fields from 0 to {heads.places - 1}."
        )
        raise ConfigError(message)
    places = [names[i] for i in position]
    fields = replace(fields, features=hold_year(fields.features, mosaic))
    if mosaic.config.year == "held":
        settings = replace(settings, unread=("Year",))
    if heads.kind in ONE_PASS:
        return audit_network(network, fields, places, {CALIBRATED: head_readout(heads, position)}, settings)
    tuned = {names[i]: place_network(heads, i) for i in np.unique(position).tolist()}
    return audit_places(network, tuned, fields, places, settings)


def _check(fields: CropFields, places: Sequence[str], tuned: Mapping[str, KGMLAg] | None = None) -> np.ndarray:
    """Return the places as an array; ConfigError listing what does not fit."""
    problems = []
    if len(places) != len(fields) or len(fields) == 0:
        problems.append(f"{len(places)} names of places for {len(fields)} fields; each of one or more needs its own")
    if tuned is not None and (lost := sorted(set(places) - set(tuned))):
        problems.append(f"no fine-tuned network for {', '.join(lost)}; there are {', '.join(tuned) or 'none'}")
    if problems:
        raise ConfigError(itemise("The physics audit cannot be run", problems))
    return np.asarray(places, dtype=str)


def _join_runs(runs: Sequence[FieldRun]) -> FieldRun:
    """Return runs of the same years as one."""
    place, gpp, ra, rh, nee, grain = (
        np.concatenate([getattr(run, name) for run in runs]) for name in ("place", "gpp", "ra", "rh", "nee", "grain")
    )
    return FieldRun(place, runs[0].years, gpp, ra, rh, nee, grain)


def _join_responses(parts: Sequence[Mapping[str, Response]]) -> dict[str, Response]:
    """Return responses of different fields as one, by input."""
    return {feature: _join([part[feature] for part in parts]) for feature in parts[0]}


def _join(parts: Sequence[Response]) -> Response:
    """Return responses of different fields to one input as one."""
    ra, rh, grain = (np.concatenate([getattr(each, name) for each in parts], axis=1) for name in ("ra", "rh", "grain"))
    return Response(np.concatenate([each.place for each in parts]), parts[0].values, ra, rh, grain)
