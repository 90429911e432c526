"""What all torch networks share: hidden states apart from their readout, weights in safetensors, no gradients.

A network runs in two halves. `run` carries the state through the steps and hands out its last hidden states, one tensor
for each *tap*; `finish` turns the readouts of the taps into fluxes. Between them a calibrated head of a place may
change what is read out, so that many heads share one pass of the backbone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "weights.safetensors"

Read = Callable[[Tensor], Tensor]
"""What is wanted of hidden states (N, B, H), rows of a place by themselves: (N, B, m). A `Linear` costs least."""


def read_nothing(hidden: Tensor) -> Tensor:
    """Return nothing of states (N, B, H): (N, B, 0)."""
    return hidden[..., :0]


@dataclass(frozen=True)
class Beside:
    """A read: a linear map of states, and more columns beside it, which change no bit of its own."""

    linear: nn.Linear
    more: Read

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return both of states (N, B, H), (N, B, outputs + m)."""
        return torch.cat([self.linear(hidden), self.more(hidden)], dim=-1)


class Taps(NamedTuple):
    """What the first half of a network hands to the second."""

    hidden: dict[str, Tensor]
    """Last hidden states by tap, (B, R, T, H): R runs of the backbone over the same steps (1 for most)."""
    context: dict[str, Tensor]
    """What else the second half needs; the first axis is B."""
    state: Tensor
    """After the last step, (B, K)."""


class Network(nn.Module):
    """A differentiable flux model."""

    state_size: int
    lookback: int | None = None
    """Steps before the scored ones of a training window; None where the state of spin-up years is carried on."""
    together: int = 1
    """Training windows of one sequence that a batch brings side by side, where the sequence has so many."""

    @abstractmethod
    def run(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Taps:
        """Return the taps of scaled inputs (B, T, F), (B, S) from the state (B, K) before them."""

    @property
    @abstractmethod
    def readouts(self) -> dict[str, nn.Linear]:
        """The linear map of each tap, H to its outputs."""

    @property
    def tuned_names(self) -> frozenset[str]:
        """Names of the parameters that fluxes hang on: those that a place may have of its own."""
        return frozenset(name for name, _ in self.named_parameters())

    @abstractmethod
    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:
        """Return fluxes (B, T, O), g m-2 d-1, of the readouts of all taps, (B, R, T, outputs)."""

    @abstractmethod
    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of the fluxes, g m-2 d-1, > 0: of GPP, RECO and NEE their standard deviation."""

    def set_centre(self, centre: Tensor) -> None:
        """Set the mean of GPP, RECO and NEE over training sites, g m-2 d-1, where the head starts from it."""

    def raw(self, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the readouts of the global model, (B, R, T, outputs) by tap."""
        return {name: _read(self.readouts[name], values) for name, values in hidden.items()}

    def forward(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O) and the state (B, K) after the last step."""
        taps = self.run(dynamic, static, state)
        return self.finish(self.raw(taps.hidden), taps.context), taps.state

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O) and state (B, K) in evaluation mode, without gradients."""
        self.eval()
        with torch.inference_mode():
            taps = self.run_read(dynamic, static, state, self.readouts)
            return self.finish(taps.hidden, taps.context), taps.state

    def run_read(self, dynamic: Tensor, static: Tensor, state: Tensor, reads: Mapping[str, Read]) -> Taps:
        """Return what `run` does, with what is read of the hidden states, (B, R, T, m) by tap, in their stead.

        For networks in evaluation mode, without gradients: one that steps through time need not keep its states. One
        that goes on from what its readouts say wants those, or what stands `Beside` them.
        """
        taps = self.run(dynamic, static, state)
        return taps._replace(hidden={name: _read(reads[name], values) for name, values in taps.hidden.items()})

    def places(self, dynamic: Tensor, static: Tensor, sequence: Tensor) -> Tensor:  # noqa: ARG002
        """Return what training windows (N, T, F) know of their places, (N, S or more), in the stead of `static`.

        `sequence` (N,) numbers the records that the windows are cut from.
        """
        return static

    def say(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return fluxes (N, S, O) of the last steps of training windows (N, T, F), for scores without gradients."""
        return self.predict(dynamic, static, dynamic.new_zeros(len(dynamic), self.state_size))[0]

    @property
    def idle_reads(self) -> dict[str, Read]:
        """What `run_read` must read where the state alone is wanted: nothing, but where a network reads it itself."""
        return dict.fromkeys(self.readouts, read_nothing)

    def advance(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Tensor:
        """Return the state (B, K) that `predict` returns, without its fluxes."""
        self.eval()
        with torch.inference_mode():
            return self.run_read(dynamic, static, state, self.idle_reads).state

    def save_weights(self, folder: Path) -> list[Path]:
        """Write ``weights.safetensors``."""
        path = folder / WEIGHTS
        save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, path)
        return [path]

    def load_weights(self, folder: Path) -> None:
        """Read ``weights.safetensors``; names and shapes must all fit. The network is left in evaluation mode."""
        try:
            self.load_state_dict(load_file(folder / WEIGHTS))
            self.eval()
        except RuntimeError as error:  # torch's word for names and shapes that do not fit
            raise ValueError(str(error)) from error


def _read(read: Read, hidden: Tensor) -> Tensor:
    """Return what is read of states (B, R, T, H), which are not copied where their steps are first in memory."""
    rows = hidden.permute(2, 1, 0, 3)
    return read(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).permute(2, 1, 0, 3)
