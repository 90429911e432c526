"""Networks that know a window of days: how a record is cut into windows, and what one year hands to the next.

Three modes, the weights the same:

- ``exact``: each day is the last of its own window of W days, as CarbonBench scores its models;
- ``stride``: W-day windows a stride S apart, each gives its last S days, as CarbonBench trains them. Windows are laid
  from the first day of a block, that is of a calendar year; the last days of a block, fewer than S, are the end of the
  window that ends with them;
- ``stream``: no windows; the state is carried from day to day. Recurrent networks only.

Days are steps: the months of a monthly model are cut likewise, by a window and a stride of its own (12 and 6, so that
two windows make a year). In the first two modes the state is the last W - 1 days of scaled inputs (zeros, the mean of
the training sites, before the first day), so a year by itself gives what the whole record does: `exact` for any cut,
`stride` for cuts at the end of a year. An architecture may keep a memory of the record beside them (`recall`). While it
is trained, a network is given windows and says what each of them says, whatever the mode.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from fluxgrid.data.steps import STEP_NAMES, STEPS_PER_YEAR, Step
from fluxgrid.data.windows import WindowMode
from fluxgrid.errors import ConfigError
from fluxgrid.models.base import STRICT, Sizes
from fluxgrid.models.day_rows import DayRows
from fluxgrid.models.heads import HEADS, HeadKind
from fluxgrid.models.network import Network, Read, Taps
from fluxgrid.models.recurrent import is_quick

_TOGETHER, _ROWS = 8, 128
"""Where windows are cut out: days whose windows are run together, and rows that a few places fill up to with more days:
always so many for a number of places, for a product of another shape may round otherwise."""


@dataclass(frozen=True)
class WindowConfig:
    """Settings that all networks of windows share."""

    window: Annotated[int, Field(ge=2)] = 30
    """Steps W of a window: days, or months of a monthly model."""
    stride: Annotated[int, Field(ge=1)] = 15
    """Steps S that a window answers for in training and in mode ``stride``."""
    window_mode: WindowMode = "exact"
    """How a record is cut: ``exact``, ``stride`` or ``stream``."""
    head: HeadKind = "bounded"
    """``bounded``: fluxes >= 0; ``linear``: standardised fluxes without bounds, as published."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of hidden states dropped in training."""

    differentiable: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def lookback(self) -> int | None:
        """Steps of a training window before those it answers for; None where a state is carried."""
        return None if self.window_mode == "stream" else self.window - self.stride

    @property
    def steps_kept(self) -> int | None:
        """Steps of the past that the next ones hang on; None where all of it counts."""
        return None if self.window_mode == "stream" else self.window - 1

    @property
    def whole_year_from(self) -> int | None:
        """Day of the year from which fluxes hang on the whole year; see `ModelSpec`."""
        return None

    @property
    def remark(self) -> str:
        """What a day's flux hangs on beside its window, for metadata; empty for most."""
        return ""

    def too_far_back(self, step: Step, spin_up_years: int) -> str:
        """Say that the spin-up of a map is shorter than what the window of its first step looks back on.

        Parameters
        ----------
        step : {"daily", "monthly"}
        spin_up_years : int

        Returns
        -------
        problem : str
            Empty where it is long enough, or no window is cut.
        """
        held, unit = spin_up_years * STEPS_PER_YEAR[step], STEP_NAMES[step]
        if self.window_mode == "stream" or held >= self.window - 1:
            return ""
        return (
            f"the window of {self.window} {unit}s ends with the {unit} that is predicted and looks back on "
            f"{self.window - 1}, but {spin_up_years} year(s) of spin-up hold {held}"
        )

    def __post_init__(self) -> None:
        if self.stride > self.window:
            message = f"stride: {self.stride} steps are more than the window of {self.window}; give at most as many."
            raise ConfigError(message)


class WindowNetwork(Network):
    """A network over windows. B batch, T steps, W window, S stride, F channels, X static columns, H hidden, O fluxes.

    Architectures build their layers first and call `add_head` last.
    """

    tap: ClassVar[str] = "hidden"
    """Name of what the head reads."""
    streams: ClassVar[bool] = False
    """Whether it has a state to carry."""

    def __init__(self, config: WindowConfig, sizes: Sizes):
        super().__init__()
        self.window, self.stride, self.lookback = config.window, config.stride, config.lookback
        self.window_mode, self.channels = config.window_mode, sizes.dynamic

    def add_head(self, config: WindowConfig, sizes: Sizes, hidden: int) -> None:
        """Add dropout and the head that reads hidden states of a width H."""
        self.dropout = nn.Dropout(config.dropout)
        self.head = HEADS[config.head](hidden, sizes.fluxes)

    @property
    def window_modes(self) -> tuple[WindowMode, ...]:
        """Modes that the architecture knows."""
        return ("exact", "stride", "stream") if self.streams else ("exact", "stride")

    @abstractmethod
    def encode(self, dynamic: Tensor, static: Tensor, last: int) -> Tensor:
        """Return the hidden states of the last steps, (N, last, H), of windows (N, W, F) at places (N, X)."""

    def encode_shared(
        self,
        days: DayRows,  # noqa: ARG002
        static: Tensor,  # noqa: ARG002
        last: int,  # noqa: ARG002
        read: Read | None = None,  # noqa: ARG002
    ) -> Tensor | None:
        """Return the same, (M, last, H), of windows of one record at places (B, X), what they share worked out once.

        With `read`, which takes (last, N, H) of the windows of all places for some days, what is read, (M, last, m).

        Asked where no gradient is wanted, on a CPU and in single precision. None: windows are to be cut and encoded.
        """
        return None

    def recall(self, record: Tensor, static: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what windows know of their places, (B, X or more), and the memory (B, M) after a record.

        The record, (B, W - 1 + T, F), is T days and those before them; `memory` is what was kept at its start.
        """
        return static, memory

    def stream(
        self,
        dynamic: Tensor,  # noqa: ARG002
        static: Tensor,  # noqa: ARG002
        state: Tensor,  # noqa: ARG002
        read: Read | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, T, H), or what is read of them, and state (B, K) of a run without windows."""
        message = f"A {type(self).__name__} has no state to carry; its modes are exact and stride."
        raise ConfigError(message)

    @property
    def memory_size(self) -> int:
        """Columns M of what is kept of a record beside its last days."""
        return 0

    @property
    def stream_size(self) -> int:
        """Columns of the state in mode ``stream``."""
        return 0

    @property
    def keeps_inputs_only(self) -> bool:
        """Whether the state is the last inputs and nothing that hangs on the weights."""
        return self.window_mode != "stream" and not self.memory_size

    @property
    def state_size(self) -> int:  # type: ignore[override]
        """Columns K of the state."""
        if self.window_mode == "stream":
            return self.stream_size
        return (self.window - 1) * self.channels + self.memory_size

    def in_mode(self, mode: WindowMode) -> Self:
        """Return a network that shares these weights and cuts a record in another way."""
        other = copy.copy(self)
        other.window_mode = mode
        return other

    @property
    def readouts(self) -> dict[str, nn.Linear]:
        """The head's linear map."""
        return {self.tap: self.head.linear}

    def say(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return fluxes (N, S, O) of the last days of windows (N, W, F), whatever the mode says of a record."""
        if self.window_mode == "stream":
            return super().say(dynamic, static)
        self.eval()
        with torch.inference_mode():
            hidden = self.encode(dynamic, static, self.stride)[:, None]
            days = torch.arange(self.stride, device=dynamic.device).expand(len(dynamic), -1)
            return self.finish(self.raw({self.tap: hidden}), {"day": days})

    def run(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Taps:
        """Return what the head reads of each step, (B, 1, T, H), and the state after the last.

        While training, the steps are one window, its last S are read, and the state is passed on as it came.
        """
        if self.training and self.window_mode != "stream":
            hidden = self.encode(dynamic, static, self.stride)
            return self._taps(hidden, torch.arange(self.stride), state)
        return self._cut(dynamic, static, state)

    def run_read(self, dynamic: Tensor, static: Tensor, state: Tensor, reads: Mapping[str, Read]) -> Taps:
        """Return what `run` does, with what is read of the hidden states, (B, 1, T, m), in their stead."""
        return self._cut(dynamic, static, state, reads[self.tap])

    def _cut(self, dynamic: Tensor, static: Tensor, state: Tensor, read: Read | None = None) -> Taps:
        """Return the taps of a record that is cut as the mode says, hidden states or what is read of them."""
        steps = dynamic.shape[1]
        if self.window_mode == "stream":
            hidden, after = self.stream(dynamic, static, state, read)
            days = torch.full((steps,), self.stride - 1)
        else:
            record, place, after = self._open(dynamic, static, state)
            cut, days = (self._exact, torch.full((steps,), self.stride - 1))
            if self.window_mode == "stride":
                cut, days = self._stride, self._days(steps)
            hidden = cut(record, place, read)
        return self._taps(hidden, days, after)

    def _taps(self, hidden: Tensor, days: Tensor, after: Tensor) -> Taps:
        """Return taps of hidden states (B, T, H), the day of its window that each step is, (T,), and the state."""
        context = {"day": days.to(hidden.device).expand(len(hidden), -1)}
        return Taps({self.tap: self.dropout(hidden)[:, None]}, context, after)

    def advance(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Tensor:
        """Return the state that `predict` returns, without its fluxes."""
        if self.window_mode == "stream":
            return super().advance(dynamic, static, state)
        self.eval()
        with torch.inference_mode():
            return self._open(dynamic, static, state)[2]

    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return fluxes (B, T, O); ``day`` (B, T) is which of the S days of its window each step is."""
        return self.head.close(raw[self.tap][:, 0])

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of each flux."""
        self.head.set_scale(scale)

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of each flux."""
        self.head.set_centre(centre)

    def _open(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the record (B, W - 1 + T, F), what windows know of their places, and the state after it (B, K)."""
        tail, memory = state.split([(self.window - 1) * self.channels, self.memory_size], dim=1)
        record = torch.cat([tail.unflatten(1, (self.window - 1, self.channels)), dynamic], dim=1)
        place, memory = self.recall(record, static, memory)
        return record, place, torch.cat([record[:, dynamic.shape[1] :].flatten(1), memory], dim=1)

    def laid(self, steps: int) -> list[int]:
        """Return the first days, in a record (B, W - 1 + T, F) of T steps, of the windows of mode ``stride``."""
        whole, rest = divmod(steps, self.stride)
        first = self.stride - 1  # of the window whose last S days begin with the first day
        starts = [first + number * self.stride for number in range(whole)]
        return [*starts, steps - 1] if rest else starts

    def _exact(self, record: Tensor, static: Tensor, read: Read | None) -> Tensor:
        """Return the last hidden state of the window that ends on each day, (B, T, H), of (B, W - 1 + T, F)."""
        starts = range(record.shape[1] - self.window + 1)
        return self._windows(record, static, starts, 1, read)[:, :, 0]

    def _stride(self, record: Tensor, static: Tensor, read: Read | None) -> Tensor:
        """Return the last S hidden states of windows laid from the first day on, (B, T, H), of (B, W - 1 + T, F)."""
        steps = record.shape[1] - self.window + 1
        hidden = self._windows(record, static, self.laid(steps), self.stride, read)
        rest = steps % self.stride
        if not rest:
            return hidden.flatten(1, 2)
        return torch.cat([hidden[:, :-1].flatten(1, 2), hidden[:, -1, self.stride - rest :]], dim=1)

    def _days(self, steps: int) -> Tensor:
        """Return which of the S days of its window each step is in mode ``stride``, (T,)."""
        days = torch.arange(steps) % self.stride
        rest = steps % self.stride
        days[steps - rest :] += self.stride - rest
        return days

    def _windows(self, record: Tensor, static: Tensor, starts: Sequence[int], last: int, read: Read | None) -> Tensor:
        """Return the last states (B, D, last, H) of windows that begin on each of D days, or what is read of them."""
        batch, count = len(record), len(starts)
        if shares_days(record, static):
            found = self.encode_shared(DayRows(record, starts, self.window), static, last, _of_windows(read, batch))
            if found is not None:
                return found.unflatten(0, (count, batch)).transpose(0, 1)
        together = max(_TOGETHER, _ROWS // batch)
        parts = []
        for low in range(0, count, together):
            some = [*starts[low : low + together]]
            some += some[-1:] * (together - len(some))
            windows = torch.stack([record[:, start : start + self.window] for start in some], dim=1).flatten(0, 1)
            hidden = self.encode(windows, static.repeat_interleave(together, dim=0), last)
            parts.append(hidden.unflatten(0, (batch, together)))
        hidden = torch.cat(parts, dim=1)[:, :count]
        if read is None:
            return hidden
        steps = hidden.permute(1, 2, 0, 3)  # (D, last, B, H)
        return read(steps.flatten(0, 1)).unflatten(0, steps.shape[:2]).permute(2, 0, 1, 3)


def _of_windows(read: Read | None, places: int) -> Read | None:
    """Return what is read of windows of B places day after day, (last, N, H), by what reads states (., B, H)."""
    if read is None:
        return None
    return lambda states: (
        read(states.unflatten(1, (-1, places)).flatten(0, 1)).unflatten(0, (len(states), -1)).flatten(1, 2)
    )


def shares_days(*tensors: Tensor) -> bool:
    """Return whether windows may share the work on their days: compiled, and so without gradients and not on a GPU."""
    return not torch.is_grad_enabled() and is_quick(*tensors)
