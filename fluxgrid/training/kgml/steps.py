"""The five training steps of KGML-ag, each a function of a network and its data that changes the network in place.

Which parts are trained, the losses and their scales are those of Liu et al. 2024 (doi:10.1038/s41467-023-43860-5); the
published demonstration leaves out the script of step 4, which is step 2 once more on the weights of step 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.models.kgml_ag import OUTPUTS, CropYear, KGMLAg
from fluxgrid.training.kgml.descent import Descent, Report, StepHistory, descend
from fluxgrid.training.kgml.losses import balance, falling, paced
from fluxgrid.training.kgml.responses import fields_for_responses, grid_of, respond, spin_up_of, thinned
from fluxgrid.training.kgml.settings import KGMLSettings, StepSettings
from fluxgrid.training.kgml.walk import Track

Anchor = Callable[[], Tensor]
"""An extra loss on the weights themselves, such as L2-SP."""


def emulate_ra(
    network: KGMLAg, track: Track, settings: KGMLSettings, report: Report = lambda _: None, anchor: Anchor | None = None
) -> StepHistory:
    """Step 1: train Basis, yield and Ra on the process model, easy fields first.

    Parameters
    ----------
    network : KGMLAg
        Changed in place.
    track : Track
        Fields of the process model.
    settings : KGMLSettings
    report : callable
        Takes one line of progress.
    anchor : callable, optional
        Loss on the weights, added to each optimiser step's.

    Returns
    -------
    history : StepHistory
    """
    begun, step = time.perf_counter(), settings.emulate_ra
    trained = (network.basis, network.attention, network.grain, network.ra, network.ra_head)
    _freeze(network, trained)
    descent = Descent([(_weights(trained), 1.0)], step)
    generator = torch.Generator().manual_seed(settings.seed)

    def forward(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Ra (B, T), yield (B,) and the state; Rh and NEE are left where they were."""
        start = network.split(state)
        basis, last = network.basis(z, start["basis"])
        basis = network.dropout(basis)
        hidden, ra_last = network.ra(torch.cat([basis, z], dim=-1), start["ra"])
        after = torch.cat([last, ra_last, start["rh"], start["nee"]]).transpose(0, 1).reshape(len(z), -1)
        return network.ra_head(network.dropout(hidden))[..., 0], network.grain_of(basis), after

    def years(part: Track) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each year's error of Ra (B,) and yield (B,)."""
        state = part.z.new_zeros(len(part), network.state_size)
        for days in part.years[: settings.spin_up_years]:
            with torch.no_grad():
                state = forward(part.z[:, days], state)[2]
        for year, days in enumerate(part.years):
            ra, grain, state = forward(part.z[:, days], state)
            state = state.detach()
            yield (
                year,
                (ra - part.targets[:, days, 0]).square().mean(dim=1),
                (grain - part.grain[:, year]).square(),
            )

    def epoch_loss(epoch: int) -> float:
        losses = []
        threshold = settings.pacing.threshold(epoch)
        for part in _batches(track, step.batch, generator):
            for year, ra, grain in years(part):
                counts = part.counts[:, year]
                if counts.any():
                    loss = paced(ra[counts], threshold) + paced(grain[counts], threshold)
                    losses.append(descent.step(loss + anchor() if anchor else loss))
        return sum(losses) / max(len(losses), 1)

    @torch.no_grad()
    def held_out() -> float:
        rows = [ra[~t.counts[:, y]] + grain[~t.counts[:, y]] for t in _parts(track) for y, ra, grain in years(t)]
        return float(torch.cat(rows).mean())

    history = descend(network, step, descent, epoch_loss, held_out, "step 1", report, may_stay=anchor is not None)
    return replace(history, seconds=time.perf_counter() - begun)


def emulate_rest(
    network: KGMLAg,
    track: Track,
    settings: KGMLSettings,
    report: Report = lambda _: None,
    anchor: Anchor | None = None,
    step: StepSettings | None = None,
    name: str = "step 2",
) -> StepHistory:
    """Step 2, and step 4 with its own settings: train Ra, Rh and NEE on the process model, Basis and yield frozen.

    Parameters
    ----------
    network : KGMLAg
        Changed in place.
    track : Track
        Fields of the process model; in step 4 with the GPP that maps are made with.
    settings : KGMLSettings
    report : callable
    anchor : callable, optional
        Loss on the weights, added to each optimiser step's.
    step : StepSettings, optional
        Instead of ``settings.emulate_rest``.
    name : str
        For reports.

    Returns
    -------
    history : StepHistory
    """
    begun, step = time.perf_counter(), step or settings.emulate_rest
    trained = (network.ra, network.ra_head, network.rh, network.rh_head, network.nee, network.nee_head)
    _freeze(network, trained)
    descent = Descent([(_weights(trained), 1.0)], step)
    generator = torch.Generator().manual_seed(settings.seed)
    network.eval()
    known = _basis_of(network, track, settings.spin_up_years)
    tested = fields_for_responses(track, settings.budget, settings.seed)

    def epoch_loss(epoch: int) -> float:
        losses, every = [], settings.budget.every if settings.budget else 1
        for number, rows in enumerate(torch.randperm(len(track), generator=generator).split(step.batch)):
            if epoch and number % every == 0:
                descent.step(soil_carbon(network, tested, settings, generator))
            part = track.rows(rows)
            for year, days, result in _years_after_basis(network, part, known.rows(rows), settings.spin_up_years):
                counts = part.counts[:, year]
                if counts.any():
                    loss = _emulation_loss(network, part, days, result, counts, settings)
                    losses.append(descent.step(loss + anchor() if anchor else loss))
        return sum(losses) / max(len(losses), 1)

    @torch.no_grad()
    def held_out() -> float:
        total = track.z.new_zeros(2)
        for rows in torch.arange(len(track)).split(128):
            part = track.rows(rows)
            for year, days, result in _years_after_basis(network, part, known.rows(rows), settings.spin_up_years):
                held = ~part.counts[:, year]
                if held.any():
                    loss = _emulation_loss(network, part, days, result, held, settings)
                    total += torch.stack([loss * held.sum(), held.sum()])
        return float(total[0] / total[1] + soil_carbon(network, tested, settings, generator))

    history = descend(network, step, descent, epoch_loss, held_out, name, report, may_stay=anchor is not None)
    return replace(history, seconds=time.perf_counter() - begun)


def soil_carbon(network: KGMLAg, tested: Track, settings: KGMLSettings, generator: torch.Generator) -> Tensor:
    """Return how far respiration of the soil falls where soil carbon rises (L_SOC), over the response grid."""
    values = thinned(grid_of("TSOC"), settings.budget, generator)
    spin_up, again = spin_up_of(settings)
    return falling(-respond(network, tested, "TSOC", values, spin_up, again=again).rh, values)


def _emulation_loss(
    network: KGMLAg, part: Track, days: slice, result: CropYear, counts: Tensor, settings: KGMLSettings
) -> Tensor:
    """Return the errors of Ra, Rh and NEE in z-scores and the open carbon balance in g m-2 d-1."""
    guess = torch.stack([result.ra, result.rh, result.nee], dim=-1)
    errors = (guess - part.targets[:, days])[counts].square().mean(dim=(0, 1)).sum()
    ra, rh, nee = (network.physical(name, guess[counts][..., i]) for i, name in enumerate(OUTPUTS[:3]))
    gpp = part.z[:, days, GPP][counts] * network.features[1, GPP] + network.features[0, GPP]
    return errors + settings.balance_weight * balance(gpp, ra, rh, nee, settings.tolerance)


class _Known:
    """What the frozen Basis says of fields: its outputs and yields do not change while the rest is trained."""

    def __init__(self, basis: Tensor, grain: Tensor):
        self.basis, self.grain = basis, grain

    def rows(self, index: Tensor) -> _Known:
        """Return some of the fields."""
        return _Known(self.basis[index], self.grain[index])


@torch.no_grad()
def _basis_of(network: KGMLAg, track: Track, spin_up: int) -> _Known:
    """Return outputs (n, T, H) and yields (n, Y) of the Basis."""
    rows = [_basis_rows(network, part, spin_up) for part in _parts(track)]
    basis, grain = (torch.cat(part) for part in zip(*rows, strict=True))
    return _Known(basis, grain)


def _basis_rows(network: KGMLAg, part: Track, spin_up: int) -> tuple[Tensor, Tensor]:
    """Return them for one batch."""
    state = None
    for days in part.years[:spin_up]:
        state = network.basis(part.z[:, days], state)[1]
    outputs, grain = [], []
    for days in part.years:
        basis, state = network.basis(part.z[:, days], state)
        outputs.append(basis)
        grain.append(network.grain_of(basis))
    return torch.cat(outputs, dim=1), torch.stack(grain, dim=1)


def _years_after_basis(
    network: KGMLAg, part: Track, known: _Known, spin_up: int
) -> Iterator[tuple[int, slice, CropYear]]:
    """Yield the years of fields whose Basis is known; spin-up first."""
    state = part.z.new_zeros(len(part), network.state_size)

    def one(year: int, days: slice, state: Tensor) -> CropYear:
        start = network.split(state)
        basis = network.dropout(known.basis[:, days])
        return network.after_basis(part.z[:, days], basis, start, start["basis"], known.grain[:, year])

    with torch.no_grad():
        for year, days in enumerate(part.years[:spin_up]):
            state = one(year, days, state).state
    for year, days in enumerate(part.years):
        result = one(year, days, state)
        state = result.state.detach()
        yield year, days, result


def _freeze(network: KGMLAg, trained: Iterable[nn.Module]) -> None:
    """Let gradients reach the trained parts only."""
    network.requires_grad_(False)
    for part in trained:
        part.requires_grad_(True)


def _weights(parts: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters of parts."""
    return [parameter for part in parts for parameter in part.parameters()]


def _batches(track: Track, size: int, generator: torch.Generator) -> Iterator[Track]:
    """Yield fields in random batches."""
    for rows in torch.randperm(len(track), generator=generator).split(size):
        yield track.rows(rows)


def _parts(track: Track) -> Iterator[Track]:
    """Yield fields in order, many at a time."""
    for rows in torch.arange(len(track)).split(128):
        yield track.rows(rows)
