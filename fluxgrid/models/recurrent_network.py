"""What the recurrent networks of CarbonBench share: encoded inputs, a cell over the steps, a head."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fluxgrid.data.windows import WindowMode
from fluxgrid.models import packed_product
from fluxgrid.models.base import Sizes
from fluxgrid.models.cell_layers import input_side, run_layers
from fluxgrid.models.day_rows import DayRows, run_apart, run_windows
from fluxgrid.models.network import Read
from fluxgrid.models.recurrent import GRU, LSTM
from fluxgrid.models.windowed import WindowConfig, WindowNetwork, shares_days


@dataclass(frozen=True)
class RecurrentConfig(WindowConfig):
    """Settings of a recurrent network."""

    window_mode: WindowMode = "stream"
    """How a record is cut: ``exact``, ``stride`` or ``stream``."""
    hidden: Annotated[int, Field(gt=1, multiple_of=2)] = 128
    """Width H of the hidden state."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Stacked layers L."""


class RecurrentNetwork(WindowNetwork):
    """A cell over encoded inputs; architectures say how inputs are encoded and which cell it is."""

    streams: ClassVar[bool] = True
    folds: ClassVar[bool] = True
    """Whether a carried state gains by `input_map`: not where forcings are read as they are."""
    cell_type: ClassVar[type[GRU] | type[LSTM]]

    def add_cell(self, config: RecurrentConfig, inputs: int) -> None:
        """Add the cell, under the name of the tap, that reads inputs of a width."""
        self.add_module(self.tap, self.cell_type(inputs, config.hidden, config.layers, config.dropout))

    @property
    def cell(self) -> GRU | LSTM:
        """The cell."""
        return getattr(self, self.tap)

    @abstractmethod
    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return what the cell reads, (N, T, I), of inputs (N, T, F) and (N, X)."""

    def input_map(self, static: Tensor) -> tuple[tuple[Tensor, ...], Tensor] | None:  # noqa: ARG002
        """Return what `encode_inputs` is where it is linear: what it does to forcings, and what a place adds.

        Returns
        -------
        map, offset : tuple of Tensor, (E, F), none where forcings are read as they are, and Tensor, (1, I) or (B, I)
            Inputs are the map's E columns, or the forcings, followed by zeros; and the offset.
        None
            Where it is not linear.
        """
        return None

    def encode_shared(self, days: DayRows, static: Tensor, last: int, read: Read | None = None) -> Tensor | None:
        """Return what is read of the last states of windows, the input side of the gates worked out once a day."""
        known = self._to_gates(static)
        if known is None or not packed_product.AVAILABLE:
            return None
        maps, offset = known
        if days.apart and len(maps) == 1:
            return run_apart(self.cell, days, maps[0].detach(), offset.detach(), last, read)
        turned = tuple(weight.t().contiguous() for weight in maps)

        def fill(out: Tensor, rows: Tensor, places: Tensor) -> None:
            if len(offset) == 1:
                out.copy_(offset)
            else:
                torch.index_select(offset, 0, places, out=out)
            for weight in turned[:-1]:
                rows = rows.mm(weight)
            out.addmm_(rows, turned[-1])

        return run_windows(self.cell, days, offset.shape[1], fill, last, read)

    def _to_gates(self, static: Tensor) -> tuple[tuple[Tensor, ...], Tensor] | None:
        """Return linear maps from forcings to the input side of the cell's gates, and what is added, (1 or B, G)."""
        known = self.input_map(static)
        if known is None:
            return None
        maps, offset = known
        weight, bias = input_side(self.cell)
        offset = torch.addmm(bias, offset, weight.t())
        if not maps:
            return (weight,), offset
        (into,) = maps
        rest = weight[:, : len(into)]
        folds = len(weight) * into.shape[1] <= into.numel() + rest.numel()  # one product, if it is the smaller one
        return ((rest @ into,) if folds else (into, rest)), offset

    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the states of the last steps, (N, last, H), the cell empty before the window."""
        states, _ = self.cell(self.encode_inputs(dynamic, static))
        return states[:, states.shape[1] - last :]

    def stream(self, dynamic: Tensor, static: Tensor, state: Tensor, read: Read | None = None) -> tuple[Tensor, Tensor]:
        """Return states (B, T, H), or what is read of them, and what the cell carries on, (B, K)."""
        known = self._to_gates(static) if self.folds and shares_days(dynamic, static, state) else None
        if known is not None:
            return self._stream_gates(dynamic, *known, state, read)
        states, after = self.cell(self.encode_inputs(dynamic, static), self.cell.unpack(state), read)
        return states, self.cell.pack(after)

    def _stream_gates(
        self, dynamic: Tensor, maps: tuple[Tensor, ...], offset: Tensor, state: Tensor, read: Read | None
    ) -> tuple[Tensor, Tensor]:
        """Return what `stream` does of inputs that linear maps bring to the gates."""
        cell, rows = self.cell, dynamic.detach().transpose(0, 1).contiguous()
        for weight in maps[:-1]:
            rows = rows @ weight.detach().t()
        if isinstance(cell, GRU):
            states, last, _ = run_layers(cell, [rows], maps[-1:], offset, [cell.unpack(state)], cell.factors, read=read)
            return states.transpose(0, 1), cell.pack(last)
        states, *after = run_layers(cell, [rows], maps[-1:], offset, cell.unpack(state), read=read)
        return states.transpose(0, 1), cell.pack((after[0], after[1]))

    @property
    def stream_size(self) -> int:
        """Columns of the cell's state."""
        return self.cell.state_size


class TwoEncoders(RecurrentNetwork):
    """Forcings and properties of the place encoded apart, half of the width each, and joined (the CT networks)."""

    def __init__(self, config: RecurrentConfig, sizes: Sizes):
        super().__init__(config, sizes)
        half = config.hidden // 2 if sizes.static else 0
        self.forcing_encoder = nn.Linear(sizes.dynamic, config.hidden - half)
        self.static_encoder = nn.Linear(sizes.static, half) if half else None
        self.add_cell(config, config.hidden)
        self.add_head(config, sizes, config.hidden)
        for encoder in (self.forcing_encoder, self.static_encoder):
            if encoder is not None:
                nn.init.xavier_uniform_(encoder.weight)

    def encode_inputs(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return the two codes side by side, (N, T, H)."""
        encoded = self.forcing_encoder(dynamic)  # (N, T, H) or (N, T, H/2)
        if self.static_encoder is None:
            return encoded
        place = self.static_encoder(static).unsqueeze(1).expand(-1, dynamic.shape[1], -1)  # (N, T, H/2)
        return torch.cat([encoded, place], dim=-1)

    def input_map(self, static: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the encoder of the forcings, and its bias beside the code of the place."""
        bias = self.forcing_encoder.bias[None]
        if self.static_encoder is not None:
            bias = torch.cat([bias.expand(len(static), -1), self.static_encoder(static)], dim=1)
        return (self.forcing_encoder.weight,), bias
