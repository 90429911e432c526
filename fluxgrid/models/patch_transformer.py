"""Patch-Transformer: a transformer over patches of a few days, one code for the whole window.

Source: the Patch-Transformer baseline of CarbonBench (Rozanov et al.): patches of all channels, Linear to H, learnt
positions, encoder layers, mean over patches; static properties through Linear, ReLU, dropout; both joined, LayerNorm,
Linear to 4H, ReLU, dropout, Linear to the fluxes of the last S days.

Patches there begin with the first day of the window: of 30 days, patches of 4 leave the last two out, the predicted day
among them (``as_published``). Here they end with the last day, and days that fill no patch are the oldest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.day_rows import DayRows
from fluxgrid.models.network import Read
from fluxgrid.models.shared_attention import attend_shared, in_pieces
from fluxgrid.models.transformer import AttentionConfig
from fluxgrid.models.windowed import WindowNetwork


@MODELS.register("patch_transformer")
@dataclass(frozen=True)
class PatchTransformerConfig(AttentionConfig):
    """Settings of the Patch-Transformer."""

    patch: Annotated[int, Field(ge=1)] = 4
    """Steps of a patch."""
    as_published: bool = False
    """Patches begin with the first day of the window instead of ending with the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch > self.window:
            message = f"patch: {self.patch} steps are more than the window of {self.window}; give fewer."
            raise ConfigError(message)

    def build(self, sizes: Sizes) -> PatchTransformer:
        """Return the network with fresh weights."""
        return PatchTransformer(self, sizes)


class PatchTransformer(WindowNetwork):
    """See the module's text. The head reads one code of a window, (N, 4H), and gives its S days of O fluxes."""

    tap: ClassVar[str] = "attention"

    def __init__(self, config: PatchTransformerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        width, self.patches = config.hidden, config.window // config.patch
        read = self.patches * config.patch
        self.read = slice(0, read) if config.as_published else slice(config.window - read, None)
        self.embedding = nn.Linear(sizes.dynamic * config.patch, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.patches, width))
        self.encoder = config.encoder()
        drop = nn.Dropout(config.dropout)
        self.static_encoder = nn.Sequential(nn.Linear(sizes.static, width), nn.ReLU(), drop) if sizes.static else None
        joined = width * (2 if sizes.static else 1)
        self.joint = nn.Sequential(nn.LayerNorm(joined), nn.Linear(joined, 4 * width), nn.ReLU(), drop)
        self.add_head(config, sizes, 4 * width)
        self.dropout.p = 0.0  # the code is dropped out once for all days that are read from it
        self.head.linear = nn.Linear(4 * width, config.stride * sizes.fluxes)

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the code of each window, once for every day that is read from it, (N, last, 4H)."""
        batch = len(dynamic)
        patches = dynamic[:, self.read].reshape(batch, self.patches, -1, self.channels)
        flat = patches.transpose(2, 3).reshape(batch, self.patches, -1)  # the days of a channel side by side
        code = self.encoder(self.embedding(flat) + self.positions).mean(dim=1)
        if self.static_encoder is not None:
            code = torch.cat([code, self.static_encoder(static)], dim=-1)
        return self.joint(code)[:, None].expand(-1, last, -1)

    def encode_shared(self, days: DayRows, static: Tensor, last: int, read: Read | None = None) -> Tensor:
        """Return what is read of the same, (M, last, 4H), of windows of one record at places."""
        embedding = self.embedding.weight, self.embedding.bias[None]
        patches, offsets = self._patches(days)
        codes = attend_shared(self.encoder, patches, embedding, self.positions[0], offsets, self.patches).mean(dim=1)
        if self.static_encoder is not None:
            place = self.static_encoder(static)
            codes = torch.cat([codes, place.repeat(len(codes) // len(place), 1)], dim=-1)
        codes = torch.cat([self.joint(codes[rows]) for rows in in_pieces(len(codes))])
        said = codes if read is None else read(codes[None])[0]  # one code speaks of all days
        return said[:, None].expand(-1, last, -1)

    def _patches(self, days: DayRows) -> tuple[DayRows, range]:
        """Return patches (B, ., F * days) as the days of windows, and which of them stand in a window.

        Patches that begin on the same day are the same in all windows: all of a record, unless those of the windows,
        one after the other, are fewer.
        """
        length = self.embedding.in_features // self.channels
        flat = days.record.unfold(1, length, 1).flatten(2)  # the days of a channel side by side
        offsets = range(self.read.start, self.read.start + self.patches * length, length)
        if len(days.starts) * self.patches >= flat.shape[1]:
            return DayRows(flat, days.starts, self.window - length + 1), offsets
        own = [start + offset for start in days.starts for offset in offsets]
        return DayRows(flat[:, own], range(0, len(own), self.patches), self.patches), range(self.patches)

    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:
        """Return fluxes (B, T, O): of the S days that a code speaks of, the day that is asked for."""
        values = raw[self.tap][:, 0]  # (B, T, S * O)
        days = values.view(*values.shape[:2], self.stride, -1)
        chosen = context["day"][:, :, None, None].expand(-1, -1, 1, days.shape[-1])
        return self.head.close(days.gather(2, chosen)[:, :, 0])
