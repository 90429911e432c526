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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.errors import ConfigError
from fluxgrid.models import packed_product
from fluxgrid.models.base import MODELS, Sizes
from fluxgrid.models.cell_layers import input_side
from fluxgrid.models.day_rows import DayRows, Said, run_windows, upper_layers
from fluxgrid.models.network import Read
from fluxgrid.models.recurrent import LSTM, in_slices
from fluxgrid.models.window_cells import ScaledLayer, TableLayer
from fluxgrid.models.windowed import WindowConfig, WindowNetwork, shares_days

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
    def steps_kept(self) -> int | None:
        """All of the past, where the code is that of the record."""
        return None if self.code_from == "record" else super().steps_kept

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

    def without_norm(self) -> tuple[Tensor, Tensor]:
        """Return the embedding with the batch norm of evaluation in it: (latent, F + X), (latent,)."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        scale = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        bias = self.norm.bias + scale * (self.embedding.bias - mean)
        return self.embedding.weight * scale[:, None], bias


@dataclass
class _Codes:
    """The inverse network over windows that share their days."""

    inverse: Inverse
    days: DayRows
    static: Tensor

    def __post_init__(self) -> None:
        weight, bias = self.inverse.without_norm()
        self.latent, channels = len(bias), self.days.rows.shape[1]
        self._embedding = weight[:, :channels].t().contiguous()
        self._place = torch.addmm(bias, self.static, weight[:, channels:].t())  # (B, latent)
        self._suffixes = "", "_reverse"
        lstm = self.inverse.lstm
        named = [
            [getattr(lstm, f"{name}_l0{end}") for end in self._suffixes] for name in ("weight_ih", "bias_ih", "bias_hh")
        ]
        self._gates = torch.cat(named[0]).t().contiguous()  # (latent, 8 * latent)
        self._bias = torch.cat(named[1]) + torch.cat(named[2])
        self.columns = len(self._bias)
        self._layers = [TableLayer(lstm, self.days.group, end) for end in self._suffixes]
        self._last = weight.new_empty(2, 1, self.days.group, self.latent)

    def fill(self, out: Tensor, rows: Tensor, places: Tensor) -> None:
        """Write the input side of the gates of both directions."""
        embedded = self._place.index_select(0, places).addmm_(rows, self._embedding)
        torch.addmm(self._bias, F.leaky_relu(embedded, 0.2), self._gates, out=out)

    def read(self, table: np.ndarray, first: np.ndarray, column: int) -> Tensor:
        """Return the codes (N, latent) of windows whose gates stand in a table from a column on."""
        onwards, back = self._layers
        steps, ends = self.days.reach, self._last.numpy()
        onwards.run(table, first, steps, ends[0], column)
        reverse = slice(steps.stop - steps.step, steps.start - steps.step, -steps.step)
        back.run(table, first, reverse, ends[1], column + 4 * self.latent)
        return self.inverse.code(self._last.sum(dim=0)[0])


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
        for codes in self._laid_codes(record, static):
            total = total + codes
            count = count + 1.0
        return torch.cat([static, total / count], dim=1), torch.cat([total, count], dim=1)

    def _laid_codes(self, record: Tensor, static: Tensor) -> Iterator[Tensor]:
        """Yield the codes (B, latent) of the windows laid over a record (B, W - 1 + T, F), one after the other."""
        starts = self.laid(record.shape[1] - self.window + 1)
        if not (packed_product.AVAILABLE and shares_days(record, static)):
            yield from (self.codes(record[:, start : start + self.window], static) for start in starts)
            return
        days = DayRows(record, starts, self.window)
        inverse, found = _Codes(self.inverse, days, static), record.new_empty(len(days), self.latent)
        for table, group in days.groups(inverse.columns, inverse.fill):
            found[group.wanted] = inverse.read(table.numpy(), group.first, 0)[: len(found[group.wanted])]
        yield from found.unflatten(0, (len(starts), -1))

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

    def encode_shared(self, days: DayRows, static: Tensor, last: int, read: Read | None = None) -> Tensor | None:
        """Return what is read of the modulated last states of windows, (M, last, H), of one record at places.

        The embedded drivers of both networks are worked out once a day; of what a code says, gains and shifts, each
        window has its own, or each place where the code is the place's.
        """
        if not packed_product.AVAILABLE:
            return None
        static, codes = static[:, : self.statics], static[:, self.statics :]
        if codes.shape[1]:
            return self._read_by_place(days, codes, last, read)
        width = self.lstm.hidden_size
        inverse = _Codes(self.inverse, days, static)
        encoder, bias = self.forcing_encoder.weight.t().contiguous(), self.forcing_encoder.bias + 1.0
        lowest, states = ScaledLayer(self.lstm, days.group), days.rows.new_empty(days.window, days.group, width)

        def fill(out: Tensor, rows: Tensor, places: Tensor) -> None:
            torch.addmm(bias, rows, encoder, out=out[:, :width])
            inverse.fill(out[:, width:], rows, places)

        found = Said(days, read)
        for table, group in days.groups(width + inverse.columns, fill):
            drivers = table.numpy()
            gain, gamma, beta = self._code_says(inverse.read(drivers, group.first, width))
            lowest.run(drivers, group.first, days.places, gain, states)
            ends = upper_layers(self.lstm, states)[days.window - last :]
            found.add(torch.addcmul(beta, ends, gamma), group.wanted)
        return found.all()

    def _read_by_place(self, days: DayRows, codes: Tensor, last: int, read: Read | None) -> Tensor:
        """Return the same where the code, and with it the gain, is the place's: the gates of a day are shared too."""
        gain, gamma, beta = self._code_says(codes)
        encoder, bias = self.forcing_encoder.weight.t().contiguous(), self.forcing_encoder.bias + 1.0
        into, offset = input_side(self.lstm)
        turned = into.t().contiguous()

        def fill(out: Tensor, rows: Tensor, places: Tensor) -> None:
            scaled = torch.addmm(bias, rows, encoder).mul_(gain.index_select(0, places))
            torch.addmm(offset, scaled, turned, out=out)

        def say(states: Tensor) -> Tensor:
            windows = states.unflatten(1, (-1, days.places))  # (last, D, B, H)
            said = torch.addcmul(beta, windows, gamma).flatten(1, 2)
            return said if read is None else read(said)

        return run_windows(self.lstm, days, len(offset), fill, last, say)

    def _code_says(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s, gamma + 1 and beta, (N, H), of codes (N, latent)."""
        gamma, beta = self.film(codes).chunk(2, dim=-1)
        return F.relu(self.modulation(codes)) + 1.0, gamma + 1.0, beta

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
