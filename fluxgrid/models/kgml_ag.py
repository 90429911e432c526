"""KGML-ag: gated recurrent units in the order of the carbon cycle, for corn and soybean.

Structure v11_3 of Liu et al. 2024 (Nature Communications 15, 357, doi:10.1038/s41467-023-43860-5), from its equations:
a shared GRU (Basis), autotrophic respiration from it, the year's yield from an attention over its days, the residue
that the harvest leaves, heterotrophic respiration, and NEE from both. One year after the other; the states of all four
GRUs go from year to year. Native signs: GPP >= 0, Ra <= 0 and Rh <= 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.data.crop_inputs import CROP_FEATURES, GPP
from fluxgrid.models import packed_product
from fluxgrid.models.cell_layers import CHUNK_ROWS
from fluxgrid.models.network import Read
from fluxgrid.models.recurrent import GRU, first_of, is_quick, read_out
from fluxgrid.models.recurrent_kernels import pick_steps

RESIDUE_DAYS = slice(298, 300)
"""Days of the year, counted from 0, on which the residue of the harvest enters the litter."""
OUTPUTS = ("ra", "rh", "nee", "yield")
"""What is predicted in z-scores, in the order of the output scaler."""
LAYERS = {"basis": 2, "ra": 1, "rh": 2, "nee": 1}
"""Layers of the GRUs, in the order of their states."""


class CropYear(NamedTuple):
    """One year of KGML-ag at B places; z-scores of the output scaler, native signs."""

    ra: Tensor
    """(B, T)"""
    rh: Tensor
    """(B, T)"""
    nee: Tensor
    """(B, T); a diagnostic, for closure is derived from the others."""
    grain: Tensor
    """Yield, (B,)."""
    hidden: dict[str, Tensor]
    """Last hidden states of the GRUs of ``ra`` and ``rh``, (B, T, H), or what is read of them, (B, T, m)."""
    state: Tensor
    """After the last day, (B, 6 H)."""


@dataclass(frozen=True, eq=False)
class CropScalers:
    """Mean and standard deviation of inputs, outputs and residue; float32 tensors."""

    features: Tensor
    """(2, 19)"""
    outputs: Tensor
    """(2, 4): `OUTPUTS`, native signs, g m-2 d-1 and g m-2."""
    residue: Tensor
    """(2,): of ReLU(sum GPP + sum Ra - yield), g m-2."""


def _mlp(hidden: int, *, squashed: bool) -> nn.Sequential:
    """Return 64-64-64-32-1 with ReLU between, and tanh at the end if squashed."""
    half = hidden // 2
    layers = [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, half), nn.ReLU(), nn.Linear(half, 1)]
    return nn.Sequential(*layers, *([nn.Tanh()] if squashed else []))


class KGMLAg(nn.Module):
    """See the module's text. B places, T days of one calendar year, H hidden, 19 inputs.

    Parameters
    ----------
    hidden : int
        Width H; 64 as published.
    dropout : float
        Share of GRU outputs dropped in training, before heads and between layers; 0.2 as published.
    """

    features: Tensor
    outputs: Tensor
    residue: Tensor

    def __init__(self, hidden: int = 64, dropout: float = 0.2):
        super().__init__()
        wide = len(CROP_FEATURES)
        self.hidden = hidden
        self.basis = GRU(wide, hidden, LAYERS["basis"], dropout)
        self.attention = _mlp(hidden, squashed=True)
        self.grain = _mlp(hidden, squashed=False)
        self.ra = GRU(hidden + wide, hidden, LAYERS["ra"], dropout)
        self.rh = GRU(1 + hidden + wide, hidden, LAYERS["rh"], dropout)
        self.nee = GRU(2 + wide, hidden, LAYERS["nee"], dropout)
        self.ra_head, self.rh_head, self.nee_head = (nn.Linear(hidden, 1) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.state_size = sum(LAYERS.values()) * hidden
        for name, width in (("features", wide), ("outputs", len(OUTPUTS))):
            self.register_buffer(name, torch.stack([torch.zeros(width), torch.ones(width)]))
        self.register_buffer("residue", torch.tensor([0.0, 1.0]))
        for part in (self.attention, self.grain, self.ra_head, self.rh_head, self.nee_head):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.uniform_(layer.weight, -0.1, 0.1)
                    nn.init.zeros_(layer.bias)

    def set_scalers(self, scalers: CropScalers) -> None:
        """Set the scalers, made on the synthetic set and kept for yields, towers and maps."""
        self.features.copy_(scalers.features)
        self.outputs.copy_(scalers.outputs)
        self.residue.copy_(scalers.residue)

    def scale(self, features: Tensor, column: int | slice = slice(None)) -> Tensor:
        """Return z-scores of inputs in physical units, (..., 19), or of one of them, (...)."""
        return (features - self.features[0, column]) / self.features[1, column]

    def physical(self, name: str, z: Tensor) -> Tensor:
        """Return an output in physical units, native sign, of its z-score."""
        mean, std = self.outputs[:, OUTPUTS.index(name)]
        return z * std + mean

    def split(self, state: Tensor) -> dict[str, Tensor]:
        """Return the state (B, 6 H) as the states of the four GRUs, (layers, B, H)."""
        rows = state.view(len(state), -1, self.hidden).transpose(0, 1)
        return dict(zip(LAYERS, rows.split(list(LAYERS.values())), strict=True))

    def forward(
        self,
        z: Tensor,
        state: Tensor,
        first_day: int = 0,
        diagnose: bool = True,
        reads: Mapping[str, Read] | None = None,
    ) -> CropYear:
        """Return a calendar year, or part of it, of scaled inputs z (B, T, 19).

        `state` (B, 6 H) is that before the first day, which is `first_day` of the year counted from 0; without
        `diagnose` the NEE of the network is not worked out and is zero. With `reads`, by ``ra`` and ``rh``, that of the
        head or `Beside` it, their states are not kept: in evaluation mode, without gradients.
        """
        start = self.split(state)
        basis, last = self.basis(z, start["basis"])
        return self.after_basis(z, self.dropout(basis), start, last, None, first_day, diagnose, reads)

    def after_basis(
        self,
        z: Tensor,
        basis: Tensor,
        start: dict[str, Tensor],
        basis_state: Tensor,
        grain: Tensor | None = None,
        first_day: int = 0,
        diagnose: bool = True,
        reads: Mapping[str, Read] | None = None,
    ) -> CropYear:
        """Return a year from what the Basis says of its days, (B, T, H); the yield (B,) may be known already."""
        after, reads = {**start, "basis": basis_state}, reads or {}
        ra, ra_hidden, after["ra"] = self._respiration(self.ra, self.ra_head, [basis, z], start["ra"], reads.get("ra"))
        grain = self.grain_of(basis) if grain is None else grain
        inputs = [self.residue_of(z, ra, grain, first_day), basis, z]
        rh, rh_hidden, after["rh"] = self._respiration(self.rh, self.rh_head, inputs, start["rh"], reads.get("rh"))
        nee = torch.zeros_like(ra)
        if diagnose:
            nee_hidden, after["nee"] = self.nee([ra[..., None], rh[..., None], z], start["nee"])
            nee = read_out(self.nee_head, self.dropout(nee_hidden))[..., 0]
        last = torch.cat([after[name] for name in LAYERS]).transpose(0, 1).reshape(len(z), -1)
        return CropYear(ra, rh, nee, grain, {"ra": ra_hidden, "rh": rh_hidden}, last)

    def _respiration(
        self, cell: GRU, head: nn.Linear, inputs: list[Tensor], start: Tensor, read: Read | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return z-scores (B, T), the states (B, T, H) or what is read of them, and the last of them."""
        if read is None:
            hidden, last = cell(inputs, start)
            return read_out(head, self.dropout(hidden))[..., 0], hidden, last
        own, last = cell(inputs, start, read)
        return first_of(own, 1)[..., 0], own, last

    def grain_of(self, basis: Tensor) -> Tensor:
        """Return the z-score of the yield, (B,): an attention over the days picks what the yield head reads."""
        quick = packed_product.AVAILABLE and not self.training and is_quick(basis, *self.attention.parameters())
        return self.grain((self._pick_quickly if quick else self._pick)(basis.transpose(0, 1)))[..., 0]

    def _pick(self, basis: Tensor) -> Tensor:
        """Return what the attention picks of the days, (B, H), of (T, B, H)."""
        rows = basis.split(max(1, CHUNK_ROWS // basis.shape[1]))  # few steps, so that they stay near
        weight = torch.softmax(torch.cat([self.attention(part) for part in rows]), dim=0)  # (T, B, 1)
        picked = basis.new_zeros(basis.shape[1:])
        for part, own in zip(rows, weight.split([len(part) for part in rows]), strict=True):
            picked = picked + (own * part).sum(dim=0)
        return picked

    def _pick_quickly(self, basis: Tensor) -> Tensor:
        """Return what `_pick` does, in a compiled kernel."""
        layers = [layer for layer in self.attention if isinstance(layer, nn.Linear)]
        weights = [layer.weight.detach().t() for layer in layers]
        weights[-1] = nn.functional.pad(weights[-1], (0, 1))
        maps = packed_product.pack([weight.contiguous().numpy() for weight in weights], basis.shape[1])
        b1, b2, b3, b4 = (layer.bias.detach().numpy() for layer in layers)
        picked = basis.new_empty(basis.shape[1:])
        pick_steps(basis.contiguous().numpy(), maps, b1, b2, b3, b4, picked.numpy())
        return picked

    def residue_of(self, z: Tensor, ra: Tensor, grain: Tensor, first_day: int = 0) -> Tensor:
        """Return the residue's input, (B, T, 1): z-scores on the two days it enters, 0 on all others.

        Residue = ReLU(sum GPP + sum Ra - yield), g m-2, over the days there are.
        """
        gpp = z[..., GPP] * self.features[1, GPP] + self.features[0, GPP]
        left = F.relu((gpp + self.physical("ra", ra)).sum(dim=1) - self.physical("yield", grain))
        row = z.new_zeros(z.shape[0], z.shape[1], 1)
        days = slice(max(RESIDUE_DAYS.start - first_day, 0), max(RESIDUE_DAYS.stop - first_day, 0))
        row[:, days] = ((left - self.residue[0]) / self.residue[1])[:, None, None]
        return row
