"""Step 5 of KGML-ag: Ra, Rh and NEE learn from what towers on cropland observed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fluxgrid.data.crop_inputs import (
    CORN_CODE,
    CROP_FEATURES,
    CROP_FORCINGS,
    CROP_STATICS,
    GPP,
    SOYBEAN_CODE,
    crop_features,
)
from fluxgrid.data.kgml import KGML_YEAR_DAYS
from fluxgrid.data.records import site_inputs
from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import TableError
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.training.kgml.cells import MOSAIC_INPUTS
from fluxgrid.training.kgml.descent import Descent, Report, StepHistory, descend
from fluxgrid.training.kgml.losses import balance, correlation, determination
from fluxgrid.training.kgml.responses import RARER, Curves, fields_for_responses, grid_of, respond, spin_up_of
from fluxgrid.training.kgml.settings import KGMLSettings
from fluxgrid.training.kgml.walk import Track

GROWING = slice(105, 300)
"""Days of the year, counted from 0, on which plants of a crop may respire; outside them RECO is soil's."""
_LEAST = {**{name: 0.8 for name in CROP_FEATURES[:10]}, **{name: 0.9 for name in CROP_FEATURES[10:]}}
"""Least correlation of response curves with those of step 4."""
_LEAST_SOC = 0.99


@dataclass(frozen=True, eq=False)
class TowerYears:
    """Towers on cropland, whole years of 365 days; shorter records go on in years without observations."""

    ids: tuple[str, ...]
    features: np.ndarray
    """Inputs of KGML-ag, (n, Y * 365, 19), float32, physical units; after the record's end its years once more."""
    reco: np.ndarray
    """Observed, (n, Y * 365), g m-2 d-1; NaN where it is not."""
    nee: np.ndarray
    """The same."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def years(self) -> tuple[slice, ...]:
        """Days of each year of the record."""
        return tuple(slice(d, d + KGML_YEAR_DAYS) for d in range(0, self.reco.shape[1], KGML_YEAR_DAYS))

    def select(self, rows: np.ndarray) -> TowerYears:
        """Return some of the towers."""
        return TowerYears(tuple(self.ids[i] for i in rows), self.features[rows], self.reco[rows], self.nee[rows])


def tower_years(sites: Sites, gpp_of: Callable[[Site], np.ndarray], *, tower_gpp: bool = False) -> TowerYears:
    """Return towers as KGML-ag reads them.

    Parameters
    ----------
    sites : Sites
        Daily, with the forcings and statics of KGML-ag, ``corn_fraction`` and ``soybean_fraction``; whole years count.
    gpp_of : callable
        Gives the gridded GPP (2, T) of corn and soybean that a map would read at a site.
    tower_gpp : bool
        Read RECO - NEE of the tower where both are observed, as the published step 5 does. The carbon balance then
        closes nearly by itself, and the skill says little of maps, which have no such GPP.

    Returns
    -------
    towers : TowerYears

    Raises
    ------
    TableError
        If no site is on cropland with a whole year.
    """
    rows = [row for site in sites if (row := _tower(site, gpp_of, tower_gpp)) is not None]
    if not rows:
        message = f"No site of {sites.source} has a whole calendar year under corn or soybean."
        raise TableError(message)
    longest = max(len(row[1]) for row in rows)

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values.astype(np.float32), (0, longest - len(values)), constant_values=np.nan)

    ids, inputs, *fluxes = zip(*rows, strict=True)
    # years of its own, not of nothing: the spin-up may be longer than the record
    features = np.stack([np.resize(each.astype(np.float32), (longest, each.shape[1])) for each in inputs])
    reco, nee = (np.stack([padded(values) for values in flux]) for flux in fluxes)
    return TowerYears(tuple(ids), features, reco, nee)


def _tower(
    site: Site, gpp_of: Callable[[Site], np.ndarray], tower_gpp: bool
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return id, features and fluxes of a site's whole years, 31 December of leap years left out."""
    series, days = site.series, pd.DatetimeIndex(site.series.index)
    per_year = days.year.value_counts()
    kept = days.year.isin(per_year[per_year >= KGML_YEAR_DAYS].index) & (days.day_of_year <= KGML_YEAR_DAYS)
    if not kept.any():
        return None
    # one crop a year: a day whose shares are missing grows what the others do
    shares = series[["corn_fraction", "soybean_fraction"]].groupby(days.year).transform("mean")
    corn = shares["corn_fraction"].to_numpy() >= shares["soybean_fraction"].to_numpy()
    gpp = np.where(corn, *gpp_of(site))
    reco, nee = (series[name].to_numpy(np.float64) for name in ("reco", "nee"))
    if tower_gpp:
        gpp = np.where(np.isfinite(reco - nee), reco - nee, gpp)
    filled = site_inputs(site, "daily", MOSAIC_INPUTS).dynamic  # by the rule of maps
    forcings = {name: filled[name].T.astype(np.float64) for name in CROP_FORCINGS[:-1]}
    forcings["calendar_year"] = days.year.to_numpy(np.float64)[None]
    statics = {name: np.array([site.statics[name]]) for name in CROP_STATICS}
    features = crop_features(forcings, statics, np.where(corn, CORN_CODE, SOYBEAN_CODE)[None], gpp[None])[0]
    return site.id, features[kept], reco[kept], nee[kept]


def fit_towers(
    network: KGMLAg,
    towers: TowerYears,
    reference: Track,
    settings: KGMLSettings,
    report: Report = lambda _: None,
) -> StepHistory:
    """Step 5: train Ra, Rh and NEE on towers, one optimiser step per epoch through all years of all of them.

    Parameters
    ----------
    network : KGMLAg
        After step 4; changed in place.
    towers : TowerYears
    reference : Track
        Fields of the process model at which responses are tested.
    settings : KGMLSettings
    report : callable

    Returns
    -------
    history : StepHistory

    Notes
    -----
    Physical units. Outside `GROWING` all of RECO is taken for Rh; inside it Ra + Rh answers for it; NEE counts on all
    days; the carbon balance may be open by the tolerance. Before each epoch after the first, response curves that lose
    their likeness to those after step 4 are pulled back, feature by feature.
    """
    begun, step = time.perf_counter(), settings.towers
    z, seen = _scaled(network, towers)
    counts = _training_days(towers, settings)
    held = counts if counts.all() else ~counts  # records too short to hold a year back
    fast = (network.ra, network.ra_head, network.nee, network.nee_head)
    slow = (network.rh, network.rh_head)
    network.requires_grad_(False)
    for part in (*fast, *slow):
        part.requires_grad_(True)
    quick, careful = ([p for part in parts for p in part.parameters()] for parts in (fast, slow))
    descent = Descent([(quick, 1.0), (careful, settings.rh_rate)], step)
    generator = torch.Generator().manual_seed(settings.seed)
    tested = fields_for_responses(reference, settings.budget, settings.seed)
    curves = _Consistency(network, tested, settings)

    def loss_on(days: Tensor, seasonal: bool) -> Tensor:
        gpp, ra, rh, nee = _physical(network, z, towers, settings.spin_up_years)
        return _tower_loss(gpp, ra, rh, nee, seen, days, settings, seasonal)

    def epoch_loss(epoch: int) -> float:
        if epoch:
            for name in curves.drawn(generator):
                descent.step(curves.loss(name))
        return descent.step(loss_on(counts, seasonal=True))

    @torch.no_grad()
    def held_out() -> float:
        return float(loss_on(held, seasonal=False))

    history = descend(network, step, descent, epoch_loss, held_out, "step 5", report)
    return replace(history, seconds=time.perf_counter() - begun)


def _scaled(network: KGMLAg, towers: TowerYears) -> tuple[Tensor, dict[str, Tensor]]:
    """Return inputs in z-scores, the mean where unknown, and observations."""
    with torch.no_grad():
        z = torch.nan_to_num(network.scale(torch.from_numpy(towers.features)))
    return z, {"reco": torch.from_numpy(towers.reco), "nee": torch.from_numpy(towers.nee)}


def _training_days(towers: TowerYears, settings: KGMLSettings) -> Tensor:
    """Return the days trained on, bool (n, T): all but some years of each tower, drawn with replacement."""
    random = np.random.default_rng(settings.seed)
    counts = np.ones(towers.reco.shape, dtype=bool)
    for row, record in enumerate(towers.reco):
        lived = [days for days in towers.years if np.isfinite(record[days]).any()]
        for _ in range(settings.held_years if len(lived) > settings.held_years else 0):
            counts[row, lived[random.integers(len(lived))]] = False
    return torch.from_numpy(counts)


def _physical(network: KGMLAg, z: Tensor, towers: TowerYears, spin_up: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return GPP and predicted Ra, Rh >= 0 (our signs, not clipped) and NEE, (n, T), gradients through all years."""
    state = z.new_zeros(len(z), network.state_size)
    with torch.no_grad():
        for days in towers.years[:spin_up]:
            state = network(z[:, days], state).state
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for days in towers.years:
        year = network(z[:, days], state)
        state = year.state
        rows.append((year.ra, year.rh, year.nee))
    ra, rh, nee = (torch.cat(part, dim=1) for part in zip(*rows, strict=True))
    gpp = z[..., GPP] * network.features[1, GPP] + network.features[0, GPP]
    return gpp, -network.physical("ra", ra), -network.physical("rh", rh), network.physical("nee", nee)


def _tower_loss(
    gpp: Tensor,
    ra: Tensor,
    rh: Tensor,
    nee: Tensor,
    seen: dict[str, Tensor],
    days: Tensor,
    settings: KGMLSettings,
    seasonal: bool,
) -> Tensor:
    """Return squared errors at some days (g m-2 d-1)2, mean over towers, and the open balance."""
    day = torch.arange(ra.shape[1]) % KGML_YEAR_DAYS
    growing = (day >= GROWING.start) & (day < GROWING.stop)
    if seasonal:
        loss = _site_mean(rh - seen["reco"], days & ~growing) + _site_mean(ra + rh - seen["reco"], days & growing)
    else:
        loss = _site_mean(ra + rh - seen["reco"], days)
    loss = loss + _site_mean(nee - seen["nee"], days)
    lived = torch.isfinite(seen["reco"]) & days
    return loss + settings.balance_weight * balance(gpp, -ra, -rh, nee, settings.tolerance, lived.float())


def _site_mean(error: Tensor, days: Tensor) -> Tensor:
    """Return the mean over towers of their mean squared errors."""
    known = torch.isfinite(error) & days
    squared = torch.where(known, torch.nan_to_num(error), 0.0).square()
    return (squared.sum(dim=1) / known.sum(dim=1).clamp_min(1)).mean()


class _Consistency:
    """Response curves as step 4 left them, and how far the network has left them."""

    def __init__(self, network: KGMLAg, tested: Track, settings: KGMLSettings):
        self.network, self.tested, self.budget = network, tested, settings.budget
        self.spin_up, self.again = spin_up_of(settings)
        network.eval()
        with torch.no_grad():
            self.before = {name: self._curves(name) for name in CROP_FEATURES} if self._any() else {}

    def _any(self) -> bool:
        """Return whether any feature is to be tested."""
        return self.budget is None or self.budget.features > 0

    def _curves(self, name: str) -> Curves:
        """Return the curves of a feature now."""
        return respond(self.network, self.tested, name, grid_of(name, RARER), self.spin_up, again=self.again)

    def drawn(self, generator: torch.Generator) -> list[str]:
        """Return the features to test: all, or some within a budget."""
        if self.budget is None:
            return list(CROP_FEATURES)
        order = torch.randperm(len(CROP_FEATURES), generator=generator)[: self.budget.features]
        return [CROP_FEATURES[i] for i in order.tolist()]

    def loss(self, name: str) -> Tensor:
        """Return by how much the likeness of Ra and Rh falls below its least."""
        now, before, least = self._curves(name), self.before[name], _LEAST[name]
        likeness = determination(now.rh, before.rh) if name == "TSOC" else correlation(now.rh, before.rh)
        soil = _LEAST_SOC if name == "TSOC" else least
        return torch.relu(least - correlation(now.ra, before.ra)) + torch.relu(soil - likeness)
