"""Step 3 of KGML-ag: Basis and yield learn from the yields of counties."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fluxgrid.data.crop_inputs import CROP_TYPE, GPP
from fluxgrid.data.kgml import feature_index
from fluxgrid.errors import TableError
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.training.kgml.descent import Descent, Report, StepHistory, descend
from fluxgrid.training.kgml.fields import CropFields
from fluxgrid.training.kgml.losses import falling, paced, yield_bounds
from fluxgrid.training.kgml.responses import fields_for_responses, grid_of, thinned
from fluxgrid.training.kgml.settings import KGMLSettings
from fluxgrid.training.kgml.walk import Track, make_track

_HELD = 5
"""One county in so many chooses the epoch."""


@dataclass(frozen=True, eq=False)
class Survey:
    """Yields of counties, and fields that stand for each."""

    fields: CropFields
    """At least one of each rotation in every county."""
    county: np.ndarray
    """Row of `yields` that each field belongs to, (n,)."""
    yields: np.ndarray
    """Carbon in grain of corn and of soybean, (counties, Y, 2), g m-2 of the crop; NaN where none is published."""


def match_survey(table: pd.DataFrame, fields: CropFields, fips: np.ndarray) -> Survey:
    """Return a survey's yields in the order of fields.

    Parameters
    ----------
    table : DataFrame
        ``fips``, ``year``, ``crop`` and ``yield_g_m2``, from `fluxgrid.simulation.county_yields` or
        `fluxgrid.sources.nass.read_nass_yields`.
    fields : CropFields
    fips : ndarray of str, (n,)
        County of each field.

    Returns
    -------
    survey : Survey

    Raises
    ------
    TableError
        If no county of the fields reports a yield in their years.
    """
    counties, owner = np.unique(fips.astype(str), return_inverse=True)
    wide = table.assign(fips=table["fips"].astype(str)).pivot_table("yield_g_m2", "fips", ["crop", "year"])
    wanted = pd.MultiIndex.from_product([("corn", "soybean"), fields.years])
    values = wide.reindex(index=counties, columns=wanted).to_numpy().reshape(len(counties), 2, len(fields.years))
    if not np.isfinite(values).any():
        message = (
            f"None of the {len(counties)} counties of the fields reports a yield in {fields.years[0]} to "
            f"{fields.years[-1]}. Give a survey of these states and years."
        )
        raise TableError(message)
    return Survey(fields, owner, values.swapaxes(1, 2).astype(np.float32))


def learn_yields(
    network: KGMLAg, survey: Survey, settings: KGMLSettings, report: Report = lambda _: None
) -> StepHistory:
    """Step 3: train the yield and, more slowly, the Basis on counties; Ra, Rh and NEE are frozen.

    Parameters
    ----------
    network : KGMLAg
        Changed in place.
    survey : Survey
    settings : KGMLSettings
        ``yields.batch`` is counties per optimiser step.
    report : callable

    Returns
    -------
    history : StepHistory

    Notes
    -----
    Three terms, none weighed: the self-paced squared errors, mean over both crops (z-scores of the synthetic set), and
    yields outside 0 to half the year's GPP (g m-2), at every year of a batch; and by an optimiser step of its own
    before a batch the slopes by which the yield falls where GPP, year or soil carbon rise. Without a budget these are
    tested before each batch over their whole grids.
    """
    begun, step = time.perf_counter(), settings.yields
    track = make_track(survey.fields, network, settings.held_years, settings.seed)
    observed = (torch.from_numpy(survey.yields) - network.outputs[0, 3]) / network.outputs[1, 3]
    county = torch.from_numpy(survey.county)
    network.requires_grad_(False)
    head = [*network.attention.parameters(), *network.grain.parameters()]
    for parameter in (*head, *network.basis.parameters()):
        parameter.requires_grad_(True)
    descent = Descent([(head, 1.0), (network.basis.parameters(), settings.basis_rate)], step)
    generator = torch.Generator().manual_seed(settings.seed)
    counties = torch.isfinite(observed).any(dim=2).any(dim=1).nonzero().flatten()  # others would teach nothing
    order = torch.arange(len(counties)) % _HELD
    used, held = counties[order != 0], counties[order == 0]
    tested = fields_for_responses(track, settings.budget, settings.seed)

    def losses(some: Tensor, threshold: float) -> Iterator[Tensor]:
        """Yield the loss of each year at some counties."""
        rows = torch.isin(county, some).nonzero().flatten()
        part, owner = track.rows(rows), torch.searchsorted(some, county[rows])
        for year, days, grain in _years(network, part, settings.spin_up_years):
            corn = part.z[:, days.start, CROP_TYPE] < 0  # code 1 against 5
            errors = _county_errors(grain, corn, owner, observed[some][:, year])
            if len(errors):
                gpp = (part.z[:, days, GPP] * network.features[1, GPP] + network.features[0, GPP]).sum(dim=1)
                yield paced(errors, threshold) + yield_bounds(network.physical("yield", grain), gpp)

    def epoch_loss(epoch: int) -> float:
        found = []
        for number, some in enumerate(used[torch.randperm(len(used), generator=generator)].split(step.batch)):
            if settings.budget is None or number % settings.budget.every == 0:
                descent.step(_slopes(network, tested, settings, generator))
            for loss in losses(some.sort().values, settings.yield_pacing.threshold(epoch)):
                found.append(descent.step(loss))
        return float(np.mean(found))

    @torch.no_grad()
    def held_out() -> float:
        return float(torch.stack(list(losses(held, float("inf")))).mean())

    history = descend(network, step, descent, epoch_loss, held_out, "step 3", report)
    return replace(history, seconds=time.perf_counter() - begun)


def _years(network: KGMLAg, part: Track, spin_up: int) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield the yield of each year, (B,), z-scores; Basis only."""
    state = None
    for days in part.years[:spin_up]:
        with torch.no_grad():
            state = network.basis(part.z[:, days], state)[1]
    for year, days in enumerate(part.years):
        basis, state = network.basis(part.z[:, days], state)
        state = state.detach()
        yield year, days, network.grain_of(network.dropout(basis))


def _county_errors(grain: Tensor, corn: Tensor, owner: Tensor, observed: Tensor) -> Tensor:
    """Return squared errors of county means of both crops, one after the other, where a yield is published."""
    errors = []
    for crop, grows in enumerate((corn, ~corn)):
        total = grain.new_zeros(len(observed)).index_add(0, owner[grows], grain[grows])
        count = grain.new_zeros(len(observed)).index_add(0, owner[grows], torch.ones_like(grain[grows]))
        known = torch.isfinite(observed[:, crop]) & (count > 0)
        errors.append((total / count.clamp_min(1.0) - torch.nan_to_num(observed[:, crop]))[known].square())
    return torch.cat(errors)


def _slopes(network: KGMLAg, tested: Track, settings: KGMLSettings, generator: torch.Generator) -> Tensor:
    """Return how far the yield falls where GPP, year or soil carbon rise; one of them within a budget."""
    names: tuple[str, ...] = ("GPP", "Year", "TSOC")
    if settings.budget is not None:
        names = (names[int(torch.randint(3, (1,), generator=generator))],)
    spin_up = settings.spin_up_years if settings.budget is None else min(1, settings.spin_up_years)
    loss = tested.z.new_zeros(())
    for name in names:
        values = thinned(grid_of(name), settings.budget, generator)
        varied = tested.z.repeat(len(values), 1, 1)
        varied[..., feature_index(name)] = values.repeat_interleave(len(tested))[:, None]
        part = Track(varied, tested.targets, tested.grain, tested.years, tested.counts)
        grain = torch.stack([g for _, _, g in _years(network, part, spin_up)]).mean(dim=0)
        loss = loss + falling(grain.view(len(values), -1).mean(dim=1), values)
    return loss
