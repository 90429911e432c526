"""TAM-RL: an LSTM whose inputs and outputs are modulated by a code of the place, read from its own drivers.

Source: the TAM-RL baseline of CarbonBench (Rozanov et al.), after Ghosh et al. 2023 (knowledge-guided self-supervised
learning for estimating river-basin characteristics) and FiLM (Perez et al. 2018, arXiv:1709.07871). An inverse network
reads the window - Linear, batch norm, leaky ReLU, LSTM in both directions - and gives a code z. The forward network is
an LSTM over s * W x + s with s = relu(A z) + 1, whose states h are read as (gamma + 1) * h + beta, gamma and beta of z.

The published inverse network also decodes z back to its inputs; nothing of that enters a loss or a prediction, and it
is left out. The code is read from the window that is predicted, as published: modes ``exact`` and ``stride``.

With ``code_from: record`` a place has one code: the mean of those of the windows laid every S days over its record, up
to the end of the block - the calendar year - that is predicted. Sum and count of the codes are carried from block to
block; the windows of recycled spin-up, and those that begin before the record, count as any other. In training, the
code of a window is the mean over those of the same site in its batch, which are brought together in fours where the
site has so many; of the sites that choose the epoch, over all their windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.errors import ConfigError
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.recurrent import LSTM, in_slices
from fluxgrid.models.windowed import WindowConfig, WindowNetwork

_TOGETHER = 4
"""Windows of a site whose codes are averaged in training: few, so that a batch holds many sites."""


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
    code_from: Literal["window", "record"] = "window"
    """Where the code of a place is read: in the ``window`` that is predicted, as published, or in its ``record``."""

    @property
    def whole_year_from(self) -> int | None:
        """The first day of the year, where the code is that of the record up to its end."""
        return 0 if self.code_from == "record" else None

    @property
    def remark(self) -> str:
        """Where the code comes from, if not from the window."""
        return "with a code of the place from its record to the end of the year" if self.code_from == "record" else ""

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
        self.statics, self.latent, self.by_record = sizes.static, config.latent, config.code_from == "record"
        self.together = _TOGETHER if self.by_record else 1
        self.inverse = Inverse(sizes.dynamic + sizes.static, config.latent)
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden)
        self.modulation = nn.Linear(config.latent, config.hidden)
        self.lstm = LSTM(config.hidden, config.hidden, config.layers)
        self.film = nn.Linear(config.latent, 2 * config.hidden)
        self.add_head(config, sizes, config.hidden)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    @property
    def memory_size(self) -> int:
        """Columns of the sum of the codes of a place, and their count."""
        return self.latent + 1 if self.by_record else 0

    def recall(self, record: Tensor, static: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return static properties with the mean code of the record so far, (B, X + latent), and sum and count."""
        if not self.by_record:
            return static, memory
        total, count = memory[:, :-1], memory[:, -1:]
        for start in self.laid(record.shape[1] - self.window + 1):
            total = total + self.codes(record[:, start : start + self.window], static)
            count = count + 1.0
        return torch.cat([static, total / count], dim=1), torch.cat([total, count], dim=1)

    def places(self, dynamic: Tensor, static: Tensor, sequence: Tensor) -> Tensor:
        """Return static properties with the mean code of the windows of each sequence, (N, X + latent)."""
        if not self.by_record:
            return static
        owners, owner, counts = sequence.unique(return_inverse=True, return_counts=True)
        total = dynamic.new_zeros(len(owners), self.latent).index_add(0, owner, self.codes(dynamic, static))
        return torch.cat([static, (total / counts[:, None])[owner]], dim=1)

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the modulated states of the last steps of windows, (N, last, H).

        What follows the static properties is the code of the place; without it, the window's own is taken.
        """
        static, codes = static[:, : self.statics], static[:, self.statics :]
        return self.modulate(dynamic, codes if codes.shape[1] else self.codes(dynamic, static), last)

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
