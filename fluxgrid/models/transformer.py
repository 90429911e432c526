"""Transformer: every day of a window looks at all the others.

Source: the Transformer baseline of CarbonBench (Rozanov et al.): forcings and static properties joined, Linear to H,
fixed sine and cosine positions, encoder layers as in Vaswani et al. 2017 (arXiv:1706.03762; norm after, ReLU, width 4H,
no causal mask), Linear on every day. There is no state to carry: modes ``exact`` and ``stride``. In training earlier
days of a window see later ones; in mode ``exact`` no day sees a later one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.day_rows import DayRows
from fluxgrid.models.network import Read
from fluxgrid.models.shared_attention import attend_shared
from fluxgrid.models.windowed import WindowConfig, WindowNetwork


@dataclass(frozen=True)
class AttentionConfig(WindowConfig):
    """Settings that the transformers share."""

    hidden: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    """Width H."""
    layers: Annotated[int, Field(ge=1)] = 2
    """Encoder layers."""
    attention_heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads; they share the width H evenly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.attention_heads:
            message = f"attention_heads: {self.attention_heads} do not share a width of {self.hidden} evenly."
            raise ConfigError(message)
        if self.window_mode == "stream":
            message = "window_mode: a transformer carries no state, so it cannot stream; choose exact or stride."
            raise ConfigError(message)

    def encoder(self) -> nn.TransformerEncoder:
        """Return fresh encoder layers."""
        layer = nn.TransformerEncoderLayer(
            self.hidden, self.attention_heads, 4 * self.hidden, self.dropout, batch_first=True
        )
        return nn.TransformerEncoder(layer, self.layers, enable_nested_tensor=False)


@MODELS.register("transformer")
@dataclass(frozen=True)
class TransformerConfig(AttentionConfig):
    """Settings of the Transformer."""

    def build(self, sizes: Sizes) -> Transformer:
        """Return the network with fresh weights."""
        return Transformer(self, sizes)


class Transformer(WindowNetwork):
    """See the module's text."""

    tap: ClassVar[str] = "attention"
    positions: Tensor

    def __init__(self, config: TransformerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.embedding = nn.Linear(sizes.dynamic + sizes.static, config.hidden)
        self.register_buffer("positions", sine_positions(config.window, config.hidden), persistent=False)
        self.encoder = config.encoder()
        self.add_head(config, sizes, config.hidden)

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the codes of the last steps of windows, (N, last, H)."""
        place = static.unsqueeze(1).expand(-1, dynamic.shape[1], -1)
        codes = self.encoder(self.embedding(torch.cat([dynamic, place], dim=-1)) + self.positions)
        return codes[:, codes.shape[1] - last :]

    def encode_shared(self, days: DayRows, static: Tensor, last: int, read: Read | None = None) -> Tensor:
        """Return what is read of the same, (M, last, H), of windows of one record at places."""
        of_day, of_place = self.embedding.weight.split([self.channels, static.shape[1]], dim=1)
        place = torch.addmm(self.embedding.bias, static, of_place.t())
        codes = attend_shared(self.encoder, days, (of_day, place), self.positions, range(self.window), last)
        return codes if read is None else read(codes.transpose(0, 1)).transpose(0, 1)


def sine_positions(steps: int, width: int) -> Tensor:
    """Return the code of each position, (steps, width): sines in even columns, cosines in odd ones."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(steps)[:, None] * rate
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).reshape(steps, width)
