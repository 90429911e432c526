"""Calibrate the heads of places on a trained network: Eq. 2 and 3 of FTBSC-KGML with small parameter sets.

Source: Zeng et al. 2025 (arXiv:2512.16013), which leaves the form of the heads, mu and rho open; ours stand in
`CalibrationSettings`. All places whose heads act on last hidden states are fitted at once over one pass of the
backbone; ``lora`` and ``full`` take a pass for each place and step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from fluxgrid.errors import ConfigError
from fluxgrid.models.calibration import ONE_PASS, Heads, Kind
from fluxgrid.models.network import Network, Taps

Report = Callable[[str], None]
_AT_ONCE = 64
"""Rows run together."""
WHOLE_YEAR = 0.95
"""Least part of a record's longest year that counts as a whole one, for a short record is better than none."""
_TINY = 1e-9
"""Least variance that is divided by."""


RATES: Mapping[Kind, float] = {"affine": 1e-2, "linear": 1e-2, "adapter": 1e-2, "lora": 1e-2, "full": 1e-3}
"""Learning rates: what changes trained weights must step more softly."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How heads are fitted."""

    kind: Kind = "adapter"
    """Form of phi_s; `fluxgrid.models.calibration` says what each is."""
    rank: Annotated[int, Field(ge=1)] = 4
    """Width of the adapter, rank of lora."""
    penalty: Annotated[float, Field(ge=0)] = 1e-2
    """Weight of the squared norm of a place's parameters: rho of Eq. 3; of Eq. 2, mu, for ``full`` and ``lora``."""
    consistency: Annotated[float, Field(ge=0)] = 0.1
    """Weight of `reshaped`: what a head changes other than in proportion to the global model, our L_phys of a head."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps; of each place for ``lora`` and ``full``."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Of Adam, falling by a cosine; by default `RATES` of the kind."""
    stride: Annotated[int, Field(ge=1)] = 5
    """Every so many days of the record are fitted; errors of neighbouring days are alike."""
    spin_up_years: Annotated[int, Field(ge=0)] = 2
    """Run from zero before the record; `fluxgrid calibrate` takes the model's own."""
    seed: Annotated[int, Field(ge=0)] = 0

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES[self.kind] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known at places: inputs as the network reads them, fluxes, and whose each row is."""

    dynamic: Tensor
    """Scaled, (n, T, F)."""
    static: Tensor
    """Scaled, (n, S)."""
    fluxes: Mapping[str, Tensor]
    """Some of ``gpp``, ``ra``, ``rh``, ``reco``, ``nee``, (n, T), g m-2 d-1; NaN where not known."""
    place: Tensor
    """Position of each row's place, (n,)."""
    years: tuple[slice, ...]
    """Days of each calendar year."""

    @property
    def places(self) -> int:
        """Number P of places."""
        return int(self.place.max()) + 1

    def of_places(self, place: Tensor) -> Evidence:
        """Return the same rows given to other places."""
        return replace(self, place=place)

    def rows(self, index: Tensor) -> Evidence:
        """Return some of the rows."""
        fluxes = {name: values[index] for name, values in self.fluxes.items()}
        return replace(
            self, dynamic=self.dynamic[index], static=self.static[index], fluxes=fluxes, place=self.place[index]
        )


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Heads and what fitting them took."""

    heads: Heads
    seconds: float
    loss: tuple[float, float]
    """Mean loss over places before and after, each flux over its variance."""


@dataclass(frozen=True, eq=False)
class Passed:
    """One pass of the backbone over evidence, on some of its days."""

    taps: Taps
    fluxes: dict[str, Tensor]
    """Known fluxes on these days, (n, days)."""
    place: Tensor
    ran: Tensor
    """Whether a row has the day, (n, days) of bool: shorter records end earlier."""
    year: Tensor
    """Running number of the calendar year within the record, (n, days); below 0 where `WHOLE_YEAR` leaves it out."""

    @property
    def days(self) -> int:
        """Number of days kept."""
        return next(iter(self.fluxes.values())).shape[1]

    def of_places(self, place: Tensor) -> Passed:
        """Return the same rows given to other places."""
        return replace(self, place=place)


def calibrate(
    network: Network,
    outputs: Sequence[str],
    evidence: Sequence[Evidence],
    settings: CalibrationSettings,
    report: Report = lambda _: None,
) -> Calibrated:
    """Fit a head to each place, all others equal to the global model.

    Parameters
    ----------
    network : Network
        The global model; not changed.
    outputs : sequence of str
        Names of its outputs, such as ``("gpp", "ra", "rh")``.
    evidence : sequence of Evidence
        One for each set of days that records cover.
    settings : CalibrationSettings
    report : callable
        Takes one line of progress.

    Returns
    -------
    calibrated : Calibrated

    Raises
    ------
    ConfigError
        If none of the known fluxes is among the outputs, or follows from them.
    """
    begun = time.perf_counter()
    torch.manual_seed(settings.seed)
    network.eval()
    network.requires_grad_(False)
    heads = Heads(network, settings.kind, 1 + max(int(part.place.max()) for part in evidence), settings.rank)
    if settings.kind in ONE_PASS:
        passed = pass_all(network, evidence, settings.spin_up_years, settings.stride)
        loss = fit_on_pass(heads, outputs, passed, settings, report)
    else:
        loss = _fit_each(heads, outputs, evidence, settings, report)
    network.requires_grad_(True)
    return Calibrated(heads.eval(), round(time.perf_counter() - begun, 2), loss)


def pass_all(network: Network, evidence: Sequence[Evidence], spin_up: int, stride: int) -> Passed:
    """Run the backbone over records of different days and join them; shorter ones end in days nothing is known of."""
    return join_passes([pass_backbone(network, part, spin_up, stride) for part in evidence])


def join_passes(parts: Sequence[Passed]) -> Passed:
    """Return passes of different rows as one."""
    longest = max(part.days for part in parts)

    def joined(rows: Sequence[Tensor], axis: int, fill: float) -> Tensor:
        padded = []
        for row in rows:
            shape = list(row.shape)
            shape[axis] = longest - shape[axis]
            padded.append(torch.cat([row, row.new_full(shape, fill)], dim=axis))
        return torch.cat(padded)

    first = parts[0]
    hidden = {tap: joined([part.taps.hidden[tap] for part in parts], 2, 0.0) for tap in first.taps.hidden}
    context = {name: joined([part.taps.context[name] for part in parts], -1, 0.0) for name in first.taps.context}
    names = list(dict.fromkeys(name for part in parts for name in part.fluxes))
    unknown = [torch.full(part.ran.shape, torch.nan) for part in parts]
    fluxes = {
        name: joined([part.fluxes.get(name, none) for part, none in zip(parts, unknown, strict=True)], 1, torch.nan)
        for name in names
    }
    state, place = (torch.cat(rows) for rows in zip(*((p.taps.state, p.place) for p in parts), strict=True))
    ran = joined([part.ran for part in parts], 1, False)
    year = joined([part.year for part in parts], 1, -1)
    return Passed(Taps(hidden, context, state), fluxes, place, ran, year)


@torch.no_grad()
def pass_backbone(network: Network, evidence: Evidence, spin_up: int, stride: int) -> Passed:
    """Run the backbone over evidence once and keep every `stride`-th day.

    Parameters
    ----------
    network : Network
    evidence : Evidence
    spin_up : int
        Years run first, from zero.
    stride : int
        Every so many days are kept, from the first on.

    Returns
    -------
    passed : Passed
    """
    kept = torch.arange(0, evidence.dynamic.shape[1], stride)
    parts = [_pass_rows(network, evidence.rows(rows), spin_up, kept) for rows in _chunks(len(evidence.place))]
    hidden = {tap: torch.cat([part.hidden[tap] for part in parts]) for tap in parts[0].hidden}
    context = {name: torch.cat([part.context[name] for part in parts]) for name in parts[0].context}
    state = torch.cat([part.state for part in parts])
    fluxes = {name: values[:, kept] for name, values in evidence.fluxes.items()}
    ran = torch.ones(len(evidence.place), len(kept), dtype=torch.bool)
    year = _whole_years(evidence.years)[kept].expand(len(evidence.place), -1)
    return Passed(Taps(hidden, context, state), fluxes, evidence.place, ran, year)


def _whole_years(years: Sequence[slice]) -> Tensor:
    """Return the running number of each day's year, (T,); -1 in years cut short at an end of the record."""
    lengths = [days.stop - days.start for days in years]
    whole = [number if length >= WHOLE_YEAR * max(lengths) else -1 for number, length in enumerate(lengths)]
    return torch.tensor(whole).repeat_interleave(torch.tensor(lengths))


def _chunks(n: int) -> Sequence[Tensor]:
    """Return positions of n rows, some at a time."""
    return torch.arange(n).split(_AT_ONCE)


def _pass_rows(network: Network, part: Evidence, spin_up: int, kept: Tensor) -> Taps:
    """Run one chunk year by year."""
    state = torch.zeros(len(part.place), network.state_size)
    for days in part.years[:spin_up]:
        state = network.run(part.dynamic[:, days], part.static, state).state
    hidden: dict[str, list[Tensor]] = {}
    context: dict[str, list[Tensor]] = {}
    for days in part.years:
        taps = network.run(part.dynamic[:, days], part.static, state)
        state = taps.state
        own = kept[(kept >= days.start) & (kept < days.stop)] - days.start
        for name, values in taps.hidden.items():
            hidden.setdefault(name, []).append(values[:, :, own])
        for name, values in taps.context.items():
            # what runs by itself has a day axis behind that of its runs
            context.setdefault(name, []).append(values[..., own])
    return Taps(
        {name: torch.cat(rows, dim=2) for name, rows in hidden.items()},
        {name: torch.cat(rows, dim=-1) for name, rows in context.items()},
        state,
    )


def outputs_of(network: Network, heads: Heads | None, passed: Passed, place: Tensor | None = None) -> Tensor:
    """Return fluxes (n, days, O) read out of a pass by heads, or by the global model."""
    raw = network.raw(passed.taps.hidden)
    if heads is not None:
        raw = heads.raw(passed.taps.hidden, raw, passed.place if place is None else place)
    return network.finish(raw, passed.taps.context)


def named(fluxes: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    """Return outputs (..., O) by name, with RECO and NEE where they follow."""
    row = {name: fluxes[..., i] for i, name in enumerate(outputs)}
    if "reco" not in row and {"ra", "rh"} <= row.keys():
        row["reco"] = row["ra"] + row["rh"]
    if {"gpp", "reco"} <= row.keys():
        row["nee"] = row["reco"] - row["gpp"]
    return row


def spreads(fluxes: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the variance of each known flux over all rows, (g m-2 d-1)2."""
    found = {}
    for name in dict.fromkeys(name for part in fluxes for name in part):
        known = torch.cat([part[name][torch.isfinite(part[name])] for part in fluxes if name in part])
        found[name] = max(float(known.var()) if len(known) > 1 else 0.0, 1e-6)
    return found


def place_losses(
    guess: Mapping[str, Tensor], known: Mapping[str, Tensor], place: Tensor, places: int, spread: Mapping[str, float]
) -> Tensor:
    """Return the mean squared error of each place over all its fluxes, each over its variance, (P,)."""
    total, count = torch.zeros(places), torch.zeros(places)
    for name, truth in known.items():
        if name in guess:
            seen = torch.isfinite(truth) & torch.isfinite(guess[name])
            error = torch.where(seen, guess[name] - torch.nan_to_num(truth), 0.0).square() / spread[name]
            total = total.index_add(0, place, error.sum(dim=1))
            count = count.index_add(0, place, seen.sum(dim=1).float())
    if not bool((count > 0).any()):
        message = (
            f"Nothing can be fitted: the fluxes known at the places ({', '.join(known)}) do not follow from those of "
            f"the model ({', '.join(guess)}), or the model has no value there."
        )
        raise ConfigError(message)
    return total / count.clamp_min(1.0)


def reshaped(changed: Tensor, plain: Tensor, ran: Tensor | None = None) -> Tensor:
    """Return how much of a change is not in proportion to what was there before.

    Parameters
    ----------
    changed, plain : Tensor, (..., T, O)
        What a head and the global model say.
    ran : Tensor of bool, broadcast to (..., T), optional
        Days that count, of those that `plain` has a value for; all by default.

    Returns
    -------
    share : Tensor, (...)
        Summed over outputs: the variance, over days, of what a + b `plain` leaves of the change, over the variance of
        `plain` over all rows and days. Zero for every ``affine`` head.

    Notes
    -----
    Step 5 of KGML-ag punishes response curves that part from the global model's; a head that rescales the global
    readout keeps every one of them. Held per run of the backbone, it also binds a head where the crop is scarce and
    data say little.
    """
    seen = torch.isfinite(plain).all(dim=-1, keepdim=True)
    counts = (seen if ran is None else seen & ran[..., None]).to(plain.dtype)
    changed, plain = (torch.where(counts > 0, values, 0.0) for values in (changed, plain))
    days = counts.sum(dim=-2, keepdim=True).clamp_min(1.0)

    def centred(values: Tensor) -> Tensor:
        return counts * (values - values.sum(dim=-2, keepdim=True) / days)

    before, change = centred(plain), centred(changed - plain)
    slope = (change * before).sum(dim=-2, keepdim=True) / before.square().sum(dim=-2, keepdim=True).clamp_min(_TINY)
    size = _variance(plain, counts)
    return ((change - slope * before).square() / size).sum(dim=-2).div(days.squeeze(-2)).sum(dim=-1)


def _variance(values: Tensor, counts: Tensor) -> Tensor:
    """Return the variance of each output (..., T, O) over the days that count, (O,)."""
    flat, weight = values.reshape(-1, values.shape[-1]), counts.reshape(-1, 1)
    mean = (weight * flat).sum(dim=0) / weight.sum().clamp_min(1.0)
    return ((weight * (flat - mean).square()).sum(dim=0) / weight.sum().clamp_min(1.0)).clamp_min(_TINY)


def fit_on_pass(
    heads: Heads, outputs: Sequence[str], passed: Passed, settings: CalibrationSettings, report: Report = lambda _: None
) -> tuple[float, float]:
    """Fit heads that act on taps, all places together, and return the mean loss before and after."""
    spread = spreads([passed.fluxes])
    optimiser = torch.optim.Adam(heads.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    first = last = 0.0
    network, hidden = heads.network, passed.taps.hidden
    plain = {tap: values.detach() for tap, values in network.raw(hidden).items()}
    rows = torch.zeros(heads.places).index_add(0, passed.place, torch.ones(len(passed.place))).clamp_min(1.0)
    for step in range(settings.steps):
        raw = heads.raw(hidden, plain, passed.place)
        guess = named(network.finish(raw, passed.taps.context), outputs)
        losses = place_losses(guess, passed.fluxes, passed.place, heads.places, spread)
        loss = losses + settings.penalty * heads.penalty()
        if settings.consistency:
            shape = torch.stack([reshaped(raw[t], plain[t], passed.ran[:, None]).mean(dim=1) for t in raw]).sum(dim=0)
            loss = loss + settings.consistency * torch.zeros_like(losses).index_add(0, passed.place, shape) / rows
        loss = loss.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        last = float(losses.detach().mean())
        first = last if step == 0 else first
        if step % 50 == 0:
            report(f"{settings.kind} step {step}/{settings.steps}: {last:.4f}")
    return first, last


def _fit_each(
    heads: Heads, outputs: Sequence[str], evidence: Sequence[Evidence], settings: CalibrationSettings, report: Report
) -> tuple[float, float]:
    """Fit heads that change weights, place by place: a random year of a few rows at each step."""
    spread = spreads([part.fluxes for part in evidence])
    first, last = [], []
    for place in range(heads.places):
        own = [part.rows((part.place == place).nonzero().flatten()) for part in evidence]
        own = [part.of_places(torch.zeros_like(part.place)) for part in own if len(part.place)]
        single = Heads(heads.network, settings.kind, 1, settings.rank)
        with torch.no_grad():  # the same random directions for all places
            for name, value in single.phi.items():
                value.copy_(heads.phi[name][place : place + 1])
        losses = _fit_one(single, outputs, own, settings, spread)
        with torch.no_grad():
            for name, value in single.phi.items():
                heads.phi[name][place] = value[0]
        before, after = np.mean(losses[-max(1, len(losses) // 5) :], axis=0)
        first.append(float(before))
        last.append(float(after))
        report(f"{settings.kind} place {place + 1}/{heads.places}: {first[-1]:.4f} to {last[-1]:.4f}")
    return float(np.mean(first)), float(np.mean(last))


def _fit_one(
    heads: Heads,
    outputs: Sequence[str],
    evidence: Sequence[Evidence],
    settings: CalibrationSettings,
    spread: Mapping[str, float],
) -> list[tuple[float, float]]:
    """Fit the one place of `heads` and return the loss of the global model and its own at each step's draw.

    States before each year are the global model's.
    """
    parts = [(own, *_known_years(heads.network, own, settings.spin_up_years, outputs)) for own in evidence]
    parts = [part for part in parts if part[2]]
    if not parts:
        message = (
            f"Nothing can be fitted: no flux known at the place ({', '.join(evidence[0].fluxes)}) follows from those "
            f"of the model ({', '.join(outputs)}), or none is known on any day."
        )
        raise ConfigError(message)
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.Adam(heads.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    found = []
    for step in range(settings.steps):
        own, before, known_in = parts[step % len(parts)]
        year, able = known_in[int(torch.randint(len(known_in), (1,), generator=generator))]
        rows = able[torch.randperm(len(able), generator=generator)[:8]]
        days = own.years[year]
        given = own.dynamic[rows][:, days], own.static[rows], before[year][rows]
        plain = heads.network.predict(*given)[0].clone()
        fluxes, _ = heads.run_place(0, *given)
        known = {name: values[rows][:, days] for name, values in own.fluxes.items()}
        base, loss = (place_losses(named(f, outputs), known, own.place[rows], 1, spread) for f in (plain, fluxes))
        total = loss + settings.penalty * heads.penalty() + settings.consistency * reshaped(fluxes, plain).mean()
        optimiser.zero_grad()
        total.sum().backward()
        optimiser.step()
        schedule.step()
        found.append((float(base), float(loss.detach())))
    return found


@torch.no_grad()
def _known_years(
    network: Network, own: Evidence, spin_up: int, outputs: Sequence[str]
) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
    """Return the global model's state before each year, (n, K), and the years in which rows know a flux, with them."""
    state = torch.zeros(len(own.place), network.state_size)
    for days in own.years[:spin_up]:
        state = network.run(own.dynamic[:, days], own.static, state).state
    follow = named(torch.zeros(len(outputs)), outputs)
    fluxes = [torch.isfinite(values) for name, values in own.fluxes.items() if name in follow]
    seen = torch.stack(fluxes).any(dim=0) if fluxes else torch.zeros(own.dynamic.shape[:2], dtype=torch.bool)
    states, known = [], []
    for year, days in enumerate(own.years):
        rows = seen[:, days].any(dim=1).nonzero().flatten()
        known += [(year, rows)] if len(rows) else []
        states.append(state)
        state = network.run(own.dynamic[:, days], own.static, state).state
    return states, known
