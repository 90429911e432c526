"""What KGML-ag and heads that read its hidden states say of fields, as the physics audit wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from fluxgrid.data.crop_inputs import CROP_FEATURES, GPP
from fluxgrid.evaluation.audit import CONSISTENCY_LIMITS, FieldRun, Response
from fluxgrid.models.kgml_ag import LAYERS, CropYear, KGMLAg
from fluxgrid.training.kgml.fields import CropFields
from fluxgrid.training.kgml.responses import RARER, grid_of

Readout = Callable[[CropYear, Tensor], tuple[Tensor, Tensor]]
"""Z-scores of Ra and Rh, (B, T) each, of a year of the backbone and the numbers (B,) of its fields."""


@dataclass(frozen=True)
class AuditSettings:
    """How much is run."""

    spin_up_years: Annotated[int, Field(ge=0)] = 2
    """Years run from zero before the first, which is then run again."""
    batch: Annotated[int, Field(ge=1)] = 128
    """Fields at a time."""
    response_fields: Annotated[int, Field(ge=1)] = 4
    """Fields of each place whose inputs are varied."""
    response_years: Annotated[int, Field(ge=1)] = 2
    """Years run of each, the first of them as spin-up if there are two or more."""
    unread: tuple[str, ...] = ()
    """Inputs that never change where the network is used: the response to them is flat."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


DEFAULT_AUDIT = AuditSettings()
"""The default: the fields of a shipped calibration take a few minutes on one core."""


class _Said(NamedTuple):
    """One year of one readout, (B, T) each and (B,); z-scores."""

    ra: Tensor
    rh: Tensor
    nee: Tensor
    grain: Tensor


def global_readout(year: CropYear, rows: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Return Ra and Rh of the network itself; a `Readout`."""
    return year.ra, year.rh


@torch.inference_mode()
def run_fields(
    network: KGMLAg,
    fields: CropFields,
    places: np.ndarray,
    readouts: Mapping[str, Readout],
    settings: AuditSettings = DEFAULT_AUDIT,
) -> dict[str, FieldRun]:
    """Run a network once through all years and return what each readout says.

    Parameters
    ----------
    network : KGMLAg
    fields : CropFields
    places : ndarray of str, (n,)
    readouts : mapping of str to Readout
    settings : AuditSettings

    Returns
    -------
    runs : dict of str to FieldRun
    """
    network.eval()
    years = tuple(fields.days(year) for year in fields.years)
    plan = [*((days, False) for days in years[: settings.spin_up_years]), *((days, True) for days in years)]
    batches: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in readouts}
    for rows in torch.arange(len(fields)).split(settings.batch):
        z = network.scale(torch.from_numpy(fields.features[rows.numpy()]))
        said = _listen(network, z, plan, rows, readouts)
        for name, parts in said.items():
            daily = (torch.cat([getattr(p, flux) for p in parts], dim=1) for flux in ("ra", "rh", "nee"))
            batches[name].append((*daily, torch.stack([p.grain for p in parts], dim=1)))
    gpp = fields.features[..., GPP]
    runs = {}
    for name, batch in batches.items():
        values = (torch.cat(part) for part in zip(*batch, strict=True))
        native = [network.physical(o, v).numpy() for o, v in zip(("ra", "rh", "nee", "yield"), values, strict=True)]
        runs[name] = FieldRun(places, years, gpp, *native)
    return runs


@torch.inference_mode()
def respond_fields(
    network: KGMLAg,
    fields: CropFields,
    places: np.ndarray,
    readouts: Mapping[str, Readout],
    settings: AuditSettings = DEFAULT_AUDIT,
) -> dict[str, dict[str, Response]]:
    """Return the response curves of some fields of each place under each readout.

    Parameters
    ----------
    network : KGMLAg
    fields : CropFields
    places : ndarray of str, (n,)
    readouts : mapping of str to Readout
    settings : AuditSettings

    Returns
    -------
    responses : dict of str to dict of str to Response
        By readout, then by input; every third value of the published grid, as in its step 5.
    """
    network.eval()
    chosen = _spread(places, settings.response_fields)
    z = network.scale(torch.from_numpy(fields.features[chosen]))
    years = [fields.days(year) for year in fields.years[: settings.response_years]]
    spin_up = min(1, len(years) - 1)
    plan = [(days, number >= spin_up) for number, days in enumerate(years)]
    found: dict[str, dict[str, Response]] = {name: {} for name in readouts}
    for feature in CONSISTENCY_LIMITS:
        values = grid_of(feature, RARER)
        means = _respond(network, z, torch.from_numpy(chosen), (feature, values), plan, readouts, settings)
        for name, (ra, rh, grain) in means.items():
            native = (network.physical("ra", ra).numpy(), network.physical("rh", rh).numpy())
            found[name][feature] = Response(places[chosen], values.numpy(), *native, grain.numpy())
    return found


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    """Return up to so many fields of each place, evenly over their order, which holds one rotation after another."""
    rows = [np.flatnonzero(places == place) for place in dict.fromkeys(places.tolist())]
    return np.concatenate([each[np.linspace(0, len(each) - 1, min(count, len(each))).astype(int)] for each in rows])


Plan = Sequence[tuple[slice, bool]]
"""Years in the order they are run, and whether what is said of them counts."""


def _respond(
    network: KGMLAg,
    z: Tensor,
    rows: Tensor,
    setting: tuple[str, Tensor],
    plan: Plan,
    readouts: Mapping[str, Readout],
    settings: AuditSettings,
) -> dict[str, tuple[Tensor, ...]]:
    """Return means over days of Ra, Rh and yield by readout, (V, n) each, with an input of z (n, T, 19) varied."""
    feature, values = setting
    n, column = len(z), CROP_FEATURES.index(feature)
    pairs = torch.cartesian_prod(torch.arange(len(values)), torch.arange(n))
    parts: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in readouts}
    for which in pairs.split(settings.batch):
        value, field = which.unbind(dim=1)
        varied = z[field]
        if feature not in settings.unread:
            varied[..., column] = values[value][:, None]
        for name, years in _listen(network, varied, plan, rows[field], readouts, diagnose=False).items():
            means = [(year.ra.mean(dim=1), year.rh.mean(dim=1), year.grain) for year in years]
            parts[name].append(tuple(torch.stack(each).mean(dim=0) for each in zip(*means, strict=True)))
    return {
        name: tuple(torch.cat(each).view(len(values), n) for each in zip(*batches, strict=True))
        for name, batches in parts.items()
    }


def _listen(
    network: KGMLAg, z: Tensor, plan: Plan, rows: Tensor, readouts: Mapping[str, Readout], diagnose: bool = True
) -> dict[str, list[_Said]]:
    """Return what each readout says of the years that count."""
    said: dict[str, list[_Said]] = {name: [] for name in readouts}
    for name, counts, year in _pass(network, z, plan, rows, readouts, diagnose):
        if counts:
            said[name].append(year)
    return said


def _pass(
    network: KGMLAg, z: Tensor, plan: Plan, rows: Tensor, readouts: Mapping[str, Readout], diagnose: bool
) -> Iterator[tuple[str, bool, _Said]]:
    """Yield the years of a plan; the backbone runs once, GRU_NEE once for each readout."""
    state = z.new_zeros(len(z), network.state_size)
    own = {name: z.new_zeros(LAYERS["nee"], len(z), network.hidden) for name in readouts}
    for days, counts in plan:
        year = network(z[:, days], state, diagnose=False)
        state = year.state
        for name, readout in readouts.items():
            ra, rh = readout(year, rows)
            nee = year.nee
            if diagnose:
                read = torch.cat([ra[..., None], rh[..., None], z[:, days]], dim=-1)
                hidden, own[name] = network.nee(read, own[name])
                nee = network.nee_head(hidden)[..., 0]
            yield name, counts, _Said(ra, rh, nee, year.grain)
