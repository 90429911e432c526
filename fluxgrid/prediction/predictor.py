"""Predict a block of places: the one function behind maps, sites and scores.

A block always runs with `BLOCK` rows, padded with empty places, on one BLAS thread: a matrix product of another shape
may add in another order and give other last bits, and then a map would depend on its tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fluxgrid.data.gaps import History
from fluxgrid.data.inputs import Histories, Places, design, prepare
from fluxgrid.models import Checkpoint, zero_state
from fluxgrid.prediction.applicability import Applicability

BLOCK = 256
"""Places predicted together."""


@dataclass(frozen=True, eq=False)
class BlockState:
    """What one period hands to the next: the hidden state and the past that gap filling stands on.

    Parameters
    ----------
    hidden : ndarray, (n, K), float32
    histories : dict of str to History
    """

    hidden: np.ndarray
    histories: Histories

    def arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays whose first axis is the places, for storing."""
        past = {f"history.{name}.{k}": v for name, h in self.histories.items() for k, v in h.arrays().items()}
        return {"hidden": self.hidden, **past}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> BlockState:
        """Return the state stored as `arrays`."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            if key.startswith("history."):
                _, name, part = key.split(".")
                parts.setdefault(name, {})[part] = value
        return cls(arrays["hidden"], {name: History.from_arrays(part) for name, part in parts.items()})


@dataclass(frozen=True, eq=False)
class Fluxes:
    """Predictions of n places over T steps; every array is (T, n).

    Parameters
    ----------
    nee, gpp, reco : ndarray, float32, g m-2 d-1
        NEE = RECO - GPP; NaN where an input of the step is missing.
    applicability : ndarray, float32
        Dissimilarity index.
    missing, filled, outside : ndarray of bool
        Input missing; an input filled, or the state passed over a hole this year; outside the area of applicability.
    """

    nee: np.ndarray
    gpp: np.ndarray
    reco: np.ndarray
    applicability: np.ndarray
    missing: np.ndarray
    filled: np.ndarray
    outside: np.ndarray


class Predictor:
    """A checkpoint ready to predict, on one device.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    device : str
        ``cpu`` or ``cuda``; trees run on the CPU whatever is asked.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu"):
        self.checkpoint = checkpoint
        self.device = torch.device(device if checkpoint.spec.differentiable else "cpu")
        self._model = checkpoint.model
        if isinstance(self._model, torch.nn.Module):
            self._model.to(self.device)
        self._applicability = Applicability(checkpoint.domain, checkpoint.spec.inputs)

    def predict(self, places: Places, state: BlockState | None = None) -> tuple[Fluxes, BlockState]:
        """Predict one period at up to `BLOCK` places.

        Parameters
        ----------
        places : Places
            T steps (one year at most, or a record to be run in one go) at n <= BLOCK places.
        state : BlockState, optional
            As returned for the period before; zeros if not given.

        Returns
        -------
        fluxes : Fluxes
        state : BlockState
            After the last step.

        Raises
        ------
        ValueError
            If there are more than `BLOCK` places.
        """
        n = len(places.latitude)
        padded = places.pad(BLOCK)
        before = _pad_state(state, BLOCK) if state else self._first_state()
        inputs, histories = prepare(padded, self.checkpoint.spec.inputs, before.histories)
        dynamic, static = design(inputs, self.checkpoint.spec.inputs, self.checkpoint.scaler)
        fluxes, hidden = self._run(dynamic, static, before.hidden)
        index = self._applicability(inputs, places.time)
        seen = _seen_holes(inputs.missing) if hidden.shape[1] else np.zeros_like(inputs.missing)
        gpp, reco = (np.where(inputs.missing, np.float32(np.nan), fluxes[..., i].T) for i in range(2))  # (T, n)
        result = Fluxes(
            nee=(reco - gpp)[:, :n],
            gpp=gpp[:, :n],
            reco=reco[:, :n],
            applicability=np.where(inputs.missing, np.float32(np.nan), index)[:, :n],
            missing=inputs.missing[:, :n],
            filled=((inputs.filled | seen) & ~inputs.missing)[:, :n],
            outside=((index > self.checkpoint.domain.threshold) & ~inputs.missing)[:, :n],
        )
        return result, _cut_state(BlockState(hidden, histories), n)

    def _first_state(self) -> BlockState:
        """Return the state before any step."""
        return BlockState(zero_state(self._model, BLOCK).numpy(), {})

    def _run(self, dynamic: np.ndarray, static: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the model: (B, T, F), (B, S), (B, K) -> (B, T, O), (B, K)."""
        tensors = [torch.from_numpy(array).to(self.device) for array in (dynamic, static, hidden)]
        fluxes, state = self._model.predict(*tensors)
        return fluxes.cpu().numpy(), state.cpu().numpy()


def _seen_holes(missing: np.ndarray) -> np.ndarray:
    """Return where the state has passed over a missing step of the same period, (T, n)."""
    return np.logical_or.accumulate(missing, axis=0)


def _pad_state(state: BlockState, size: int) -> BlockState:
    """Return the state followed by empty places."""
    arrays = state.arrays()
    return BlockState.from_arrays(
        {k: np.pad(v, [(0, size - v.shape[0])] + [(0, 0)] * (v.ndim - 1)) for k, v in arrays.items()}
    )


def _cut_state(state: BlockState, n: int) -> BlockState:
    """Return the state of the first n places."""
    return BlockState.from_arrays({k: v[:n] for k, v in state.arrays().items()})


def join_states(states: list[BlockState]) -> dict[str, np.ndarray]:
    """Return the arrays of consecutive blocks as one, places along the first axis."""
    rows = [state.arrays() for state in states]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def split_states(arrays: dict[str, np.ndarray], sizes: list[int]) -> Iterator[BlockState]:
    """Yield the state of each block from arrays made by `join_states`."""
    start = 0
    for size in sizes:
        yield BlockState.from_arrays({key: value[start : start + size] for key, value in arrays.items()})
        start += size
