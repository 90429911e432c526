"""TAM-RL: an LSTM whose inputs and outputs are modulated by a code of the place, read from its own drivers.

Source: the TAM-RL baseline of CarbonBench (Rozanov et al.), after Ghosh et al. 2023 (knowledge-guided self-supervised
learning for estimating river-basin characteristics) and FiLM (Perez et al. 2018, arXiv:1709.07871). An inverse network
reads the window - Linear, batch norm, leaky ReLU, LSTM in both directions - and gives a code z. The forward network is
an LSTM over s * W x + s with s = relu(A z) + 1, whose states h are read as (gamma + 1) * h + beta, gamma and beta of z.

The published inverse network also decodes z back to its inputs; nothing of that enters a loss or a prediction, and it
is left out. The code is read from the window that is predicted, as published: modes ``exact`` and ``stride``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import LSTM, in_slices
from fluxgrid.models.windowed import WindowConfig, WindowNetwork


@MODELS.register("tam_rl")
@dataclass(frozen=True)
class TAMRLConfig(WindowConfig):
    """Settings of TAM-RL."""

    hidden: Annotated[int, Field(ge=2)] = 128
    """Width H of the forward LSTM."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Stacked layers of the forward LSTM."""
    latent: Annotated[int, Field(ge=1)] = 32
    """Width of the code and of the inverse network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_mode == "stream":
            message = "window_mode: TAM-RL reads its code from a window, so it cannot stream; choose exact or stride."
            raise ConfigError(message)

    def build(self, sizes: Sizes) -> TAMRL:
        """Return the network with fresh weights."""
        return TAMRL(self, sizes)


class Inverse(nn.Module):
    """From the drivers of a window to the code of its place."""

    def __init__(self, inputs: int, latent: int):
        super().__init__()
        self.embedding = nn.Linear(inputs, latent)
        self.norm = nn.BatchNorm1d(latent)
        self.lstm = nn.LSTM(latent, latent, bidirectional=True, batch_first=True)
        self.code = nn.Linear(latent, latent)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the codes, (N, latent), of windows (N, W, F + X)."""
        steps = inputs.shape[1]
        rows = F.leaky_relu(self.norm(self.embedding(inputs.flatten(0, 1))), 0.2)
        _, last, _ = in_slices(self.lstm, rows.view(-1, steps, rows.shape[-1]))
        return self.code(last.sum(dim=0))


class TAMRL(WindowNetwork):
    """See the module's text."""

    tap: ClassVar[str] = "lstm"

    def __init__(self, config: TAMRLConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.inverse = Inverse(sizes.dynamic + sizes.static, config.latent)
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden)
        self.modulation = nn.Linear(config.latent, config.hidden)
        self.lstm = LSTM(config.hidden, config.hidden, config.layers)
        self.film = nn.Linear(config.latent, 2 * config.hidden)
        self.add_head(config, sizes, config.hidden)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the modulated states of the last steps of windows, (N, last, H)."""
        return self.modulate(dynamic, self.codes(dynamic, static), last)

    def codes(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return the codes of the places of windows, (N, latent)."""
        place = static.unsqueeze(1).expand(-1, dynamic.shape[1], -1)
        return self.inverse(torch.cat([dynamic, place], dim=-1))

    def modulate(self, dynamic: Tensor, codes: Tensor, last: int) -> Tensor:
        """Return the modulated states of the last steps of windows whose places have these codes, (N, last, H)."""
        code = codes[:, None]  # (N, 1, latent)
        gain = F.relu(self.modulation(code)) + 1.0
        states, _ = self.lstm(gain * self.forcing_encoder(dynamic) + gain)
        gamma, beta = self.film(code).chunk(2, dim=-1)
        return states[:, states.shape[1] - last :] * (gamma + 1.0) + beta
