"""Fields as tensors, and the walk of a network through their years."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluxgrid.data.crop_inputs import GPP
from fluxgrid.models.kgml_ag import OUTPUTS, CropScalers, CropYear, KGMLAg
from fluxgrid.training.kgml.fields import CropFields


def fit_crop_scalers(fields: CropFields) -> CropScalers:
    """Return the scalers of a synthetic set: population mean and standard deviation of each input and output.

    Parameters
    ----------
    fields : CropFields

    Returns
    -------
    scalers : CropScalers
        Native signs: Ra, Rh <= 0.
    """
    flat = fields.features.reshape(-1, fields.features.shape[-1])
    residue = np.maximum(_by_year(fields, fields.features[..., GPP] - fields.ra) - fields.grain, 0.0)
    columns = [-fields.ra, -fields.rh, fields.nee, fields.grain]
    return CropScalers(
        _moments(flat),
        torch.stack([_moments(values.reshape(-1, 1))[:, 0] for values in columns], dim=1),
        _moments(residue.reshape(-1, 1))[:, 0],
    )


def _moments(values: np.ndarray) -> Tensor:
    """Return mean and standard deviation of columns, (2, columns); a constant column gets 1."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return torch.tensor(np.stack([mean, np.where(std > 1e-9, std, 1.0)]), dtype=torch.float32)


def _by_year(fields: CropFields, values: np.ndarray) -> np.ndarray:
    """Return annual sums, (n, Y)."""
    return np.stack([values[:, fields.days(year)].sum(axis=1, dtype=np.float64) for year in fields.years], axis=1)


@dataclass(frozen=True, eq=False)
class Track:
    """Fields ready for a network: z-scores, native signs."""

    z: Tensor
    """Inputs, (n, T, 19)."""
    targets: Tensor
    """Ra, Rh and NEE, (n, T, 3)."""
    grain: Tensor
    """Yield, (n, Y)."""
    years: tuple[slice, ...]
    """Days of each year."""
    counts: Tensor
    """Which years of which field are trained on, bool (n, Y); the others validate."""

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, index: Tensor) -> Track:
        """Return some of the fields."""
        return Track(self.z[index], self.targets[index], self.grain[index], self.years, self.counts[index])


def make_track(
    fields: CropFields, network: KGMLAg, held_years: int, seed: int, held_fields: float | np.ndarray = 0.0
) -> Track:
    """Return fields in the scale of a network, with some years of each, or some fields, held back.

    Parameters
    ----------
    fields : CropFields
    network : KGMLAg
        With its scalers set.
    held_years : int
        Years of each field drawn with replacement, so that they may coincide.
    seed : int
    held_fields : float, 0-1, or ndarray of bool, (n,)
        Instead of years: share of the fields all of whose years are held back, at least one of them if above 0; or
        which these are.

    Returns
    -------
    track : Track
    """
    with torch.no_grad():
        z = network.scale(torch.from_numpy(fields.features))
    mean, std = (row.numpy() for row in network.outputs)
    native = np.stack([-fields.ra, -fields.rh, fields.nee], axis=-1)
    targets = torch.from_numpy(((native - mean[:3]) / std[:3]).astype(np.float32))
    grain = torch.from_numpy(((fields.grain - mean[3]) / std[3]).astype(np.float32))
    counts = torch.ones(len(fields), len(fields.years), dtype=torch.bool)
    random = np.random.default_rng(seed)
    if isinstance(held_fields, np.ndarray):
        counts[torch.from_numpy(held_fields)] = False
    elif held_fields > 0:
        counts[draw_held(len(fields), held_fields, seed)] = False
    else:
        drawn = random.integers(0, len(fields.years), (len(fields), held_years))
        counts[torch.arange(len(fields))[:, None], torch.from_numpy(drawn)] = False
    return Track(z, targets, grain, tuple(fields.days(year) for year in fields.years), counts)


def draw_held(fields: int, share: float, seed: int) -> np.ndarray:
    """Return the fields held back, at least one."""
    return np.random.default_rng(seed).permutation(fields)[: max(1, round(share * fields))]


def spun_up(network: KGMLAg, track: Track, years: int) -> Tensor:
    """Return the state after the first years run from zero, (n, 6 H), without gradients."""
    state = track.z.new_zeros(len(track), network.state_size)
    with torch.no_grad():
        for days in track.years[:years]:
            state = network(track.z[:, days], state).state
    return state


def walk(network: KGMLAg, track: Track, spin_up: int) -> Iterator[tuple[int, slice, CropYear]]:
    """Yield the years of a track in order, the state cut from the graph between them.

    Parameters
    ----------
    network : KGMLAg
    track : Track
    spin_up : int
        Years run first, from zero; then the record begins again.

    Yields
    ------
    year : int
        Counted from 0.
    days : slice
    result : CropYear
    """
    state = spun_up(network, track, spin_up)
    for year, days in enumerate(track.years):
        result = network(track.z[:, days], state)
        yield year, days, result
        state = result.state.detach()


@torch.no_grad()
def emulate(network: KGMLAg, fields: CropFields, spin_up: int = 2, batch: int = 128) -> dict[str, np.ndarray]:
    """Return what a network says of fields, in our signs.

    Parameters
    ----------
    network : KGMLAg
        Left in evaluation mode.
    fields : CropFields
    spin_up : int
        Years run first, from zero.
    batch : int
        Fields at a time.

    Returns
    -------
    fluxes : dict of ndarray
        ``ra``, ``rh`` (not clipped), ``nee`` (the network's own), each (n, T), g m-2 d-1; ``yield`` (n, Y), g m-2.
    """
    network.eval()
    track = make_track(fields, network, 1, 0)
    parts = [_emulate_rows(network, track.rows(rows), spin_up) for rows in torch.arange(len(track)).split(batch)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in OUTPUTS}


def _emulate_rows(network: KGMLAg, track: Track, spin_up: int) -> dict[str, Tensor]:
    """Return the outputs of one batch, our signs."""
    rows: dict[str, list[Tensor]] = {name: [] for name in OUTPUTS}
    for _, _, result in walk(network, track, spin_up):
        for name, z in zip(OUTPUTS, (result.ra, result.rh, result.nee, result.grain[:, None]), strict=True):
            sign = -1.0 if name in ("ra", "rh") else 1.0
            rows[name].append(sign * network.physical(name, z))
    return {name: torch.cat(parts, dim=1) for name, parts in rows.items()}
